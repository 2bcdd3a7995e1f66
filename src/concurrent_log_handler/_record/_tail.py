"""The end of a live file: whether a writer died there inside its write."""

from __future__ import annotations

import os
import time
from typing import Tuple

from concurrent_log_handler._files import read_at
from concurrent_log_handler._patience import monotonic

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
