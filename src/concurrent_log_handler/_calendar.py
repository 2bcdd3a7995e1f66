"""When the timed handler rolls over, and what its backups are called.  No file is touched here.

Three questions, each answered with strings, numbers and a clock value as an argument: when is the
next boundary (`next_boundary`), which name does the period get that ended there (`period_text`,
`next_number`, `backup_path`), and which names of a directory did this handler make, oldest first
(`list_backups`, `surplus`).  Looking at the disk, renaming, deleting and the sidecar are the handler's.

Boundaries of MIDNIGHT and W are those of the wall clock.  A *target* is a wall-clock moment, counted
in seconds as if the wall showed UTC; its *instant* is the first moment at which the clock shows it or
anything later.  So a target inside a gap means the end of the gap, and a repeated one comes once.
"""

from __future__ import annotations

import calendar
import datetime as dt
import os
import re
import time
from functools import lru_cache
from typing import (
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Pattern,
    Sequence,
    Tuple,
    Union,
)

DAY = 86_400
WEEK = 7 * DAY
MIN_VALID_TIME = 946_684_800  # 2000-01-01T00:00:00Z, the bound that CLH uses too
SLACK = 7_200  # an older peer may have written a MIDNIGHT or W boundary this far off
LONGEST = 500 * 366 * DAY  # the platforms' localtime() ends somewhere above the year 3000

_DAILY = "%Y-%m-%d"
# Suffix and extMatch for each unit, CPython 3.13's on every Python.
_UNITS: Dict[str, Tuple[int, str]] = {
    "S": (1, "%Y-%m-%d_%H-%M-%S"),
    "M": (60, "%Y-%m-%d_%H-%M"),
    "H": (3_600, "%Y-%m-%d_%H"),
    "D": (DAY, _DAILY),
    "MIDNIGHT": (DAY, _DAILY),
    **{f"W{day}": (WEEK, _DAILY) for day in range(7)},
}
_DIRECTIVES = {
    **dict.fromkeys("YG", r"\d{4}"),
    **dict.fromkeys("mdHMSyIUWVC", r"\d{2}"),
    **dict.fromkeys("uw", r"\d"),
    "j": r"\d{3}",
    "s": r"\d+",
    "%": "%",
}
_SAMPLE = time.gmtime(1_234_567_890)  # 2009-02-13 23:31:30, a Friday
_NUMBERED = re.compile(r"(.+)\.([1-9][0-9]*)", re.DOTALL)
_NUMBER = re.compile(r"(?<!\d)[1-9]\d{0,8}(?!\d)", re.ASCII)
_MOST_KNOWN = 20_000
_ROLLOVER_TEXT = re.compile(rb"\s*([0-9]{1,20})\s*")

Namer = Callable[[str], str]
Compute = Callable[[int], int]


class Calendar(NamedTuple):
    """The checked meaning of `when`, `interval`, `utc` and `atTime`."""

    when: str  # upper case
    interval: int  # seconds, as `TimedRotatingFileHandler.interval`
    suffix: str
    ext_match: Pattern[str]
    utc: bool
    step: int  # seconds of wall clock between two targets; 0 where the wall clock plays no part
    phase: int  # any target, modulo `step`
    day_of_week: Optional[int]  # 0 is Monday


class Naming(NamedTuple):
    """How one handler names its backups, compiled once by `naming_for`."""

    directory: str
    base: str
    suffix: str
    pattern: Pattern[str]  # what the text of a period looks like
    reading: Optional[Tuple[str, Sequence[str]]]  # strptime format and what to add to the text; None: no date
    lenient: bool  # a user's extMatch may find dates that a namer has written in another way
    namer: Optional[Namer]
    known: Dict[
        str, Optional[Tuple[int, str, int]]
    ]  # what names were found to mean, where no namer has a say


