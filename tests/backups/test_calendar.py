"""Boundaries and period texts of the timed handler: the clock is an argument."""

from __future__ import annotations

import datetime as dt
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import TimedRotatingFileHandler
from typing import Optional

import pytest
from calendar_support import MOMENTS, utc
from hypothesis import example, given, settings
from hypothesis import strategies as st

from concurrent_log_handler._backups._calendar import (
    DAY,
    WEEK,
    Calendar,
    format_rollover,
    parse_calendar,
)

needs_tzset = pytest.mark.skipif(
    not hasattr(time, "tzset"), reason="the zone of a process cannot be set here"
)
ON_THE_WALL = ("MIDNIGHT", *(f"W{day}" for day in range(7)))
CHANGES = {  # zone: (the instant of a change, what it is)
    "America/New_York": ("2026-03-08T07:00", "2026-11-01T06:00"),
    "Europe/Berlin": ("2026-03-29T01:00", "2026-10-25T01:00"),
    "Australia/Lord_Howe": ("2026-04-04T15:00", "2026-10-03T15:30"),  # half an hour
    "Asia/Kathmandu": ("1985-12-31T18:30",),  # 15 minutes, once and for all
    "America/Sao_Paulo": ("2018-02-18T02:00", "2018-11-04T03:00"),  # at midnight
    "Pacific/Apia": ("2011-12-30T10:00", "2012-03-31T14:00"),  # 30 December 2011 did not happen
    "America/Havana": ("2026-03-08T05:00", "2026-11-01T05:00"),  # midnight is left out, or comes twice
    "Africa/Cairo": ("2026-04-23T22:00", "2026-10-29T21:00"),  # at midnight, now
}


@contextmanager
def zone(name: str) -> Iterator[None]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = name
    time.tzset()
    try:
        yield
    finally:
        if before is None:
            del os.environ["TZ"]
        else:
            os.environ["TZ"] = before
        time.tzset()


def local(text: str, fold: int = 0) -> int:
    return int(dt.datetime.fromisoformat(text).replace(fold=fold).timestamp())


def shown(moment: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


def rollovers(cal: Calendar, start: int, end: int) -> list[int]:
    """A busy process: each boundary is noticed in the second in which it comes."""
    found = [cal.next_boundary(start)]
    while found[-1] < end:
        found.append(cal.next_boundary(found[-1]))
    return found


# ------------------------------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    ("when", "seconds", "suffix", "pattern"),
    [
        ("S", 1, "%Y-%m-%d_%H-%M-%S", r"(?<!\d)\d{4}-\d{2}-\d{2}_\d{2}-\d{2}-\d{2}(?!\d)"),
        ("m", 60, "%Y-%m-%d_%H-%M", r"(?<!\d)\d{4}-\d{2}-\d{2}_\d{2}-\d{2}(?!\d)"),
        ("h", 3_600, "%Y-%m-%d_%H", r"(?<!\d)\d{4}-\d{2}-\d{2}_\d{2}(?!\d)"),
        ("D", DAY, "%Y-%m-%d", r"(?<!\d)\d{4}-\d{2}-\d{2}(?!\d)"),
        ("midNight", DAY, "%Y-%m-%d", r"(?<!\d)\d{4}-\d{2}-\d{2}(?!\d)"),
        ("w6", WEEK, "%Y-%m-%d", r"(?<!\d)\d{4}-\d{2}-\d{2}(?!\d)"),
    ],
)
def test_units_mean_what_cpython_313_means_in_any_case(
    when: str, seconds: int, suffix: str, pattern: str
) -> None:
    cal = parse_calendar(when, 3)

    assert (cal.when, cal.interval, cal.suffix) == (when.upper(), 3 * seconds, suffix)
    assert (cal.ext_match.pattern, cal.ext_match.flags) == (pattern, int(re.ASCII))
    assert cal.day_of_week == (6 if when == "w6" else None)


