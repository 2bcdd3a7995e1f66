"""Many records together."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from logging import LogRecord
from typing import Callable, Deque, Iterable, List, Optional, Tuple

from concurrent_log_handler._files import read_at

from ._livefile import LiveFile

_Line = Tuple[LogRecord, bytes]


class Batch:
    """
    Records in their order, as `emit_batch` takes them.

    Attributes:
        failed: Records that are not in the file, each with the error.
    """

    def __init__(self, records: Iterable[LogRecord]) -> None:
        self._queued: Deque[LogRecord] = records if isinstance(records, deque) else deque()
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
        size, pending = -1, 0
        for record, data in self.lines:
            try:
                if size < 0:
                    size = live.look()
                if is_due(size + pending + len(data)):
                    self._write_chunk(live, chunk, size, make_sure)
                    pending = 0
                    size = make_room(record, len(data))
            except Exception as error:
                self.failed.append((record, error))
                size = -1
            else:
                if not chunk and not size and live.regular:
                    pending = len(live.header.ready())
                chunk.append((record, data))
                pending += len(data)
        self._write_chunk(live, chunk, size, make_sure)

    def done(self) -> None:
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
