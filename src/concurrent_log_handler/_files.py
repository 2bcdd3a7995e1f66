"""Files: opened with the right owner and mode from the first moment, known again later, written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import stat
import sys
import zlib
from typing import Callable, Dict, Optional, Tuple, Union

from . import _windows

WINDOWS = os.name == "nt"

# Whether a file can be renamed and deleted while it is open.
RENAMES_OPEN = not WINDOWS or _windows.AVAILABLE

# A description opened O_APPEND gets what pwrite() brings at its end and keeps its
# offset, on Linux (pwrite(2), "BUGS").  That leaves the offset free for a mark.
OFFSET_IS_OURS = sys.platform.startswith("linux") or _windows.AVAILABLE

_QUIET = sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NOCTTY", "O_NOINHERIT", "O_BINARY"))
_LONGEST_NAME = 255  # bytes, on nearly every file system
_NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT, errno.EPERM, errno.EXDEV)

# Below 4 GiB, since no offset may lie beyond what the file system can store (FAT).
_marks = itertools.count(2**31 + int.from_bytes(os.urandom(3), "big") * 64)


def mark(fd: int) -> int:
    """
    Put a number of its own into the offset of *fd*, by which `is_ours` knows it again.

    Whoever closes a descriptor by mistake frees its number for the next file that the process opens.  `lseek` tells the
    two apart at a quarter of `fstat`'s cost.
    """
    for number in (next(_marks), 0):
        with contextlib.suppress(OSError):
            return os.lseek(fd, number, os.SEEK_SET)
    return -1  # a pipe or a terminal has no offset


def is_ours(fd: int, number: int) -> bool:
    """Tell whether *fd* is still the description that was given *number* by `mark`."""
    try:
        return os.lseek(fd, 0, os.SEEK_CUR) == number
    except OSError:
        return False


def close_quietly(fd: int) -> None:
    with contextlib.suppress(OSError):
        os.close(fd)


class closed_if_it_fails:  # noqa: N801 - reads as `contextlib.closing` does
    """Close *fd* where what is done with it does not come to its end."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if kind is not None:
            os.close(self._fd)


def _seek_and_write(fd: int, data: bytes, offset: int) -> int:
    os.lseek(fd, offset, os.SEEK_SET)
    return os.write(fd, data)


def remove(path: str) -> None:
    """Delete *path*, whose name is free at once, also where somebody has the file open."""
    if _windows.AVAILABLE:
        _windows.remove(path, os.path.join(os.path.dirname(path), hidden_prefix(path)))
    else:
        os.unlink(path)


# Where there is no pwrite(), the offset moves.
read_at: Callable[[int, int, int], bytes] = getattr(os, "pread", _windows.read_at)
write_at: Callable[[int, bytes, int], int] = getattr(os, "pwrite", _seek_and_write)
# By which a file of ours is opened, appended to and cut back, while others have it open.
open_fd: Callable[..., int] = os.open
append_to: Callable[[int, bytes, int], int] = (
    write_at if OFFSET_IS_OURS else lambda fd, data, _: os.write(fd, data)
)
truncate: Callable[[int, int], None] = os.ftruncate
if _windows.AVAILABLE:
    open_fd, append_to, truncate = _windows.open_shared, _windows.append, _windows.truncate


def identity(file: Union[int, str]) -> Optional[Tuple[int, int]]:
    """Return what tells the file that a descriptor has open, or a path leads to, from others; None if there is none."""
    # There fstat() is slow, and knows no device of a file without a name.
    if _windows.AVAILABLE and isinstance(file, int):
        number = _windows.number(file)
        return None if number is None else (0, number)
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def look_at(path: str) -> Optional[os.stat_result]:
    """Return the status of what lies at *path*, itself if it is a link; None if it cannot be seen."""
    try:
        return os.lstat(path)
    except OSError:
        return None


def files_like(folder: str, prefix: str, rest: str) -> Dict[str, str]:
    """Return the paths of the files in *folder* called *prefix* and what fits *rest*, by what fits its group."""
    pattern = re.compile(re.escape(prefix) + rest)
    try:
        matches = list(map(pattern.fullmatch, os.listdir(folder)))
    except OSError:
        return {}
    return {match[1]: os.path.join(folder, match[0]) for match in matches if match is not None}


def hidden_prefix(log: str) -> str:
    """Return what the names of the files begin with that lie beside *log* for a while: short enough for any suffix."""
    name = os.path.basename(log)
    if len(os.fsencode(name)) > _LONGEST_NAME - 40:
        name = f"{zlib.crc32(os.fsencode(name)):08x}"
    return f".__{name}."


def root() -> Optional[Tuple[int, int]]:
    """Return what tells one root directory from another: after a chroot, the same path means another file."""
    return None if WINDOWS else identity("/")


