"""Bytes into a file: whole, or not at all.

The first write is the caller's; here is what has to be done where the system took less than it was given.
"""

from __future__ import annotations

import errno
import os
from typing import Optional

from concurrent_log_handler._files import append_to, read_at, truncate


def write_through(fd: int, data: bytes) -> None:
    """Write *data* to a pipe or a device, which takes back nothing, and may take it in pieces."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


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
        fate = "they were taken back" if _take_back(fd, data[:written]) else "they stay"
        msg = f"{reason.strerror}: only {written} of {len(data)} bytes could be written; {fate}"
        raise OSError(reason.errno, msg, path)


def _take_back(fd: int, data: bytes) -> bool:
    """Cut *data* off the end of the file, unless something stands behind it; tell whether so."""
    if not _ends_with(fd, data):
        return False
    try:
        truncate(fd, os.fstat(fd).st_size - len(data))
    except OSError:
        return False
    return True


def _ends_with(fd: int, data: bytes) -> Optional[bool]:
    """Tell whether the file ends with *data*; None if we may not read it."""
    try:
        size = os.fstat(fd).st_size
        return size >= len(data) and read_at(fd, len(data), size - len(data)) == data
    except OSError:
        return None
