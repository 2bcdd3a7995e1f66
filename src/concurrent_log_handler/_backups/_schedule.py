"""The next rollover time, by which all processes go: known here, written in the sidecar.

It is read only when the one that this process knows has come: between two boundaries a record costs one
look at the clock.  When boundaries are is `_calendar`'s arithmetic.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any, Callable, Optional, Tuple

from concurrent_log_handler._afterwards import Afterwards

from ._calendar import MIN_VALID_TIME, Calendar, format_rollover

_TICK = 0.02  # the time of a file's last change may lag the clock by this much
_AT_ONCE = 1.0  # any time long past

Inode = Tuple[int, int]  # with its device


class Schedule:
    """
    The rollover time of a log.

    Contract: `agree` and `share` are called with the sidecar's lock held.  *filled* returns the status of the live
    file, or None if there is no record in it; *identity* tells it from others.  *rolling*: it is being moved.
    """

    def __init__(
        self,
        filled: Callable[[], Optional[os.stat_result]],
        identity: Callable[[], Inode],
        sidecar: Any,
        afterwards: Afterwards,
    ) -> None:
        self._filled = filled
        self._identity = identity
        self._sidecar = sidecar
        self._afterwards = afterwards
        self.clock: Callable[[], float] = lambda: time.time()  # noqa: PLW0108 - a test-suite may freeze it
        self.at = 0.0  # the next rollover time that this process knows
        self._wake_at = _AT_ONCE  # from then on the sidecar is asked; the first record asks
        self._asked_at = 0.0  # the last time; a clock set back to before it may have made `at` meaningless
        self._file_then: Optional[Inode] = None  # the live file that `at` is about
        self._own = False  # the user has set it in this process

    def is_up(self) -> bool:
        """Tell whether the sidecar is to be asked."""
        return not self._asked_at <= self.clock() < self._wake_at

    def begin(self, calendar: Calendar) -> None:
        """Learn the time for the first time, without a lock."""
        if not self._own:
            content = b""
            with contextlib.suppress(OSError), open(self._sidecar.path, "rb") as sidecar:
                content = sidecar.read(64)
            self.at = self._agreed(content, calendar, self.clock(), False)

    def set(self, at: float, rolling: bool) -> None:
        """Take *at* for this process, until it has come."""
        self._know(at, 0.0, rolling)
        self._own = True

    def share(self, at: int, now: float, rolling: bool) -> None:
        """Make *at* everybody's rollover time."""
        self._own = False
        self._know(at, now, rolling)
        try:
            self._sidecar.write(format_rollover(at))
        except OSError as error:
            self._afterwards.report(error)

    def agree(self, calendar: Calendar, now: float, rolling: bool, in_trouble: bool) -> float:
        """Return the time that everybody goes by, and write it down; *in_trouble*: the last rollover failed."""
        if self._own:
            return self.at
        content = self._sidecar.read()
        at = self._agreed(content, calendar, now, in_trouble)
        if content == format_rollover(at) or not self._sidecar.writable:
            self._know(at, now, rolling)
        else:
            self.share(at, now, rolling)
        return at

    def settled(self) -> None:
        """Note that the rollover is done, and the live file another one."""
        if self._file_then is None:
            self._file_then = self._identity()

    def last_write(self) -> Optional[float]:
        """Return when the live file was last written to; None if there is nothing in it."""
        found = self._filled()
        return None if found is None else found.st_mtime

    def period(self, calendar: Calendar, at: float, now: float) -> str:
        """Return the text for the period that ends at *at*."""
        if at < MIN_VALID_TIME:  # set by hand, to have a rollover at once
            at = calendar.first_boundary(now, self.last_write())
        return calendar.period_text(int(at))

    def _know(self, at: float, now: float, rolling: bool) -> None:
        self.at = at
        self._asked_at = now
        self._wake_at = max(at, _AT_ONCE)
        self._file_then = None if rolling else self._identity()

    def _agreed(self, content: bytes, calendar: Calendar, now: float, in_trouble: bool) -> int:
        """Return the rollover time that the sidecar's *content* gives at the time *now*."""
        at = calendar.read_rollover(content, now)
        modified = self.last_write()
        # What this process and the others agreed on, if it may still be believed.
        known = calendar.read_rollover(format_rollover(self.at), now) if self._asked_at else None
        # Whether the live file is the one from before that, with nothing in it from after.
        before = 0.0 if known is None else known - _TICK
        old = modified is not None and modified < before and self._identity() == self._file_then
        if at is None or (old and known is not None and known <= now < at):
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
