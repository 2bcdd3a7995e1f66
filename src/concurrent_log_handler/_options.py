"""What a caller may ask for: every constructor argument, checked once, with an error that says what is accepted.

Nothing here touches a log file.
"""

from __future__ import annotations

import codecs
import contextlib
import datetime as dt
import locale
import math
import operator
import os
import re
import threading
from typing import Any, Callable, Iterator, Optional, Sequence, SupportsIndex, Tuple, Union

Size = Union[int, float, str]
Count = Union[int, str]
Owner = Sequence[Union[str, int, None]]

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:(?:([kmgt])(i?))?b)?\s*", re.ASCII | re.IGNORECASE)
_DIGITS = re.compile(r"\s*\d{1,18}\s*", re.ASCII)  # more is nobody's number
_HIGHEST_ID = 2**32 - 2  # -1 stands for "leave it" in chown(2)
_EXTERNAL = "ext://"  # as in logging.config
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


@contextlib.contextmanager
def accepted(what: str, value: Any) -> Iterator[None]:
    """Word a `TypeError` or `ValueError` from inside: *what* is accepted, and *value* was given."""
    try:
        yield
    except (TypeError, ValueError, LookupError, OverflowError) as error:
        msg = f"{what}, got {value!r}"
        raise (TypeError if isinstance(error, TypeError) else ValueError)(msg) from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def size(value: Size, name: str) -> int:
    """
    Return *value* in whole bytes.

    Accepted: an int, a float (rounded down), or text: digits, or a number with a decimal unit
    (`"10 MB"` is 10,000,000) or a binary one (`"512 KiB"` is 524,288).
    """
    what = f"{name} must be a number of bytes, 0 or more, or text such as '10 MB' or '512 KiB'"
    with accepted(what, value):
        match = _SIZE.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            return count(math.floor(value) if isinstance(value, float) else value, name)
        number, prefix, binary = match.groups("")
        factor = (1024 if binary else 1000) ** " kmgt".index(prefix.lower() or " ")
        # More digits than any disk has bytes are an error, too.
        return int(number) * factor if number.isdigit() else int(float(number) * factor)


def count(value: Any, name: str) -> int:
    """Return *value*, a number or, from the environment say, its digits as text, as an int of 0 or more."""
    with accepted(f"{name} must be a whole number, 0 or more", value):
        if isinstance(value, bool):
            raise TypeError
        if isinstance(value, str) and not _DIGITS.fullmatch(value):
            raise ValueError
        number = int(value) if isinstance(value, str) else operator.index(value)
        if number < 0:
            raise ValueError
        return number


def mode(value: Any) -> str:
    """Return the open mode: `"a"`, `"w"` or `"x"`; a trailing `t` or `+` changes nothing for a log."""
    with accepted("mode must be 'a', 'w' or 'x'", value):
        letters = _text(value).replace("t", "", 1).replace("+", "", 1)
        if letters not in ("a", "w", "x"):
            raise ValueError
        return letters


def encoding(value: Optional[str]) -> str:
    """Return the name of a text encoding; None is the locale's, as for `open()`."""
    if value is None or value == "locale":
        return locale.getpreferredencoding(False)
    with accepted("encoding must be the name of a text encoding such as 'utf-8'", value):
        if not getattr(codecs.lookup(value), "_is_text_encoding", True):
            raise ValueError
    return value


def errors(value: Optional[str], policy: Optional[str]) -> str:
    """Return the name of the error handler for characters that the encoding lacks."""
    name, asked = ("errors", value) if value is not None else ("unicode_error_policy", policy)
    if asked is None:
        return "backslashreplace"
    what = f"{name} must name an error handler such as 'backslashreplace', 'replace' or 'strict'"
    with accepted(what, asked):
        codecs.lookup_error(asked)
    return asked


def newline(value: Optional[str]) -> str:
    r"""Return what stands in the file for `\n`; None is the platform's, `""` leaves it, as for `open()`."""
    with accepted("newline must be None, '', '\\n', '\\r' or '\\r\\n'", value):
        if value is not None and _text(value) not in ("", "\n", "\r", "\r\n"):
            raise ValueError
    return os.linesep if value is None else value or "\n"


def terminator(value: Any) -> str:
    """Return the text that ends a record; None is a line feed, as in CLH."""
    with accepted("terminator must be text such as '\\n'", value):
        return "\n" if value is None else _text(value)


