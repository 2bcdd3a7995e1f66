"""How a backup becomes a `.gz`, complete or not there; when, and by whom: the rotating call, or a thread of its own.

A job belongs to the living process that holds a lock on the backup itself, and one on the part file, which is named for
the backup's inode.  So a crash only delays compression: the next process that rotates finds the backup unlocked, takes
it, and replaces the part file.  What is in a `.gz` is `_gzip`'s.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from functools import partial
from typing import Callable, Iterable, List, Optional, Set, Tuple

from concurrent_log_handler._access import Access
from concurrent_log_handler._afterwards import Afterwards, Report
from concurrent_log_handler._files import (
    WINDOWS,
    exists,
    files_like,
    hidden_prefix,
    identity,
    open_to_lock,
    read_at,
    remove,
    sync_directory,
    write_through,
)
from concurrent_log_handler._forks import here, threads_work
from concurrent_log_handler._locks import Locks
from concurrent_log_handler._locks._platform import lock_file_now, unlock_file
from concurrent_log_handler._patience import Streak, monotonic
from concurrent_log_handler._settings import Settings

from . import GZ, Look
from ._announcer import Announcer
from ._gzip import CHUNK, pack, settle

_RIPE = 0.003  # seconds after which nobody writes to a backup without noticing: more than `_livefile.LATE`


class Job:
    def __init__(self, source: int, part: int, part_path: str) -> None:
        found = os.fstat(source)
        self.inode = (found.st_dev, found.st_ino)
        self.part_inode = os.fstat(part).st_ino
        self._source = source
        self._part = part
        self._part_path: Optional[str] = part_path
        self._identities = identity(source), identity(part)
        self._read = 0
        self._written = 0
        self._process = here()
        self._claimed = monotonic()

    def foreign(self) -> bool:
        """Tell whether the job is a parent process's, whose descriptors are closed here already."""
        return here() != self._process

    def compress(self) -> None:
        """Compress what the backup has beyond what was read before, if anything, as one more gzip member."""
        self._check()
        before = os.fstat(self._source)
        whole = self._written
        if whole and before.st_size <= self._read:
            return
        try:
            for packed in pack(iter(self._next_chunk, b"")):
                self._check()
                write_through(self._part, packed)
                self._written += len(packed)
            os.fsync(self._part)
        except BaseException:
            if identity(self._part) == self._identities[1]:
                os.ftruncate(self._part, whole)  # a broken end would make all of it unreadable for some
            raise
        # The time tells readers, and retention by age, when the last record came.
        part = self._part if os.utime in os.supports_fd else self._part_path
        if part is not None:
            os.utime(part, ns=(before.st_atime_ns, before.st_mtime_ns))

    def ripen(self) -> None:
        """Wait until a writer who was late for the rotation would notice it."""
        time.sleep(max(0.0, self._claimed + _RIPE - monotonic()))

    def publish(self, names: Iterable[str], fsync: bool = False) -> str:
        """
        Put the `.gz` where the backup is by now, remove the backup, and return the `.gz`'s path.

        Empty if the backup expired or was removed meanwhile.  What a late writer adds until the end is in the `.gz`,
        too.  With *fsync*, its name is on the disk before the backup goes.
        """
        self.compress()
        name = next((each for each in names if identity(each) == self.inode), None)
        if name is None or self._part_path is None or exists(name + GZ):
            return ""
        whole = os.stat(self._part_path)
        if not os.path.samestat(whole, os.fstat(self._part)) or whole.st_size != self._written:
            msg = "somebody else changed the part file of a compression"
            raise OSError(errno.ESTALE, msg, self._part_path)
        os.replace(self._part_path, name + GZ)
        self._part_path = None
        try:
            self.compress()
        except BaseException:
            remove(name + GZ)  # the backup has all of it, and is compressed another time
            raise
        if fsync:
            sync_directory(os.path.dirname(name))
        with contextlib.suppress(FileNotFoundError):
            remove(name)
        if identity(self._source) is not None:  # else it is gone from an NFS server, too
            self.compress()
        return name + GZ

    def close(self) -> None:
        """Release the backup; a part file that was not published goes."""
        if self.foreign():
            return
        unlock_file(self._source)
        unlock_file(self._part)
        self._source = self._part = -1
        if self._part_path is not None:
            with contextlib.suppress(OSError):
                remove(self._part_path)
            self._part_path = None

    def _check(self) -> None:
        """Raise if a descriptor was closed under us: its number may be somebody else's by now."""
        if self.foreign() or (identity(self._source), identity(self._part)) != self._identities:
            raise OSError(errno.EBADF, "somebody else closed the files of a compression")

    def _next_chunk(self) -> bytes:
        data = read_at(self._source, CHUNK, self._read)
        self._read += len(data)
        return data

    def __del__(self) -> None:
        try:
            self.close()  # dropped with the steps of a call that was interrupted
        except Exception:
            pass  # when the interpreter ends, the modules' names may be None already, `contextlib` too


