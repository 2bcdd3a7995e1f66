"""Who may do what with our files: opened or created with the right owner and mode from the first moment."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import Callable, Optional, Tuple

from ._files import QUIET, WINDOWS, closed_if_it_fails, is_device, open_fd, open_shared, remove, root

_NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT, errno.EPERM, errno.EXDEV)


def open_in_directory(path: str, opener: Callable[[], int], within: Optional[Tuple[int, int]]) -> int:
    """
    Call *opener*, which opens *path*; a directory that is missing is made, also if it goes again meanwhile.

    None is made if `root` is not *within* any more: it would be one in a jail.
    """
    for _ in range(10):
        try:
            return opener()
        except FileNotFoundError:
            if within != root():
                raise
            with contextlib.suppress(FileNotFoundError, FileExistsError):
                os.makedirs(os.path.dirname(path), exist_ok=True)
    return opener()


class Access:
    """
    Owner and mode that our files shall have: -1 leaves one as it is (`os.chown`).

    *chmod* is for new files, and for existing ones where we may set it; *umask* for new ones alone.
    """

    def __init__(
        self, uid: int = -1, gid: int = -1, chmod: Optional[int] = None, umask: Optional[int] = None
    ) -> None:
        self._uid = uid
        self._gid = gid
        self._chmod = chmod
        self._new_mode = chmod if chmod is not None or umask is None else 0o666 & ~umask
        self._asked = not WINDOWS and (self._new_mode is not None or uid != -1 or gid != -1)

    def open(self, path: str, flags: int) -> int:
        """
        Open *path* with *flags* and return the descriptor, not inherited by exec.

        A new file appears at its path with its owner and mode already set.  On an existing one they are corrected where
        the process is allowed to: somebody who may write a shared log, but does not own it, still logs.
        """
        flags |= QUIET
        for _ in range(3):
            # O_CREAT only where it is needed: in a sticky directory the kernel refuses it for
            # somebody else's file, whatever its mode (proc(5), "protected_regular").
            with contextlib.suppress(FileNotFoundError):
                return self._corrected(_open(path, flags), self._chmod)
            with contextlib.suppress(FileExistsError):
                return self._create(path, flags)
        # A symbolic link to a file that does not exist: neither there nor to be created here.
        fd = _open(path, flags | os.O_CREAT, 0o600 if self._asked else 0o666)
        return self._corrected(fd, self._new_mode)

    def open_log(self, path: str) -> int:
        """Open the log at *path*, or create it, to append, and to read where that may be."""
        with contextlib.suppress(PermissionError):
            fd = self.open(path, os.O_RDWR | os.O_APPEND)
            with closed_if_it_fails(fd):
                if not stat.S_ISFIFO(os.fstat(fd).st_mode):
                    return fd
            os.close(fd)  # a pipe that we could read ourselves would never tell that its reader has gone
        # A pipe without a reader is an error then, in place of waiting for one.
        fd = self.open(path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_NONBLOCK", 0))
        with closed_if_it_fails(fd):
            if not WINDOWS:
                os.set_blocking(fd, True)
        return fd

    def create(self, path: str) -> None:
        """Create *path*; raises `FileExistsError` if it is there."""
        os.close(self._create(path, os.O_RDWR | os.O_APPEND | QUIET))

    def new(self, path: str, like: os.stat_result) -> int:
        """Create *path* for writing (replacing a leftover), for a copy of the file that *like* describes."""
        with contextlib.suppress(FileNotFoundError):
            remove(path)
        fd = open_fd(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | QUIET | getattr(os, "O_NOFOLLOW", 0), 0o600)
        if not WINDOWS:
            _give(fd, like.st_uid, like.st_gid)
            with contextlib.suppress(OSError):
                mode = stat.S_IMODE(like.st_mode)
                if os.fstat(fd).st_gid != like.st_gid:
                    mode &= ~stat.S_IRWXG  # what one group may do is not another one's
                os.fchmod(fd, mode)
        return fd

    def _create(self, path: str, flags: int) -> int:
        """Create *path* whole: a file without a name gets owner and mode, then the name."""
        if not self._asked:
            return _open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
        mode = 0o666 & ~_umask_of_process() if self._new_mode is None else self._new_mode
        if hasattr(os, "O_TMPFILE"):
            try:
                fd = os.open(os.path.dirname(path), (flags & ~os.O_NOFOLLOW) | os.O_TMPFILE, 0o600)
                with closed_if_it_fails(fd):
                    os.fchmod(fd, mode)  # first: whoever has given a file away may not change it any more
                    _give(fd, self._uid, self._gid)
                    # link() alone would name the symbolic link in /proc; with a directory
                    # descriptor Python calls linkat(AT_SYMLINK_FOLLOW).
                    os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)
                return fd
            except OSError as error:
                if error.errno not in _NO_TMPFILE:
                    raise
        # Until its mode is set, such a file allows less than was asked for, never more.
        fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, mode & 0o600)
        with closed_if_it_fails(fd):
            _give(fd, self._uid, self._gid)
            with contextlib.suppress(PermissionError):
                os.fchmod(fd, mode)
        return fd

    def _corrected(self, fd: int, mode: Optional[int]) -> int:
        """Give the open file our owner, and *mode* if any, as far as we may; return *fd*."""
        if not self._asked:
            return fd
        with closed_if_it_fails(fd):
            now = os.fstat(fd)
        if not stat.S_ISREG(now.st_mode) or now.st_nlink > 1:  # by its other name it is another file, perhaps
            return fd
        if self._uid not in (-1, now.st_uid) or self._gid not in (-1, now.st_gid):
            _give(fd, self._uid, self._gid)
        if mode is not None and stat.S_IMODE(now.st_mode) != mode:
            with contextlib.suppress(OSError):
                os.fchmod(fd, mode)
        return fd


def _open(path: str, flags: int, mode: int = 0o777) -> int:
    """Open a live file such that others may rename it; the sidecar such that nobody deletes it, where that can be."""
    if WINDOWS and flags & os.O_APPEND:
        return open_shared(path, flags, mode, append_only=True)
    return os.open(path, flags, mode)


def _give(fd: int, uid: int, gid: int) -> None:
    """Give *fd* to *uid* and *gid*, as far as we may: only root gives files away, a member of *gid* to the group."""
    if (uid, gid) == (-1, -1):
        return
    for user in (uid, -1):  # the log matters more than its owner
        with contextlib.suppress(OSError):
            os.fchown(fd, user, gid)
            return


def _umask_of_process() -> int:
    """Read the umask without setting it, where the kernel shows it."""
    with contextlib.suppress(OSError), open("/proc/self/status", "rb") as status:
        for line in status:
            if line.startswith(b"Umask:"):
                return int(line.split()[1], 8)
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def check_parent(path: str) -> None:
    """Raise `OSError` if there can be no log at *path*."""
    folder = os.path.dirname(path)
    if is_device(path):
        return
    if not os.path.isdir(folder):
        raise FileNotFoundError(errno.ENOENT, "the log's directory does not exist", folder)
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, "the log is a directory", path)
