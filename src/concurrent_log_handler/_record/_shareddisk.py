"""The live file on a disk that several machines share, each with a cache of its own: NFS, SMB and the like.

What differs from a local disk stands here, and that is decided here, too.  The lock is on another file than
the records, so a machine knows what others did to the log only if it asks, and they know what it
did only if it sends: neither comes with the lock by itself.
"""

from __future__ import annotations

import contextlib
import errno
import os
import warnings
from functools import partial
from time import sleep
from typing import Callable, Optional, TypeVar
from weakref import proxy

from concurrent_log_handler._files import is_ours, root, truncate
from concurrent_log_handler._locks import Locks, LockTimeoutError
from concurrent_log_handler._locks._platform import EXCLUSIVE_NOW, FAR, contended, flock, wait_for
from concurrent_log_handler._network import file_system_type, is_shared
from concurrent_log_handler._patience import monotonic

from ._livefile import LiveFile

_NFS = ("nfs", "nfs4")
_SMB = ("cifs", "smb2", "smb3")
# A file that another machine has just moved or removed: SMB has EINVAL for it, EAGAIN after a restart, and ENOENT,
# also where it is to be created, until the last one who has it open hears of it and closes it.
_MOVED_AWAY = (errno.ESTALE, errno.EINVAL, errno.EAGAIN, errno.ENOENT)
_PATIENCE = 3.0
_PAUSE = 0.02
_Result = TypeVar("_Result")


class SharedDiskFile(LiveFile):
    """
    A `LiveFile` that is right between machines.

    Contract, beside that of `LiveFile`: it is open only while the sidecar's lock is held.  `look` asks the server what
    lies in the directory, and opens the file, so that no byte of it comes from an old cache.  When `append` or
    `append_apart` returns, the server has the record; an error of sending it is theirs.  Without
    the lock nothing is appended: two machines would write to the same place.
    """

    needs_lock = True
    locks: Locks
    kind = ""  # of the file system
    interrupted = False  # a signal handler has written since we looked
    gone = False  # the last wait for a file that was moved away was in vain

    def empty_when_opened(self) -> None:
        """As in `LiveFile`, by the server's word."""
        self.ask_directory()
        with contextlib.suppress(OSError):  # opening asks for size and time
            os.close(os.open(self.path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)))
        super().empty_when_opened()

    def look(self) -> int:
        """As in `LiveFile`; the file is opened anew each time, after the lock file was found in its place."""
        if not self.locks.in_place():  # asks the directory, too
            raise self.locks.sidecar.take_trouble()
        self.interrupted = False
        before = self.identity(), self.end
        self.close()
        self._open_anew()
        if self.kind in _NFS and not wait_for(self._is_locked, _PATIENCE, FAR):
            msg = f"no lock on {self.path!r} itself after {_PATIENCE:.1f} s; {FAR.consequence}"
            raise LockTimeoutError(msg)
        if self.kind in _SMB:
            # A file for which this was called is really closed by `close`.  Of any other, Linux keeps the handle for
            # a second, and gives it to the next `open`, though another machine has removed the file.
            with contextlib.suppress(ImportError, OSError):
                import fcntl  # not on Windows

                fcntl.lockf(self.fd, fcntl.LOCK_UN)
        self._put_mark()
        size = os.fstat(self.fd).st_size  # now that nobody else writes
        if (self.identity(), size) == before:
            self.end = size
            return size
        return self._sent(size, partial(self._mend, size))

    def append(self, data: bytes, size: int) -> None:
        """As in `LiveFile`."""
        self._sent(size, partial(super().append, data, size))

    def _sent(self, size: int, write: Callable[[], _Result]) -> _Result:
        """
        Have the server take what *write* writes behind the *size* bytes that it has, if anything.

        Otherwise that is cut off: the cache has taken it, and the server some of it, perhaps.
        """
        try:
            result = write()
            if self.end != size and self.regular and is_ours(self.fd, self._mark):
                _send(self.fd)
        except BaseException:  # also a signal handler's
            if not self.interrupted and self.regular and is_ours(self.fd, self._mark):
                with contextlib.suppress(OSError):
                    os.fsync(self.locks.sidecar.fd)  # fails where a restarted SMB server forgot the lock
                    for _ in range(3):  # on NFS a page that still waits to be sent makes it longer again
                        truncate(self.fd, size)
                        if os.fstat(self.fd).st_size == size:
                            break
            raise
        return result

    def append_apart(
        self, data: bytes, is_missing: Callable[[int, bytes, int], bool] = lambda *_: True
    ) -> None:
        """As in `LiveFile`, but only with the lock held: from inside another record of the same thread."""
        self.interrupted = True
        super().append_apart(data, is_missing)

    def ask_directory(self) -> None:
        """Opening a directory makes NFS ask the server whether the names that it knows still hold."""
        with contextlib.suppress(OSError):
            os.close(os.open(os.path.dirname(self.path), os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)))

    def ask_for_all_names(self) -> None:
        """SMB keeps names and sizes for a second, but takes over what comes with a listing."""
        with contextlib.suppress(OSError), os.scandir(os.path.dirname(self.path)) as entries:
            for _ in entries:
                pass

    def _is_locked(self) -> bool:
        """
        Lock the file itself, too, if it can be locked; tells whether nobody else has it.

        A machine that the server has not heard of for long loses its locks to others, and goes on when it
        comes back: its kernel sends what was under way, to where the file ended then, and might destroy
        what they wrote.  To a file whose own lock it has lost it sends nothing: `fsync` and `truncate` fail.
        """
        try:
            flock(self.fd, EXCLUSIVE_NOW)
        except OSError as error:
            return not contended(error)
        return True

    def _open_apart(self) -> int:
        self.ask_directory()
        return self._open()

    def _append_to(self, fd: int, data: bytes) -> int:
        size = super()._append_to(fd, data)
        if self.is_file():
            _send(fd)
        return size

    def _open(self) -> int:
        until = monotonic() + (0.0 if self.gone else _PATIENCE)
        while True:
            try:
                fd = super()._open()
                self.gone = False
                return fd
            except OSError as error:
                if error.errno not in _MOVED_AWAY or self._root != root() or monotonic() > until:
                    self.gone = error.errno in _MOVED_AWAY
                    raise
            sleep(_PAUSE)
            self.ask_directory()


