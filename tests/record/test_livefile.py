"""The live file: the one at its path, a whole append or none, a torn tail sealed, never somebody else's file."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from concurrent_log_handler._access import Access
from concurrent_log_handler._record import _disk, _livefile
from concurrent_log_handler._record._livefile import LiveFile
from handler_support import (
    Strict,
    a_live_file,
    a_record,
    contents,
    files_at_most,
    in_a_fork,
    open_paths,
    reopened,
    run_program,
    write,
)

posix = pytest.mark.skipif(os.name == "nt", reason="not on Windows")


def append(live: LiveFile, text: str) -> None:
    live.append(live.text.encode(text), live.look())


# -- open, and still the right one --------------------------------------------


def test_look_creates_and_measures(tmp_path: Path) -> None:
    live = a_live_file(tmp_path)

    assert live.look() == 0
    append(live, "one\n")

    assert live.look() == 4
    assert contents(tmp_path) == {"app.log": "one\n"}


@posix  # Windows replaces no file that is open
def test_file_renamed_away_is_not_followed(tmp_path: Path) -> None:
    live = a_live_file(tmp_path)
    append(live, "one\n")

    os.rename(tmp_path / "app.log", tmp_path / "app.log.1")
    append(live, "two\n")
    (tmp_path / "other").write_text("three\n")
    os.replace(tmp_path / "other", tmp_path / "app.log")
    append(live, "four\n")

    assert contents(tmp_path) == {"app.log": "three\nfour\n", "app.log.1": "one\n"}


def test_file_truncated_by_somebody_else(tmp_path: Path) -> None:
    """logrotate's copytruncate."""
    live = a_live_file(tmp_path)
    append(live, "one\n")

    os.truncate(tmp_path / "app.log", 0)
    append(live, "two\n")

    assert contents(tmp_path) == {"app.log": "two\n"}


def test_missing_directory_is_made(tmp_path: Path) -> None:
    append(a_live_file(tmp_path / "a" / "b"), "one\n")

    assert contents(tmp_path) == {"a/b/app.log": "one\n"}


def test_only_the_same_inode_is_reused_without_a_second_open(tmp_path: Path) -> None:
    live = a_live_file(tmp_path)
    append(live, "one\n")
    fd = live.fd

    append(live, "two\n")

    assert live.fd == fd
    assert live.identity() == ((tmp_path / "app.log").stat().st_dev, (tmp_path / "app.log").stat().st_ino)


@posix
def test_file_that_another_process_replaced_is_left_also_while_the_interpreter_ends(tmp_path: Path) -> None:
    """Nothing can be imported any more then."""
    run_program(
        """
        import os
        from pathlib import Path
        from handler_support import a_live_file

        class Session:
            def __init__(self):
                self.live = a_live_file(Path.cwd())
                self.myself = self

            def log(self, data):
                self.live.append(data, self.live.look())

            def __del__(self):
                self.log(b"two\\n")

        session = Session()
        session.log(b"one\\n")
        os.rename("app.log", "app.log.1")
        Path("app.log").touch()
        """,
        tmp_path,
    )

    assert contents(tmp_path) == {"app.log": "two\n", "app.log.1": "one\n"}


# -- descriptors that others closed -------------------------------------------


@posix
def test_descriptor_closed_under_us(tmp_path: Path) -> None:
    live = a_live_file(tmp_path)
    append(live, "one\n")

    os.close(live.fd)
    append(live, "two\n")

    assert contents(tmp_path) == {"app.log": "one\ntwo\n"}


@posix
@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_RDWR | os.O_APPEND])
def test_descriptor_that_is_somebody_elses_by_now(tmp_path: Path, flags: int) -> None:
    """Neither written to nor closed."""
    live = a_live_file(tmp_path)
    append(live, "one\n")

    theirs = reopened(live.fd, tmp_path / "theirs", flags | os.O_CREAT)
    append(live, "two\n")
    live.close()

    os.write(theirs, b"still open\n")
    os.close(theirs)
    assert contents(tmp_path) == {"app.log": "one\ntwo\n", "theirs": "still open\n"}


