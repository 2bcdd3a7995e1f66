r"""Files by the calls of the system: opened, known again, read, written and cut back while others have them open.

On Windows these are made of its own calls.  Python opens files there so that nobody can rename or delete them
meanwhile.  What is opened here shares that, too; a program of somebody else's that does not (an editor, a
scanner) still makes a rename or a removal fail with `PermissionError`: `winerror` 32, or 5 for what would be
replaced.  Every failure is an `OSError` with the `errno`, the `winerror` and the path that Python's own calls would
give it.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import itertools
import os
import re
import stat
import sys
import zlib
from functools import partial
from typing import Any, Callable, Dict, Optional, Tuple, Union

WINDOWS = os.name == "nt"

# A description opened O_APPEND gets what pwrite() brings at its end and keeps its
# offset, on Linux (pwrite(2), "BUGS").  That leaves the offset free for a mark.
OFFSET_IS_OURS = WINDOWS or sys.platform.startswith("linux")

QUIET = sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NOCTTY", "O_NOINHERIT", "O_BINARY"))
_LONGEST_NAME = 255  # bytes, on nearly every file system

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


# No generator: the interpreter prints what an interrupt raises where one is given up.
class closed_if_it_fails:  # noqa: N801 - reads as `contextlib.closing` does
    """Close *fd* where what is done with it does not come to its end."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if kind is not None:
            os.close(self._fd)


# -- Windows ------------------------------------------------------------------

_GENERIC_READ = 0x80000000
_GENERIC_WRITE = 0x40000000
_APPEND_DATA = 0x4
_READ_ATTRIBUTES = 0x80
_WRITE_ATTRIBUTES = 0x100
_SYNCHRONIZE = 0x100000
_SHARE_ALL = 0x7
_CREATE_NEW, _OPEN_EXISTING, _OPEN_ALWAYS = 1, 3, 4
_NORMAL = 0x80
_STANDARD_INFO = 1  # sizes, links, and whether it goes when it is closed
_INTERNAL_INFORMATION = 6  # the file's number on its volume
_NAME_AS_OPENED, _NO_VOLUME_NAME = 0x8, 0x4
_LONGEST_PLAIN_PATH = 247  # of a directory; a file's may have 12 more

_gone = itertools.count()

if WINDOWS:
    # Some of what is in them mypy knows on Windows only.
    ctypes: Any = importlib.import_module("ctypes")
    _runtime: Any = importlib.import_module("msvcrt")
    _kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
    _ntdll = ctypes.WinDLL("ntdll")
    _HANDLE = _POINTER = ctypes.c_void_p
    _TEXT, _NUMBER = ctypes.c_wchar_p, ctypes.c_uint32
    _kernel32.CreateFileW.argtypes = [_TEXT, _NUMBER, _NUMBER, _POINTER, _NUMBER, _NUMBER, _HANDLE]
    _kernel32.CreateFileW.restype = _HANDLE
    _kernel32.ReOpenFile.argtypes = [_HANDLE, _NUMBER, _NUMBER, _NUMBER]
    _kernel32.ReOpenFile.restype = _HANDLE
    _kernel32.CloseHandle.argtypes = [_HANDLE]
    _kernel32.GetFileInformationByHandleEx.argtypes = [_HANDLE, ctypes.c_int, _POINTER, _NUMBER]
    _kernel32.GetFinalPathNameByHandleW.argtypes = [_HANDLE, _POINTER, _NUMBER, _NUMBER]
    _ntdll.NtQueryInformationFile.argtypes = [_HANDLE, _POINTER, _POINTER, _NUMBER, ctypes.c_int]
    _ntdll.NtQueryInformationFile.restype = ctypes.c_int32
    _NO_HANDLE = ctypes.c_void_p(-1).value
    # Wine gives the path under which the handle was opened, whoever renames the file later.
    _NAME_FOLLOWS = not hasattr(_ntdll, "wine_get_version")


