"""
Windows where Python has no ctypes, on a POSIX system that pretends: what Windows lacks is taken away, and what is
open cannot be renamed or deleted.  What holds with ctypes is tested on Windows itself, in `tests/windows`.
"""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from handler_support import SECONDS, contents, run_program

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="pretending needs /proc")

PRETEND = textwrap.dedent(
    """
    import errno, fcntl, logging, os, sys, threading, time, types, zlib
    import concurrent_log_handler  # imports from the standard library what it needs

    # -- a portalocker as 2.10 is on Windows: no LOCKER, and pywin32's errors become its own
    package = types.ModuleType("portalocker")
    inner = types.ModuleType("portalocker.portalocker")
    errors = types.ModuleType("portalocker.exceptions")

    class BaseLockException(Exception): pass
    class LockException(BaseLockException): pass
    class AlreadyLocked(LockException): pass

    for error in (BaseLockException, LockException, AlreadyLocked):
        setattr(errors, error.__name__, error)
    flock, LOCK_EX, LOCK_NB, LOCK_UN = fcntl.flock, fcntl.LOCK_EX, fcntl.LOCK_NB, fcntl.LOCK_UN

    def lock(file, flags):
        assert flags == 1 | 4, "a blocking lock waits in steps of a second there"
        try:
            flock(file.fileno(), LOCK_EX | LOCK_NB)
        except BlockingIOError as error:
            raise AlreadyLocked(error)

    def unlock(file):
        flock(file.fileno(), LOCK_UN)

    for module in (package, inner):
        module.LOCK_EX, module.LOCK_SH, module.LOCK_NB, module.LOCK_UN = 1, 2, 4, 8
        module.lock, module.unlock, module.exceptions = lock, unlock, errors
    package.portalocker = inner

    # -- renaming and deleting
    def users(path):
        path = os.path.abspath(path)
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                for fd in os.listdir(f"/proc/{pid}/fd"):
                    if os.readlink(f"/proc/{pid}/fd/{fd}") == path:
                        return pid
            except OSError:
                continue
        return None

    def refusing(real, *positions, may_replace=True):
        def call(*paths):
            for position in positions:
                user = users(paths[position])
                if user:
                    raise PermissionError(errno.EACCES, f"[WinError 32] in use by process {user}", paths[position])
            if not may_replace and os.path.lexists(paths[1]):
                raise FileExistsError(errno.EEXIST, "[WinError 183]", paths[1])
            return real(*paths)
        return call

    os.rename = refusing(os.rename, 0, 1, may_replace=False)
    os.replace = refusing(os.replace, 0, 1)
    os.unlink = os.remove = refusing(os.unlink, 0)
    real_open = os.open
    def open_(path, flags, mode=0o777):
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "a directory cannot be opened", path)
        return real_open(path, flags, mode)
    os.open = open_

    # -- what is not there
    for name in [each for each in sys.modules if each.split(".")[0] in ("concurrent_log_handler", "portalocker")]:
        del sys.modules[name]
    sys.modules.update({
        "portalocker": package, "portalocker.portalocker": inner, "portalocker.exceptions": errors,
        "fcntl": None, "pwd": None, "grp": None, "resource": None, "termios": None,
    })
    os.O_NOINHERIT, os.O_BINARY = os.O_CLOEXEC, 0
    os.supports_fd = {os.stat, os.truncate}
    for name in ("pread", "pwrite", "preadv", "pwritev", "fchmod", "fchown", "chown", "lchown", "register_at_fork",
                 "fork", "forkpty", "getuid", "geteuid", "getgid", "setuid", "sched_yield", "mkfifo", "mknod",
                 "O_CLOEXEC", "O_NOFOLLOW", "O_NOCTTY", "O_DIRECTORY", "O_NONBLOCK", "O_TMPFILE", "O_SYNC",
                 "WNOHANG", "waitid"):
        if hasattr(os, name):
            delattr(os, name)
    os.name, sys.platform = "nt", "win32"

    # -- the handler
    import concurrent_log_handler
    from concurrent_log_handler import ConcurrentRotatingFileHandler, _files
    assert _files.WINDOWS and not _files.RENAMES_OPEN

    class Strict(ConcurrentRotatingFileHandler):
        def handleError(self, record):
            raise

    class Recording(ConcurrentRotatingFileHandler):
        failures = []
        def handleError(self, record):
            self.failures.append(str(sys.exc_info()[1]))

    def write(handler, *texts):
        for text in texts:
            handler.handle(logging.makeLogRecord({"msg": text}))

    def opened():
        paths = []
        for fd in os.listdir("/proc/self/fd"):
            try:
                paths.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
            except OSError:
                continue
        return paths
    """
)


