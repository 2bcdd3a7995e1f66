"""The callback after a rotation: once for each complete backup, outside all locks, and not forgotten by a crash."""

from __future__ import annotations

import gzip
import os
import pickle
import sys
import threading
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from concurrent_log_handler import ConcurrentRotatingFileHandler, ConcurrentTimedRotatingFileHandler
from concurrent_log_handler._locks._platform import lock_file_now, unlock_file
from handler_support import SECONDS, Recording, Strict, a_record, contents, in_a_fork, open_paths, write
from process_helpers import run_children, run_program

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX")
LINE = "x" * 99
told_here: list[str] = []


def tell(path: str) -> None:
    told_here.append(path)


def marks(directory: Path) -> list[str]:
    return [name for name in os.listdir(directory) if name.endswith(".new")]


class Told:
    """Keeps what it was told: (name at that moment, content at that moment)."""

    def __init__(self) -> None:
        self.of: list[tuple[str, str]] = []

    def __call__(self, path: str) -> None:
        data = Path(path).read_bytes()
        text = (gzip.decompress(data) if path.endswith(".gz") else data).decode()
        self.of.append((os.path.basename(path), text.replace(os.linesep, "\n")))


@pytest.mark.parametrize("use_gzip", [False, True])
@pytest.mark.parametrize("background", [False, True])
def test_each_backup_is_told_of_once(tmp_path: Path, use_gzip: bool, background: bool) -> None:
    told = Told()
    handler = Strict(
        tmp_path / "app.log",
        maxBytes=150,
        backupCount=20,
        use_gzip=use_gzip,
        background_gzip=background,
        on_rotated=told,
    )
    write(handler, *(f"{number:099}" for number in range(8)))
    handler.close()
    assert sorted(text for _, text in told.of) == [f"{number:099}\n" for number in range(7)]
    assert {name.endswith(".gz") for name, _ in told.of} == {use_gzip}
    if not background:
        assert [name for name, _ in told.of] == ["app.log.1" + (".gz" if use_gzip else "")] * 7
    assert marks(tmp_path) == []


@pytest.mark.parametrize("use_gzip", [False, True])
def test_timed_backups_by_their_final_names(tmp_path: Path, use_gzip: bool) -> None:
    told = Told()
    handler = ConcurrentTimedRotatingFileHandler(
        tmp_path / "app.log", "MIDNIGHT", utc=True, maxBytes=150, use_gzip=use_gzip, on_rotated=told
    )
    handler._schedule.clock = lambda: 1_764_072_000.0
    for _ in range(3):
        handler.handle(a_record(LINE))
    handler.close()
    gz = ".gz" if use_gzip else ""
    assert [name for name, _ in told.of] == [f"app.log.2025-11-25{gz}", f"app.log.2025-11-25.1{gz}"]
    assert marks(tmp_path) == []


def test_dotted_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    for name in ("test_on_rotated.tell", "ext://test_on_rotated.tell"):
        handler = Strict(tmp_path / "app.log", maxBytes=150, backupCount=2, on_rotated=name)
        assert handler.on_rotated is sys.modules["test_on_rotated"].tell
        copy = pickle.loads(pickle.dumps(handler))
        assert copy.on_rotated is handler.on_rotated
        handler.close()
        copy.close()


def test_called_outside_every_lock(tmp_path: Path) -> None:
    """Other threads and other processes log while the callback uploads; it may log itself."""
    done = []

    def upload(path: str) -> None:
        assert not handler._lock.mine()
        assert not handler._lock.held
        thread = threading.Thread(target=write, args=(handler, "from another thread"))
        thread.start()
        thread.join(SECONDS)
        assert not thread.is_alive()
        in_a_fork(lambda: write(handler, "from another process"))
        write(handler, "from the callback")
        done.append(path)

    handler = Strict(tmp_path / "app.log", maxBytes=190, backupCount=2, on_rotated=upload)
    write(handler, LINE, LINE)
    assert done == [str(tmp_path / "app.log.1")]
    assert contents(tmp_path)["app.log"].count("from") == 3
    handler.close()


def test_callback_that_logs_so_much_that_it_rotates_ends(tmp_path: Path) -> None:
    told = Told()

    def verbose(path: str) -> None:
        told(path)
        write(handler, LINE)

    handler = Strict(tmp_path / "app.log", maxBytes=150, backupCount=50, on_rotated=verbose)
    write(handler, LINE, LINE)
    assert len(told.of) == 8
    handler.on_rotated = told
    write(handler, LINE)
    assert len(marks(tmp_path)) == 0
    assert len(told.of) == len(contents(tmp_path)) - 1
    handler.close()


