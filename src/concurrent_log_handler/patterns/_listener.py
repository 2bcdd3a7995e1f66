"""When what was queued is written, and in which thread; one listener per queue.

The rule: while the listener's thread is there, it writes.  Whoever puts a record in and finds nobody awake calls
`attend`, which starts or wakes the thread, or, where the listener is stopped or no thread can be had, writes in the
calling thread.  Who cannot get its turn there leaves its record to the thread.  How it is written is `_writer`'s.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from concurrent_log_handler import _options
from concurrent_log_handler._forks import among_greenlets, notice_fork, threads_work
from concurrent_log_handler._locks._threads import holds_up
from concurrent_log_handler._patience import monotonic

from ._common import NEVER, Counter, WakeableThread, counted, end_of, wait_until
from ._exit import hook_exit_of_children
from ._writer import QueueWriter, errors_noted

ErrorHandler = Callable[[logging.LogRecord, BaseException], Any]
# After the queue ran empty, records gather for this long (seconds) before the thread looks again: an
# application that logs all the time then never pays for waking it.
_LINGER = 0.01


class BatchingQueueListener(QueueWriter):
    """
    A `logging.handlers.QueueListener` that takes all that is queued at once and survives `fork()`.

    Handlers that have an `emit_batch(records)` and no filters get whole batches.  A forked child starts with an
    empty queue and its own thread, by itself.  After `stop()`, and where no thread can be had, records are written
    in the thread that logs.  The end of the process stops every listener.

    Args:
        queue: A `RecordQueue` (fastest), `queue.Queue`, `multiprocessing.Queue` or the like.
        respect_handler_level: False gives each handler every record, the standard library's default.
    """

    running = False  #: Started, and not stopped.
    stopped = False  #: `stop()` was called: records are written by the thread that logs them.

    def _begin_afresh(self) -> None:
        super()._begin_afresh()
        # Its thread, if there is one: `setdefault` takes the place in one step.
        self._place: dict[str, WakeableThread] = {}
        self._starts_here: int | None = None  # a thread that is inside `Thread.start()`
        self.given_up = False  #: The exit has waited long enough for it.

    def after_fork(self) -> None:
        """In a forked child: begin without a thread; if the parent reads the queue, it was not started here."""
        self._begin_afresh()
        if self._queue.crosses_processes:
            self.running = self.stopped = False
        elif self.running and self._queue.look_again < NEVER:
            self._wake_thread()  # a standard QueueHandler tells nobody of its first record

    def start(self) -> None:
        """Begin to write, also after a `stop()`; a RuntimeError where another listener runs on the same queue."""
        notice_fork()
        other = self._queue.reader
        if other is not None and other is not self and other.running:
            msg = f"another listener is running on {self.queue!r}; two would split the records: stop it first"
            raise RuntimeError(msg)
        self._queue.reader = self
        self.running, self.stopped = True, False
        # An attended queue gets its thread with the first record: none is there to be lost in a fork()
        # that comes before.
        if self._queue.look_again < NEVER or self.has_thread or self.left():
            self._wake_thread()

    def stop(self, timeout: float | None = 30.0) -> int:  # type: ignore[override]
        """
        Write what is queued; from then on each record is written by the thread that logs it.

        Never raises, needs no room in the queue, and may be called again.  Returns the number of records not
        written in *timeout* seconds (None has no bound); the thread goes on with them.  A signal handler that
        interrupts a write, a queue of yours, or the start of the listener's thread does not wait.
        """
        notice_fork()
        if self._queue.reader != self:  # another has come after it, or the parent's reads
            return 0
        deadline = end_of(0.0 if self.given_up else timeout)
        self._close_intake()
        if self.busy_here():
            self._wake_thread()  # which may need what the interrupted code holds: one of the two goes on with it
            return self.left()
        if not self.has_thread and not (self.left() and self._wake_thread()):  # in which a handler may hang
            self._write_here(deadline)
        joined = None
        # Whoever had seen this listener run may start another one.
        while (worker := self._place.get("thread")) is not None and worker is not joined:
            worker.join(max(0.0, deadline - monotonic()), lambda: self.stopped)
            joined = worker
        # Else what is queued by now is in the hands of the threads that bring it.
        return self.left() if worker is not None or monotonic() >= deadline else 0

    def _close_intake(self) -> None:
        self.stopped, self.running = True, False
        self._queue.awake = False

    def stop_without_waiting(self, timeout: float | None) -> bool:
        """For a signal handler among greenlets: stop, and write all here; false if another one is inside a write."""
        notice_fork()
        if self._queue.reader != self:
            return True
        self._close_intake()
        step = partial(self._write_due, end_of(timeout))
        return not self.busy_here() and self._in_turn(step, 0.0) is not None

    def left(self) -> int:
        """Number of records that are queued or being written at this moment."""
        if self._queue.crosses_processes and not self.has_thread:
            return self._in_hand()  # what other processes still put in is not for this listener
        # In this order: a batch that changes hands meanwhile counts twice rather than not at all.
        return (self._queue.qsize() or 0) + self._in_hand()

    def flush(self, timeout: float | None = 30.0) -> int:
        """Wait until nothing is left to write, at most *timeout* seconds; returns the number of records left."""
        notice_fork()
        if self._queue.reader != self:
            return 0
        wait_until(
            lambda: not (self.left() and (self.running or self.has_thread) and self._wake_thread()), timeout
        )
        return self.left()

    def __enter__(self) -> Any:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    @property
    def has_thread(self) -> bool:
        """Its thread has not ended yet."""
        return "thread" in self._place

    def busy_here(self) -> bool:
        """This thread is in a write, the queue or a start, or has a handler's lock: it must not wait for the writer."""
        inside = self._mine() or threading.get_ident() in (*self._queue.inside, self._starts_here)
        return inside or any(holds_up(getattr(handler, "lock", None)) for handler in self.handlers)

    def write_at_once(self, record: logging.LogRecord) -> None:
        """Write *record* here, and nothing that other processes have queued; whoever writes still goes first."""
        if self.has_thread or self._in_turn(lambda: [self.handle(record)]) is None:
            self._queue.keep(record)
            self._wake_thread()

    def attend(self) -> None:
        """A record was queued while no thread was awake to see it."""
        goes_on = (self.running or self.has_thread) and self._wake_thread()
        if not goes_on and (self.running or self.stopped):
            self._write_here()

    def _write_here(self, deadline: float = NEVER) -> None:
        """See that what is queued at this moment is written, and that drops are told of, in this thread."""
        if self._mine():
            return  # interrupted by us: it looks into the queue again
        if self._in_turn(partial(self._write_due, deadline)) is None:
            self._wake_thread()  # another one hangs in a write: the listener's waits for its turn
        else:
            self._tell_of_drops(at_once=True)

    def _wake_thread(self) -> bool:
        """Ring for the thread, or start it; false if none can be had here."""
        known = self._place.get("thread")
        if known is not None:
            known.ring()
            if known.green == among_greenlets():
                return True
        if not threads_work():
            return False
        worker = WakeableThread(self._run, "log listener")
        if known is not None:
            # gevent or eventlet has come since then: the old thread sees that it is replaced, and leaves.
            self._place["thread"] = worker
        if self._place.setdefault("thread", worker) is worker:
            started = False
            try:
                self._starts_here = threading.get_ident()
                started = worker.start()
            finally:
                self._starts_here = None
                if not started:
                    self._vacate(worker)  # if it does come after an interrupt, it takes the place again
            hook_exit_of_children()
        return self.has_thread

    def _vacate(self, worker: WakeableThread) -> None:
        if self._place.get("thread") is worker:
            self._place.pop("thread", None)
            self._queue.awake = False

    def _run(self, worker: WakeableThread) -> None:
        """Write as records come, until `stop()` or a thread that has taken its place."""
        queue, lingering = self._queue, False
        # Looked up each time: gevent's fork() copies its greenlets, and this one may find itself in the child.
        while self._place.setdefault("thread", worker) is worker:
            try:
                self._tell_of_drops()
                stopping = self.stopped
                queue.awake = not stopping
                wrote = self._in_turn(self._write_due if stopping else self._write_some, _LINGER)
                if stopping and wrote is not None:
                    self._vacate(worker)
                    self._write_here()  # what others have left to this thread just before
                    if self.stopped:
                        return
                elif wrote:
                    lingering = True
                else:
                    pause = _LINGER
                    if wrote is not None and not lingering:
                        queue.awake = False
                        # Else they are those of a sender that was killed, perhaps, which had counted what never comes.
                        if not queue.qsize():
                            pause = min(queue.look_again, queue.report_at - monotonic())
                    lingering = False
                    worker.wait(pause)
            except BaseException as error:  # noqa: BLE001 - a handler that exits must not end the thread
                if worker.green and not isinstance(error, (Exception, SystemExit)):
                    # Ctrl-C, or killed: the next record, or the exit, starts another one.
                    self._vacate(worker)
                    raise
                self._complain()
                worker.wait(0.1)  # what only fails must not take the whole processor


