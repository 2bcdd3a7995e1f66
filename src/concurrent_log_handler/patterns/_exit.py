"""The end of the process, by itself, as a forked child, or by a signal: what is queued is written.

Also what a fork leaves in the child.  How a listener stops and begins afresh is `_listener`'s.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import logging
import os
import queue
import signal
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from types import FrameType
from typing import Any

from concurrent_log_handler._forks import among_greenlets, in_child, notice_fork
from concurrent_log_handler._patience import monotonic

from ._common import complain, end_of, patiently, wait_until
from ._queue import all_queues, owing, queue_of

# Without progress for this long (seconds), the interrupted code is taken to hold a lock that the writer needs.
_STALLED = 1.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)

_hooks: dict[str, Any] = {}


def finish_all(timeout: float = 30.0, **_celerys: Any) -> None:
    """Stop every listener of this process, though it was never started; tell other processes what was dropped here."""
    notice_fork()
    # Threads, too, must end: the interpreter would catch one with whatever lock it has, logging's own perhaps.
    readers = {each.reader for each in all_queues() if each.reader is not None and not each.reader.given_up}
    to_stop = {r for r in readers if not _still_fed(r.queue) and (not r.stopped or r.has_thread or r.left())}
    deadline, left = monotonic() + timeout, 0
    while to_stop:
        listener = to_stop.pop()
        # A share for each: one whose disk hangs must not use up the time of the others.
        if behind := listener.stop(max(0.0, deadline - monotonic()) / (len(to_stop) + 1)):
            left += behind
            listener.given_up = True
            for handler in listener.handlers:
                _let_exit_pass(handler)
    if left:
        complain(f"concurrent_log_handler: {left} log records were not written within {timeout:g} s")
    for queued in [each for each in owing if each.reader is None]:
        with contextlib.suppress(Exception):  # a queue that is closed, or whose other end has gone
            patiently(queued.settle, queue.Full, 1.0)
            queued.report_drops(partial(queued.put, timeout=1.0))


def _still_fed(queue: Any) -> bool:
    """At our end multiprocessing waits for children, each until its records are read; not if we have put in, too."""
    active: Any = getattr(sys.modules.get("multiprocessing.process"), "active_children", list)
    return getattr(queue, "_thread", 0) is None and any(
        not child.daemon and child._parent_pid == os.getpid()  # not one of who forked us
        for child in active()
    )


def _let_exit_pass(handler: logging.Handler) -> None:
    """`logging.shutdown()` would wait without end for the lock of a handler that hangs."""
    if handler.lock is not None and handler.lock.acquire(False):
        handler.lock.release()
    elif handler.lock is not None:
        handler.createLock()
        handler.__dict__.update(flush=lambda: None, close=lambda: None)


def hook_exit_of_children(*_util: Any) -> None:
    """A child of multiprocessing, or of billiard, ends by `os._exit`, without atexit; only its own finalizers run."""
    for name in ("multiprocessing.util", "billiard.util"):
        util: Any = sys.modules.get(name)
        if util is not None and not (name in _hooks and _hooks[name].still_active()):
            # Before multiprocessing closes its queues, by finalizers of 10 and -5, and once its children have ended.
            _hooks[name] = util.Finalize(None, finish_all, exitpriority=20)
            util.Finalize(None, finish_all, exitpriority=-10)
            # A child drops all finalizers when it begins, also one that was made in a fork hook.
            util.register_after_fork(util, hook_exit_of_children)
    # A child of Celery's pool that is replaced tells only those who listen to Celery.
    shutdown = getattr(sys.modules.get("celery.signals"), "worker_process_shutdown", None)
    if shutdown is not None:
        shutdown.connect(finish_all, weak=False, dispatch_uid=__name__)


@in_child
def _begin_anew() -> None:
    owing.clear()
    _hooks.clear()  # finalizers of the parent's do nothing here
    for inherited in all_queues():
        reader = inherited.reader
        inherited.reset()
        if reader is not None:
            reader.after_fork()
    hook_exit_of_children()


# Runs before logging.shutdown(), which was registered earlier, and after all non-daemon threads.
atexit.register(finish_all)


class GracefulLoggingShutdown:
    """
    Writes what is queued when SIGTERM or SIGINT comes, then lets the signal do what it would have done.

    From the signal on, records are written by the thread that logs them.  Then a Python handler that was
    installed before is called; where there was none, the process dies by that signal (process 1 of a container, which
    none ends, exits with 128 + its number).  A signal that was ignored stays ignored, and one whose handler is not
    Python's is left alone.  A second one meanwhile ends the process at once.

    Args:
        listener: Any object with a `queue` and a `stop()`, best one of this module's.
        timeout: Seconds that writing may take; None has no bound.
    """

    def __init__(self, listener: Any, timeout: float | None = 30, signals: Iterable[int] = _SIGNALS) -> None:
        self.listener, self.timeout, self.signals = listener, timeout, tuple(signals)
        #: What was found, by signal number.
        self.previous: dict[int, Callable[[int, FrameType | None], Any] | int] = {}
        self.setup_signal_handlers()

    @property
    def installed(self) -> bool:
        """At least one signal comes here; not so outside the main thread, where Python allows no signal handlers."""
        return bool(self.previous)

    def setup_signal_handlers(self) -> None:
        """Take the signals over, unless that is done."""
        for number in self.signals:
            before = signal.getsignal(number)
            if before not in (None, signal.SIG_IGN, self.signal_handler):
                with contextlib.suppress(ValueError):  # not the main thread, or not the main interpreter
                    signal.signal(number, self.signal_handler)
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
        _drain(self.listener, self.timeout, None if callable(before) else signum)
        if callable(before):
            # Should the handler end the process, its end waits for the children.
            if _still_fed(self.listener.queue):
                with contextlib.suppress(AttributeError, RuntimeError):
                    self.listener.start()
            for number in mine:
                signal.signal(number, self.previous.get(number, signal.SIG_DFL))
            before(signum, frame)


def _drain(listener: Any, timeout: float | None, kill_by: int | None) -> None:
    """
    Run `listener.stop()` in a signal handler, between two bytecodes of whatever the main thread was doing.

    It takes no lock, and leaves the writing to another thread.  If that one cannot get on, because the interrupted
    code has the lock it needs, the handler returns, and the thread ends the process by *kill_by*.  Among greenlets,
    where nobody may wait here, the handler writes by itself, or returns likewise.
    """
    ours, deadline = hasattr(listener, "stop_without_waiting"), end_of(timeout)
    seen: list[int] = []
    # The thread, when it is done, or the signal handler, when it gives up: the other one then acts.
    first: dict[str, str] = {}

    def left() -> int:
        seen.append(int(listener.left() if ours else queue_of(listener.queue).qsize() or 0))
        return seen[-1]

    def stop() -> None:
        try:
            # The standard library's stop() wants room in the queue for its end mark.
            patiently(partial(listener.stop, timeout) if ours else listener.stop, queue.Full, timeout)
        except Exception as error:  # noqa: BLE001 - the signal must take its course all the same
            complain(f"log listener did not stop: {error!r}")
        if first.setdefault("is", "thread") == "handler":
            end()

    def end() -> None:
        if kill_by is None:
            return
        if monotonic() >= deadline and left():
            complain(f"log queue not written within {timeout:g} s: {seen[-1]} records are left")
        os.kill(os.getpid(), kill_by)
        # Still here: process 1 of a container, which the kernel lets no default disposition end.
        try:
            time.sleep(0.1)
        finally:
            os._exit(128 + kill_by)

    greenlets = among_greenlets()
    if greenlets and ours and listener.stop_without_waiting(timeout):
        end()
        return
    waits = not greenlets and not (ours and listener.busy_here())
    try:
        # threading.Thread.start() takes locks that the interrupted code may have.
        _thread.start_new_thread(stop, ())
    except RuntimeError:  # the interpreter is shutting down, or has no threads
        stop()
    over = waits and wait_until(
        lambda: first or monotonic() >= deadline, _STALLED, lambda: min(left(), *seen), 0.01
    )
    if over or first.setdefault("is", "handler") == "thread":
        end()