def test_error_of_the_callback_goes_to_handle_error_once(tmp_path: Path) -> None:
    def fail(path: str) -> None:
        raise ConnectionError(path)

    handler = Recording(tmp_path / "app.log", maxBytes=150, backupCount=5, on_rotated=fail)
    write(handler, LINE, LINE, LINE)
    assert [type(error) for _, error in handler.failures] == [ConnectionError] * 2
    assert marks(tmp_path) == []
    assert sum(text.count("\n") for text in contents(tmp_path).values()) == 3
    handler.close()


def test_interrupted_callback_is_called_again(tmp_path: Path) -> None:
    told = Told()

    def interrupted(path: str) -> None:
        raise KeyboardInterrupt

    handler = Strict(tmp_path / "app.log", maxBytes=150, backupCount=5, on_rotated=interrupted)
    write(handler, LINE)
    with pytest.raises(KeyboardInterrupt):
        write(handler, LINE)
    assert len(marks(tmp_path)) == 1
    handler.on_rotated = told
    write(handler, LINE)
    assert sorted(name for name, _ in told.of) == ["app.log.1", "app.log.2"]
    assert marks(tmp_path) == []
    handler.close()


def test_nothing_lies_about_without_a_callback(tmp_path: Path) -> None:
    handler = Strict(tmp_path / "app.log", maxBytes=150, backupCount=5)

    def rotate(source: str, target: str) -> None:
        assert set(os.listdir(tmp_path)) <= {"app.log", ".__app.lock", "app.log.1", "app.log.2"}
        os.rename(source, target)

    handler.rotator = rotate
    write(handler, LINE, LINE, LINE)
    handler.close()


def test_rotator_that_copies(tmp_path: Path) -> None:
    told = Told()

    def pack(source: str, target: str) -> None:
        Path(target).write_bytes(gzip.compress(Path(source).read_bytes()))
        os.unlink(source)

    handler = Strict(tmp_path / "app.log", maxBytes=150, backupCount=5, on_rotated=told)
    handler.namer = lambda name: name + ".gz"
    handler.rotator = pack
    write(handler, LINE, LINE, LINE)
    assert [name for name, _ in told.of] == ["app.log.1.gz"] * 2
    assert marks(tmp_path) == []
    handler.close()


def test_mark_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    told = Told()
    handler = Strict(tmp_path / "app.log", maxBytes=150, backupCount=5)
    write(handler, LINE, LINE)
    mark = tmp_path / f".__app.log.{os.stat(tmp_path / 'app.log.1').st_ino:x}.new"
    fd = os.open(mark, os.O_RDWR | os.O_CREAT)
    assert lock_file_now(fd)
    handler.on_rotated = told
    write(handler, LINE)
    assert [name for name, _ in told.of] == ["app.log.1"]
    unlock_file(fd)
    write(handler, LINE)
    assert [name for name, _ in told.of] == ["app.log.1", "app.log.3", "app.log.1"]
    assert marks(tmp_path) == []
    handler.close()


def test_marks_of_backups_that_are_gone_do_not_pile_up(tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / f".__app.log.{number + 0xFFFF0000:x}.new").write_bytes(
            b"" if number % 2 else b"%x" % number
        )
    handler = Strict(tmp_path / "app.log", maxBytes=150, backupCount=1, on_rotated=Told())
    write(handler, LINE)
    assert marks(tmp_path) == []
    handler.close()


def test_backup_that_expired_before_it_was_told_of(tmp_path: Path) -> None:
    told = Told()
    handler = Strict(tmp_path / "app.log", maxBytes=150, max_total_bytes=150, on_rotated=told)
    write(handler, "short", LINE, LINE, "y" * 400, "z")
    assert [text[0] for _, text in told.of] == ["s", "x"]
    assert len(marks(tmp_path)) <= 1, "the new live file may have its inode"
    write(handler, LINE, LINE)
    assert [text[0] for _, text in told.of] == ["s", "x", "z"]
    assert marks(tmp_path) == []
    handler.close()


def test_nothing_stays_open_with_keep_file_open_false(tmp_path: Path) -> None:
    told = Told()
    handler = Strict(
        tmp_path / "app.log",
        maxBytes=150,
        backupCount=5,
        keep_file_open=False,
        on_rotated=told,
        use_gzip=True,
    )
    write(handler, LINE, LINE, LINE)
    assert [name for name, _ in told.of] == ["app.log.1.gz"] * 2
    assert [path for path in open_paths() if path.startswith(str(tmp_path))] == []
    handler.close()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="descriptors are looked up in /proc")
