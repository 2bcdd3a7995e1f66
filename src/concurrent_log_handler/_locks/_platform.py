"""The platform's lock, bound once, and what is locked beside the sidecar: directories, backups, part files."""

from __future__ import annotations

import contextlib
import errno
import io
import os
from functools import cache, partial
from time import sleep
from typing import Any, Callable, Dict, Iterator, NamedTuple, Optional, Tuple

import portalocker
import portalocker.portalocker

from concurrent_log_handler._files import QUIET, WINDOWS, close_quietly, identity
from concurrent_log_handler._forks import here, home, in_child
from concurrent_log_handler._patience import monotonic

_NOW = portalocker.LOCK_EX | portalocker.LOCK_NB
EXCLUSIVE_NOW = int(_NOW)
UNLOCK = int(portalocker.LOCK_UN)
_CONTENDED = (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK, errno.EDEADLK)
_HIGH = 500  # the limit is often 1024, and hardly anybody has so many


def closed_late(fd: int) -> int:
    """Exchange *fd* for one with a high number, where that can be had."""
    # The kernel closes the files of a killed process in their order, and sends what is in the cache of each then.
    try:
        import fcntl  # not on Windows

        high: int = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _HIGH)
    except (ImportError, OSError):
        return fd
    close_quietly(fd)
    return high


class Manner(NamedTuple):
    """How a lock is waited for, by where the lock file lies."""

    tries: int  #: In one burst.
    sleeps: Tuple[float, float]  #: The first and the longest between bursts, in seconds.
    patience: float  #: Seconds to wait, for a record, while the last wait was in vain.
    consequence: str  #: What becomes of records without the lock.


# Waiting: bursts of tries, since the holder is usually done in microseconds, with sleeps between
# them that grow.  A burst after each sleep keeps the slowest call short: the lock is free
# several times during it.  A sleep costs about 60 microseconds more than it is asked for.
# The thread lock and sleep() are taken from one import: where gevent patches them, it patches both.
_TRIES_BEFORE_YIELDING = 5
NEAR = Manner(
    tries=20,
    sleeps=(0.00005, 0.002),
    patience=0.0,
    consequence="records are appended without it, and the file is not rotated meanwhile",
)
# Each try is a request to a server.
FAR = Manner(
    tries=1,
    sleeps=(0.001, 0.016),
    patience=0.05,
    consequence="on a disk that machines share nothing is written without it, so the record is not in the file",
)
_yield_processor: Callable[[], object] = getattr(os, "sched_yield", lambda: None)


# The lock of Windows, as portalocker's releases from 2.10 to 4 take it.  It belongs to the descriptor's handle: another
# one of the same process does not have it, and who has it cannot take it again.  It is on the first bytes of the
# file, which nobody else can read or write meanwhile.
@cache
def _file(fd: int) -> io.FileIO:
    # Before 3.2 portalocker takes no number; 3.2 would lock at the offset, where everybody has a mark of his own.
    # One object for each number will do: it keeps nothing of what is open under it.
    return io.FileIO(fd, "r+", closefd=False)


def _flock(fd: int, operation: int) -> None:
    try:
        if operation == UNLOCK:
            portalocker.unlock(_file(fd))
        else:
            portalocker.lock(_file(fd), _NOW)
    except portalocker.exceptions.AlreadyLocked as error:
        raise BlockingIOError(errno.EAGAIN, "locked by somebody else") from error
    except OSError:
        raise
    except Exception as error:
        # pywin32's own errors are no OSErrors; where portalocker wants pywin32 and there is none, it is an ImportError.
        raise OSError(errno.ENOLCK, f"cannot lock: {error}") from error


# Locks or unlocks a descriptor; raises `BlockingIOError` if somebody has the lock, another `OSError` if nobody can.
# Where portalocker has a function for that, its lock() does the same after 10 times as much enum arithmetic.
_locker: Any = getattr(portalocker.portalocker, "LOCKER", None)
flock: Callable[[int, int], object] = (
    _flock if WINDOWS or not callable(_locker) or isinstance(_locker, type) else _locker
)


def contended(error: OSError) -> bool:
    """Tell a lock that somebody holds from one that cannot be had at all."""
    return error.errno in _CONTENDED


def burst(fd: int, manner: Manner) -> bool:
    """Try some times in a row to lock *fd*, as fast as can be: the holder is usually done in microseconds."""
    for tries in range(manner.tries):
        try:
            flock(fd, EXCLUSIVE_NOW)
            return True
        except OSError as error:
            if not contended(error):
                raise
        if tries >= _TRIES_BEFORE_YIELDING:
            _yield_processor()  # to the holder, perhaps
    return False


def wait_for(
    attempt: Callable[[], Optional[bool]], timeout: Optional[float], manner: Manner = NEAR
) -> Optional[bool]:
    """Call *attempt* while it returns False, at most about *timeout* seconds (None: for ever); return its last word."""
    until = None if timeout is None else monotonic() + timeout
    pause, longest = manner.sleeps
    while (had := attempt()) is False:
        if until is not None and monotonic() >= until:
            break
        sleep(pause)
        pause = min(pause * 2, longest)
    return had


# Descriptors that carry a lock, with the generation of processes that took it and what they had open then.
_locked: Dict[int, Tuple[int, Optional[Tuple[int, int]]]] = {}


def lock_file_now(fd: int) -> Optional[bool]:
    """
    Lock what *fd* has open, without waiting; a forked child closes its copy.

    Returns True (locked), False (somebody else has it, or may have it) or None (this file system locks no such files).
    """
    _locked[fd] = home.generation, identity(fd)
    try:
        flock(fd, EXCLUSIVE_NOW)
    except OSError as error:
        # NFSv4 locks nothing that is open only to be read; so nobody can tell whether others do.
        return False if contended(error) or error.errno == errno.EBADF else None
    return True


def unlock_file(fd: int) -> None:
    """Release what `lock_file_now` locked, and close *fd*, unless it was closed under us and is somebody else's now."""
    foreign = _is_foreign(fd, *_locked.get(fd, (0, None))[1:])
    if not foreign:
        # Unlocking, not only closing: a copy in a child that another thread is starting may live longer.
        with contextlib.suppress(Exception):
            flock(fd, UNLOCK)
    _locked.pop(fd, None)  # then: an interrupt before it leaves a note of what is still to be done
    if not foreign:
        close_quietly(fd)


@in_child
def _close_inherited() -> None:
    """Close the parent's locked descriptors; an idle copy would keep the lock."""
    for fd, (generation, opened) in list(_locked.items()):
        if generation != home.generation:
            del _locked[fd]
            if not _is_foreign(fd, opened):
                close_quietly(fd)


def _is_foreign(fd: int, opened: Optional[Tuple[int, int]]) -> bool:
    now = identity(fd)
    return opened is not None and now is not None and now != opened


@contextlib.contextmanager
def directory_lock(path: str, timeout: Optional[float]) -> Iterator[Optional[bool]]:
    """
    Hold a lock on the directory at *path* within *timeout* seconds; yields what `lock_file_now` returns.

    Raises `OSError` if there is no free descriptor, which is no property of the file system.
    """
    try:
        fd = os.open(path, os.O_RDONLY | QUIET | getattr(os, "O_DIRECTORY", 0))
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        yield None  # on Windows none can be opened
        return
    process = here()
    try:
        try:
            yield wait_for(partial(lock_file_now, fd), timeout)
        finally:
            if here() == process:  # a child forked meanwhile closed its copy already
                unlock_file(fd)
    finally:
        # An interrupt may have cut the `finally` above short.
        if fd in _locked and here() == process:
            unlock_file(fd)