@pytest.mark.parametrize("when", ["", "W", "W7", "W-1", "W10", "X", "DAY", "midnight ", "W\u0661"])
def test_unknown_unit_is_a_value_error_that_names_the_known_ones(when: str) -> None:
    with pytest.raises(ValueError, match=r"S, M, H, D, MIDNIGHT, W0 to W6.*got"):
        parse_calendar(when)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"interval": 0}, ValueError),
        ({"interval": -1}, ValueError),
        ({"interval": 10**9}, ValueError),
        ({"interval": 0.5}, ValueError),
        ({"interval": 1.5}, ValueError),
        ({"interval": float("inf")}, ValueError),
        ({"interval": float("nan")}, ValueError),
        ({"interval": "1"}, TypeError),
        ({"interval": True}, TypeError),
        ({"interval": None}, TypeError),
        ({"at_time": "12:00"}, TypeError),
        ({"at_time": dt.datetime(2026, 1, 1)}, TypeError),
        ({"when": None}, TypeError),
    ],
)
def test_bad_arguments_are_refused_at_once(arguments: dict[str, object], error: type[Exception]) -> None:
    """The stdlib takes interval=0 and then rolls over with every record."""
    with pytest.raises(error, match=r"interval|atTime|when"):
        parse_calendar(**{"when": "D", **arguments})  # type: ignore[arg-type]


def test_whole_number_of_units_may_be_a_float() -> None:
    assert parse_calendar("H", 2.0) == parse_calendar("H", 2)


def test_zone_and_microseconds_of_at_time_are_ignored() -> None:
    aware = dt.time(13, 45, 30, 999_999, tzinfo=dt.timezone(dt.timedelta(hours=9)))

    assert parse_calendar("MIDNIGHT", at_time=aware) == parse_calendar(
        "MIDNIGHT", at_time=dt.time(13, 45, 30)
    )


# ----------------------------------------------------------------------------------- boundaries


@pytest.mark.parametrize(
    ("when", "interval", "at_time", "now", "boundary", "text"),
    [
        # 2026-11-23 is a Monday
        ("S", 1, None, "2026-11-23T10:11:12", "2026-11-23T10:11:13", "2026-11-23_10-11-12"),
        ("M", 5, None, "2026-11-23T10:11:12", "2026-11-23T10:16:12", "2026-11-23_10-11"),
        ("H", 1, None, "2026-11-23T10:11:12", "2026-11-23T11:11:12", "2026-11-23_10"),
        ("D", 2, None, "2026-11-23T10:11:12", "2026-11-25T10:11:12", "2026-11-23"),
        ("MIDNIGHT", 1, None, "2026-11-23T10:11:12", "2026-11-24T00:00:00", "2026-11-23"),
        ("MIDNIGHT", 1, None, "2026-11-23T00:00:00", "2026-11-24T00:00:00", "2026-11-23"),
        ("MIDNIGHT", 3, None, "2026-11-23T10:11:12", "2026-11-26T00:00:00", "2026-11-23"),
        ("MIDNIGHT", 1, dt.time(0), "2026-11-23T10:11:12", "2026-11-24T00:00:00", "2026-11-23"),
        ("MIDNIGHT", 1, dt.time(13, 45), "2026-11-23T10:11:12", "2026-11-23T13:45:00", "2026-11-22"),
        ("MIDNIGHT", 1, dt.time(13, 45), "2026-11-23T13:45:00", "2026-11-24T13:45:00", "2026-11-23"),
        ("W0", 1, None, "2026-11-23T10:11:12", "2026-11-24T00:00:00", "2026-11-17"),
        ("W6", 1, None, "2026-11-23T10:11:12", "2026-11-30T00:00:00", "2026-11-23"),
        ("W6", 2, None, "2026-11-23T10:11:12", "2026-12-07T00:00:00", "2026-11-23"),
        ("W0", 1, dt.time(0), "2026-11-23T10:11:12", "2026-11-30T00:00:00", "2026-11-23"),
        ("W0", 1, dt.time(12), "2026-11-23T10:11:12", "2026-11-23T12:00:00", "2026-11-16"),
        ("W2", 1, dt.time(12), "2026-11-23T10:11:12", "2026-11-25T12:00:00", "2026-11-18"),
    ],
)
def test_next_boundary_and_the_name_of_the_period_that_ends_there(
    when: str, interval: int, at_time: Optional[dt.time], now: str, boundary: str, text: str
) -> None:
    cal = parse_calendar(when, interval, utc=True, at_time=at_time)

    at = cal.next_boundary(utc(now) + 0.9)

    assert at == utc(boundary)
    assert cal.period_text(at) == text