class RobustQueueListener(BatchingQueueListener):
    """
    A listener that counts and reports every error of its handlers, and outlives them all.

    While it writes, what a handler would report by `handleError()` comes here, as do exceptions that one raises;
    not those of a compression in the background, nor of what is written through a fallback.

    Args:
        error_handler: Called with the record and the exception, in the thread that writes; if it raises, a line
            on stderr says so.  May be a dotted name.  Without one, stderr reports an error, at most once a second.
    """

    def __init__(
        self,
        queue: Any,
        *handlers: logging.Handler,
        error_handler: ErrorHandler | str | None = None,
        respect_handler_level: bool = True,
    ) -> None:
        given = _options.callback(error_handler, "error_handler")
        self.error_handler: ErrorHandler = given or self.default_error_handler
        super().__init__(queue, *handlers, respect_handler_level=respect_handler_level)
        self._errors = Counter()

    error_count: int = counted("_errors", "Errors, counted before the error handler is called.  May be set.")

    def default_error_handler(self, record: logging.LogRecord, exception: BaseException) -> None:
        """Report on stderr, at most once a second."""
        self._failing.ends()
        self._failing.complain(f"logging error #{self.error_count} ({record.name}): {exception!r}")

    def _give(self, handler: Any, records: deque[Any]) -> bool:
        with errors_noted(handler, partial(self._failed, None)):
            return super()._give(handler, records)

    def _failed(self, _handler: Any, record: Any) -> bool:
        error = sys.exc_info()[1] or RuntimeError("handleError was called")
        self._errors.add()
        try:
            self.error_handler(record, error)
        except Exception as worse:  # noqa: BLE001 - the error handler must not end the listener
            self._worse.ends()
            self._worse.complain(f"the error handler raised {worse!r} while reporting {error!r}")
        return True  # nobody else needs to hear of it
