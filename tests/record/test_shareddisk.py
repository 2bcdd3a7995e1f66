"""A disk that machines share: what is asked, what is sent, in which order, and what is refused.

`shared_between_machines=True` has the handler work on the local disk of the tests as it does on such a one.  Whether
that is right between machines is the laboratory's business (`tests/network`).
"""

from __future__ import annotations

import errno
import fcntl
import gc
import json
import os
import pickle
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import process_helpers
from concurrent_log_handler import ConcurrentRotatingFileHandler, ConcurrentTimedRotatingFileHandler
from concurrent_log_handler._files import open_to_lock
from concurrent_log_handler._locks import LockTimeoutError, _platform, _sidecar
from concurrent_log_handler._locks._platform import lock_file_now, unlock_file
from concurrent_log_handler._record import _shareddisk
from concurrent_log_handler._record._shareddisk import SharedDiskFile
from handler_support import Recording, Strict, a_record, contents, in_a_fork, open_paths, run_program, write

# Notes the calls that change or ask something, with the name of the file.
NOTING = """
import fcntl, json, os, sys

calls, names = [], {}

def noting(name):
    real = getattr(os, name)
    def call(*arguments, **keywords):
        if name == "open":  # a number may have been somebody else's before
            fd = real(*arguments, **keywords)
            names[fd] = os.path.basename(arguments[0])
            calls.append(f"open {names[fd]}")
            return fd
        calls.append(f"{name} {names.get(arguments[0])}")
        result = real(*arguments, **keywords)
        if name == "dup":
            names[result] = names.get(arguments[0])
        return result
    setattr(os, name, call)

for name in ("open", "close", "dup", "write", "pwrite", "fsync", "ftruncate"):
    noting(name)
flock = fcntl.flock

def noted_flock(fd, operation):
    calls.append(f"{'unlock' if operation == fcntl.LOCK_UN else 'lock'} {names.get(fd)}")
    flock(fd, operation)

fcntl.flock = noted_flock
lockf = fcntl.lockf

def noted_lockf(fd, operation):
    calls.append(f"{'really close' if operation == fcntl.LOCK_UN else 'lock'} {names.get(fd)}")
    lockf(fd, operation)

fcntl.lockf = noted_lockf
copy = fcntl.fcntl

def noted_copy(fd, what, *arguments):
    result = copy(fd, what, *arguments)
    if what == fcntl.F_DUPFD_CLOEXEC:
        names[result] = names.get(fd)
    return result

fcntl.fcntl = noted_copy

import logging
from concurrent_log_handler import ConcurrentRotatingFileHandler, ConcurrentTimedRotatingFileHandler

def records(*texts):
    return [logging.LogRecord("test", 20, "", 1, text, (), None) for text in texts]
"""


# Closing a copy tells the error that SMB's `fsync` may have missed.
SENT = ["fsync app.log", "dup app.log", "close app.log", "close app.log"]


def calls_of(source: str, directory: Path) -> list[str]:
    """What a program that begins with `NOTING` has printed of its `calls`."""
    calls: list[str] = json.loads(run_program(NOTING + source + "\nprint(json.dumps(calls))", directory))
    return ["write" + call[6:] if call.startswith("pwrite") else call for call in calls]


@pytest.fixture
def another_disk() -> Iterator[Path]:
    """A directory on another device than the tests' own."""
    there = Path("/dev/shm")
    if not there.is_dir() or there.stat().st_dev == Path.cwd().stat().st_dev:
        pytest.skip("no second file system")
    with tempfile.TemporaryDirectory(dir=there) as path:
        yield Path(path)