@posix
def test_descriptor_that_is_somebody_elses_on_the_same_file(tmp_path: Path) -> None:
    """A second logging library on our file: its descriptor is not ours to close."""
    live = a_live_file(tmp_path)
    append(live, "one\n")

    theirs = reopened(live.fd, tmp_path / "app.log", os.O_WRONLY | os.O_APPEND)
    append(live, "two\n")
    live.close()
    append(live, "three\n")

    os.write(theirs, b"theirs\n")
    os.close(theirs)
    assert contents(tmp_path) == {"app.log": "one\ntwo\nthree\ntheirs\n"}


@posix
def test_close_does_not_close_what_is_not_ours(tmp_path: Path) -> None:
    live = a_live_file(tmp_path)
    append(live, "one\n")
    theirs = reopened(live.fd, Path(os.devnull), os.O_RDWR)

    live.close()
    live.close()

    os.fstat(theirs)
    os.close(theirs)


@posix
def test_all_descriptors_of_a_handler_closed_and_reused(tmp_path: Path) -> None:
    """A daemonizer closes all, and opens its own: two of them, so that the lock's number is taken as well."""
    handler = Strict(tmp_path / "app.log", maxBytes=20, backupCount=9)
    write(handler, "one")

    def daemon() -> None:
        os.closerange(3, 64)
        theirs = [os.open(tmp_path / f"theirs{number}", os.O_RDWR | os.O_CREAT) for number in range(30)]
        for number in range(20):
            write(handler, f"record {number:02d}")
        for fd in theirs:
            assert os.fstat(fd).st_size == 0
            os.close(fd)

    in_a_fork(daemon)

    files = contents(tmp_path)
    assert "".join(text for name, text in files.items() if name.startswith("theirs")) == ""
    names = ["app.log"] + [f"app.log.{number}" for number in range(1, 10)]
    lines = "".join(files[name] for name in reversed(names)).splitlines()
    assert lines == [f"record {number:02d}" for number in range(10, 20)]


@posix
def test_files_preserve_keeps_the_stream_usable(tmp_path: Path) -> None:
    """python-daemon closes everything but `handler.stream`."""
    handler = Strict(tmp_path / "app.log", delay=False)
    assert handler.stream is not None
    keep = handler.stream.fileno()

    def daemon() -> None:
        for fd in range(3, 64):
            if fd != keep:
                try:
                    os.close(fd)
                except OSError:
                    pass
        write(handler, "daemon")
        assert handler.stream is not None
        assert handler.stream.fileno() == keep

    in_a_fork(daemon)
    write(handler, "parent")

    assert contents(tmp_path) == {"app.log": "daemon\nparent\n"}


# -- whole or not at all ------------------------------------------------------


@posix
@pytest.mark.parametrize("way", ["append", "append_apart"])
def test_write_cut_short_is_taken_back_and_the_file_systems_own_error_reported(
    tmp_path: Path, way: str
) -> None:
    """`ulimit -f`: not "no space", which sends people to look at their disks."""
    live = a_live_file(tmp_path)
    append(live, "one\n")

    def again() -> None:
        if way == "append":
            append(live, "two\n")
        else:
            live.append_apart(b"two\n")

    message = f"{os.strerror(errno.EFBIG)}: only 2 of 4 bytes could be written; they were taken back"
    with files_at_most(6), pytest.raises(OSError, match=message) as raised:
        again()

    assert raised.value.errno == errno.EFBIG
    assert raised.value.filename == str(tmp_path / "app.log")
    assert contents(tmp_path) == {"app.log": "one\n"}
    append(live, "three\n")
    assert contents(tmp_path) == {"app.log": "one\nthree\n"}


@posix
def test_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    live = a_live_file(tmp_path)
    append(live, "one\n")

    with files_at_most(4), pytest.raises(OSError, match="File too large"):
        append(live, "two\n")

    assert contents(tmp_path) == {"app.log": "one\n"}


