"""One backup becomes one `.gz`: complete, or not there.

A job belongs to the living process that holds a lock on the backup itself, so a crash
only delays compression: the next process that rotates finds the backup unlocked and
takes it.  What is in a `.gz` is `_gzip`'s; when there is something to do, `_compressor`'s.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from typing import Callable, Iterable, List, Optional, Pattern, Tuple

from concurrent_log_handler._clock import monotonic
from concurrent_log_handler._files import (
    RENAMES_OPEN,
    WINDOWS,
    Access,
    hidden_prefix,
    identity,
    names_like,
    open_to_lock,
    read_at,
    remove,
    sync_directory,
)
from concurrent_log_handler._forks import here
from concurrent_log_handler._locks._platform import lock_file_now, unlock_file

from ._gzip import CHUNK, GZ, Member, is_marked, packed_size

_RIPE = 0.003  # seconds after which nobody writes to a backup without noticing: more than `_livefile.LATE`
AT_A_TIME = 8  # each job holds two descriptors

Inode = Tuple[int, int]  # with its device


class Job:
    """One backup on its way to its `.gz`."""

    def __init__(self, source: int, part: int, part_path: str) -> None:
        found, made = os.fstat(source), os.fstat(part)
        self.inode, self.part_inode = (found.st_dev, found.st_ino), (made.st_dev, made.st_ino)
        self._source = source
        self._part = part
        self._part_path: Optional[str] = part_path
        self._source_identity = identity(source)
        self._part_identity = identity(part)
        self._read = 0
        self._written = 0
        self._process = here()
        self._claimed = monotonic()

    def compress(self) -> None:
        """Compress what the backup has beyond what was read before, as one more gzip member."""
        self._check()
        before = os.fstat(self._source)
        member = Member()
        while True:
            self._check()
            data = read_at(self._source, CHUNK, self._read)
            if not data:
                break
            self._read += len(data)
            self._write(member.add(data))
        self._write(member.end())
        self._check()
        os.fsync(self._part)
        # The time tells readers, and retention by age, when the last record came.
        part = self._part if os.utime in os.supports_fd else self._part_path
        if part is not None:
            os.utime(part, ns=(before.st_atime_ns, before.st_mtime_ns))

    def ripen(self) -> None:
        """Wait until a writer who was late for the rotation would notice it."""
        time.sleep(max(0.0, self._claimed + _RIPE - monotonic()))

    def publish(self, names: Iterable[str], finally_: bool, fsync: bool = False) -> Optional[str]:
        """
        Put the `.gz` where the backup is by now, remove the backup, and return the `.gz`'s path.

        Empty if the backup expired or was removed meanwhile; None if a late writer has added to it: then `compress`
        goes on, with *finally_* here and now.  With *fsync*, the `.gz`'s name is on the disk before the backup goes.
        """
        self._check()
        if os.fstat(self._source).st_size > self._read:
            if not finally_:
                return None
            self.compress()
        name = next((each for each in names if identity(each) == self.inode), None)
        if name is None or self._part_path is None or os.path.lexists(name + GZ):
            return ""
        whole = os.stat(self._part_path)
        if not os.path.samestat(whole, os.fstat(self._part)) or whole.st_size != self._written:
            raise OSError(
                errno.ESTALE, "somebody else changed the part file of a compression", self._part_path
            )
        if not RENAMES_OPEN:
            self._close_descriptors()
        os.replace(self._part_path, name + GZ)
        self._part_path = None
        if RENAMES_OPEN and os.fstat(self._source).st_size > self._read:
            try:
                self._add_what_came_late()
            except BaseException:
                remove(name + GZ)  # the backup has all of it, and is compressed another time
                raise
        if fsync:
            sync_directory(os.path.dirname(name))
        with contextlib.suppress(FileNotFoundError):
            remove(name)
        if RENAMES_OPEN and os.fstat(self._source).st_size > self._read:
            self._add_what_came_late()
        return name + GZ

    def _add_what_came_late(self) -> None:
        whole = self._written
        try:
            self.compress()
        except BaseException:
            if identity(self._part) == self._part_identity:
                os.ftruncate(self._part, whole)  # a broken end would make all of it unreadable for some
            raise

    def foreign(self) -> bool:
        """Tell whether the job is a parent process's, whose descriptors are closed here already."""
        return here() != self._process

    def close(self) -> None:
        """Release the backup; a part file that was not published goes."""
        if self.foreign():
            return
        self._close_descriptors()
        if self._part_path is not None:
            with contextlib.suppress(OSError):
                remove(self._part_path)
            self._part_path = None

    def _check(self) -> None:
        """Raise if a descriptor was closed under us: its number may be somebody else's by now."""
        if self.foreign():
            raise OSError(
                errno.ECHILD, "a backup is compressed by the process that rotated, not by its child"
            )
        if identity(self._source) != self._source_identity or identity(self._part) != self._part_identity:
            raise OSError(errno.EBADF, "somebody else closed the files of a compression")

    def _write(self, data: bytes) -> None:
        self._check()
        rest = memoryview(data)
        while rest:
            written = os.write(self._part, rest)
            self._written += written
            rest = rest[written:]

    def _close_descriptors(self) -> None:
        _unlock(self._source, self._part)
        self._source = self._part = -1

    def __del__(self) -> None:
        try:
            self.close()  # dropped with the steps of a call that was interrupted
        except Exception:
            pass  # when the interpreter ends, the modules' names may be None already, `contextlib` too