def holding(sidecar: Path) -> int:
    """Lock *sidecar* as another process would; close what is returned to release it."""
    fd = os.open(sidecar, os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


# -- the order -------------------------------------------------------------------


def test_a_record_is_with_the_server_before_the_lock_is_free(tmp_path: Path) -> None:
    """The directory is asked and the file opened under the lock; it is sent and closed under it, too."""
    calls = calls_of(
        """
        handler = ConcurrentRotatingFileHandler("app.log", shared_between_machines=True)
        one, two = records("one", "two")
        handler.handle(one)
        calls.clear()
        handler.handle(two)
        """.replace("\n        ", "\n"),
        tmp_path,
    )

    folder = tmp_path.name
    assert calls == [
        "lock .__app.lock",
        *(f"open {folder}", f"close {folder}"),
        *("open app.log", "write app.log", *SENT),
        "unlock .__app.lock",
    ]


@pytest.mark.parametrize(
    ("kind", "locks"),
    [("nfs4", ["lock app.log"]), ("cifs", ["really close app.log"]), ("ceph", [])],
)
def test_the_file_itself_is_locked_where_that_helps(kind: str, locks: list[str], tmp_path: Path) -> None:
    """NFS sends nothing any more to a file whose lock the server took away; SMB keeps no closed handle of another."""
    calls = calls_of(
        f"""
        handler = ConcurrentRotatingFileHandler("app.log", shared_between_machines=True)
        handler._live.kind = {kind!r}
        one, two = records("one", "two")
        handler.handle(one)
        calls.clear()
        handler.handle(two)
        """.replace("\n        ", "\n"),
        tmp_path,
    )

    assert calls[3:-1] == ["open app.log", *locks, "write app.log", *SENT]


def test_fsync_keeps_no_file_open_behind_the_lock(tmp_path: Path) -> None:
    """It asks for no more than what a shared disk gets anyway."""
    calls = calls_of(
        """
        handler = ConcurrentRotatingFileHandler("app.log", shared_between_machines=True, fsync=True)
        one, two = records("one", "two")
        handler.handle(one)
        calls.clear()
        handler.handle(two)
        """.replace("\n        ", "\n"),
        tmp_path,
    )

    assert calls[-6:] == ["write app.log", *SENT, "unlock .__app.lock"]


def test_a_batch_is_sent_once_for_each_file_that_it_fills(tmp_path: Path) -> None:
    calls = calls_of(
        """
        handler = ConcurrentRotatingFileHandler("app.log", maxBytes=30, backupCount=3, shared_between_machines=True)
        handler.emit_batch(records(*["9 bytes.."] * 4))
        """.replace("\n        ", "\n"),
        tmp_path,
    )

    assert [call for call in calls if call in ("write app.log", "fsync app.log")] == [
        "write app.log",
        "fsync app.log",
    ] * 2
    assert contents(tmp_path) == {"app.log": "9 bytes..\n" * 2, "app.log.1": "9 bytes..\n" * 2}


def test_a_local_disk_costs_what_it_cost(tmp_path: Path) -> None:
    calls = calls_of(
        """
        handler = ConcurrentRotatingFileHandler("app.log")
        one, two = records("one", "two")
        handler.handle(one)
        calls.clear()
        handler.handle(two)
        """.replace("\n        ", "\n"),
        tmp_path,
    )

    assert calls == ["lock .__app.lock", "write app.log", "unlock .__app.lock"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="as Linux does it")
def test_a_kill_sends_the_record_before_it_frees_the_lock() -> None:
    """The kernel closes files in the order of their numbers: the next holder must see what this one wrote."""
    handler = Strict("app.log", shared_between_machines=True)
    write(handler, "one")
    live = os.open("app.log", os.O_RDONLY)
    os.close(live)

    assert handler._lock.fd > live + 100


def test_the_next_rollover_is_with_the_server_before_the_lock_is_free(tmp_path: Path) -> None:
    """All machines go by it, so no cache may keep it."""
    calls = calls_of(
        """
        handler = ConcurrentTimedRotatingFileHandler("app.log", when="D", shared_between_machines=True)
        handler.handle(records("one")[0])
        """.replace("\n        ", "\n"),
        tmp_path,
    )

    ours = [
        call
        for call in calls
        if call.endswith(".__app.lock") and call.split()[0] in ("write", "fsync", "unlock")
    ]
    assert ours[:3] == ["write .__app.lock", "fsync .__app.lock", "unlock .__app.lock"]


def test_the_directory_is_read_before_names_are_given(tmp_path: Path) -> None:
    """SMB keeps the names that it knows for a second, unless it lists them."""
    listed: list[str] = []

    def note(event: str, arguments: Any) -> None:
        if on and event in ("os.scandir", "os.rename") and str(tmp_path) in str(arguments[0]):
            listed.append(event)

    on = True
    sys.addaudithook(note)
    handler = Strict("app.log", maxBytes=10, backupCount=3, shared_between_machines=True)
    write(handler, "one is long", "two")
    handler.close()
    on = False

    assert listed[-2:] == ["os.scandir", "os.rename"]


# -- where -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "said", "shared"),
    [(True, None, True), (False, None, False), (False, True, True), (True, False, False)],
)
def test_the_mount_table_is_asked_where_the_user_says_nothing(
    table: bool, said: Any, shared: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(_shareddisk, "is_shared", lambda path: asked.append(path) or table)

    handler = Strict("app.log", shared_between_machines=said)

    assert isinstance(handler._live, SharedDiskFile) is shared
    assert asked == ([str(tmp_path / "app.log")] if said is None else [])


def test_a_disk_mounted_over_the_directory_later_is_recognised(
    another_disk: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A service may start before its share is mounted.  The first record there goes by the lock there."""
    monkeypatch.setattr(
        _shareddisk, "is_shared", lambda path: Path(path).resolve().is_relative_to(another_disk)
    )
    (tmp_path / "local").mkdir()
    (tmp_path / "logs").symlink_to("local")
    handler = Recording("logs/app.log", lock_timeout=0.05)
    write(handler, "one")
    (tmp_path / "logs").unlink()
    (tmp_path / "logs").symlink_to(another_disk)
    other = holding(another_disk / ".__app.lock")
    write(handler, "two")
    os.close(other)
    write(handler, "three")

    assert [text for text, _ in handler.failures] == ["two"]
    assert contents(another_disk) == {"app.log": "three\n"}
    assert contents(tmp_path / "local") == {"app.log": "one\n"}


@pytest.mark.parametrize("kind", [ConcurrentRotatingFileHandler, ConcurrentTimedRotatingFileHandler])
def test_what_was_said_goes_with_the_pickle(kind: Any) -> None:
    handler = kind("app.log", shared_between_machines=True)

    again = pickle.loads(pickle.dumps(handler))

    assert again.shared_between_machines is True
    assert isinstance(again._live, SharedDiskFile)


@pytest.mark.parametrize("kind", [ConcurrentRotatingFileHandler, ConcurrentTimedRotatingFileHandler])
def test_anything_but_yes_no_and_none_is_an_error(kind: Any) -> None:
    with pytest.raises(TypeError, match="shared_between_machines must be"):
        kind("app.log", shared_between_machines="nfs")


def test_what_is_no_file_is_not_shared(tmp_path: Path) -> None:
    """`/dev/stdout` and the like need no lock, and are not opened anew."""
    os.mkfifo(tmp_path / "app.log")
    reader = os.open(tmp_path / "app.log", os.O_RDONLY | os.O_NONBLOCK)
    handler = Strict("app.log", shared_between_machines=True, lock_timeout=0.05)
    other = holding(tmp_path / ".__app.lock")
    write(handler, "one")

    assert os.read(reader, 100) == b"one\n"
    os.close(other)
    os.close(reader)


@pytest.mark.parametrize("kind", [ConcurrentRotatingFileHandler, ConcurrentTimedRotatingFileHandler])
def test_a_lock_file_that_other_machines_do_not_see_warns(another_disk: Path, kind: Any) -> None:
    with pytest.warns(UserWarning, match="machines do not see each other's lock") as caught:
        kind("app.log", lock_file_directory=another_disk, shared_between_machines=True)

    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kind("app.log", lock_file_directory=another_disk)
        kind("app.log", lock_file_directory="locks", shared_between_machines=True)


# -- without the lock ------------------------------------------------------------


def test_a_record_without_the_lock_is_reported_and_not_written(tmp_path: Path) -> None:
    """Appending is not atomic between machines: it would overwrite the record of who has the lock."""
    handler = Recording("app.log", lock_timeout=0.1, shared_between_machines=True)
    write(handler, "one")
    other = holding(tmp_path / ".__app.lock")
    write(handler, "two", "three")
    handler.emit_batch([a_record("four"), a_record("five")])
    os.close(other)
    write(handler, "six")

    assert contents(tmp_path) == {"app.log": "one\nsix\n"}
    assert [text for text, _ in handler.failures] == ["two", "three", "four", "five"]
    assert {type(error) for _, error in handler.failures} == {LockTimeoutError}
    assert "the record is not in the file" in str(handler.failures[0][1])


def test_on_nfs_nobody_writes_who_has_not_the_lock_on_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that was cut off may take itself for the holder of a lock that another one has by now."""
    monkeypatch.setattr(_shareddisk, "_PATIENCE", 0.1)
    handler = Recording("app.log", shared_between_machines=True)
    handler._live.kind = "nfs4"  # type: ignore[attr-defined]
    write(handler, "one")
    other = holding(tmp_path / "app.log")
    write(handler, "two")
    os.close(other)
    write(handler, "three")

    assert contents(tmp_path) == {"app.log": "one\nthree\n"}
    assert [text for text, _ in handler.failures] == ["two"]
    assert f"no lock on {str(tmp_path / 'app.log')!r} itself" in str(handler.failures[0][1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_child_that_a_rotator_forks_keeps_no_lock_on_the_file(tmp_path: Path) -> None:
    """It does nothing, and lives on; a copy of the descriptor would keep the file locked for all."""
    handler = Strict("app.log", maxBytes=10, backupCount=3, shared_between_machines=True)
    handler._live.kind = "nfs4"  # type: ignore[attr-defined]
    reading, writing = os.pipe()
    there, here = os.pipe()
    children: list[int] = []

    def rotator(source: str, dest: str) -> None:
        children.append(os.fork())
        if not children[0]:
            os.close(writing)
            os.write(here, b"!")
            os.read(reading, 1)  # until the parent closes it
            os._exit(0)
        os.read(there, 1)
        os.rename(source, dest)

    handler.rotator = rotator
    write(handler, "one is long", "two")
    held = os.open("app.log.1", os.O_RDWR)
    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    for fd in (held, writing):
        os.close(fd)

    assert os.waitpid(children[0], 0)[1] == 0
    for fd in (reading, there, here):
        os.close(fd)


def test_one_long_wait_only(tmp_path: Path) -> None:
    """Behind a holder that is stuck, the first record waits; those after it try for some milliseconds."""
    handler = Recording("app.log", lock_timeout=1.0, shared_between_machines=True)
    other = holding(tmp_path / ".__app.lock")
    began = time.monotonic()
    write(handler, *map(str, range(5)))
    os.close(other)

    assert len(handler.failures) == 5
    assert time.monotonic() - began < 3.0  # five times would be 5


def test_a_wait_is_no_burst_of_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each try is a request to the server: between two of them it sleeps, longer each time."""
    handler = Recording("app.log", lock_timeout=0.3, shared_between_machines=True)
    write(handler, "one")
    tries: list[float] = []
    real = _sidecar.flock

    def flock(fd: int, operation: int) -> object:
        if operation != fcntl.LOCK_UN:
            tries.append(time.monotonic())
        return real(fd, operation)

    for room in (_sidecar, _platform):
        monkeypatch.setattr(room, "flock", flock)
    other = holding(tmp_path / ".__app.lock")
    write(handler, "two")
    os.close(other)

    pauses = [later - earlier for earlier, later in zip(tries, tries[1:])]
    assert 3 < len(tries) < 60
    assert min(pauses) >= 0.001


def test_a_signal_handler_that_has_the_lock_writes_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a local disk; what the record that it interrupts does afterwards takes nothing of it away."""
    handler = Strict("app.log", shared_between_machines=True)
    write(handler, "one")
    synced = os.fsync
    seen: list[str] = []

    def inside(*_: object) -> None:
        write(handler, "inside")
        seen.append((tmp_path / "app.log").read_text())

    def fsync(fd: int) -> None:
        monkeypatch.setattr(os, "fsync", synced)
        signal.raise_signal(signal.SIGUSR1)
        synced(fd)

    before = signal.signal(signal.SIGUSR1, inside)
    try:
        monkeypatch.setattr(os, "fsync", fsync)
        write(handler, "two")
    finally:
        signal.signal(signal.SIGUSR1, before)
    write(handler, "three")

    assert seen == ["one\ntwo\ninside\n"]
    assert contents(tmp_path) == {"app.log": "one\ntwo\ninside\nthree\n"}


def test_a_record_that_fails_takes_nothing_of_an_inner_one_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The inner one is with the server, and stands behind what is cut off otherwise."""
    handler = Recording("app.log", shared_between_machines=True)
    write(handler, "one")
    synced = os.fsync

    def fsync(fd: int) -> None:
        monkeypatch.setattr(os, "fsync", synced)
        write(handler, "inside")
        raise OSError(errno.EIO, "gone")

    monkeypatch.setattr(os, "fsync", fsync)
    write(handler, "two", "three")

    assert [text for text, _ in handler.failures] == ["two"]
    assert (tmp_path / "app.log").read_text().replace("two\n", "") == "one\ninside\nthree\n"


def test_a_signal_handler_inside_a_wait_for_the_lock_is_refused(tmp_path: Path) -> None:
    """It interrupts a record that has no lock yet, and cannot wait for it."""
    handler = Recording("app.log", lock_timeout=0.3, shared_between_machines=True)
    write(handler, "one")
    other = holding(tmp_path / ".__app.lock")
    before = signal.signal(signal.SIGALRM, lambda *_: write(handler, "inside"))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        write(handler, "two")
    finally:
        signal.signal(signal.SIGALRM, before)
        os.close(other)
    write(handler, "three")

    assert [text for text, _ in handler.failures] == ["inside", "two"]
    assert contents(tmp_path) == {"app.log": "one\nthree\n"}


def test_a_lock_file_that_was_replaced_is_changed_over_to(tmp_path: Path) -> None:
    """Two machines that hold a lock each on a file of their own would overwrite each other's records."""
    handler = Recording("app.log", lock_timeout=0.1, shared_between_machines=True)
    write(handler, "one")
    (tmp_path / ".__app.lock").unlink()
    other = holding(tmp_path / ".__app.lock")
    write(handler, "two")
    os.close(other)
    write(handler, "three")

    assert contents(tmp_path) == {"app.log": "one\nthree\n"}
    assert [text for text, _ in handler.failures] == ["two"]


def test_a_lock_that_its_server_has_forgotten_is_opened_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS 3 has ESTALE for the descriptor of a lock file that was deleted on the server."""
    handler = Strict("app.log", shared_between_machines=True)
    write(handler, "one")
    stale = handler._lock.fd
    real = _sidecar.flock

    def flock(fd: int, operation: int) -> object:
        if fd == stale and (os.fstat(fd).st_ino, os.fstat(fd).st_dev) == old:
            raise OSError(errno.ESTALE, "stale")
        return real(fd, operation)

    old = os.fstat(stale).st_ino, os.fstat(stale).st_dev
    os.rename(".__app.lock", "gone")  # its inode number stays taken
    monkeypatch.setattr(_sidecar, "flock", flock)
    write(handler, "two")

    assert contents(tmp_path) == {"app.log": "one\ntwo\n", "gone": ""}


# -- what goes wrong ---------------------------------------------------------------


def failing_once(
    monkeypatch: pytest.MonkeyPatch, name: str, number: int, when: Any = lambda *_: True
) -> None:
    real = getattr(os, name)

    def call(*arguments: Any, **keywords: Any) -> Any:
        if when(*arguments):
            monkeypatch.setattr(os, name, real)
            if name == "close":
                real(*arguments)  # as close(2) does it
            raise OSError(number, os.strerror(number))
        return real(*arguments, **keywords)

    monkeypatch.setattr(os, name, call)


def test_a_record_that_the_server_did_not_take_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full export is told by `fsync`; nothing of the record stays for the next one to stand behind."""
    handler = Recording("app.log", shared_between_machines=True)
    write(handler, "one")
    failing_once(monkeypatch, "fsync", errno.ENOSPC)
    write(handler, "two", "three")

    assert [(text, error.errno) for text, error in handler.failures] == [("two", errno.ENOSPC)]  # type: ignore[attr-defined]
    assert contents(tmp_path) == {"app.log": "one\nthree\n"}


def test_nothing_is_cut_off_without_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restarted SMB server has forgotten it: what stands at the end may be another machine's by now."""
    handler = Recording("app.log", shared_between_machines=True)
    write(handler, "one")
    real = os.fsync

    def fsync(fd: int) -> None:
        monkeypatch.setattr(os, "fsync", real)
        with open("app.log", "w") as file:
            file.write("one\nanother's\n")
        failing_once(monkeypatch, "fsync", errno.EBADF, lambda fd: fd == handler._lock.fd)
        raise OSError(errno.EAGAIN, "again")

    monkeypatch.setattr(os, "fsync", fsync)
    write(handler, "two", "three")

    assert [text for text, _ in handler.failures] == ["two"]
    assert contents(tmp_path) == {"app.log": "one\nanother's\nthree\n"}


def test_the_end_of_a_torn_record_that_the_server_did_not_take_leaves_no_hole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cutting off what failed must not lengthen the file by what never came there."""
    handler = Recording("app.log", shared_between_machines=True)
    write(handler, "one")
    with open("app.log", "a") as file:
        file.write("torn")

    def not_sent(fd: int) -> bool:
        os.ftruncate(fd, len("one\ntorn"))  # as it is on the server
        return True

    failing_once(monkeypatch, "fsync", errno.ENOSPC, not_sent)
    write(handler, "two", "three")

    assert [text for text, _ in handler.failures] == ["two"]
    assert contents(tmp_path) == {"app.log": "one\ntorn\nthree\n"}


def test_of_a_batch_that_the_server_did_not_take_each_record_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = Recording("app.log", shared_between_machines=True)
    write(handler, "one")
    failing_once(monkeypatch, "fsync", errno.ENOSPC)
    handler.emit_batch([a_record("two"), a_record("three")])

    assert handler.failures == []
    assert contents(tmp_path) == {"app.log": "one\ntwo\nthree\n"}


def test_an_error_of_close_is_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems send with the close what they took before; nothing of the record stays there, either."""
    handler = Recording("app.log", shared_between_machines=True)
    write(handler, "one")
    log = os.stat("app.log")
    failing_once(monkeypatch, "close", errno.EIO, lambda fd: os.path.samestat(os.fstat(fd), log))
    write(handler, "two", "three")

    assert [(text, error.errno) for text, error in handler.failures] == [("two", errno.EIO)]  # type: ignore[attr-defined]
    assert contents(tmp_path) == {"app.log": "one\nthree\n"}


def refusing(monkeypatch: pytest.MonkeyPatch, log: Path, number: int, now: Callable[[], bool]) -> list[Path]:
    """Have `open` of *log* fail with error *number* as long as *now* says so; returns what notes each time."""
    real = os.open
    tried: list[Path] = []

    def refused(path: Any, *arguments: Any, **keywords: Any) -> int:
        if path == str(log) and now():
            tried.append(log)
            raise OSError(number, os.strerror(number), path)
        return real(path, *arguments, **keywords)

    monkeypatch.setattr(os, "open", refused)
    return tried


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EINVAL, errno.ENOENT])
def test_a_file_that_was_just_moved_away_is_opened_again(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So NFS and SMB answer for a moment where the other machine has rotated, or removed what somebody has open."""
    handler = Strict("app.log", shared_between_machines=True)
    write(handler, "one")
    until = time.monotonic() + 0.1
    refusing(monkeypatch, tmp_path / "app.log", number, lambda: time.monotonic() < until)
    write(handler, "two")

    assert contents(tmp_path) == {"app.log": "one\ntwo\n"}


def test_a_file_that_stays_away_is_waited_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SMB gives no new file the name of a removed one that a viewer on another machine still has open."""
    monkeypatch.setattr(_shareddisk, "_PATIENCE", 0.1)
    handler = Recording("app.log", shared_between_machines=True)
    write(handler, "one")
    there = False
    tried = refusing(monkeypatch, tmp_path / "app.log", errno.ESTALE, lambda: not there)
    write(handler, "two")
    waited = len(tried)
    write(handler, "three", "four")
    at_once, there = len(tried) - waited, True
    write(handler, "five")

    assert (waited > 2, at_once) == (True, 2)
    assert [text for text, _ in handler.failures] == ["two", "three", "four"]
    assert contents(tmp_path) == {"app.log": "one\nfive\n"}


def test_a_torn_record_is_sealed(tmp_path: Path) -> None:
    handler = Strict("app.log", shared_between_machines=True)
    write(handler, "one")
    with open("app.log", "a") as file:
        file.write("torn")
    write(handler, "two")

    assert contents(tmp_path) == {"app.log": "one\ntorn\ntwo\n"}


def test_mode_w_empties_what_was_there_and_nothing_later(tmp_path: Path) -> None:
    (tmp_path / "app.log").write_text("old\n")
    first = Strict("app.log", mode="w", shared_between_machines=True)
    second = Strict("app.log", mode="w", shared_between_machines=True)
    write(first, "one")
    write(second, "two")
    write(first, "three")

    assert contents(tmp_path) == {"app.log": "one\ntwo\nthree\n"}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_handler_that_is_only_dropped_closes_its_files_at_once(tmp_path: Path) -> None:
    """No cycle keeps them for the collector."""
    gc.disable()
    try:
        handler = Strict("app.log", maxBytes=10, backupCount=2, shared_between_machines=True)
        write(handler, "aaaa", "bbbb")
        del handler
        assert [path for path in open_paths() if path.startswith(str(tmp_path))] == []
    finally:
        gc.enable()


# -- locks on other files ------------------------------------------------------------


def test_what_is_locked_is_open_for_writing_where_it_may_be(tmp_path: Path) -> None:
    """NFSv4 locks nothing that is open only to be read."""
    (tmp_path / "file").touch()
    fd = open_to_lock(str(tmp_path / "file"))

    assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
    os.close(fd)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_users_file_is_locked_to_read(public: Path) -> None:
    path = public / "file"
    path.touch(0o444)

    def as_another() -> None:
        os.chdir("/")
        os.setuid(12345)
        fd = open_to_lock(str(path))
        assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        assert lock_file_now(fd) is True
        unlock_file(fd)

    in_a_fork(as_another)


def test_a_lock_that_cannot_be_asked_for_counts_as_taken(tmp_path: Path) -> None:
    """EBADF, of NFSv4 for what is open only to be read, does not tell that nobody has it."""
    fd = os.open(tmp_path, os.O_RDONLY)
    os.close(fd)

    assert lock_file_now(fd) is False
    unlock_file(fd)


# -- many processes -----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "gzip", [{}, {"use_gzip": True}, {"use_gzip": True, "background_gzip": True}], ids=str
)
def test_processes_that_rotate_all_the_time_lose_nothing(gzip: dict[str, bool], tmp_path: Path) -> None:
    """Two programs' worth of forked children, used before the fork, too."""
    output = process_helpers.run_program(
        """
        import sys, json
        from process_helpers import open_log, run_children, write
        options = json.loads(sys.argv[1])
        handler = open_log(shared_between_machines=True, lock_timeout=60.0, **options)
        write(handler, "parent", range(20))

        def child(name):
            def work():
                write(handler, name, range(200))
                handler.close()
                assert handler.failures == [], handler.failures
            return work

        run_children(*map(child, ["a", "b", "c"]), seconds=100)
        write(handler, "parent", range(20, 40))
        handler.close()
        assert handler.failures == []
        """,
        tmp_path,
        json.dumps(gzip),
    )
    assert output == ""
    process_helpers.check(
        tmp_path / "logs", {"parent": range(40), **dict.fromkeys("abc", range(200))}, max_bytes=3000
    )
