"""The live file as it is opened: to append, and to read what stands at its end where that may be."""

from __future__ import annotations

import os
import stat
from typing import Optional, Tuple

from concurrent_log_handler._files import WINDOWS, Access, closed_if_it_fails, open_in_directory


def open_to_append(path: str, access: Access, within: Optional[Tuple[int, int]]) -> int:
    """Open the log at *path*, or create it; no directory is made where the root is another one than *within*."""
    return open_in_directory(path, lambda: _open(path, access), within)


def _open(path: str, access: Access) -> int:
    try:
        fd = access.open(path, os.O_RDWR | os.O_APPEND)
    except PermissionError:
        return _open_to_write(path, access)
    with closed_if_it_fails(fd):
        if not stat.S_ISFIFO(os.fstat(fd).st_mode):
            return fd
    # A pipe that we could read ourselves would never tell that its reader has gone.
    os.close(fd)
    return _open_to_write(path, access)


def _open_to_write(path: str, access: Access) -> int:
    # A pipe without a reader is an error then, in place of waiting for one.
    fd = access.open(path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_NONBLOCK", 0))
    with closed_if_it_fails(fd):
        if not WINDOWS:
            os.set_blocking(fd, True)
    return fd
