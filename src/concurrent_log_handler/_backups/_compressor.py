"""Which backups are compressed when, and by whom: the rotating call, or a thread in the background.

How one becomes its `.gz` is in `_jobs`.
"""

from __future__ import annotations

from functools import partial
from logging import LogRecord
from typing import Callable, List, Optional, Set

from concurrent_log_handler._afterwards import Afterwards, Report, Streak
from concurrent_log_handler._files import RENAMES_OPEN
from concurrent_log_handler._locks import Locks
from concurrent_log_handler._settings import Settings

from . import Look
from ._announcer import Announcer
from ._background import Worker
from ._jobs import AT_A_TIME, Inode, Job, Jobs, inodes


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
        self._given_up: Set[Inode] = set()
        self._trouble = Streak()
        self._worker = Worker()

    def claim(self, look: Look) -> None:
        """Take what is to be compressed, while the locks are held, so that no two processes do it."""
        self._jobs.clean_up()
        self._given_up.clear()
        if self._settings.background_gzip and RENAMES_OPEN:
            self._afterwards.later(partial(self._compress_later, look))
            return
        try:
            names = list(look().plain())
            jobs = self._jobs.claim(names, lambda _: True)
            waiting = inodes(names) if len(jobs) == AT_A_TIME else set()
        except Exception as error:
            self._afterwards.later(partial(self._failed, error))
            return
        if not RENAMES_OPEN:  # what is open cannot be renamed there, so nobody may come in between
            notice = self._afterwards.notice("compressing a backup")
            self._compress(look, jobs, waiting, notice, lambda _, error: self._afterwards.report(error))
        elif jobs:
            self._afterwards.later(partial(self._compress, look, jobs, waiting))

    def wait(self, timeout: Optional[float]) -> None:
        """Wait for the thread in the background, at most *timeout* seconds."""
        self._worker.wait(timeout)

    def after_fork(self) -> None:
        """Forget the thread, which is the parent's."""
        self._worker = Worker()

    def _compress_later(self, look: Look, _: LogRecord, report: Report) -> None:
        self._worker.poke(partial(self._work, look, report))

    def _work(self, look: Look, report: Report) -> bool:
        """Compress what there is; returns whether there was any."""
        record = self._afterwards.notice("compressing a backup")
        jobs = self._claim_more(look, lambda inode: inode not in self._given_up, record, report)
        self._given_up.update(job.inode for job in jobs)
        self._compress(look, jobs, set(), record, report)
        if jobs:
            self._announcer.tell(look, self._afterwards.notice("after a compression"), report)
        return bool(jobs)

    def _compress(
        self, look: Look, jobs: List[Job], waiting: Set[Inode], record: LogRecord, report: Report
    ) -> None:
        """Compress the backups of *jobs*, and those of *waiting*, which were too many to be claimed at once."""
        try:
            while jobs:
                for job in jobs:
                    waiting.discard(job.inode)
                    if not job.foreign():
                        self._try_to_compress(look, job, record, report)
                jobs = self._claim_more(look, waiting.__contains__, record, report) if waiting else []
        finally:
            for job in jobs:  # after an interrupt
                job.close()

    def _claim_more(
        self, look: Look, wanted: Callable[[Inode], bool], record: LogRecord, report: Report
    ) -> List[Job]:
        def claim(held: bool) -> List[Job]:
            return self._jobs.claim(look().plain(), wanted) if held else []

        try:
            return self._locks.chain(claim)
        except Exception as error:
            self._failed(error, record, report)
            return []

    def _try_to_compress(self, look: Look, job: Job, record: LogRecord, report: Report) -> None:
        try:
            self._compress_one(look, job)
        except Exception as error:
            self._failed(error, record, report)
        else:
            self._trouble.end()
        finally:
            job.close()

    def _compress_one(self, look: Look, job: Job) -> None:
        for attempt in range(4):
            job.compress()
            job.ripen()
            path = self._locks.chain(partial(self._publish, look, job, attempt == 3))
            if path is not None:
                if path:
                    self._afterwards.say("compressed %s", path)
                return

    def _publish(self, look: Look, job: Job, finally_: bool, held: bool) -> Optional[str]:
        if not held:
            raise self._locks.sidecar.take_trouble()
        self._announcer.replaces(job.part_inode)
        path = job.publish(look().names(), finally_, self._settings.fsync)
        if path:
            self._announcer.forget(job.inode[1])
        return path

    def _failed(self, error: BaseException, record: LogRecord, report: Report) -> None:
        if self._trouble.begin():
            report(record, error)
