"""The sidecar: where it lies, who waits, and that every process opens its own.

A thread that wants to write takes two locks: the thread lock, shared by all handlers
of this process on one log, then the sidecar's, shared by all processes.  What is done
under them is the handlers' business; that no file but the sidecar is locked for it, too
(except the directory, while the chain of backups changes).

`flock` and `fork`: a child inherits the open file description, and the lock belongs to
that.  A child using the parent's descriptor would hold the lock whenever the parent does,
and an idle child's copy would keep it when the parent is gone.  So each process opens
its own, and a child closes what it inherited before it does anything else.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import weakref
from os import lseek
from threading import RLock, local
from time import monotonic
from typing import Any, Callable, List, Optional, Protocol

from ._files import WINDOWS, Access, close_quietly, is_ours, mark, open_in_directory
from ._flock import (
    EXCLUSIVE_NOW,
    TRIES,
    TRIES_BEFORE_YIELDING,
    UNLOCK,
    contended,
    flock,
    wait_for,
    yield_processor,
)
from ._forks import home, in_child, notice_fork


class LockTimeoutError(TimeoutError):
    """The lock was not free within `lock_timeout`; the record was written without it."""


class LockUser(Protocol):
    """Who works under a lock, and begins anew in a forked child, too."""

    def after_fork(self) -> None:
        """Forget what belongs to the parent.  No other thread is in here yet."""


class SidecarLock:
    """
    The lock of one log in this process.

    Contract: `thread` is taken first, by whoever calls `acquire`, and released last, by
    `settle`.  `held` is set before the system call that locks and cleared before the one
    that unlocks, so a signal handler that runs between the two sees too much rather than
    too little: it locks again, which changes nothing for a descriptor that has the lock,
    and leaves the unlocking to the code that it interrupted.

    Attributes:
        path: The sidecar.
        thread: The re-entrant thread lock, also the `lock` of every handler on this log.
        held: A thread of this process is between `acquire` and `release`.
        entered: The thread lock was taken by a step of ours, and not by `handler.acquire()`.
        stuck: The last wait was in vain; until the lock is had again, nobody waits.
        fd: The open sidecar, or -1.
        writable: Whether this user may write into it.
        trouble: Why the last `acquire` failed, if nobody has reported it yet.
        users: The handlers on this log.
    """

    def __init__(self, path: str, access: Access) -> None:
        self.path = path
        self.thread = RLock()
        self.mine: Callable[[], bool] = self.thread._is_owned  # type: ignore[attr-defined]
        self.held = False
        self.entered = False
        self.levels = 0
        self.stuck = False
        self.trouble: Optional[BaseException] = None
        self.users: weakref.WeakSet[LockUser] = weakref.WeakSet()
        self._access = access
        self.fd = -1
        self.writable = True
        self._mark = -2
        self._identity = (-1, -1)
        self._generation = home.generation

    # -- the thread lock ------------------------------------------------------

    def enter(self, timeout: Optional[float]) -> bool:
        """Take the thread lock within *timeout* seconds (None: wait for ever)."""
        if self.thread.acquire(False):
            return True
        if self.stuck and timeout is not None:
            timeout = 0.001
        if self.thread.acquire(True, -1 if timeout is None else timeout):
            return True
        self._give_up(timeout, "another thread of this process holds it")
        return False

    def depth(self) -> int:
        """Return how often the calling thread, which has the thread lock, has taken it."""
        thread: Any = self.thread
        saved = thread._release_save()  # as threading.Condition does
        thread._acquire_restore(saved)
        return int(saved[0])

    def settle(self, keep_thread: bool, certainly: bool = False) -> None:
        """Release what this thread still has; *certainly*, if an interrupt may have cut the marks short."""
        if not self.mine():
            return
        if self.held or certainly:
            self.release()
        if not keep_thread:
            self.thread.release()
            self.entered = False  # last: an interrupt before it leaves a mark that `_inside` can heal

    # -- the sidecar's lock ---------------------------------------------------

    def acquire(self, timeout: Optional[float]) -> bool:
        """
        Lock the sidecar within *timeout* seconds (None: wait for ever).

        Returns False, with the cause in `trouble`, if that failed.  Until `release`, which is
        due in both cases, no other process that uses the same sidecar holds it.
        """
        self.held = True
        try:
            if lseek(self.fd, 0, 1) == self._mark:
                flock(self.fd, EXCLUSIVE_NOW)
                if self.stuck:
                    self.stuck = False
                return True
        except OSError:
            pass
        return self._acquire_slowly(timeout)

    def again(self) -> None:
        """
        Take the lock which the interrupted code of this thread was about to take, if it can be had at once.

        Whoever interrupts a wait does not wait himself: the next signal would interrupt him in
        turn, until the stack is full.
        """
        if is_ours(self.fd, self._mark):
            self._burst()

    def take_trouble(self) -> BaseException:
        """Return why the lock was not had."""
        trouble, self.trouble = self.trouble, None
        return trouble or LockTimeoutError(f"the lock on {self.path!r} is still held by somebody else")

    def release(self) -> None:
        """Unlock the sidecar."""
        self.held = False
        try:
            flock(self.fd, UNLOCK)
        except (OSError, ValueError):
            # Never opened, or closed under us, which unlocked it; or the file system failed, and closing unlocks.
            fd, self.fd = self.fd, -1
            if is_ours(fd, self._mark):
                close_quietly(fd)

    def check_place(self, timeout: Optional[float]) -> bool:
        """
        Tell whether the sidecar that we hold is the file at its path, and change over if not.

        Returns False if another one lies there and its lock could not be had.
        """
        if self._in_place():
            return True
        self._drop()
        return self._acquire_slowly(timeout)

    def forget_foreign(self) -> None:
        """Do not touch the descriptor any more, if it was closed under us and is somebody else's now."""
        if not is_ours(self.fd, self._mark):
            self.fd = -1

    def read(self) -> bytes:
        """Return the sidecar's content.  Call it with the lock held."""
        if WINDOWS:  # no pread() there
            lseek(self.fd, 0, os.SEEK_SET)
            content = os.read(self.fd, 64)
            lseek(self.fd, self._mark, os.SEEK_SET)
            return content
        return os.pread(self.fd, 64, 0)

    def write(self, content: bytes) -> None:
        """Replace the sidecar's content, or raise `OSError`.  Call it with the lock held."""
        if not self.writable:
            msg = "the next rollover time cannot be written into the lock file, for other processes to see"
            raise PermissionError(errno.EACCES, msg, self.path)
        if WINDOWS:
            lseek(self.fd, 0, os.SEEK_SET)
            os.write(self.fd, content)
            lseek(self.fd, self._mark, os.SEEK_SET)
        else:
            os.pwrite(self.fd, content, 0)
        os.ftruncate(self.fd, len(content))

    def close(self) -> None:
        """Close the sidecar; the next `acquire` opens it again."""
        self._drop()

    def check_path(self) -> None:
        """Raise `OSError` if something other than a regular file lies at the sidecar's path."""
        try:
            there = os.lstat(self.path)
        except FileNotFoundError:
            return
        _require_regular(there, self.path)

    def _acquire_slowly(self, timeout: Optional[float]) -> bool:
        if self.stuck and timeout is not None:
            timeout = 0.0
        try:
            for _ in range(100):
                opened = not is_ours(self.fd, self._mark)
                if opened:
                    self._open()
                if not wait_for(self._burst, timeout):
                    self._give_up(timeout, "another process holds it, stopped or stuck perhaps")
                    return False
                # A sidecar deleted between opening and locking is locked for nobody else.
                if not opened or self._in_place():
                    self.stuck = False
                    return True
                self._drop()
            msg = f"the lock file {self.path!r} is replaced again and again"
            raise OSError(errno.ESTALE, msg)
        except OSError as error:
            if not self.stuck:
                self.trouble = error
            self.stuck = True
            return False

    def _burst(self) -> bool:
        """Try some times in a row, as fast as can be: the holder is usually done in microseconds."""
        fd = self.fd
        for tries in range(TRIES):
            try:
                flock(fd, EXCLUSIVE_NOW)
            except OSError as error:
                if not contended(error):
                    raise
            else:
                return True
            if tries >= TRIES_BEFORE_YIELDING:
                yield_processor()  # to the holder, perhaps
        return False

    def _give_up(self, waited: Optional[float], cause: str) -> None:
        if not self.stuck:
            self.trouble = LockTimeoutError(
                f"no lock on {self.path!r} after {waited or 0:.1f} s ({cause}); "
                "records are appended without it, and the file is not rotated meanwhile"
            )
        self.stuck = True

    def _in_place(self) -> bool:
        try:
            there = os.stat(self.path, follow_symlinks=False)
        except PermissionError:
            return True  # who may not look, and so not open another one, goes on with the one that he has
        except OSError:
            return False
        return (there.st_dev, there.st_ino) == self._identity

    def _open(self) -> None:
        self.fd = -1
        fd = open_in_directory(self.path, self._open_path)
        try:
            found = os.fstat(fd)
            _require_regular(found, self.path)
            self._identity = (found.st_dev, found.st_ino)
            self._mark = mark(fd)
        except BaseException:
            os.close(fd)
            raise
        self.fd = fd

    def _open_path(self) -> int:
        # A symbolic link here may be somebody's try to have us lock, or create, another file.
        flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        try:
            self.writable = True
            return self._access.open(self.path, os.O_RDWR | flags)
        except PermissionError as error:
            try:
                self.writable = False
                return self._access.open(self.path, os.O_RDONLY | flags, create=False)
            except FileNotFoundError:
                raise error from None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise _not_regular(self.path, error.errno) from error
            raise

    def _drop(self) -> None:
        # Unlocking comes first: an interrupt behind it leaves a descriptor, but no lock.
        ours = is_ours(self.fd, self._mark)
        if ours:
            with contextlib.suppress(Exception):
                flock(self.fd, UNLOCK)
        fd, self.fd = self.fd, -1
        if ours:
            close_quietly(fd)

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self._drop()

    # -- fork -----------------------------------------------------------------

    def start_anew(self) -> None:
        """Begin in a forked child, once: no lock, no descriptor, and nobody but this thread in here."""
        generation = home.generation
        if self._generation == generation:
            return
        fd, self.fd = self.fd, -1
        if is_ours(fd, self._mark):
            close_quietly(fd)  # closing, not unlocking: the parent may hold it
        self.thread._at_fork_reinit()  # type: ignore[attr-defined]
        for _ in range(self.levels):
            self.thread.acquire()  # forked from inside a step, by a formatter say, that goes on here, too
        self.levels = 0
        self.held = self.entered = self.stuck = False
        self.trouble = None
        for user in list(self.users):
            user.after_fork()
        self._generation = generation


