"""Records on other ways than the usual one: many together, without the lock, from inside another record, once more."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from logging import LogRecord
from typing import Callable, Iterable, Iterator, List, Optional, Tuple

from concurrent_log_handler._afterwards import Afterwards
from concurrent_log_handler._backups import Look
from concurrent_log_handler._backups._gzip import GZ, has_read
from concurrent_log_handler._files import read_at
from concurrent_log_handler._locks import Locks

from ._livefile import LiveFile

_Line = Tuple[LogRecord, bytes]


class Batch:
    """
    Records in their order, as `emit_batch` takes them.

    Attributes:
        failed: Records that are not in the file, each with the error.
    """

    def __init__(self, records: Iterable[LogRecord]) -> None:
        self._queued = records if isinstance(records, deque) else None
        self.records = tuple(records)
        self.failed: List[Tuple[LogRecord, BaseException]] = []
        self.lines: List[_Line] = []

    def encode(self, to_bytes: Callable[[LogRecord], bytes]) -> None:
        for record in self.records:
            try:
                self.lines.append((record, to_bytes(record)))
            except Exception as error:
                self.failed.append((record, error))

    def write(
        self,
        live: LiveFile,
        is_due: Callable[[int], bool],
        make_room: Callable[[LogRecord, int], int],
        make_sure: Callable[[bytes, int], None],
    ) -> None:
        """
        Write the lines, with the lock held.

        Before the file has as many bytes as *is_due* says, *make_room* makes room for a record of so many bytes, and
        returns the file's size.  *make_sure* looks after bytes that were written behind so many others.
        """
        chunk: List[_Line] = []
        size = pending = 0
        looked = False
        for record, data in self.lines:
            try:
                if not looked:
                    size, looked = live.look(), True
                if is_due(size + pending + len(data)):
                    self._write_chunk(live, chunk, size, make_sure)
                    pending = 0
                    size = make_room(record, len(data))
            except Exception as error:
                self.failed.append((record, error))
                looked = False
            else:
                if not chunk and not size and live.regular:
                    pending = len(live.header.ready())
                chunk.append((record, data))
                pending += len(data)
        self._write_chunk(live, chunk, size, make_sure)

    def one_by_one(self) -> Iterator[LogRecord]:
        """Yield the records; each counts as dealt with when the next is asked for."""
        for record in self.records:
            yield record
            self._forget(record)

    def done(self) -> None:
        if self._queued is not None:
            self._queued.clear()

    def _write_chunk(
        self, live: LiveFile, chunk: List[_Line], size: int, make_sure: Callable[[bytes, int], None]
    ) -> None:
        """Write the lines of *chunk* at once, and empty it."""
        if not chunk:
            return
        whole = b"".join(data for _, data in chunk)
        lines = tuple(chunk)
        last = lines[-1][0]
        try:
            live.append(whole, size)
            chunk.clear()
            self._forget(last)
            make_sure(whole, size)
        except BaseException as error:
            # A signal handler may have raised it just behind the write, and have logged before that.
            written = not chunk
            with contextlib.suppress(OSError):
                written = written or whole in read_at(live.fd, os.fstat(live.fd).st_size - size, size)
            chunk.clear()
            if written:
                self._forget(last)
            if not isinstance(error, Exception):
                raise
            if written:
                self.failed.append((last, error))
            else:
                # What fits is still written: the disk may have room for some of them.
                self.write_each(lines, lambda data: live.append(data, live.look()))

    def write_each(self, lines: Iterable[_Line], write: Callable[[bytes], None]) -> None:
        """Write *lines* one by one."""
        for record, data in lines:
            try:
                write(data)
            except Exception as error:
                self.failed.append((record, error))
            self._forget(record)

    def _forget(self, last: Optional[LogRecord]) -> None:
        """Take out of the queue what comes before *last*, and that record itself."""
        if self._queued and last in self._queued:  # not so after an interrupt behind this
            while self._queued.popleft() is not last:
                pass


class Apart:
    """
    How one handler appends where the usual way is closed.

    Contract: `write` and `write_inside` need no lock, except where the live file does: there they raise why it
    was not had, and nothing is written.  *look* returns the chain, for whoever asks what became of a file.
    """

    def __init__(self, live: LiveFile, locks: Locks, afterwards: Afterwards) -> None:
        self._live = live
        self._locks = locks
        self._afterwards = afterwards

    def write(self, look: Look, data: bytes) -> None:
        """Append *data* without the lock, since it could not be had, and have that reported once."""
        if self._live.needs_lock:
            raise self._locks.sidecar.take_trouble()
        self._append(look, data)
        sidecar = self._locks.sidecar
        trouble, sidecar.trouble = sidecar.trouble, None
        # /dev/stdout and the like have no place for a sidecar.
        if trouble is not None and self._live.is_file():
            self._afterwards.report(trouble)

    def write_inside(self, look: Look, data: bytes) -> None:
        """Append *data* from inside another record of this thread: at once, to the path, and by itself."""
        if not self._locks.sidecar.again() and self._live.needs_lock:
            raise self._locks.sidecar.take_trouble()
        self._append(look, data)

    def make_sure(self, look: Look, data: bytes, size: int) -> None:
        """
        Write *data* again if the file that it went to, behind *size* bytes, was already out of use.

        Whoever deletes the sidecar puts us under another lock than the process that rotates; if we then come `LATE`
        with what `look` saw, the file may be a backup by now, or gone.
        """
        with contextlib.suppress(OSError):  # it is in the file, as far as anybody can tell
            if not self._live.linked() and self._is_missing(look, self._live.fd, data, size):
                self._append(look, data)

    def _append(self, look: Look, data: bytes) -> None:
        self._live.append_apart(data, lambda *written: self._is_missing(look, *written))

    def _is_missing(self, look: Look, fd: int, data: bytes, size: int) -> bool:
        """Tell whether no `.gz` has *data*, written behind *size* bytes to *fd*, a file without a name by now."""
        with self._locks.directory():  # whoever removed the file is done with it
            return not has_read((name + GZ for name in look().names()), fd, data, size)
