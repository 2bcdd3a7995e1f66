r"""Files that several processes have open on Windows while they are renamed and deleted: real processes, no pretence.

Runs on Windows, and under Wine by `run.py` beside this file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

from concurrent_log_handler import _files
from handler_support import on_wine
from windows_support import Program

if os.name != "nt":
    pytest.skip("files of Windows", allow_module_level=True)

PRELUDE = """\
from concurrent_log_handler import _files
APPEND = os.O_RDWR | os.O_CREAT
"""


@pytest.fixture
def other(program: Callable[..., Program]) -> Callable[..., Program]:
    """Start another process, and come back when it has stopped for the first time."""

    def start(*arguments: object) -> Program:
        child = program(*arguments)
        child.met()
        return child

    return start


@pytest.fixture
def opened() -> Iterator[Callable[..., int]]:
    """`open_shared`, whose descriptors are closed at the end."""
    fds: list[int] = []

    def open_(path: Path, flags: int = os.O_RDWR | os.O_CREAT, **keywords: Any) -> int:
        fds.append(_files.open_shared(str(path), flags, **keywords))
        return fds[-1]

    yield open_
    for fd in fds:
        try:
            os.close(fd)
        except OSError:  # the test has done so
            pass


# -- renaming --------------------------------------------------------------------


@pytest.mark.parametrize("append_only", [False, True])
def test_file_that_another_process_renames_is_known_to_be_elsewhere(
    tmp_path: Path, opened: Callable[..., int], other: Callable[..., Program], append_only: bool
) -> None:
    """Both have it open; a late write goes into the renamed file, and into no other."""
    path = tmp_path / "app.log"
    fd = opened(path, append_only=append_only)
    os.write(fd, b"one\n")
    place = _files.Place(fd, str(path))
    assert place.size(fd) == 4
    child = other(
        """
        fd = _files.open_shared("app.log", APPEND, append_only=True)
        meet()
        os.rename("app.log", "app.log.1")
        new = _files.open_shared("app.log", APPEND, append_only=True)
        os.write(new, b"new\\n")
        meet()
        """
    )
    assert place.size(fd) == 4
    child.go_on()
    child.met()

    assert place.size(fd) == -1
    os.write(fd, b"late\n")

    assert (tmp_path / "app.log.1").read_bytes() == b"one\nlate\n"
    assert path.read_bytes() == b"new\n"
    assert _files.Place(opened(path), str(path)).size(opened(path)) == 4
    child.end()


def test_file_of_the_same_size_at_the_path_is_not_taken_for_ours(
    tmp_path: Path, opened: Callable[..., int]
) -> None:
    """Windows gives a new file the times of one that had its name a moment ago: size and times prove nothing."""
    path = tmp_path / "app.log"
    fd = opened(path, append_only=True)
    os.write(fd, b"one\n")
    place = _files.Place(fd, str(path))
    os.rename(path, tmp_path / "app.log.1")
    os.write(opened(path), b"two\n")

    assert place.size(fd) == -1


def test_file_renamed_away_and_back_is_ours_again(tmp_path: Path, opened: Callable[..., int]) -> None:
    path = tmp_path / "app.log"
    fd = opened(path)
    place = _files.Place(fd, str(path))
    os.rename(path, tmp_path / "elsewhere")
    assert place.size(fd) == -1

    os.rename(tmp_path / "elsewhere", path)

    assert place.size(fd) == 0


def test_growth_by_another_process_is_seen(
    tmp_path: Path, opened: Callable[..., int], other: Callable[..., Program]
) -> None:
    path = tmp_path / "app.log"
    fd = opened(path, append_only=True)
    place = _files.Place(fd, str(path))
    child = other(
        """
        os.write(_files.open_shared("app.log", APPEND, append_only=True), b"12345")
        meet()
        """
    )

    assert place.size(fd) == os.fstat(fd).st_size == 5
    child.end()


def test_descriptor_that_was_closed_or_is_somebody_elses_is_not_at_the_place(
    tmp_path: Path, opened: Callable[..., int]
) -> None:
    path = tmp_path / "app.log"
    fd = opened(path)
    place = _files.Place(fd, str(path))
    os.close(fd)
    with pytest.raises(OSError):
        place.size(fd)

    assert opened(tmp_path / "theirs") == fd, "the lowest free number"

    assert place.size(fd) == -1


# -- deleting --------------------------------------------------------------------


def test_removed_file_gives_up_its_name_at_once_whoever_has_it_open(
    tmp_path: Path, opened: Callable[..., int], other: Callable[..., Program]
) -> None:
    """An idle process may hold a backup for days; the next one needs the name."""
    path = tmp_path / "app.log.3"
    path.write_bytes(b"old")
    child = other('fd = _files.open_shared("app.log.3", os.O_RDWR)\nmeet()')

    _files.remove(str(path))

    assert not path.exists()
    (tmp_path / "app.log.2").write_bytes(b"newer")
    os.rename(tmp_path / "app.log.2", path)
    child.end()
    assert path.read_bytes() == b"newer"
    assert os.listdir(tmp_path) == ["app.log.3"]


def test_file_that_a_foreign_program_holds_stays_until_it_lets_go(
    tmp_path: Path, opened: Callable[..., int], other: Callable[..., Program]
) -> None:
    """An editor or a viewer shares no deletion: nothing is moved or lost, and writing goes on."""
    path = tmp_path / "app.log"
    fd = opened(path, append_only=True)
    os.write(fd, b"one\n")
    place = _files.Place(fd, str(path))
    child = other('viewer = open("app.log")\nmeet()')

    with pytest.raises(PermissionError) as caught:
        os.rename(path, tmp_path / "app.log.1")
    assert caught.value.winerror == 32
    with pytest.raises(PermissionError) as caught:
        _files.remove(str(path))
    assert caught.value.winerror == 32
    os.write(fd, b"two\n")
    os.close(opened(path, append_only=True))
    assert place.size(fd) == 8
    assert os.listdir(tmp_path) == ["app.log"]

    child.end()
    os.rename(path, tmp_path / "app.log.1")
    assert place.size(fd) == -1
    assert (tmp_path / "app.log.1").read_bytes() == b"one\ntwo\n"


def test_file_that_somebody_shares_with_nobody_cannot_be_opened(
    tmp_path: Path, opened: Callable[..., int], other: Callable[..., Program]
) -> None:
    (tmp_path / "app.log").touch()
    child = other(
        """
        import ctypes
        open_ = ctypes.windll.kernel32.CreateFileW
        assert open_("app.log", 0x80000000, 0, None, 3, 0, None) != -1
        meet()
        """
    )

    with pytest.raises(PermissionError) as caught:
        opened(tmp_path / "app.log")

    assert caught.value.winerror == 32
    assert caught.value.filename == str(tmp_path / "app.log")
    child.end()


# -- writing ---------------------------------------------------------------------


def test_append_only_writes_go_to_the_end_wherever_the_offset_is(
    tmp_path: Path, opened: Callable[..., int]
) -> None:
    """Two handles by turns; the offset stays free for a mark."""
    path = tmp_path / "app.log"
    first, second = opened(path, append_only=True), opened(path, append_only=True)
    os.lseek(first, 1, os.SEEK_SET)
    os.lseek(second, 1_000_000, os.SEEK_SET)

    for number in range(3):
        assert _files.write_at(first, b"a%d " % number, 0) == 3
        assert _files.write_at(second, b"b%d " % number, 0) == 3

    assert path.read_bytes() == b"a0 b0 a1 b1 a2 b2 "
    assert _files.read_at(first, 3, 6) == b"a1 "
    assert os.lseek(first, 0, os.SEEK_CUR) == 1
    assert os.lseek(second, 0, os.SEEK_CUR) == 1_000_000


@pytest.mark.skipif(on_wine, reason="Wine looks for the end and writes in two steps")
def test_append_only_writes_of_several_processes_lose_nothing(
    tmp_path: Path, other: Callable[..., Program]
) -> None:
    """Without any lock: whoever could not wait for it must not overwrite anybody."""
    program = """
        fd = _files.open_shared("app.log", APPEND, append_only=True)
        meet()
        for number in range(2000):
            os.write(fd, f"{sys.argv[1]} {number:05d}\\n".encode())
        """
    children = [other(program, name) for name in "abcd"]
    for child in children:
        child.go_on()
    for child in children:
        child.end()

    lines = (tmp_path / "app.log").read_text().splitlines()

    assert sorted(lines) == sorted(f"{name} {number:05d}" for name in "abcd" for number in range(2000))


def test_what_may_only_append_is_cut_back(tmp_path: Path, opened: Callable[..., int]) -> None:
    """A half-written record is taken back through a handle of its own."""
    fd = opened(tmp_path / "app.log", append_only=True)
    os.write(fd, b"whole\nhal")

    _files.truncate(fd, 6)

    assert os.fstat(fd).st_size == 6
    os.write(fd, b"more\n")
    assert (tmp_path / "app.log").read_bytes() == b"whole\nmore\n"


def test_file_renamed_meanwhile_is_cut_back_and_no_other_one(
    tmp_path: Path, opened: Callable[..., int]
) -> None:
    fd = opened(tmp_path / "app.log", append_only=True)
    os.write(fd, b"whole\nhal")
    os.rename(tmp_path / "app.log", tmp_path / "app.log.1")
    (tmp_path / "app.log").write_bytes(b"another")

    if on_wine:
        with pytest.raises(OSError, match="renamed"):
            _files.truncate(fd, 6)
    else:
        _files.truncate(fd, 6)
        assert (tmp_path / "app.log.1").read_bytes() == b"whole\n"

    assert (tmp_path / "app.log").read_bytes() == b"another"


def test_line_ends_and_control_characters_pass_unchanged(tmp_path: Path, opened: Callable[..., int]) -> None:
    """The C runtime's text mode would make CR LF of LF, and take Ctrl-Z for the end."""
    fd = opened(tmp_path / "app.log", append_only=True)

    os.write(fd, b"a\nb\r\n\x1ac")

    assert _files.read_at(fd, 99, 0) == b"a\nb\r\n\x1ac"


