"""What the timed handler's backups are called, and which names it made: the listing is an argument."""

from __future__ import annotations

import calendar
import datetime as dt
import os
import re
import sys
import time
from typing import Optional

import pytest
from calendar_support import MOMENTS, utc
from hypothesis import given, settings
from hypothesis import strategies as st

from concurrent_log_handler._backups._naming import (
    SUFFIXES,
    Backup,
    Namer,
    Naming,
    default_ext_match,
    naming_for,
    next_number,
)

HOME = os.path.abspath(os.path.join(os.sep, "var", "log"))
BASE = os.path.join(HOME, "app.log")


def names_of(backups: list[Backup]) -> list[str]:
    return [name for backup in backups for name in backup.names]


def at_end(path: str) -> str:
    """app.log.2026-11-23 → app.2026-11-23.log"""
    folder, name = os.path.split(path)
    return os.path.join(folder, name.replace("app.log.", "app.", 1) + ".log")


def daily(namer: Optional[Namer] = None, suffix: str = "%Y-%m-%d") -> Naming:
    return naming_for(BASE, suffix, default_ext_match(SUFFIXES["D"]), namer)


FOREIGN = [
    "app.log",
    "app.log.old",
    "app.log2",
    "app.log2.2026-01-01",
    "app.log.1",
    "app.log.gz",
    "app.log.audit",
    "app.log.audit.2026-01-01",
    "app.log.audit.2026-01-01.1.gz",
    "app.log.2026-01-01.bak",
    "app.log.2026-01-01.gz.bak",
    "app.log.2026-01-01.0",
    "app.log.2026-01-01.01",
    "app.log.2026-01-01.-1",
    "app.log.2026-01-01.1.2",
    "app.log.2026-01-01.²",
    "app.log.2026-01-01.1\n",
    "app.log.2026-01-01\n",
    "app.log.2026-01-01.",
    "app.log.2026-01-01_10",
    "app.log.2026-13-01",
    "app.log.2026-02-30",
    "app.log.2026-1-1",
    "app.log.12026-01-01",
    "app.log.٢٠٢٦-01-01",
    "app_log.2026-01-01",
    "xapp.log.2026-01-01",
    "app.2026-01-01.log",
    ".__app.lock",
    ".__app.log.0a1b.part",
]


def test_files_of_others_are_never_listed() -> None:
    assert daily().list_backups([*FOREIGN, "app.log.2026-01-01.gz.gz"]) == []


def test_backups_are_listed_oldest_first_and_plain_and_gz_count_once() -> None:
    listing = [
        "app.log.2026-11-23.10",
        "app.log.2026-11-23.9.gz",
        "app.log.2026-11-23",
        "app.log.2026-11-22.1",
        "app.log.2026-11-22.1.gz",
        "app.log.2025-12-31.gz",
        *FOREIGN,
    ]

    backups = daily().list_backups(listing)

    assert [(backup.text, backup.number, backup.names) for backup in backups] == [
        ("2025-12-31", 0, ("app.log.2025-12-31.gz",)),
        ("2026-11-22", 1, ("app.log.2026-11-22.1", "app.log.2026-11-22.1.gz")),
        ("2026-11-23", 0, ("app.log.2026-11-23",)),
        ("2026-11-23", 9, ("app.log.2026-11-23.9.gz",)),
        ("2026-11-23", 10, ("app.log.2026-11-23.10",)),
    ]
    assert backups[0].stamp == utc("2025-12-31T00:00")


def test_number_pruned_inside_a_period_is_not_used_again() -> None:
    """Otherwise `.1` would be newer than `.2`, and would go before it."""
    backups = daily().list_backups(["app.log.2026-11-23.2.gz", "app.log.2026-11-23.3", "app.log.2026-11-22"])

    assert next_number(backups, "2026-11-23") == 4
    assert next_number(backups, "2026-11-22") == 1
    assert next_number(backups, "2026-11-21") == 0