@posix
def test_byte_order_mark_is_taken_back_with_its_record(tmp_path: Path) -> None:
    live = a_live_file(tmp_path, "utf-16")

    with files_at_most(6), pytest.raises(OSError, match=r"File too large.*taken back"):
        append(live, "two\n")
    append(live, "a\n")

    assert contents(tmp_path, "utf-16") == {"app.log": "a\n"}


@posix
def test_byte_order_mark_of_a_stream_is_whole_or_not_there(tmp_path: Path) -> None:
    live = a_live_file(tmp_path, "utf-16")
    live.look()

    with files_at_most(1), pytest.raises(OSError, match=r"File too large.*taken back"):
        live.stream()

    assert contents(tmp_path) == {"app.log": ""}


@posix
@pytest.mark.parametrize("way", ["append", "append_apart"])
def test_seal_cut_short_is_taken_back(tmp_path: Path, way: str) -> None:
    live = a_live_file(tmp_path, "utf-32-le")
    torn = "half".encode("utf-32-le")
    (tmp_path / "app.log").write_bytes(torn)

    with files_at_most(len(torn) + 2), pytest.raises(OSError, match=r"File too large.*taken back"):
        append(live, "next\n") if way == "append" else live.append_apart(b"n\0\0\0")

    assert (tmp_path / "app.log").read_bytes() == torn


@posix
def test_rest_of_a_write_that_finds_room_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody deletes something in that moment; and descriptor and end stay known."""
    live = a_live_file(tmp_path)
    append(live, "one\n")
    fd, put = live.fd, _livefile.append_to
    cut = [2, 1, 100]

    for room in (_livefile, _disk):
        monkeypatch.setattr(
            room, "append_to", lambda fd, data, offset: put(fd, data[: cut.pop(0) if cut else 100], offset)
        )
    append(live, "two\n")
    append(live, "three\n")

    assert contents(tmp_path) == {"app.log": "one\ntwo\nthree\n"}
    assert live.end == len("one\ntwo\nthree\n")
    assert live.fd == fd


@posix
def test_write_cut_short_on_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    """Nothing can be taken back there; the reason is told all the same."""
    live = a_live_file(tmp_path)
    live._access = Writing()
    append(live, "one\n")

    with files_at_most(6), pytest.raises(OSError, match=r"File too large: only 2 of 4 bytes.*they stay"):
        append(live, "two\n")

    assert contents(tmp_path) == {"app.log": "one\ntw"}


class Writing(Access):
    """A user who may write the log and not read it (root may always)."""

    def open(self, path: str, flags: int) -> int:
        if flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, "not to be read", path)
        return super().open(path, flags)


def test_nothing_is_added_to_a_write_cut_short_behind_which_somebody_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record that another process wrote behind ours without the lock, in the same moment."""
    live = a_live_file(tmp_path)
    append(live, "one\n")

    def put(fd: int, data: bytes, offset: int) -> int:
        os.write(fd, data[:2])
        with open(tmp_path / "app.log", "ab") as other:
            other.write(b"theirs\n")
        return 2

    monkeypatch.setattr(_livefile, "append_to", put)
    with pytest.raises(OSError, match="only 2 of 4 bytes could be written; they stay"):
        append(live, "two\n")

    assert contents(tmp_path) == {"app.log": "one\ntwtheirs\n"}


# -- a torn tail --------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "terminator", "torn", "sealed"),
    [
        ("utf-8", "\n", "half", "half\n"),
        ("utf-8", "\n", "whole\n", "whole\n"),
        ("utf-8", "\0", "half", "half\0"),
        ("utf-8", "\0", "other\n", "other\n"),
        ("utf-8", "", "no end", "no end"),
        ("utf-16-le", "\n", "half", "half\n"),
        ("utf-32-le", "\n", "half", "half\n"),
    ],
)
@pytest.mark.parametrize("way", ["append", "append_apart"])
def test_torn_record_is_sealed_not_glued(
    tmp_path: Path, encoding: str, terminator: str, torn: str, sealed: str, way: str
) -> None:
    live = a_live_file(tmp_path, encoding, terminator)
    (tmp_path / "app.log").write_bytes(torn.encode(encoding))
    data = live.text.encode("next" + terminator)

    if way == "append":
        live.append(data, live.look())
    else:
        live.append_apart(data)

    assert (tmp_path / "app.log").read_bytes().decode(encoding) == sealed + "next" + terminator


