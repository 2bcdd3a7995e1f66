"""One backup becomes one `.gz`: complete, or not there.

A job belongs to the living process that holds a lock on the backup itself, so a crash only delays compression: the next
process that rotates finds the backup unlocked and takes it.  What is in a `.gz` is `_gzip`'s.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from typing import Iterable, List, Optional, Set, Tuple

from concurrent_log_handler._clock import monotonic
from concurrent_log_handler._files import (
    RENAMES_OPEN,
    WINDOWS,
    Access,
    files_like,
    hidden_prefix,
    identity,
    open_to_lock,
    read_at,
    remove,
    sync_directory,
)
from concurrent_log_handler._forks import here
from concurrent_log_handler._locks._platform import lock_file_now, unlock_file

from ._gzip import CHUNK, GZ, pack, settle

_RIPE = 0.003  # seconds after which nobody writes to a backup without noticing: more than `_livefile.LATE`

Inode = Tuple[int, int]  # with its device


class Job:
    def __init__(self, source: int, part: int, part_path: str) -> None:
        found = os.fstat(source)
        self.inode: Inode = (found.st_dev, found.st_ino)
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
        if self._source == -1:  # closed, as it has to be there where nobody can add to it meanwhile
            return
        self._check()
        before = os.fstat(self._source)
        whole = self._written
        if whole and before.st_size <= self._read:
            return
        try:
            for packed in pack(iter(self._next_chunk, b"")):
                self._write(packed)
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
        if name is None or self._part_path is None or os.path.lexists(name + GZ):
            return ""
        whole = os.stat(self._part_path)
        if not os.path.samestat(whole, os.fstat(self._part)) or whole.st_size != self._written:
            msg = "somebody else changed the part file of a compression"
            raise OSError(errno.ESTALE, msg, self._part_path)
        if not RENAMES_OPEN:
            self._close_descriptors()
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
        self._close_descriptors()
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

    def _write(self, data: bytes) -> None:
        self._check()
        rest = memoryview(data)
        while rest:
            written = os.write(self._part, rest)
            self._written += written
            rest = rest[written:]

    def _close_descriptors(self) -> None:
        unlock_file(self._source)
        unlock_file(self._part)
        self._source = self._part = -1

    def __del__(self) -> None:
        try:
            self.close()  # dropped with the steps of a call that was interrupted
        except Exception:
            pass  # when the interpreter ends, the modules' names may be None already, `contextlib` too


class Jobs:
    """
    Finds what is to be compressed for the log at *log*.

    Contract: everything but `part_files` is called with the chain's locks held.  A part file is named for the backup's
    inode, so that a retry replaces it; its maker holds a lock on it, so that a dead maker's is recognised.
    """

    def __init__(self, log: str, access: Access) -> None:
        self._folders = {os.path.dirname(log)}
        self._prefix = hidden_prefix(log)
        self._access = access
        self._claimed: Set[Inode] = set()  # since the last rotation: what failed is not tried at once again

    def clean_up(self) -> None:
        """Begin anew with a rotation; part files whose makers are dead go, and what could not be deleted before."""
        self._claimed.clear()
        for path in self._left(r"(.*)\.gone"):
            with contextlib.suppress(OSError):
                os.unlink(path)
        for path in self.part_files():
            with contextlib.suppress(OSError):
                if _is_abandoned(path):
                    remove(path)

    def part_files(self) -> List[str]:
        return self._left(r"([0-9a-f]+)\.part")

    def _left(self, rest: str) -> List[str]:
        return [path for folder in self._folders for path in files_like(folder, self._prefix, rest).values()]

    def claim(self, names: Iterable[str]) -> Optional[Job]:
        """Return a job for the first of *names* that is plain and nobody's; raises `OSError` if no part file can be."""
        return next(filter(None, map(self._claim_one, names)), None)

    def _claim_one(self, name: str) -> Optional[Job]:
        try:
            source = open_to_lock(name)
        except OSError:
            return None
        with contextlib.ExitStack() as locked:
            locked.callback(unlock_file, source)
            found = os.fstat(source)
            if (found.st_dev, found.st_ino) in self._claimed:
                return None
            if not WINDOWS and lock_file_now(source) is False:
                return None
            if os.path.lexists(name + GZ) and GZ in settle(name):
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
            self._claimed.add(job.inode)
            locked.pop_all()
            return job


def _is_abandoned(part: str) -> bool:
    """Tell whether no living process is at the file at *part*; raises `OSError`."""
    fd = open_to_lock(part)
    try:
        return lock_file_now(fd) is not False
    finally:
        unlock_file(fd)