class Backup(NamedTuple):
    """One backup; backups sort oldest first.  *names* holds the plain one and its `.gz`, if both exist."""

    stamp: int  # the wall clock at the period's start, as seconds; 0 where the text is no date
    text: str  # the period as the name has it
    number: int  # 0 is the first backup of a period, which has no number in its name
    names: Tuple[str, ...]


# ---------------------------------------------------------------------------------- boundaries


def parse_calendar(
    when: str, interval: int = 1, utc: bool = False, at_time: Optional[dt.time] = None
) -> Calendar:
    """
    Check what the user asked for.

    *at_time* counts for MIDNIGHT and W only; its time zone and microseconds are ignored, as in CPython.
    Without it W0 means the midnight that ends Monday, as in CPython.

    Raises:
        ValueError: For an unknown *when*, an *interval* below 1, or a period above 500 years.
        TypeError: For a value of another type.
    """
    if not isinstance(when, str):
        msg = f"when must be one of S, M, H, D, MIDNIGHT, W0 to W6, got {when!r}"
        raise TypeError(msg)
    unit = when.upper()
    if unit not in _UNITS:
        msg = f"when must be one of S, M, H, D, MIDNIGHT, W0 to W6 (W0 is Monday), got {when!r}"
        raise ValueError(msg)
    if at_time is not None and not isinstance(at_time, dt.time):
        msg = f"atTime must be a datetime.time or None, got {at_time!r}"
        raise TypeError(msg)
    seconds, suffix = _UNITS[unit]
    period = seconds * _checked_interval(interval)
    if period > LONGEST:
        msg = f"interval must be at most {LONGEST // seconds} for when={unit!r}, got {interval}"
        raise ValueError(msg)
    day_of_week = int(unit[1]) if unit[0] == "W" else None
    step, phase = _grid(unit, day_of_week, at_time)
    return Calendar(unit, period, suffix, default_ext_match(suffix), bool(utc), step, phase, day_of_week)


def _checked_interval(interval: int) -> int:
    if isinstance(interval, bool) or not isinstance(interval, int):
        msg = f"interval must be a whole number, got {interval!r}"
        raise TypeError(msg)
    if interval < 1:
        msg = f"interval must be 1 or more, got {interval}"
        raise ValueError(msg)
    return interval


def _grid(unit: str, day_of_week: Optional[int], at_time: Optional[dt.time]) -> Tuple[int, int]:
    second = DAY if at_time is None else at_time.hour * 3_600 + at_time.minute * 60 + at_time.second
    if day_of_week is not None:
        # The epoch was a Thursday, day 3 of its week.
        return WEEK, ((day_of_week - 3) * DAY + second) % WEEK
    return (DAY, second % DAY) if unit == "MIDNIGHT" else (0, 0)


def next_boundary(cal: Calendar, now: float) -> int:
    """
    The next rollover time after *now*, both in seconds since the epoch; always later than *now*.

    S, M, H and D count their interval from *now*.  MIDNIGHT and W take the next target of the wall
    clock and, for an interval above 1, wait that many days or weeks more, as CPython 3.13 does.
    """
    moment = int(now)
    if not cal.step:
        return moment + cal.interval
    target = _last_target(cal, _wall(cal, moment)) + cal.step
    while _instant(cal, target) <= moment:  # the clock shows an hour again, or a whole day is missing
        target += cal.step
    return _instant(cal, target + cal.interval - cal.step)


def first_boundary(
    cal: Calendar, now: float, modified: Optional[float], compute: Optional[Compute] = None
) -> int:
    """
    The rollover time where none is known: that of the period in which the live file was last written.

    It lies in the past where a boundary has gone by since then.  *modified* is the file's modification
    time, None for no file; a value that cannot be (before 2000, in the future) counts as *now*.
    *compute* stands for `next_boundary` where a subclass has a calendar of its own.
    """
    moment = now if modified is None or not MIN_VALID_TIME <= modified <= now else modified
    return next_boundary(cal, moment) if compute is None else compute(int(moment))