def test_callback_that_closes_all_descriptors_costs_no_stranger_his(tmp_path: Path) -> None:
    strangers = []

    def daemonize(path: str) -> None:
        marked = [fd for fd in map(int, os.listdir("/proc/self/fd")) if is_mark(fd)]
        assert marked
        for fd in marked:
            os.close(fd)
        strangers.extend(os.open(os.devnull, os.O_RDONLY) for _ in range(5))

    def is_mark(fd: int) -> bool:
        try:
            return os.readlink(f"/proc/self/fd/{fd}").endswith(".new")
        except OSError:
            return False

    handler = Strict(tmp_path / "app.log", maxBytes=150, backupCount=5, on_rotated=daemonize)
    write(handler, LINE, LINE, LINE)
    in_a_fork(lambda: [os.fstat(fd) for fd in strangers])
    for fd in strangers:
        os.close(fd)
    assert len(strangers) == 10
    assert marks(tmp_path) == []
    handler.close()


# Each victim has one record in its log, dies in the call that rotates or just after it, and leaves the
# rest to a healthy process.
KILLS = """
steps = Steps()
import gzip, json
from concurrent_log_handler import ConcurrentRotatingFileHandler, ConcurrentTimedRotatingFileHandler

timed, use_gzip = sys.argv[1] == "timed", sys.argv[2] == "gz"

def told(path):
    with open(path, "rb") as file:
        data = file.read()
    fd = os.open("told", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(fd, (gzip.decompress(data) if use_gzip else data)[:100])
    os.close(fd)

def log(handler, number):
    handler.handle(a_record("%099d" % number))

def opened():
    options = dict(maxBytes=150, backupCount=90, use_gzip=use_gzip, on_rotated=told)
    if timed:
        return ConcurrentTimedRotatingFileHandler("app.log", "W0", **options)
    return ConcurrentRotatingFileHandler("app.log", **options)

def victim(step):
    handler = opened()
    log(handler, 0)
    steps.arm(step)
    log(handler, 1)
    steps.armed = False
    os._exit(17 if steps.done < step else 0)

def healthy():
    handler = opened()
    log(handler, 2)
    log(handler, 3)
    handler.close()

for step in range(1, 200):
    os.makedirs(f"../{step}")
    os.chdir(f"../{step}")
    [status] = join(start(lambda: victim(step)))
    assert os.WIFSIGNALED(status) or status >> 8 == 17, status
    run_children(healthy)
    if not os.WIFSIGNALED(status):
        print(step)
        break
"""


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("use_gzip", ["plain", "gz"])
@pytest.mark.parametrize("kind", ["size", "timed"])
def test_killed_after_each_step_every_backup_is_told_of(tmp_path: Path, kind: str, use_gzip: str) -> None:
    """At least once, and no mark stays; nothing is lost or doubled on the way."""
    (tmp_path / "program").mkdir()
    last = int(run_program(KILLS, tmp_path / "program", kind, use_gzip))
    assert last > 15
    for step in range(1, last + 1):
        directory = tmp_path / str(step)
        found = {name: text for name, text in contents(directory).items() if name.startswith("app.log")}
        live = found.pop("app.log").split()
        told = Counter((directory / "told").read_text().split())
        backups = Counter(line for text in found.values() for line in text.split())
        where = f"step {step}: {sorted(os.listdir(directory))}"
        assert set(backups) <= set(told), where
        assert set(backups.values()) == {1}, where
        assert not set(live) & set(backups), where
        assert {f"{number:099}" for number in (0, 2, 3)} <= set(live) | set(backups), where
        assert len(found) <= 4, where
        assert marks(directory) == [], where
        assert [name for name in os.listdir(directory) if name.endswith(".part")] == [], where
    assert set(told.values()) == {1}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("use_gzip", [False, True])
