"""The thread lock: re-entrant, and taken in turns by those who wait."""

from __future__ import annotations

import contextlib
import logging
from threading import Lock, RLock, get_ident
from typing import Any, Dict, List, Optional

from concurrent_log_handler._forks import home
from concurrent_log_handler._patience import monotonic

_CONFIG_PATIENCE = 1.0

logging_lock: Any = logging._lock  # type: ignore[attr-defined]  # noqa: SLF001 - what its own fork hook takes, too

# Threads that stand in a line, each as often as it does.
_standing: List[int] = []


def patience_here(timeout: Optional[float]) -> Optional[float]:
    """Return *timeout*, or less if this thread has logging's own lock, as in `dictConfig`: others may wait for it."""
    if not logging_lock._is_owned():
        return timeout
    return _CONFIG_PATIENCE if timeout is None else min(timeout, _CONFIG_PATIENCE)


def holds_up(lock: Any) -> bool:
    """Tell whether nobody gets *lock*, a handler's, before the calling thread goes on: it has it, or is in a line."""
    return get_ident() in _standing or (lock is not None and bool(lock._is_owned()))


class ThreadLock:
    """
    A re-entrant lock for the threads of one process that log to one file.

    An `RLock` alone is unfair: a thread that logs without pause takes it again before any that
    waits is awake.  So who has to wait stands in line, and while there is a line, nobody takes the lock
    past it: each waits for as many turns as there were threads before it.

    Attributes:
        rlock: The lock, also the `lock` of every handler on the log.  eventlet may put another one in its place.
        line: Who waits, in the order of their coming, each with a bell that rings when it is first.
    """

    def __init__(self) -> None:
        self.rlock: Any = RLock()
        self.line: Dict[int, Any] = {}
        self._turns = 0

    def take(self, timeout: Optional[float]) -> bool:
        """
        Take the lock; returns False after *timeout* seconds (None: never) in which nobody got on.

        While others take their turns, the lock is not stuck, however long that takes.
        """
        if self.rlock._is_owned() or not self.line:
            if self.rlock.acquire(False):
                return True
            if timeout == 0:
                return False
        me = get_ident()
        if me in self.line:
            # A signal handler of a thread that stands in line: that one cannot move meanwhile.
            return bool(self.rlock.acquire(True, -1 if timeout is None else timeout))
        bell = Lock()
        bell.acquire()
        try:
            _standing.append(me)
            self.line[me] = bell
            self._ring()
            first = False
            while True:
                turns = self._turns
                until = None if timeout is None else monotonic() + timeout
                first = first or bell.acquire(True, _left(until))
                if first and self.rlock.acquire(True, _left(until)):
                    self._turns += 1
                    return True
                if self._turns == turns:
                    return False
        finally:
            self.line.pop(me, None)
            with contextlib.suppress(ValueError):
                _standing.remove(me)
            self._ring()

    def _ring(self) -> None:
        """Tell the first in line that it is the first; once more does no harm."""
        for bell in list(self.line.values())[:1]:
            with contextlib.suppress(RuntimeError):
                bell.release()

    def begin_anew(self) -> None:
        """Forget, in a forked child, the parent's other threads; what this thread took before a fork(), it keeps."""
        self.line.clear()
        _standing.clear()
        # After a fork in C, a thread made since may have the identity of one that held the lock.
        if home.unannounced or not self.rlock._is_owned():
            self.rlock._at_fork_reinit()


def _left(until: Optional[float]) -> float:
    return -1 if until is None else max(0.0, until - monotonic())
