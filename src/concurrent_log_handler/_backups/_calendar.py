"""When the timed handler rolls over, and which period ends then; what a file is called is `_naming`'s.

Boundaries of MIDNIGHT and W are those of the wall clock.  A *target* is a wall-clock moment, counted
in seconds as if the wall showed UTC; its *instant* is the first moment at which the clock shows it or
anything later.  So a target inside a gap means the end of the gap, and a repeated one comes once.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import math
import time
from typing import Any, Callable, NamedTuple, Optional, Pattern, Tuple

from concurrent_log_handler._afterwards import Afterwards
from concurrent_log_handler._options import accepted

from ._naming import SUFFIXES, default_ext_match

DAY = 86_400
WEEK = 7 * DAY
MIN_VALID_TIME = 946_684_800  # 2000-01-01T00:00:00Z, the bound that CLH uses too
SLACK = 7_200  # an older peer may have written a MIDNIGHT or W boundary this far off
LONGEST = 500 * 366 * DAY  # the platforms' localtime() ends somewhere above the year 3000

_UNITS = {"S": 1, "M": 60, "H": 3_600, "D": DAY, "MIDNIGHT": DAY, **{f"W{day}": WEEK for day in range(7)}}
_LONGEST_TEXT = 64  # of a rollover time in the sidecar, with room around it
_TICK = 0.02  # the time of a file's last change may lag the clock by this much


class Calendar(NamedTuple):
    """The checked meaning of `when`, `interval`, `utc` and `atTime`.  The clock is an argument."""

    when: str  # upper case
    interval: int  # seconds, as `TimedRotatingFileHandler.interval`
    suffix: str
    ext_match: Pattern[str]
    utc: bool
    step: int  # seconds of wall clock between two targets; 0 where the wall clock plays no part
    phase: int  # any target, which others are whole steps away from
    day_of_week: Optional[int]  # 0 is Monday
    compute: Optional[Callable[[int], int]] = None  # stands for `next_boundary`: a subclass's may be another

    def next_boundary(self, now: float) -> int:
        """
        The next rollover time after *now*, both in seconds since the epoch.

        For an interval above 1, MIDNIGHT and W wait that many days or weeks longer than for the next target of the
        wall clock, as CPython 3.13 does.
        """
        moment = int(now)
        if not self.step:
            return moment + self.interval
        target = self._last_target(self._wall(moment)) + self.step
        while self._instant(target) <= moment:  # the clock shows an hour again, or a whole day is missing
            target += self.step
        return self._instant(target + self.interval - self.step)

    def following(self, now: float) -> int:
        """`next_boundary`, or what a subclass has in its place."""
        return self.next_boundary(now) if self.compute is None else self.compute(int(now))

    def first_boundary(self, now: float, modified: Optional[float]) -> int:
        """The rollover time where none is known: that of the period in which the live file was last *modified*."""
        return self.following(now if modified is None or not MIN_VALID_TIME <= modified <= now else modified)

    def read_rollover(self, content: bytes, now: float) -> Optional[int]:
        """
        The rollover time in the sidecar, or None where it has to be computed again.

        A time in the past is good: a boundary went by while nobody wrote.
        """
        at = int(content) if len(content) <= _LONGEST_TEXT and content.strip().isdigit() else 0
        slack = SLACK if self.step else 0
        return at if MIN_VALID_TIME <= at <= self.following(now) + slack else None

    def period_text(self, at: int) -> str:
        """
        The text that names the period ending at the rollover time *at*: its suffix at the period's start.

        For MIDNIGHT and W it is different for any two boundaries, also around a gap.  For the others, the hour that a
        clock shows twice gives one text for both, and `next_number` tells them apart.
        """
        if not self.step:
            start = at - self.interval
            return time.strftime(self.suffix, time.gmtime(start) if self.utc else time.localtime(start))
        wall = self._wall(at)
        target, near = self._last_target(wall), self._last_target(wall + SLACK)
        if self._instant(target) == at:
            while self._instant(target - self.step) == at:  # a day that the zone left out
                target -= self.step
            target -= self.interval
        elif near >= wall - SLACK:  # an older peer, an hour off
            target = near - self.interval
        moment = self._instant(target)
        shown = not self.utc and self._wall(moment) == target
        return time.strftime(self.suffix, time.localtime(moment) if shown else time.gmtime(target))

    def _wall(self, moment: int) -> int:
        return moment if self.utc else moment + _offset(moment)

    def _last_target(self, wall: int) -> int:
        return wall - (wall - self.phase) % self.step

    def _instant(self, target: int) -> int:
        if self.utc:
            return target
        # No zone is further than 16 hours from UTC, so the moment and any change near it lie between.
        offsets = {_offset(target - DAY), _offset(target + DAY)}
        shown = [target - offset for offset in offsets if _offset(target - offset) == offset]
        if shown:
            return min(shown)
        before, after = target - max(offsets), target - min(offsets)
        while after - before > 1:  # where the gap ends
            middle = (before + after) // 2
            if middle + _offset(middle) >= target:
                after = middle
            else:
                before = middle
        return after


def parse_calendar(
    when: str, interval: float = 1, utc: bool = False, at_time: Optional[dt.time] = None
) -> Calendar:
    """
    Check what the user asked for; raises `ValueError` and `TypeError`.

    *at_time* counts for MIDNIGHT and W only; its time zone and microseconds are ignored, as in CPython.
    Without it W0 means the midnight that ends Monday, as in CPython.
    """
    with accepted("when must be one of S, M, H, D, MIDNIGHT, W0 to W6 (W0 is Monday)", when):
        unit = str.upper(when)
        seconds, suffix = _UNITS[unit], SUFFIXES.get(unit, SUFFIXES["D"])
    with accepted("atTime must be a datetime.time or None", at_time):
        if not isinstance(at_time, (dt.time, type(None))):
            raise TypeError
    with accepted("interval must be a whole number, 1 or more", interval):
        if isinstance(interval, bool) or not isinstance(interval, (int, float)):
            raise TypeError
        if not (interval >= 1 and interval == interval // 1):  # nor infinite, nor no number at all
            raise ValueError
    period = seconds * int(interval)
    if period > LONGEST:
        msg = f"interval must be at most {LONGEST // seconds} for when={unit!r}, got {interval}"
        raise ValueError(msg)
    second = DAY if at_time is None else at_time.hour * 3_600 + at_time.minute * 60 + at_time.second
    day_of_week = int(unit[1]) if unit[0] == "W" else None
    step = seconds if unit == "MIDNIGHT" or day_of_week is not None else 0
    # The epoch was a Thursday, day 3 of its week; for MIDNIGHT each day is as good.
    phase = ((day_of_week or 0) - 3) * DAY + second
    return Calendar(unit, period, suffix, default_ext_match(suffix), bool(utc), step, phase, day_of_week)


def _offset(moment: int) -> int:
    # Windows has no local time before the epoch.
    return time.localtime(max(moment, 0)).tm_gmtoff


def format_rollover(at: float) -> bytes:
    """The sidecar's content: decimal text, no line end, as CLH reads and writes it."""
    return b"%d" % int(at)


