"""`fsync`: what was acknowledged is on the disk, the names of files too; and nobody waits for somebody else's disk.

Whether the disk has it is told by the system calls, which are recorded: between two of them, everything that no
`fsync` has asked for may be lost in a power cut.
"""

from __future__ import annotations

import errno
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import handler_support
from concurrent_log_handler import ConcurrentRotatingFileHandler, ConcurrentTimedRotatingFileHandler
from concurrent_log_handler._record import _disk
from concurrent_log_handler.patterns import setup_critical_and_background_logging
from handler_support import Recording, Strict, a_record, contents, in_a_fork, open_paths, write
from process_helpers import run_program

linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="forks, pipes, links, looks into /proc"
)


# The disk as a power cut may leave it.  Data are there that were synced; of the changes of names since the
# last sync of the directory, any number may be there, in their order.
POWER_CUT = """
import gzip, stat
from pathlib import Path

class Disk:
    def __init__(self):
        self.calls = []
        self.contents = {}  # of what is synced, by file
        self.files = {}  # by inode: a file of the same inode is another one
        self.names = {}  # path: file, on the disk
        self.pending = []
        self.records = []
        for name in ("rename", "replace", "unlink", "fsync", "fdatasync", "open", "link", "dup", "pwrite"):
            setattr(os, name, self.wrap(name, getattr(os, name)))
        import fcntl
        fcntl.flock = self.wrap("flock", fcntl.flock)

    def wrap(self, name, call):
        def wrapped(*args, **keywords):
            before = os.path.lexists(args[0]) if name == "open" else True
            result = call(*args, **keywords)
            if name == "open" and before:
                return result
            self.note(name, args, result)
            return result
        for support in (os.supports_fd, os.supports_dir_fd, os.supports_follow_symlinks):
            if call in support:
                support.add(wrapped)
        return wrapped

    def note(self, name, args, result):
        where = args[0] if isinstance(args[0], (str, bytes)) else os.readlink(f"/proc/self/fd/{args[0]}")
        self.calls.append((name, os.path.basename(os.fsdecode(where))))
        if name in ("open", "link"):
            path = args[name == "link"]
            file = self.files[os.stat(path).st_ino] = object()
            self.pending.append((None, path, file))
        elif name in ("rename", "replace"):
            self.pending.append((args[0], args[1], None))
        elif name == "unlink":
            self.pending.append((args[0], None, None))
        elif name in ("fsync", "fdatasync"):
            found = os.fstat(args[0])
            if stat.S_ISDIR(found.st_mode):
                for change in self.pending:
                    self.apply(self.names, change)
                self.pending.clear()
            else:
                fd = os.open(f"/proc/self/fd/{args[0]}", os.O_RDONLY)
                self.contents[self.files[found.st_ino]] = os.read(fd, 1 << 20)
                os.close(fd)

    @staticmethod
    def apply(names, change):
        source, target, file = change
        if source is not None:
            file = names.pop(source, None)
        if target is not None:
            names[target] = file

    def acknowledge(self, *records):
        # Whenever the power is cut from now on, they are there.
        self.records += records
        names = dict(self.names)
        for change in [None, *self.pending]:
            if change:
                self.apply(names, change)
            lines = []
            for path, file in names.items():
                if path.endswith(".part"):
                    continue
                data = self.contents.get(file, b"")
                if path.endswith(".gz"):
                    data = gzip.decompress(data) if data else b""
                lines += data.decode().splitlines()
            missing = [each for each in self.records if text_of(*each) not in lines]
            assert not missing, (missing, change, self.calls[-30:])

disk = Disk()
"""


@linux
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_gzip": True},
        {"use_gzip": True, "background_gzip": True},
        {"keep_file_open": False},
        {"chmod": 0o640},
        {"header": "writer number filler checksum"},
    ],
    ids=str,
)
def test_what_was_acknowledged_survives_a_power_cut(tmp_path: Path, options: dict[str, Any]) -> None:
    """Single records and batches over many rotations, looked at whenever a call returns."""
    run_program(
        POWER_CUT
        + f"""
handler = open_log(os.path.abspath("logs/app.log"), maxBytes=400, fsync=True, **{options})
for number in range(60):
    write(handler, "one", [number])
    disk.acknowledge(("one", number))
    if number % 10 == 9:
        batch = [("batch", number * 10 + each) for each in range(10)]
        handler.emit_batch([a_record(text_of(*each)) for each in batch])
        disk.acknowledge(*batch)
    if number % 17 == 16:
        handler.doRollover()
        assert all(target is None for _, target, _ in disk.pending) or {options.get("background_gzip", False)}
        disk.acknowledge()
handler.close()
disk.acknowledge()
assert not handler.failures, handler.failures
assert len(files_of(Path("logs"))) > 15
""",
        tmp_path,
    )


