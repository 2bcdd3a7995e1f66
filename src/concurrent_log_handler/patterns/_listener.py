"""Who writes what the application queued: one listener per queue, its thread, its end.

It owns the thread (started in each process with the first record that needs it), stopping within a
bound, and the report of dropped records.  Which handler gets which record is `_handing`'s; the queue itself is
`_ports`'; whose turn it is to write, `_turns`'; what happens to listeners at a fork and at the
process's end, `_exit`'s; the order, rotation and safety of a write are the handlers'.
"""

from __future__ import annotations

import logging
import logging.handlers
import threading
import time
from typing import TYPE_CHECKING, Any

from concurrent_log_handler._forks import notice_fork, threads_work
from concurrent_log_handler.patterns._callers import port_of
from concurrent_log_handler.patterns._exit import hook_exit_of_children, running
from concurrent_log_handler.patterns._handing import HandingListener, known_handles
from concurrent_log_handler.patterns._handout import complain, drop_report
from concurrent_log_handler.patterns._ports import TELL_EVERY
from concurrent_log_handler.patterns._turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable

# After the queue ran empty, records gather for this long (seconds) before the thread looks again: an
# application that logs all the time then never pays for waking it.
_LINGER = 0.01
# Other processes' records may be on their way for this long after the last one came, in seconds.
_LATECOMERS = 0.5

_NEW, _RUNNING, _STOPPED = "new", "running", "stopped"