def open_shared(path: str, flags: int, _mode: int = 0o666, append_only: bool = False) -> int:
    """
    Open *path* as `os.open` does, in binary, not inherited, such that anybody may rename or delete it meanwhile.

    *path* may be of any length, or a device's.  *flags*: how to read and write, with `O_CREAT` and `O_EXCL`.
    *append_only*: what is written goes to the end of the file, in one step with finding it, whoever else appends so;
    the descriptor can neither write elsewhere nor truncate (see `truncate`).
    """
    access = _SYNCHRONIZE | _READ_ATTRIBUTES
    if not flags & os.O_WRONLY:
        access |= _GENERIC_READ
    if append_only:
        access |= _APPEND_DATA | _WRITE_ATTRIBUTES
    elif flags & (os.O_WRONLY | os.O_RDWR):
        access |= _GENERIC_WRITE
    how = _OPEN_EXISTING
    if flags & os.O_CREAT:
        how = _CREATE_NEW if flags & os.O_EXCL else _OPEN_ALWAYS
    handle = _kernel32.CreateFileW(extended(path), access, _SHARE_ALL, None, how, _NORMAL, None)
    if handle == _NO_HANDLE:
        raise _error(path)
    return _descriptor(handle)  # with O_APPEND the C runtime would look for the end in a step of its own


def extended(path: str) -> str:
    r"""Return *path*, absolute and with the prefix `\\?\` if it is too long for Windows otherwise."""
    if not WINDOWS:
        return path
    absolute = os.path.abspath(path)
    if len(path) <= _LONGEST_PLAIN_PATH and len(absolute) <= _LONGEST_PLAIN_PATH:
        return path
    if absolute.startswith(("\\\\?\\", "\\\\.\\")):
        return absolute
    if absolute.startswith("\\\\"):
        return "\\\\?\\UNC" + absolute[1:]
    return "\\\\?\\" + absolute


def is_device(path: str) -> bool:
    r"""Tell whether the absolute *path* is a device's, `\\.\NUL` say, which lies in no directory."""
    return path.startswith("\\\\.\\")


class Place:
    """Where an open file lies: taken while it is at *path*, it tells later, to one thread, whether it still is."""

    def __init__(self, fd: int, path: str) -> None:
        handle = _runtime.get_osfhandle(fd)
        self._path = extended(path)
        self._number = _number(handle)
        self._name = ctypes.create_unicode_buffer(32768)
        length = self._read_name(handle)
        # Renamed since it was opened: then no name is its place.
        self._known = self._name[:length] if self._number_at_path() == self._number else ""
        self._name = ctypes.create_unicode_buffer(length + 2)

    def size(self, fd: int) -> int:
        """
        Return the size of the file that *fd* has open, or -1 if it is not that at the path, or not for long.

        Neither opens the file nor asks for all that `os.fstat` tells.  Raises `OSError` for a closed descriptor.
        """
        handle = _runtime.get_osfhandle(fd)
        raw = _standard_info(handle)
        if raw[20]:  # deleted, and still listed until everybody has closed it
            return -1
        if _NAME_FOLLOWS:
            length = self._read_name(handle)
            if not length or length != len(self._known) or self._name[:length] != self._known:
                return -1
        elif self._number != _number(handle) or self._number != self._number_at_path():
            return -1
        return int.from_bytes(raw[8:16], "little")

    def _read_name(self, handle: int) -> int:
        """Read the name of *handle* into the buffer and return its length, or another one if it is too long."""
        name = self._name
        how = _NAME_AS_OPENED | _NO_VOLUME_NAME
        return int(_kernel32.GetFinalPathNameByHandleW(handle, name, len(name), how))

    def _number_at_path(self) -> bytes:
        handle = _kernel32.CreateFileW(self._path, 0, _SHARE_ALL, None, _OPEN_EXISTING, _NORMAL, None)
        if handle == _NO_HANDLE:
            return b""
        number = _number(handle)
        _kernel32.CloseHandle(handle)
        return number


def is_deleted(fd: int) -> bool:
    """Tell whether the open file has no name any more, or none that outlasts it; Wine never says so."""
    raw = _standard_info(_runtime.get_osfhandle(fd))
    return bool(raw[20]) or not any(raw[16:20])


def _at(call: Callable[[int, Any], Any], fd: int, what: Any, offset: int) -> Any:
    """Read or write as `os.pread` and `os.pwrite` do, what was opened with `append_only` at its end."""
    before = os.lseek(fd, 0, os.SEEK_CUR)
    try:
        os.lseek(fd, offset, os.SEEK_SET)
        return call(fd, what)
    finally:
        os.lseek(fd, before, os.SEEK_SET)


def _truncate(fd: int, length: int) -> None:
    """Cut the open file down to *length* bytes, by whatever name it has now, also where *fd* may only append."""
    handle = _runtime.get_osfhandle(fd)
    again = _kernel32.ReOpenFile(handle, _GENERIC_WRITE | _SYNCHRONIZE, _SHARE_ALL, 0)
    if again == _NO_HANDLE:
        raise _error(None)
    writable = _descriptor(again)
    try:
        if _number(again) != _number(handle):  # Wine goes by the name under which *fd* was opened
            raise OSError(errno.ESTALE, "the file was renamed, and cannot be cut back under its new name")
        os.ftruncate(writable, length)
    finally:
        os.close(writable)


