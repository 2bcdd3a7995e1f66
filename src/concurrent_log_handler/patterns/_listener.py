"""Who writes what the application queued: one listener per queue, its thread, its end.

It owns the thread (started in each process with the first record that needs it), stopping within a
bound, writing in the caller's thread once nobody else will, and the report of dropped records.  The
queue itself is `_ports`'; what happens to listeners at a fork and at the process's end, `_exit`'s; the
order, rotation and safety of a write are the handlers'.
"""

from __future__ import annotations

import logging
import logging.handlers
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from concurrent_log_handler.patterns._callers import port_of
from concurrent_log_handler.patterns._exit import hook_exit_of_children, running
from concurrent_log_handler.patterns._handout import complain, drop_report, filtered, takes_batches
from concurrent_log_handler.patterns._ports import TELL_EVERY

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Records written under one lock.  Formatting them holds the interpreter for about a millisecond, which
#: is what another thread may have to wait for its turn.
BATCH = 200
# After the queue ran empty, records gather for this long (seconds) before the thread looks again: an
# application that logs all the time then never pays for waking it.
_LINGER = 0.01
# Other processes' records may be on their way for this long after the last one came, in seconds.
_LATECOMERS = 0.5
# How long a thread that has to write by itself waits for the one that is writing, in seconds.
_TURN = 1.0

_NEW, _RUNNING, _STOPPED = "new", "running", "stopped"