@pytest.mark.parametrize(
    ("suffix", "old", "new", "foreign"),
    [
        ("%d-%m-%Y", "app.log.31-12-2025.2", "app.log.01-01-2026", "app.log.2026-01-01"),
        ("%Y-%m-%d.log", "app.log.2026-01-01.log", "app.log.2026-01-02.log.1.gz", "app.log.2026-01-01"),
        ("%Y.%m.%d", "app.log.2025.12.31", "app.log.2025.12.31.1", "app.log.2025.12"),
        ("%Y.%m", "app.log.2025.12.3.gz", "app.log.2026.01", "app.log.2025.12.01"),
        ("%Y%m%d", "app.log.20251231", "app.log.20260101", "app.log.202601011"),
        ("%-d.%-m.%Y", "app.log.9.1.2026", "app.log.10.1.2026", "app.log.09.01.2026"),
        ("%b-%d-%Y", "app.log.Dec-31-2025", "app.log.Jan-01-2026", "app.log.Foo-01-2026"),
        ("%G-W%V", "app.log.2025-W52", "app.log.2026-W01", "app.log.2026-W54"),
        ("%Y-week%W", "app.log.2025-week52", "app.log.2026-week00", "app.log.2026-week54"),
        ("%m-%d", "app.log.01-31", "app.log.02-29", "app.log.2026-02-01"),
        ("%Y-%m-%d.gz", "app.log.2026-01-01.gz", "app.log.2026-01-02.gz.gz", "app.log.2026-01-01"),
        ("(%Y)+[%j]", "app.log.(2025)+[365].7", "app.log.(2026)+[001]", "app.log.2026001"),
    ],
)
def test_suffix_of_the_user_is_found_and_ordered_by_its_date(
    suffix: str, old: str, new: str, foreign: str
) -> None:
    if "%-" in suffix and sys.platform == "win32":
        pytest.skip("a form of the C library")

    backups = daily(suffix=suffix).list_backups([new, foreign, old, *FOREIGN])

    assert names_of(backups) == [old, new]


def test_ext_match_of_the_user_decides_with_the_suffix() -> None:
    """The pattern that Python 3.8 had would admit `.bak`; no suffix of ours produces that."""
    listing = [
        "app.log.2026-01-01.bak",
        "app.log.2026-01-02",
        "app.log.2026-01-01",
        "app.log.2026-01-01.1.gz",
    ]

    for pattern in (r"^\d{4}-\d{2}-\d{2}(\.\w+)?$", re.compile(r"\d{4}-\d{2}-\d{2}(\.\w+)?$", re.ASCII)):
        backups = naming_for(BASE, "%Y-%m-%d", pattern).list_backups(listing)
        assert names_of(backups) == ["app.log.2026-01-01", "app.log.2026-01-01.1.gz", "app.log.2026-01-02"]

    only_2027 = naming_for(BASE, "%Y-%m-%d", r"2027-\d\d-\d\d")
    assert only_2027.list_backups(listing) == []


@settings(max_examples=200)
@given(st.sampled_from(sorted(SUFFIXES.values())), MOMENTS, st.integers(0, 99))
def test_standard_suffixes_are_read_as_strptime_reads_them(suffix: str, moment: int, last: int) -> None:
    """They take a shorter way, as a fresh process reads the dates of all backups at once."""
    text = f"{time.strftime(suffix, time.gmtime(moment))[:-2]}{last:02}"
    try:
        expected: Optional[int] = calendar.timegm(time.strptime(text, suffix))
    except ValueError:
        expected = None
    if last in (60, 61) and suffix.endswith("%S"):
        expected = None  # a leap second, which no clock of ours shows

    assert [backup.stamp for backup in daily(suffix=suffix).list_backups([f"app.log.{text}"])] == (
        [] if expected is None else [expected]
    )


def test_every_day_that_has_a_name_is_read_right() -> None:
    """Two thousand years, leap days and all; days that no calendar has are no dates."""
    naming = daily()
    for year in (*range(1896, 2105), 1, 4, 1000, 9999):
        for month in range(14):
            for day in (0, 1, 28, 29, 30, 31, 32):
                backups = naming.list_backups([f"app.log.{year:04}-{month:02}-{day:02}"])
                try:
                    moment = dt.datetime(year, month, day, tzinfo=dt.timezone.utc)
                except ValueError:
                    assert backups == []
                else:
                    assert backups[0].stamp == moment.timestamp()


def test_suffix_that_no_one_can_read_is_ordered_by_its_text() -> None:
    assert names_of(daily(suffix="%H").list_backups(["app.log.09", "app.log.1", "app.log.08.1"])) == [
        "app.log.08.1",
        "app.log.09",
    ]