@pytest.mark.parametrize("cut", [1, 2, 3, 5])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-32-le", "utf-16"])
def test_record_torn_inside_a_character(tmp_path: Path, encoding: str, cut: int) -> None:
    """Without padding, everything behind it would be unreadable."""
    live = a_live_file(tmp_path, encoding)
    (tmp_path / "app.log").write_bytes("begin\nhalf".encode(encoding)[:-cut])

    append(live, "next\n")

    lines = (tmp_path / "app.log").read_bytes().decode(encoding, "replace").split("\n")
    assert lines[0] == "begin"
    assert lines[2:] == ["next", ""]


def test_tail_that_another_process_left_while_we_had_the_file_open(tmp_path: Path) -> None:
    live = a_live_file(tmp_path)
    append(live, "one\n")
    with open(tmp_path / "app.log", "a") as other:
        other.write("half a rec")

    append(live, "two\n")
    append(live, "three\n")

    assert contents(tmp_path) == {"app.log": "one\nhalf a rec\ntwo\nthree\n"}


@pytest.mark.slow
@settings(max_examples=60)
@given(st.lists(st.one_of(st.text("ab\n", max_size=9), st.binary(max_size=3)), max_size=12))
@example([b"<"])
def test_each_record_begins_a_line_whatever_others_write(tmp_path_factory: Any, steps: list[Any]) -> None:
    """Text is a record of ours, bytes are what a stranger appends."""
    directory = tmp_path_factory.mktemp("torn")
    live = a_live_file(directory)
    ours = []
    for step in steps:
        if isinstance(step, bytes):
            with open(directory / "app.log", "ab") as other:
                other.write(step)
        else:
            ours.append(f"<ours {len(ours)} {step}>".replace("\n", "/"))
            append(live, ours[-1] + "\n")

    if steps:
        lines = (directory / "app.log").read_bytes().split(b"\n") if (directory / "app.log").exists() else []
        assert [line for line in lines if line.startswith(b"<ours ")] == [each.encode() for each in ours]


# -- apart --------------------------------------------------------------------


def test_append_apart_keeps_no_descriptor(tmp_path: Path) -> None:
    live = a_live_file(tmp_path)
    live.append_apart(b"one\n")
    live.append_apart(b"two\n")

    assert live.fd == -1
    if os.path.exists("/proc/self/fd"):
        assert str(tmp_path / "app.log") not in open_paths()
    assert contents(tmp_path) == {"app.log": "one\ntwo\n"}


def test_append_apart_in_the_middle_of_an_append(tmp_path: Path) -> None:
    """A signal handler logs between our look and our write: its record stays, ours comes behind it."""
    live = a_live_file(tmp_path)
    append(live, "one\n")
    size = live.look()
    live.append_apart(b"inside\n")
    live.append(b"outside\n", size)
    append(live, "two\n")

    assert contents(tmp_path) == {"app.log": "one\ninside\noutside\ntwo\n"}


@posix
def test_append_apart_to_a_file_without_a_name_ends(tmp_path: Path) -> None:
    """`/dev/stderr` may lead to a file that was deleted long ago: one copy is written, not one after the other."""
    if not os.path.exists("/proc/self/fd"):
        pytest.skip("looks into /proc")
    fd = os.open(tmp_path / "deleted", os.O_RDWR | os.O_CREAT)
    os.unlink(tmp_path / "deleted")
    live = a_live_file(Path("/proc/self/fd"), name=str(fd))

    def once() -> None:
        with files_at_most(100):
            live.append_apart(b"once\n")

    in_a_fork(once, seconds=5)
    size = os.fstat(fd).st_size
    os.close(fd)

    assert len(b"once\n") <= size <= 3 * len(b"once\n")


# -- the stream ---------------------------------------------------------------


