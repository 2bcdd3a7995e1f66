"""What the tests with real processes share.

Records that prove themselves (writer, number, checksum), reading a whole chain back and comparing
it, programs of their own that end in bounded time, forked children, and a way to die
after each single file-system step.  The package is imported late, so that a program can wrap the
system calls first.
"""

from __future__ import annotations

import gzip
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import traceback
import zlib
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, NoReturn, Optional, Set, Tuple

HERE = Path(__file__).resolve().parent
# Taken before any test changes the working directory.
_PYTHONPATH = [
    str(HERE),
    *map(os.path.abspath, filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))),
]
SECONDS = 45.0 if os.name == "posix" else 200.0  # Wine takes its time to start programs
Key = Tuple[str, int]

# Every program starts with this; what hangs shows where.
PRELUDE = """\
import ctypes, faulthandler, functools, logging, os, random, signal, sys, threading, time, traceback
if os.name == "posix":
    faulthandler.register(signal.SIGUSR1)
from process_helpers import *
"""


# -- records that prove themselves --------------------------------------------


def text_of(writer: str, number: int) -> str:
    """One line: who, which, multi-byte filler of changing length, checksum."""
    body = f"{writer} {number} {'ä€😀' * (number % 7)}"
    return f"{body} {zlib.crc32(body.encode()):08x}"


def parse(line: str) -> Optional[Key]:
    """Return (writer, number), or None for a line that is not exactly one whole record."""
    body, _, checksum = line.rpartition(" ")
    if checksum != f"{zlib.crc32(body.encode()):08x}":
        return None
    writer, number, _ = body.split(" ", 2)
    return writer, int(number)


def a_record(text: object) -> logging.LogRecord:
    return logging.LogRecord("test", logging.INFO, "test.py", 1, text, None, None)


# -- reading back --------------------------------------------------------------


def files_of(directory: Path, name: str = "app.log") -> List[Tuple[str, bytes]]:
    """Names and (unpacked) contents of backups and live file, oldest first."""
    found: List[Tuple[int, str, bytes]] = []
    for path in Path(directory).iterdir():
        match = re.fullmatch(re.escape(name) + r"(?:\.(\d+))?(\.gz)?", path.name)
        if match and path.is_file():
            data = path.read_bytes()
            found.append((-int(match[1] or 0), path.name, gzip.decompress(data) if match[2] else data))
    return [(file, data) for _, file, data in sorted(found)]


def listing(directory: Path) -> Set[str]:
    return set(os.listdir(directory))


def strangers(directory: Path, name: str = "app.log") -> Set[str]:
    """Names that are neither live file nor backup nor sidecar."""
    ours = re.compile(re.escape(name) + r"(\.[1-9]\d*(\.gz)?)?|" + re.escape(f".__{name[:-4]}.lock"))
    return {each for each in os.listdir(directory) if not ours.fullmatch(each)}


def records_of(
    directory: Path, name: str = "app.log", both_forms: bool = False
) -> Tuple[List[Key], List[str]]:
    """All records in the order in which a reader meets them, and all lines that are none."""
    whole, damaged = [], []
    files = files_of(directory, name)
    for file, data in files:
        if both_forms and (f"{file}.gz", data) in files:
            continue
        text = data.decode("utf-8", "replace")
        if text and not text.endswith("\n"):
            damaged.append(f"{file} ends in the middle of a line: {text[-40:]!r}")
        for line in text.splitlines():
            key = parse(line)
            if key is None:
                damaged.append(f"{file}: {line!r}")
            else:
                whole.append(key)
    return whole, damaged


