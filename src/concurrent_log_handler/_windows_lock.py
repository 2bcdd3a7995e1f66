"""The lock of Windows, as portalocker's releases from 2.10 to 4 take it: two calls that raise nothing but `OSError`.

Contract.  Called by `_platform` alone, in place of `flock()`, with a descriptor that can be read or written; keeps no
descriptor open and closes none.  The lock belongs to the descriptor's handle: another one of the same process, on
the same file, does not have it, and who has it cannot take it again.  It is on the first bytes of the file,
wherever the descriptor's offset is, and nobody else can read or write those meanwhile.
"""

from __future__ import annotations

import errno
import io
from functools import cache
from typing import Callable

import portalocker

_EXCLUSIVE_NOW = portalocker.LOCK_EX | portalocker.LOCK_NB


@cache
def _file(fd: int) -> io.FileIO:
    """
    Return the file object for the number *fd*, the same one each time: it keeps nothing of what is open under it.

    Before 3.2 portalocker takes no number; 3.2 would lock at the offset, where everybody has a mark of his own.
    """
    return io.FileIO(fd, "r+", closefd=False)


def lock_now(fd: int) -> None:
    """Lock what *fd* has open; raises `BlockingIOError` if somebody has it, another `OSError` if nobody can."""
    _call(portalocker.lock, fd, _EXCLUSIVE_NOW)


def unlock(fd: int) -> None:
    """Release what `lock_now` locked; raises `OSError`."""
    _call(portalocker.unlock, fd)


def _call(function: Callable[..., None], fd: int, *flags: portalocker.LockFlags) -> None:
    try:
        function(_file(fd), *flags)
    except portalocker.exceptions.AlreadyLocked as error:
        raise BlockingIOError(errno.EAGAIN, "locked by somebody else") from error
    except OSError:
        raise
    except Exception as error:
        # pywin32's own errors are no OSErrors; where portalocker wants pywin32 and there is none, it is an ImportError.
        raise OSError(errno.ENOLCK, f"cannot lock: {error}") from error