@pytest.mark.parametrize(
    ("namer", "expected"),
    [
        (
            at_end,
            [
                "app.2025-12-31.log",
                "app.2026-01-01.log.gz",
                "app.2026-01-01.1.log",
                "app.2026-01-01.2.log.gz",
            ],
        ),
        (
            lambda path: path + ".gz",
            [
                "app.log.2025-12-31.gz",
                "app.log.2026-01-01.gz.gz",
                "app.log.2026-01-01.1.gz",
                "app.log.2026-01-01.2.gz.gz",
            ],
        ),
        (
            lambda path: path.replace("log.2", "log-2").replace(".", "_"),
            [
                "app_log-2025-12-31",
                "app_log-2026-01-01.gz",
                "app_log-2026-01-01_1",
                "app_log-2026-01-01_2.gz",
            ],
        ),
        # a namer that drops what it does not know: the number follows its name
        (
            lambda path: path[: len(BASE) + 11] + "-x",
            [
                "app.log.2025-12-31-x",
                "app.log.2026-01-01-x.gz",
                "app.log.2026-01-01-x.1",
                "app.log.2026-01-01-x.2.gz",
            ],
        ),
    ],
    ids=["date inside", "appends .gz", "no points", "drops the number"],
)
def test_namer_decides_what_is_ours(namer: Namer, expected: list[str]) -> None:
    naming = daily(namer)
    made = [
        naming.backup_path("2025-12-31", 0),
        naming.backup_path("2026-01-01", 0) + ".gz",
        naming.backup_path("2026-01-01", 1),
        naming.backup_path("2026-01-01", 2) + ".gz",
    ]
    listing = [os.path.basename(path) for path in made]
    others = ["app.audit.2026-01-01.log", "app.2026-01-01.log.bak", "app.2026-01-01.01.log"]
    others += [name for name in FOREIGN if name != "app.2026-01-01.log"]

    backups = naming.list_backups([*reversed(listing), *others])

    assert names_of(backups) == listing == expected
    assert [(backup.text, backup.number) for backup in backups] == [
        ("2025-12-31", 0),
        ("2026-01-01", 0),
        ("2026-01-01", 1),
        ("2026-01-01", 2),
    ]
    assert next_number(backups, "2026-01-01") == 3


def test_namer_with_a_date_of_its_own_needs_an_ext_match_that_finds_it() -> None:
    """As in CPython: the pattern finds the date, and the namer has to make the same name of it again."""

    def no_dashes(path: str) -> str:
        return os.path.join(HOME, os.path.basename(path).replace("-", ""))

    naming = naming_for(BASE, "%Y-%m-%d", r"(?<!\d)\d{8}(?!\d)", no_dashes)

    backups = naming.list_backups(
        ["app.log.20260102.1", "app.log.20260101", "app.log.20260102", "app.log.2026010"]
    )

    assert names_of(backups) == ["app.log.20260101", "app.log.20260102", "app.log.20260102.1"]


def test_namer_into_another_directory_is_looked_for_there_only() -> None:
    archive = os.path.join(HOME, "archive")
    naming = daily(lambda path: os.path.join(archive, os.path.basename(path)))

    assert naming.backup_directory() == archive
    assert names_of(naming.list_backups(["app.log.2026-01-01"], archive)) == ["app.log.2026-01-01"]
    assert naming.list_backups(["app.log.2026-01-01"]) == []
    assert daily().backup_directory() == HOME
    assert daily().list_backups(["app.log.2026-01-01"], archive) == []


def test_live_file_is_never_a_backup_whatever_its_name_and_the_namer() -> None:
    base = os.path.join(HOME, "app.2026-01-01")
    naming = naming_for(base, "%Y-%m-%d", default_ext_match(SUFFIXES["D"]), lambda path: path[: len(base)])

    assert naming.list_backups(["app.2026-01-01"]) == []


def test_namer_that_fails_on_a_strange_name_leaves_it_alone() -> None:
    def strict(path: str) -> str:
        text = path[len(BASE) + 1 :]
        return f"{BASE}.{dt.datetime.strptime(text, '%Y-%m-%d'):%Y-%m-%d}"

    listing = ["app.log.2026-99-99", "app.log.2026-01-01.bak", "app.log.2026-01-01.7", "app.log.2026-01-01"]

    assert names_of(daily(strict).list_backups(listing)) == ["app.log.2026-01-01"]


@settings(max_examples=200)
@given(
    st.sampled_from(["%Y-%m-%d_%H-%M-%S", "%Y-%m-%d", "%d.%m.%Y", "%G-W%V", "%Y-%m-%d.log"]),
    st.sampled_from([None, at_end, lambda path: path + ".gz"]),
    st.lists(
        st.tuples(MOMENTS, st.integers(0, 12), st.sampled_from([(".gz",), ("",), ("", ".gz")])), max_size=12
    ),
)
def test_whatever_we_name_we_find_again(
    suffix: str, namer: Optional[Namer], made: list[tuple[int, int, tuple[str, ...]]]
) -> None:
    naming = daily(namer, suffix)
    written: dict[tuple[str, int], set[str]] = {}
    for moment, number, endings in made:
        text = time.strftime(suffix, time.gmtime(moment))
        path = os.path.basename(naming.backup_path(text, number))
        written.setdefault((text, number), set()).update(path + ending for ending in endings)
    listing = {name for names in written.values() for name in names}

    backups = naming.list_backups(listing)

    assert sorted(names_of(backups)) == sorted(listing)
    assert {(backup.text, backup.number): set(backup.names) for backup in backups} == written
    assert backups == sorted(backups)


