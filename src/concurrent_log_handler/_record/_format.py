"""A record becomes text, as `logging.Formatter` does it, at less than half of what that costs.

`time.localtime` and `strftime` take more than half of what the standard library spends on a usual format, for a text
that changes once a second; of the rest, looking up each field in a dictionary of the record's attributes takes most.
"""

from __future__ import annotations

import logging
import re
import time
from functools import lru_cache
from keyword import iskeyword
from logging import Formatter, LogRecord
from typing import Any, Callable, Dict, NamedTuple, Optional

_DEFAULT = Formatter()  # what `logging.Handler.format` uses where no formatter is set
_MSEC_FORMAT = "%s,%03d"  # the one that nearly everybody has
_MSECS = tuple(f",{number:03d}" for number in range(1000))
_FIELD = re.compile(r"%\(([a-zA-Z_]\w*)\)([-#0 +]*\d*(?:\.\d+)?[hlL]?[a-zA-Z])", re.ASCII)


class _Plan(NamedTuple):
    """What is known about a formatter, for the records of one second."""

    formatter: Any
    fmt: Any
    quick: bool  # its methods are the standard library's, so we may do their work
    uses_time: bool
    fill: Optional[Callable[[LogRecord], str]]  # does what its `formatMessage` does; None: leave it to that
    second: float
    date: str
    msec_format: Optional[str]  # adds the milliseconds


class QuickFormat:
    """
    Formats for one handler.

    Any formatter with methods of its own, and any record with a traceback or a stack, is left to the formatter.
    """

    def __init__(self) -> None:
        # Replaced whole, never changed: a signal handler may log between any two steps.
        self._plan = _Plan(None, None, False, False, None, -1.0, "", None)

    def text(self, formatter: Optional[Formatter], record: LogRecord) -> str:
        """Return what `formatter.format(record)` returns."""
        known: Any = formatter or _DEFAULT
        learned, fmt, quick, uses_time, fill, second, date, msec_format = self._plan
        try:
            fresh = second <= record.created < second + 1.0 and known is learned
            # Somebody may have replaced a method of the formatter, or of its class.
            if not fresh or (quick and known._style._fmt is not fmt):  # noqa: SLF001
                plan = self._plan = _learn(known, record.created)
                _, _, quick, uses_time, fill, _, date, msec_format = plan
        except TypeError:  # a record made from somebody's dictionary
            quick = False
        if not quick or record.exc_info or record.exc_text or record.stack_info:
            return known.format(record)  # type: ignore[no-any-return]
        record.message = record.getMessage()
        if uses_time:
            if msec_format == _MSEC_FORMAT and 0 <= record.msecs < 1000:
                record.asctime = date + _MSECS[int(record.msecs)]
            else:
                record.asctime = date if msec_format is None else msec_format % (date, record.msecs)
        if fill is not None and type(record) is LogRecord:
            try:
                return fill(record)
            except (AttributeError, TypeError, ValueError):
                pass  # formatMessage() has the standard library's words for it
        return known.formatMessage(record)  # type: ignore[no-any-return]


def _learn(formatter: Any, created: float) -> _Plan:
    kind = type(formatter)
    style = getattr(formatter, "_style", None)
    quick = style is not None and all(
        getattr(kind, name, None) is getattr(Formatter, name)
        and name not in vars(formatter)
        and _is_loggings(getattr(Formatter, name))
        for name in ("format", "formatTime", "formatMessage", "usesTime")
    )
    fmt = getattr(style, "_fmt", None)
    usual = type(style) is logging.PercentStyle and not getattr(style, "_defaults", None)
    fill = _compile(fmt) if usual and isinstance(fmt, str) else None
    second, date, msec_format = float(created // 1), "", None
    uses_time = quick and formatter.usesTime()
    if uses_time:
        form = formatter.datefmt or formatter.default_time_format
        date = time.strftime(form, formatter.converter(second))
        msec_format = None if formatter.datefmt else formatter.default_msec_format or None
    return _Plan(formatter, fmt, quick, uses_time, fill, second, date, msec_format)


def _is_loggings(method: Any) -> bool:
    """Tell whether *method* is still the one of the `logging` module, which may be patched at any time."""
    code = getattr(method, "__code__", None)
    return code is not None and code.co_filename == logging.getLogger.__code__.co_filename


@lru_cache(maxsize=64)
def _compile(fmt: str) -> Optional[Callable[[LogRecord], str]]:
    """
    Return a function that fills the `%` format *fmt* from a record, as an f-string does; None if it is unusual.

    Its source has nothing of *fmt* but the fields' names: the text between them, and conversions
    such as `%05d`, are constants that the source names.
    """
    constants: Dict[str, str] = {}

    def constant(text: str) -> str:
        name = f"text_{len(constants)}"
        constants[name] = text
        return name

    source, end = "", 0
    for found in _FIELD.finditer(fmt):
        between, (name, conversion) = fmt[end : found.start()], found.groups()
        end = found.end()
        # `record.name` is `record.__dict__["name"]`, but for what the class has, too.
        if "%" in between or iskeyword(name) or hasattr(LogRecord, name):
            return None
        source += f"{{{constant(between)}}}"
        if conversion == "s":
            source += f"{{record.{name}!s}}"
        else:
            source += f"{{{constant('%' + conversion)} % (record.{name},)}}"
    if "%" in fmt[end:]:
        return None
    source += f"{{{constant(fmt[end:])}}}"
    # Not eval() of the text: the interpreter would forget that a KeyboardInterrupt ends it, and end with status 1.
    code = compile(f'lambda record: f"{source}"', "<format>", "eval")
    return eval(code, constants)  # type: ignore[no-any-return]  # noqa: S307
