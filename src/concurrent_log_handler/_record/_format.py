"""A record becomes text, as `logging.Formatter` does it, at less than half of what that costs; text becomes bytes.

`time.localtime` and `strftime` take more than half of what the standard library spends on a usual format, for a text
that changes once a second; of the rest, looking up each field in a dictionary of the record's attributes takes most.
"""

from __future__ import annotations

import codecs
import logging
import re
import sys
import time
from functools import lru_cache
from keyword import iskeyword
from logging import Formatter, LogRecord
from typing import Any, Callable, NamedTuple, Optional, Tuple

_DEFAULT = Formatter()  # what `logging.Handler.format` uses where no formatter is set
_MSEC_FORMAT = "%s,%03d"  # the one that nearly everybody has
_MSECS = tuple(f",{number:03d}" for number in range(1000))
_FIELD = re.compile(r"%\(([a-zA-Z_]\w*)\)([-#0 +]*\d*(?:\.\d+)?[hlL]?[a-zA-Z])", re.ASCII)
_ORDER = "le" if sys.byteorder == "little" else "be"
# Encodings that open a file with a byte order mark, and the same without one.
_WITHOUT_BOM = {"utf-8-sig": "utf-8", "utf-16": f"utf-16-{_ORDER}", "utf-32": f"utf-32-{_ORDER}"}


class _Plan(NamedTuple):
    """What is known about a formatter, for the records of one second."""

    formatter: Any
    fmt: Any
    quick: bool  # its methods are the standard library's, so we may do their work
    fill: Optional[Callable[[LogRecord], str]]  # does what its `formatMessage` does; None: leave it to that
    second: float
    date: Optional[str]  # None: it uses no time
    msec_format: Optional[str]  # adds the milliseconds


class QuickFormat:
    """
    Formats for one handler.

    Any formatter with methods of its own, and any record with a traceback or a stack, is left to the formatter.
    """

    def __init__(self) -> None:
        # Replaced whole, never changed: a signal handler may log between any two steps.
        self._plan = _Plan(None, None, False, None, -1.0, None, None)

    def text(self, formatter: Optional[Formatter], record: LogRecord) -> str:
        """Return what `formatter.format(record)` returns."""
        known: Any = formatter or _DEFAULT
        learned, fmt, quick, fill, second, date, msec_format = self._plan
        try:
            fresh = second <= record.created < second + 1.0 and known is learned
            # Somebody may have replaced a method of the formatter, or of its class.
            if not fresh or (quick and known._style._fmt is not fmt):  # noqa: SLF001
                plan = self._plan = _learn(known, record.created)
                _, _, quick, fill, _, date, msec_format = plan
        except TypeError:  # a record made from somebody's dictionary
            quick = False
        if not quick or record.exc_info or record.exc_text or record.stack_info:
            return known.format(record)  # type: ignore[no-any-return]
        record.message = record.getMessage()
        if date is not None:
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
    style = getattr(formatter, "_style", None)
    ours = ("format", "formatTime", "formatMessage", "usesTime")
    quick = style is not None and all(_is_loggings(formatter, name) for name in ours)
    fmt = getattr(style, "_fmt", None)
    usual = type(style) is logging.PercentStyle and not getattr(style, "_defaults", None)
    fill = _compile(fmt) if usual and isinstance(fmt, str) else None
    second, date, msec_format = float(created // 1), None, None
    if quick and formatter.usesTime():
        form = formatter.datefmt or formatter.default_time_format
        date = time.strftime(form, formatter.converter(second))
        msec_format = None if formatter.datefmt else formatter.default_msec_format or None
    return _Plan(formatter, fmt, quick, fill, second, date, msec_format)


def _is_loggings(formatter: Any, name: str) -> bool:
    """Tell whether the method *name* is still the one of the `logging` module, which may be patched at any time."""
    method = getattr(formatter, name, None)
    file = getattr(getattr(method, "__code__", None), "co_filename", None)
    return getattr(method, "__self__", None) is formatter and file == logging.getLogger.__code__.co_filename


@lru_cache(maxsize=64)
def _compile(fmt: str) -> Optional[Callable[[LogRecord], str]]:
    """
    Return a function that fills the `%` format *fmt* from a record, as an f-string does; None if it is unusual.

    Its source has nothing of *fmt* but the fields' names: the text between them, and conversions
    such as `%05d`, are constants that the source names.
    """
    *parts, last = _FIELD.split(fmt)  # in turns: the text before a field, its name, its conversion
    source, constants = "", {"last": last}
    for text, name, conversion in zip(parts[::3], parts[1::3], parts[2::3]):
        # `record.name` is `record.__dict__["name"]`, but for what the class has, too.
        if "%" in text or iskeyword(name) or hasattr(LogRecord, name):
            return None
        before, how = f"text_{len(constants)}", f"how_{len(constants)}"
        constants.update({before: text, how: "%" + conversion})
        field = f"record.{name}!s" if conversion == "s" else f"{how} % (record.{name},)"
        source += f"{{{before}}}{{{field}}}"
    if "%" in last:
        return None
    source += "{last}"
    # Not eval() of the text: the interpreter would forget that a KeyboardInterrupt ends it, and end with status 1.
    code = compile(f'lambda record: f"{source}"', "<format>", "eval")
    return eval(code, constants)  # type: ignore[no-any-return]  # noqa: S307


class TextFormat:
    r"""
    How a log's text stands in its file.

    Attributes:
        codec: The encoding of a single record, without a byte order mark.
        newline: What stands for `\n`.
        bom: Bytes that open a file, else empty.
        width: Bytes that one unit of the encoding takes; a torn record may end inside one.
        ends: What a whole record may end with; empty if a record has no recognisable end.
        longest_end: Bytes of the longest of them.
        seal: The bytes that end a torn record.
    """

    def __init__(self, encoding: str, errors: str, newline: str, terminator: str) -> None:
        name = codecs.lookup(encoding).name
        self.codec = _WITHOUT_BOM.get(name, name)
        self.errors = errors
        self.newline = newline
        self.bom = "".encode(encoding)
        self.width = len("a".encode(self.codec))
        self.set_terminator(terminator)

    def set_terminator(self, terminator: str) -> None:
        end, line_feed = self.encode(terminator), "\n".encode(self.codec)
        self.ends: Tuple[bytes, ...] = (end, line_feed) if end else ()
        self.longest_end = max(len(end), len(line_feed))
        self.seal = end or self.encode("\n")

    def opening(self, header: str) -> bytes:
        """Return the bytes that open a file: the byte order mark, and *header*, which ends as a record does."""
        data = self.encode(header)
        if data and self.ends and not data.endswith(self.ends):
            data += self.ends[0]
        return self.bom + data

    def encode(self, text: str) -> bytes:
        if self.newline != "\n":
            text = text.replace("\n", self.newline)
        return text.encode(self.codec, self.errors)
