"""One backup becomes one `.gz`, outside the lock: complete, or not there."""

from __future__ import annotations

import errno
import gzip
import logging
import os
import shutil
import struct
import subprocess
import threading
import time
import zlib
from pathlib import Path
from typing import Any, Callable

import pytest

from concurrent_log_handler._access import Access
from concurrent_log_handler._backups._jobs import Jobs
from handler_support import (
    Recording,
    Strict,
    after_every_call,
    contents,
    files_at_most,
    in_a_fork,
    on_wine,
    run_program,
    write,
)

try:
    import fcntl
    import pwd
except ImportError:  # Windows
    pass
posix = pytest.mark.skipif(os.name == "nt", reason="fork, pipes, modes and limits of POSIX")
gone_at_once = pytest.mark.skipif(on_wine, reason="Wine removes a file when everybody has closed it")
as_root = pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0, reason="only root may give files away"
)

WhileCompressing = Callable[[Callable[[], Any]], None]


@pytest.fixture
def while_compressing(monkeypatch: pytest.MonkeyPatch) -> WhileCompressing:
    """Do something in the middle of the next compression, with its first data read and nothing written."""
    todo: list[Callable[[], Any]] = []

    class Packer:
        def __init__(self, real: Any) -> None:
            self._real = real

        def compress(self, data: bytes) -> bytes:
            if todo:
                todo.pop()()
            return self._real.compress(data)  # type: ignore[no-any-return]

        def flush(self, *mode: int) -> bytes:
            return self._real.flush(*mode)  # type: ignore[no-any-return]

    real = zlib.compressobj
    monkeypatch.setattr(zlib, "compressobj", lambda *args, **kwargs: Packer(real(*args, **kwargs)))
    return todo.append


def a_handler(directory: Path, kind: type[Strict] = Strict, **more: Any) -> Strict:
    arguments: dict[str, Any] = {"maxBytes": 10, "backupCount": 5, "use_gzip": True, "newline": "\n", **more}
    return kind(directory / "app.log", **arguments)


def a_gz(path: Path, text: str) -> None:
    path.write_bytes(gzip.compress(text.encode()))


# -- what a user gets ---------------------------------------------------------


def test_backups_are_compressed_when_the_rotating_call_returns(tmp_path: Path) -> None:
    handler = a_handler(tmp_path)

    write(handler, "aaaa", "bbbb")
    assert contents(tmp_path) == {"app.log": "bbbb\n", "app.log.1.gz": "aaaa\n"}
    write(handler, "cccc")

    assert contents(tmp_path) == {"app.log": "cccc\n", "app.log.1.gz": "bbbb\n", "app.log.2.gz": "aaaa\n"}


def test_chain_is_limited(tmp_path: Path) -> None:
    write(a_handler(tmp_path, backupCount=2), *"abcdef", "gggg", "hhhh", "iiii", "jjjj")

    assert contents(tmp_path) == {"app.log": "jjjj\n", "app.log.1.gz": "iiii\n", "app.log.2.gz": "hhhh\n"}


def test_rotation_by_hand_compresses_too(tmp_path: Path) -> None:
    handler = a_handler(tmp_path, maxBytes=0)
    write(handler, "aaaa")

    handler.doRollover()

    files = contents(tmp_path)
    assert files.pop("app.log", "") == ""
    assert files == {"app.log.1.gz": "aaaa\n"}


@pytest.mark.parametrize("late", [[], ["late one\n", "late two\n"]], ids=["one member", "three members"])
def test_every_tool_reads_it(tmp_path: Path, late: list[str]) -> None:
    """A member is added for a record that came late."""
    text = "".join(f"line {number} of many\n" for number in range(20_000))
    packed = our_gz(tmp_path / "logs", text, *late)
    text = "".join([text, *late])
    path = tmp_path / "logs" / "app.log.1.gz"

    with gzip.open(path, "rt") as file:
        assert file.read() == text
    assert gzip.decompress(packed).decode() == text
    rest, unpacked = packed, b""
    while rest:
        for wbits in (31, 47):  # gzip only, and whatever it is
            unpacker = zlib.decompressobj(wbits)
            member = unpacker.decompress(rest)
        assert unpacker.eof
        rest, unpacked = unpacker.unused_data, unpacked + member
    assert unpacked.decode() == text
    if not shutil.which("zgrep"):
        return
    for command in (["zcat", path], ["gzip", "-dc", path], ["zgrep", "-h", "", path]):
        done = subprocess.run(command, check=True, timeout=20, capture_output=True)
        assert (done.stdout.decode(), done.stderr) == (text, b"")
    subprocess.run(["gzip", "-t", path], check=True, timeout=20)
    assert path.stat().st_size < len(text) / 3


def test_gz_has_a_mark_of_its_own_in_the_place_that_the_format_keeps_for_that(tmp_path: Path) -> None:
    """RFC 1952: flag FEXTRA, then subfields with an id and a length; nothing else is said, neither time nor name."""
    packed = our_gz(tmp_path / "logs", "text\n")

    method, flags, time, _, _, length = struct.unpack("<2xBBLBBH", packed[:12])
    name, size = struct.unpack("<2sH", packed[12:16])
    assert (method, flags, time) == (8, 4, 0)
    assert (name, packed[16 : 16 + size]) == (b"LH", b"concurrent-log-handler")
    assert length == 4 + size