def check(
    directory: Path,
    expected: Mapping[str, Iterable[int]],
    *,
    perhaps: Iterable[Key] = (),
    max_bytes: int = 0,
    backup_count: int = 0,
    torn: int = 0,
    unordered: str = "",
    tidy: bool = True,
    both_forms: bool = False,
    name: str = "app.log",
) -> None:
    """
    Assert that the chain holds each expected record exactly once, whole and in its writer's order.

    Args:
        expected: Each writer's acknowledged numbers.
        perhaps: Records that were not acknowledged: there at most once.
        unordered: Writers whose names end so overtake themselves.
        torn: How many damaged lines are admitted.
        both_forms: A backup may lie there with and without `.gz`; then it counts once.
    """
    whole, damaged = records_of(directory, name, both_forms)
    seen = Counter(whole)
    wanted = {(writer, number) for writer, numbers in expected.items() for number in numbers}
    admitted = wanted | set(perhaps)
    order: Dict[str, List[int]] = defaultdict(list)
    for writer, number in whole:
        order[writer].append(number)
    trouble = {
        "lost": sorted(wanted - set(seen))[:8],
        "doubled": sorted(key for key, times in seen.items() if times > 1)[:8],
        "unknown": sorted(set(seen) - admitted)[:8],
        "damaged": damaged[:8] if len(damaged) > torn else [],
        "out of order": [
            f"{writer}: {before} before {after}"
            for writer, numbers in order.items()
            for before, after in zip(numbers, numbers[1:])
            if before > after and not (unordered and writer.endswith(unordered))
        ][:8],
        "too large": [
            f"{file}: {len(data)}"
            for file, data in files_of(directory, name)
            if max_bytes and len(data) > max_bytes and data.count(b"\n") > 1
        ],
        "too many": [
            file for file in listing(directory) if backup_count and _number(file, name) > backup_count
        ],
        "strangers": sorted(strangers(directory, name)) if tidy else [],
        "both forms": [
            file for file in listing(directory) if f"{file}.gz" in listing(directory) and not both_forms
        ],
    }
    trouble = {what: which for what, which in trouble.items() if which}
    assert not trouble, f"{trouble}; in the directory: {sorted(listing(directory))}"


def _number(file: str, name: str) -> int:
    match = re.fullmatch(re.escape(name) + r"\.(\d+)(\.gz)?", file)
    return int(match[1]) if match else 0


# -- programs -------------------------------------------------------------------


