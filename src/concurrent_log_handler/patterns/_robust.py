"""A listener that sees every error: those that handlers raise, and those that they swallow."""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING, Any

from concurrent_log_handler.patterns._counter import Counter
from concurrent_log_handler.patterns._handing import known_handles
from concurrent_log_handler.patterns._handout import complain
from concurrent_log_handler.patterns._listener import BatchingQueueListener
from concurrent_log_handler.patterns._taps import errors_come_to

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable

    ErrorHandler = Callable[[logging.LogRecord, BaseException], Any]


class RobustQueueListener(BatchingQueueListener):
    """
    A listener that counts and reports every error of its handlers, and outlives them all.

    Handlers keep an error of the disk to themselves: `emit()` calls `handleError()`, which prints a
    traceback.  While this listener writes, such errors come here instead, as do the exceptions that a
    handler raises.  Not its writing, and so the handler's own to report, are a compression in the
    background and what a queue handler writes through its fallback.

    Args:
        queue: As for `BatchingQueueListener`.
        handlers: As there.
        error_handler: Called with the record and the exception, in the thread that writes.  If it raises,
            that is reported on stderr and nothing else happens.  Without one, a line on stderr reports
            the first error and then at most one a second.
        respect_handler_level: As for `BatchingQueueListener`.
    """

    def __init__(
        self,
        queue: Any,
        *handlers: logging.Handler,
        error_handler: ErrorHandler | None = None,
        respect_handler_level: bool = True,
    ) -> None:
        super().__init__(queue, *handlers, respect_handler_level=respect_handler_level)
        self.error_handler: ErrorHandler = error_handler or self.default_error_handler
        self._errors = Counter()
        self._last_line: float | None = None

    @property
    def error_count(self) -> int:
        """Number of errors so far; counted before the error handler is called.  May be set."""
        return self._errors.value()

    @error_count.setter
    def error_count(self, value: int) -> None:
        self._errors.set(value)

    def default_error_handler(self, record: logging.LogRecord, exception: BaseException) -> None:
        """Report on stderr, at most once a second."""
        now = time.monotonic()
        if self._last_line is None or now - self._last_line >= 1.0:
            self._last_line = now
            complain(f"logging error #{self.error_count} ({record.name}): {exception!r}")

    def _hand_to(self, handler: Any, records: deque[logging.LogRecord]) -> None:
        with errors_come_to(self._swallowed, [] if handler is None else [handler]):
            super()._hand_to(handler, records)

    def _offer(self, handler: Any, record: logging.LogRecord) -> bool:
        with errors_come_to(self._swallowed, [handler]):
            return super()._offer(handler, record)

    def _swallowed(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        self._report(record, error if error is not None else RuntimeError("handleError was called"))

    def _failed(
        self, handler: logging.Handler | None, record: logging.LogRecord, error: BaseException
    ) -> None:
        del handler
        self._report(record, error)

    def _report(self, record: logging.LogRecord, error: BaseException) -> None:
        self._errors.add()
        try:
            self.error_handler(record, error)
        except Exception as worse:  # noqa: BLE001 - the error handler must not end the listener
            complain(f"the error handler raised {worse!r} while reporting {error!r}")


known_handles.add(RobustQueueListener.handle)