class BatchingQueueListener(HandingListener):
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
        self._starting = False
        self._suspect = None
        self._turns = Turns(self._port, self._share, self._hand_to)
        # Re-entrant: a signal handler may log, start or stop in the middle of it.
        self._gate = threading.RLock()

    def after_fork(self, parent_reads: bool) -> None:
        """In a forked child: begin without a thread; if *parent_reads* the queue, it was not started here."""
        busy = self._thread is not None
        self._begin_afresh()
        if parent_reads:
            self._state = _NEW
            running.discard(self)
        elif busy and self._state == _RUNNING and not self._port.rings:
            self._start_thread()  # a standard QueueHandler tells nobody of its first record

    def _adopt_port(self) -> None:
        self._port.reader = self
        self._port.attend = self._attend

    # --- start and stop ---------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to write.  Does nothing if it is running; may follow `stop()`."""
        notice_fork()
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
            if not self._port.rings or self.left():
                self._start_thread()

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
            inside a queue of yours, or inside `start()` or `stop()`, does not wait: the thread may need
            what the interrupted code holds.
        """
        notice_fork()
        if self._port.reader is not self:
            return 0  # it never started, or the parent reads: nothing here is this one's to write
        deadline = None if timeout is None else time.monotonic() + timeout
        interrupts = self._port.entered_here() or self._gate._is_owned()  # type: ignore[attr-defined]
        with self._gate:
            first = self._state != _STOPPED
            self._state = _STOPPED
            running.discard(self)
            thread = self._thread
            if first and thread is None and (self._port.depth() or self._turns.in_hand()):
                thread = self._start_thread()
        self._port.attentive = False
        if first and thread is not None and not interrupts:
            self._port.finish(deadline)
        self._port.wake()
        if interrupts:
            pass  # we are in a signal handler: the thread may not get on before the interrupted code does
        elif thread is not None and thread is not threading.current_thread() and not self._turns.mine():
            self._join(thread, deadline)
        elif first or self._turns.left_behind or self.left():
            self._write_here(deadline)
        if self._thread is None and not self._turns.left_behind and not self._turns.mine():
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
            return self._turns.in_hand()  # what other processes still put in is not for this listener
        left = 0
        for _ in range(100):  # a batch that changes hands between two looks would count twice, or not at all
            before, left = left, (self._port.depth() or 0) + self._turns.in_hand()
            if left == before:
                break
        return left

    def flush(self, timeout: float | None = 30.0) -> int:
        """Wait until nothing is left to write, at most *timeout* seconds; returns the number of records left."""
        notice_fork()
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
        mine: bool = gate._is_owned()  # type: ignore[attr-defined]
        if mine and self._starting:
            return self._thread
        try:
            try:
                if mine or gate.acquire(False):
                    self._starting = True
                    self._start_thread_unless_there_is_one()
                return self._thread
            finally:
                if gate._is_owned():  # type: ignore[attr-defined]  # else another thread is in here
                    self._starting = False
                if not mine and gate._is_owned():  # type: ignore[attr-defined]
                    gate.release()
        finally:
            # An interrupt may have cut the `finally` above short.
            while not mine and gate._is_owned():  # type: ignore[attr-defined]
                gate.release()

    def _start_thread_unless_there_is_one(self) -> None:
        if self._thread is not None or not threads_work():
            return
        thread = threading.Thread(target=self._run, name="log listener", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is shutting down, or there is no room for threads
            return
        self._thread = thread
        hook_exit_of_children()

    def _run(self) -> None:
        me = threading.current_thread()
        with self._gate:
            if self._thread not in (None, me):
                return  # whoever started this one was interrupted, and another one was started meanwhile
            self._thread = me
        while True:
            try:
                self._run_until_stopped()
                return
            except BaseException as error:  # noqa: BLE001 - a handler that exits must not end the thread
                complain(f"concurrent_log_handler: {error!r} while writing queued records; going on")
                time.sleep(0.01)  # what only fails must not take the whole processor

    def _run_until_stopped(self) -> None:
        port, turns = self._port, self._turns
        self._look_out()
        lingering, last = False, time.monotonic()
        due: int | None = None
        while True:
            # Not for long: who else writes may do so for ever, and locks know no queue.
            wrote = turns.in_turn(turns.chunk, _LINGER)
            if wrote:
                lingering, last = True, time.monotonic()
                self._tell_of_drops()
                if turns.waited_for():
                    time.sleep(0.001)
            if self._state == _STOPPED:
                if due is None or turns.left_behind:
                    due = turns.due()
                if not wrote or (turns.dealt() >= due and not port.crosses_processes):
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
                if port.depth() or turns.in_hand():
                    port.linger(
                        _LINGER
                    )  # a sender that was killed may have counted a record that never comes
                elif self._state == _RUNNING:
                    port.wait(self._untold_for())
                self._look_out()
                self._tell_of_drops()

    def _look_out(self) -> None:
        """Say that this thread sees what is queued, unless `stop()` has said that nobody does."""
        port = self._port
        port.attentive = True
        if self._state != _RUNNING:  # asked last: `stop()` sets the state first
            port.attentive = False

    def _leave(self, due: int, quiet_for: float) -> bool:
        with self._gate:  # nothing that may take long in here: a signal handler may want to stop again
            port = self._port
            # A process that was killed may have counted a record that never comes.
            waits = quiet_for < _LATECOMERS if port.crosses_processes else self._turns.dealt() < due
            expected = (port.depth() or self._turns.in_hand()) and (waits or self._turns.left_behind)
            if self._state != _STOPPED or expected or not port.settled():
                return False
            port.attentive = False
            self._thread = None
            return True

    def busy_here(self) -> bool:
        """This thread is inside a write or the queue: for a signal handler, which must not wait for it."""
        return self._turns.mine() or self._port.entered_here()

    def _write_here(self, deadline: float | None = None) -> None:
        """See that what is queued at this moment is written, and that drops are told of, in this thread."""
        self._turns.write_due(deadline)
        self._tell_of_drops(at_once=True)
        if deadline is None:
            self._go_on()

    def _go_on(self) -> None:
        """After a write in this thread: write what another thread left behind because it took so long."""
        if self._turns.left_behind and self._thread is None:
            self._turns.write_due()

    def write_latecomer(self) -> None:
        """See that a record of this thread is written which came into the queue just behind a `stop()`."""
        until = time.monotonic() + _LATECOMERS
        while self._thread is not None and time.monotonic() < until:
            time.sleep(0.001)  # the thread still reads
        self._port.finish(until + _LATECOMERS)
        while not self._port.settled():
            if not self._turns.in_turn(self._turns.chunk):
                time.sleep(0.001)

    def write_after_queued(
        self, record: logging.LogRecord, handle: Callable[[logging.LogRecord], Any]
    ) -> Any:
        """
        Write what is queued at this moment, then *record* by *handle*, all in this thread.

        If another thread hangs in a write, *record* overtakes what is queued.  Returns what *handle* does.
        """

        def write(nested: bool) -> tuple[Any]:
            queued = self._port.depth() or 0
            while queued > 0:
                wrote = self._turns.chunk(nested)
                queued = queued - wrote if wrote else 0
            return (handle(record),)

        verdict = self._turns.in_turn(write)
        if verdict is None:
            return handle(record)
        self._go_on()
        return verdict[0]

    # --- what is written --------------------------------------------------------------------------

    @property
    def has_thread(self) -> bool:
        """Its thread has not ended yet."""
        return self._thread is not None

    @property
    def stopped(self) -> bool:
        """`stop()` was called: records are written by the thread that logs them."""
        return self._state == _STOPPED

    def handle(self, record: logging.LogRecord) -> None:
        """Give one record to the handlers, in this thread; if another one hangs in a write, it has to follow."""

        def write(nested: bool) -> bool:
            del nested
            self._hand_out([self.prepare(record)])
            return True

        if self._turns.in_turn(write) is None:
            self._port.keep(record)
            self._turns.left_behind = True
        self._go_on()

    # --- dropped records --------------------------------------------------------------------------

    def _untold_for(self) -> float | None:
        """Seconds until dropped records have to be told of; None if there are none."""
        since = self._port.untold_since
        return None if since is None else max(0.0, since + TELL_EVERY - time.monotonic())

    def _tell_of_drops(self, at_once: bool = False) -> None:
        port = self._port
        if port.untold_since is None or not (at_once or port.due()):
            return

        def tell(nested: bool) -> None:
            del nested
            if port.untold_since is None:
                return
            report = drop_report(port)
            if not [handler for handler in self.handlers if self._offer(handler, report)]:
                complain(f"concurrent_log_handler: {report.getMessage()}")

        self._turns.in_turn(tell)


known_handles.add(BatchingQueueListener.handle)
