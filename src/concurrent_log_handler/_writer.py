"""The way of a record to its file, and the order of its steps.

format → encode → lock → look → (rotate) → write → unlock → (compress).  How each step
is done is left to the rooms below, and what happens in brackets, to `_base` above.
"""

from __future__ import annotations

import contextlib
import sys
from collections import deque
from logging import LogRecord
from time import monotonic, time
from typing import (
    Any,
    Callable,
    Deque,
    Iterable,
    List,
    Optional,
    Sequence,
    Tuple,
)

from ._flock import UNLOCK, flock
from ._forks import home, notice_fork
from ._livefile import LATE
from ._shared import SharedFileHandler, locked_step

_NEVER = sys.maxsize


class RecordWriter(SharedFileHandler):
    """
    A file handler whose every record is written whole, once, under a lock that processes share.

    A subclass may make room for a record before it is written (`_consider`), and leave work for
    after the locks are released (`_later`).
    """

    # Filled on the way through `emit`, so plain attributes: the fewest bytecodes.
    _look_closer_at = _NEVER  # size of the live file from which `_consider` is asked
    _wake_at: float = 0.0  # `_clock`'s time from which `_consider` is asked, as before `_asked_at`; 0 never
    _asked_at: float = 0.0
    _clock: Callable[[], float] = time

    def handle(self, record: LogRecord) -> Any:
        """
        Write *record* if the filters let it pass.

        Unlike `logging.Handler.handle`, it leaves the locking to `emit`, so that compression,
        which comes last, keeps nobody waiting.  An `emit` of a subclass is called with the thread
        lock held, as it may expect.
        """
        passed: Any = self.filter(record)
        if passed:
            if isinstance(passed, LogRecord):  # since Python 3.12 a filter may return another record
                record = passed
            if type(self).emit is RecordWriter.emit:
                self.emit(record)
            else:
                self.acquire()
                try:
                    self.emit(record)
                finally:
                    self.release()
        return passed

    @locked_step
    def emit(self, record: LogRecord) -> None:
        """
        Write *record* whole and once, rotating first if it is due.  Errors go to `handleError`.

        Safe from any thread or process, from a signal handler, and from inside itself.
        """
        lock = self._lock
        if record.process != home.pid:
            notice_fork()
        mine = lock.mine()
        if mine and (lock.held or lock.entered):
            if self._inside() and lock.held:
                self._emit_inside(record)
                return
            mine = lock.mine()
        afterwards: Sequence[Callable[[LogRecord], None]] = ()
        try:
            try:
                entered = mine or lock.thread.acquire(False) or lock.enter(self.lock_timeout)
                if entered and not mine:
                    lock.entered = True
                form = self._text
                text = self.format(record) + self._terminator
                data = text.encode(form.codec, form.errors) if form.newline == "\n" else form.encode(text)
                if entered and lock.acquire(self.lock_timeout):
                    live = self._live
                    looked = monotonic()
                    size = live.look()
                    if size + len(data) >= self._look_closer_at or (
                        self._wake_at and not self._asked_at <= self._clock() < self._wake_at
                    ):
                        size = self._consider(record, len(data))
                    live.append(data, size)
                    if self._close_each_time:
                        self._make_sure(data, size)
                    else:
                        lock.release()
                        if monotonic() - looked > LATE:
                            self._make_sure(data, size)
                else:
                    self._write_apart(data)
            finally:
                if self._close_each_time and lock.held:
                    self._let_go()
                if self._afterwards and not mine:
                    afterwards = self._take_afterwards()
                lock.settle(mine)
        except RecursionError:  # as in CPython's StreamHandler.emit
            raise
        except Exception:
            self.handleError(record)
        finally:
            # An interrupt may have cut the `finally` above short.
            if lock.mine() and (lock.held or not mine):
                try:
                    lock.settle(mine, certainly=True)
                except RecursionError:  # no frame is left for a call: the same in C's calls only
                    lock.held = False
                    try:
                        flock(lock.fd, UNLOCK)
                    except (OSError, ValueError):  # it may be closed: -1
                        pass
                    if not mine:
                        lock.thread.release()
                        lock.entered = False
                    raise
        if afterwards:
            self._do(afterwards, record)

    def format(self, record: LogRecord) -> str:
        """Return the text of *record*, as its formatter gives it."""
        return self._quick_format.text(self.formatter, record)

    def _encode(self, text: str) -> bytes:
        return self._text.encode(text)

    @locked_step
    def emit_batch(self, records: Iterable[LogRecord]) -> None:
        """
        Write *records* in their order, under one lock, with one write for each file that they fill.

        Every record has `emit`'s guarantees; one that cannot be formatted or written goes to
        `handleError` and leaves the others alone.  Level and filters are the caller's business,
        as with `emit`.

        From a `collections.deque`, records are taken as they are dealt with: after an interrupt,
        what is left in it was not written.
        """
        queued = records if isinstance(records, deque) else None
        records = tuple(records)
        lock = self._lock
        notice_fork()
        mine = lock.mine()
        failed: List[Tuple[LogRecord, BaseException]] = []
        afterwards: Sequence[Callable[[LogRecord], None]] = ()
        last: Optional[LogRecord] = None
        if mine and (lock.held or lock.entered):
            if self._inside() and lock.held:
                for record in records:
                    self._emit_inside(record)
                    _forget(queued, record)
                return
            mine = lock.mine()
        try:
            try:
                entered = mine or lock.enter(self.lock_timeout)
                if entered and not mine:
                    lock.entered = True
                lines: List[Tuple[LogRecord, bytes]] = []
                for last in records:
                    try:
                        lines.append((last, self._encode(self.format(last) + self._terminator)))
                    except Exception as error:
                        failed.append((last, error))
                if entered and lines and lock.acquire(self.lock_timeout):
                    failed += self._write_lines(lines, queued)
                elif lines:
                    failed += _each(lines, self._write_apart, queued)
            finally:
                if self._close_each_time and lock.held:
                    self._let_go()
                if self._afterwards and not mine:
                    afterwards = self._take_afterwards()
                lock.settle(mine)
        finally:
            if lock.mine() and (lock.held or not mine):
                lock.settle(mine, certainly=True)
        if queued is not None:
            queued.clear()
        for record, cause in failed:
            self._report(record, cause)
        self._do(afterwards, last or self._notice("after a rotation"))

    def _write_lines(
        self, lines: List[Tuple[LogRecord, bytes]], queued: Optional[Deque[LogRecord]]
    ) -> List[Tuple[LogRecord, BaseException]]:
        """Write *lines* with the lock held, many in one write; return those that could not be written."""
        failed: List[Tuple[LogRecord, BaseException]] = []
        chunk: List[Tuple[LogRecord, bytes]] = []
        size = pending = 0
        looked = False
        for record, data in lines:
            try:
                if not looked:
                    size, looked = self._live.look(), True
                if size + pending + len(data) >= self._look_closer_at or self._time_is_up():
                    failed += self._write_chunk(chunk, size, queued)
                    chunk, pending = [], 0
                    size = self._consider(record, len(data))
            except Exception as error:
                failed.append((record, error))
                looked = False
            else:
                if not chunk and not size and self._live.regular:
                    pending = len(self._text.bom)
                chunk.append((record, data))
                pending += len(data)
        return failed + self._write_chunk(chunk, size, queued)

    def _write_chunk(
        self, chunk: List[Tuple[LogRecord, bytes]], size: int, queued: Optional[Deque[LogRecord]]
    ) -> List[Tuple[LogRecord, BaseException]]:
        if not chunk:
            return []
        whole = b"".join(data for _, data in chunk)
        try:
            self._live.append(whole, size)
        except OSError:
            # What fits is still written: the disk may have room for some of them.
            return _each(chunk, lambda data: self._live.append(data, self._live.look()), queued)
        _forget(queued, chunk[-1][0])
        self._make_sure(whole, size)
        return []

    def _emit_inside(self, record: LogRecord) -> None:
        """
        Write a record that interrupts this thread's own way through `emit` or a rotation.

        The process has the lock already; the record goes to the live path at once and by itself.
        """
        try:
            self._lock.again()
            data = self._encode(self.format(record) + self._terminator)
            self._live.append_apart(data, self._is_missing)
        except RecursionError:
            raise
        except Exception:
            self.handleError(record)

    def _write_apart(self, data: bytes) -> None:
        """Append *data* without the lock, since it could not be had, and have that reported once."""
        self._live.append_apart(data, self._is_missing)
        trouble, self._lock.trouble = self._lock.trouble, None
        if (
            trouble is not None and self._live.is_file()
        ):  # /dev/stdout and the like have no place for a sidecar
            self._later_report(trouble)

    def _make_sure(self, data: bytes, size: int) -> None:
        """
        Write *data* again if the file that it went to, behind *size* bytes, was already out of use.

        Somebody who deletes the sidecar puts us under another lock than the process that rotates.
        If we then come `LATE` with what `look` saw, the file may be a backup by now, or gone.
        """
        with contextlib.suppress(OSError):  # it is in the file, as far as anybody can tell
            if not self._live.linked() and self._is_missing(self._live.fd, data, size):
                self._live.append_apart(data, self._is_missing)

    def _is_missing(self, fd: int, data: bytes, size: int) -> bool:  # noqa: ARG002
        return True

    def _time_is_up(self) -> bool:
        """Tell whether `_consider` is to be asked because of the time; the same stands in `emit`, for speed."""
        # A clock that was set back to before it was asked may have made the known time meaningless.
        return bool(self._wake_at) and not self._asked_at <= self._clock() < self._wake_at

    def _consider(self, record: LogRecord, length: int) -> int:  # noqa: ARG002
        """Make room for *record* of *length* bytes, if that is due; return the live file's size.  Lock held."""
        return self._live.look()


def _each(
    lines: List[Tuple[LogRecord, bytes]], write: Callable[[bytes], None], queued: Optional[Deque[LogRecord]]
) -> List[Tuple[LogRecord, BaseException]]:
    failed: List[Tuple[LogRecord, BaseException]] = []
    for record, data in lines:
        try:
            write(data)
        except Exception as error:
            failed.append((record, error))
        _forget(queued, record)
    return failed


def _forget(queued: Optional[Deque[LogRecord]], last: LogRecord) -> None:
    """Take out of *queued* what comes before *last*, and that record itself."""
    while queued and queued.popleft() is not last:
        pass
