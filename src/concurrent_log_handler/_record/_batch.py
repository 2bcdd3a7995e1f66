"""Many records on their way to the file together: under one lock, with one write for each file that they fill.

Whoever calls holds the locks, and says when and how room is made in the file.
"""

from __future__ import annotations

from collections import deque
from logging import LogRecord
from typing import Callable, Iterable, Iterator, List, Optional, Tuple

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
        """Make lines of the records."""
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

        Args:
            is_due: Tells whether room is to be made before the file has that many bytes.
            make_room: Makes room for a record of that many bytes; returns the file's size.
            make_sure: Looks after bytes that were written behind that many others.
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
                    chunk, pending = [], 0
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

    def write_each(self, write: Callable[[bytes], None]) -> None:
        """Write the lines one by one."""
        self._each(self.lines, write)

    def one_by_one(self) -> Iterator[LogRecord]:
        """Yield the records; each counts as dealt with when the next is asked for."""
        for record in self.records:
            yield record
            self._forget(record)

    def done(self) -> None:
        """Note that every record was dealt with."""
        if self._queued is not None:
            self._queued.clear()

    def _write_chunk(
        self, live: LiveFile, chunk: List[_Line], size: int, make_sure: Callable[[bytes, int], None]
    ) -> None:
        if not chunk:
            return
        whole = b"".join(data for _, data in chunk)
        try:
            live.append(whole, size)
        except OSError:
            # What fits is still written: the disk may have room for some of them.
            self._each(chunk, lambda data: live.append(data, live.look()))
            return
        self._forget(chunk[-1][0])
        make_sure(whole, size)

    def _each(self, lines: List[_Line], write: Callable[[bytes], None]) -> None:
        for record, data in lines:
            try:
                write(data)
            except Exception as error:
                self.failed.append((record, error))
            self._forget(record)

    def _forget(self, last: Optional[LogRecord]) -> None:
        """Take out of the queue what comes before *last*, and that record itself."""
        while self._queued and self._queued.popleft() is not last:
            pass
