"""Rotation and compression, as steps on the way of a record: what both handlers have in common.

`_writer` brings a record to its file.  When a rotation is due and which names it gives
is left to the handler classes; how a file is moved or compressed, to the rooms below.
"""

from __future__ import annotations

import contextlib
import os
import time
from functools import partial
from logging import LogRecord
from typing import Callable, ContextManager, Iterable, Iterator, List, Optional, Set, Tuple

from ._compress import AT_A_TIME, Compression, Inode, Job, Worker, has_read, inodes
from ._files import WINDOWS
from ._flock import directory_lock
from ._lock import CONFIG_PATIENCE, LockTimeoutError, logging_is_locked_here
from ._rotation import GZ, Move
from ._shared import locked_step
from ._writer import RecordWriter

_FIRST_RETRY = 0.1
_LAST_RETRY = 5.0
_DIRECTORY_PATIENCE = 1.0
_CHAIN_PATIENCE = 1.0


class ConcurrentHandler(RecordWriter):
    """
    A rotating file handler whose every record is written whole, once, under a lock that processes share.

    A subclass says when a rotation is due (`shouldRollover`), how it is done (`_roll`), and which
    backups there are (`_backups`).
    """

    _worker: Optional[Worker] = None  # on the instance once there is one
    _OF_THIS_PROCESS = (*RecordWriter._OF_THIS_PROCESS, "_compression", "_worker", "_incoming")

    def _set_up(self) -> None:
        super()._set_up()
        self._compression = Compression(self.baseFilename, self._access)
        self._given_up: Set[Inode] = set()
        self._gzip_in_trouble = False
        self._rolling = False
        self._incoming: Tuple[Optional[LogRecord], int] = (None, 0)
        self._retry_at = 0.0
        self._retry_pause = 0.0

    def after_fork(self) -> None:
        super().after_fork()
        self.__dict__.pop("_worker", None)  # its thread is the parent's
        if not self._lock.mine():  # else the child goes on in the step that forked
            self._rolling = False
            self._incoming = (None, 0)

    # -- rotation -------------------------------------------------------------

    def shouldRollover(self, record: LogRecord) -> bool:
        """Tell whether a rotation is due before *record* is written."""
        raise NotImplementedError

    def _consider(self, record: LogRecord, length: int) -> int:
        """Rotate before *record* of *length* bytes, if that is due; return the live file's size.  Lock held."""
        if not self._lock.check_place(self.lock_timeout):
            return self._live.look()
        self._incoming = (record, length)
        try:
            if not self.shouldRollover(record) or time.monotonic() < self._retry_at or self._rolling:
                return self._live.look()
            self.doRollover()
        except Exception as error:
            if not self._retry_pause:
                self._later_report(error)
            self._retry_pause = min(2 * self._retry_pause or _FIRST_RETRY, _LAST_RETRY)
            self._retry_at = time.monotonic() + self._retry_pause
        else:
            self._retry_pause = self._retry_at = 0.0
        finally:
            self._incoming = (None, 0)
        return self._live.look()

    def _length(self, record: LogRecord) -> int:
        """Return how many bytes *record* takes in the file."""
        known, length = self._incoming
        return length if known is record else len(self._encode(self.format(record) + self._terminator))

    @locked_step
    def doRollover(self) -> None:
        """
        Rotate now, whatever the size or the time; callable from anywhere, also without the lock.

        Raises:
            OSError: The rotation could not be done.  Nothing is lost; at most it stopped half-way,
                and the next one goes on from there.
            LockTimeoutError: Another process held the lock for `lock_timeout` seconds.
        """
        lock = self._lock
        by_hand = not lock.mine()
        if self._rolling and not by_hand:
            return  # called from inside itself, say by a namer that logs
        with self._exclusive() as held:
            if not held or not lock.check_place(self.lock_timeout):
                raise lock.take_trouble()
            self._live.look()
            if not self._wants_rotation() or not self._live.regular:
                return
            self._rolling = True
            try:
                with self._chain_lock() as unchanged:
                    if unchanged and self._roll():
                        self.num_rollovers += 1
                        if self.use_gzip:
                            self._claim_backups()
                        self._rolled()
            finally:
                self._rolling = False
                lock.forget_foreign()  # a namer or a rotator is the user's code: it may close anything
            self._live.look()
        if by_hand:
            self._do_afterwards()

    @contextlib.contextmanager
    def _chain_lock(self) -> Iterator[bool]:
        """
        Hold the directory's lock, under which the chain of backups changes.

        Yields whether the live file is still the one that we saw before.  A tmp cleaner can delete
        the sidecar while it is held; then two processes each hold "the" lock, and one of them
        rotates while the other still waits here.
        """
        self._live.look()
        before = self._live.identity()
        with self._directory_lock() as state:
            if state is False:
                msg = f"no lock on the directory of {self.baseFilename!r}; the log is not rotated for now"
                raise LockTimeoutError(msg)
            self._live.look()
            yield self._live.identity() == before

    def _wants_rotation(self) -> bool:
        """Tell whether this handler ever rotates."""
        return True

    def _roll(self) -> bool:
        """Move the live file and its backups; returns whether it was moved.  Locks held."""
        raise NotImplementedError

    def _rolled(self) -> None:
        """Follow up a rotation.  Locks held; what is to be compressed has been claimed."""

    def _backups(self) -> Iterable[str]:
        """Yield the names, without `.gz`, that backups of this handler may have.  Locks held."""
        raise NotImplementedError

    def _plain_backups(self) -> Iterable[str]:
        """Yield those of `_backups` that may not be compressed yet.  Locks held."""
        return self._backups()

    def _carry_out(self, moves: Iterable[Move]) -> None:
        for move in moves:
            if move.target is None:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(move.source)
            else:
                try:
                    os.rename(move.source, move.target)
                except FileNotFoundError:
                    if os.path.lexists(move.source):
                        raise
                    continue  # removed by somebody else meanwhile
            self._say("%s -> %s", move.source, move.target or "deleted")

    def _move_live_to(self, target: str) -> None:
        before = self._live.identity()
        if WINDOWS:
            self._live.close()  # an open file cannot be renamed there
        try:
            self.rotate(self.baseFilename, target)
        except FileNotFoundError:
            self._live.look()
            if self._live.identity() == before:
                raise
            return  # somebody else took the live file away meanwhile: nothing is left to rotate
        self._say("%s -> %s", self.baseFilename, target)
        if not WINDOWS:
            self._begin_new_file(target, before)

    def _begin_new_file(self, target: str, before: Inode) -> None:
        """Create the live file; if that fails, for want of inodes say, go on with the old one."""
        try:
            self._live.look()
        except OSError:
            if inodes([target]) == {before} and not os.path.lexists(self.baseFilename):
                os.rename(target, self.baseFilename)
            raise

    def _is_missing(self, fd: int, data: bytes, size: int) -> bool:
        """Tell whether no `.gz` has *data*, written behind *size* bytes to *fd*, a file without a name by now."""
        with self._directory_lock():  # whoever removed the file is done with it
            return not has_read((name + GZ for name in self._backups()), fd, data, size)

    # -- compression ----------------------------------------------------------

    def _claim_backups(self) -> None:
        """Take what is to be compressed, while the locks are held, so that no two processes do it."""
        self._compression.clean_up()
        self._given_up.clear()
        if self.background_gzip and not WINDOWS:
            self._later(self._compress_later)
            return
        try:
            names = list(self._plain_backups())
            jobs = self._compression.claim(names, lambda _: True)
            waiting = inodes(names) if len(jobs) == AT_A_TIME else set()
        except Exception as error:
            self._later(partial(self._gzip_failed, error=error))
            return
        if WINDOWS:
            self._compress(
                jobs, waiting, None
            )  # what is open cannot be renamed there, so nobody may come in between
        elif jobs:
            self._later(partial(self._compress, jobs, waiting))

    def _compress_later(self, _: LogRecord) -> None:
        """Have it done in the background; made only here, as the worker refers to us and we to it."""
        worker = self._worker
        if worker is None:  # two threads may come here at once
            worker = self.__dict__.setdefault("_worker", Worker(self._compress_in_background))
        worker.poke()

    def _compress(self, jobs: List[Job], waiting: Set[Inode], record: Optional[LogRecord]) -> None:
        """Compress the backups of *jobs*, and those of *waiting*, which were too many to be claimed at once."""
        try:
            while jobs:
                for job in jobs:
                    waiting.discard(job.inode)
                    if not job.foreign():
                        self._try_to_compress(job, record)
                jobs = self._claim_more(waiting.__contains__, record) if waiting else []
        finally:
            for job in jobs:  # after an interrupt
                job.close()

    def _try_to_compress(self, job: Job, record: Optional[LogRecord]) -> None:
        try:
            self._compress_one(job)
        except Exception as error:
            self._gzip_failed(record or self._notice("compressing a backup"), error)
        else:
            self._gzip_in_trouble = False
        finally:
            job.close()

    def _compress_in_background(self) -> bool:
        """Compress what there is; returns whether there was any."""
        jobs = self._claim_more(lambda inode: inode not in self._given_up, None)
        self._given_up.update(job.inode for job in jobs)
        self._compress(jobs, set(), None)
        if jobs:
            self._compressed_in_background()
        return bool(jobs)

    def _compressed_in_background(self) -> None:
        """Follow up a compression in the background.  No lock held."""

    def _before_publishing(self, job: Job) -> None:
        """Prepare for the `.gz` of *job* to take the backup's place.  Locks held."""

    def _published(self, job: Job) -> None:
        """Follow up: the `.gz` of *job* has taken the backup's place.  Locks held."""

    @locked_step
    def _claim_more(self, wanted: Callable[[Inode], bool], record: Optional[LogRecord]) -> List[Job]:
        try:
            with self._chain() as held:
                return self._compression.claim(self._plain_backups(), wanted) if held else []
        except Exception as error:
            self._gzip_failed(record or self._notice("compressing backups"), error)
            return []

    @locked_step
    def _compress_one(self, job: Job) -> None:
        for attempt in range(4):
            job.compress()
            job.ripen()
            with self._chain() as held:
                if not held:
                    raise self._lock.take_trouble()
                self._before_publishing(job)
                path = job.publish(self._backups(), finally_=attempt == 3)
                if path:
                    self._published(job)
            if path is not None:
                if path:
                    self._say("compressed %s", path)
                return

    def _gzip_failed(self, record: LogRecord, error: BaseException) -> None:
        """Report *error* once per streak; the backup stays as it is, for the next rotation."""
        if not self._gzip_in_trouble:
            self._gzip_in_trouble = True
            self._report(record, error)

    @contextlib.contextmanager
    def _chain(self) -> Iterator[bool]:
        """Hold all locks that a change of the chain takes; yields whether they were had."""
        with self._exclusive(_CHAIN_PATIENCE) as held:
            if not held or not self._lock.check_place(self.lock_timeout):
                yield False
                return
            with self._directory_lock() as state:
                yield state is not False

    def _directory_lock(self) -> ContextManager[Optional[bool]]:
        # Everybody who logs waits for us meanwhile, and the holder may be about another log.
        patience = _DIRECTORY_PATIENCE if self.lock_timeout is None else self.lock_timeout
        return directory_lock(os.path.dirname(self.baseFilename), min(patience, _DIRECTORY_PATIENCE))

    def _wait_for_afterwards(self) -> None:
        super()._wait_for_afterwards()
        worker = self._worker
        if worker is not None:
            # The user's code in the worker may wait for what this thread holds.  The interpreter's
            # exit still waits for the worker.
            worker.wait(CONFIG_PATIENCE if logging_is_locked_here() else None)