@posix
def test_modification_time_and_mode_carry_over(tmp_path: Path) -> None:
    """Readers, and retention by age, go by the time of the last record."""
    (tmp_path / "app.log").write_bytes(b"old enough\n")
    (tmp_path / "app.log").chmod(0o640)
    os.utime(tmp_path / "app.log", (1_000_000_000, 1_111_111_111.25))

    write(a_handler(tmp_path), "next")

    found = (tmp_path / "app.log.1.gz").stat()
    assert found.st_mtime == 1_111_111_111.25
    assert found.st_mode & 0o7777 == 0o640


@as_root
def test_owner_carries_over(tmp_path: Path) -> None:
    (tmp_path / "app.log").write_bytes(b"somebody's log\n")
    os.chown(tmp_path / "app.log", 1234, 4321)

    write(a_handler(tmp_path), "next")

    found = (tmp_path / "app.log.1.gz").stat()
    assert (found.st_uid, found.st_gid) == (1234, 4321)


def test_namer_gets_the_name_without_gz(tmp_path: Path) -> None:
    """As in CLH."""
    asked = []

    def namer(name: str) -> str:
        asked.append(name)
        return name + ".old"

    handler = a_handler(tmp_path, backupCount=2)
    handler.namer = namer
    write(handler, "aaaa", "bbbb", "cccc")

    assert contents(tmp_path) == {
        "app.log": "cccc\n",
        "app.log.1.old.gz": "bbbb\n",
        "app.log.2.old.gz": "aaaa\n",
    }
    assert set(asked) == {f"{tmp_path / 'app.log'}.{number}" for number in (1, 2)}


def test_rotator_moves_and_compression_follows(tmp_path: Path) -> None:
    handler = a_handler(tmp_path)
    handler.rotator = lambda source, target: os.rename(source, target)

    write(handler, "aaaa", "bbbb")

    assert contents(tmp_path) == {"app.log": "bbbb\n", "app.log.1.gz": "aaaa\n"}


def test_rotator_that_leaves_nothing_is_fine(tmp_path: Path) -> None:
    handler = a_handler(tmp_path)
    handler.rotator = lambda source, target: os.remove(source)

    write(handler, "aaaa", "bbbb")

    assert contents(tmp_path) == {"app.log": "bbbb\n"}


@posix
def test_memory_stays_flat(tmp_path: Path) -> None:
    with open(tmp_path / "app.log", "wb") as file:
        file.truncate(100_000_000)
        file.seek(0, os.SEEK_END)
        file.write(b"\n")

    used = run_program(
        """
        import logging, resource
        from concurrent_log_handler import ConcurrentRotatingFileHandler
        handler = ConcurrentRotatingFileHandler("app.log", maxBytes=10, backupCount=1, use_gzip=True)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        handler.handle(logging.makeLogRecord({"msg": "next"}))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        """,
        tmp_path,
    )

    assert int(used) < 20_000  # KiB on Linux
    assert sorted(os.listdir(tmp_path)) == [".__app.lock", "app.log", "app.log.1.gz"]


# -- chains that somebody else left -------------------------------------------


def test_gzip_switched_on(tmp_path: Path) -> None:
    """What is still plain is compressed along with the first rotation."""
    write(a_handler(tmp_path, use_gzip=False), "aaaa", "bbbb", "cccc")

    write(a_handler(tmp_path), "dddd")

    assert contents(tmp_path) == {
        "app.log": "dddd\n",
        "app.log.1.gz": "cccc\n",
        "app.log.2.gz": "bbbb\n",
        "app.log.3.gz": "aaaa\n",
    }


def test_gzip_switched_off(tmp_path: Path) -> None:
    write(a_handler(tmp_path), "aaaa", "bbbb", "cccc")

    write(a_handler(tmp_path, use_gzip=False, backupCount=3), "dddd", "eeee")

    assert contents(tmp_path) == {
        "app.log": "eeee\n",
        "app.log.1": "dddd\n",
        "app.log.2": "cccc\n",
        "app.log.3.gz": "bbbb\n",
    }


def test_many_plain_backups_are_compressed_by_one_rotation(tmp_path: Path) -> None:
    for number in range(1, 24):
        (tmp_path / f"app.log.{number}").write_text(f"backup {number}\n")
    (tmp_path / "app.log").write_bytes(b"backup 0\n")

    write(a_handler(tmp_path, backupCount=30), "live")

    assert contents(tmp_path) == {
        "app.log": "live\n",
        **{f"app.log.{number + 1}.gz": f"backup {number}\n" for number in range(24)},
    }


