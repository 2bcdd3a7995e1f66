"""What is kept: the rule itself on plain numbers, then both handlers on a disk."""

from __future__ import annotations

import datetime as dt
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from concurrent_log_handler import (
    ConcurrentRotatingFileHandler,
    ConcurrentTimedRotatingFileHandler,
)
from concurrent_log_handler._backups._chains import Kept, Limits, surplus
from handler_support import Recording, Strict, a_record, contents, write

LINE = "x" * (100 - len(os.linesep))  # a hundred bytes with its line end


def kept(*sizes: int, ages: tuple[float, ...] = ()) -> list[Kept]:
    """Backups of *sizes*, oldest first, last written *ages* before time 1000."""
    whens = ages or tuple(float(len(sizes) - index) for index in range(len(sizes)))
    return [Kept((str(index),), size, 1000 - age) for index, (size, age) in enumerate(zip(sizes, whens))]


def names(going: list[Kept]) -> str:
    return "".join(path for backup in going for path in backup.paths)


# -- the rule -----------------------------------------------------------------------


def test_each_limit_takes_from_the_old_end() -> None:
    backups = kept(10, 10, 10, 10)
    assert names(surplus(backups, Limits())) == ""
    assert names(surplus(backups, Limits(number=3))) == "0"
    assert names(surplus(backups, Limits(number=9))) == ""
    assert names(surplus(backups, Limits(total_bytes=25))) == "01"
    assert names(surplus(backups, Limits(total_bytes=25), besides=10)) == "012"
    assert names(surplus(backups, Limits(total_bytes=25), besides=100)) == "0123"
    assert names(surplus(backups, Limits(age=2.5), now=1000)) == "01"


def test_age_is_the_files_own_wherever_it_stands() -> None:
    backups = kept(10, 10, 10, ages=(1, 9, 1))
    assert names(surplus(backups, Limits(age=5), now=1000)) == "1"
    assert names(surplus(backups, Limits(age=5, number=1), now=1000)) == "10"
    assert names(surplus(backups, Limits(age=5, total_bytes=10), now=1000)) == "10"


@given(
    sizes=st.lists(st.integers(0, 100), max_size=12),
    number=st.integers(0, 12),
    total=st.none() | st.integers(1, 800),
    age=st.none() | st.floats(0.1, 12),
    besides=st.integers(0, 200),
)
def test_what_stays_is_within_the_limits_and_nothing_goes_without_need(
    sizes: list[int], number: int, total: int | None, age: float | None, besides: int
) -> None:
    backups = kept(*sizes)
    limits = Limits(number, total, age)
    going = surplus(backups, limits, 1000, besides)
    staying = [backup for backup in backups if backup not in going]
    assert len(going) + len(staying) == len(backups)
    assert not number or len(staying) <= number
    assert total is None or not staying or besides + sum(backup.size for backup in staying) <= total
    assert age is None or all(1000 - backup.modified <= age for backup in staying)
    if going:
        newest = max(going, key=lambda backup: backup.modified)
        back = [*staying, newest]
        assert (
            (number and len(back) > number)
            or (total is not None and besides + sum(backup.size for backup in back) > total)
            or (age is not None and 1000 - newest.modified > age)
        )


# -- arguments ------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [ConcurrentRotatingFileHandler, ConcurrentTimedRotatingFileHandler])
@pytest.mark.parametrize(
    ("keywords", "error", "text"),
    [
        ({"max_total_bytes": 0}, ValueError, "max_total_bytes must be 1 or more"),
        ({"max_total_bytes": -1}, ValueError, "max_total_bytes must be"),
        ({"max_total_bytes": "much"}, ValueError, "max_total_bytes must be"),
        ({"max_total_bytes": True}, TypeError, "max_total_bytes must be"),
        ({"max_total_bytes": 99, "maxBytes": 100}, ValueError, r"at least maxBytes \(100\)"),
        ({"max_age": 0}, ValueError, "max_age must be"),
        ({"max_age": -1.0}, ValueError, "max_age must be"),
        ({"max_age": dt.timedelta(0)}, ValueError, "max_age must be"),
        ({"max_age": float("nan")}, ValueError, "max_age must be"),
        ({"max_age": "1 day"}, TypeError, "max_age must be"),
        ({"on_rotated": 3}, TypeError, "on_rotated must be a callable"),
        ({"on_rotated": "print"}, ValueError, "on_rotated 'print' cannot be resolved"),
        ({"on_rotated": "no.such.module"}, ValueError, "on_rotated 'no.such.module' cannot be resolved"),
        ({"on_rotated": "os.path.nothing"}, ValueError, "on_rotated 'os.path.nothing' cannot be resolved"),
        ({"on_rotated": "os.sep"}, TypeError, "on_rotated must be a callable"),
    ],
)
def test_bad_values_are_clear_errors(
    tmp_path: Path, cls: type, keywords: dict[str, Any], error: type[Exception], text: str
) -> None:
    keywords = {"backupCount": 1, **keywords}
    with pytest.raises(error, match=text):
        cls(tmp_path / "app.log", **keywords)
    assert os.listdir(tmp_path) == []


