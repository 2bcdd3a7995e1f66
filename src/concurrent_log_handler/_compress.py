"""One backup becomes one `.gz`: complete, or not there.

A job belongs to the living process that holds a lock on the backup itself, so a crash
only delays compression: the next process that rotates finds the backup unlocked and
takes it.  Which names backups have, and when the chain may change, is the caller's
business; he says so by calling `claim`, `publish` and `clean_up` with his locks held.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import os
import re
import struct
import threading
import time
import zlib
from typing import Callable, Iterable, Iterator, List, Optional, Set, Tuple

from ._clock import monotonic
from ._files import WINDOWS, Access, hidden_prefix, identity, open_to_read
from ._flock import lock_file_now, unlock_file
from ._forks import here, threads_work
from ._rotation import GZ

_CHUNK = 1 << 20  # zlib releases the GIL for the whole of it
_LEVEL = 6
# The header of what we compress.  No time and no name in it, which other programs leave out, too; but in the place
# that RFC 1952 keeps for "extra" data a field of our own.  Readers pass over it.
_MARK = b"LH" + struct.pack("<H", 22) + b"concurrent-log-handler"
_HEADER = b"\x1f\x8b\x08\x04" + bytes(5) + b"\xff" + struct.pack("<H", len(_MARK)) + _MARK
_RIPE = 0.003  # seconds after which nobody writes to a backup without noticing: more than `_livefile.LATE`
_START_PATIENCE = 5.0  # seconds that starting a thread may take
_LAST_STEPS = 8  # that are done while somebody waits for the end, and others go on rotating
AT_A_TIME = 8  # each job holds two descriptors


Inode = Tuple[int, int]  # with its device


class Job:
    """One backup on its way to its `.gz`."""

    def __init__(self, source: int, part: int, part_path: str) -> None:
        found = os.fstat(source)
        self.inode = (found.st_dev, found.st_ino)
        self._source = source
        self._part = part
        self._part_path: Optional[str] = part_path
        self._part_identity = identity(part)
        self._read = 0
        self._written = 0
        self._process = here()
        self._claimed = monotonic()

    def compress(self) -> None:
        """Compress what the backup has beyond what was read before, as one more gzip member."""
        self._check()
        before = os.fstat(self._source)
        packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
        checksum, begin, header = 0, self._read, _HEADER
        while True:
            data = self._read_chunk()
            if not data:
                break
            checksum = zlib.crc32(data, checksum)
            self._write(header + packer.compress(data))
            header = b""
        self._write(header + packer.flush() + struct.pack("<LL", checksum, (self._read - begin) % 2**32))
        self._check()
        os.fsync(self._part)
        # The time tells readers, and retention by age, when the last record came.
        times = (before.st_atime_ns, before.st_mtime_ns)
        if os.utime in os.supports_fd:
            os.utime(self._part, ns=times)
        elif self._part_path is not None:
            os.utime(self._part_path, ns=times)

    def ripen(self) -> None:
        """Wait until a writer who was late for the rotation would notice it."""
        time.sleep(max(0.0, self._claimed + _RIPE - monotonic()))

    def publish(self, names: Iterable[str], finally_: bool) -> Optional[str]:
        """
        Put the `.gz` where the backup is by now, and remove the backup.

        Returns the path of the `.gz`; an empty one if the backup expired or was removed meanwhile;
        None if a late writer has added to it: then `compress` goes on, and *finally_* says that it
        goes on here and now.
        """
        self._check()
        if os.fstat(self._source).st_size > self._read:
            if not finally_:
                return None
            self.compress()
        name = self._find(names)
        if name is None or self._part_path is None or os.path.lexists(name + GZ):
            return ""
        whole = os.stat(self._part_path)
        if (whole.st_dev, whole.st_ino) != self._part_identity or whole.st_size != self._written:
            raise OSError(
                errno.ESTALE, "somebody else changed the part file of a compression", self._part_path
            )
        if WINDOWS:
            self._close_descriptors()
        os.replace(self._part_path, name + GZ)
        self._part_path = None
        if not WINDOWS and os.fstat(self._source).st_size > self._read:
            try:
                self._add_what_came_late()
            except BaseException:
                os.unlink(name + GZ)  # the backup has all of it, and is compressed another time
                raise
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        if not WINDOWS and os.fstat(self._source).st_size > self._read:
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
                os.unlink(self._part_path)
            self._part_path = None

    def _find(self, names: Iterable[str]) -> Optional[str]:
        for name in names:
            with contextlib.suppress(OSError):
                found = os.stat(name)
                if (found.st_dev, found.st_ino) == self.inode:
                    return name
        return None

    def _check(self) -> None:
        """Raise if a descriptor was closed under us: its number may be somebody else's by now."""
        if self.foreign():
            raise OSError(
                errno.ECHILD, "a backup is compressed by the process that rotated, not by its child"
            )
        if identity(self._source) != self.inode or identity(self._part) != self._part_identity:
            raise OSError(errno.EBADF, "somebody else closed the files of a compression")

    def _read_chunk(self) -> bytes:
        self._check()
        data = os.read(self._source, _CHUNK)
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
        for fd in (self._source, self._part):
            if fd != -1:
                unlock_file(fd)
        self._source = self._part = -1

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()  # dropped with the steps of a call that was interrupted


