"""The lock file as it is opened: a regular file of ours, and no other one that somebody has us lock or create."""

from __future__ import annotations

import errno
import os
import stat
from typing import Callable, NamedTuple, Optional, Tuple

from concurrent_log_handler._files import Access, closed_if_it_fails, mark, open_in_directory


class Opened(NamedTuple):
    """An open lock file."""

    identity: Tuple[int, int]  #: (device, inode).
    mark: int  #: By which `is_ours` knows the descriptor again.
    writable: bool  #: Whether it may be written to: by its mode, and since it has no other name.
    fd: int


def open_lock_file(
    path: str, access: Access, within: Optional[Tuple[int, int]], placed: Callable[[int], int]
) -> Opened:
    """
    Open the lock file at *path*, or create it.

    Args:
        within: The root directory outside which no directory is made.
        placed: Returns the descriptor to go on with, for the one that was opened.
    """
    # A symbolic link here may be somebody's try to have us lock, or create, another file.
    flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        fd = open_in_directory(path, lambda: access.open(path, os.O_RDWR | flags), within)
        writable = True
    except PermissionError as error:
        try:
            fd = access.open(path, os.O_RDONLY | flags, create=False)
            writable = False
        except FileNotFoundError:
            raise error from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise _not_regular(path, error.errno) from error
        raise
    fd = placed(fd)
    with closed_if_it_fails(fd):
        found = os.fstat(fd)
        require_regular(found, path)
        # Another name for it may be somebody's try to have us write into another file.
        return Opened((found.st_dev, found.st_ino), mark(fd), writable and found.st_nlink <= 1, fd)


def require_regular(found: os.stat_result, path: str) -> None:
    """Raise `OSError` if *found* at *path* is something other than a regular file."""
    if not stat.S_ISREG(found.st_mode):
        raise _not_regular(path, errno.ELOOP if stat.S_ISLNK(found.st_mode) else errno.EINVAL)


def _not_regular(path: str, number: int) -> OSError:
    return OSError(number, "the lock file must be a regular file, and something else lies there", path)