def on_windows(directory: Path, program: str, *arguments: str) -> str:
    return run_program(PRETEND + textwrap.dedent(program), directory, *arguments)


def test_import_and_rotation(tmp_path: Path) -> None:
    on_windows(
        tmp_path,
        """
        handler = Strict("app.log", maxBytes=10, backupCount=2, chmod=0o600, owner=("nobody", None), umask=0o77)
        write(handler, "aaaa", "bbbb", "cccc", "dddd")
        handler.emit_batch([logging.makeLogRecord({"msg": text}) for text in ("eeee", "ffff")])
        handler.close()
        """,
    )

    assert contents(tmp_path) == {"app.log": "ffff\n", "app.log.1": "eeee\n", "app.log.2": "dddd\n"}


def test_log_is_closed_after_each_write(tmp_path: Path) -> None:
    """Whoever keeps it open keeps everybody else from rotating."""
    on_windows(
        tmp_path,
        """
        handler = Strict("app.log", delay=False)
        assert "app.log" not in opened()
        for text in ("one", "two"):
            write(handler, text)
            assert "app.log" not in opened()
        handler.emit_batch([logging.makeLogRecord({"msg": "three"})])
        assert "app.log" not in opened()
        handler.backupCount = 2
        handler.doRollover()
        assert "app.log" not in opened(), opened()
        write(handler, "four")
        """,
    )

    assert contents(tmp_path) == {"app.log": "four\n", "app.log.1": "one\ntwo\nthree\n"}


@pytest.mark.parametrize("background", [False, True])
def test_gzip_under_the_lock(tmp_path: Path, background: bool) -> None:
    """What is open cannot be renamed: nobody may come in between."""
    on_windows(
        tmp_path,
        """
        real = zlib.compressobj
        held = []
        def compressobj(*args):
            fd = real_open(".__app.lock", os.O_RDWR)
            try:
                flock(fd, LOCK_EX | LOCK_NB)
                held.append(False)
            except BlockingIOError:
                held.append(True)
            os.close(fd)
            return real(*args)
        zlib.compressobj = compressobj
        handler = Strict("app.log", maxBytes=10, backupCount=2, use_gzip=True, background_gzip=sys.argv[1] == "True")
        write(handler, "aaaa", "bbbb", "cccc", "dddd")
        handler.close()
        assert held == [True] * 3, held
        assert not [path for path in opened() if "app" in path], opened()
        """,
        str(background),
    )

    assert contents(tmp_path) == {"app.log": "dddd\n", "app.log.1.gz": "cccc\n", "app.log.2.gz": "bbbb\n"}


def test_gzip_switched_on_with_a_chain_that_is_plain(tmp_path: Path) -> None:
    for number in range(1, 13):
        (tmp_path / f"app.log.{number}").write_text(f"backup {number}\n")
    (tmp_path / "app.log").write_text("backup 0\n")

    on_windows(tmp_path, 'write(Strict("app.log", maxBytes=10, backupCount=20, use_gzip=True), "live")')

    assert contents(tmp_path) == {
        "app.log": "live\n",
        **{f"app.log.{number + 1}.gz": f"backup {number}\n" for number in range(13)},
    }


def test_modification_time_of_a_gz(tmp_path: Path) -> None:
    (tmp_path / "app.log").write_text("old enough\n")
    os.utime(tmp_path / "app.log", (1_000_000_000, 1_111_111_111))

    on_windows(tmp_path, 'write(Strict("app.log", maxBytes=10, backupCount=2, use_gzip=True), "live")')

    assert (tmp_path / "app.log.1.gz").stat().st_mtime == 1_111_111_111


def test_log_that_somebody_holds_open_is_rotated_later(tmp_path: Path) -> None:
    """A virus scanner or a viewer: records go on into the live file, told once."""
    on_windows(
        tmp_path,
        """
        handler = Recording("app.log", maxBytes=10, backupCount=2)
        write(handler, "aaaa")
        viewer = open("app.log")
        write(handler, "bbbb", "cccc")
        viewer.close()
        assert len(handler.failures) == 1 and "WinError 32" in handler.failures[0], handler.failures
        time.sleep(0.15)  # the pause after a failure is 0.1 s at first
        write(handler, "dddd")
        assert len(handler.failures) == 1, handler.failures
        """,
    )

    assert contents(tmp_path) == {"app.log": "dddd\n", "app.log.1": "aaaa\nbbbb\ncccc\n"}


