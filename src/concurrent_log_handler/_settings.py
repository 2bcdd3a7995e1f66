"""What a handler was asked for: checked by `_options`, in one place, and shared by its parts."""

from __future__ import annotations

import os
from typing import Any, Callable, Dict, Generic, Mapping, Optional, TypeVar, Union

from . import _options
from ._record._format import TextFormat

LogFilenameType = Union[str, "os.PathLike[str]"]
OnRotated = Callable[[str], object]
Header = Callable[[], str]

_Value = TypeVar("_Value")


class Settings:
    """
    The settings of one handler, by the names of the constructor's arguments, which are *given*.

    A part that holds this sees at once what is set later through the handler.  It is pickled with the handler.
    """

    maxBytes: int
    backupCount: int
    max_total_bytes: Optional[int] = None
    max_age: Optional[float]
    on_rotated: Optional[OnRotated]
    lock_timeout: Optional[float]
    use_gzip: bool
    background_gzip: bool
    keep_file_open: bool
    header: Union[str, Header, None] = None
    fsync: bool
    shared_between_machines: Optional[bool]

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.text = TextFormat(
            _options.encoding(given["encoding"]),
            _options.errors(given["errors"], given["unicode_error_policy"]),
            _options.newline(given["newline"]),
            _options.terminator(given["terminator"]),
        )
        self.access = (
            *_options.owner(given["owner"]),
            _options.bits(given["chmod"], "chmod"),
            _options.bits(given["umask"], "umask"),
        )
        for name in (*_CHECKS, "max_total_bytes", "header", *_KEPT):
            self.change(name, given[name])
        mode = _options.mode(given["mode"])
        self.mode = "a" if self.maxBytes else mode  # as in CPython
        self.delay = given["delay"] is None or _options.flag(given["delay"], "delay")
        self.debug = _options.flag(given["debug"], "debug")

    def change(self, name: str, value: Any) -> None:
        """Check *value* and set the attribute *name*, now or later; raises as the constructor does."""
        if name in _CHECKS:
            value = _CHECKS[name](value, name)
        if name == "maxBytes":  # there must be room for it
            _options.total_bytes(self.max_total_bytes, value)
            if isinstance(self.header, str):
                self._opening(self.header, value)
        elif name == "max_total_bytes":
            value = _options.total_bytes(value, self.maxBytes)
        elif name == "header":
            value = _options.header(value)
            if isinstance(value, str):
                self._opening(value, self.maxBytes)
        setattr(self, name, value)

    def opening(self) -> bytes:
        """Return the bytes that open one more file; raises what a callable that is asked for the header raises."""
        header = self.header
        if callable(header):
            return self._opening(_options.header_text(header()), self.maxBytes)
        return self.text.opening(header or "")

    def _opening(self, header: str, max_bytes: int) -> bytes:
        opening = self.text.opening(header)
        if header and 0 < max_bytes <= len(opening) + len(self.text.seal):
            msg = f"header must leave room for a record below maxBytes ({max_bytes}), and takes {len(opening)} bytes"
            raise ValueError(msg)
        return opening


_CHECKS: Dict[str, Callable[[Any, str], Any]] = {
    "maxBytes": _options.size,
    "backupCount": _options.count,
    "max_age": lambda value, _: _options.age(value),
    "on_rotated": _options.callback,
    "lock_timeout": _options.seconds,
    **dict.fromkeys(("use_gzip", "background_gzip", "keep_file_open", "fsync"), _options.flag),
    "shared_between_machines": lambda value, name: None if value is None else _options.flag(value, name),
}
# Checked together, and kept as they were given.
_KEPT = ("owner", "chmod", "umask", "newline", "unicode_error_policy")


class Setting(Generic[_Value]):
    """A handler's attribute that stands in its settings, and may be set to whatever the constructor takes."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, handler: Any, owner: Any = None) -> _Value:
        if handler is None:
            return self  # type: ignore[return-value]  # on the class, as a property does
        return getattr(handler._settings, self._name)  # type: ignore[no-any-return]

    def __set__(self, handler: Any, value: Any) -> None:
        handler._settings.change(self._name, value)
        handler._rotation.adjust(handler)