def test_directory_that_clh_left(tmp_path: Path) -> None:
    """Its stray files belong to no chain: they are left alone, since nobody can tell what they hold."""
    (tmp_path / "app.log").write_bytes(b"live of CLH\n")
    a_gz(tmp_path / "app.log.1.gz", "one\n")
    a_gz(tmp_path / "app.log.2.gz", "two\n")
    (tmp_path / ".__app.lock").touch()
    (tmp_path / "app.log.rotate.XQZABCDE").write_bytes(b"stray\n")
    a_gz(tmp_path / "app.log.rotate.ABCDEXQZ.gz", "stray, packed\n")

    write(a_handler(tmp_path, backupCount=2), "next")

    assert contents(tmp_path) == {
        "app.log": "next\n",
        "app.log.1.gz": "live of CLH\n",
        "app.log.2.gz": "one\n",
        "app.log.rotate.XQZABCDE": "stray\n",
        "app.log.rotate.ABCDEXQZ.gz": "stray, packed\n",
    }


def test_plain_twin_of_a_gz_goes(tmp_path: Path) -> None:
    """A compressor was killed just before its last step."""
    (tmp_path / "app.log").write_bytes(b"live\n")
    (tmp_path / "app.log.1").write_bytes(b"once\n")
    a_gz(tmp_path / "app.log.1.gz", "once\n")

    write(a_handler(tmp_path), "nextnext")

    assert contents(tmp_path) == {
        "app.log": "nextnext\n",
        "app.log.1.gz": "live\n",
        "app.log.2.gz": "once\n",
    }


def test_plain_twin_of_a_gz_goes_also_if_the_next_rotation_is_killed_between_the_two(tmp_path: Path) -> None:
    """Under different numbers nobody would know them for twins any more."""
    (tmp_path / "app.log").write_bytes(b"live\n")
    (tmp_path / "app.log.1").write_bytes(b"once\n")
    a_gz(tmp_path / "app.log.1.gz", "once\n")

    def killed_after_one_move() -> None:
        rename = os.rename

        def last(source: str, target: str) -> None:
            rename(source, target)
            os._exit(0)

        os.rename = last  # type: ignore[assignment]
        write(a_handler(tmp_path), "never written")

    in_a_fork(killed_after_one_move)
    write(a_handler(tmp_path), "nextnext")

    assert "".join(contents(tmp_path).values()).count("once") == 1


def test_two_different_backups_of_one_number_both_stay(tmp_path: Path) -> None:
    """CLH leaves them where gzip was switched off: neither may be taken for a copy of the other."""
    (tmp_path / "app.log").write_bytes(b"live\n")
    (tmp_path / "app.log.1").write_bytes(b"plain\n")
    a_gz(tmp_path / "app.log.1.gz", "packed\n")

    write(a_handler(tmp_path), "nextnext")

    assert contents(tmp_path) == {
        "app.log": "nextnext\n",
        "app.log.1.gz": "live\n",
        "app.log.2": "plain\n",
        "app.log.2.gz": "packed\n",
    }


def test_damaged_gz_does_not_cost_the_plain_backup(tmp_path: Path) -> None:
    (tmp_path / "app.log").write_bytes(b"live\n")
    (tmp_path / "app.log.1").write_bytes(b"plain\n")
    packed = gzip.compress(b"plain\n")[:-6]
    (tmp_path / "app.log.1.gz").write_bytes(packed)

    write(a_handler(tmp_path), "nextnext")

    assert (tmp_path / "app.log.2").read_text() == "plain\n"
    assert (tmp_path / "app.log.2.gz").read_bytes() == packed


def test_part_file_of_a_dead_maker_goes(tmp_path: Path) -> None:
    (tmp_path / ".__app.log.1a2b3c.part").write_bytes(b"half of it")

    write(a_handler(tmp_path), "aaaa", "bbbb")

    assert contents(tmp_path) == {"app.log": "bbbb\n", "app.log.1.gz": "aaaa\n"}


@posix
def test_part_file_of_a_living_maker_stays(tmp_path: Path) -> None:
    path = tmp_path / ".__app.log.1a2b3c.part"
    path.write_bytes(b"growing")
    with open(path, "rb+") as maker:
        fcntl.flock(maker, fcntl.LOCK_EX)

        write(a_handler(tmp_path), "aaaa", "bbbb")

    assert contents(tmp_path) == {path.name: "growing", "app.log": "bbbb\n", "app.log.1.gz": "aaaa\n"}


