"""The sidecar: one lock per log and process, bounded waits, and nothing of it left in a child."""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import portalocker
import pytest

from concurrent_log_handler._access import Access
from concurrent_log_handler._locks import LockTimeoutError, _platform
from concurrent_log_handler._locks._log import lock_for, sidecar_path
from concurrent_log_handler._locks._platform import directory_lock, lock_file_now, unlock_file, wait_for
from concurrent_log_handler._locks._sidecar import SidecarLock
from handler_support import (
    SECONDS,
    Recording,
    Strict,
    a_record,
    contents,
    in_a_fork,
    on_wine,
    open_paths,
    reopened,
    write,
)

posix = pytest.mark.skipif(os.name == "nt", reason="signals, forks, and removing what is open, of POSIX")
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")


@pytest.fixture
def lock(tmp_path: Path) -> SidecarLock:
    return lock_for(str(tmp_path / ".__app.lock"), Access())


def free(path: Path) -> bool:
    """Whether somebody else could lock the file at *path* now."""
    with open(path, "rb+") as file:
        try:
            portalocker.lock(file, portalocker.LOCK_EX | portalocker.LOCK_NB)
        except portalocker.AlreadyLocked:
            return False
        portalocker.unlock(file)
    return True


@contextmanager
def held_by_another_process(path: Path) -> Iterator[int]:
    """A process that holds the lock and does nothing; yields its number."""
    program = """
import portalocker, sys
file = open(sys.argv[1], "ab")
portalocker.lock(file, portalocker.LOCK_EX | portalocker.LOCK_NB)
print("locked", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline()
        yield process.pid
        process.stdin.close()
        assert process.wait(SECONDS) == 0


def let_go(lock: SidecarLock) -> None:
    """As a step does at its end."""
    lock.release()
    while lock.mine():
        lock.rlock.release()


# -- where it lies ------------------------------------------------------------


@pytest.mark.parametrize(
    ("log", "directory", "path"),
    [
        ("/var/log/app.log", None, "/var/log/.__app.lock"),
        ("/var/log/app", None, "/var/log/.__app.lock"),
        ("/var/log/app.log.log", None, "/var/log/.__app.log.lock"),
        ("/var/log/app.txt", None, "/var/log/.__app.txt.lock"),
        ("/var/log/app.log", "/run/lock", "/run/lock/.__app.lock"),
        ("app.log", None, ".__app.lock"),
        ("/a.log/b", None, "/a.log/.__b.lock"),
    ],
)
def test_name_is_clhs(log: str, directory: Any, path: str) -> None:
    """Old processes and new ones share a log during a rolling upgrade."""
    assert Path(sidecar_path(log, directory)) == Path(path)


@pytest.mark.skipif(on_wine, reason="Wine does not say where a link leads")
def test_one_lock_per_log_whatever_leads_to_it(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to("data")
    direct = lock_for(str(tmp_path / "data" / ".__app.lock"), Access())

    assert lock_for(str(tmp_path / "link" / ".__app.lock"), Access()) is direct
    assert lock_for(str(tmp_path / "data" / ".." / "data" / ".__app.lock"), Access()) is direct
    assert lock_for(str(tmp_path / "data" / ".__other.lock"), Access()) is not direct


# -- holding it ---------------------------------------------------------------


def test_nobody_else_holds_it_between_acquire_and_release(lock: SidecarLock) -> None:
    assert lock.enter(1)
    assert lock.acquire(1)
    assert not free(Path(lock.path))

    let_go(lock)

    assert free(Path(lock.path))
    assert not lock.mine()


def test_wait_is_bounded_and_the_second_does_not_wait(tmp_path: Path, lock: SidecarLock) -> None:
    """Else every record would cost the whole time-out."""
    with held_by_another_process(tmp_path / ".__app.lock"):
        lock.enter(1)
        start = time.monotonic()
        assert not lock.acquire(0.2)
        first = time.monotonic() - start
        error = lock.take_trouble()
        lock.release()
        start = time.monotonic()
        assert not lock.acquire(10)
        second = time.monotonic() - start
        let_go(lock)

    assert 0.15 < first < 5
    assert second < 1
    assert isinstance(error, LockTimeoutError)
    assert isinstance(error, TimeoutError)
    assert str(error) == (
        f"no lock on {lock.path!r} after 0.2 s (another process holds it, stopped or stuck perhaps); "
        "records are appended without it, and the file is not rotated meanwhile"
    )
    assert lock.trouble is None
    assert lock.enter(1)
    assert lock.acquire(1), "it recovers by itself"
    let_go(lock)


def test_thread_that_hangs_with_the_lock_stops_nobody_for_longer(tmp_path: Path) -> None:
    """A `namer` that waits for the network, say."""
    handler = Recording(tmp_path / "app.log", maxBytes=10, backupCount=2, lock_timeout=0.2)
    write(handler, "aaaa")
    hangs, go_on = threading.Event(), threading.Event()

    def namer(name: str) -> str:
        hangs.set()
        go_on.wait(20)
        return name

    handler.namer = namer
    thread = threading.Thread(target=write, args=(handler, "bbbb"))
    thread.start()
    assert hangs.wait(10)
    start = time.monotonic()
    write(handler, "cccc", "dddd", "eeee", "ffff")
    waited = time.monotonic() - start
    go_on.set()
    thread.join(10)
    write(handler, "gggg")

    assert waited < 2
    files = contents(tmp_path)
    assert sorted("".join(files.values()).split()) == ["aaaa", "bbbb", "cccc", "dddd", "eeee", "ffff", "gggg"]
    assert [type(error) for _, error in handler.failures] == [LockTimeoutError]


@posix
def test_stopped_process_stops_nobody_for_longer(tmp_path: Path) -> None:
    handler = Recording(tmp_path / "app.log", maxBytes=20, backupCount=5, lock_timeout=0.2)
    write(handler, "before")

    with held_by_another_process(tmp_path / ".__app.lock") as pid:
        os.kill(pid, signal.SIGSTOP)
        try:
            start = time.monotonic()
            write(handler, *[f"record {number}" for number in range(20)])
            waited = time.monotonic() - start
        finally:
            os.kill(pid, signal.SIGCONT)
    write(handler, "after")

    assert waited < 3
    assert contents(tmp_path) == {
        "app.log": "after\n",
        "app.log.1": "before\n" + "".join(f"record {number}\n" for number in range(20)),
    }
    assert [type(error) for _, error in handler.failures] == [LockTimeoutError]


def test_timeout_none_waits(tmp_path: Path) -> None:
    handler = Strict(tmp_path / "app.log", lock_timeout=None)
    with held_by_another_process(tmp_path / ".__app.lock"):
        thread = threading.Thread(target=write, args=(handler, "waited"))
        thread.start()
        thread.join(0.1)
        assert thread.is_alive()
        assert contents(tmp_path) == {}
    thread.join(10)

    assert contents(tmp_path) == {"app.log": "waited\n"}


def test_timeout_zero_tries_only(tmp_path: Path) -> None:
    handler = Recording(tmp_path / "app.log", lock_timeout=0)
    with held_by_another_process(tmp_path / ".__app.lock"):
        write(handler, "one", "two")

    assert contents(tmp_path) == {"app.log": "one\ntwo\n"}
    assert len(handler.failures) == 1


def test_do_rollover_by_hand_raises_when_the_lock_is_held(tmp_path: Path) -> None:
    handler = Strict(tmp_path / "app.log", backupCount=2, lock_timeout=0.1)
    write(handler, "one")

    with held_by_another_process(tmp_path / ".__app.lock"), pytest.raises(LockTimeoutError):
        handler.doRollover()

    assert contents(tmp_path) == {"app.log": "one\n"}
    handler.doRollover()
    assert contents(tmp_path).get("app.log.1") == "one\n"


# -- the file -----------------------------------------------------------------


@posix
def test_deleted_sidecar_is_made_again_before_something_is_renamed(tmp_path: Path) -> None:
    handler = Strict(tmp_path / "app.log", maxBytes=10, backupCount=9)
    for number in range(5):
        write(handler, f"rec{number}")
        os.unlink(tmp_path / ".__app.lock") if (tmp_path / ".__app.lock").exists() else None

    assert contents(tmp_path) == {
        "app.log": "rec4\n",
        **{f"app.log.{number}": f"rec{4 - number}\n" for number in range(1, 5)},
    }


@posix
def test_sidecar_replaced_while_it_is_held_is_noticed(lock: SidecarLock) -> None:
    lock.enter(1)
    assert lock.acquire(1)
    assert lock.check_place(1)

    os.unlink(lock.path)
    assert lock.check_place(1)
    assert not free(Path(lock.path)), "the new one is ours"
    let_go(lock)

    assert free(Path(lock.path))


@posix
def test_sidecar_replaced_and_locked_by_somebody_else(tmp_path: Path, lock: SidecarLock) -> None:
    lock.enter(1)
    assert lock.acquire(1)
    os.unlink(lock.path)

    with held_by_another_process(tmp_path / ".__app.lock"):
        assert not lock.check_place(0.1)
        assert isinstance(lock.take_trouble(), LockTimeoutError)
    let_go(lock)

    assert lock.enter(1)
    assert lock.acquire(1)
    let_go(lock)


def test_content_is_kept(lock: SidecarLock) -> None:
    """The timed handler's next rollover time, as CLH writes it."""
    Path(lock.path).write_text("1700000000")
    lock.enter(1)
    assert lock.acquire(1)
    assert lock.read() == b"1700000000"
    lock.write(b"17")
    assert lock.read() == b"17"
    let_go(lock)
    lock.close()
    lock.enter(1)
    assert lock.acquire(1)
    let_go(lock)

    assert Path(lock.path).read_text() == "17"


