"""What the tests of the handler share: records, handlers that do not swallow errors, whole directories."""

from __future__ import annotations

import gzip
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable

import pytest

from concurrent_log_handler import ConcurrentRotatingFileHandler, _files
from concurrent_log_handler._access import Access
from concurrent_log_handler._record._format import TextFormat
from concurrent_log_handler._record._header import Header
from concurrent_log_handler._record._livefile import LiveFile

on_wine = os.name == "nt" and not _files._NAME_FOLLOWS
# The longest that any test waits for something that should happen at once; Wine takes its time to start programs.
SECONDS = 55.0 if os.name == "posix" else 200.0


def a_record(text: str, *args: object, level: int = logging.INFO, **extra: Any) -> logging.LogRecord:
    record = logging.LogRecord("test", level, __file__, 1, text, args, None)
    record.__dict__.update(extra)
    return record


def a_live_file(
    directory: Path, encoding: str = "utf-8", terminator: str = "\n", name: str = "app.log", **access: Any
) -> LiveFile:
    text = TextFormat(encoding, "backslashreplace", "\n", terminator)
    header = Header(lambda: text.opening(""), b"", True, print)
    return LiveFile(str(directory / name), Access(**access), text, header)


def write(handler: logging.Handler, *texts: str) -> None:
    for text in texts:
        handler.handle(a_record(text))


def contents(directory: Path, encoding: str = "utf-8") -> dict[str, str]:
    """Every file below *directory*, `.gz` unpacked and with plain line ends; only empty lock files are left out."""
    found = {}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        elif path.is_dir():
            if not any(path.iterdir()):
                found[name + "/"] = ""
        elif not path.is_file():
            found[name] = "special"
        elif path.name.startswith(".__") and path.suffix == ".lock" and not path.stat().st_size:
            continue
        elif path.suffix == ".gz":
            found[name] = gzip.decompress(path.read_bytes()).decode(encoding).replace(os.linesep, "\n")
        else:
            found[name] = path.read_bytes().decode(encoding).replace(os.linesep, "\n")
    return found


class Strict(ConcurrentRotatingFileHandler):
    """Any error is the test's: it comes out of the logging call."""

    def handleError(self, record: logging.LogRecord) -> None:
        raise  # noqa: PLE0704 - called from inside `except`


class Recording(ConcurrentRotatingFileHandler):
    """Keeps what `handleError` was called for: (text of the record, error)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.failures: list[tuple[str, BaseException]] = []
        super().__init__(*args, **kwargs)

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        assert error is not None
        self.failures.append((str(record.msg), error))


def reopened(fd: int, path: Path, flags: int) -> int:
    """Have *fd* belong to the file at *path*: somebody closed it, and somebody else opened that."""
    theirs = os.open(path, flags)
    os.dup2(theirs, fd, inheritable=False)
    os.close(theirs)
    return fd


def open_paths() -> list[str]:
    """Where the descriptors of this process lead (Linux)."""
    paths = []
    for entry in os.listdir("/proc/self/fd"):
        try:
            paths.append(os.readlink(f"/proc/self/fd/{entry}"))
        except OSError:
            continue
    return paths


def run_program(source: str, directory: Path, *arguments: str, **environment: str) -> str:
    """Run *source* as a program of its own in *directory*, warnings as errors; returns its stdout."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(source), *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def in_a_fork(action: Callable[[], object], seconds: float = SECONDS) -> None:
    """Run *action* in a forked child, and fail here if it fails or hangs there."""
    if not hasattr(os, "fork"):
        pytest.skip("there is no fork")
    pid = os.fork()
    if not pid:
        status = 1
        try:
            action()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    until = time.monotonic() + seconds
    pause = 0.0005
    while time.monotonic() < until:
        done, how = os.waitpid(pid, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(how) == 0
            return
        time.sleep(pause)
        pause = min(0.02, pause * 1.5)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError("the child hangs")


@contextmanager
def after_every_call(look: Callable[[str], None]) -> Iterator[None]:
    """
    Call *look* after each call into C, thus after each single system call of Python code.

    What no such look sees, no other process can have seen at leisure: a state lasts from one
    system call of ours to the next.
    """

    def profile(frame: Any, event: str, argument: Any) -> None:
        if event in ("c_return", "c_exception"):
            look(argument.__name__)

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]


@contextmanager
def files_at_most(size: int) -> Iterator[None]:
    """A disk that is full as soon as a file has *size* bytes."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
