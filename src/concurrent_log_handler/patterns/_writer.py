"""Writing what was queued: one thread at a time, handler by handler; a failing one costs itself and nobody else.

It owns the turn to write, what is out of the queue and not written yet, and the errors of handlers.  In which thread
that happens, and when, is `_listener`'s.
"""

from __future__ import annotations

import logging
import logging.handlers
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from concurrent_log_handler._forks import among_greenlets
from concurrent_log_handler._patience import monotonic

from ._common import NEVER, Trouble, complain, end_of, wait_until
from ._queue import queue_of

Task = tuple[Any, deque[Any]]  # a handler, or None for all of them, and what it has not been given yet
Note = Callable[[logging.LogRecord], Any]
# Records written under one lock: formatting them holds the interpreter for about a millisecond.
_BATCH = 200
_HANGS = 1.0  # whoever writes, after so many seconds without any progress
_LATECOMERS = 0.5  # seconds after the last one came in which records of other processes may be on their way


class QueueWriter(logging.handlers.QueueListener):
    """
    The half of a listener that writes.

    What an interrupt cuts off stays in hand for whoever writes next.  No lock is waited on: those who want to
    write look again every half millisecond, which is right for threads, greenlets and signal handlers alike.
    """

    def __init__(self, queue: Any, *handlers: logging.Handler, respect_handler_level: bool = True) -> None:
        super().__init__(queue, *handlers, respect_handler_level=respect_handler_level)
        self._queue = queue_of(queue)
        self._tasks: list[Task] = []
        self._failing = Trouble()  # of handlers
        self._worse = Trouble()  # of what fails to report, or is no handler's
        self._begin_afresh()
        if self._queue.reader is None or not self._queue.reader.running:
            self._queue.reader = self

    def _begin_afresh(self) -> None:
        """Nobody writes, and nothing is in hand: at the start, and in a forked child."""
        for _, records in self._tasks:
            records.clear()  # a greenlet that gevent's fork() has copied may be in the middle of it
        self._tasks = []
        #: The thread that writes, if there is one: `setdefault` takes the turn in one step.
        self._turn: dict[str, int] = {}
        self._waiting: set[int] = set()
        self._steps = 0  # that anybody got on by
        self._suspect: logging.LogRecord | None = None  # at which a handler exited, or a signal handler did

    def _mine(self) -> bool:
        """This thread is in the middle of a write."""
        return self._turn.get("writes") == threading.get_ident()

    def _in_turn(self, step: Callable[[], Any], patience: float = _HANGS) -> Any:
        """Return `step()`, called while nobody else writes; None after *patience* seconds in which nobody got on."""
        if self._mine():
            return step()
        try:
            try:
                return step() if self._wait_for_turn(threading.get_ident(), patience) else None
            finally:
                self._give_turn_back()
        finally:
            self._give_turn_back()  # an interrupt may have cut the `finally` above short

    def _give_turn_back(self) -> None:
        if self._mine():
            self._steps += 1
            self._turn.pop("writes", None)

    def _wait_for_turn(self, me: int, patience: float) -> bool:
        try:
            if self._waiting:
                time.sleep(0.001)  # whoever has just written lets the others go first
            self._waiting.add(me)
            taken = partial(self._turn.setdefault, "writes", me)
            return wait_until(lambda: taken() == me, patience, lambda: (self._steps, self._in_hand()))
        except AssertionError:  # inside the hub of greenlets nobody may wait
            return False
        finally:
            self._waiting.discard(me)

    def _in_hand(self) -> int:
        """Number of records that are out of the queue and not written yet."""
        return max((len(records) for _, records in list(self._tasks)), default=0)

    def _write_some(self) -> int:
        """In turn: finish what was interrupted, take at most one batch and write it; returns its size."""
        self._finish()
        batch: deque[Any] = deque()
        self._tasks.append((None, batch))
        self._queue.take(_BATCH, batch)
        size = len(batch)
        self._steps += 1
        self._finish()
        self._queue.done(size)
        return size

    def _finish(self) -> None:
        tasks = self._tasks
        while tasks:
            handler, records = tasks[0]
            if handler is None:
                # In one step: an interrupt finds each record here or there.
                tasks[:1] = self._shared_out(records)
            else:
                self._give(handler, records)
                del tasks[0]

    def _write_due(self, deadline: float = NEVER) -> bool:
        """In turn: write what is queued at this moment, at most until the *deadline*."""
        # What other processes put in comes out a little later, or never: one that was killed may have counted it.
        patience = _LATECOMERS if self._queue.crosses_processes else 0.0
        size, quiet_until = self._queue.qsize(), end_of(patience)
        due = NEVER if size is None else size or 1
        while due > 0 and monotonic() < deadline:
            wrote = self._write_some()
            due -= wrote
            if wrote:
                quiet_until = end_of(patience)
            elif monotonic() >= quiet_until or self._queue.qsize() == 0:
                break
            else:
                time.sleep(0.001)
        return True

    def handle(self, record: logging.LogRecord) -> Any:
        """Give one record to the handlers, in this thread."""
        for task in self._for_each_handler([self.prepare(record)]):
            self._give(*task)

    def write_queued(self) -> None:
        """Write what is queued at this moment, unless another thread hangs in a write."""
        self._in_turn(self._write_due)

    def _shared_out(self, taken: Sequence[Any]) -> list[Task]:
        batch = [record for record in taken if record is not None]
        own = type(self).handle, type(self).prepare
        if own != (QueueWriter.handle, logging.handlers.QueueListener.prepare):
            return [(self, deque(batch))]  # a subclass has its own idea of one record
        return self._for_each_handler(batch)

    def _for_each_handler(self, batch: Sequence[Any]) -> list[Task]:
        def passing(level: int) -> Iterable[Any]:
            if not (level and self.respect_handler_level):
                return batch
            # What is no record, but was put into the queue all the same, is the handler's to complain of.
            numbers = (getattr(record, "levelno", None) for record in batch)
            return (r for r, number in zip(batch, numbers) if not isinstance(number, int) or number >= level)

        return [(each, deque(passing(each.level))) for each in self.handlers]

    def _give(self, handler: Any, records: deque[Any]) -> bool:
        """Give *handler* all of *records*; tell whether it let one through."""
        passed = bool(records) and _takes_batches(handler)
        try:
            if passed:
                handler.emit_batch(records)
                records.clear()
                self._failing.ends()
        except BaseException as error:
            if _interrupts(error):
                raise  # what is left stays for whoever writes next
            if not records:
                self._complain()  # all is written; it is the reporting that failed
        while records:
            record = records[0]
            try:
                verdict = handler.handle(record)
                passed = passed or verdict is None or bool(verdict)
            except BaseException as error:
                pressed = isinstance(error, KeyboardInterrupt)
                # What comes with the same record again is no interrupt: the handler itself exits.
                if _interrupts(error) and (pressed or self._suspect is not record):
                    self._suspect = None if pressed else record
                    raise
                self._failed(handler, record)  # one record must not cost its neighbours
            else:
                self._failing.ends()
            if records:
                records.popleft()
        return passed

    def _failed(self, handler: Any, record: Any) -> Any:
        """Called inside the `except` of a handler that raised; what comes out of here is no handler's."""
        try:
            report(handler, record, self._failing)
            self._worse.ends()
        except BaseException as worse:  # noqa: BLE001 - reporting must not cost the records that follow
            if _interrupts(worse):
                raise
            self._complain()

    def _complain(self, _record: Any = None) -> None:
        """Tell of the exception of this moment."""
        if logging.raiseExceptions:
            error = sys.exc_info()[1]
            self._worse.complain(f"concurrent_log_handler: {error!r} while writing queued records; going on")

    handleError = _complain  # noqa: N815 - a handler's: where `handle` or `prepare` of a subclass raised

    def _tell_of_drops(self, at_once: bool = False) -> None:
        """Let the log tell of dropped records, if that is due, or *at_once*."""
        if self._queue.report_at < (NEVER if at_once else monotonic()):
            self._in_turn(lambda: self._queue.report_drops(self._tell))

    def _tell(self, told: logging.LogRecord) -> None:
        # All of them, not any(): each gets it.
        if True not in [self._give(handler, records) for handler, records in self._for_each_handler([told])]:
            complain(f"concurrent_log_handler: {told.getMessage()}")