class Compressor:
    """
    Has the backups of the log at *log* compressed.

    Contract: a rotation calls `claim` with the chain's locks held; the work is left for `Afterwards`.  While a
    backup is compressed, no lock is held but the job's; for the moment in which the `.gz` takes its place, the
    chain's.  A backup that fails stays as it is, for the next rotation; the error is reported once per streak.
    """

    def __init__(
        self,
        log: str,
        settings: Settings,
        access: Access,
        locks: Locks,
        afterwards: Afterwards,
        announcer: Announcer,
    ) -> None:
        self._settings = settings
        self._access = access
        self._locks = locks
        self._afterwards = afterwards
        self._announcer = announcer
        self._folders = {os.path.dirname(log)}
        self._prefix = hidden_prefix(log)
        self._tried: Set[Tuple[int, int]] = set()  # since the last rotation; what failed waits for the next
        self._trouble = Streak()
        self._worker = Worker()

    def claim(self, look: Look) -> None:
        """Take the backup that a rotation has made, while the locks are held, so that no two processes do it."""
        self._clean_up()
        background = self._settings.background_gzip
        try:
            names = look().plain()
            job = None if background else self.next_job(names)
        except Exception as error:
            self._trouble.note(error, self._afterwards.report)
            return
        if background:
            step = partial(self._in_background, look, len(names))
            self._afterwards.later(lambda report: self._worker.poke(partial(step, report)))
        elif job is not None:
            self._afterwards.later(partial(self._compress_all, look, job, len(names)))

    def wait(self, timeout: Optional[float]) -> None:
        """Wait at most *timeout* seconds for what is compressed in the background; what comes now is another's."""
        worker, self._worker = self._worker, Worker()
        worker.wait(timeout)

    def after_fork(self) -> None:
        self._worker = Worker()

    def part_files(self) -> List[str]:
        return self._left(r"([0-9a-f]+)\.part")

    def _left(self, rest: str) -> List[str]:
        return [path for folder in self._folders for path in files_like(folder, self._prefix, rest).values()]

    def _clean_up(self) -> None:
        """Begin anew with a rotation; part files whose makers are dead go, and what could not be deleted before."""
        self._tried.clear()
        for path in self._left(r"([0-9a-f]+\.part|.*\.gone)"):
            with contextlib.suppress(OSError):
                if path.endswith(".gone"):
                    os.unlink(path)
                elif _is_abandoned(path):
                    remove(path)

    def next_job(self, names: Iterable[str]) -> Optional[Job]:
        """Return a job for the first of *names* that is plain and nobody's, with the chain's locks held."""
        return next(filter(None, map(self._job_for, names)), None)

    def _job_for(self, name: str) -> Optional[Job]:
        try:
            source = open_to_lock(name)
        except OSError:
            return None
        with contextlib.ExitStack() as locked:
            locked.callback(unlock_file, source)
            found = os.fstat(source)
            if (found.st_dev, found.st_ino) in self._tried:
                return None
            if not WINDOWS and lock_file_now(source) is False:
                return None
            if exists(name + GZ) and GZ in settle(name):
                return None
            # Beside the backup, since a rotator may have moved it to another file system.
            folder = os.path.dirname(name)
            self._folders.add(folder)
            path = os.path.join(folder, f"{self._prefix}{found.st_ino:x}.part")
            # There nobody else can read what is locked, so the lock on the part file has to do.
            if WINDOWS and os.path.lexists(path) and not _is_abandoned(path):
                return None
            part = self._access.new(path, like=found)
            locked.callback(unlock_file, part)
            lock_file_now(part)
            job = Job(source, part, path)
            self._tried.add(job.inode)
            locked.pop_all()
            return job

    def _in_background(self, look: Look, number: int, report: Report) -> None:
        self._compress_all(look, None, number, report)
        self._announcer.tell(look, report)

    def _compress_all(self, look: Look, job: Optional[Job], number: int, report: Report) -> None:
        """Compress up to *number* backups, first that of *job*, if any; others may go on rotating."""
        for _ in range(number):
            try:
                job = job or self._locks.chain(lambda held: self.next_job(look().plain()) if held else None)
                if job is None:
                    return
                with contextlib.closing(job):
                    job.compress()
                    job.ripen()
                    job.compress()  # what came late, before the locks are taken
                    self._locks.chain(partial(self._publish, look, job))
                self._trouble.end()
            except Exception as error:
                if job is None or not job.foreign():
                    self._trouble.note(error, report)
                if job is None:
                    return
            job = None

    def _publish(self, look: Look, job: Job, held: bool) -> None:
        if not held:
            raise self._locks.sidecar.take_trouble()
        self._announcer.about_to_move(job.part_inode)
        path = job.publish(look().plain(), self._settings.fsync)
        if path:
            self._announcer.forget(job.inode[1])
            self._afterwards.say("compressed %s", path)


def _is_abandoned(part: str) -> bool:
    """Tell whether no living process is at the file at *part*; raises `OSError`."""
    fd = open_to_lock(part)
    try:
        return lock_file_now(fd) is not False
    finally:
        unlock_file(fd)


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
                # A handleError() of the user's that raises ends it.
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
        while True:
            with self._guard:
                step, self._wanted = self._wanted, None
                if step is None:
                    self._thread = None
                    return
            step()