@pytest.mark.parametrize("namer", [None, at_end], ids=["default", "namer"])
def test_a_thousand_backups_are_read_in_milliseconds(namer: Optional[Namer]) -> None:
    """Generous by ten: what must not happen is a pattern compiled, or a date parsed, for each file each time."""
    naming = daily(namer, "%Y-%m-%d_%H-%M-%S")
    listing = [
        os.path.basename(
            naming.backup_path(
                time.strftime(naming.suffix, time.gmtime(utc("2026-11-23T10:00") + hour * 3_600)), 0
            )
        )
        for hour in range(1_000)
    ]
    assert len(naming.list_backups(listing)) == 1_000

    began = time.process_time()
    backups = naming.list_backups(listing)
    took = time.process_time() - began

    assert names_of(backups) == listing
    assert took < (0.03 if namer is None else 0.1)


def test_pattern_of_a_custom_suffix_fits_what_it_produces() -> None:
    assert default_ext_match("%Y%%%b.%-d").fullmatch("2026%Nov.3")
    assert not default_ext_match("%Y-%m").search("12026-01")
    assert default_ext_match("%Y-%m") is default_ext_match("%Y-%m")


@pytest.mark.parametrize("suffix", ["%F", "%F_%T", "%Y-%h-%d", "%FT%R"])
def test_composite_directives_are_read_as_what_they_stand_for(suffix: str) -> None:
    """Else `.1` and `.gz` would be taken for a part of the date, and the newest files for the oldest."""
    naming = daily(suffix=suffix)
    text = time.strftime(suffix, time.gmtime(utc("2026-11-23T10:00")))
    listing = [f"app.log.{text}{more}" for more in (".10", ".2.gz", "", ".bak")]

    backups = naming.list_backups(listing)

    assert [(each.text, each.number) for each in backups] == [(text, 0), (text, 2), (text, 10)]
    assert backups[0].stamp > 0


def test_unknown_directive_takes_no_number_and_no_gz() -> None:
    naming = daily(suffix="%B")

    backups = naming.list_backups(["app.log.November.1.gz", "app.log.November", "app.log.November.2"])

    assert [(each.text, each.number) for each in backups] == [
        ("November", 0),
        ("November", 1),
        ("November", 2),
    ]


@pytest.mark.parametrize("ext_match", [r"^\d{8}$", r"^\d{4}-\d{2}-\d{2}(\.\w+)?$", r"no such thing"])
def test_namer_finds_its_files_whatever_the_ext_match_of_the_user(ext_match: str) -> None:
    """It may be anchored for a name without a namer, and the namer itself verifies what is found."""
    naming = naming_for(BASE, "%Y%m%d", ext_match, lambda name: f"{name}.bak")
    listing = ["app.log.20261123.bak", "app.log.20261123.1.bak.gz", "app.log.20261124", "other.20261123.bak"]

    assert names_of(naming.list_backups(listing)) == listing[:2]


def test_name_that_the_namer_gives_and_that_is_free_is_taken_as_it_is() -> None:
    """Some count by what lies on the disk; whoever drops the number gets it back where his name is taken."""
    there = {f"{HOME}/x.1", f"{HOME}/x.2"}

    def counting(_: str) -> str:
        return next(path for number in range(1, 9) if (path := f"{HOME}/x.{number}") not in there)

    for first in (0, 1, 5):
        assert daily(counting).free_path("2026-01-01", first, there.__contains__) == f"{HOME}/x.3"
        assert daily(lambda _: f"{HOME}/x").free_path("2026-01-01", first, there.__contains__) == f"{HOME}/x"
    taken = {f"{HOME}/x", f"{HOME}/x.1"}
    assert daily(lambda _: f"{HOME}/x").free_path("2026-01-01", 0, taken.__contains__) == f"{HOME}/x.2"
    assert daily().free_path("2026-01-01", 1, {f"{BASE}.2026-01-01.1"}.__contains__) == (
        f"{BASE}.2026-01-01.2"
    )
    with pytest.raises(FileExistsError, match=r"app\.log\.2026-01-01\.1' and those after it are taken"):
        daily(lambda path: path).free_path("2026-01-01", 1, lambda _: True)