@pytest.mark.parametrize("cls", [ConcurrentRotatingFileHandler, ConcurrentTimedRotatingFileHandler])
def test_many_processes_tell_of_each_backup_once(tmp_path: Path, cls: Any, use_gzip: bool) -> None:
    """The timed handler's names stay; the size handler's may move on while the callback looks."""
    timed = cls is ConcurrentTimedRotatingFileHandler

    def tell_of(path: str) -> None:
        text = os.path.basename(path).encode()
        if timed:
            data = Path(path).read_bytes()
            text = (gzip.decompress(data) if use_gzip else data).split(b"\n")[0][-20:]
        fd = os.open(tmp_path / "told", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(fd, text + b"\n")
        os.close(fd)

    handler = cls(tmp_path / "app.log", maxBytes=1000, backupCount=900, use_gzip=use_gzip, on_rotated=tell_of)

    def work(child: int) -> None:
        write(handler, *(f"{'x' * 80}{child:010}{number:010}" for number in range(200)))

    run_children(*(partial(work, child) for child in range(4)))
    told = (tmp_path / "told").read_text().split()
    backups = {name: text for name, text in contents(tmp_path).items() if name.startswith("app.log.")}
    assert marks(tmp_path) == []
    assert len(told) == len(backups)
    if timed:
        assert sorted(told) == sorted(text.split("\n")[0][-20:] for text in backups.values())
    handler.close()


def test_logging_config_gives_the_error_for_an_unknown_name(tmp_path: Path) -> None:
    import logging.config

    with pytest.raises(ValueError, match="handler 'file'") as caught:
        logging.config.dictConfig(
            {
                "version": 1,
                "handlers": {
                    "file": {
                        "class": "concurrent_log_handler.ConcurrentRotatingFileHandler",
                        "filename": str(tmp_path / "app.log"),
                        "on_rotated": "no.such.function",
                    }
                },
            }
        )
    assert "on_rotated 'no.such.function' cannot be resolved" in str(caught.value.__cause__)


def test_paths_are_those_of_the_moment_oldest_first(tmp_path: Path) -> None:
    """A process died with two backups untold, and another one rotates during the first upload."""
    quiet = Strict(tmp_path / "app.log", maxBytes=150, backupCount=50)
    write(quiet, "first " + LINE, "second " + LINE, "live " + LINE)
    for number in (1, 2):
        inode = os.stat(tmp_path / f"app.log.{number}").st_ino
        (tmp_path / f".__app.log.{inode:x}.new").touch()
    told = []

    def upload(path: str) -> None:
        with open(path) as backup:
            told.append((os.path.basename(path), backup.read().split()[0]))
        if len(told) == 1:
            quiet.doRollover()

    handler = Strict(tmp_path / "app.log", maxBytes=1000, backupCount=50, on_rotated=upload)
    write(handler, "begin")

    assert told == [("app.log.2", "first"), ("app.log.2", "second")]
    assert marks(tmp_path) == []


def test_mark_of_another_handlers_backup_is_left_for_it(tmp_path: Path) -> None:
    """A timed handler and a size handler on one log know each other's backups by no name."""
    (tmp_path / "app.log.2026-01-01").write_text("timed\n")
    mark = tmp_path / f".__app.log.{os.stat(tmp_path / 'app.log.2026-01-01').st_ino:x}.new"
    mark.touch()
    told = Told()

    write(Strict(tmp_path / "app.log", maxBytes=1000, backupCount=5, on_rotated=told), "begin")
    assert marks(tmp_path) == [mark.name]
    (tmp_path / "app.log.2026-01-01").unlink()
    write(Strict(tmp_path / "app.log", maxBytes=1000, backupCount=5, on_rotated=told), "again")

    assert marks(tmp_path) == []
    assert told.of == []


@posix
@pytest.mark.parametrize("kind", ["link", "pipe", "directory"])
def test_something_else_where_a_mark_belongs_is_neither_followed_nor_waited_for(
    tmp_path: Path, kind: str
) -> None:
    told = Told()
    handler = Strict(tmp_path / "app.log", maxBytes=150, backupCount=5, chmod=0o666, on_rotated=told)
    write(handler, LINE)
    secret = tmp_path / "secret"
    secret.write_text("")
    secret.chmod(0o600)
    for name in (f".__app.log.{os.stat(tmp_path / 'app.log').st_ino:x}.new", ".__app.log.1.new"):
        if kind == "link":
            (tmp_path / name).symlink_to(secret)
        elif kind == "pipe":
            os.mkfifo(tmp_path / name)
    if kind == "directory":
        (tmp_path / ".__app.log.1.new").mkdir()

    write(handler, LINE)

    assert secret.stat().st_mode & 0o777 == 0o600
    assert [name for name, _ in told.of] == ["app.log.1"]


@posix
def test_forked_child_looks_at_the_limits_and_tells_with_its_first_record(tmp_path: Path) -> None:
    """gunicorn --preload: the handler was used before the fork."""
    handler = Strict(tmp_path / "app.log", maxBytes=1000, backupCount=5, max_age=3600)
    write(handler, "parent")
    old = tmp_path / "app.log.1"
    old.write_text("old")
    os.utime(old, (1, 1))

    def child() -> None:
        write(handler, "child")
        assert not old.exists()

    in_a_fork(child)


@posix
def test_child_forked_by_the_callback_tells_of_its_own(tmp_path: Path) -> None:
    ours, theirs = os.pipe()

    def upload(path: str) -> None:
        if len(told) == 0:
            told.append(path)
            in_a_fork(lambda: write(handler, LINE))
        else:
            os.write(theirs, b"told")

    told: list[str] = []
    handler = Strict(tmp_path / "app.log", maxBytes=150, backupCount=5, on_rotated=upload)
    write(handler, LINE, LINE)

    os.set_blocking(ours, False)
    assert os.read(ours, 100) == b"told"
    os.close(ours)
    os.close(theirs)
