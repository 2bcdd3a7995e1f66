"""A thread for compressions in the background, which lives no longer than they take.

What it does is `_compressor`'s business.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Callable, Optional

from concurrent_log_handler._forks import threads_work

_START_PATIENCE = 5.0  # seconds that starting a thread may take
_LAST_STEPS = 8  # that are done while somebody waits for the end, and others go on rotating


class Worker:
    """A thread that lives while there is something to do.  A forked child needs a new one."""

    def __init__(self) -> None:
        self._guard = threading.RLock()
        self._thread: Optional[threading.Thread] = None
        self._wanted: Optional[Callable[[], bool]] = None
        self._somebody_waits = False

    def poke(self, step: Callable[[], bool]) -> None:
        """
        Have *step* called until it returns False, in the thread or, where none can be started, here.

        Args:
            step: Does some of what there is to do; returns whether there was any.
        """
        with self._guard:
            self._wanted = step
            if self._thread is not None:
                return
            started = threading.main_thread().is_alive() and threads_work() and self._start()
        if not started:
            self._run()

    def _start(self) -> bool:
        # Not a daemon: the interpreter waits for it before it exits.
        self._thread = threading.Thread(target=self._run, name="log compression", daemon=False)
        try:
            self._thread.start()
        except RuntimeError:  # no thread is left, or none may be started any more (Python 3.12)
            self._thread = None
            return False
        return True

    def wait(self, timeout: Optional[float]) -> None:
        """
        Return when everything is done that there was to do, or after *timeout* seconds.

        What others add meanwhile is not waited for.
        """
        if not self._guard.acquire(timeout=_START_PATIENCE):
            return
        try:
            thread = self._thread  # started by now: `poke` holds the guard until it is
            self._somebody_waits = thread is not None
        finally:
            self._guard.release()
        if thread is not None and thread is not threading.current_thread():
            with contextlib.suppress(RuntimeError):  # we are in a signal handler that interrupts its start
                thread.join(timeout)

    def _run(self) -> None:
        steps_left = _LAST_STEPS
        try:
            while steps_left:
                step = self._take_wanted()
                if step is None:
                    return
                while steps_left and step():
                    if self._somebody_waits or not threading.main_thread().is_alive():
                        steps_left -= 1
        finally:  # also after a handleError() of the user's that raises: the next poke starts again
            with self._guard:
                if self._thread is threading.current_thread():
                    self._thread = None
                    self._somebody_waits = False

    def _take_wanted(self) -> Optional[Callable[[], bool]]:
        with self._guard:
            wanted, self._wanted = self._wanted, None
            if wanted is None:
                self._thread = None
            return wanted