def _offset(moment: int) -> int:
    # Windows has no local time before the epoch.
    return time.localtime(max(moment, 0)).tm_gmtoff


def _wall(cal: Calendar, moment: int) -> int:
    return moment if cal.utc else moment + _offset(moment)


def _last_target(cal: Calendar, wall: int) -> int:
    return wall - (wall - cal.phase) % cal.step


def _instant(cal: Calendar, target: int) -> int:
    if cal.utc:
        return target
    # No zone is further than 16 hours from UTC, so the moment and any change near it lie between.
    offsets = {_offset(target - DAY), _offset(target + DAY)}
    shown = [target - offset for offset in offsets if _offset(target - offset) == offset]
    if shown:
        return min(shown)
    return _end_of_gap(target, target - max(offsets), target - min(offsets))


def _end_of_gap(target: int, before: int, after: int) -> int:
    while after - before > 1:
        middle = (before + after) // 2
        if middle + _offset(middle) >= target:
            after = middle
        else:
            before = middle
    return after


# --------------------------------------------------------------------------- the shared time


def format_rollover(at: int) -> str:
    """The sidecar's content: decimal text, no line end, as CLH reads and writes it."""
    return str(int(at))


def read_rollover(
    content: Union[str, bytes], cal: Calendar, now: float, compute: Optional[Compute] = None
) -> Optional[int]:
    """
    The rollover time in the sidecar, or None where it has to be computed again.

    None for anything but a decimal number, for a time before 2000, and for one later than the next
    boundary from *now* (two hours more for MIDNIGHT and W, where an older peer may be an hour off).
    A time in the past is good: a boundary went by while nobody wrote.  *compute* is as in `first_boundary`.
    """
    raw = content.encode("utf-8", "replace") if isinstance(content, str) else content
    match = _ROLLOVER_TEXT.fullmatch(raw)
    if match is None:
        return None
    at = int(match[1])
    following = next_boundary(cal, now) if compute is None else compute(int(now))
    latest = following + (SLACK if cal.step else 0)
    return at if MIN_VALID_TIME <= at <= latest else None


# -------------------------------------------------------------------------------- period names


def period_text(cal: Calendar, at: int, suffix: Optional[str] = None) -> str:
    """
    The text that names the period ending at the rollover time *at*: *suffix* at the period's start.

    For MIDNIGHT and W that is the start by the wall clock, different for any two boundaries, also
    around a gap.  For S, M, H and D it is what the clock showed *interval* seconds before *at*; the
    hour that a clock shows twice gives one text for both, and `next_number` tells them apart.
    """
    return time.strftime(cal.suffix if suffix is None else suffix, _period_start(cal, at))


def _period_start(cal: Calendar, at: int) -> time.struct_time:
    if not cal.step:
        start = at - cal.interval
        return time.gmtime(start) if cal.utc else time.localtime(start)
    target = _start_target(cal, at)
    moment = _instant(cal, target)
    if cal.utc or _wall(cal, moment) != target:
        return time.gmtime(target)
    return time.localtime(moment)


def _start_target(cal: Calendar, at: int) -> int:
    wall = _wall(cal, at)
    last = _last_target(cal, wall)
    if _instant(cal, last) == at:
        while _instant(cal, last - cal.step) == at:  # a day that the zone left out
            last -= cal.step
        return last - cal.interval
    near = _last_target(cal, wall + SLACK)
    if near >= wall - SLACK:  # an older peer, an hour off
        return near - cal.interval
    return last


def next_number(backups: Iterable[Backup], text: str) -> int:
    """The number for one more backup of the period *text*: above all of its numbers, 0 where it has none."""
    return max((backup.number + 1 for backup in backups if backup.text == text), default=0)


# --------------------------------------------------------------------------------- file names