class BatchingQueueListener(logging.handlers.QueueListener):
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
        self._port = port_of(queue)
        self._state = _NEW
        self._begin_afresh()
        if self._port.reader is None or self._port.reader._state != _RUNNING:
            self._adopt_port()

    def _begin_afresh(self) -> None:
        """No thread, nothing in hand, and locks that are free: at the start, and in a forked child."""
        self._thread: threading.Thread | None = None
        self._in_hand = 0
        self._written = self._holding = 0
        self._out_of_turn = self._give_way = self._starting = self._left_behind = False
        # Re-entrant, both of them: a signal handler may log, start or stop in the middle of either.
        self._gate = threading.RLock()
        self._writing = threading.RLock()
        self._writer: int | None = None

    def after_fork(self, parent_reads: bool) -> None:
        """In a forked child: begin without a thread; if *parent_reads* the queue, it was not started here."""
        self._begin_afresh()
        if parent_reads:
            self._state = _NEW
            running.discard(self)

    def _adopt_port(self) -> None:
        self._port.reader = self
        self._port.attend = self._attend

    # --- start and stop ---------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to write.  Does nothing if it is running; may follow `stop()`."""
        with self._gate:
            if self._state == _RUNNING:
                return
            other = self._port.reader
            if other is not None and other is not self and other._state == _RUNNING:
                msg = (
                    f"another listener is running on {self.queue!r}; two would split the records: "
                    "give one listener all the handlers, or stop the other one first"
                )
                raise RuntimeError(msg)
            self._adopt_port()
            self._state = _RUNNING
            running.add(self)
            # A queue that rings gets its thread with the first record: none is there to be lost in a
            # fork() that comes before.
            if not self._port.rings or self._port.depth():
                self._start_thread()

    def stop(self, timeout: float | None = 30.0) -> int:  # type: ignore[override]
        """
        Write what is queued; from then on each record is written by the thread that logs it.

        Never raises, needs no room in the queue, and does nothing the second time.

        Args:
            timeout: Seconds to wait; None waits until all is written.

        Returns:
            The number of records that were not written in time.  They stay queued, and the thread goes
            on with them for as long as the process lives.  A signal handler that interrupts this thread
            inside a queue of yours, or inside `start()` or `stop()`, does not wait: the thread may need
            what the interrupted code holds.
        """
        if self._port.reader is not self:
            return 0  # it never started, or the parent reads: nothing here is this one's to write
        deadline = None if timeout is None else time.monotonic() + timeout
        interrupts = self._port.entered_here() or self._gate._is_owned()  # type: ignore[attr-defined]
        with self._gate:
            first = self._state != _STOPPED
            self._state = _STOPPED
            running.discard(self)
            thread = self._thread
            if first and thread is None and self._port.depth():
                thread = self._start_thread()
        self._port.attentive = False
        if first and thread is not None:
            self._port.finish(deadline)
        self._port.wake()
        if interrupts:
            pass  # we are in a signal handler: the thread may not get on before the interrupted code does
        elif thread is not None and thread is not threading.current_thread() and not self._is_writer():
            self._join(thread, deadline)
        elif first or self._left_behind:
            self._write_here()
        if self._thread is None and not self._left_behind and not self._is_writer():
            return 0  # what is queued by now is in the hands of the threads that bring it
        return self.left()

    def _join(self, thread: threading.Thread, deadline: float | None) -> None:
        while thread.is_alive() and self._state == _STOPPED:  # else somebody has started it again
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return
            # In slices: the ring may have come just before the thread went to sleep.
            thread.join(0.5 if left is None else min(0.5, left))
            self._port.wake()

    def left(self) -> int:
        """Number of records that are queued or being written at this moment."""
        if self._port.crosses_processes and self._thread is None:
            return self._in_hand  # what other processes still put in is not for this listener
        left = 0
        for _ in range(100):  # a batch that changes hands between two looks would count twice, or not at all
            before, left = left, (self._port.depth() or 0) + self._in_hand
            if left == before:
                break
        return left

    def flush(self, timeout: float | None = 30.0) -> int:
        """Wait until nothing is left to write, at most *timeout* seconds; returns the number of records left."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._port.reader is self and self.left():
            if self._state != _RUNNING and (self._thread is None or not self._thread.is_alive()):
                break
            if deadline is not None and time.monotonic() >= deadline:
                break
            self._port.wake()
            time.sleep(0.002)
        return self.left() if self._port.reader is self else 0

    def enqueue_sentinel(self) -> None:
        """Stopping needs no sentinel here; kept because the standard library has it."""

    def __enter__(self) -> Any:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    # --- the thread -------------------------------------------------------------------------------

    def _attend(self) -> None:
        """A record was queued while no thread was awake to see it."""
        if self._state == _RUNNING:
            if self._thread is not None or self._start_thread() is not None:
                self._port.wake()
            elif self._thread is None:
                self._write_here()
        elif self._state == _STOPPED:
            self._write_here()

    def _start_thread(self) -> threading.Thread | None:
        # Not to be waited for, nor entered twice: a signal handler that logs may come in the middle of it.
        gate = self._gate
        if self._starting or not gate.acquire(False):
            return self._thread
        try:
            self._starting = True
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="log listener", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the interpreter is shutting down, or there is no room for threads
                    return None
                self._thread = thread
                hook_exit_of_children()
            return self._thread
        finally:
            self._starting = False
            gate.release()

    def _run(self) -> None:
        while True:
            try:
                self._run_until_stopped()
                return
            except BaseException as error:  # noqa: BLE001 - a handler that exits must not end the thread
                complain(f"concurrent_log_handler: {error!r} while writing queued records; going on")
                time.sleep(0.01)  # what only fails must not take the whole processor

    def _run_until_stopped(self) -> None:
        port = self._port
        self._look_out()
        lingering, last = False, time.monotonic()
        due: int | None = None
        while True:
            # Not for long: who else writes may do so for ever, and locks know no queue.
            wrote = self._write_chunk(_LINGER)
            if wrote:
                lingering, last = True, time.monotonic()
                self._tell_of_drops()
                if self._give_way:
                    time.sleep(0.001)
            if self._state == _STOPPED:
                if due is None or self._left_behind:
                    due = self._due()
                if not wrote or (self._written >= due and not port.crosses_processes):
                    self._tell_of_drops(at_once=True)
                    if self._leave(due, time.monotonic() - last):
                        return
                    if not wrote:
                        port.linger(_LINGER)
                continue
            due = None
            if wrote:
                continue
            if lingering:
                lingering = False
                port.linger(_LINGER)
            else:
                port.attentive = False
                if not port.depth() and self._state == _RUNNING:
                    port.wait(self._untold_for())
                self._look_out()
                self._tell_of_drops()

    def _look_out(self) -> None:
        """Say that this thread sees what is queued, unless `stop()` has said that nobody does."""
        port = self._port
        port.attentive = True
        if self._state != _RUNNING:  # asked last: `stop()` sets the state first
            port.attentive = False

    def _due(self) -> int:
        """
        What `_written` will be, at most, when all that is queued or being written at this moment is written.

        After a stop that is what has to be waited for.  Later records are written by the threads that
        bring them, for as long as these like.
        """
        self._port.attentive = False
        self._left_behind = False
        depth = (
            self._port.depth()
        )  # asked first: what changes hands meanwhile may count twice, but never not at all
        return sys.maxsize if depth is None else depth + self._holding + self._written

    def _leave(self, due: int, quiet_for: float) -> bool:
        with self._gate:  # nothing that may take long in here: a signal handler may want to stop again
            port = self._port
            # A process that was killed may have counted a record that never comes.
            waits = quiet_for < _LATECOMERS if port.crosses_processes else self._written < due
            expected = (port.depth() or self._holding) and (waits or self._left_behind)
            if self._state != _STOPPED or expected or not port.settled():
                return False
            port.attentive = False
            self._thread = None
            return True

    def _write_chunk(self, patience: float = -1) -> int:
        """Take at most one batch and write it; returns its size, 0 also after *patience* seconds without a turn."""
        writing = self._writing
        if not writing.acquire(timeout=patience):
            return 0
        outer, outer_hand = self._writer, self._in_hand  # set if a signal handler interrupts a write
        self._writer = threading.get_ident()
        batch: Sequence[Any] = ()
        try:
            # Before the queue gives it up, so that nobody misses it in between.
            self._in_hand = 1
            self._holding += BATCH
            batch = self._port.take(BATCH)
            self._in_hand = len(batch)
            if batch:
                self._write([record for record in batch if record is not None])
                self._port.done(len(batch))
            return len(batch)
        finally:
            self._written += len(batch)
            self._holding -= BATCH
            self._in_hand = outer_hand
            self._writer = outer
            writing.release()

    def _is_writer(self) -> bool:
        return self._writer == threading.get_ident()

    def busy_here(self) -> bool:
        """This thread is inside a write or the queue: for a signal handler, which must not wait for it."""
        return self._is_writer() or self._port.entered_here()

    def _take_turn(self) -> threading.RLock | None:
        """The lock of who writes, acquired; None if a writer hangs, which is waited for only once."""
        writing = self._writing
        self._give_way = True
        got = writing.acquire(timeout=0 if self._out_of_turn else _TURN)
        self._give_way = False
        self._out_of_turn = not got
        return writing if got else None

    def _write_here(self) -> None:
        """See that what is queued at this moment is written, in turn with whoever else is writing."""
        due = self._due()
        while self._written < due and (self._port.depth() != 0 or self._holding):
            writing = self._take_turn()
            if writing is None:
                self._left_behind = True
                # Whoever writes now sees that when he is done, or was done before it was said.
                if not self._writing.acquire(False):
                    return
                writing = self._writing
            try:
                if self._left_behind:
                    due = self._due()
                if not self._write_chunk():
                    break
            finally:
                writing.release()
        self._tell_of_drops(at_once=True)
        self._go_on()

    def _go_on(self) -> None:
        """After a write in this thread: write what another thread left behind because it took so long."""
        if self._left_behind and self._thread is None:
            self._write_here()

    def write_after_queued(self, record: logging.LogRecord, handler: logging.Handler) -> Any:
        """
        Write what is queued at this moment, then *record* through *handler*, all in this thread.

        If another thread hangs in a write, *record* overtakes what is queued.  Returns what
        `handler.handle` does.
        """
        writing = self._take_turn()
        if writing is None:
            return handler.handle(record)
        try:
            queued = self._port.depth() or 0
            while queued > 0:
                wrote = self._write_chunk()
                queued = queued - wrote if wrote else 0
            return handler.handle(record)
        finally:
            writing.release()
            self._go_on()

    # --- what is written --------------------------------------------------------------------------

    @property
    def stopped(self) -> bool:
        """`stop()` was called: records are written by the thread that logs them."""
        return self._state == _STOPPED

    def handle(self, record: logging.LogRecord) -> None:
        """Give one record to the handlers, in this thread."""
        with self._writing:
            self._hand_out([self.prepare(record)])
        self._go_on()

    def _write(self, batch: list[logging.LogRecord]) -> None:
        kind = type(self)
        if kind.handle in _KNOWN_HANDLES and "handle" not in self.__dict__:
            if kind.prepare is not logging.handlers.QueueListener.prepare:
                batch = [self.prepare(record) for record in batch]
            self._hand_out(batch)
            return
        for record in batch:  # a subclass has its own idea of one record
            try:
                self.handle(record)
            except Exception as error:  # noqa: BLE001 - nothing may end the thread
                self._failed(None, record, error)

    def _hand_out(self, batch: Sequence[logging.LogRecord]) -> None:
        handlers = self.handlers
        for position, handler in enumerate(handlers, 1):
            level = handler.level if self.respect_handler_level else 0
            mine = [record for record in batch if record.levelno >= level] if level else batch
            if takes_batches(handler):
                self._hand_batch(handler, mine)
                continue
            for record in mine:
                try:
                    handler.handle(record)
                except Exception as error:  # noqa: BLE001 - one handler must not cost the others the record
                    self._failed(handler, record, error)
                if position == len(handlers):
                    self._in_hand = max(0, self._in_hand - 1)

    def _hand_batch(self, handler: Any, batch: Sequence[logging.LogRecord]) -> None:
        if handler.filters:
            batch = filtered(handler, batch)
        try:
            if batch:
                handler.emit_batch(batch)
        except Exception as error:  # noqa: BLE001 - as above
            self._failed(handler, batch[0], error)

    def _failed(self, handler: logging.Handler | None, record: logging.LogRecord, error: Exception) -> None:
        """Called inside the `except` of a handler that raised."""
        try:
            if handler is not None:
                handler.handleError(record)
            elif logging.raiseExceptions:
                complain(f"cannot log {record.getMessage()!r}: {error!r}")
        except Exception as worse:  # noqa: BLE001 - reporting must not cost the records that follow
            complain(f"concurrent_log_handler: reporting {error!r} failed: {worse!r}")

    # --- dropped records --------------------------------------------------------------------------

    def _untold_for(self) -> float | None:
        """Seconds until dropped records have to be told of; None if there are none."""
        since = self._port.untold_since
        return None if since is None else max(0.0, since + TELL_EVERY - time.monotonic())

    def _tell_of_drops(self, at_once: bool = False) -> None:
        port = self._port
        if port.untold_since is None or not (at_once or port.due()):
            return
        with self._writing:
            if port.untold_since is not None:
                self._hand_out([drop_report(port)])


_KNOWN_HANDLES = {BatchingQueueListener.handle}