def bits(value: Any, name: str) -> Optional[int]:
    """Return *value* (an int, or octal text such as `"0640"`) as permission bits."""
    if value is None:
        return None
    what = f"{name} must be permission bits such as 0o640, from 0 to 0o7777"
    with accepted(what, value):
        number = int(value, 8) if isinstance(value, str) else count(value, name)
        if not 0 <= number <= 0o7777:
            raise ValueError
    if value == number and number & 0o1000 and re.fullmatch("[0-7]{3}", str(number)):
        msg = f"{what}, got {value!r}, which is {oct(number)}; did you mean 0o{number}?"
        raise ValueError(msg)
    return number


def owner(value: Optional[Owner]) -> Tuple[int, int]:
    """Return (uid, gid) for a pair of names or numbers; None in it, or on Windows, leaves that part as it is (-1)."""
    if value is None:
        return -1, -1
    with accepted("owner must be a pair (user, group) of names or numbers", value):
        if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
            raise TypeError
        user, group = value
        if not all(part is None or isinstance(part, (str, SupportsIndex)) for part in value):
            raise TypeError
    try:
        import grp  # noqa: PLC0415 - not on Windows
        import pwd  # noqa: PLC0415
    except ImportError:
        return -1, -1
    try:
        user = pwd.getpwnam(user).pw_uid if isinstance(user, str) else user
        group = grp.getgrnam(group).gr_gid if isinstance(group, str) else group
    except KeyError as error:
        msg = f"owner {value!r} is unknown on this machine: {error.args[0]}"
        raise ValueError(msg) from None
    uid, gid = (-1 if part is None else count(part, "owner") for part in (user, group))
    if max(uid, gid) > _HIGHEST_ID:
        msg = f"owner: there is no user or group {max(uid, gid)}"
        raise ValueError(msg)
    return uid, gid


def flag(value: Any, name: str) -> bool:
    """Return *value* as a bool; text is refused, since `"no"` would count as true."""
    with accepted(f"{name} must be True or False", value):
        if isinstance(value, (str, bytes)):
            raise TypeError
    return bool(value)


def seconds(value: Any, name: str) -> Optional[float]:
    """Return *value* as seconds of 0 or more; None means without a limit."""
    if value is None:
        return None
    with accepted(f"{name} must be seconds, 0 or more, or None", value):
        if isinstance(value, (bool, str, bytes)):
            raise TypeError
        number = float(value)
        if not number >= 0:
            raise ValueError
    return None if number > threading.TIMEOUT_MAX else number  # more than any clock of the system can tell


def total_bytes(value: Optional[Size], max_bytes: int) -> Optional[int]:
    """Return the limit of all files together in bytes, with room for one file of *max_bytes*; None is no limit."""
    if value is None:
        return None
    number = size(value, "max_total_bytes")
    least = f"at least maxBytes ({max_bytes})" if max_bytes else "1 or more"
    with accepted(f"max_total_bytes must be {least}, or None for no limit", value):
        if number < max(1, max_bytes):
            raise ValueError
    return number


def age(value: Union[float, dt.timedelta, None]) -> Optional[float]:
    """Return *value*, seconds or a `timedelta`, as seconds above 0; None is without a limit."""
    number = value.total_seconds() if isinstance(value, dt.timedelta) else value
    with accepted("max_age must be seconds or a timedelta, more than 0, or None for no limit", value):
        found = seconds(number, "max_age")
        if found == 0:
            raise ValueError
    return found


def callback(value: Any, name: str) -> Any:
    """Return *value*, or what a dotted name such as `"package.module.function"` or `"ext://…"` stands for."""
    found = _resolve(value, name) if isinstance(value, str) else value
    with accepted(f"{name} must be a callable or a dotted name of one", found):
        if found is not None and not callable(found):
            raise TypeError
    return found


def header(value: Any) -> Union[str, Callable[[], str], None]:
    """Return the text or the callable that *value* is, or whose dotted name (or `ext://` and one) it is, or None."""
    if isinstance(value, str) and (value.startswith(_EXTERNAL) or _DOTTED.fullmatch(value)):
        hint = "; end it with a line feed if it is the header's text"
        value = _resolve(value, "header", hint)
    return value if value is None or callable(value) else header_text(value)


def header_text(value: Any) -> str:
    with accepted("header must be text, or a callable that returns it or a dotted name of one", value):
        return _text(value)


def _resolve(dotted: str, name: str, hint: str = "") -> Any:
    from logging.config import BaseConfigurator  # takes as long to import as all of `logging`

    path = dotted.removeprefix(_EXTERNAL)
    msg = f"{name} {dotted!r} cannot be resolved; a name such as 'package.module.function' is accepted{hint}"
    if not _DOTTED.fullmatch(path):
        raise ValueError(msg)
    try:
        return BaseConfigurator({}).resolve(path)
    except (ValueError, AttributeError) as error:
        msg = f"{msg}: {error.__cause__ or error}"
        raise ValueError(msg) from error
