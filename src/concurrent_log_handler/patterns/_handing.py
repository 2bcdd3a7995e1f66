"""Which handler gets which record, and what one that fails costs: itself, and nobody else.

It owns the handing over and the reporting of errors.  In which thread that happens, and when, is
`_listener`'s; what an interrupt leaves in hand, `_turns`'.
"""

from __future__ import annotations

import logging
import logging.handlers
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from concurrent_log_handler.patterns._handout import complain, filtered, takes_batches

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from concurrent_log_handler.patterns._turns import Task

#: The `handle` methods of ours: a listener with another one is given its records one by one.
known_handles: set[Any] = set()


class HandingListener(logging.handlers.QueueListener):
    """A `QueueListener` that hands over whole batches; when and where is left to a subclass."""

    _suspect: logging.LogRecord | None = None  # the one at which a handler exited, or a signal handler did

    def _share(self, batch: Sequence[logging.LogRecord]) -> list[Task]:
        """Tasks for what came out of the queue."""
        kind = type(self)
        if kind.handle not in known_handles or "handle" in self.__dict__:
            return [(None, deque(batch))]  # a subclass has its own idea of one record
        if kind.prepare is not logging.handlers.QueueListener.prepare:
            batch = self._prepared(batch)
        return self._tasks(batch)

    def _prepared(self, batch: Sequence[logging.LogRecord]) -> list[logging.LogRecord]:
        prepared = []
        for record in batch:
            try:
                prepared.append(self.prepare(record))
            except Exception as error:  # noqa: BLE001 - one record must not cost its neighbours
                self._failed(None, record, error)
        return prepared

    def _tasks(self, batch: Sequence[logging.LogRecord]) -> list[Task]:
        tasks: list[Task] = []
        for handler in self.handlers:
            level = handler.level if self.respect_handler_level else 0
            # What is no record, but was put into the queue all the same, is the handler's to complain of.
            mine = (
                [record for record in batch if getattr(record, "levelno", level) >= level] if level else batch
            )
            tasks.append((handler, deque(mine)))
        return tasks

    def _offer(self, handler: Any, record: logging.LogRecord) -> bool:
        """Give *handler* one record; tell whether its level and filters let that through."""
        if self.respect_handler_level and record.levelno < handler.level:
            return False
        try:
            if takes_batches(handler):
                passed = tuple(filtered(handler, deque([record])))
                handler.emit_batch(passed)
                return bool(passed)
            verdict = handler.handle(record)
        except Exception as error:  # noqa: BLE001 - one handler must not cost the others the record
            self._failed(handler, record, error)
            return True
        return verdict is None or bool(verdict)

    def _hand_out(self, batch: Sequence[logging.LogRecord]) -> None:
        for task in self._tasks(batch):
            self._hand_to(*task)

    def _hand_to(self, handler: Any, records: deque[logging.LogRecord]) -> None:
        """Give *handler* all of *records* (None: `handle`, which a subclass overrides); none is left then."""
        if handler is None or not takes_batches(handler):
            self._hand_each(handler, records)
            return
        if not records:
            return
        first, passed = records[0], records
        try:
            passed = filtered(handler, records)
            if passed:
                handler.emit_batch(passed)
        except Exception as error:  # noqa: BLE001 - one handler must not cost the others the records
            self._failed(handler, passed[0] if passed else first, error)
        except BaseException as error:
            if passed is not records:
                records.clear()
                records.extend(passed)
            if _may_be_interrupted():
                raise  # what is left stays for whoever writes next
            if not records:
                self._failed(handler, first, error)
            self._hand_each(handler, records)
        records.clear()

    def _hand_each(self, handler: Any, records: deque[logging.LogRecord]) -> None:
        handle: Callable[[logging.LogRecord], Any] = self.handle if handler is None else handler.handle
        while records:
            record = records[0]
            try:
                handle(record)
            except Exception as error:  # noqa: BLE001 - one record must not cost its neighbours
                self._failed(handler, record, error)
            except BaseException as error:
                # Only the main thread is interrupted, by Ctrl-C or a signal handler that exits.  If it
                # comes with the same record again, the handler itself exits, as it does in any other thread.
                pressed = isinstance(error, KeyboardInterrupt)
                again = self._suspect is record and not pressed
                if _may_be_interrupted() and not again:
                    self._suspect = None if pressed else record
                    raise
                self._failed(handler, record, error)
            records.popleft()

    def _failed(
        self, handler: logging.Handler | None, record: logging.LogRecord, error: BaseException
    ) -> None:
        """Called inside the `except` of a handler that raised; what comes out of here is no handler's."""
        try:
            if handler is not None:
                handler.handleError(record)
            elif logging.raiseExceptions:
                complain(f"cannot log {record.getMessage()!r}: {error!r}")
        except BaseException as worse:  # noqa: BLE001 - reporting must not cost the records that follow
            if _may_be_interrupted() and not isinstance(worse, Exception):
                raise
            complain(f"concurrent_log_handler: reporting {error!r} failed: {worse!r}")


def _may_be_interrupted() -> bool:
    """Only the main thread runs signal handlers, Ctrl-C's among them."""
    return threading.current_thread() is threading.main_thread()