@posix
def test_lock_directory_is_made_again(tmp_path: Path) -> None:
    handler = Strict(tmp_path / "app.log", lock_file_directory=tmp_path / "locks")
    write(handler, "one")
    handler.close()

    shutil.rmtree(tmp_path / "locks")
    write(handler, "two")

    assert contents(tmp_path) == {"app.log": "one\ntwo\n"}
    assert (tmp_path / "locks" / ".__app.lock").exists()


def test_descriptor_closed_under_us(lock: SidecarLock) -> None:
    lock.enter(1)
    assert lock.acquire(1)
    theirs = reopened(lock.fd, Path(os.devnull), os.O_RDWR)

    let_go(lock)
    lock.enter(1)
    assert lock.acquire(1)
    assert not free(Path(lock.path))
    let_go(lock)

    os.fstat(theirs)
    os.close(theirs)
    assert free(Path(lock.path))


# -- fork ---------------------------------------------------------------------


@linux
def test_child_has_no_copy_of_the_lock(tmp_path: Path) -> None:
    """An `flock` lives as long as any copy of its description: one in an idle child blocks everybody for good."""
    handler = Strict(tmp_path / "app.log")
    write(handler, "one")

    in_a_fork(lambda: _assert_not_open(tmp_path / ".__app.lock"))