@needs_tzset
@pytest.mark.parametrize(
    ("where", "at_time", "now", "boundary", "text"),
    [
        # midnight does not exist: the first moment after the gap
        ("America/Sao_Paulo", None, "2018-11-03 12:00", "2018-11-04 01:00:00", "2018-11-03"),
        ("America/Sao_Paulo", None, "2018-11-04 01:00", "2018-11-05 00:00:00", "2018-11-04"),
        # the clock goes back at midnight: the hour before it comes twice, the midnight once
        ("America/Sao_Paulo", None, "2018-02-17 23:30", "2018-02-18 00:00:00", "2018-02-17"),
        ("Pacific/Apia", None, "2011-12-29 12:00", "2011-12-31 00:00:00", "2011-12-29"),
        ("Pacific/Apia", None, "2011-12-31 00:00", "2012-01-01 00:00:00", "2011-12-31"),
        ("Pacific/Apia", dt.time(12), "2011-12-29 12:00", "2011-12-31 00:00:00", "2011-12-29"),
        ("Pacific/Apia", dt.time(12), "2011-12-31 00:00", "2011-12-31 12:00:00", "2011-12-30"),
        ("Pacific/Apia", dt.time(1), "2011-12-31 00:00", "2011-12-31 01:00:00", "2011-12-30"),
        ("America/New_York", dt.time(2, 30), "2026-03-08 01:59", "2026-03-08 03:00:00", "2026-03-07"),
        ("America/New_York", dt.time(2, 30), "2026-03-08 03:00", "2026-03-09 02:30:00", "2026-03-08"),
        ("America/New_York", dt.time(1, 30), "2026-10-31 12:00", "2026-11-01 01:30:00", "2026-10-31"),
        ("Australia/Lord_Howe", dt.time(2, 15), "2026-10-04 01:00", "2026-10-04 02:30:00", "2026-10-03"),
        ("Australia/Lord_Howe", dt.time(1, 45), "2026-04-04 12:00", "2026-04-05 01:45:00", "2026-04-04"),
        # the gap of 30 March 2024 reaches beyond midnight: the name is still that of its own day
        ("America/Nuuk", dt.time(23, 30), "2024-03-30 12:00", "2024-03-31 00:00:00", "2024-03-29"),
        ("America/Nuuk", dt.time(23, 30), "2024-03-31 00:00", "2024-03-31 23:30:00", "2024-03-30"),
    ],
)
def test_times_that_a_zone_leaves_out_or_repeats(
    where: str, at_time: Optional[dt.time], now: str, boundary: str, text: str
) -> None:
    cal = parse_calendar("MIDNIGHT", at_time=at_time)
    with zone(where):
        at = cal.next_boundary(local(now))

        assert shown(at) == boundary
        assert cal.period_text(at) == text


@needs_tzset
def test_time_that_comes_twice_is_a_boundary_once() -> None:
    """The stdlib rolls over at the second 01:30 again, if it is restarted between the two."""
    cal = parse_calendar("MIDNIGHT", at_time=dt.time(1, 30))
    with zone("America/New_York"):
        first, second = local("2026-11-01 01:30"), local("2026-11-01 01:30", fold=1)

        assert cal.next_boundary(first - 1) == first
        for now in (first, second - 1_200, second - 1, second, second + 1):
            assert cal.next_boundary(now) == local("2026-11-02 01:30")