def _not_regular(path: str, number: int) -> OSError:
    return OSError(number, "the lock file must be a regular file, and something else lies there", path)


def _require_regular(found: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise _not_regular(path, errno.ELOOP if stat.S_ISLNK(found.st_mode) else errno.EINVAL)


# -- one lock per sidecar and process -----------------------------------------

_locks: weakref.WeakValueDictionary[str, SidecarLock] = weakref.WeakValueDictionary()
_locks_guard = RLock()  # a signal handler may make a handler, too


def lock_for(path: str, access: Access) -> SidecarLock:
    """Return this process's lock for the sidecar at *path*, the same one for every caller."""
    notice_fork()
    folder, name = os.path.split(path)
    key = os.path.join(os.path.realpath(folder), name)
    with _locks_guard:
        return _locks.get(key) or _locks.setdefault(key, SidecarLock(path, access))


_FORK_PATIENCE = 1.0


class _TakenForFork(local):
    """The locks that this thread took for its fork(): none, if it was in there when this module was imported."""

    def __init__(self) -> None:
        self.locks: List[Any] = []


_taken = _TakenForFork()


_logging_lock: Any = getattr(logging, "_lock", None)


# Seconds that closing a handler waits for a thread which may wait for logging's own lock, held by the closing one.
CONFIG_PATIENCE = 1.0


def logging_is_locked_here() -> bool:
    """Tell whether the calling thread holds the lock of the `logging` module, as `dictConfig` does."""
    return _logging_lock is not None and bool(_logging_lock._is_owned())


def _before_fork() -> None:
    """Wait until no thread is in the middle of a step, so that the child sees whole files."""
    if _logging_lock is not None:
        # As logging's own hook does right after: whoever has it may be closing handlers
        # (dictConfig), and so wait for a lock that we would have by then.
        _logging_lock.acquire()
        _taken.locks.append(_logging_lock)
    until = monotonic() + _FORK_PATIENCE
    locks = [lock for lock in (ref() for ref in _locks.valuerefs()) if lock is not None]
    for lock in sorted(locks, key=lambda lock: lock.path):
        # A thread that hangs may not keep the application from forking.
        lock.levels = 0
        levels = lock.depth() if lock.mine() else 0
        if lock.thread.acquire(True, max(0.0, until - monotonic())):
            lock.levels = levels
            _taken.locks.append(lock.thread)


def _after_fork_in_parent() -> None:
    for lock in list(_locks.values()):
        lock.levels = 0  # meant for that child; the next may be forked in C, and by another thread
    while _taken.locks:
        _taken.locks.pop().release()


@in_child
def _locks_begin_anew() -> None:
    _locks_guard._at_fork_reinit()  # type: ignore[attr-defined]
    _taken.locks.clear()
    for lock in list(_locks.values()):
        lock.start_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent)


def sidecar_path(log: str, directory: Optional[str] = None) -> str:
    """Return the sidecar's path for *log*: `.__app.lock` for `app.log`, in *directory* if given (CLH's rule)."""
    folder, name = os.path.split(log)
    name = name.removesuffix(".log")
    return os.path.join(directory if directory is not None else folder, f".__{name}.lock")
