"""When what was queued is written, and in which thread; one listener per queue.

The rule: while the listener's thread runs, it writes.  Whoever puts a record in and finds nobody awake
calls `_attend`, which starts or wakes the thread, or, where the listener is stopped or no thread can be had,
writes in the calling thread.  How it is written is `_writer`'s; what happens at a fork and at the end
of the process, `_exit`'s.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from concurrent_log_handler._clock import monotonic
from concurrent_log_handler._forks import notice_fork, threads_work
from concurrent_log_handler._locks._threads import is_mine
from concurrent_log_handler.patterns._exit import hook_exit_of_children, running
from concurrent_log_handler.patterns._worker import Counter, Streak, Worker, counted, threads_are_greenlets
from concurrent_log_handler.patterns._writer import QueueWriter, errors_noted

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable

    ErrorHandler = Callable[[logging.LogRecord, BaseException], Any]

# After the queue ran empty, records gather for this long (seconds) before the thread looks again: an
# application that logs all the time then never pays for waking it.
_LINGER = 0.01

_NEW, _RUNNING, _STOPPED = "new", "running", "stopped"


class BatchingQueueListener(QueueWriter):
    """
    A `logging.handlers.QueueListener` that takes all that is queued at once and survives `fork()`.

    Handlers that have an `emit_batch(records)` get whole batches; others one record after the other.
    A forked child starts with an empty queue and its own thread, by itself.  After `stop()`, and where
    no thread can be started any more, records are written in the thread that logs.  The interpreter's
    exit stops every listener that is still running.

    Args:
        queue: A `RecordQueue` (fastest), `queue.Queue`, `queue.SimpleQueue`, `multiprocessing.Queue` or
            the like.
        handlers: They get the records, in order.
        respect_handler_level: False gives each handler every record, as the standard library does by
            default.

    Raises:
        RuntimeError: From `start()`, if another listener is running on the same queue.
    """

    def __init__(self, queue: Any, *handlers: logging.Handler, respect_handler_level: bool = True) -> None:
        super().__init__(queue, *handlers, respect_handler_level=respect_handler_level)
        self._state = _NEW
        self._begin_afresh()
        if self._queue.reader is None or not self._queue.reader.running:
            self._adopt_queue()

    def _begin_afresh(self) -> None:
        """No thread: at the start, and in a forked child."""
        self._forget_turns()
        #: Its thread, if there is one: `setdefault` takes the place in one step.
        self._place: dict[str, Worker] = {}
        self._starts_here: int | None = None  # a thread that is inside `Thread.start()`

    def after_fork(self, parent_reads: bool) -> None:
        """In a forked child: begin without a thread; if *parent_reads* the queue, it was not started here."""
        busy = self.has_thread
        self._begin_afresh()
        if parent_reads:
            self._state = _NEW
            running.discard(self)
        elif busy and self._state == _RUNNING and not self._queue.attended:
            self._wake_thread()  # a standard QueueHandler tells nobody of its first record

    def _adopt_queue(self) -> None:
        self._queue.reader = self
        self._queue.attend = self._attend

    def start(self) -> None:
        """Begin to write.  Does nothing if it is running; may follow `stop()`."""
        notice_fork()
        if self._state == _RUNNING:
            return
        other = self._queue.reader
        if other is not None and other is not self and other.running:
            msg = (
                f"another listener is running on {self.queue!r}; two would split the records: "
                "give one listener all the handlers, or stop the other one first"
            )
            raise RuntimeError(msg)
        self._adopt_queue()
        self._state = _RUNNING
        running.add(self)
        # An attended queue gets its thread with the first record: none is there to be lost in a fork()
        # that comes before.
        if not self._queue.attended or self.has_thread or self.left():
            self._wake_thread()

    def stop(self, timeout: float | None = 30.0) -> int:  # type: ignore[override]
        """
        Write what is queued; from then on each record is written by the thread that logs it.

        Never raises and needs no room in the queue.  The second time there is nothing left to do, unless
        something cut the first one short.

        Args:
            timeout: Seconds to wait; None waits until all is written.

        Returns:
            The number of records that were not written in time.  They stay queued, and the thread goes
            on with them for as long as the process lives.  A signal handler that interrupts this thread
            inside a write, a queue of yours, or the start of the listener's thread, does not wait: the thread
            may need what the interrupted code holds.
        """
        notice_fork()
        reads = self._queue.reader is self
        if not reads:
            return 0  # it never started, or the parent reads: nothing here is this one's to write
        deadline = None if timeout is None else monotonic() + timeout
        first = self._state != _STOPPED
        self._close_intake()
        if self.busy_here():
            self._wake_thread()  # the interrupted code, or the thread, goes on with it
            return self.left()
        if timeout is not None and not self.has_thread and self.left():
            self._wake_thread()  # a handler that hangs then costs no more than the time given
        worker = self._place.get("thread")
        if worker is not None and not worker.join(deadline, lambda: self.stopped):
            self._hangs = True
        elif first or self._left_behind or self.left():
            self._write_here(deadline)
        # Else what is queued by now is in the hands of the threads that bring it.
        return self.left() if self.has_thread or self._left_behind else 0

    def _close_intake(self) -> None:
        self._state = _STOPPED
        self._queue.awake = False  # second: the thread says that it is awake, then looks at the state
        running.discard(self)

    def stop_without_waiting(self, timeout: float | None) -> bool:
        """
        Stop, and write all in this thread; for a signal handler among greenlets, which none of them may interrupt.

        Returns False, with nothing lost, if somebody else is in the middle of a write.
        """
        notice_fork()
        if self._queue.reader is not self:
            return True
        self._close_intake()
        deadline = None if timeout is None else monotonic() + timeout
        return not self.busy_here() and self._in_turn(lambda: self._write_due(deadline), 0.0) is not None

    def left(self) -> int:
        """Number of records that are queued or being written at this moment."""
        if self._queue.crosses_processes and not self.has_thread:
            return self._in_hand()  # what other processes still put in is not for this listener
        left = -1
        for _ in range(100):  # a batch that changes hands between two looks would count twice, or not at all
            before, left = left, (self._queue.depth() or 0) + self._in_hand()
            if left == before:
                break
        return left

    def flush(self, timeout: float | None = 30.0) -> int:
        """Wait until nothing is left to write, at most *timeout* seconds; returns the number of records left."""
        notice_fork()
        deadline = None if timeout is None else monotonic() + timeout
        while self._queue.reader is self and self.left() and (self.running or self.has_thread):
            if deadline is not None and monotonic() >= deadline:
                break
            self._wake_thread()
            time.sleep(0.002)
        return self.left() if self._queue.reader is self else 0

    def enqueue_sentinel(self) -> None:
        """Stopping needs no sentinel here; kept because the standard library has it."""

    def __enter__(self) -> Any:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Started, and not stopped."""
        return self._state == _RUNNING

    @property
    def stopped(self) -> bool:
        """`stop()` was called: records are written by the thread that logs them."""
        return self._state == _STOPPED

    @property
    def has_thread(self) -> bool:
        """Its thread has not ended yet."""
        return "thread" in self._place

    def busy_here(self) -> bool:
        """This thread is in a write, the queue or a start, or has a handler's lock: it must not wait for the writer."""
        inside = self._mine() or self._queue.entered_here() or self._starts_here == threading.get_ident()
        return inside or any(is_mine(handler.lock) for handler in self.handlers)

    # --- the thread -------------------------------------------------------------------------------

    def _attend(self) -> None:
        """A record was queued while no thread was awake to see it."""
        if self._state == _STOPPED or (self._state == _RUNNING and not self._wake_thread()):
            self._write_here()

    def _wake_thread(self) -> bool:
        """Ring for the thread, or start it; false if none can be had here."""
        known = self._place.get("thread")
        if known is not None:
            known.ring()
            if known.green == threads_are_greenlets():
                return True
        if not threads_work():
            return False
        worker = Worker(self._run, "log listener")
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

    def _vacate(self, worker: Worker) -> None:
        if self._place.get("thread") is worker:
            self._place.pop("thread", None)

    def _run(self, worker: Worker) -> None:
        # Looked up each time: gevent's fork() copies its greenlets, and this one may find itself in the child.
        while self._place.setdefault("thread", worker) is worker:
            try:
                if self._run_until_stopped(worker):
                    return
            except BaseException as error:  # noqa: BLE001 - a handler that exits must not end the thread
                if worker.green and not isinstance(error, (Exception, SystemExit)):
                    # Ctrl-C, or killed: the next record, or the exit, starts another one.
                    self._vacate(worker)
                    raise
                self._complain_of(error)
                worker.wait(0.1)  # what only fails must not take the whole processor

    def _run_until_stopped(self, worker: Worker) -> bool:
        """Write as records come, until `stop()` or a thread that has taken its place; false if it has to look again."""
        queue, lingering = self._queue, False
        while self._place.get("thread") is worker:
            queue.awake = True
            if self._state != _RUNNING:  # asked second: `stop()` sets the state first
                queue.awake = False
            stopping = self.stopped
            # Not for long: who else writes may do so for ever.
            wrote = self._in_turn(self._write_due if stopping else self._write_some, _LINGER)
            if stopping and wrote is not None:
                self._tell_of_drops(at_once=True)
                self._vacate(worker)
                # Somebody may have started it again, or left a record to this thread, just before.
                return self.stopped and not (self._left_behind and self.left())
            if wrote:
                lingering = True
            elif stopping or lingering or wrote is None:
                lingering = False
                worker.wait(_LINGER)
            else:
                queue.awake = False
                if queue.depth():
                    worker.wait(
                        _LINGER
                    )  # a sender that was killed may have counted a record that never comes
                elif self._state == _RUNNING:
                    queue.sleep(worker, queue.untold_for())
            self._tell_of_drops()
        return False