@linux
def test_the_disk_of_these_tests_loses_what_nobody_synced(tmp_path: Path) -> None:
    """The same without `fsync`: each test above can fail."""
    run_program(
        POWER_CUT
        + """
handler = open_log(os.path.abspath("logs/app.log"), fsync=False)
write(handler, "one", [0])
try:
    disk.acknowledge(("one", 0))
except AssertionError:
    pass
else:
    raise SystemExit("the record is there")
""",
        tmp_path,
    )


@linux
@pytest.mark.parametrize("fsync", [False, True])
def test_calls_of_a_record(tmp_path: Path, fsync: bool) -> None:
    """The disk is waited for behind the lock; without the option, there is no call more than ever."""
    output = run_program(
        POWER_CUT
        + f"""
handler = open_log(os.path.abspath("logs/app.log"), fsync={fsync})
for number in range(3):
    disk.calls.clear()
    write(handler, "one", [number])
    print(*[f"{{name}}:{{where}}" for name, where in disk.calls if number])
""",
        tmp_path,
    )

    lock, log = "flock:.__app.lock", "app.log"
    usual = [lock, f"pwrite:{log}", lock]
    with_disk = [lock, f"pwrite:{log}", f"dup:{log}", lock, f"fdatasync:{log}"]
    assert [line.split() for line in output.splitlines()[1:]] == [with_disk if fsync else usual] * 2


@linux
def test_calls_of_a_rotation(tmp_path: Path) -> None:
    """The directory is synced once, after the last rename, and so is the new file; both behind the lock."""
    output = run_program(
        POWER_CUT
        + """
handler = open_log(os.path.abspath("logs/app.log"), maxBytes=30, fsync=True)
for number in range(6):
    disk.calls.clear()
    write(handler, "one", [0])
print(*[f"{name}:{where}" for name, where in disk.calls if name != "open"])
""",
        tmp_path,
    )

    calls = output.split()
    assert calls.count("fsync:logs") == 1
    assert calls[-3:] == ["flock:.__app.lock", "fsync:logs", "fdatasync:app.log"]
    assert calls.index("rename:app.log") < calls.index("fsync:logs")


@linux
def test_a_batch_waits_once_for_each_file(tmp_path: Path) -> None:
    output = run_program(
        POWER_CUT
        + """
handler = open_log(os.path.abspath("logs/app.log"), fsync=True)
handler.emit_batch([a_record(text_of("one", number)) for number in range(50)])
disk.calls.clear()
handler.emit_batch([a_record(text_of("one", number)) for number in range(50, 60)])
print(*[name for name, where in disk.calls])
""",
        tmp_path,
    )

    assert output.split() == ["flock", "pwrite", "dup", "flock", "fdatasync"]


@linux
def test_gz_is_named_on_the_disk_before_the_backup_goes(tmp_path: Path) -> None:
    output = run_program(
        POWER_CUT
        + """
handler = open_log(os.path.abspath("logs/app.log"), fsync=True, use_gzip=True)
write(handler, "one", range(3))
disk.calls.clear()
handler.doRollover()
print(*[f"{name}:{os.path.splitext(where)[1]}" for name, where in disk.calls if name not in ("open", "flock")])
""",
        tmp_path,
    )

    assert output.split() == ["rename:.log", "fsync:", "fsync:.part", "replace:.part", "fsync:", "unlink:.1"]


@pytest.mark.parametrize("kind", [ConcurrentRotatingFileHandler, ConcurrentTimedRotatingFileHandler])
def test_flag_is_a_flag(tmp_path: Path, kind: Any) -> None:
    with pytest.raises(TypeError, match="fsync must be True or False, got 'no'"):
        kind(tmp_path / "app.log", fsync="no")


