"""What becomes of the listeners at a fork and at the end of the process.

At the end each is stopped, within a bound and before `logging.shutdown()`; a forked child has none of
its parent's threads, so its listeners begin afresh.  How a listener stops and begins is `_listener`'s.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import sys
from typing import Any

from concurrent_log_handler.patterns._queue import (
    RecordQueue,
    all_queues,
    complain,
    in_child,
    monotonic,
    notice_fork,
)

_EXIT_TIMEOUT = 30.0
# Seconds that a process waits at its end for room in a queue that another one reads, to tell what it dropped.
_LAST_WORDS = 1.0

#: Listeners that run, kept alive though nobody else may know them.
running: set[Any] = set()
#: Queues into which only this process's end, or a later record, puts what was dropped: no handler may be left by then.
owing: set[RecordQueue] = set()
_given_up: set[Any] = set()
_hooks: dict[str, Any] = {}


def finish_all(timeout: float = _EXIT_TIMEOUT) -> None:
    """
    Stop every listener of this process, also one that was never started but has records waiting or in hand.

    And wait for a thread that a stop has left behind: the interpreter's end would catch it, a daemon, with
    whatever lock it has, logging's own perhaps.
    """
    notice_fork()
    readers = {(each, each.reader) for each in all_queues() if each.reader is not None}
    busy = {reader for each, reader in readers if each.depth() or reader.left() or reader.has_thread}
    to_stop = {*running, *busy} - _given_up
    deadline, left = monotonic() + timeout, 0
    while to_stop:
        listener = to_stop.pop()
        # A share for each: one whose disk hangs must not use up the time of the others.
        behind = listener.stop(max(0.0, deadline - monotonic()) / (len(to_stop) + 1))
        if behind:
            left += behind
            _given_up.add(listener)
            for handler in listener.handlers:
                _let_exit_pass(handler)
    if left:
        complain(f"concurrent_log_handler: {left} log records were not written within {timeout:g} s")


def _let_exit_pass(handler: logging.Handler) -> None:
    """`logging.shutdown()` would wait without end for the lock of a handler that hangs."""
    if handler.lock is None:
        return
    if handler.lock.acquire(False):
        handler.lock.release()
        return
    handler.createLock()
    handler.__dict__.update(flush=_nothing, close=_nothing)


def _nothing() -> None: ...


# --- children -------------------------------------------------------------------------------------


def hook_exit_of_children() -> None:
    """A child of multiprocessing ends by `os._exit`, without atexit; only its own finalizers run."""
    for util in _utils():
        _hook(util)


def _utils() -> list[Any]:
    return [sys.modules[name] for name in ("multiprocessing.util", "billiard.util") if name in sys.modules]


def _hook(util: Any) -> None:
    known = _hooks.get(util.__name__)
    if known is None or not known.still_active():
        # Before multiprocessing closes its queues, whose finalizers have 10 and -5.
        util.Finalize(None, _tell_of_last_drops, exitpriority=20)
        # The lowest priority runs last, after whatever still logs.
        _hooks[util.__name__] = util.Finalize(None, finish_all, exitpriority=-100)


def _end_child(**_: Any) -> None:
    try:
        _tell_of_last_drops()
    finally:
        finish_all()


def _tell_of_last_drops() -> None:
    """In a process that only puts records into a queue: what was dropped since the last report."""
    while owing:
        owed = owing.pop()
        if owed.reader is None and owed.untold_since is not None:
            with contextlib.suppress(Exception):  # a queue that is closed, or whose other end has gone
                owed.report_to_reader(_LAST_WORDS)


@in_child
def _begin_anew() -> None:
    """Each queue, and each listener, by itself: one that cannot begin afresh costs the others nothing."""
    _given_up.clear()
    owing.clear()
    for inherited in all_queues():
        reader, parent_reads = inherited.reader, inherited.crosses_processes
        with contextlib.suppress(Exception):
            inherited.reset()
        if reader is not None:
            with contextlib.suppress(Exception):
                reader.after_fork(parent_reads)
    with contextlib.suppress(Exception):
        _hook_end_of_this_child()


def _hook_end_of_this_child() -> None:
    for util in _utils():
        # Such a child drops all finalizers when it begins, also one made in a hook like this.
        util.register_after_fork(util, _hook)
    # A child of Celery's pool that is replaced ends by os._exit, and tells only those who listen to Celery.
    shutdown = getattr(sys.modules.get("celery.signals"), "worker_process_shutdown", None)
    if shutdown is not None:
        shutdown.connect(_end_child, weak=False, dispatch_uid=__name__)


# Runs before logging.shutdown(), which was registered earlier, and after all non-daemon threads.
atexit.register(finish_all)