class RobustQueueListener(BatchingQueueListener):
    """
    A listener that counts and reports every error of its handlers, and outlives them all.

    Handlers keep an error of the disk to themselves: `emit()` calls `handleError()`, which prints a
    traceback.  While this listener writes, such errors come here instead, as do the exceptions that a
    handler raises.  Not its writing, and so the handler's own to report, are a compression in the
    background and what a queue handler writes through its fallback.

    Args:
        queue: As for `BatchingQueueListener`; so are *handlers* and *respect_handler_level*.
        error_handler: Called with the record and the exception, in the thread that writes.  If it raises,
            that is reported on stderr and nothing else happens.  Without one, a line on stderr reports
            the first error and then at most one a second.
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
        self._lines = Streak()

    error_count = counted(
        "_errors", "Number of errors so far; counted before the error handler is called.  May be set."
    )

    def default_error_handler(self, record: logging.LogRecord, exception: BaseException) -> None:
        """Report on stderr, at most once a second."""
        self._lines.ends()
        self._lines.complain(f"logging error #{self.error_count} ({record.name}): {exception!r}")

    def _give(self, handler: Any, records: deque[Any]) -> bool:
        if handler is None:
            return super()._give(handler, records)
        with errors_noted(handler, self._swallowed):
            return super()._give(handler, records)

    def _swallowed(self, record: logging.LogRecord) -> bool:
        self._failed(None, record, sys.exc_info()[1] or RuntimeError("handleError was called"))
        return True

    def _failed(self, handler: Any, record: Any, error: BaseException) -> None:
        del handler
        self._errors.add()
        try:
            self.error_handler(record, error)
        except Exception as worse:  # noqa: BLE001 - the error handler must not end the listener
            self._worse.ends()
            self._worse.complain(f"the error handler raised {worse!r} while reporting {error!r}")
