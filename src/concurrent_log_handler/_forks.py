"""The process that we are in, and what begins anew in a forked child.

`os.fork()` tells us.  A program that forks in C, as uWSGI does, does not; then the first record, or the first call
that minds, notices it.  Several threads may do so at once: one of them does the work, and the others wait for it.
"""

from __future__ import annotations

import os
import sys
import threading
from threading import RLock, get_native_id
from typing import Any, Callable, Dict, List, Tuple


class _Home:
    """The process in which everything has begun."""

    pid = os.getpid()  # a child in a new PID namespace may have the same one
    generation = 0  # another one in each child, as soon as the fork is noticed
    unannounced = False  # the last fork was one in C
    thread = get_native_id()  # in which it has begun


home = _Home()
_steps: List[Callable[[], None]] = []
_gates: Dict[int, Any] = {}
# The options with which uWSGI lets threads run, as its own documentation has it.
_THREADED = frozenset({"enable-threads", "threads"})
#: The libraries of greenlets.
GREEN = frozenset({"gevent", "eventlet"})


def in_child(step: Callable[[], None]) -> Callable[[], None]:
    """
    Have *step* called in each forked child, after those that were registered before it.

    It may be cut short by a signal handler that raises, and is then called again.
    """
    _steps.append(step)
    return step


def notice_fork() -> None:
    """Begin anew if this is a child that was forked without Python's knowledge."""
    if os.getpid() != home.pid:
        home.unannounced = home.pid != 0
        begin_anew()


def begin_anew() -> None:
    """Take every step, once in this process; returns when that is done, whoever did it."""
    pid = os.getpid()
    # A gate of the parent's may have been copied while somebody stood in it.  Re-entrant: a signal
    # handler that logs in the middle of a step takes all of them itself.
    gate = _gates.setdefault(pid, RLock())
    with gate:
        if home.pid != pid:
            home.generation += 1
            home.thread = get_native_id()
        for step in _steps:
            if home.pid == pid:
                return
            step()
        home.pid = pid
    _gates.clear()  # who comes later finds all done, behind whatever gate


def here() -> Tuple[int, int]:
    """Return what tells this process from those that it was forked from, noticed or not."""
    return home.generation, os.getpid()


def _after_fork() -> None:
    home.pid = 0
    home.unannounced = False
    _gates.clear()
    begin_anew()


def among_greenlets() -> bool:
    """Whether `threading` has been patched by now."""
    return type(threading.Lock()).__module__.partition(".")[0] in GREEN


def threads_work() -> bool:
    """
    Tell whether a thread may be started here.

    A greenlet runs in the thread that starts it: one of gevent's or eventlet's pool would never let it go on.
    uWSGI's master forks its workers in C: a thread that it has by then can leave them without the interpreter's lock
    for ever.  And without `--enable-threads` it keeps that lock between two requests.
    """
    if among_greenlets() and get_native_id() != (os.getpid() if sys.platform == "linux" else home.thread):
        return False
    uwsgi: Any = sys.modules.get("uwsgi")
    if uwsgi is None:
        return True
    try:
        enabled = not _THREADED.isdisjoint(uwsgi.opt)
        return enabled and (uwsgi.worker_id() != 0 or uwsgi.mule_id() != 0)
    except AttributeError:
        return True  # only called alike


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
