"""One lock per sidecar and process, where the sidecar lies, and what a fork does to these locks.

`flock` and `fork`: a child inherits the open file description, and the lock belongs to
that.  A child using the parent's descriptor would hold the lock whenever the parent does,
and an idle child's copy would keep it when the parent is gone.  So each process opens
its own, and a child closes what it inherited before it does anything else.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from threading import RLock, local
from typing import Any, List, Optional

from concurrent_log_handler._clock import monotonic
from concurrent_log_handler._files import Access
from concurrent_log_handler._forks import in_child, notice_fork

from ._sidecar import SidecarLock
from ._threads import logging_lock

_FORK_PATIENCE = 1.0

_locks: weakref.WeakValueDictionary[str, SidecarLock] = weakref.WeakValueDictionary()
_locks_guard = RLock()  # a signal handler may make a handler, too


def sidecar_path(log: str, directory: Optional[str] = None) -> str:
    """Return the sidecar's path for *log*: `.__app.lock` for `app.log`, in *directory* if given (CLH's rule)."""
    folder, name = os.path.split(log)
    name = name[:-4] if os.path.normcase(name).endswith(".log") else name
    return os.path.join(directory if directory is not None else folder, f".__{name}.lock")


def lock_for(path: str, access: Access) -> SidecarLock:
    """Return this process's lock for the sidecar at *path*, the same one for every caller."""
    notice_fork()
    folder, name = os.path.split(path)
    with contextlib.suppress(OSError):  # too long a path, on Windows
        folder = os.path.realpath(folder)
    key = os.path.normcase(os.path.join(folder, name))
    with _locks_guard:
        return _locks.get(key) or _locks.setdefault(key, SidecarLock(path, access))


def _all_locks() -> List[SidecarLock]:
    # Not values(), which fails where another thread makes or drops a lock meanwhile.
    return [lock for lock in (ref() for ref in _locks.valuerefs()) if lock is not None]


class _TakenForFork(local):
    """The locks that this thread took for its fork(): none, if it was in there when this module was imported."""

    def __init__(self) -> None:
        self.locks: List[Any] = []


_taken = _TakenForFork()


def _before_fork() -> None:
    """
    Wait until no other thread is in the middle of a step, so that the child sees whole files.

    What this thread has taken already, it keeps, and the child's thread too.  A thread that hangs
    may not keep the application from forking.
    """
    # As logging's own hook does right after: whoever has it may be closing handlers
    # (dictConfig), and so wait for a lock that we would have by then.
    _take(logging_lock)
    until = monotonic() + _FORK_PATIENCE
    for lock in sorted(_all_locks(), key=lambda lock: lock.path):
        _take(lock.rlock, max(0.0, until - monotonic()))


def _take(lock: Any, timeout: float = -1) -> None:
    if not lock._is_owned():  # noqa: SLF001 - an RLock has no other name for it
        _taken.locks.append(lock)  # first: an interrupt between the two leaves nothing taken for good
        lock.acquire(True, timeout)


def _after_fork_in_parent() -> None:
    while _taken.locks:
        lock = _taken.locks.pop()
        if lock._is_owned():  # noqa: SLF001
            lock.release()


@in_child
def _locks_begin_anew() -> None:
    _locks_guard._at_fork_reinit()  # type: ignore[attr-defined]
    _after_fork_in_parent()
    for lock in _all_locks():
        lock.start_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent)