@lru_cache(maxsize=64)
def default_ext_match(suffix: str) -> Pattern[str]:
    """A pattern for what *suffix* can produce; for the five standard ones it is CPython 3.13's `extMatch`."""
    parts = re.split(r"%([-#_0^]?)(.)", suffix, flags=re.DOTALL)
    pattern = re.escape(parts[0]).replace(r"\-", "-")
    for flag, letter, literal in zip(parts[1::3], parts[2::3], parts[3::3]):
        one = _DIRECTIVES.get(letter, r"[^/\\]+?")
        pattern += r"\d+" if flag and one.startswith(r"\d") else one
        pattern += re.escape(literal).replace(r"\-", "-")
    return re.compile(rf"(?<!\d){pattern}(?!\d)", re.ASCII)


_STANDARD_SUFFIXES = frozenset(suffix for _, suffix in _UNITS.values())
_STANDARD_MATCHES = frozenset(default_ext_match(suffix).pattern for suffix in _STANDARD_SUFFIXES)


def naming_for(
    base_path: str, suffix: str, ext_match: Union[str, Pattern[str]], namer: Optional[Namer] = None
) -> Naming:
    """
    Compile the names of the log at *base_path* (absolute).  Keep the result while the four stay the same.

    Where the user changed only *suffix*, the standard *ext_match* gives way to the one that fits it.
    *namer* maps a whole path to a whole path; pass `rotation_filename` where a subclass overrides it.
    """
    directory, base = os.path.split(base_path)
    given = re.compile(ext_match)
    standard = given.pattern in _STANDARD_MATCHES
    pattern = default_ext_match(suffix) if standard else given
    return Naming(directory, base, suffix, pattern, _reading(suffix), not standard, namer, {})


def backup_path(naming: Naming, text: str, number: int) -> str:
    """
    The path for one backup, without `.gz`: `base.text`, `base.text.number`, or what the namer makes of it.

    A namer that drops the number would give one path twice; then the number follows what it returned.
    """
    plain = os.path.join(naming.directory, f"{naming.base}.{text}")
    if naming.namer is None:
        return f"{plain}.{number}" if number else plain
    if not number:
        return os.fspath(naming.namer(plain))
    named = os.fspath(naming.namer(f"{plain}.{number}"))
    return f"{named}.{number}" if named == os.fspath(naming.namer(plain)) else named


def backup_directory(naming: Naming) -> str:
    """The directory to list: the log's own, or the one into which the namer puts the backups."""
    if naming.namer is None:
        return naming.directory
    return os.path.abspath(os.path.dirname(backup_path(naming, time.strftime(naming.suffix, _SAMPLE), 0)))


def list_backups(naming: Naming, names: Iterable[str], directory: Optional[str] = None) -> List[Backup]:
    """
    What this handler made, among the *names* in *directory* (default: the log's own), oldest first.

    Periods in order, inside a period the numbers in order.  A plain file and its `.gz` are one backup.
    """
    where = os.path.abspath(naming.directory if directory is None else directory)
    home = where == os.path.abspath(naming.directory)
    parse = _parse_known if naming.namer is None else _parse_named
    found: Dict[Tuple[int, str, int], Tuple[str, ...]] = {}
    if naming.namer is None and not home:
        return []
    for name in names:
        if home and name == naming.base:
            continue
        key = parse(naming, name, where)
        if key is not None:
            found[key] = (*found.get(key, ()), name)
    return [Backup(*key, tuple(sorted(found[key]))) for key in sorted(found)]


def surplus(backups: Sequence[Backup], keep: int) -> List[Backup]:
    """Those of the sorted *backups* that go when *keep* may stay, in the order of going.  0 keeps all."""
    return list(backups[: max(len(backups) - keep, 0)]) if keep > 0 else []


def _parse_known(naming: Naming, name: str, where: str) -> Optional[Tuple[int, str, int]]:
    # A rotation lists the directory several times, and most names were there the last time.
    known = naming.known
    try:
        return known[name]
    except KeyError:
        pass
    if len(known) >= _MOST_KNOWN:
        known.clear()
    key = known[name] = _parse_plain(naming, name, where)
    return key