def _assert_not_open(*paths: Path) -> None:
    assert not set(map(str, paths)) & set(open_paths())


@linux
def test_child_forked_inside_a_rotation_has_no_copy_of_any_lock(tmp_path: Path) -> None:
    """A `rotator` that starts a process: sidecar and directory are locked at that moment."""
    handler = Strict(tmp_path / "app.log", maxBytes=10, backupCount=2)

    def rotator(source: str, target: str) -> None:
        in_a_fork(lambda: _assert_not_open(tmp_path / ".__app.lock", tmp_path))
        os.rename(source, target)

    handler.rotator = rotator
    write(handler, "aaaa", "bbbb")

    assert contents(tmp_path) == {"app.log": "bbbb\n", "app.log.1": "aaaa\n"}


@posix
def test_idle_child_does_not_keep_the_lock_of_a_parent_that_died(tmp_path: Path) -> None:
    """The parent is killed while it holds the lock; the child that it had forked just then lives on."""
    idle, release = os.pipe()
    parent = os.fork()
    if not parent:
        try:
            handler = Strict(tmp_path / "app.log", maxBytes=10, backupCount=2)
            write(handler, "aaaa")

            def rotator(source: str, target: str) -> None:
                if not os.fork():
                    os.close(release)
                    os.read(idle, 1)
                    os._exit(0)
                os.kill(os.getpid(), signal.SIGKILL)

            handler.rotator = rotator
            write(handler, "bbbb")
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(parent, 0)[1]) == -signal.SIGKILL
    try:
        handler = Strict(tmp_path / "app.log", maxBytes=10, backupCount=2, lock_timeout=3)
        write(handler, "cccc")
    finally:
        os.close(release)
        os.close(idle)

    assert contents(tmp_path) == {"app.log": "cccc\n", "app.log.1": "aaaa\n"}