class Syncs:
    """What was synced, by the paths; a sync may fail, or wait."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self.paths: list[str] = []
        self.error = 0
        self.go = threading.Event()
        self.go.set()
        self.waiting = threading.Event()
        self._sync = _disk._sync_data
        monkeypatch.setattr(_disk, "_sync_data", self)

    def __call__(self, fd: int) -> None:
        number = os.fstat(fd).st_ino
        self.paths += [str(path) for path in self._folder.iterdir() if path.stat().st_ino == number]
        if not self.go.is_set():
            self.waiting.set()
            assert self.go.wait(30)
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        self._sync(fd)


@pytest.fixture
def syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Syncs:
    return Syncs(tmp_path, monkeypatch)


def test_copies_keep_it(tmp_path: Path, syncs: Syncs) -> None:
    write(pickle.loads(pickle.dumps(Strict(tmp_path / "app.log", fsync=True))), "one")

    assert syncs.paths == [str(tmp_path / "app.log")]


def test_timed_handler(tmp_path: Path, syncs: Syncs) -> None:
    write(ConcurrentTimedRotatingFileHandler(tmp_path / "app.log", fsync=True), "one", "two")

    assert syncs.paths == [str(tmp_path / "app.log")] * 2


def test_critical_file_of_the_patterns(tmp_path: Path, syncs: Syncs) -> None:
    logging_set_up = setup_critical_and_background_logging(
        tmp_path / "critical.log",
        tmp_path / "app.log",
        logger="fsync.test",
        critical_options={"fsync": True},
    )
    logging.getLogger("fsync.test").critical("one")
    logging.getLogger("fsync.test").info("two")

    assert syncs.paths == [str(tmp_path / "critical.log")]
    logging_set_up.stop()


@pytest.mark.parametrize("batch", [False, True])
def test_disk_that_fails_is_told_with_each_record_that_is_not_promised(
    tmp_path: Path, syncs: Syncs, batch: bool
) -> None:
    """The record is in the file all the same, once."""
    handler = Recording(tmp_path / "app.log", fsync=True)
    syncs.error = errno.EIO
    for text in ("one", "two"):
        handler.emit_batch([a_record(text)]) if batch else write(handler, text)
    syncs.error = 0
    write(handler, "three")

    assert [(text, getattr(error, "errno", 0)) for text, error in handler.failures] == [
        ("one", errno.EIO),
        ("two", errno.EIO),
    ]
    assert contents(tmp_path) == {"app.log": "one\ntwo\nthree\n"}


@linux
def test_directory_that_cannot_be_synced_is_told_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = Recording(tmp_path / "app.log", fsync=True)
    tried: list[str] = []

    def failing(path: str) -> None:
        tried.append(path)
        if len(tried) < 3:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(_disk, "sync_directory", failing)
    write(handler, "one", "two", "three", "four")

    assert [text for text, _ in handler.failures] == ["one", "two"]
    assert tried == [str(tmp_path)] * 3


def test_others_go_on_while_the_disk_is_waited_for(tmp_path: Path, syncs: Syncs) -> None:
    """Threads and processes write, rotate and close; what is waited for is still the right file."""
    handler = Recording(tmp_path / "app.log", backupCount=3, fsync=True, lock_timeout=20)
    write(handler, "zero")
    syncs.go.clear()
    slow = threading.Thread(target=write, args=(handler, "one"))
    slow.start()
    assert syncs.waiting.wait(30)

    other = Strict(tmp_path / "app.log", backupCount=3, lock_timeout=20)
    write(other, "two")
    other.doRollover()
    program = 'from handler_support import *; write(Strict("app.log", lock_timeout=20), "three")'
    handler_support.run_program(program, tmp_path)
    handler.close()
    assert slow.is_alive()
    syncs.go.set()
    slow.join(30)
    write(handler, "four")

    assert not handler.failures
    assert contents(tmp_path) == {"app.log": "three\nfour\n", "app.log.1": "zero\none\ntwo\n"}
    assert os.name == "nt" or not [path for path in open_paths() if path.endswith("app.log.1")]


@linux
def test_child_forked_meanwhile_keeps_no_descriptor_and_closes_nobody_elses(
    tmp_path: Path, syncs: Syncs
) -> None:
    handler = Recording(tmp_path / "app.log", fsync=True)
    syncs.go.clear()
    slow = threading.Thread(target=write, args=(handler, "one"))
    slow.start()
    assert syncs.waiting.wait(30)

    def child() -> None:
        syncs.go.set()
        log = str(tmp_path / "app.log")
        before = open_paths().count(log)
        write(handler, "two")
        assert before <= 1
        assert open_paths().count(log) == 1

    in_a_fork(child)
    syncs.go.set()
    slow.join(30)

    assert not handler.failures
    assert contents(tmp_path) == {"app.log": "one\ntwo\n"}


@linux
def test_signal_handlers_record_is_on_the_disk_when_its_call_returns(tmp_path: Path, syncs: Syncs) -> None:
    """It interrupts a record of the same thread, which holds the lock."""
    seen: list[int] = []

    class Interrupted(Strict):
        def shouldRollover(self, record: logging.LogRecord) -> bool:
            signal.raise_signal(signal.SIGUSR1)
            return False

    def on_signal(*_: object) -> None:
        write(handler, "inner")
        seen.append(len(syncs.paths))

    handler = Interrupted(tmp_path / "app.log", fsync=True)
    before = signal.signal(signal.SIGUSR1, on_signal)
    try:
        write(handler, "one")
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert seen == [1]
    assert len(syncs.paths) == 2
    assert contents(tmp_path) == {"app.log": "inner\none\n"}


def test_record_without_the_lock_is_on_the_disk_too(tmp_path: Path, syncs: Syncs) -> None:
    handler = Recording(tmp_path / "app.log", fsync=True, lock_timeout=0)
    program = "import portalocker, sys; file = open(sys.argv[1], 'a'); portalocker.lock(file, portalocker.LOCK_EX); "
    program += "print(flush=True); input()"
    holder = subprocess.Popen(
        [sys.executable, "-c", program, handler.lockFilename], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdout.readline()
    write(handler, "one")
    holder.communicate(b"\n", timeout=30)

    assert len(handler.failures) == 1  # the lock
    assert syncs.paths == [str(tmp_path / "app.log")]


def test_no_descriptor_left_to_wait_with(
    tmp_path: Path, syncs: Syncs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(fd: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    handler = Strict(tmp_path / "app.log", fsync=True)
    write(handler, "one")
    monkeypatch.setattr(os, "dup", none_left)
    write(handler, "two")

    assert syncs.paths == [str(tmp_path / "app.log")] * 2


@linux
def test_no_descriptor_leaks(tmp_path: Path) -> None:
    handler = Strict(tmp_path / "app.log", maxBytes=30, backupCount=3, fsync=True, use_gzip=True)
    write(handler, "one")

    def ours() -> list[str]:
        return sorted(path for path in open_paths() if path.startswith(str(tmp_path)))

    before = ours()
    for number in range(20):
        write(handler, f"{number} xxxxxxxxxx")
        handler.emit_batch([a_record(f"{number} {each} xxxxxxxxx") for each in range(5)])

    assert ours() == before


@linux
def test_pipe_has_no_disk(tmp_path: Path, syncs: Syncs) -> None:
    os.mkfifo(tmp_path / "app.log")
    reader = os.open(tmp_path / "app.log", os.O_RDONLY | os.O_NONBLOCK)
    write(Strict(tmp_path / "app.log", fsync=True), "one")

    assert os.read(reader, 100) == b"one\n"
    assert syncs.paths == []
    os.close(reader)


@linux
def test_file_behind_a_link_has_its_name_synced_in_its_own_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "app.log").symlink_to(tmp_path / "elsewhere" / "real.log")
    synced: list[str] = []
    monkeypatch.setattr(_disk, "sync_directory", synced.append)
    write(Strict(tmp_path / "app.log", fsync=True), "one", "two")

    assert synced == [str(tmp_path), str(tmp_path / "elsewhere")]


@linux
@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.parametrize("options", [{}, {"use_gzip": True}], ids=["plain", "gzip"])
def test_killed_after_each_single_step(memory: Path, options: dict[str, Any]) -> None:
    """The steps that `fsync` adds lose nothing either."""
    run_program(
        f"""
        Steps.NAMES += ("fdatasync", "dup")
        steps = Steps()
        steps.counted &= {{"fsync", "fdatasync", "dup", "rename", "replace", "unlink", "pwrite"}}
        options = dict(maxBytes=200, backupCount=50, fsync=True, **{options})
        def work(handler, acknowledge):
            for number in range(6):
                write(handler, "victim", [number])
                acknowledge(number)
        for numbers, names in killed_after_each_step(steps, lambda: open_log(**options), work):
            check(Path("logs"), {{"victim": numbers, "healthy": range(8)}},
                  perhaps=[("victim", len(numbers))], max_bytes=200)
        assert "fsync" in names
        """,
        memory,
    )