def _send(fd: int) -> None:
    """Have the server take what was written to *fd*."""
    os.fsync(fd)
    os.close(os.dup(fd))  # tells the error that SMB's `fsync` misses where it has just come in


def choose(live: LiveFile, locks: Locks, shared: Optional[bool]) -> None:
    """
    Make *live* a `SharedDiskFile` where it is on a disk that machines share, now or later.

    Args:
        live: The live file, not opened yet.
        locks: Its locks.
        shared: What the user says about it; None leaves it to the mount table.
    """
    # By a proxy: the locks hold the live file, and a handler that is dropped is gone at once.
    live.on_other_disk = partial(_recognise, proxy(locks), shared)
    live.on_other_disk(live)


def _recognise(locks: Locks, shared: Optional[bool], live: LiveFile) -> bool:
    """Tell whether *live* has become a `SharedDiskFile`."""
    if not live.is_file() or not (is_shared(live.path) if shared is None else shared):
        return False
    live.__class__ = SharedDiskFile
    assert isinstance(live, SharedDiskFile)
    live.on_other_disk = None
    live._disk = None  # `fsync` asks for no more than is done here, and would keep the file open
    live.locks = locks
    live.kind = file_system_type(live.path)
    locks.reach_far()
    return True


def warn_of_lock_elsewhere(live: LiveFile, lock: str) -> None:
    """Warn, for the caller of a handler's class, of a lock file that other machines which share *live* cannot see."""
    folder, lock_folder = os.path.dirname(live.path), os.path.dirname(lock)
    elsewhere = live.needs_lock and os.stat(folder).st_dev != os.stat(lock_folder).st_dev
    if elsewhere and not is_shared(lock_folder):
        msg = (
            f"the log {live.path!r} is on a disk that machines share, and its lock file, by lock_file_directory, "
            "is not: machines do not see each other's lock, and lose records"
        )
        warnings.warn(msg, UserWarning, stacklevel=4)