def brute_force(cal: Calendar, start: int, days: int, step: int = 900) -> list[int]:
    """
    The definition, literally: look at the clock every quarter of an hour, and note the first moment at
    which it shows a target or has passed it.
    """
    found, passed = [], None
    for moment in range(start - start % step, start + days * DAY, step):
        wall = moment + time.localtime(moment).tm_gmtoff
        target = wall - (wall - cal.phase) % cal.step
        if passed is not None and target > passed:
            found.append(moment)
        passed = target if passed is None else max(passed, target)
    return found


@needs_tzset
@pytest.mark.parametrize("where", CHANGES)
def test_one_rollover_per_boundary_of_the_wall_clock_around_every_change(where: str) -> None:
    with zone(where):
        for change in map(utc, CHANGES[where]):
            start = change - 9 * DAY
            for when in ("MIDNIGHT", "W5", "W6"):
                for at_time in (None, *(dt.time(hour, 30) for hour in (0, 1, 2, 3, 12, 23)), dt.time(12, 45)):
                    cal = parse_calendar(when, at_time=at_time)
                    expected = [at for at in brute_force(cal, start, 18) if at > start]
                    assert rollovers(cal, start, expected[-1]) == expected


@needs_tzset
@pytest.mark.parametrize("where", [*CHANGES, "America/Nuuk", "UTC"])
def test_years_of_periods_never_share_a_name(where: str) -> None:
    first = utc("2010-01-01T00:00") if where != "Asia/Kathmandu" else utc("1985-01-01T00:00")
    with zone(where):
        for when, at_time in (
            ("MIDNIGHT", None),
            ("MIDNIGHT", dt.time(23, 30)),
            ("W4", None),
            ("W6", dt.time(2)),
        ):
            cal = parse_calendar(when, at_time=at_time)
            ends = rollovers(cal, first, first + 18 * 365 * DAY)
            texts = [cal.period_text(at) for at in ends]

            assert texts == sorted(set(texts))
            starts = [time.strftime("%Y-%m-%d", time.localtime(at)) for at in ends]
            odd = [pair for pair in zip(starts, texts[1:]) if pair[0] != pair[1]]
            # Only where the target lay in a gap that ends on the next day, or in a day left out.
            assert len(odd) <= (6 if at_time == dt.time(23, 30) else 0), odd


@needs_tzset
def test_gap_and_repeated_hour_with_hourly_rollover() -> None:
    """Both hours from 2 to 3 have one text: the handler numbers the second.  The missing hour has none."""
    cal = parse_calendar("H")
    with zone("Europe/Berlin"):
        autumn = rollovers(cal, local("2026-10-25 00:00"), local("2026-10-25 04:00"))
        spring = rollovers(cal, local("2026-03-29 00:00"), local("2026-03-29 04:00"))

        assert [cal.period_text(at)[-2:] for at in autumn] == ["00", "01", "02", "02", "03"]
        assert [cal.period_text(at)[-2:] for at in spring] == ["00", "01", "03"]
        assert [now - before for before, now in zip(autumn, autumn[1:])] == [3_600] * 4


@needs_tzset
def test_boundary_that_a_peer_wrote_an_hour_off_ends_the_day_it_was_meant_for() -> None:
    cal, every_third = parse_calendar("MIDNIGHT"), parse_calendar("MIDNIGHT", 3)
    with zone("Europe/Berlin"):
        for off in (-3_600, -1_800, 0, 3_600, 7_200):
            assert cal.period_text(local("2026-03-30 00:00") + off) == "2026-03-29"
            assert every_third.period_text(local("2026-03-30 00:00") + off) == "2026-03-27"
        assert cal.next_boundary(local("2026-03-30 01:00")) == local("2026-03-31 00:00")
        # Not one of this calendar at all, for example after a change of atTime.
        assert cal.period_text(local("2026-03-30 13:00")) == "2026-03-30"