def test_limits_may_be_set_after_construction(tmp_path: Path) -> None:
    handler = Strict(tmp_path / "app.log", maxBytes=150, backupCount=9)
    write(handler, *[LINE] * 5)
    handler.max_total_bytes, handler.max_age, handler.on_rotated = (
        "300",
        dt.timedelta(days=1),
        "os.path.basename",
    )
    assert (handler.max_total_bytes, handler.max_age, handler.on_rotated) == (300, 86400.0, os.path.basename)
    write(handler, LINE)
    assert len(contents(tmp_path)) == 4
    with pytest.raises(ValueError, match="max_total_bytes"):
        handler.max_total_bytes = 5
    handler.close()


# -- the size handler -----------------------------------------------------------------


def test_without_a_count_the_chain_has_no_limit_in_number(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        handler = Strict(tmp_path / "app.log", maxBytes=150, max_age=1000)
    write(handler, *(f"{number:099}" for number in range(30)))
    found = contents(tmp_path)
    assert [found.get(f"app.log.{29 - number}", found["app.log"]) for number in range(30)] == [
        f"{number:099}\n" for number in range(30)
    ]
    handler.close()


@pytest.mark.parametrize("use_gzip", [False, True])
def test_total_holds_right_after_a_rotation(tmp_path: Path, use_gzip: bool) -> None:
    class Checked(Strict):
        def doRollover(self) -> None:
            super().doRollover()
            sizes = [path.stat().st_size for path in tmp_path.iterdir() if path.name.startswith("app.log")]
            assert sum(sizes) <= 1000

    handler = Checked(tmp_path / "app.log", maxBytes=250, max_total_bytes=1000, use_gzip=use_gzip)
    write(handler, *(f"{number:099}" for number in range(40)))
    assert handler.num_rollovers == 19
    found = contents(tmp_path)
    newest = [f"{number:099}" for number in range(40)][-sum(text.count("\n") for text in found.values()) :]
    ordered = sorted(found, key=lambda name: -int("".join(filter(str.isdigit, name)) or 0))
    assert "".join(found[name] for name in ordered).split() == newest
    handler.close()


def test_live_file_and_part_files_count(tmp_path: Path) -> None:
    (tmp_path / ".__app.log.abc123.part").write_bytes(b"x" * 700)
    handler = Strict(tmp_path / "app.log", maxBytes=150, max_total_bytes=1000)
    write(handler, *[LINE] * 10)
    assert len([name for name in contents(tmp_path) if name.startswith("app.log.")]) == 3
    handler.close()


def test_old_backups_go_at_a_rotation_and_with_the_first_record(tmp_path: Path) -> None:
    handler = Strict(tmp_path / "app.log", maxBytes=150, backupCount=9, max_age=3600)
    write(handler, *[LINE] * 5)
    os.utime(tmp_path / "app.log.4", (1e9, 1e9))
    write(handler, LINE)
    assert sorted(contents(tmp_path)) == ["app.log", "app.log.1", "app.log.2", "app.log.3", "app.log.4"]
    handler.close()
    os.utime(tmp_path / "app.log.4", (1e9, 1e9))
    os.utime(tmp_path / "app.log", (1e9, 1e9))
    again = Strict(tmp_path / "app.log", backupCount=9, max_age=dt.timedelta(hours=1))
    assert "app.log.4" in contents(tmp_path)
    write(again, "first")
    assert sorted(contents(tmp_path)) == ["app.log", "app.log.1", "app.log.2", "app.log.3"]
    again.close()


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    foreign = {"app.log.20240101", "app.log.old", "app.log.01", "app.log.5.bak", "app.log.999", "app.log2"}
    for name in foreign:
        (tmp_path / name).write_bytes(b"x" * 5000)
        os.utime(tmp_path / name, (1e9, 1e9))
    handler = Strict(tmp_path / "app.log", maxBytes=150, max_total_bytes=400, max_age=10)
    write(handler, *[LINE] * 9)
    assert foreign <= set(os.listdir(tmp_path))
    assert len(contents(tmp_path)) == len(foreign) + 5
    handler.close()


def test_chain_that_became_shorter_is_still_within_the_total(tmp_path: Path) -> None:
    long = Strict(tmp_path / "app.log", maxBytes=150, backupCount=20)
    write(long, *[LINE] * 15)
    long.close()
    short = Strict(tmp_path / "app.log", maxBytes=150, backupCount=3, max_total_bytes=500)
    write(short, LINE, LINE)
    backups = [path for path in tmp_path.iterdir() if path.name.startswith("app.log.")]
    assert sum(path.stat().st_size for path in backups) <= 500
    assert {"app.log.1", "app.log.2", "app.log.3"} <= {path.name for path in backups}
    short.close()


def test_namer_without_a_count(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    handler = Strict(tmp_path / "app.log", maxBytes=150, max_total_bytes=450)
    handler.namer = lambda name: str(tmp_path / "old" / os.path.basename(name)) + ".txt"
    write(handler, *[LINE] * 9)
    assert sorted(os.listdir(tmp_path / "old")) == [f"app.log.{number}.txt" for number in (1, 2, 3, 4)]
    handler.close()


@pytest.mark.skipif(os.name == "nt", reason="permissions of another kind")
def test_deletion_that_fails_costs_no_record_and_is_reported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = Recording(tmp_path / "app.log", maxBytes=150, max_total_bytes=350)
    real = os.unlink

    def refuse(path: Any, *more: Any, **keywords: Any) -> None:
        if "app.log." in str(path):
            raise PermissionError(13, "not yours", path)
        real(path, *more, **keywords)

    monkeypatch.setattr(os, "unlink", refuse)
    write(handler, *[LINE] * 9)
    monkeypatch.undo()
    assert [type(error) for _, error in handler.failures] == [PermissionError]
    assert sum(text.count("\n") for text in contents(tmp_path).values()) == 9
    write(handler, LINE)
    assert len(contents(tmp_path)) == 4
    handler.close()


def test_two_processes_worth_of_handlers_delete_the_same_files(tmp_path: Path) -> None:
    handlers = [Strict(tmp_path / "app.log", maxBytes=150, max_total_bytes=350) for _ in range(2)]
    for _ in range(10):
        for handler in handlers:
            write(handler, LINE)
    assert len(contents(tmp_path)) == 4
    for handler in handlers:
        handler.close()


# -- the timed handler ------------------------------------------------------------------


def test_timed_backups_go_by_total_and_age(tmp_path: Path) -> None:
    for day in range(1, 9):
        path = tmp_path / f"app.log.2025-01-0{day}{'.gz' if day < 3 else ''}"
        path.write_bytes(b"x" * 100)
        os.utime(path, (1_735_700_000 + day * 86400,) * 2)
    handler = ConcurrentTimedRotatingFileHandler(
        tmp_path / "app.log", "MIDNIGHT", max_total_bytes=650, max_age=5.5 * 86400
    )
    handler._schedule.clock = lambda: 1_735_700_000 + 8 * 86400.0
    handler.handle(a_record("first"))
    assert sorted(os.listdir(tmp_path)) == [
        ".__app.lock",
        "app.log",
        *(f"app.log.2025-01-0{day}" for day in range(3, 9)),
    ]
    handler.handle(a_record("y" * 99))
    handler.doRollover()
    left = [
        name for name in sorted(os.listdir(tmp_path)) if name[-10:-4] == "2025-0" and not name.endswith("03")
    ]
    assert left[0] == "app.log.2025-01-04"
    assert sum(os.path.getsize(tmp_path / name) for name in os.listdir(tmp_path) if "app.log" in name) <= 650
    handler.close()


def test_count_age_and_total_together(tmp_path: Path) -> None:
    handler = ConcurrentTimedRotatingFileHandler(
        tmp_path / "app.log", "MIDNIGHT", maxBytes=150, backupCount=5, max_total_bytes=450, max_age=1e6
    )
    for _ in range(12):
        handler.handle(a_record(LINE))
    assert len(contents(tmp_path)) == 1 + 1 + 4  # the lock file with its time, the live file, 400 bytes
    handler.close()


@pytest.mark.parametrize("missing", [[1], [3], [3, 4], [1, 2, 4]])
@pytest.mark.parametrize("use_gzip", [False, True])
def test_gap_in_a_chain_without_a_count_is_closed(tmp_path: Path, missing: list[int], use_gzip: bool) -> None:
    """A kill, an administrator or `max_age` makes one; order and rotation must survive it."""
    handler = Strict(tmp_path / "app.log", maxBytes=10, max_total_bytes="1 MB", use_gzip=use_gzip)
    texts = [f"rec {number:02d}" for number in range(16)]
    write(handler, *texts[:7])
    suffix = ".gz" if use_gzip else ""
    gone = {f"app.log.{number}{suffix}" for number in missing}
    lost = {text for name, text in contents(tmp_path).items() if name in gone}
    for name in gone:
        (tmp_path / name).unlink()

    write(handler, *texts[7:])

    names = ["app.log", *(f"app.log.{number}{suffix}" for number in range(1, 16))]
    kept = [text for text in reversed(texts) if f"{text}\n" not in lost]
    assert contents(tmp_path) == {name: f"{text}\n" for name, text in zip(names, kept)}


def test_limit_of_a_file_stays_below_that_of_all(tmp_path: Path) -> None:
    """Also when it is set later."""
    handler = Strict(tmp_path / "app.log", maxBytes=10, max_total_bytes=100)

    with pytest.raises(ValueError, match="at least maxBytes \\(101\\)"):
        handler.maxBytes = 101

    assert handler.maxBytes == 10


def test_namer_with_one_name_for_all_ends_though_there_is_no_count(tmp_path: Path) -> None:
    handler = Recording(tmp_path / "app.log", maxBytes=10, max_total_bytes=1000)
    handler.namer = lambda name: str(tmp_path / "one")

    write(handler, "aaaa", "bbbb", "cccc", "dddd")

    assert sorted("".join(contents(tmp_path).values()).split()) == ["aaaa", "bbbb", "cccc", "dddd"]