class Compression:
    """
    Finds what is to be compressed for the log at *path*.

    A part file lies beside the log under a name made from the backup's inode, so that a
    retry replaces it; its maker holds a lock on it, so that a dead maker's is recognised.
    """

    def __init__(self, path: str, access: Access) -> None:
        self._folders = {os.path.dirname(path)}
        self._prefix = hidden_prefix(path)
        self._is_part = re.compile(re.escape(self._prefix) + r"[0-9a-f]+\.part")
        self._access = access

    def claim(self, names: Iterable[str], wanted: Callable[[Inode], bool]) -> List[Job]:
        """
        Return jobs for those plain backups among *names* that are *wanted* and that nobody is at.

        At most `AT_A_TIME`, in the order of *names*, so that the open files stay few.

        Raises:
            OSError: No part file can be made (permission, full disk).
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
        """Remove part files whose makers are dead."""
        for path in self.part_files():
            with contextlib.suppress(OSError):
                fd = open_to_read(path)
                try:
                    abandoned = lock_file_now(fd) is not False
                finally:
                    unlock_file(fd)
                if abandoned:
                    os.unlink(path)

    def part_files(self) -> List[str]:
        """Return the paths of this log's part files."""
        paths: List[str] = []
        for folder in self._folders:
            with contextlib.suppress(OSError), os.scandir(folder) as entries:
                paths += [entry.path for entry in entries if self._is_part.fullmatch(entry.name)]
        return paths

    def _claim_one(self, name: str, wanted: Callable[[Inode], bool]) -> Optional[Job]:
        try:
            source = open_to_read(name)
        except OSError:
            return None
        part = -1
        try:
            found = os.fstat(source)
            free = wanted((found.st_dev, found.st_ino)) and lock_file_now(source) is not False
            if free and not self._has_gz(name, source):
                # Beside the backup, since a rotator may have moved it to another file system.
                folder = os.path.dirname(name)
                self._folders.add(folder)
                path = os.path.join(folder, f"{self._prefix}{found.st_ino:x}.part")
                part = self._access.new(path, like=found)
                lock_file_now(part)
                job = Job(source, part, path)
                source = part = -1
                return job
            return None
        finally:
            for fd in (source, part):
                if fd != -1:
                    unlock_file(fd)

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
        packed = _packed_size(name + GZ, source)
        if packed == os.fstat(source).st_size:
            os.unlink(name)
        elif packed > 0 and _is_of_this_package(name + GZ):
            os.unlink(name + GZ)
            return False
        return True


def inodes(names: Iterable[str]) -> Set[Inode]:
    """Return those of the files at *names*."""
    found: Set[Inode] = set()
    for name in names:
        with contextlib.suppress(OSError):
            status = os.stat(name)
            found.add((status.st_dev, status.st_ino))
    return found


def drop_twin(name: str) -> bool:
    """
    Remove the plain backup *name*, whose `.gz` is there too, if both have the same content; tell whether so.

    Whoever made the `.gz`: it has all of it.
    """
    with contextlib.suppress(OSError), open(open_to_read(name), "rb") as plain:
        if _packed_size(name + GZ, plain.fileno()) == os.fstat(plain.fileno()).st_size:
            os.unlink(name)
            return True
    return False


def has_read(packed: Iterable[str], fd: int, data: bytes, size: int) -> bool:
    """Tell whether one of the `.gz` files *packed* has what *fd* has open, up to *data* somewhere behind *size*."""
    content = _whole(fd)
    start = content.find(data, size)
    for path in packed:
        with contextlib.suppress(OSError, EOFError, zlib.error):
            with _unpack(path) as file:
                read = file.read()
            if read and content.startswith(read):
                return start != -1 and len(read) >= start + len(data)
    return False


@contextlib.contextmanager
def _unpack(path: str) -> Iterator[gzip.GzipFile]:
    with open(open_to_read(path), "rb") as file, gzip.GzipFile(fileobj=file) as packed:
        yield packed


def _whole(fd: int) -> bytes:
    with open(fd, "rb", closefd=False) as file:
        file.seek(0)
        return file.read()


def _is_of_this_package(path: str) -> bool:
    """Tell whether the `.gz` at *path* has our mark; those of version 1.0.0 have none."""
    with open(open_to_read(path), "rb") as file:
        return file.read(len(_HEADER)) == _HEADER


def _packed_size(path: str, source: int) -> int:
    """Return how many bytes the `.gz` at *path* has, if *source* begins with them; otherwise -1."""
    size = 0
    try:
        with _unpack(path) as packed, open(source, "rb", closefd=False) as plain:
            while True:
                data = packed.read(_CHUNK)
                if not data:
                    return size
                if data != plain.read(len(data)):
                    return -1
                size += len(data)
    except (OSError, EOFError, zlib.error):
        return -1
    finally:
        os.lseek(source, 0, os.SEEK_SET)  # for whoever compresses it


class Worker:
    """
    A thread that lives while there is something to do.  A forked child needs a new one.

    Args:
        step: Does some of it; returns whether there was any.
    """

    def __init__(self, step: Callable[[], bool]) -> None:
        self._step = step
        self._guard = threading.RLock()
        self._thread: Optional[threading.Thread] = None
        self._wanted = False
        self._somebody_waits = False

    def poke(self) -> None:
        """Have *step* called until it returns False, in the thread or, where none can be started, here."""
        with self._guard:
            self._wanted = True
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
            while steps_left and self._is_wanted():
                while steps_left and self._step():
                    if self._somebody_waits or not threading.main_thread().is_alive():
                        steps_left -= 1
        finally:  # also after a handleError() of the user's that raises: the next poke starts again
            with self._guard:
                if self._thread is threading.current_thread():
                    self._thread = None
                    self._somebody_waits = False

    def _is_wanted(self) -> bool:
        with self._guard:
            wanted, self._wanted = self._wanted, False
            if not wanted:
                self._thread = None
            return wanted