def test_stream_is_the_same_while_the_file_is(tmp_path: Path) -> None:
    live = a_live_file(tmp_path)
    assert live.stream() is None
    append(live, "one\n")
    stream = live.stream()

    append(live, "two\n")
    assert live.stream() is stream
    os.rename(tmp_path / "app.log", tmp_path / "moved")
    append(live, "three\n")
    assert live.stream() is not stream
    live.close()
    assert live.stream() is None


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_stream_is_named_as_the_standard_librarys(tmp_path: Path, encoding: str) -> None:
    """Programs tell by its name which file a handler has, and show its mode."""
    (tmp_path / "stdlib").mkdir()
    theirs = logging.FileHandler(tmp_path / "stdlib" / "app.log", encoding=encoding)
    ours = Strict(tmp_path / "app.log", encoding=encoding, delay=False)
    assert theirs.stream is not None
    assert ours.stream is not None

    assert theirs.stream.name == str(tmp_path / "stdlib" / "app.log")
    assert ours.stream.name == str(tmp_path / "app.log")
    assert ours.stream.mode == theirs.stream.mode == "a"
    assert ours.stream.buffer.name == str(tmp_path / "app.log")
    write(ours, "one")
    assert ours.stream.name == str(tmp_path / "app.log")
    theirs.close()


def test_stream_and_records_keep_their_order(tmp_path: Path) -> None:
    live = a_live_file(tmp_path)
    for number in range(5):
        append(live, f"record {number}\n")
        stream = live.stream()
        assert stream is not None
        stream.write(f"stream {number}\n")

    assert contents(tmp_path)["app.log"] == "".join(f"record {n}\nstream {n}\n" for n in range(5))


@posix
def test_pipe_is_written_without_measuring(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "app.log")
    reader = os.open(tmp_path / "app.log", os.O_RDONLY | os.O_NONBLOCK)
    live = a_live_file(tmp_path)

    append(live, "one\n")
    append(live, "two\n")

    assert not live.regular
    assert os.read(reader, 100) == b"one\ntwo\n"
    os.close(reader)


def test_record_of_every_size_is_whole(tmp_path: Path) -> None:
    handler = Strict(tmp_path / "app.log")
    sizes = [0, 1, 4095, 4096, 65536, 1_000_000]

    handler.emit_batch([a_record("%s", "x" * size) for size in sizes])
    for size in sizes:
        write(handler, "y" * size)

    assert [len(line) for line in contents(tmp_path)["app.log"].split("\n")] == [*sizes, *sizes, 0]


@pytest.mark.parametrize("apart", [False, True])
def test_record_cut_inside_a_unit_is_sealed_though_it_seems_to_end_in_a_line_feed(
    tmp_path: Path, apart: bool
) -> None:
    """Half of one UTF-16 unit and half of the next read like a line feed."""
    torn = "cut \u0a05\u0100".encode("utf-16-le")[:-1]
    (tmp_path / "app.log").write_bytes("first\n".encode("utf-16-le") + torn)
    live = a_live_file(tmp_path, encoding="utf-16-le")

    data = "second\n".encode("utf-16-le")
    if apart:
        live.append_apart(data)
    else:
        live.append(data, live.look())

    text = (tmp_path / "app.log").read_bytes().decode("utf-16-le")
    assert text.splitlines()[0] == "first"
    assert text.splitlines()[-1] == "second"


@posix
@pytest.mark.parametrize("missing", [False, True])
def test_record_apart_whose_file_is_removed_meanwhile_asks_before_it_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: bool
) -> None:
    """A compressor may have taken it over, and then it would stand there twice."""
    live = a_live_file(tmp_path)
    asked = []
    write_really = os.write

    def write_then_remove(fd: int, data: bytes) -> int:
        written = write_really(fd, data)
        if not asked:
            os.unlink(tmp_path / "app.log")
        return written

    def is_missing(fd: int, data: bytes, size: int) -> bool:
        asked.append((os.fstat(fd).st_nlink, data, size))
        return missing

    monkeypatch.setattr(os, "write", write_then_remove)
    live.append_apart(b"late\n", is_missing)

    assert asked == [(0, b"late\n", 0)]
    assert contents(tmp_path) == ({"app.log": "late\n"} if missing else {})