def _remove(path: str) -> None:
    """
    Delete *path*, such that its name is free at once, whoever of us has the file open.

    It gets a hidden name first: older Windows lists a deleted file, and gives its
    name to nobody else, until everybody has closed it.  What a kill leaves there is to be deleted some time.
    """
    path = extended(path)
    name = f"{hidden_prefix(path)}{os.getpid():x}-{next(_gone):x}.gone"
    hidden = extended(os.path.join(os.path.dirname(path), name))
    os.rename(path, hidden)
    try:
        os.unlink(hidden)
    except FileNotFoundError:
        pass  # somebody has cleaned up
    except OSError:
        os.rename(hidden, path)  # somebody has opened it just now
        raise


def _descriptor(handle: int) -> int:
    try:
        return int(_runtime.open_osfhandle(handle, os.O_NOINHERIT))  # type: ignore[attr-defined,unused-ignore]
    except OSError:  # too many
        _kernel32.CloseHandle(handle)
        raise


def _number(handle: int) -> bytes:
    """Return the number that the file has on its volume, or nothing if there is no such handle."""
    number = ctypes.create_string_buffer(8)
    status = ctypes.create_string_buffer(16)
    failed = _ntdll.NtQueryInformationFile(handle, status, number, 8, _INTERNAL_INFORMATION)
    return b"" if failed else number.raw


def _standard_info(handle: int) -> bytes:
    standard = ctypes.create_string_buffer(24)
    if not _kernel32.GetFileInformationByHandleEx(handle, _STANDARD_INFO, standard, 24):
        raise _error(None)
    return bytes(standard)


def _error(path: Optional[str]) -> OSError:
    code = ctypes.get_last_error()
    error = OSError(None, ctypes.FormatError(code).strip(), path, code)
    # What os.open() says of a directory, too: Windows has no other word for it.
    return error if error.errno else OSError(errno.EIO, str(error), path)


# -- any system ---------------------------------------------------------------

# By which a file of ours is opened, read, written and cut back, while others have it open.
read_at: Callable[[int, int, int], bytes] = getattr(os, "pread", partial(_at, os.read))
write_at: Callable[[int, bytes, int], int] = getattr(os, "pwrite", partial(_at, os.write))
append_to = write_at if OFFSET_IS_OURS else lambda fd, data, _: os.write(fd, data)
open_fd: Callable[..., int] = open_shared if WINDOWS else os.open
truncate: Callable[[int, int], None] = _truncate if WINDOWS else os.ftruncate


def remove(path: str) -> None:
    """Delete *path*, whose name is free at once, also where somebody has the file open."""
    (_remove if WINDOWS else os.unlink)(path)


def identity(file: Union[int, str]) -> Optional[Tuple[int, int]]:
    """Return what tells the file that a descriptor has open, or a path leads to, from others; None if there is none."""
    try:
        if WINDOWS and isinstance(file, int):
            # There fstat() is slow, and knows no device of a file without a name.
            number = _number(_runtime.get_osfhandle(file))
            return (0, int.from_bytes(number, "little")) if number else None
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


def exists(path: str) -> bool:
    """Tell whether anything lies at *path*, by opening it: else NFS and SMB may go by what was there a second ago."""
    try:
        os.close(open_to_read(path, getattr(os, "O_NOFOLLOW", 0)))
    except OSError as error:
        return not isinstance(error, FileNotFoundError) and os.path.lexists(path)
    return True


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


def open_to_lock(path: str, flags: int = 0) -> int:
    """As `open_to_read`; for writing where we may, since NFSv4 locks nothing else."""
    try:
        return open_to_read(path, flags | os.O_RDWR)
    except PermissionError:
        return open_to_read(path, flags)


def open_to_read(path: str, flags: int = 0) -> int:
    """Open the regular file at *path*; anything else there, a pipe that would block us say, is an `OSError`."""
    fd = open_fd(path, flags | QUIET | getattr(os, "O_NONBLOCK", 0))
    with closed_if_it_fails(fd):
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
    return fd


def sync_directory(path: str) -> None:
    """Have the names in the directory at *path* on the disk; Windows has no call for that, and no need."""
    if WINDOWS:
        return
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | QUIET)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_through(fd: int, data: bytes) -> None:
    """Write *data* to a pipe or a device, which takes back nothing, and may take it in pieces."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