@posix
def test_fork_while_another_thread_logs(tmp_path: Path) -> None:
    """It never lands in the middle of a step: the child's locks are free and its files whole."""
    handler = Strict(tmp_path / "app.log", maxBytes=500, backupCount=200)
    stop = threading.Event()
    counts = {"thread": 0}

    def work() -> None:
        while not stop.is_set():
            write(handler, f"thread {counts['thread']}")
            counts["thread"] += 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for number in range(15):
            in_a_fork(lambda number=number: write(handler, f"child {number}"), seconds=10)  # type: ignore[misc]
    finally:
        stop.set()
        thread.join(10)

    lines = "".join(contents(tmp_path).values()).splitlines()
    kept = [line for line in lines if line.startswith("child")]
    assert sorted(kept) == sorted(f"child {number}" for number in range(15)) or len(lines) > 5000
    assert all(line.split()[0] in ("child", "thread") and len(line.split()) == 2 for line in lines)


@posix
def test_processes_exclude_each_other(tmp_path: Path) -> None:
    """Each adds one to a number in the sidecar, many times; a second one inside would lose some."""
    path = tmp_path / ".__app.lock"
    path.write_text("0")
    children = []
    for _ in range(3):
        pid = os.fork()
        if not pid:
            status = 1
            try:
                lock = lock_for(str(path), Access())
                for _ in range(100):
                    lock.enter(20)
                    assert lock.acquire(20)
                    lock.write(str(int(lock.read()) + 1).encode())
                    let_go(lock)
                status = 0
            finally:
                os._exit(status)
        children.append(pid)

    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0, 0]
    assert path.read_text() == "300"


# -- locks on directories and backups -----------------------------------------


@posix
def test_directory_lock_excludes_others(tmp_path: Path) -> None:
    with directory_lock(str(tmp_path), 1) as held:
        assert held

        def other() -> None:
            with directory_lock(str(tmp_path), 0.1) as also_held:
                assert also_held is False

        in_a_fork(other)
    with directory_lock(str(tmp_path), 1) as held:
        assert held


@posix
def test_interrupt_at_any_line_leaves_the_directory_free(tmp_path: Path) -> None:
    """Otherwise nobody would rotate any more for as long as the interrupted process lives."""

    def interrupted_at(line: int) -> bool:
        seen = 0

        def trace(frame: Any, event: str, arg: object) -> Any:
            nonlocal seen
            if event == "line" and frame.f_code.co_filename != __file__:
                seen += 1
                if seen == line:
                    raise KeyboardInterrupt
            return trace

        sys.settrace(trace)
        try:
            with directory_lock(str(tmp_path), 1):
                pass
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(None)
        return False

    # CPython 3.11 and later may think for the rest of a thread that it handles what was handled at an interrupt.
    with ThreadPoolExecutor(1) as thread:
        line = 1
        while thread.submit(interrupted_at, line).result(SECONDS):
            gc.collect()  # PyPy ends a generator that nobody has no sooner
            with directory_lock(str(tmp_path), 0) as held:
                assert held, f"still locked after an interrupt at line {line}"
            line += 1
    assert line > 30


def test_directory_that_is_gone_is_no_reason_to_wait(tmp_path: Path) -> None:
    with directory_lock(str(tmp_path / "gone"), 10) as held:
        assert held is None


@linux
def test_lock_on_a_file_is_not_inherited(tmp_path: Path) -> None:
    path = tmp_path / "app.log.1"
    path.touch()
    fd = os.open(path, os.O_RDWR)
    assert lock_file_now(fd) is True

    in_a_fork(lambda: _assert_not_open(path))
    assert not free(path)
    unlock_file(fd)

    assert free(path)