def _parse_plain(naming: Naming, name: str, _where: str) -> Optional[Tuple[int, str, int]]:
    prefix = len(naming.base) + 1
    if not name.startswith(naming.base + "."):
        return None
    for rest in _with_and_without_gz(name[prefix:]):
        numbered = _NUMBERED.fullmatch(rest)
        for text, number in ((rest, 0), (numbered[1], int(numbered[2])) if numbered else ("", 0)):
            if text and naming.pattern.fullmatch(text):
                stamp = _stamp(text, naming.suffix) if naming.reading else 0
                if stamp is not None:
                    return stamp, text, number
    return None


def _parse_named(naming: Naming, name: str, where: str) -> Optional[Tuple[int, str, int]]:
    for stem in _with_and_without_gz(name):
        match = naming.pattern.search(stem)
        while match:
            text = match[0]
            stamp = _stamp(text, naming.suffix) if naming.reading else 0
            if stamp is not None or naming.lenient:
                for number in _possible_numbers(stem, match):
                    if _makes(naming, text, number, stem, where):
                        return stamp or 0, text, number
            match = naming.pattern.search(stem, match.start() + 1)
    return None


def _with_and_without_gz(name: str) -> Tuple[str, ...]:
    # Whole first: a namer or a suffix may end in .gz itself.
    return (name, name[:-3]) if name.endswith(".gz") else (name,)


def _possible_numbers(stem: str, period: re.Match[str]) -> Iterator[int]:
    yield 0
    for part in (stem[period.end() :], stem[: period.start()]):
        yield from map(int, _NUMBER.findall(part))


def _makes(naming: Naming, text: str, number: int, stem: str, where: str) -> bool:
    try:
        path = backup_path(naming, text, number)
    except Exception:  # noqa: BLE001 - the user's namer, on a name that it may never have seen
        return False
    return os.path.basename(path) == stem and os.path.dirname(os.path.abspath(path)) == where


# ------------------------------------------------------------------------------- reading dates


@lru_cache(maxsize=64)
def _reading(suffix: str) -> Optional[Tuple[str, Sequence[str]]]:
    # A format without a year warns in CPython 3.13; and without one there is no order in time.
    if not re.search(r"%[-#]?[YyG]", suffix):
        return None
    plain = re.sub(r"%[-#]", "%", suffix)
    text = time.strftime(suffix, _SAMPLE)
    # Weeks (%W, %V) can be read only together with a day.
    for reading in ((plain, ("",)), (plain + " %u", tuple("1234567"))):
        if _read(text, suffix, reading) is not None:
            return reading
    return None


@lru_cache(maxsize=16_384)
def _stamp(text: str, suffix: str) -> Optional[int]:
    if suffix in _STANDARD_SUFFIXES:
        return _standard_stamp(text, suffix)
    reading = _reading(suffix)
    return None if reading is None else _read(text, suffix, reading)


def _standard_stamp(text: str, suffix: str) -> Optional[int]:
    # A fifth of the time of strptime(), for a process that meets a thousand backups at once.
    if not default_ext_match(suffix).fullmatch(text):
        return None
    year, month, day, *clock = map(int, text.replace("_", "-").split("-"))
    hour, minute, second = (*clock, 0, 0, 0)[:3]
    try:
        return int(dt.datetime(year, month, day, hour, minute, second, tzinfo=dt.timezone.utc).timestamp())
    except ValueError:
        return None


def _read(text: str, suffix: str, reading: Tuple[str, Sequence[str]]) -> Optional[int]:
    form, additions = reading
    for addition in additions:
        try:
            parsed = time.strptime(f"{text} {addition}" if addition else text, form)
        except ValueError:
            continue
        if time.strftime(suffix, parsed) == text:
            return calendar.timegm(parsed)
    return None
