"""A signal ends the process, and what is queued still reaches the file.

The handler runs between two bytecodes of whatever the main thread was doing, perhaps inside a queue or
a file handler.  So it takes no lock that it could wait for, prints nothing through buffered I/O, and
leaves the writing to another thread; if that one cannot get on because the interrupted code has the
lock it needs, the handler returns, the code goes on, and the process ends when all is written.  Among
greenlets there is no other thread, and nobody may wait here: the handler writes by itself, or returns likewise.
"""

from __future__ import annotations

import _thread
import os
import queue
import signal
import time
from typing import TYPE_CHECKING, Any

from concurrent_log_handler.patterns._listener import BatchingQueueListener
from concurrent_log_handler.patterns._queue import complain, monotonic, patiently, threads_are_greenlets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import FrameType

# Without any progress for this long (seconds), the interrupted code is taken to hold a lock that the
# writing thread needs.
_STALLED = 1.0
_LOOK_EVERY = 0.01


class GracefulLoggingShutdown:
    """
    Writes what is queued when SIGTERM or SIGINT comes, then lets the signal do what it would have done.

    From the signal on, records are written by the thread that logs them.  Then:

    - where a Python handler was installed before, it is called, and if it returns, so does this one: the
      application ends itself and may still log;
    - where the default was in place, the process dies by that signal, so its parent sees the right status
      (process 1 of a container, which no such signal ends, exits with 128 + its number);
    - a signal that was ignored stays ignored, and one whose handler is not Python's is left alone.

    A second signal while the queue is being written ends the process at once.  In a forked child it
    drains what the child queued.

    Outside the main thread, where Python allows no signal handlers, nothing is installed and
    `installed` is False.

    Args:
        listener: Any object with a `queue` and a `stop()`, best one of this module's.
        timeout: Seconds that writing may take; None has no bound.
        signals: Which signals.
    """

    def __init__(
        self,
        listener: Any,
        timeout: float | None = 30,
        signals: Iterable[int] = (signal.SIGTERM, signal.SIGINT),
    ) -> None:
        self.listener = listener
        self.timeout = timeout
        self.signals = tuple(signals)
        #: Dispositions as they were found, by signal number.
        self.previous: dict[int, Callable[[int, FrameType | None], Any] | int] = {}
        self.setup_signal_handlers()

    @property
    def installed(self) -> bool:
        """At least one signal comes here."""
        return bool(self.previous)

    def setup_signal_handlers(self) -> None:
        """Take the signals over; does nothing outside the main thread or the second time."""
        for number in self.signals:
            before = signal.getsignal(number)
            if before is None or before in (signal.SIG_IGN, self.signal_handler):
                continue
            try:
                signal.signal(number, self.signal_handler)
            except ValueError:  # not the main thread, or not the main interpreter
                return
            self.previous[number] = before

    def restore(self) -> None:
        """Give the signals back, unless somebody else has taken them over since."""
        for number, before in list(self.previous.items()):
            if signal.getsignal(number) == self.signal_handler:
                signal.signal(number, before)
            del self.previous[number]

    def signal_handler(self, signum: int, frame: FrameType | None) -> None:
        """Drain, then do what the signal would have done without us."""
        before = self.previous.get(signum, signal.SIG_DFL)
        mine = [number for number in self.previous if signal.getsignal(number) == self.signal_handler]
        for number in mine:
            signal.signal(number, signal.SIG_DFL)  # a second one ends it at once
        drain = _Drain(self.listener, self.timeout)
        finished = drain.run(None if callable(before) else signum)
        if not callable(before):
            if finished:
                _die_by(signum)
            return  # the draining thread kills the process when it is done
        for number in mine:
            signal.signal(number, self.previous.get(number, signal.SIG_DFL))
        before(signum, frame)


class _Drain:
    """One run of `listener.stop()`, mostly in a thread of its own, watched from a signal handler."""

    def __init__(self, listener: Any, timeout: float | None) -> None:
        self.listener, self.timeout = listener, timeout
        self.ours = isinstance(listener, BatchingQueueListener)
        self.deadline = None if timeout is None else monotonic() + timeout
        self.finished = False
        self.kill_by: int | None = None
        self._settling = _thread.allocate_lock()

    def run(self, kill_by: int | None) -> bool:
        """
        Wait for the end; False if that cannot come before the interrupted code goes on.

        In the latter case the process is killed by signal *kill_by* later, unless it is None.
        """
        alone = threads_are_greenlets()
        if alone and self.ours and self.listener.stop_without_waiting(self._time_left()):
            return True
        waits = not alone and not (self.ours and self.listener.busy_here())
        try:
            # threading.Thread.start() takes locks that the interrupted code may have.
            _thread.start_new_thread(self._stop, ())
        except RuntimeError:  # the interpreter is shutting down, or has no threads
            if waits:
                self._stop()
            return True
        if waits and self._wait():
            return True
        with self._settling:  # held by the other thread for an assignment only
            self.kill_by = kill_by
            return self.finished

    def _wait(self) -> bool:
        fewest, since = self._left(), monotonic()
        while not self.finished:
            time.sleep(_LOOK_EVERY)
            now, left = monotonic(), self._left()
            if self.deadline is not None and now >= self.deadline:
                self._complain()
                return True
            if left < fewest:
                fewest, since = left, now
            elif now - since > _STALLED:
                return False
        return True

    def _left(self) -> int:
        try:
            return int(self.listener.left() if self.ours else self.listener.queue.qsize())
        except (NotImplementedError, AttributeError, OSError):
            return 0

    def _time_left(self) -> float | None:
        return None if self.deadline is None else max(0.0, self.deadline - monotonic())

    def _stop(self) -> None:
        try:
            if self.ours:
                self.listener.stop(self._time_left())
            else:
                # The standard library's stop() wants room in the queue for its end mark.
                patiently(self.listener.stop, queue.Full, self._time_left())
        except Exception as error:  # noqa: BLE001 - the signal must take its course all the same
            complain(f"log listener did not stop: {error!r}")
        with self._settling:
            self.finished = True
        if self.kill_by is not None:
            if self.deadline is not None and monotonic() >= self.deadline:
                self._complain()
            _die_by(self.kill_by)

    def _complain(self) -> None:
        complain(f"log queue not written within {self.timeout:g} s: {self._left()} records are left")


def _die_by(signum: int) -> None:
    os.kill(os.getpid(), signum)
    # Still here: process 1 of a container, which the kernel lets no default disposition end.
    try:
        time.sleep(0.1)
    finally:
        os._exit(128 + signum)
