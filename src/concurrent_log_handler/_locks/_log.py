"""The locks of one log: how a handler takes them, that a process has one for each sidecar, and what a fork does.

The chain changes under one lock more than a record takes: that on the log's directory.  A tmp cleaner can delete the
sidecar while it is held; then two processes each hold "the" lock, and the directory's still keeps them apart.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from threading import RLock, get_ident
from typing import Any, Callable, Dict, Iterator, List, Optional, TypeVar

from concurrent_log_handler._access import Access
from concurrent_log_handler._forks import in_child, notice_fork
from concurrent_log_handler._patience import monotonic
from concurrent_log_handler._record._livefile import LiveFile
from concurrent_log_handler._settings import Settings

from ._platform import FAR, directory_lock
from ._sidecar import INSIDE, SidecarLock
from ._threads import logging_lock, patience_here

_PATIENCE = 1.0  # for a change of the chain, and of a fork with those who log
_Result = TypeVar("_Result")


class LogLocks:
    """
    How one handler locks its log.

    Contract: the handler and its parts call `exclusive` or `chain` with a step, which is told whether the
    locks were had, and runs to its end before anybody else gets them.  Steps may be nested in one thread.
    """

    def __init__(self, sidecar: SidecarLock, live: LiveFile, settings: Settings) -> None:
        self.sidecar = sidecar
        self.close_each_time = not settings.keep_file_open
        self._live = live
        self._settings = settings
        self._folder = os.path.dirname(live.path)

    def exclusive(
        self, step: Callable[[bool], _Result], patience: float = 0.0, leave_open: bool = False
    ) -> _Result:
        """
        Return what *step* returns; it is told whether the thread lock and the sidecar's are held.

        *patience*: seconds to wait at least, also where the time-out is shorter.
        """
        notice_fork()
        timeout = self._settings.lock_timeout
        timeout = None if timeout is None else max(timeout, patience)

        def with_sidecar(leave_open: bool, way: int) -> _Result:
            if way == INSIDE:
                return step(True)
            held = bool(way) and self.sidecar.acquire(timeout)
            try:
                return step(held)
            finally:
                if held and self.close_each_time and not leave_open:
                    self.close_files()

        return self.sidecar.run(with_sidecar, leave_open, timeout)

    def chain(self, step: Callable[[bool], _Result]) -> _Result:
        """As `exclusive`, for a change of the chain of backups: the directory's lock is held, too."""

        def with_directory(held: bool) -> _Result:
            if not held or not self.in_place():
                return step(False)
            with self.directory() as state:
                return step(state is not False)

        return self.exclusive(with_directory, _PATIENCE)

    def in_place(self) -> bool:
        """Tell whether the sidecar that we hold is the one at its path, after changing over if need be."""
        self._live.ask_directory()
        return self.sidecar.check_place(self._settings.lock_timeout)

    @contextlib.contextmanager
    def directory(self) -> Iterator[Optional[bool]]:
        """Hold the directory's lock; yields False if it could not be had, None where there is none."""
        # Everybody who logs waits for us meanwhile, and the holder may be about another log.
        timeout = self._settings.lock_timeout
        patience = _PATIENCE if timeout is None else min(timeout, _PATIENCE)
        with directory_lock(self._folder, patience) as state:
            self._live.ask_for_all_names()
            yield state

    def reach_far(self) -> None:
        """Have the locks taken as is right where each try goes to a server, and others see what is closed alone."""
        self.close_each_time = True
        self.sidecar.manner = FAR

    def close_files(self) -> None:
        """Close the files between two records, with the lock held, and release it."""
        self._live.close()  # before unlocking: on a network disk it has a lock of its own
        self.sidecar.release()
        if not self._settings.keep_file_open:
            self.sidecar.close()

    def close(self, finish: Callable[[], object]) -> None:
        """Call *finish*, without the thread lock, then close the files; the next record opens them again."""
        notice_fork()
        lock, timeout = self.sidecar, patience_here(self._settings.lock_timeout)
        if not (lock.mine() and lock.held):
            levels = 0
            while lock.mine():  # logging.shutdown() comes here with it held
                lock.rlock.release()
                levels += 1
            try:
                finish()
            finally:
                for _ in range(levels):
                    if not lock.enter(timeout):
                        break  # a thread that hangs has it; the handler's `release` knows whether it is ours

        def close_all(_: None, way: int) -> None:
            if way:
                self._live.close()
                if not lock.held:
                    lock.close()

        lock.run(close_all, None, timeout)


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


# The locks that each thread took for its fork(): none, if it was in there when this module was imported.
_taken: Dict[int, List[Any]] = {}


def _before_fork() -> None:
    """
    Wait until no other thread is in the middle of a step, so that the child sees whole files.

    What this thread has taken already, it keeps, and the child's thread too.  A thread that hangs
    may not keep the application from forking.
    """
    # As logging's own hook does right after: whoever has it may be closing handlers
    # (dictConfig), and so wait for a lock that we would have by then.
    _take(logging_lock)
    until = monotonic() + _PATIENCE
    for lock in sorted(_all_locks(), key=lambda lock: lock.path):
        _take(lock.rlock, max(0.0, until - monotonic()))


def _take(lock: Any, timeout: float = -1) -> None:
    if not lock._is_owned():  # noqa: SLF001 - an RLock has no other name for it
        # First: an interrupt between the two leaves nothing taken for good.
        _taken.setdefault(get_ident(), []).append(lock)
        lock.acquire(True, timeout)


def _after_fork_in_parent() -> None:
    taken = _taken.get(get_ident(), [])
    while taken:
        lock = taken.pop()
        if lock._is_owned():  # noqa: SLF001
            lock.release()


# A child inherits the open file description, to which a `flock` belongs: it would hold the lock whenever the parent
# does, and keep it when the parent is gone.  So it closes what it inherited before all else, and opens its own.
@in_child
def _locks_begin_anew() -> None:
    _locks_guard._at_fork_reinit()  # type: ignore[attr-defined]
    _after_fork_in_parent()
    for lock in _all_locks():
        lock.start_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent)
