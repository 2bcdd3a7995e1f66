"""Which backups are compressed when, and by whom: the rotating call, or a thread in the background.

How one becomes its `.gz` is in `_jobs`.
"""

from __future__ import annotations

import contextlib
import threading
from functools import partial
from typing import Callable, Optional

from concurrent_log_handler._afterwards import Afterwards, Report, Streak
from concurrent_log_handler._files import RENAMES_OPEN
from concurrent_log_handler._forks import threads_work
from concurrent_log_handler._locks import Locks
from concurrent_log_handler._settings import Settings

from . import Look
from ._announcer import Announcer
from ._jobs import Job, Jobs

_LAST_STEPS = 64  # that are done while somebody waits for the end, and others go on rotating


class Compressor:
    """
    Has the backups of the log at *log* compressed.

    Contract: a rotation calls `claim` with the chain's locks held; the work is left for `Afterwards`.  While a
    backup is compressed, no lock is held but the one on the backup itself; for the moment in which
    the `.gz` takes its place, the chain's.  A backup that fails stays as it is, for the next rotation; the
    error is reported once per streak.
    """

    def __init__(
        self, log: str, settings: Settings, locks: Locks, afterwards: Afterwards, announcer: Announcer
    ) -> None:
        self._settings = settings
        self._locks = locks
        self._afterwards = afterwards
        self._announcer = announcer
        self._jobs = Jobs(log, settings.access)
        self.part_files = self._jobs.part_files
        self._trouble = Streak()
        self._worker = Worker()

    def claim(self, look: Look) -> None:
        """Take the backup that a rotation has made, while the locks are held, so that no two processes do it."""
        self._jobs.clean_up()
        if self._settings.background_gzip and RENAMES_OPEN:
            step = partial(self._in_background, look)
            self._afterwards.later(lambda report: self._worker.poke(partial(step, report)))
            return
        try:
            names = look().plain()
            job = self._jobs.claim(names)
        except Exception as error:
            self._trouble.note(error, self._afterwards.report)
            return
        if job is not None:
            work = partial(self._compress_all, look, job, len(names))
            if RENAMES_OPEN:
                self._afterwards.later(work)
            else:  # what is open cannot be renamed there, so nobody may come in between
                work(self._afterwards.report)

    def wait(self, timeout: Optional[float]) -> None:
        """Wait for the thread in the background, at most *timeout* seconds."""
        self._worker.wait(timeout)

    def after_fork(self) -> None:
        """Forget the thread, which is the parent's."""
        self._worker = Worker()

    def _in_background(self, look: Look, report: Report) -> bool:
        found = self._compress_next(look, report)
        if found:
            self._announcer.tell(look, report)
        return found

    def _compress_all(self, look: Look, job: Job, number: int, report: Report) -> None:
        """Compress the backup of *job*, and what else there is, *number* in all: others may go on rotating."""
        self._compress(look, job, report)
        while number > 1 and self._compress_next(look, report):
            number -= 1

    def _compress_next(self, look: Look, report: Report) -> bool:
        """Compress one more backup; returns whether there was any."""
        try:
            job = self._locks.chain(lambda held: self._jobs.claim(look().plain()) if held else None)
        except Exception as error:
            self._trouble.note(error, report)
            return False
        if job is not None:
            self._compress(look, job, report)
        return job is not None

    def _compress(self, look: Look, job: Job, report: Report) -> None:
        try:
            job.compress()
            job.ripen()
            job.compress()  # what came late, before the locks are taken
            path = self._locks.chain(partial(self._publish, look, job))
            if path:
                self._afterwards.say("compressed %s", path)
            self._trouble.end()
        except Exception as error:
            if not job.foreign():
                self._trouble.note(error, report)
        finally:
            job.close()

    def _publish(self, look: Look, job: Job, held: bool) -> str:
        if not held:
            raise self._locks.sidecar.take_trouble()
        self._announcer.about_to_move(job.part_inode)
        path = job.publish(look().names(), self._settings.fsync)
        if path:
            self._announcer.forget(job.inode[1])
        return path


class Worker:
    """A thread that lives while there is something to do.  A forked child needs a new one."""

    def __init__(self) -> None:
        self._guard = threading.RLock()
        self._thread: Optional[threading.Thread] = None  # started already
        self._wanted: Optional[Callable[[], bool]] = None
        self._somebody_waits = False

    def poke(self, step: Callable[[], bool]) -> None:
        """Have *step* called until it returns False, in the thread or, where none can be started, here."""
        with self._guard:
            self._wanted = step
            if self._thread is not None:
                return
            # No thread is left, or none may be started any more (Python 3.12).
            with contextlib.suppress(RuntimeError):
                if threading.main_thread().is_alive() and threads_work():
                    # Not a daemon: the interpreter waits for it before it exits.
                    thread = threading.Thread(target=self._run, name="log compression", daemon=False)
                    thread.start()
                    self._thread = thread
                    return
        self._run()

    def wait(self, timeout: Optional[float]) -> None:
        """Return when all is done, but for what others add meanwhile, or after *timeout* seconds."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            self._somebody_waits = True
            thread.join(timeout)

    def _run(self) -> None:
        steps_left = _LAST_STEPS
        try:
            while steps_left:
                with self._guard:
                    step, self._wanted = self._wanted, None
                    if step is None:
                        self._thread = None
                        return
                while steps_left and step():
                    if self._somebody_waits or not threading.main_thread().is_alive():
                        steps_left -= 1
        finally:  # also after a handleError() of the user's that raises: the next poke starts again
            with self._guard:
                if self._thread is threading.current_thread():
                    self._thread = None
                    self._somebody_waits = False
