"""The chain of numbered backups: what is found of it, in short chains and in long ones, and how it makes room."""

from __future__ import annotations

import gc
import gzip
import os
import sys
import weakref
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concurrent_log_handler import ConcurrentRotatingFileHandler
from concurrent_log_handler._backups import _chains
from concurrent_log_handler._backups._chains import Limits, NumberedChain
from handler_support import Recording, Strict, a_record, contents, write

SHORT, LONG = 10**9, 0


@pytest.fixture(params=[SHORT, LONG], ids=["asked", "listed"])
def way_to_look(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """A long chain is listed, a short one asked for name by name; what is found is the same."""
    monkeypatch.setattr(_chains, "_SHORT", request.param)
    return int(request.param)


def chain(
    directory: Path, limit: int = 5, name: Optional[Callable[[int], str]] = None, beyond: bool = False
) -> NumberedChain:
    def namer(path: str) -> str:
        return path if name is None else name(int(path.rpartition(".")[2]))

    return NumberedChain(str(directory / "app.log"), namer, Limits(limit, age=1.0 if beyond else None), "")


def make(directory: Path, *names: str) -> None:
    for name in names:
        data = f"{name}\n".encode()
        (directory / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)


def room(directory: Path, **more: Any) -> list[tuple[str, str]]:
    """The moves, by the names' ends."""
    target, moves = chain(directory, **more).make_room()
    assert target == str(directory / "app.log.1")
    return [
        (
            os.path.basename(source).removeprefix("app.log."),
            os.path.basename(target or "").removeprefix("app.log."),
        )
        for source, target in moves
    ]


def test_room_is_made_up_to_the_first_free_number(tmp_path: Path, way_to_look: int) -> None:
    make(tmp_path, "app.log.1", "app.log.2.gz", "app.log.3", "app.log.5", "app.log.6")

    assert room(tmp_path) == [("3", "4"), ("2.gz", "3.gz"), ("1", "2")]
    make(tmp_path, "app.log.4")
    assert room(tmp_path) == [("5", ""), ("4", "5"), ("3", "4"), ("2.gz", "3.gz"), ("1", "2")]
    assert room(tmp_path, limit=0)[0] == ("6", "7")


def test_backups_of_one_number_move_together_and_a_twin_goes(tmp_path: Path, way_to_look: int) -> None:
    make(tmp_path, "app.log.1", "app.log.1.gz", "app.log.2", "app.log.2.gz")
    (tmp_path / "app.log.2.gz").write_bytes(gzip.compress(b"app.log.2\n"))

    assert room(tmp_path) == [("2.gz", "3.gz"), ("1", "2"), ("1.gz", "2.gz")]
    assert not (tmp_path / "app.log.2").exists()


@pytest.mark.parametrize("name", ["app.log.3", "app.log.3.gz"])
def test_directory_is_not_moved(tmp_path: Path, way_to_look: int, name: str) -> None:
    make(tmp_path, "app.log.1", "app.log.2", "app.log.4")
    (tmp_path / name).mkdir()

    with pytest.raises(IsADirectoryError, match="a directory stands where a backup belongs") as raised:
        room(tmp_path)
    assert raised.value.filename == str(tmp_path / name)


def test_names_written_in_another_way_than_they_are_listed_are_found(
    tmp_path: Path, way_to_look: int
) -> None:
    make(tmp_path, "app.log.1", "app.log.2.gz", "app.log.3")
    (tmp_path / "sub").mkdir()

    def name(number: int) -> str:
        return f"{tmp_path}/sub/..//app.log.{number}"

    _, moves = chain(tmp_path, name=name).make_room()
    assert [move.source for move in moves] == [name(3), name(2) + ".gz", name(1)]
    assert chain(tmp_path, name=name).plain() == [name(1), name(3)]


def test_one_name_for_several_backups_is_refused(tmp_path: Path, way_to_look: int) -> None:
    """Each rotation would overwrite the one before."""
    make(tmp_path, "x")

    with pytest.raises(ValueError, match=r"must give each backup of '.*app\.log' a name of its own, got "):
        chain(tmp_path, name=lambda _: str(tmp_path / "x")).make_room()
    with pytest.raises(ValueError, match="a name of its own"):
        chain(tmp_path, name=lambda _: str(tmp_path / "app.log")).make_room()


def test_names_within_the_limit_are_all_named_and_others_only_if_they_are_there(
    tmp_path: Path, way_to_look: int
) -> None:
    make(tmp_path, *[f"app.log.{number}" for number in (2, 4, 9, 50, 90)])

    def numbers(**more: Any) -> list[int]:
        return [int(name.rpartition(".")[2]) for name, _ in chain(tmp_path, limit=3, **more).found()]

    assert numbers() == [1, 2, 3]
    assert numbers(beyond=True) == [1, 2, 3, 4, 9]  # somebody else's files begin behind a wide gap
    assert chain(tmp_path, limit=3, beyond=True).plain() == [
        str(tmp_path / f"app.log.{number}") for number in (2, 4, 9)
    ]


@settings(max_examples=60)
@given(
    there=st.sets(st.tuples(st.integers(1, 9), st.sampled_from(["", ".gz"]))),
    limit=st.integers(0, 9),
    short=st.integers(0, 9),
    beyond=st.booleans(),
)
def test_listing_finds_what_asking_finds(
    tmp_path_factory: Any, there: set[tuple[int, str]], limit: int, short: int, beyond: bool
) -> None:
    directory = tmp_path_factory.mktemp("chain")
    make(directory, "app.log", "app.log.x", *[f"app.log.{number}{suffix}" for number, suffix in there])
    seen = []
    for least in (SHORT, short):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_chains, "_SHORT", least)
            look = chain(directory, limit=limit, beyond=beyond)
            seen.append((look.make_room(), list(look.listed()), look.plain()))

    assert seen[0] == seen[1]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root to be somebody else")