@pytest.mark.parametrize(
    "name",
    [
        ".__app.log.part",
        ".__app.log.xyz.part",
        ".__app.log.1a.part~",
        ".__other.log.1a.part",
        "app.log.1a.part",
    ],
)
def test_files_that_only_look_similar_stay(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not ours\n")

    write(a_handler(tmp_path), "aaaa", "bbbb")

    assert contents(tmp_path) == {name: "not ours\n", "app.log": "bbbb\n", "app.log.1.gz": "aaaa\n"}


@posix
@pytest.mark.parametrize("name", ["app.log.2", "app.log.1.gz", "app.log.2.gz"])
def test_pipe_planted_as_a_backup_blocks_nobody(tmp_path: Path, name: str) -> None:
    """Opening a pipe that nobody writes to waits for ever, with everybody's lock held."""
    (tmp_path / "app.log").write_bytes(b"live\n")
    (tmp_path / "app.log.1").write_bytes(b"plain\n")
    os.mkfifo(tmp_path / name)

    in_a_fork(lambda: write(a_handler(tmp_path, Recording), "nextnext"), seconds=3)

    texts = contents(tmp_path)
    assert texts["app.log"].endswith("nextnext\n")
    assert sorted(text for text in texts.values() if text != "special") in (
        ["live\n", "nextnext\n", "plain\n"],
        ["live\nnextnext\n", "plain\n"],
    )


# -- meanwhile ----------------------------------------------------------------


def test_threads_log_meanwhile(tmp_path: Path, while_compressing: WhileCompressing) -> None:
    handler = a_handler(tmp_path, maxBytes=20)

    def another_thread() -> None:
        thread = threading.Thread(target=write, args=(handler, "meanwhile"))
        thread.start()
        thread.join(10)
        assert not thread.is_alive(), "it waits for the compression"

    while_compressing(another_thread)
    write(handler, "aaaaaaaaaaaaaaa", "bbbb")

    assert contents(tmp_path) == {"app.log": "bbbb\nmeanwhile\n", "app.log.1.gz": "aaaaaaaaaaaaaaa\n"}


def test_processes_log_and_rotate_meanwhile(tmp_path: Path, while_compressing: WhileCompressing) -> None:
    """The backup moves to other numbers while it is compressed, and is found there."""
    handler = a_handler(tmp_path)
    while_compressing(lambda: in_a_fork(lambda: write(a_handler(tmp_path), "cccc", "dddd"), seconds=10))

    write(handler, "aaaa", "bbbb")

    assert contents(tmp_path) == {
        "app.log": "dddd\n",
        "app.log.1.gz": "cccc\n",
        "app.log.2.gz": "bbbb\n",
        "app.log.3.gz": "aaaa\n",
    }


def test_inherited_handler_of_a_child_forked_meanwhile_works(
    tmp_path: Path, while_compressing: WhileCompressing
) -> None:
    handler = a_handler(tmp_path)
    while_compressing(lambda: in_a_fork(lambda: write(handler, "cccc", "dddd"), seconds=10))

    write(handler, "aaaa", "bbbb")

    assert contents(tmp_path) == {
        "app.log": "dddd\n",
        "app.log.1.gz": "cccc\n",
        "app.log.2.gz": "bbbb\n",
        "app.log.3.gz": "aaaa\n",
    }


def test_part_file_is_no_backup_meanwhile(tmp_path: Path, while_compressing: WhileCompressing) -> None:
    """Readers never see half a `.gz` under a backup's name."""
    seen: list[list[str]] = []
    while_compressing(lambda: seen.append(sorted(os.listdir(tmp_path))))

    write(a_handler(tmp_path), "aaaa", "bbbb")

    ((lock, part, *backups),) = seen
    assert lock == ".__app.lock"
    assert part.startswith(".__app.log.")
    assert part.endswith(".part")
    assert backups == ["app.log", "app.log.1"]


def test_backup_that_expires_meanwhile(tmp_path: Path, while_compressing: WhileCompressing) -> None:
    handler = a_handler(tmp_path, backupCount=1)
    while_compressing(
        lambda: in_a_fork(lambda: write(a_handler(tmp_path, backupCount=1), "cccc"), seconds=10)
    )

    write(handler, "aaaa", "bbbb")

    assert contents(tmp_path) == {"app.log": "cccc\n", "app.log.1.gz": "bbbb\n"}


@gone_at_once
def test_backup_that_is_removed_meanwhile(tmp_path: Path, while_compressing: WhileCompressing) -> None:
    while_compressing(lambda: os.remove(tmp_path / "app.log.1"))

    write(a_handler(tmp_path), "aaaa", "bbbb")

    assert contents(tmp_path) == {"app.log": "bbbb\n"}


def test_part_file_that_is_removed_meanwhile_costs_nothing(
    tmp_path: Path, while_compressing: WhileCompressing
) -> None:
    """A cleaner of hidden files, say."""
    handler = a_handler(tmp_path, Recording)
    while_compressing(lambda: [path.unlink() for path in tmp_path.glob(".__*.part")])

    write(handler, "aaaa", "bbbb")
    assert set(contents(tmp_path).values()) == {"aaaa\n", "bbbb\n"}
    write(handler, "cccc")

    assert contents(tmp_path) == {"app.log": "cccc\n", "app.log.1.gz": "bbbb\n", "app.log.2.gz": "aaaa\n"}


def test_directory_that_is_removed_meanwhile(tmp_path: Path, while_compressing: WhileCompressing) -> None:
    import shutil

    (tmp_path / "logs").mkdir()
    handler = a_handler(tmp_path / "logs", Recording)
    while_compressing(lambda: shutil.rmtree(tmp_path / "logs"))

    write(handler, "aaaa", "bbbb", "cccc")

    assert contents(tmp_path)["logs/app.log"] == "cccc\n"


def test_late_writer_is_in_the_gz(tmp_path: Path, while_compressing: WhileCompressing) -> None:
    """Somebody who could not wait for the lock appends to what was just rotated."""

    def append() -> None:
        with open(tmp_path / "app.log.1", "a") as late:
            late.write("late\n")

    while_compressing(append)
    write(a_handler(tmp_path), "aaaa", "bbbb")

    assert contents(tmp_path) == {"app.log": "bbbb\n", "app.log.1.gz": "aaaa\nlate\n"}
    if shutil.which("gzip"):
        subprocess.run(["gzip", "-t", tmp_path / "app.log.1.gz"], check=True, timeout=20)


def test_killed_compressor_costs_only_time(tmp_path: Path, while_compressing: WhileCompressing) -> None:
    def dies() -> None:
        while_compressing(lambda: os._exit(0))
        write(a_handler(tmp_path), "aaaa", "bbbb")

    in_a_fork(dies)
    (part,) = tmp_path.glob(".__*.part")
    assert contents(tmp_path) == {part.name: "", "app.log": "bbbb\n", "app.log.1": "aaaa\n"}
    write(a_handler(tmp_path), "cccc")

    assert contents(tmp_path) == {"app.log": "cccc\n", "app.log.1.gz": "bbbb\n", "app.log.2.gz": "aaaa\n"}


def test_interrupted_compression_costs_only_time(tmp_path: Path, while_compressing: WhileCompressing) -> None:
    """Ctrl-C arrives anywhere."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    handler = a_handler(tmp_path)
    while_compressing(interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(handler, "aaaa", "bbbb")
    assert contents(tmp_path) == {"app.log": "bbbb\n", "app.log.1": "aaaa\n"}

    write(handler, "cccc")

    assert contents(tmp_path) == {"app.log": "cccc\n", "app.log.1.gz": "bbbb\n", "app.log.2.gz": "aaaa\n"}


# -- it does not work ---------------------------------------------------------


@posix
def test_full_disk_leaves_the_plain_backup_for_later(tmp_path: Path) -> None:
    noise = os.urandom(30_000).hex() + "\n"
    (tmp_path / "app.log").write_text(noise)
    handler = a_handler(tmp_path, Recording, maxBytes=100)

    with files_at_most(10_000):
        write(handler, "aaaa", "bbbb")
    assert contents(tmp_path) == {"app.log": "aaaa\nbbbb\n", "app.log.1": noise}
    (failure,) = handler.failures  # type: ignore[attr-defined]
    assert isinstance(failure[1], OSError)
    assert failure[1].errno == errno.EFBIG
    write(handler, "c" * 95)

    assert contents(tmp_path) == {
        "app.log": "c" * 95 + "\n",
        "app.log.1.gz": "aaaa\nbbbb\n",
        "app.log.2.gz": noise,
    }


def test_part_file_that_cannot_be_made(tmp_path: Path) -> None:
    """A directory lies in its place here; a missing permission ends the same way."""
    log = tmp_path / "app.log"
    handler = Recording(log, maxBytes=10, backupCount=2, use_gzip=True)

    write(handler, "aaaa")
    obstacle = tmp_path / f".__app.log.{log.stat().st_ino:x}.part"
    obstacle.mkdir()
    write(handler, "bbbb")

    assert contents(tmp_path) == {"app.log": "bbbb\n", "app.log.1": "aaaa\n", f"{obstacle.name}/": ""}
    assert len(handler.failures) == 1
    obstacle.rmdir()
    write(handler, "cccc")
    assert contents(tmp_path) == {"app.log": "cccc\n", "app.log.1.gz": "bbbb\n", "app.log.2.gz": "aaaa\n"}


@pytest.mark.parametrize("length", [200, 235, 245])
def test_long_names_are_compressed_too(tmp_path: Path, length: int) -> None:
    """The part file's name has a suffix that the log's own name may leave no room for."""
    name = "x" * length
    handler = Strict(tmp_path / name, maxBytes=10, backupCount=2, use_gzip=True, on_rotated=str)

    write(handler, "aaaa", "bbbb")

    assert contents(tmp_path) == {name: "bbbb\n", f"{name}.1.gz": "aaaa\n"}


@pytest.mark.parametrize("background", [False, True])
def test_gzip_that_fails_is_reported_once_per_streak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, background: bool
) -> None:
    handler = a_handler(tmp_path, Recording, background_gzip=background)
    with monkeypatch.context() as broken:
        broken.setattr(zlib, "compressobj", lambda *_, **__: (_ for _ in ()).throw(OSError("no gzip today")))
        write(handler, "aaaa", "bbbb", "cccc", "dddd")
        handler.close()
    assert [str(error) for _, error in handler.failures] == ["no gzip today"]  # type: ignore[attr-defined]
    assert contents(tmp_path) == {
        "app.log": "dddd\n",
        "app.log.1": "cccc\n",
        "app.log.2": "bbbb\n",
        "app.log.3": "aaaa\n",
    }

    write(handler, "eeee")
    handler.close()

    assert contents(tmp_path) == {
        "app.log": "eeee\n",
        "app.log.1.gz": "dddd\n",
        "app.log.2.gz": "cccc\n",
        "app.log.3.gz": "bbbb\n",
        "app.log.4.gz": "aaaa\n",
    }


def test_directory_in_place_of_the_gz(tmp_path: Path) -> None:
    (tmp_path / "app.log.1.gz").mkdir()
    handler = a_handler(tmp_path, Recording)

    write(handler, "aaaa", "bbbb")

    assert contents(tmp_path) == {"app.log": "aaaa\nbbbb\n", "app.log.1.gz/": ""}
    assert len(handler.failures) == 1  # type: ignore[attr-defined]


# -- in the background --------------------------------------------------------


def test_background_the_rotating_call_returns_at_once(
    tmp_path: Path, while_compressing: WhileCompressing
) -> None:
    going, may_go_on = threading.Event(), threading.Event()
    handler = a_handler(tmp_path, background_gzip=True)
    while_compressing(lambda: (going.set(), may_go_on.wait(20)))

    write(handler, "aaaa", "bbbb")
    assert going.wait(20)
    (part,) = tmp_path.glob(".__*.part")
    assert contents(tmp_path) == {part.name: "", "app.log": "bbbb\n", "app.log.1": "aaaa\n"}
    write(handler, "cccc")
    may_go_on.set()
    handler.close()

    assert contents(tmp_path) == {"app.log": "cccc\n", "app.log.1.gz": "bbbb\n", "app.log.2.gz": "aaaa\n"}


@pytest.mark.parametrize(
    "wait", [lambda handler: handler.close(), lambda handler: logging.shutdown([lambda: handler])]
)
def test_background_close_and_shutdown_wait(
    tmp_path: Path, while_compressing: WhileCompressing, wait: Callable[[Any], None]
) -> None:
    going, may_go_on = threading.Event(), threading.Event()
    handler = a_handler(tmp_path, background_gzip=True)
    while_compressing(lambda: (going.set(), may_go_on.wait(20)))
    write(handler, "aaaa", "bbbb")
    assert going.wait(20)

    closer = threading.Thread(target=wait, args=(handler,))
    closer.start()
    closer.join(0.05)
    assert closer.is_alive()
    may_go_on.set()
    closer.join(20)

    assert not closer.is_alive()
    assert contents(tmp_path) == {"app.log": "bbbb\n", "app.log.1.gz": "aaaa\n"}


def test_background_logging_goes_on_while_close_waits(
    tmp_path: Path, while_compressing: WhileCompressing
) -> None:
    going, may_go_on = threading.Event(), threading.Event()
    handler = a_handler(tmp_path, background_gzip=True, maxBytes=20)
    while_compressing(lambda: (going.set(), may_go_on.wait(20)))
    write(handler, "aaaaaaaaaaaaaaa", "bbbb")
    assert going.wait(20)
    closer = threading.Thread(target=handler.close)
    closer.start()

    other = threading.Thread(target=write, args=(handler, "meanwhile"))
    other.start()
    other.join(10)
    assert not other.is_alive()
    may_go_on.set()
    closer.join(20)

    assert contents(tmp_path) == {"app.log": "bbbb\nmeanwhile\n", "app.log.1.gz": "aaaaaaaaaaaaaaa\n"}


@pytest.mark.parametrize("end", ["", "logging.shutdown()", "sys.exit(0)", "del handler"])
def test_background_interpreter_exit_waits(tmp_path: Path, end: str) -> None:
    run_program(
        f"""
        import logging, sys
        from concurrent_log_handler import ConcurrentRotatingFileHandler
        with open("app.log", "w") as file:
            file.write("x" * 5_000_000 + "\\n")
        handler = ConcurrentRotatingFileHandler(
            "app.log", maxBytes=10, backupCount=3, use_gzip=True, background_gzip=True)
        handler.handle(logging.makeLogRecord({{"msg": "next"}}))
        {end}
        """,
        tmp_path,
    )

    assert contents(tmp_path) == {"app.log": "next\n", "app.log.1.gz": "x" * 5_000_000 + "\n"}


def test_background_rotation_at_exit_still_compresses(tmp_path: Path) -> None:
    """From `atexit` no thread can be started any more (Python 3.12): it is done there and then."""
    run_program(
        """
        import atexit, logging, sys
        from concurrent_log_handler import ConcurrentRotatingFileHandler
        handler = ConcurrentRotatingFileHandler(
            "app.log", maxBytes=10, backupCount=3, use_gzip=True, background_gzip=True)

        @atexit.register
        def last_words():
            for text in ("aaaa", "bbbb", "cccc"):
                handler.handle(logging.makeLogRecord({"msg": text}))
        """,
        tmp_path,
    )

    assert contents(tmp_path) == {"app.log": "cccc\n", "app.log.1.gz": "bbbb\n", "app.log.2.gz": "aaaa\n"}


def test_background_fork_in_the_middle(tmp_path: Path, while_compressing: WhileCompressing) -> None:
    """The child neither waits for a thread that it does not have nor compresses a second time."""
    going, may_go_on = threading.Event(), threading.Event()
    handler = a_handler(tmp_path, background_gzip=True)
    while_compressing(lambda: (going.set(), may_go_on.wait(20)))
    write(handler, "aaaa", "bbbb")
    assert going.wait(20)

    def child() -> None:
        write(handler, "cccc")
        handler.close()

    in_a_fork(child, seconds=10)
    files = contents(tmp_path)
    assert files["app.log.2"] == "aaaa\n"
    assert files["app.log.1.gz"] == "bbbb\n"
    may_go_on.set()
    handler.close()

    assert contents(tmp_path) == {"app.log": "cccc\n", "app.log.1.gz": "bbbb\n", "app.log.2.gz": "aaaa\n"}


def test_background_thread_is_gone_when_there_is_nothing_to_do(tmp_path: Path) -> None:
    before = threading.active_count()
    handler = a_handler(tmp_path, background_gzip=True)

    write(handler, *[f"{number:04d}" for number in range(30)])
    handler.close()

    until = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < until:
        time.sleep(0.001)
    assert threading.active_count() <= before
    assert contents(tmp_path) == {
        "app.log": "0029\n",
        **{f"app.log.{number}.gz": f"{29 - number:04d}\n" for number in range(1, 6)},
    }


# -- who may read it ----------------------------------------------------------


@posix
@pytest.mark.parametrize("background", [False, True])
def test_chmod_is_never_wider_for_a_moment(tmp_path: Path, background: bool) -> None:
    """Looked at after every single call into the operating system, under a umask that allows all."""
    os.umask(0)
    wider: set[tuple[str, str]] = set()

    def look(step: str) -> None:
        for entry in os.scandir(tmp_path):
            try:
                mode = entry.stat(follow_symlinks=False).st_mode
            except FileNotFoundError:
                continue
            if mode & 0o7777 & ~0o600:
                wider.add((entry.name, step))

    with after_every_call(look):
        handler = a_handler(tmp_path, chmod=0o600, background_gzip=background)
        write(handler, "aaaa", "bbbb", "cccc")
        handler.emit_batch([])
        handler.close()

    assert wider == set()
    assert contents(tmp_path) == {"app.log": "cccc\n", "app.log.1.gz": "bbbb\n", "app.log.2.gz": "aaaa\n"}


@as_root
def test_unprivileged_user_compresses_what_another_owns(public: Path) -> None:
    """He cannot give the `.gz` to the owner; what he may not do must not cost the backup."""
    nobody = pwd.getpwnam("nobody")
    (public / "app.log").write_bytes(b"root's\n")
    (public / "app.log").chmod(0o666)

    def as_nobody() -> None:
        os.setgroups([])
        os.setgid(nobody.pw_gid)
        os.setuid(nobody.pw_uid)
        write(a_handler(public), "nobody's")

    in_a_fork(as_nobody)

    assert contents(public) == {"app.log": "nobody's\n", "app.log.1.gz": "root's\n"}
    assert (public / "app.log.1.gz").stat().st_uid == nobody.pw_uid


@pytest.mark.slow
def test_configuring_again_does_not_wait_for_a_callback_that_waits_for_logging(tmp_path: Path) -> None:
    """`dictConfig` closes handlers under logging's own lock, which the callback's `getLogger` wants."""
    run_program(
        """
        import logging, logging.config, threading, time
        reached = threading.Event()
        def upload(path):
            reached.set()
            time.sleep(0.2)  # until the main thread has logging's lock
            logging.getLogger(f"upload.{path}").info("uploaded")
        def configure(**more):
            options = dict(filename="app.log", maxBytes=1000, backupCount=5, **more)
            handler = {"()": "concurrent_log_handler.ConcurrentRotatingFileHandler", **options}
            logging.config.dictConfig({
                "version": 1, "disable_existing_loggers": False,
                "handlers": {"file": handler}, "root": {"level": "INFO", "handlers": ["file"]},
            })
        configure(use_gzip=True, background_gzip=True, on_rotated=upload)
        for number in range(2):
            logging.info("%d %s", number, "x" * 600)
        assert reached.wait(20)
        started = time.monotonic()
        configure()
        assert time.monotonic() - started < 4
        logging.info("after")
        """,
        tmp_path,
    )

    found = contents(tmp_path)
    assert sorted("".join(found.values()).replace("x" * 600, "").split()) == ["0", "1", "after", "uploaded"]


def full_disk_once(late: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `fsync` find no room from the moment at which *late* has something in it."""
    fsync = os.fsync

    def no_room(fd: int) -> None:
        if late:
            raise OSError(28, "no space left on device")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", no_room)


def test_late_record_that_cannot_be_added_keeps_the_backup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full just when a writer without the lock has added to a backup that is compressed already."""
    handler = a_handler(tmp_path, Recording)
    replace = os.replace
    late: list[int] = []

    def replace_and_add(source: str, target: str) -> None:
        with open(target.removesuffix(".gz"), "a") as backup:
            backup.write("late\n")
        late.append(1)
        replace(source, target)

    monkeypatch.setattr(os, "replace", replace_and_add)
    full_disk_once(late, monkeypatch)
    write(handler, "aaaa", "bbbb")

    assert contents(tmp_path) == {"app.log": "bbbb\n", "app.log.1": "aaaa\nlate\n"}
    assert len(handler.failures) == 1  # type: ignore[attr-defined]


@posix
def test_late_record_that_cannot_be_added_any_more_leaves_the_gz_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It came with the very last step, and the disk is full by then."""
    handler = a_handler(tmp_path, Recording)
    unlink = os.unlink
    late: list[int] = []

    def unlink_and_add(path: str) -> None:
        if path == str(tmp_path / "app.log.1"):
            with open(path, "a") as backup:
                backup.write("late\n")
            late.append(1)
        unlink(path)

    monkeypatch.setattr(os, "unlink", unlink_and_add)
    full_disk_once(late, monkeypatch)
    write(handler, "aaaa", "bbbb")

    assert contents(tmp_path) == {"app.log": "bbbb\n", "app.log.1.gz": "aaaa\n"}
    assert len(handler.failures) == 1  # type: ignore[attr-defined]


def our_gz(directory: Path, *members: str) -> bytes:
    """As this package makes it: one member of the file for each of *members*."""
    directory.mkdir()
    backup = directory / "app.log.1"
    backup.touch()
    job = Jobs(str(directory / "app.log"), Access()).claim([str(backup)])
    assert job is not None
    for text in members:
        with open(backup, "a", newline="\n") as late:
            late.write(text)
        job.compress()
    assert job.publish([str(backup)]) == f"{backup}.gz"
    job.close()
    return Path(f"{backup}.gz").read_bytes()


def gz_of_gzip(text: str) -> bytes:
    """`gzip -n`, as logrotate's users have it: no time, no name."""
    return subprocess.run(
        ["gzip", "-nc"], input=text.encode(), capture_output=True, check=True, timeout=20
    ).stdout


def gz_of_zlib(text: str) -> bytes:
    """As version 1.0.0 did it, and as anybody does who uses zlib."""
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    return packer.compress(text.encode()) + packer.flush()


OTHER_TOOLS = [
    pytest.param(lambda text: gzip.compress(text.encode()), id="gzip.compress"),
    pytest.param(lambda text: gzip.compress(text.encode(), mtime=0), id="gzip.compress of Python 3.14"),
    pytest.param(
        lambda text: gzip.compress(text.encode(), 6, mtime=0), id="the same with zlib's usual level"
    ),
    pytest.param(gz_of_zlib, id="zlib or version 1.0.0"),
    pytest.param(gz_of_gzip, id="gzip -n", marks=pytest.mark.skipif(not shutil.which("gzip"), reason="gzip")),
]


@pytest.mark.parametrize("pack", OTHER_TOOLS)
def test_gz_of_other_tools_that_begins_a_backup_stays(tmp_path: Path, pack: Callable[[str], bytes]) -> None:
    """Two backups of CLH under one number, with the same lines over and over; or a copy that somebody made."""
    handler = a_handler(tmp_path, Strict)
    (tmp_path / "app.log.1").write_text("beat\n" * 3)
    (tmp_path / "app.log.1.gz").write_bytes(pack("beat\n"))
    write(handler, "bbbb", "cccc")

    assert contents(tmp_path)["app.log.2"] == "beat\n" * 3
    assert contents(tmp_path)["app.log.2.gz"] == "beat\n"


@pytest.mark.parametrize("pack", OTHER_TOOLS)
@pytest.mark.parametrize("use_gzip", [True, False])
def test_plain_twin_goes_whoever_packed_the_other(
    tmp_path: Path, pack: Callable[[str], bytes], use_gzip: bool
) -> None:
    """Version 1.0.0 or CLH, killed before the last step: the `.gz` has all of it."""
    (tmp_path / "app.log.1").write_bytes(b"twin\n")
    (tmp_path / "app.log.1.gz").write_bytes(pack("twin\n"))
    write(a_handler(tmp_path, Strict, use_gzip=use_gzip), "bbbb", "cccc")

    files = contents(tmp_path)
    assert files.pop("app.log.1.gz" if use_gzip else "app.log.1") == "bbbb\n"
    assert files == {"app.log": "cccc\n", "app.log.2.gz": "twin\n"}


def test_killed_with_a_late_record_beside_the_finished_gz(tmp_path: Path) -> None:
    """The plain file has more than the `.gz` that was made from it: the next rotation compresses it anew."""
    handler = a_handler(tmp_path, Strict)
    (tmp_path / "app.log.1").write_bytes(b"aaaa\nlate\n")
    (tmp_path / "app.log.1.gz").write_bytes(our_gz(tmp_path / "made", "aaaa\n"))
    shutil.rmtree(tmp_path / "made")
    write(handler, "bbbb", "cccc")

    assert contents(tmp_path) == {
        "app.log": "cccc\n",
        "app.log.1.gz": "bbbb\n",
        "app.log.2.gz": "aaaa\nlate\n",
    }
    assert gzip.decompress((tmp_path / "app.log.2.gz").read_bytes()) == b"aaaa\nlate\n"
