"""Patience: a clock that a test-suite's frozen time does not reach, and when to try again what failed."""

from __future__ import annotations

import time
from functools import partial
from typing import Callable

_FIRST_PAUSE = 0.1
_LAST_PAUSE = 5.0

# freezegun replaces time.monotonic in every module that has it, and a wait that goes by it never ends.
# It does not know clock_gettime(), which Windows lacks, nor a partial.
monotonic: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_MONOTONIC)
    if hasattr(time, "clock_gettime")
    else partial(time.monotonic)
)


class Streak:
    """Errors of one kind that come again and again: the first is told, and the next try comes later each time."""

    def __init__(self) -> None:
        self.pause = 0.0
        self.until = 0.0

    def note(self, error: BaseException, report: Callable[[BaseException], None]) -> None:
        """Note *error*, and report it if it is the first since the last success."""
        first = not self.pause
        self.pause = min(2 * self.pause or _FIRST_PAUSE, _LAST_PAUSE)
        self.until = monotonic() + self.pause
        if first:
            report(error)

    def end(self) -> None:
        self.pause = self.until = 0.0

    def waits(self) -> bool:
        return bool(self.pause) and monotonic() < self.until