def test_directory_that_may_not_be_read_is_asked_name_by_name(public: Path, way_to_look: int) -> None:
    """Who may enter and write a directory may not be allowed to list it."""
    make(public, "app.log.1", "app.log.2.gz")
    public.chmod(0o733)
    os.seteuid(65534)
    try:
        assert chain(public).plain() == [f"{public}/app.log.1"]
        assert room(public) == [("2.gz", "3.gz"), ("1", "2")]
    finally:
        os.seteuid(0)


def test_long_chain_is_listed_and_not_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand questions under all locks, while everybody who logs waits."""
    make(tmp_path, *[f"app.log.{number}" for number in range(1, 1001)])
    asked = []
    for name in ("stat", "lstat"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda path, *_, real=real, **more: asked.append(path) or real(path, **more)
        )
    handler = Strict(tmp_path / "app.log", maxBytes=10, backupCount=1000)
    write(handler, "aaaa")
    asked.clear()

    write(handler, "bbbbbb")

    assert len(asked) < 100
    assert (tmp_path / "app.log.1").read_text() == "aaaa\n"
    assert (tmp_path / "app.log.1000").read_text() == "app.log.999\n"
    assert not (tmp_path / "app.log.1001").exists()


# -- namers that count --------------------------------------------------------------


class Counting(Strict):
    """Numbers its backups by what lies on the disk, the oldest being 1."""

    def rotation_filename(self, default_name: str) -> str:
        directory, number = Path(self.baseFilename).parent, 1
        while list(directory.glob(f"old.{number:03}.log*")):
            number += 1
        return str(directory / f"old.{number:03}.log")


@pytest.mark.parametrize("options", [{}, {"use_gzip": True}, {"use_gzip": True, "background_gzip": True}])
def test_name_that_counts_by_what_lies_on_the_disk_is_taken_as_it_is(
    tmp_path: Path, options: dict[str, bool]
) -> None:
    """As in CPython: a name that is free needs no other one to move. It is compressed and told of, too."""
    told: list[str] = []
    handler = Counting(tmp_path / "app.log", maxBytes=10, backupCount=3, on_rotated=told.append, **options)

    for number in range(5):
        write(handler, f"record {number}")
        handler._compressor.wait(30)
    handler.close()

    gz = ".gz" if options else ""
    expected = {f"old.{number + 1:03}.log{gz}": f"record {number}\n" for number in range(4)}
    assert contents(tmp_path) == {"app.log": "record 4\n", **expected}
    assert told == [str(tmp_path / name) for name in expected]


def test_name_that_is_the_same_for_all_backups_is_taken_while_it_is_free(tmp_path: Path) -> None:
    handler = Recording(tmp_path / "app.log", maxBytes=10, backupCount=2)
    handler.namer = lambda name: str(tmp_path / "backup")

    write(handler, "aaaa", "bbbb", "cccc")

    assert contents(tmp_path) == {"app.log": "bbbb\ncccc\n", "backup": "aaaa\n"}
    ((text, error),) = handler.failures
    assert text == "cccc"
    assert "a name of its own" in str(error)


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="counts references")
def test_handler_keeps_no_circle_alive(tmp_path: Path) -> None:
    """A handler that is dropped closes its file at once."""
    handler = ConcurrentRotatingFileHandler(tmp_path / "app.log", maxBytes=10, backupCount=3)
    gc.disable()
    try:
        for text in ("aaaa", "bbbb", "cccc"):
            handler.handle(a_record(text))
        gone = weakref.ref(handler)
        del handler
        assert gone() is None
    finally:
        gc.enable()