@pytest.mark.parametrize("name", ["app.log.1", "app.log.2"])
@pytest.mark.parametrize("gz", ["", ".gz"])
def test_backup_that_somebody_holds_open(tmp_path: Path, name: str, gz: str) -> None:
    """The shift stops half-way and leaves a gap at most; the next one goes on from there."""
    on_windows(
        tmp_path,
        """
        handler = Recording("app.log", maxBytes=10, backupCount=3, use_gzip=bool(sys.argv[2]))
        write(handler, "aaaa", "bbbb", "cccc")
        viewer = open(sys.argv[1] + sys.argv[2], "rb")
        write(handler, "dddd")
        assert len(handler.failures) == 1 and "WinError 32" in handler.failures[0], handler.failures
        viewer.close()
        time.sleep(0.15)
        write(handler, "eeee")
        assert len(handler.failures) == 1, handler.failures
        """,
        name,
        gz,
    )

    assert contents(tmp_path) == {
        "app.log": "eeee\n",
        f"app.log.1{gz}": "cccc\ndddd\n",
        f"app.log.2{gz}": "bbbb\n",
        f"app.log.3{gz}": "aaaa\n",
    }


def test_pickle_close_and_use_again(tmp_path: Path) -> None:
    on_windows(
        tmp_path,
        """
        import pickle
        handler = ConcurrentRotatingFileHandler("app.log", maxBytes=1000, backupCount=2)
        write(handler, "one")
        copy = pickle.loads(pickle.dumps(handler))
        write(copy, "two")
        handler.close(); handler.close()
        write(handler, "three")
        threads = [threading.Thread(target=write, args=(handler, "thread")) for _ in range(4)]
        [thread.start() for thread in threads]
        [thread.join(10) for thread in threads]
        """,
    )

    assert contents(tmp_path) == {"app.log": "one\ntwo\nthree\n" + "thread\n" * 4}


def test_held_lock_is_waited_for_in_small_steps_and_not_for_ever(tmp_path: Path) -> None:
    on_windows(
        tmp_path,
        """
        handler = Recording("app.log", lock_timeout=0.2)
        write(handler, "one")
        fd = real_open(".__app.lock", os.O_RDWR)
        flock(fd, LOCK_EX)
        release = threading.Timer(0.05, os.close, (fd,))
        release.start()
        start = time.monotonic()
        write(handler, "two")
        assert 0.03 < time.monotonic() - start < 0.19 and not handler.failures
        release.join()
        fd = real_open(".__app.lock", os.O_RDWR)
        flock(fd, LOCK_EX)
        write(handler, "three", "four")
        assert len(handler.failures) == 1, handler.failures
        os.close(fd)
        write(handler, "five")
        """,
    )

    assert contents(tmp_path) == {"app.log": "one\ntwo\nthree\nfour\nfive\n"}


@pytest.mark.slow
@pytest.mark.parametrize("gz", ["", ".gz"])
def test_processes_share_a_log(tmp_path: Path, gz: str) -> None:
    """Rotating all the time, each with its own handler: nothing lost, doubled, torn or out of order."""
    (tmp_path / "program.py").write_text(
        PRETEND
        + textwrap.dedent(
            """
            handler = Strict("app.log", maxBytes=2000, backupCount=99, use_gzip=bool(sys.argv[2]), lock_timeout=30)
            for number in range(250):
                write(handler, f"{sys.argv[1]} {number:04d} " + "x" * 40)
            """
        )
    )
    command = [sys.executable, "-W", "error", "program.py"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [
        subprocess.Popen(
            [*command, name, gz], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
        )
        for name in "abc"
    ]
    try:
        for process in processes:
            _, said = process.communicate(timeout=SECONDS)
            assert (process.returncode, said) == (0, "")
    finally:
        for process in processes:
            process.kill()
    (tmp_path / "program.py").unlink()

    files = contents(tmp_path)
    names = [f"app.log.{number}{gz}" for number in range(len(files) - 1, 0, -1)] + ["app.log"]
    lines = "".join(files[name] for name in names).splitlines()
    for writer in "abc":
        mine = [line.split()[1] for line in lines if line.startswith(writer)]
        assert mine == [f"{number:04d}" for number in range(250)]
    assert len(lines) == 750
    assert all(len(text) < 2000 for text in files.values())
    if gz:
        assert gzip.decompress((tmp_path / names[0]).read_bytes())
