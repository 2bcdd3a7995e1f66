"""Errors that handlers keep to themselves: `emit()` calls `handleError()`, and whoever wants to know listens there."""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from concurrent_log_handler._afterwards import is_written

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Taker = Callable[[logging.LogRecord], None]


class _Tap:
    """Stands in for one handler's `handleError`; other threads' errors go where they always went."""

    def __init__(self, handler: logging.Handler) -> None:
        self.original = handler.handleError
        self.takers: dict[int, Taker] = {}

    def __call__(self, record: logging.LogRecord) -> None:
        self.takers.get(threading.get_ident(), self.original)(record)


@contextmanager
def errors_come_to(taker: Taker, handlers: Sequence[logging.Handler]) -> Iterator[None]:
    """While this thread is in here, *taker* gets what the *handlers* would report."""
    me = threading.get_ident()
    taps = []
    for handler in handlers:
        tap = _tap_of(handler)
        taps.append((tap, tap.takers.get(me)))
        tap.takers[me] = taker
    try:
        yield
    finally:
        for tap, previous in taps:
            if previous is None:
                tap.takers.pop(me, None)
            else:
                tap.takers[me] = previous


@contextmanager
def failures_noted(handler: logging.Handler) -> Iterator[list[logging.LogRecord]]:
    """Yield a list of the records that *handler* reports as not written, to whoever would hear of them anyway."""
    tap = _tap_of(handler)
    report = tap.takers.get(threading.get_ident(), tap.original)
    failed: list[logging.LogRecord] = []

    def note(record: logging.LogRecord) -> None:
        if not is_written(record):  # else it tells of what came after: a rotation, or a lock that was not had
            failed.append(record)
        report(record)

    with errors_come_to(note, [handler]):
        yield failed


def _tap_of(handler: logging.Handler) -> _Tap:
    tap = handler.__dict__.get("handleError")
    if not isinstance(tap, _Tap):
        tap = handler.__dict__["handleError"] = _Tap(handler)
    return tap
