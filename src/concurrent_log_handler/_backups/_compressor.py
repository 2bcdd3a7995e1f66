"""Which backups are compressed when, and by whom: the rotating call, or a thread in the background."""

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
        background = self._settings.background_gzip and RENAMES_OPEN
        try:
            names = look().plain()
            job = None if background else self._jobs.claim(names)
        except Exception as error:
            self._trouble.note(error, self._afterwards.report)
            return
        if background:
            step = partial(self._in_background, look, len(names))
            self._afterwards.later(lambda report: self._worker.poke(partial(step, report)))
        elif job is not None:
            work = partial(self._compress_all, look, job, len(names))
            if RENAMES_OPEN:
                self._afterwards.later(work)
            else:  # what is open cannot be renamed there, so nobody may come in between
                work(self._afterwards.report)

    def wait(self, timeout: Optional[float]) -> None:
        """Wait at most *timeout* seconds for what is compressed in the background; what comes now is another's."""
        worker, self._worker = self._worker, Worker()
        worker.wait(timeout)

    def after_fork(self) -> None:
        self._worker = Worker()

    def _in_background(self, look: Look, number: int, report: Report) -> None:
        self._compress_more(look, number, report)
        self._announcer.tell(look, report)

    def _compress_all(self, look: Look, job: Job, number: int, report: Report) -> None:
        self._compress(look, job, report)
        self._compress_more(look, number - 1, report)

    def _compress_more(self, look: Look, number: int, report: Report) -> None:
        """Compress up to *number* backups; others may go on rotating."""
        while number > 0 and self._compress_next(look, report):
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
        path = job.publish(look().plain(), self._settings.fsync)
        if path:
            self._announcer.forget(job.inode[1])
        return path


class Worker:
    """A thread that lives while there is something to do.  A forked child needs a new one."""

    def __init__(self) -> None:
        self._guard = threading.RLock()
        self._thread: Optional[threading.Thread] = None  # started already
        self._wanted: Optional[Callable[[], object]] = None

    def poke(self, step: Callable[[], object]) -> None:
        """Have *step* called, in place of another that waits, in the thread or, where none can be started, here."""
        # No thread is left, or none may be started any more (Python 3.12).
        with self._guard, contextlib.suppress(RuntimeError):
            # What comes while the interpreter ends is not the thread's, for whose end it waits.
            if threading.main_thread().is_alive() and threads_work():
                self._wanted = step  # first: a greenlet may run to its end before start() returns
                if self._thread is None or not self._thread.is_alive():
                    # Not a daemon: the interpreter waits for it before it exits.
                    thread = threading.Thread(target=self._run, name="log compression", daemon=False)
                    thread.start()
                    self._thread = thread
                return
        step()

    def wait(self, timeout: Optional[float]) -> None:
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def _run(self) -> None:
        try:
            while True:
                with self._guard:
                    step, self._wanted = self._wanted, None
                    if step is None:
                        self._thread = None
                        return
                step()
        except BaseException:  # a handleError() of the user's that raises: the next poke starts again
            with self._guard:
                self._thread = None
            raise