def open_in_directory(path: str, opener: Callable[[], int], within: Optional[Tuple[int, int]] = None) -> int:
    """
    Call *opener*, which opens *path*; a directory that is missing is made, also if it goes again meanwhile.

    None is made if `root` is not *within* any more, where that is given: it would be one in a jail.
    """
    for _ in range(10):
        try:
            return opener()
        except FileNotFoundError:
            if within is not None and within != root():
                raise
            with contextlib.suppress(FileNotFoundError, FileExistsError):
                os.makedirs(os.path.dirname(path), exist_ok=True)
    return opener()


def open_to_lock(path: str, flags: int = 0) -> int:
    """As `open_to_read`; for writing where we may, since NFSv4 locks nothing else."""
    try:
        return open_to_read(path, flags | os.O_RDWR)
    except PermissionError:
        return open_to_read(path, flags)


def open_to_read(path: str, flags: int = 0) -> int:
    """Open the regular file at *path*; anything else there, a pipe that would block us say, is an `OSError`."""
    fd = open_fd(path, flags | _QUIET | getattr(os, "O_NONBLOCK", 0))
    with closed_if_it_fails(fd):
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
    return fd


def sync_directory(path: str) -> None:
    """Have the names in the directory at *path* on the disk; Windows has no call for that, and no need."""
    if WINDOWS:
        return
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _QUIET)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_through(fd: int, data: bytes) -> None:
    """Write *data* to a pipe or a device, which takes back nothing, and may take it in pieces."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def write_rest(fd: int, data: bytes, written: int, path: str) -> None:
    """
    Write what is left of *data* behind its first *written* bytes, since only a write that fails tells why.

    Then all of it is taken back, and the file system's own error raised.
    """
    reason = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    try:
        # Not behind what somebody else wrote there without the lock.
        while written < len(data) and _ends_with(fd, data[:written]) is not False:
            more = append_to(fd, data[written:], written)
            if not more:
                break
            written += more
    except OSError as error:
        reason = error
    if written < len(data):
        fate = "they stay"
        with contextlib.suppress(OSError):
            if _ends_with(fd, data[:written]):  # unless something stands behind them
                truncate(fd, os.fstat(fd).st_size - written)
                fate = "they were taken back"
        msg = f"{reason.strerror}: only {written} of {len(data)} bytes could be written; {fate}"
        raise OSError(reason.errno, msg, path)


def _ends_with(fd: int, data: bytes) -> Optional[bool]:
    """Tell whether the file ends with *data*; None if we may not read it."""
    try:
        size = os.fstat(fd).st_size
        return size >= len(data) and read_at(fd, len(data), size - len(data)) == data
    except OSError:
        return None


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

    def open(self, path: str, flags: int, create: bool = True) -> int:
        """
        Open *path* with *flags* and return the descriptor, not inherited by exec.

        A new file appears at its path with its owner and mode already set.  On an existing one they are corrected where
        the process is allowed to: somebody who may write a shared log, but does not own it, still logs.
        """
        flags |= _QUIET
        for _ in range(3):
            # O_CREAT only where it is needed: in a sticky directory the kernel refuses it for
            # somebody else's file, whatever its mode (proc(5), "protected_regular").
            try:
                fd = _open(path, flags)
            except FileNotFoundError:
                if not create:
                    raise
            else:
                return self._corrected(fd, self._chmod)
            with contextlib.suppress(FileExistsError):
                return self._create(path, flags)
        # A symbolic link to a file that does not exist: neither there nor to be created here.
        fd = _open(path, flags | os.O_CREAT, 0o600 if self._asked else 0o666)
        return self._corrected(fd, self._new_mode)

    def open_log(self, path: str, within: Optional[Tuple[int, int]]) -> int:
        """Open the log at *path*, or create it, to append, and to read where that may be; `open_in_directory`."""
        return open_in_directory(path, lambda: self._open_log(path), within)

    def _open_log(self, path: str) -> int:
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
        os.close(self._create(path, os.O_RDWR | os.O_APPEND | _QUIET))

    def new(self, path: str, like: os.stat_result) -> int:
        """Create *path* for writing (replacing a leftover), for a copy of the file that *like* describes."""
        with contextlib.suppress(FileNotFoundError):
            remove(path)
        fd = open_fd(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _QUIET | getattr(os, "O_NOFOLLOW", 0), 0o600)
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
    if _windows.AVAILABLE and flags & os.O_APPEND:
        return _windows.open_shared(path, flags, mode, append_only=True)
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
    if _windows.is_device(path):
        return
    if not os.path.isdir(folder):
        raise FileNotFoundError(errno.ENOENT, "the log's directory does not exist", folder)
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, "the log is a directory", path)