class Schedule:
    """
    The rollover time of a log, by which all processes go: known here, written in the sidecar.

    Contract: `agree` and `share` are called with the lock on the *sidecar* held.  *live* is the live file.
    """

    def __init__(self, live: Any, sidecar: Any, afterwards: Afterwards) -> None:
        self._live = live
        self._sidecar = sidecar
        self._afterwards = afterwards
        self.clock: Callable[[], float] = lambda: time.time()  # noqa: PLW0108 - a test-suite may freeze it
        self.at = 0.0  # the next rollover time that this process knows
        # When the sidecar was asked last; a clock set back to before that may have made `at` meaningless.
        self._asked_at = math.inf  # so the first record asks
        self._file_then: Optional[Tuple[int, int]] = None  # the live file that `at` is about
        self._own = False  # the user has set it in this process

    def is_up(self) -> bool:
        """Tell whether the sidecar is to be asked."""
        return not self._asked_at <= self.clock() < self.at

    def begin(self, calendar: Calendar) -> None:
        """Learn the time for the first time, without a lock."""
        if not self._own:
            content = b""
            with contextlib.suppress(OSError), open(self._sidecar.path, "rb") as sidecar:
                content = sidecar.read(_LONGEST_TEXT)
            self.at = self._agreed(content, calendar, self.clock(), in_trouble=False)

    def set(self, at: float) -> None:
        """Take *at* for this process, until it has come."""
        self.at, self._asked_at, self._own = at, 0.0, True

    def share(self, at: int, now: float) -> None:
        """Make *at* everybody's rollover time."""
        self.at, self._asked_at, self._own = at, now, False
        try:
            self._sidecar.write(format_rollover(at))
        except OSError as error:
            self._afterwards.report(error)

    def agree(self, calendar: Calendar, now: float, in_trouble: bool) -> float:
        """Return the time that everybody goes by, and write it down; *in_trouble*: the last rollover failed."""
        if self._own:
            return self.at
        content = self._sidecar.read()
        at = self._agreed(content, calendar, now, in_trouble)
        self.at, self._asked_at = at, now
        if content != format_rollover(at) and self._sidecar.writable:
            self.share(at, now)
        return at

    def settled(self) -> None:
        """Note that `at` is about the live file that is there now, after a rollover if one was due."""
        self._file_then = self._live.identity()

    def last_write(self) -> Optional[float]:
        found = self._live.filled()
        return None if found is None else found.st_mtime

    def period(self, calendar: Calendar, at: float, now: float) -> str:
        if at < MIN_VALID_TIME:  # set by hand, to have a rollover at once
            at = calendar.first_boundary(now, self.last_write())
        return calendar.period_text(int(at))

    def _agreed(self, content: bytes, calendar: Calendar, now: float, in_trouble: bool) -> int:
        """Return the rollover time that the sidecar's *content* gives at the time *now*."""
        at = calendar.read_rollover(content, now)
        modified = self.last_write()
        # What this process and the others agreed on, if it may still be believed.
        known = calendar.read_rollover(format_rollover(self.at), now) if self._asked_at < math.inf else None
        # Whether the live file is the one from before that, with nothing in it from after.
        old = (
            modified is not None
            and modified < (known or 0) - _TICK
            and self._live.identity() == self._file_then
        )
        if known is not None and (at is None or (old and known <= now < at)):
            # Lost, or written for another log of the same name that shares this sidecar.
            at = known
        if at is None:
            return calendar.first_boundary(now, modified)
        if modified is not None and at < modified <= now:
            boundary = calendar.following(modified)
            if not self._sidecar.writable:
                return boundary  # somebody has rolled over, and could not write the next time down
            # Written for a whole period without a rollover: another program, or an older
            # handler, had the log meanwhile, and the time is from before that.
            if not in_trouble and boundary >= calendar.following(calendar.following(at)):
                return boundary
        return at
