"""The end of a file: written whole or not at all, and whether a writer died there inside its write."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from typing import Optional, Tuple

from concurrent_log_handler._clock import monotonic
from concurrent_log_handler._files import append_to, read_at, truncate

from ._text import TextFormat

_PATIENCE = 0.02


def torn_end(fd: int, size: int, text: TextFormat) -> Tuple[int, bytes]:
    """Return the size of the file, which had *size* bytes, and what ends the record that is torn there, if any."""
    if not text.ends or not size:
        return size, b""
    # A writer without the lock shows up as torn while the kernel is copying its record.
    until = 0.0
    while True:
        try:
            longest = min(text.longest_end, size)
            if not size % text.width and read_at(fd, longest, size - longest).endswith(text.ends):
                return size, b""
        except OSError:
            return size, b""  # write-only
        now = monotonic()
        until = until or now + _PATIENCE
        if now > until:
            return size, b"\0" * (-size % text.width) + text.seal
        time.sleep(_PATIENCE / 20)
        size = os.fstat(fd).st_size


def write_rest(fd: int, data: bytes, written: int, path: str) -> None:
    """
    Write what is left of *data* behind its first *written* bytes, since only a write that fails tells why.

    Then all of it is taken back, and the file system's own error raised.
    """
    reason = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    try:
        # Not behind what somebody else wrote there without the lock.
        while written < len(data) and ends_with(fd, data[:written]) is not False:
            more = append_to(fd, data[written:], written)
            if not more:
                break
            written += more
    except OSError as error:
        reason = error
    if written < len(data):
        fate = "they stay"
        with contextlib.suppress(OSError):
            if ends_with(fd, data[:written]):  # unless something stands behind them
                truncate(fd, os.fstat(fd).st_size - written)
                fate = "they were taken back"
        msg = f"{reason.strerror}: only {written} of {len(data)} bytes could be written; {fate}"
        raise OSError(reason.errno, msg, path)


def ends_with(fd: int, data: bytes, behind: int = 0) -> Optional[bool]:
    """Tell whether the file ends with *data*, *behind* so many bytes or more; None if we may not read it."""
    try:
        size = os.fstat(fd).st_size
        return size >= behind + len(data) and read_at(fd, len(data), size - len(data)) == data
    except OSError:
        return None