def report(handler: logging.Handler, record: logging.LogRecord, streak: Trouble) -> None:
    """Have *handler* report its error: each, if it has its own way of doing so, else the first of a *streak*."""
    reports = getattr(handler.handleError, "original", handler.handleError)  # behind a tap
    own = getattr(reports, "__func__", None) is not logging.Handler.handleError
    if streak.begins() or own:
        handler.handleError(record)


def _takes_batches(handler: Any) -> bool:
    """*handler* has `emit_batch`, and neither a filter nor anything overridden that this would bypass."""
    for owner in (handler, *type(handler).__mro__):
        if not vars(owner).keys().isdisjoint(("emit_batch", "emit", "handle", "filter")):
            return "emit_batch" in vars(owner) and "filter" not in vars(owner) and not handler.filters
    return False


def _interrupts(error: BaseException) -> bool:
    """Ctrl-C, or a signal handler that exits: only the main thread runs those, in whichever greenlet it is."""
    here = among_greenlets() or threading.current_thread() is threading.main_thread()
    return here and not isinstance(error, Exception)


class _Tap(threading.local):
    """A `handleError` that lets the note of its thread hear first; other threads' errors go where they always went."""

    note: Note | None = None

    def __init__(self, original: Callable[[logging.LogRecord], None]) -> None:
        self.original = original

    def __call__(self, record: logging.LogRecord) -> None:
        if self.note is None or not self.note(record):
            self.original(record)


@contextmanager
def errors_noted(handler: Any, note: Note) -> Iterator[None]:
    """While this thread is in here, *note* hears first of what *handler* would report; if it returns true, alone."""
    if not isinstance(handler.handleError, _Tap):
        handler.handleError = _Tap(handler.handleError)
    tap = handler.handleError
    outer, tap.note = tap.note, note
    try:
        yield
    finally:
        tap.note = outer