def test_suffix_of_the_user_names_the_start_of_the_period() -> None:
    cal = parse_calendar("MIDNIGHT", utc=True, at_time=dt.time(13, 45))

    assert cal._replace(suffix="%d.%m.%y %H:%M").period_text(utc("2026-11-24T13:45")) == "23.11.26 13:45"


@needs_tzset
def test_suffix_with_the_zone_shows_the_zone() -> None:
    with zone("Europe/Berlin"):
        hourly = parse_calendar("H")._replace(suffix="%H%z")
        assert hourly.period_text(local("2026-07-01 13:00")) == "12+0200"
        daily = parse_calendar("MIDNIGHT")._replace(suffix="%d%z")
        assert daily.period_text(local("2026-07-02 00:00")) == "01+0200"
    assert parse_calendar("H", utc=True)._replace(suffix="%H").period_text(utc("2026-07-01T13:00")) == "12"


# ---------------------------------------------------------------------------------- the oracle


def stdlib(when: str, interval: int, in_utc: bool, at_time: Optional[dt.time]) -> TimedRotatingFileHandler:
    handler = TimedRotatingFileHandler(
        os.path.abspath("oracle.log"), when, interval, delay=True, utc=in_utc, atTime=at_time
    )
    handler.close()
    return handler


def boundary_after(oracle: TimedRotatingFileHandler, now: int) -> int:
    """Before 3.12.2 the stdlib's next boundary may be this very moment, at which it would roll over for ever."""
    at = oracle.computeRollover(now)
    return at if at > now else oracle.computeRollover(now + 1)


AT_TIMES = st.none() | st.just(dt.time()) | st.times()


@settings(max_examples=300)
@given(st.sampled_from(["S", "M", "H", "D", *ON_THE_WALL]), st.integers(1, 40), AT_TIMES, MOMENTS)
def test_in_utc_every_boundary_is_the_stdlibs(
    when: str, interval: int, at_time: Optional[dt.time], now: int
) -> None:
    # Before 3.13 an interval above 1 counted only until the second rollover.
    interval = interval if sys.version_info >= (3, 13) or when not in ON_THE_WALL else 1
    oracle = stdlib(when, interval, True, at_time)
    cal = parse_calendar(when, interval, utc=True, at_time=at_time)

    at = cal.next_boundary(now)

    assert at == boundary_after(oracle, now)
    assert (cal.suffix, cal.interval) == (oracle.suffix, oracle.interval)
    assert cal.period_text(at) == time.strftime(cal.suffix, time.gmtime(at - oracle.interval))


