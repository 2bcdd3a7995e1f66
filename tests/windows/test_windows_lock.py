"""The lock through each portalocker that the package admits, with and without pywin32: real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import concurrent_log_handler

BESIDE = Path("C:/beside")
if os.name != "nt" or not BESIDE.exists():
    pytest.skip("several portalockers for Windows, which `run.py` lays out", allow_module_level=True)

SOURCE = Path(concurrent_log_handler.__file__).parents[1]
SECONDS = 200
PRELUDE = """\
import errno, os, subprocess, sys
from concurrent_log_handler import _files
from concurrent_log_handler._locks import _platform
from concurrent_log_handler._locks._platform import EXCLUSIVE_NOW, UNLOCK, flock
def lock_now(fd):
    flock(fd, EXCLUSIVE_NOW)
def unlock(fd):
    flock(fd, UNLOCK)
fd = _files.open_shared("app.lock", os.O_RDWR | os.O_CREAT)
def refused(call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        return error
"""

# Locks and unlocks as it is told, and says what came of it.
CHILD = (
    PRELUDE
    + """
os.lseek(fd, 1_234_567, os.SEEK_SET)
for line in sys.stdin:
    error = refused(lock_now if line.strip() == "lock" else unlock, fd)
    print("held" if isinstance(error, BlockingIOError) else error or "done", flush=True)
"""
)


def run(directory: Path, program: str, portalocker: str, pywin32: bool) -> None:
    folders = [SOURCE, BESIDE / f"portalocker-{portalocker}"]
    environment = dict(os.environ)
    if pywin32:
        there = BESIDE / f"pywin32-{sys.version_info[0]}.{sys.version_info[1]}"
        folders += [there, there / "win32", there / "win32" / "lib"]
        environment["PATH"] = f"{there / 'pywin32_system32'};{environment['PATH']}"
    environment["PYTHONPATH"] = os.pathsep.join(map(str, folders))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PRELUDE + textwrap.dedent(program)],
        cwd=directory,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        timeout=SECONDS,
    )
    assert (done.returncode, done.stderr) == (0, "")


new = sys.version_info >= (3, 10)
working = pytest.mark.parametrize(
    ("portalocker", "pywin32"),
    [("2.10", True), ("3.2", True), *([("4.4", False), ("4.4", True)] if new else [])],
)


@working
def test_one_process_at_a_time_wherever_the_offsets_are(
    tmp_path: Path, portalocker: str, pywin32: bool
) -> None:
    """A mark in the offset, by which a descriptor is known again, must not move the lock."""
    (tmp_path / "child.py").write_text(CHILD)
    run(
        tmp_path,
        """
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        other = subprocess.Popen([sys.executable, "child.py"], text=True, **pipes)
        def ask(what):
            other.stdin.write(what + "\\n")
            other.stdin.flush()
            return other.stdout.readline().strip()

        os.lseek(fd, 7_654_321_000, os.SEEK_SET)
        for _ in range(3):
            assert ask("lock") == "done"
            error = refused(lock_now, fd)
            assert isinstance(error, BlockingIOError) and error.errno == errno.EAGAIN, repr(error)
            assert ask("unlock") == "done"
            lock_now(fd)
            assert ask("lock") == "held"
            unlock(fd)
        assert os.lseek(fd, 0, os.SEEK_CUR) == 7_654_321_000
        assert _platform._file.cache_info().currsize == 1, "one file object, not one for each record"
        assert ask("lock") == "done"
        other.kill()
        other.communicate()
        lock_now(fd)  # of the dead process
        """,
        portalocker,
        pywin32,
    )


@working
def test_whatever_goes_wrong_is_an_os_error(tmp_path: Path, portalocker: str, pywin32: bool) -> None:
    run(
        tmp_path,
        """
        refused(unlock, fd)  # not locked: some say so, some do not
        os.close(fd)
        assert refused(lock_now, fd) and refused(unlock, fd)
        """,
        portalocker,
        pywin32,
    )


def test_pywin32_that_is_missing_is_an_os_error(tmp_path: Path) -> None:
    """portalocker 3.2 looks for it at the first lock only: that is inside a logging call."""
    run(
        tmp_path,
        """
        for call in (lock_now, unlock):
            error = refused(call, fd)
            assert error and error.errno == errno.ENOLCK and "pywin32" in str(error), repr(error)
        """,
        "3.2",
        False,
    )


def test_errors_of_pywin32_are_os_errors(tmp_path: Path) -> None:
    """Until 3.1 portalocker lets all of them through but one.  A device cannot be locked."""
    run(
        tmp_path,
        """
        import pywintypes
        fd = os.open("NUL", os.O_RDWR)
        for call in (lock_now, unlock):
            error = refused(call, fd)
            assert error and error.errno == errno.ENOLCK, repr(error)
            assert isinstance(error.__cause__, pywintypes.error), repr(error.__cause__)
        """,
        "2.10",
        True,
    )
