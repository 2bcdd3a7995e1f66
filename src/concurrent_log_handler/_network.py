"""Whether a file system is shared with other machines, as far as this machine's mount table tells.

A host and its virtual machines or containers are several machines, too: each has caches and locks of its own.
Nothing here raises: what cannot be found out counts as a local disk.
"""

from __future__ import annotations

import ntpath
import os
import re
import struct
import sys
from typing import Tuple

# fmt: off
_SHARED = frozenset((
    # file servers
    "nfs", "nfs4", "cifs", "smb2", "smb3", "smbfs", "9p", "afs", "auristorfs", "afpfs", "coda", "ncpfs",
    "davfs", "webdav",
    # cluster file systems
    "ceph", "glusterfs", "lustre", "gpfs", "beegfs", "orangefs", "pvfs2", "panfs", "wekafs", "snfs",
    "acfs", "dvs", "ocfs2", "gfs2",
    # a folder of the host in a virtual machine or a container
    "virtiofs", "vboxsf", "vmhgfs", "prl_fs", "drvfs", "fakeowner", "grpcfuse", "osxfs",
))
# FUSE is taken for shared, since most of it is (sshfs, s3fs, rclone, gcsfuse, JuiceFS, MooseFS, ...), but for these.
_LOCAL_FUSE = frozenset((
    "bindfs", "cryfs", "encfs", "exfat", "fuse-overlayfs", "gocryptfs", "lxcfs", "mergerfs", "ntfs-3g",
    "portal", "shfs", "unionfs", "zfs",
))
# fmt: on
_NETWORK_DRIVE = "network drive"
_DRIVE_REMOTE = 4
_MNT_LOCAL = 0x1000
_STATFS = struct.Struct("64xI4x16s2080x")  # f_flags and f_fstypename of macOS's struct statfs


def is_shared(path: str) -> bool:
    """Tell whether other machines may have the file or directory at *path* open, too."""
    return is_shared_type(file_system_type(path))


def file_system_type(path: str) -> str:
    """Return the name of the file system that *path* is on, or will be once it exists; `""` if unknown."""
    try:
        if sys.platform == "win32":
            return windows_type(os.path.realpath(path))
        there = path if os.path.exists(path) else os.path.dirname(path) or "."
        if sys.platform == "darwin":
            return _macos_type(there)
        device = os.stat(there).st_dev  # before the table is read: this look can have it mounted
        with open("/proc/self/mountinfo", "rb") as table:
            return type_in_table(table.read(), (os.major(device), os.minor(device)), os.path.realpath(path))
    except Exception:  # such as no /proc in a chroot, or a path that no file can have
        return ""


def is_shared_type(name: str) -> bool:
    """Tell whether file systems of this type, as the mount table names it, are shared with other machines."""
    kind, _, program = name.partition(".")
    if kind == "fuse":
        return program not in _LOCAL_FUSE
    return name in _SHARED or name == _NETWORK_DRIVE


def type_in_table(table: bytes, device: Tuple[int, int], path: str) -> str:
    """
    Return the type of the file system in the text of `/proc/self/mountinfo`; `""` if it is not there.

    The real *path* of a file can mislead, where mounts hide each other; so its *device* (major, minor) decides.  But
    the table does not name those of files in an overlay, and of btrfs's subvolumes.
    """
    best, found = "", ""
    for line in table.splitlines():
        fields = line.split(b" ")
        try:
            major, minor = fields[2].split(b":")
            its_device = int(major), int(minor)
            point, name = _unescaped(fields[4]), _unescaped(fields[fields.index(b"-", 6) + 1])
        except (IndexError, ValueError):
            continue
        if its_device == device:
            return name
        if (path + "/").startswith(point.rstrip("/") + "/") and len(point) >= len(best):
            best, found = point, name  # the later of two at one place hides the other
    return found


def _unescaped(field: bytes) -> str:
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8) & 255]), field))


def windows_type(path: str) -> str:
    """Return that *path* leads to another machine, or `""`."""
    path = path.replace("/", "\\")
    import ctypes  # where Python was built without it, only those who need it go without

    windll = getattr(ctypes, "windll", None)
    drive = ntpath.splitdrive(path)[0] + "\\"
    of_server = re.match(r"\\\\([^?.]|\?\\UNC\\)", path, re.IGNORECASE)
    if of_server or (windll and windll.kernel32.GetDriveTypeW(drive) == _DRIVE_REMOTE):
        return _NETWORK_DRIVE
    return ""


def _macos_type(path: str) -> str:
    import ctypes

    library = ctypes.CDLL(None)
    # Where inodes once had 32 bits, the plain name is that of the old structure.
    statfs = getattr(library, "statfs$INODE64", None) or library.statfs
    answer = ctypes.create_string_buffer(_STATFS.size)
    return "" if statfs(os.fsencode(path), answer) else type_in_statfs(answer.raw)


def type_in_statfs(answer: bytes) -> str:
    """Return the type in macOS's `struct statfs`, or that it is a network drive."""
    flags, name = _STATFS.unpack(answer)
    if not flags & _MNT_LOCAL:
        return _NETWORK_DRIVE
    return os.fsdecode(name.rstrip(b"\0"))