def run_program(
    source: str,
    directory: Path,
    *arguments: object,
    quiet: bool = True,
    status: int = 0,
    seconds: float = SECONDS,
) -> str:
    """Run *source* in *directory* and return its stdout; all its children end with it."""
    skip_without_fork(source)
    program = directory / "program.py"
    program.write_text(PRELUDE + textwrap.dedent(source), encoding="utf-8")
    (directory / "logs").mkdir(exist_ok=True)
    process = subprocess.Popen(
        [
            sys.executable,
            *("-W", "error", "-W", "ignore:This process:DeprecationWarning"),
            str(program),
            *map(str, arguments),
        ],
        cwd=directory,
        env={**os.environ, "PYTHONUTF8": "1", "PYTHONPATH": os.pathsep.join(_PYTHONPATH)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGUSR1)
            time.sleep(0.5)
        _kill_all(process)
        output, errors = process.communicate(timeout=10)
        raise AssertionError(f"the program hangs\n{output}\n{errors}") from None
    finally:
        _kill_all(process)
    assert process.returncode == status, f"exit {process.returncode}\n{output}\n{errors}"
    assert not (quiet and errors), errors
    return output


def skip_without_fork(source: str) -> None:
    """Skip a test whose program forks, or kills as only POSIX does, where nobody can."""
    if not hasattr(os, "fork") and re.search(r"fork|run_children|(?<![.\w])start\(|SIGKILL", source):
        import pytest  # not in the programs, which start often

        pytest.skip("there is no fork")


def _kill_all(process: subprocess.Popen[str]) -> None:
    """End it, and the children that a failure left behind."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except AttributeError:  # Windows
        process.kill()
    except ProcessLookupError:
        pass


# -- inside programs --------------------------------------------------------------


def open_log(path: str = "logs/app.log", **options: Any) -> Any:
    """A handler that notes in `failures` what it reports, instead of printing it."""
    from concurrent_log_handler import ConcurrentRotatingFileHandler

    class Noting(ConcurrentRotatingFileHandler):
        failures: List[BaseException]

        def handleError(self, record: logging.LogRecord) -> None:
            error = sys.exc_info()[1]
            assert error is not None
            self.failures.append(error)

    options = {"maxBytes": 3000, "backupCount": 900, "encoding": "utf-8", **options}
    handler = Noting(path, **options)
    handler.failures = []
    return handler


def write(handler: logging.Handler, writer: str, numbers: Iterable[int]) -> None:
    for number in numbers:
        handler.handle(a_record(text_of(writer, number)))


def start(work: Callable[[], object]) -> int:
    """Fork a child that does *work* and exits 0, or 1 with a traceback."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    try:
        work()
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def join(*children: int, seconds: float = 30.0) -> List[int]:
    """Wait for *children* within *seconds* and return their `waitpid` statuses; what hangs is killed and fails."""
    until = time.monotonic() + seconds
    statuses = []
    for child in children:
        pause = 0.0002
        while True:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                statuses.append(status)
                break
            if time.monotonic() > until:
                os.kill(child, signal.SIGUSR1)  # shows where it hangs
                time.sleep(0.2)
                for each in children:
                    try:
                        os.kill(each, signal.SIGKILL)
                    except ProcessLookupError:
                        pass
                raise AssertionError(f"child {child} did not end within {seconds} s")
            time.sleep(pause)
            pause = min(pause * 1.5, 0.01)
    return statuses


def run_children(*works: Callable[[], object], seconds: float = 30.0) -> None:
    """Do each of *works* in a child of its own, all at once; all must succeed."""
    statuses = join(*[start(work) for work in works], seconds=seconds)
    assert not any(statuses), f"children ended with {statuses}"


def run_threads(*works: Callable[[], object], seconds: float = 30.0) -> None:
    import threading

    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    until = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"


def wait_until(condition: Callable[[], object], seconds: float = 20.0, what: str = "") -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"not within {seconds} s: {what or condition}"
        time.sleep(0.002)


# -- dying after each file-system step ------------------------------------------


class Steps:
    """
    Counts the system calls that change files or locks, and dies of SIGKILL, or TerminateProcess, after one of them.

    Install it before the package is imported: some calls are bound at import.
    """

    NAMES = (
        *("rename", "replace", "unlink", "link", "open", "close", "ftruncate", "truncate", "fsync"),
        *("write", "pwrite", "mkdir", "fchmod", "fchown", "utime", "symlink", "remove"),
    )

    def __init__(self) -> None:
        self.armed = False
        self.done = 0
        self.last = 0
        self.half = False
        self.names: List[str] = []
        self.counted = {*self.NAMES, "flock", "locking", "CreateFileW"}
        for name in self.NAMES:
            if hasattr(os, name):
                setattr(os, name, self._wrap(getattr(os, name), name))
        if os.name == "posix":
            import fcntl

            fcntl.flock = self._wrap(fcntl.flock, "flock")  # type: ignore[assignment]
        else:
            import msvcrt

            from concurrent_log_handler._files import _kernel32

            msvcrt.locking = self._wrap(msvcrt.locking, "locking")  # type: ignore[attr-defined]
            _kernel32.CreateFileW = self._wrap(_kernel32.CreateFileW, "CreateFileW")

    def arm(self, last: int, half: bool = False) -> None:
        """Die after step number *last*, counted from now; with *half*, half-way through it if it writes."""
        self.done, self.last, self.half, self.armed = 0, last, half, True

    def _wrap(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def counted(*args: Any, **keywords: Any) -> Any:
            if not self.armed or name not in self.counted:
                return call(*args, **keywords)
            self.done += 1
            self.names.append(name)
            if self.done == self.last and self.half and name in ("write", "pwrite"):
                fd, data, *rest = args
                call(fd, bytes(data)[: max(1, len(data) // 2)], *rest)
                die()
            try:
                return call(*args, **keywords)
            finally:
                if self.done == self.last:
                    die()

        for support in (os.supports_fd, os.supports_dir_fd, os.supports_follow_symlinks):
            if call in tuple(support):  # what ctypes gives has no hash
                support.add(counted)
        return counted


def killed_after_each_step(
    steps: Steps,
    opened: Callable[[], Any],
    work: Callable[[Any, Callable[[int], object]], object],
    half: bool = False,
) -> Iterator[Tuple[List[int], str]]:
    """
    Kill a process after its first step, another after its second and so on, each time with a new directory.

    *work* gets a handler, and what acknowledges a number to us.  After each, a healthy process writes 8 records.
    Yields the numbers that were acknowledged, and, the last time, when nobody was killed, the names of all steps.
    """
    for last in range(1, 1000):
        shutil.rmtree("logs")
        os.mkdir("logs")
        reader, writer = os.pipe()

        def victim(last: int = last, writer: int = writer) -> None:
            handler = opened()
            steps.arm(last, half)

            def acknowledge(number: int) -> None:
                assert not handler.failures, handler.failures
                os.writev(writer, [b"%d\n" % number])

            work(handler, acknowledge)
            os.writev(writer, [" ".join(steps.names).encode()])

        def healthy() -> None:
            handler = opened()
            write(handler, "healthy", range(8))
            handler.close()
            assert not handler.failures, handler.failures

        child = start(victim)
        os.close(writer)
        with open(reader) as acknowledged:
            lines = acknowledged.read().splitlines()
        [status] = join(child)
        run_children(healthy)
        yield [int(line) for line in lines if line.isdigit()], lines[-1] if status == 0 else ""
        if status == 0:
            return
        assert os.WTERMSIG(status) == signal.SIGKILL, status


def die() -> NoReturn:
    os.kill(os.getpid(), 9)  # Windows, too
    raise AssertionError("unreachable")