# -- opening ---------------------------------------------------------------------


def test_flags_are_those_of_os_open(tmp_path: Path, opened: Callable[..., int]) -> None:
    path = tmp_path / "app.log"
    with pytest.raises(FileNotFoundError) as caught:
        opened(path, os.O_RDWR)
    assert caught.value.filename == str(path)
    with pytest.raises(FileNotFoundError):
        opened(tmp_path / "missing" / "app.log")
    os.write(opened(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL), b"first")
    with pytest.raises(FileExistsError):
        opened(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    assert os.read(opened(path, os.O_RDONLY), 9) == b"first"
    with pytest.raises(OSError):
        os.write(opened(path, os.O_RDONLY), b"no")
    os.write(opened(path, os.O_RDWR, append_only=True), b" second")
    assert os.read(opened(path, os.O_RDWR | os.O_CREAT), 99) == b"first second"
    with pytest.raises(PermissionError):
        opened(tmp_path, os.O_RDONLY)


def test_children_inherit_nothing(tmp_path: Path, opened: Callable[..., int]) -> None:
    assert not os.get_inheritable(opened(tmp_path / "app.log"))


def test_path_longer_than_windows_admits(tmp_path: Path, opened: Callable[..., int]) -> None:
    folder = tmp_path
    while len(str(folder)) < 400:
        folder /= "x" * 90
        os.mkdir(_files.extended(str(folder)))
    path = folder / "app.log"
    fd = opened(path, append_only=True)
    os.write(fd, b"deep")
    place = _files.Place(fd, str(path))
    assert place.size(fd) == 4

    os.rename(_files.extended(str(path)), _files.extended(f"{path}.1"))

    assert place.size(fd) == -1
    _files.remove(f"{path}.1")
    os.close(fd)
    assert os.listdir(_files.extended(str(folder))) == []


def test_devices(opened: Callable[..., int]) -> None:
    fd = opened(Path("NUL"))

    assert os.write(fd, b"nothing") == 7

    assert _files.is_device(os.path.abspath("NUL"))
    assert not _files.is_device(os.path.abspath("app.log"))


def test_extended_paths() -> None:
    deep = "\\".join(["x" * 100] * 3)
    here = os.getcwd()

    assert _files.extended("C:\\app.log") == "C:\\app.log"
    assert _files.extended("app.log") == "app.log"
    assert _files.extended(f"C:\\{deep}\\app.log") == f"\\\\?\\C:\\{deep}\\app.log"
    assert _files.extended(f"C:/{deep}/y/../app.log") == f"\\\\?\\C:\\{deep}\\app.log"
    assert _files.extended(f"\\\\server\\share\\{deep}") == f"\\\\?\\UNC\\server\\share\\{deep}"
    assert _files.extended(f"//server/share/{deep}") == f"\\\\?\\UNC\\server\\share\\{deep}"
    assert _files.extended(f"\\\\?\\C:\\{deep}") == f"\\\\?\\C:\\{deep}"
    assert _files.extended(deep) == f"\\\\?\\{here}\\{deep}"
    assert _files.extended(f"{here[:2]}{deep}") == f"\\\\?\\{here}\\{deep}", (
        "relative to the drive's directory"
    )


@pytest.mark.skipif(on_wine, reason="Wine does not tell of a file that is deleted")
def test_deleted_file_is_known_to_be_so(
    tmp_path: Path, opened: Callable[..., int], other: Callable[..., Program]
) -> None:
    """Whatever is written to it goes with it."""
    fd = opened(tmp_path / "app.log")
    place = _files.Place(fd, str(tmp_path / "app.log"))
    assert not _files.is_deleted(fd)
    other('os.unlink("app.log")\nmeet()').end()

    assert _files.is_deleted(fd)
    assert place.size(fd) == -1