class Jobs:
    """
    Finds what is to be compressed for the log at *log*.

    Contract: everything but `part_files` is called with the chain's locks held.

    A part file lies beside the backup under a name made from the backup's inode, so that a
    retry replaces it; its maker holds a lock on it, so that a dead maker's is recognised.
    """

    def __init__(self, log: str, access: Access) -> None:
        self._folders = {os.path.dirname(log)}
        self._prefix = hidden_prefix(log)
        self._is_part = re.compile(re.escape(self._prefix) + r"[0-9a-f]+\.part")
        self._is_gone = re.compile(re.escape(self._prefix) + r".*\.gone")
        self._access = access

    def claim(self, names: Iterable[str], wanted: Callable[[Inode], bool]) -> List[Job]:
        """
        Return jobs for the first `AT_A_TIME` plain backups among *names* that are *wanted* and that nobody is at.

        Raises `OSError` if no part file can be made.
        """
        jobs: List[Job] = []
        try:
            for name in names:
                if len(jobs) == AT_A_TIME:
                    break
                job = self._claim_one(name, wanted)
                if job is not None:
                    jobs.append(job)
        except BaseException:
            for job in jobs:
                job.close()
            raise
        return jobs

    def clean_up(self) -> None:
        """Remove part files whose makers are dead, and what could not be deleted before."""
        for path in self._left(self._is_gone):
            with contextlib.suppress(OSError):
                os.unlink(path)
        for path in self.part_files():
            with contextlib.suppress(OSError):
                if _is_abandoned(path):
                    remove(path)

    def part_files(self) -> List[str]:
        """Return the paths of this log's part files."""
        return self._left(self._is_part)

    def _left(self, which: Pattern[str]) -> List[str]:
        return [
            os.path.join(folder, match[0]) for folder in self._folders for match in names_like(which, folder)
        ]

    def _claim_one(self, name: str, wanted: Callable[[Inode], bool]) -> Optional[Job]:
        try:
            source = open_to_lock(name)
        except OSError:
            return None
        part = -1
        try:
            found = os.fstat(source)
            free = wanted((found.st_dev, found.st_ino)) and (WINDOWS or lock_file_now(source) is not False)
            if free and not self._has_gz(name, source):
                # Beside the backup, since a rotator may have moved it to another file system.
                folder = os.path.dirname(name)
                self._folders.add(folder)
                path = os.path.join(folder, f"{self._prefix}{found.st_ino:x}.part")
                # There nobody else can read what is locked, so the lock on the part file has to do.
                if WINDOWS and os.path.lexists(path) and not _is_abandoned(path):
                    return None
                part = self._access.new(path, like=found)
                lock_file_now(part)
                job = Job(source, part, path)
                source = part = -1
                return job
            return None
        finally:
            _unlock(source, part)

    def _has_gz(self, name: str, source: int) -> bool:
        """
        Tell whether *name* has its `.gz` already.

        A compressor killed before its last step leaves both: the plain one goes, or, if a late
        writer has added to it, the `.gz`.  CLH, switched from gzip to none, leaves two different
        backups under one number: both stay.

        A `.gz` goes only if it has our mark, whatever it holds.  Version 1.0.0 made none, and another
        tool's may look like its; so those of 1.0.0 count like another tool's: they stay, and a plain
        backup goes whose content one has to the end.
        """
        if not os.path.lexists(name + GZ):
            return False
        packed = packed_size(name + GZ, source)
        if packed == os.fstat(source).st_size:
            remove(name)
        elif packed > 0 and is_marked(name + GZ):
            remove(name + GZ)
            return False
        return True


def _unlock(*fds: int) -> None:
    for fd in fds:
        if fd != -1:
            unlock_file(fd)


def _is_abandoned(part: str) -> bool:
    """Tell whether no living process is at the file at *part*; raises `OSError`."""
    fd = open_to_lock(part)
    try:
        return lock_file_now(fd) is not False
    finally:
        unlock_file(fd)