@needs_tzset
@settings(max_examples=300)
@given(st.sampled_from(list(CHANGES)), st.sampled_from(["H", "D", *ON_THE_WALL]), AT_TIMES, MOMENTS)
@example("Europe/Berlin", "MIDNIGHT", None, utc("2026-03-28T23:00"))
@example("America/New_York", "W6", None, utc("2026-11-01T12:00"))
def test_in_local_time_every_boundary_is_the_stdlibs_away_from_changes(
    where: str, when: str, at_time: Optional[dt.time], now: int
) -> None:
    """Where the zone changes on the way, the stdlib's versions differ; there the wall clock is asked."""
    with zone(where):
        cal = parse_calendar(when, at_time=at_time)
        at = cal.next_boundary(now)
        days = range(now - DAY, at + 2 * DAY, DAY // 4)
        if when in ON_THE_WALL and len({time.localtime(moment).tm_gmtoff for moment in days}) > 1:
            assert now < at
            assert at - now <= cal.interval + 26 * 3_600
            assert cal.next_boundary(at - 1) == at
            assert cal.next_boundary(at) > at
        else:
            assert at == boundary_after(stdlib(when, 1, False, at_time), now)


@needs_tzset
@settings(max_examples=200)
@given(st.sampled_from(list(CHANGES)), st.sampled_from(["H", *ON_THE_WALL]), AT_TIMES, MOMENTS, MOMENTS)
def test_boundaries_never_go_backwards(
    where: str, when: str, at_time: Optional[dt.time], one: int, other: int
) -> None:
    """Otherwise a time that a peer computed a moment ago could look too late now."""
    with zone(where):
        cal = parse_calendar(when, at_time=at_time)
        early, late = sorted((one, other))
        near = early + (late - early) % (2 * DAY)

        assert early < cal.next_boundary(early) <= cal.next_boundary(near)


def test_clock_that_jumps_costs_one_step_not_a_loop() -> None:
    cal = parse_calendar("S", utc=True)
    now = utc("2026-11-23T10:00")

    assert cal.next_boundary(now + 40 * 365 * DAY) == now + 40 * 365 * DAY + 1
    assert cal.next_boundary(0) == 1
    assert parse_calendar("MIDNIGHT").next_boundary(0) > 0


# ------------------------------------------------------------------------------ the shared time

NOW = utc("2026-11-23T10:00")
MIDNIGHT = utc("2026-11-24T00:00")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (str(MIDNIGHT), MIDNIGHT),
        (f" {MIDNIGHT}\r\n", MIDNIGHT),
        (str(MIDNIGHT + 7_200), MIDNIGHT + 7_200),
        (str(MIDNIGHT + 7_201), None),
        (str(NOW - 400 * DAY), NOW - 400 * DAY),
        ("946684800", 946_684_800),
        ("946684799", None),
        ("0", None),
        ("-1", None),
        ("", None),
        ("\0" * 10, None),
        ("\udcff\udcfe1", None),
        ("9" * 19, None),
        ("9" * 10_000, None),
        (f"{MIDNIGHT}.0", None),
        ("1_795_478_400", None),
        ("١٧٩٥٤٧٨٤٠٠", None),
        (f"{MIDNIGHT}x", None),
        (f"{MIDNIGHT} {MIDNIGHT}", None),
    ],
)
def test_shared_time_is_used_or_computed_again(content: str, expected: Optional[int]) -> None:
    raw = content.encode("utf-8", "surrogateescape")
    assert parse_calendar("MIDNIGHT", utc=True).read_rollover(raw, NOW) == expected


def test_shared_time_has_no_slack_where_the_wall_clock_plays_no_part() -> None:
    cal = parse_calendar("H")

    assert cal.read_rollover(b"%d" % (NOW + 3_600), NOW + 0.5) == NOW + 3_600
    assert cal.read_rollover(b"%d" % (NOW + 3_601), NOW) is None


def test_shared_time_is_decimal_text_as_clh_writes_it() -> None:
    assert format_rollover(MIDNIGHT) == b"1795478400"
    assert parse_calendar("MIDNIGHT", utc=True).read_rollover(format_rollover(MIDNIGHT), NOW) == MIDNIGHT


@pytest.mark.parametrize(
    ("modified", "boundary", "text"),
    [
        (None, "2026-11-24T00:00", "2026-11-23"),
        (NOW - 60.5, "2026-11-24T00:00", "2026-11-23"),
        (NOW - 3 * DAY, "2026-11-21T00:00", "2026-11-20"),
        (NOW + 3 * DAY, "2026-11-24T00:00", "2026-11-23"),
        (0, "2026-11-24T00:00", "2026-11-23"),
    ],
)
def test_first_boundary_is_that_of_the_last_write(
    modified: Optional[float], boundary: str, text: str
) -> None:
    """So a process that was down over a boundary rolls at once, and the data gets the name of its own day."""
    cal = parse_calendar("MIDNIGHT", utc=True)

    at = cal.first_boundary(NOW, modified)

    assert (at, cal.period_text(at)) == (utc(boundary), text)
