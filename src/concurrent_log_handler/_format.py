"""A record becomes text, as `logging.Formatter` does it, with each second's date made only once.

`time.localtime` and `strftime` take more than half of what the standard library
spends on a usual format, for a text that changes once a second.
"""

from __future__ import annotations

import logging
import time
from logging import Formatter, LogRecord
from typing import Any, Optional, Tuple

_DEFAULT = Formatter()  # what `logging.Handler.format` uses where no formatter is set


class QuickFormat:
    """
    Formats for one handler, for as long as its formatter's own methods are the standard library's.

    Any other formatter, and any record with a traceback or a stack, is formatted by the formatter
    itself.  The text is the same in either case.
    """

    def __init__(self) -> None:
        # Replaced whole, never changed: a signal handler may log between any two steps.
        self._plan: Tuple[Any, Any, bool, bool, bool] = (None, None, False, False, False)
        self._moment: Tuple[float, str, Optional[str]] = (-1.0, "", None)

    def text(self, formatter: Optional[Formatter], record: LogRecord) -> str:
        """Return what `formatter.format(record)` returns."""
        known: Any = formatter or _DEFAULT
        learned, fmt, quick, percent, uses_time = self._plan
        if known is not learned or (quick and known._style._fmt is not fmt):  # noqa: SLF001
            _, fmt, quick, percent, uses_time = self._plan = _learn(known)
            self._moment = (-1.0, "", None)
        if not quick or record.exc_info or record.exc_text or record.stack_info:
            return known.format(record)  # type: ignore[no-any-return]
        record.message = record.getMessage()
        if uses_time:
            second, date, msec_format = self._moment
            if not second <= record.created < second + 1.0:
                self._plan = _learn(known)  # somebody may have replaced a method of the formatter
                if not self._plan[2]:
                    return known.format(record)  # type: ignore[no-any-return]
                second, date, msec_format = self._moment = _learn_second(known, record.created)
            record.asctime = date if msec_format is None else msec_format % (date, record.msecs)
        if percent:
            try:
                return fmt % record.__dict__  # type: ignore[no-any-return]
            except KeyError:
                pass  # formatMessage() has the standard library's words for it
        return known.formatMessage(record)  # type: ignore[no-any-return]


def _learn(formatter: Any) -> Tuple[Any, Any, bool, bool, bool]:
    """Return (formatter, its format, whether we may do its work, whether by `%`, whether it shows the time)."""
    kind = type(formatter)
    style = getattr(formatter, "_style", None)
    quick = style is not None and all(
        getattr(kind, name, None) is getattr(Formatter, name) and name not in vars(formatter)
        for name in ("format", "formatTime", "formatMessage", "usesTime")
    )
    percent = type(style) is logging.PercentStyle and not getattr(style, "_defaults", None)
    return formatter, getattr(style, "_fmt", None), quick, percent, quick and formatter.usesTime()


def _learn_second(formatter: Any, created: float) -> Tuple[float, str, Optional[str]]:
    """Return (the second, its date, the format that adds the milliseconds)."""
    second = float(created // 1)
    moment = formatter.converter(second)
    if formatter.datefmt:
        return second, time.strftime(formatter.datefmt, moment), None
    return (
        second,
        time.strftime(formatter.default_time_format, moment),
        formatter.default_msec_format or None,
    )