def test_waiting_tries_at_least_once_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wait_for(lambda: True, 0)
    assert not wait_for(lambda: False, 0)
    start = time.monotonic()
    assert not wait_for(lambda: False, 0.05)
    assert 0.04 < time.monotonic() - start < 3


def test_waiting_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """It must not burn a processor that the holder needs."""
    slept = []
    real = time.sleep
    monkeypatch.setattr(_platform, "sleep", lambda seconds: (slept.append(seconds), real(seconds)))
    used = time.process_time()

    assert not wait_for(lambda: False, 0.3)

    assert max(slept) <= 0.02
    assert time.process_time() - used < 0.25


# -- taking turns ---------------------------------------------------------------


def test_who_waits_gets_the_lock_within_as_many_turns_as_there_are_threads(tmp_path: Path) -> None:
    """A thread that logs without pause takes a re-entrant lock again before any that waits is awake."""
    handler = Recording(tmp_path / "app.log", lock_timeout=10)
    order: list[int] = []
    stop = threading.Event()

    class Noting(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            order.append(threading.get_ident())  # with the thread lock held
            return "x"

    handler.setFormatter(Noting())

    def busy() -> None:
        while not stop.is_set():
            handler.handle(a_record("x"))

    threads = [threading.Thread(target=busy) for _ in range(4)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        until = time.monotonic() + 20
        while len(set(order)) < 4 and time.monotonic() < until:
            time.sleep(0.01)
        begin = len(order)
        assert handler._lock.enter(20), "this thread waits for its turn"
        turns = len(order) - begin
        handler._lock.rlock.release()
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)
        sys.setswitchinterval(before)

    assert not any(thread.is_alive() for thread in threads)
    assert turns <= 12, "those that stood in line already, and one each that was past the look at the line"
    assert handler.failures == []


def test_time_out_is_for_a_holder_that_does_not_let_go(tmp_path: Path) -> None:
    """Eight threads at a tenth of a processor: each waits longer than the time-out, while others get on."""
    handler = Recording(tmp_path / "app.log", lock_timeout=1.0)

    class Slow(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            time.sleep(0.16)
            return super().format(record)

    handler.setFormatter(Slow())
    threads = [
        threading.Thread(target=write, args=(handler, *(f"{each}-{number}" for number in range(3))))
        for each in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert handler.failures == []
    written = (tmp_path / "app.log").read_text().split()
    assert sorted(written) == sorted(f"{each}-{number}" for each in range(8) for number in range(3))


@posix
def test_signal_handler_in_a_thread_that_stands_in_line(tmp_path: Path) -> None:
    """It goes past the line: its own thread cannot move before it is done."""
    handler = Recording(tmp_path / "app.log", lock_timeout=10)
    taken, go_on, logged = threading.Event(), threading.Event(), threading.Event()

    def hold() -> None:
        handler.acquire()
        taken.set()
        go_on.wait(20)
        handler.release()

    def log(*_: object) -> None:
        go_on.set()
        write(handler, "from the signal handler")
        logged.set()

    thread = threading.Thread(target=hold)
    thread.start()
    assert taken.wait(20)
    previous = signal.signal(signal.SIGALRM, log)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        start = time.monotonic()
        write(handler, "in line")
        waited = time.monotonic() - start
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        go_on.set()
    thread.join(20)

    assert logged.is_set()
    assert waited < 8
    assert sorted((tmp_path / "app.log").read_text().splitlines()) == ["from the signal handler", "in line"]
    assert handler.failures == []


@posix
def test_out_of_descriptors_is_what_a_rotation_reports(tmp_path: Path) -> None:
    """And not that there is no lock on the directory."""
    handler = Recording(tmp_path / "app.log", maxBytes=10, backupCount=2)
    write(handler, "aaaa")
    import resource

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (handler._lock.fd + 1, limits[1]))
    fillers = []
    try:
        with contextlib.suppress(OSError):
            while True:
                fillers.append(os.open("/dev/null", os.O_RDONLY))
        write(handler, "bbbb")
    finally:
        for fd in fillers:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    ((text, error),) = handler.failures
    assert text == "bbbb"
    assert isinstance(error, OSError)
    assert error.errno == errno.EMFILE
    assert contents(tmp_path) == {"app.log": "aaaa\nbbbb\n"}
