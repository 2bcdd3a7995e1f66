"""What was written is whole or taken back, and on the disk when the logging call returns where `fsync` asks for that.

On the disk are the data of a file, and the names in its directory: that of a new file, and those that a rotation gave.
"""

from __future__ import annotations

import contextlib
import errno
import os
from functools import partial
from typing import Callable, Optional, Set, Tuple

from concurrent_log_handler._afterwards import Afterwards, Report
from concurrent_log_handler._files import (
    WINDOWS,
    append_to,
    close_quietly,
    identity,
    read_at,
    sync_directory,
    truncate,
)

_sync_data: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)


class Disk:
    """
    Has the files of the log at *log* on the disk.

    Contract: the live file calls `soon` with the locks held, right after a write, and `now` where there is no
    lock to wait for.  What takes long is left for `Afterwards`, so that others write meanwhile.
    An error is reported with the record that is not promised then.
    """

    def __init__(self, log: str, afterwards: Afterwards) -> None:
        self._log = log
        self._afterwards = afterwards
        self._held: Set[int] = set()
        self._named: Optional[Tuple[int, int]] = None  # the file whose name is on the disk

    def soon(self, fd: int) -> None:
        """Have what *fd* has open on the disk after the locks are released."""
        try:
            held = os.dup(fd)  # the file may be closed or rotated meanwhile
        except OSError:
            self.now(fd)
        else:
            self._held.add(held)
            self._afterwards.later(partial(self._sync_held, held))

    def now(self, fd: int) -> None:
        try:
            self._sync(fd)
        except OSError as error:
            self._afterwards.report(error)

    def renamed(self, target: str) -> None:
        """Have the names that a rotation gave, the last of them *target*, on the disk after the locks are released."""
        self._afterwards.later(lambda _: self._sync_names(target))

    def after_fork(self) -> None:
        """Close, in a forked child, what the parent's threads still work on."""
        while self._held:
            close_quietly(self._held.pop())

    def _sync_held(self, fd: int, _report: Report) -> None:
        if fd in self._held:  # else it was the parent's
            try:
                self._sync(fd)
            finally:
                self._held.discard(fd)
                close_quietly(fd)

    def _sync(self, fd: int) -> None:
        if not WINDOWS and identity(fd) != self._named:
            self._sync_names(self._log)
        _sync_data(fd)

    def _sync_names(self, target: str) -> None:
        named = identity(self._log)
        paths = self._log, os.path.realpath(self._log), target
        for folder in sorted(set(map(os.path.dirname, paths))):
            sync_directory(folder)
        self._named = named


def write_rest(fd: int, data: bytes, written: int, path: str) -> None:
    """
    Write what is left of *data* behind its first *written* bytes, since only a write that fails tells why.

    Then all of it is taken back, and the file system's own error raised.
    """
    reason = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    try:
        # Not behind what somebody else wrote there without the lock.
        while written < len(data) and _ends_with(fd, data[:written]) is not False:
            more = append_to(fd, data[written:], written)
            if not more:
                break
            written += more
    except OSError as error:
        reason = error
    if written < len(data):
        fate = "they stay"
        with contextlib.suppress(OSError):
            if _ends_with(fd, data[:written]):  # unless something stands behind them
                truncate(fd, os.fstat(fd).st_size - written)
                fate = "they were taken back"
        msg = f"{reason.strerror}: only {written} of {len(data)} bytes could be written; {fate}"
        raise OSError(reason.errno, msg, path)


def _ends_with(fd: int, data: bytes) -> Optional[bool]:
    """Tell whether the file ends with *data*; None if we may not read it."""
    try:
        size = os.fstat(fd).st_size
        return size >= len(data) and read_at(fd, len(data), size - len(data)) == data
    except OSError:
        return None
