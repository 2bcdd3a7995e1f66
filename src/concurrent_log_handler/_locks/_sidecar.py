"""The sidecar's lock, and the one way in and out of what is locked: `SidecarLock.run`.

A thread that wants to write takes two locks: the thread lock, shared by all handlers of this process on one log, then
the sidecar's, shared by all processes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import weakref
from functools import partial
from os import lseek
from time import sleep
from typing import Any, Callable, Optional, TypeVar

from concurrent_log_handler._access import Access, open_in_directory
from concurrent_log_handler._files import (
    WINDOWS,
    close_quietly,
    closed_if_it_fails,
    is_ours,
    mark,
    read_at,
    root,
    write_at,
)
from concurrent_log_handler._forks import home

from . import LockTimeoutError
from ._platform import EXCLUSIVE_NOW, FAR, NEAR, UNLOCK, burst, closed_late, flock, wait_for
from ._threads import ThreadLock

# How a step that `run` calls came in: without the thread lock, with it, or from inside another step of this thread.
OUTSIDE, ENTERED, INSIDE = range(3)

_STUCK_THREAD_PATIENCE = 0.001

_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")


class SidecarLock:
    """
    The lock of one log in this process.

    Contract: everything that is locked is done by a step that `run` calls; the step calls `acquire`
    where it needs the sidecar's lock, and `run` releases both.  `held` is set before the system call
    that locks and cleared before the one that unlocks, so a signal handler that runs between the two sees
    too much rather than too little: it locks again, which changes nothing for a descriptor that has
    the lock, and leaves the unlocking to the code that it interrupted.

    Attributes:
        rlock: The re-entrant thread lock, also the `lock` of every handler on this log.
        held: A thread of this process is between `acquire` and `release`.
        entered: The thread lock was taken by `run`, and not by `handler.acquire()`.
        stuck: The last wait was in vain; until the lock is had again, nobody waits.
        writable: Whether it may be written to: by its mode, and since it has no other name.
        trouble: Why the last `acquire` failed, if nobody has reported it yet.
        users: The handlers on this log; `after_fork` of each is called in a child, before any other thread is in here.
    """

    def __init__(self, path: str, access: Access) -> None:
        self.path = path
        self._threads = ThreadLock()
        self.rlock: Any = self._threads.rlock
        self._line = self._threads.line
        self.held = False
        self.entered = False
        self.stuck = False
        self.manner = NEAR
        self.trouble: Optional[BaseException] = None
        self.users: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self._access = access
        self.fd = -1
        self.writable = True
        self._mark = -2
        self._identity = (-1, -1)
        self._root = root()
        self._generation = home.generation

    # -- in and out -----------------------------------------------------------

    def run(
        self, step: Callable[[_Argument, int], _Result], argument: _Argument, timeout: Optional[float]
    ) -> _Result:
        """
        Return what *step* returns, called with *argument* and how it came in; *timeout* is for the thread lock.

        Whatever the step raises, and wherever an interrupt cuts it short, nothing stays locked.
        """
        mine = self.rlock._is_owned()
        if mine and (self.held or self.entered):
            if self._inside() and self.held:
                return step(argument, INSIDE)
            mine = self.rlock._is_owned()
        try:
            try:
                if mine or (not self._line and self.rlock.acquire(False)) or self.enter(timeout):
                    if not mine:
                        self.entered = True
                    return step(argument, ENTERED)
                return step(argument, OUTSIDE)
            finally:
                if self.rlock._is_owned():
                    if self.held:
                        self.release()
                    if not mine:
                        self.rlock.release()
                        # Last: an interrupt before it leaves a mark that `_inside` can heal.
                        self.entered = False
        finally:
            # An interrupt may have cut the `finally` above short.
            if self.rlock._is_owned() and (self.held or not mine):
                self._let_go(mine)

    def _let_go(self, keep_thread: bool) -> None:
        """Release what this thread still has, whatever the marks say."""
        try:
            self.release()
        except RecursionError:  # no frame is left for a call: the same in C's calls only
            self.held = False
            try:
                flock(self.fd, UNLOCK)
            except (OSError, ValueError):  # it may be closed: -1
                pass
            raise
        finally:
            if not keep_thread:
                self.rlock.release()
                self.entered = False

    def _inside(self) -> bool:
        """
        Tell whether this thread really is on its way through a step.

        Two interrupts in quick succession can cut off both nets that release the lock; then the marks, for which
        no frame is left, are taken back here.
        """
        frame: Any = sys._getframe(2)  # noqa: SLF001 - the only view of one's own stack
        code = SidecarLock.run.__code__
        while frame is not None:
            if frame.f_code is code and frame.f_locals["self"] is self:
                return True
            frame = frame.f_back
        self._let_go(keep_thread=False)
        return False

    # -- the thread lock ------------------------------------------------------

    def enter(self, timeout: Optional[float]) -> bool:
        """Take the thread lock; *timeout* seconds (None: for ever) are for a holder that does not let go."""
        if self.stuck and timeout is not None:
            timeout = min(timeout, max(self.manner.patience, _STUCK_THREAD_PATIENCE))
        had = self._threads.take(timeout)
        return had or self._give_up(timeout, "another thread of this process holds it")

    def mine(self) -> bool:
        return bool(self.rlock._is_owned())

    # -- the sidecar's lock ---------------------------------------------------

    def acquire(self, timeout: Optional[float]) -> bool:
        """Lock the sidecar within *timeout* seconds (None: for ever); False, with the cause in `trouble`, if not."""
        self.held = True
        try:
            if lseek(self.fd, 0, 1) == self._mark:
                flock(self.fd, EXCLUSIVE_NOW)
                if self.stuck:
                    self.stuck = False
                return True
        except OSError:
            pass
        # Nobody unlocks what it has not: Linux's SMB client frees the lock of another process with that.
        self.held = self._acquire_slowly(timeout)
        return self.held

    def again(self) -> bool:
        """
        Take the lock which the interrupted code of this thread was about to take, if it can be had at once; tell so.

        Whoever interrupts a wait does not wait itself: the next signal would interrupt it, until the stack is full.
        """
        try:
            # Windows locks nothing twice.
            return is_ours(self.fd, self._mark) and (burst(self.fd, self.manner) or WINDOWS)
        except OSError:
            return False

    def take_trouble(self) -> BaseException:
        """Return why the lock was not had."""
        trouble, self.trouble = self.trouble, None
        return trouble or LockTimeoutError(f"the lock on {self.path!r} is still held by somebody else")

    def release(self) -> None:
        self.held = False
        try:
            flock(self.fd, UNLOCK)
        except (OSError, ValueError):
            # Never opened, or closed under us, which unlocked it; or the file system failed, and closing unlocks.
            self.close(unlock=False)

    def check_place(self, timeout: Optional[float]) -> bool:
        """Change over to the sidecar at the path, if it is not the one that we hold; False if that cannot be locked."""
        if self._in_place():
            return True
        self.close()
        return self._acquire_slowly(timeout)

    def forget_foreign(self) -> None:
        """Do not touch the descriptor any more, if it was closed under us and is somebody else's now."""
        if not is_ours(self.fd, self._mark):
            self.fd = -1

    def read(self) -> bytes:
        """Return the sidecar's content.  Call it with the lock held."""
        return read_at(self.fd, 64, 0)

    def write(self, content: bytes) -> None:
        """Replace the sidecar's content, or raise `OSError`.  Call it with the lock held."""
        if not self.writable:
            msg = "the next rollover time cannot be written into the lock file, for other processes to see"
            raise PermissionError(errno.EACCES, msg, self.path)
        write_at(self.fd, content, 0)
        os.ftruncate(self.fd, len(content))
        if self.manner is FAR:
            os.fsync(self.fd)  # for other machines to see

    def close(self, unlock: bool = True) -> None:
        """Close the sidecar; the next `acquire` opens it again."""
        ours = is_ours(self.fd, self._mark)
        if ours and unlock:  # first: an interrupt behind it leaves a descriptor, but no lock
            with contextlib.suppress(Exception):
                flock(self.fd, UNLOCK)
        fd, self.fd = self.fd, -1
        if ours:
            close_quietly(fd)

    def check_path(self, found: Optional[os.stat_result] = None) -> None:
        """Raise `OSError` if what lies at the sidecar's path, or was *found* there, is something but a regular file."""
        with contextlib.suppress(FileNotFoundError):
            found = found or os.lstat(self.path)
            if not stat.S_ISREG(found.st_mode):
                number = errno.ELOOP if stat.S_ISLNK(found.st_mode) else errno.EINVAL
                msg = "the lock file must be a regular file, and something else lies there"
                raise OSError(number, msg, self.path)

    def _acquire_slowly(self, timeout: Optional[float]) -> bool:
        if self.stuck and timeout is not None:
            timeout = min(timeout, self.manner.patience)
        try:
            for _ in range(100):
                opened = not is_ours(self.fd, self._mark)
                if opened:
                    self._open()
                elif self.manner is FAR:
                    sleep(FAR.sleeps[0])  # `acquire` has just tried
                try:
                    had = wait_for(partial(burst, self.fd, self.manner), timeout, self.manner)
                except OSError:
                    if opened:
                        raise
                    self.close()  # a server's file that was deleted there, perhaps
                    continue
                if not had:
                    return self._give_up(timeout, "another process holds it, stopped or stuck perhaps")
                # A sidecar deleted between opening and locking is locked for nobody else.
                if not opened or self._in_place():
                    self.stuck = False
                    return True
                self.close()
            raise OSError(errno.ESTALE, f"the lock file {self.path!r} is replaced again and again")
        except OSError as error:
            return self._fail(error)

    def _give_up(self, waited: Optional[float], cause: str) -> bool:
        text = f"no lock on {self.path!r} after {waited or 0:.1f} s ({cause}); {self.manner.consequence}"
        return self._fail(LockTimeoutError(text))

    def _fail(self, trouble: OSError) -> bool:
        if not self.stuck:
            self.trouble, self.stuck = trouble, True
        return False

    def _in_place(self) -> bool:
        try:
            there = os.stat(self.path, follow_symlinks=False)
        except PermissionError:
            return True  # who may not look, and so not open another one, goes on with the one that it has
        except OSError:
            return self._root != root()  # and so does who is in a jail, where the path leads nowhere
        return (there.st_dev, there.st_ino) == self._identity

    def _open(self) -> None:
        """Open the lock file, or create it: a regular file of ours, and no other one that somebody has us lock."""
        self.fd = fd = -1
        # A symbolic link here may be somebody's try to have us lock, or create, another file.
        flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        opener = partial(self._access.open, self.path)
        try:
            with contextlib.suppress(PermissionError):
                fd = open_in_directory(self.path, partial(opener, os.O_RDWR | flags), self._root)
            writable = fd != -1
            if not writable:
                fd = opener(os.O_RDONLY | flags)
        except OSError:
            self.check_path()
            raise
        if self.manner is FAR:
            fd = closed_late(fd)
        with closed_if_it_fails(fd):
            found = os.fstat(fd)
            self.check_path(found)
            self._identity, self._mark = (found.st_dev, found.st_ino), mark(fd)
            # Another name for it may be somebody's try to have us write into another file.
            self.writable = writable and found.st_nlink <= 1
            self.fd = fd

    def __del__(self) -> None:
        try:
            self.close()
        except Exception:
            pass  # when the interpreter ends, the modules' names may be None already, `contextlib` too

    # -- fork -----------------------------------------------------------------

    def start_anew(self) -> None:
        """Begin in a forked child, once: no lock on the file, no descriptor, and nobody but this thread in here."""
        generation = home.generation
        if self._generation == generation:
            return
        self.close(unlock=False)  # the parent may hold it
        self._threads.begin_anew()
        self.held = self.entered = self.stuck = False
        self.trouble = None
        for user in [ref() for ref in self.users.valuerefs()]:
            if user is not None:
                user.after_fork()
        self._generation = generation
