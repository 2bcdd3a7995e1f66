"""Which file systems count as shared with other machines: mount tables as systems have them."""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path
from typing import Tuple

import pytest

from concurrent_log_handler._network import (
    file_system_type,
    is_shared,
    is_shared_type,
    type_in_statfs,
    type_in_table,
    windows_type,
)

KUBERNETES = rb"""1203 980 0:412 / / rw,relatime - overlay overlay rw,lowerdir=/l/A:/l/B,upperdir=/u,workdir=/w
1204 1203 0:415 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
1211 1203 0:398 / /data rw,relatime - nfs4 127.0.0.1:/ rw,vers=4.1,hard,noresvport,port=20049,addr=127.0.0.1
1212 1203 0:401 / /azure rw,relatime - cifs //acct.file.core.windows.net/pvc-1 rw,vers=3.1.1,cache=strict,nosharesock
1213 1203 0:402 /volumes/csi /ceph rw,relatime - ceph 10.0.0.1:6789:/volumes/csi rw,name=k8s,acl
1214 1203 0:403 / /bucket rw,nosuid,nodev,relatime - fuse mountpoint-s3 rw,user_id=0,group_id=0,allow_other
1215 1203 259:1 /var/lib/kubelet/pods/1/etc-hosts /etc/hosts rw,noatime - xfs /dev/nvme0n1p1 rw,attr2,inode64
1216 1203 259:3 / /block rw,relatime - ext4 /dev/nvme1n1 rw
"""
WSL = rb"""77 82 8:48 / / rw,relatime - ext4 /dev/sdd rw,discard,errors=remount-ro,data=ordered
131 77 0:69 / /mnt/c rw,noatime - 9p C:\134 rw,aname=drvfs;path=C:\;uid=1000;symlinkroot=/mnt/,trans=fd,rfd=6,wfd=6
132 77 0:70 / /mnt/my\040disk rw,noatime - 9p D:\134 rw,aname=drvfs;path=D:\;uid=1000
"""
WSL_1 = b"""22 2 0:2 / / rw,noatime - wslfs rootfs rw
24 22 0:23 / /mnt/c rw,noatime - drvfs C: rw,uid=1000
"""
DOCKER_DESKTOP = rb"""1000 999 0:60 / / rw,relatime - overlay overlay rw
1003 1000 0:70 /Users/me/app /app rw,relatime - fakeowner /run/host_mark/Users rw,fakeowner
1004 1000 0:71 /host_mnt/Users/me /older rw,nosuid,nodev,relatime - fuse.grpcfuse grpcfuse rw,user_id=0,allow_other
1005 1000 254:1 /docker/volumes/logs/_data /volume rw,relatime master:27 - ext4 /dev/vda1 rw
1006 1000 0:73 /Users/me /virtio rw - virtiofs virtiofs0 rw
"""
VIRTUALBOX = b"""1 0 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,data=ordered
198 1 0:37 / /vagrant rw,nodev,relatime shared:130 - vboxsf vagrant rw,iocharset=utf8
199 1 0:38 / /mnt/hgfs rw,nosuid - fuse.vmhgfs-fuse vmhgfs-fuse rw,user_id=0
"""
DESKTOP = rb"""22 1 0:24 /@ / rw,relatime shared:1 - btrfs /dev/nvme0n1p2 rw,compress=zstd:3,subvolid=256,subvol=/@
23 22 0:24 /@home /home rw,relatime shared:2 - btrfs /dev/nvme0n1p2 rw,compress=zstd:3,subvolid=257,subvol=/@home
30 22 0:50 / /home/me/my\040nas rw,nosuid,nodev,relatime shared:30 - fuse.sshfs me@nas:/srv rw,user_id=1000
31 22 0:51 / /mnt/a\134b rw - nfs [fe80::1]:/x rw
32 22 0:52 / /home/me/.safe rw - fuse.gocryptfs /home/me/.cipher rw
33 22 8:33 / /run/media/me/NTFS rw,relatime shared:44 - fuseblk /dev/sdc1 rw
40 22 0:60 / /srv/share rw - ext4 /dev/sdb1 rw
41 40 0:61 / /srv/share rw - nfs4 nas:/share rw,vers=4.2
not a mount line
42 22 0:62 / /broken rw -
"""
# fmt: off
SHARED = [
    "nfs", "nfs4", "cifs", "smb3", "9p", "afs", "ceph", "glusterfs", "fuse.glusterfs", "lustre",
    "gpfs", "beegfs", "ocfs2", "gfs2", "acfs", "davfs", "prl_fs", "vmhgfs", "fuse.ceph-fuse",
    "fuse.rclone", "fuse.s3fs", "fuse.goofys", "fuse.gcsfuse", "fuse.mfs", "fuse.juicefs",
    "fuse.osxfs", "fuse",
]
LOCAL = [
    "ext4", "xfs", "btrfs", "zfs", "f2fs", "tmpfs", "ramfs", "overlay", "aufs", "ecryptfs", "ntfs3",
    "vfat", "apfs", "ufs", "fuseblk", "fuse.mergerfs", "fuse.fuse-overlayfs", "fuse.shfs",
]
# fmt: on


@pytest.mark.parametrize(
    ("table", "device", "path", "name", "shared"),
    [
        (KUBERNETES, (0, 398), "/data", "nfs4", True),  # AWS EFS; Google Filestore looks alike
        (KUBERNETES, (0, 401), "/azure/logs", "cifs", True),
        (KUBERNETES, (0, 402), "/ceph", "ceph", True),
        (KUBERNETES, (0, 403), "/bucket", "fuse", True),
        (KUBERNETES, (259, 3), "/block/app.log", "ext4", False),
        (KUBERNETES, (0, 412), "/var/log", "overlay", False),
        (KUBERNETES, (0, 999), "/var/log/app.log", "overlay", False),  # a file of a lower layer
        (WSL, (8, 48), "/home/me", "ext4", False),
        (WSL, (0, 69), "/mnt/c/Users", "9p", True),
        (WSL, (0, 99), "/mnt/my disk/logs", "9p", True),
        (WSL_1, (0, 23), "/mnt/c", "drvfs", True),
        (WSL_1, (0, 2), "/home", "wslfs", False),
        (DOCKER_DESKTOP, (0, 70), "/app/logs", "fakeowner", True),
        (DOCKER_DESKTOP, (0, 71), "/older", "fuse.grpcfuse", True),
        (DOCKER_DESKTOP, (0, 73), "/virtio", "virtiofs", True),
        (DOCKER_DESKTOP, (254, 1), "/volume", "ext4", False),
        (VIRTUALBOX, (0, 37), "/vagrant", "vboxsf", True),
        (VIRTUALBOX, (0, 38), "/mnt/hgfs/x", "fuse.vmhgfs-fuse", True),
        (VIRTUALBOX, (8, 1), "/vagrant-not", "ext4", False),
        (DESKTOP, (0, 31), "/home/me/logs", "btrfs", False),  # a subvolume has a device of its own
        (DESKTOP, (0, 50), "/home/me/my nas", "fuse.sshfs", True),
        (DESKTOP, (0, 51), "/mnt/a\\b", "nfs", True),
        (DESKTOP, (0, 52), "/home/me/.safe", "fuse.gocryptfs", False),
        (DESKTOP, (8, 33), "/run/media/me/NTFS", "fuseblk", False),
        (DESKTOP, (0, 61), "/srv/share/app.log", "nfs4", True),
        (DESKTOP, (0, 60), "/srv/share/app.log", "ext4", False),  # opened before it was hidden
        (DESKTOP, (0, 99), "/srv/share/app.log", "nfs4", True),  # of two at one place the later
        (DESKTOP, (0, 99), "/srv/shared", "btrfs", False),
        (b"", (8, 1), "/", "", False),
    ],
)
def test_type_is_found_by_device_and_else_by_path(
    table: bytes, device: Tuple[int, int], path: str, name: str, shared: bool
) -> None:
    """A device that the table does not name is that of an overlay's file or a btrfs subvolume: never a share."""
    found = type_in_table(table, device, path)

    assert (found, is_shared_type(found)) == (name, shared)


@pytest.mark.parametrize("name", SHARED)
def test_network_and_cluster_file_systems_are_shared(name: str) -> None:
    assert is_shared_type(name)


@pytest.mark.parametrize("name", LOCAL)
def test_local_file_systems_are_not(name: str) -> None:
    assert not is_shared_type(name)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux's mount table")
def test_this_machines_own_table(tmp_path: Path) -> None:
    """Whatever the disk is, `/proc` is known; so is a file that is not there yet."""
    assert file_system_type("/proc/self/status") == "proc"
    assert not is_shared("/proc/self/status")
    assert file_system_type(str(tmp_path / "app.log")) == file_system_type(
        str(tmp_path)
    )  # in a jail, perhaps nothing
    assert file_system_type(os.path.relpath(tmp_path)) == file_system_type(str(tmp_path))


@pytest.mark.parametrize("path", ["", "no\0name", "/no/such/place/app.log", "\udcff"])
def test_what_cannot_be_found_out_is_no_error(path: str) -> None:
    assert is_shared(path) in (False, True)


def test_structure_that_macos_fills() -> None:
    """The flag for a local disk decides: FUSE, SMB and NFS mounts do not have it."""

    def answer(flags: int, name: bytes) -> bytes:
        counts = (4096, 1 << 20, *[10**9] * 5, 1, 2, 0, 0x1A)
        return struct.pack("<Ii5Qii2I", *counts) + struct.pack(
            "<II16s1024s1024s32x", flags, 0, name, b"/", b"x"
        )

    assert type_in_statfs(answer(0x1000 | 0x4000000, b"apfs")) == "apfs"
    assert is_shared_type(type_in_statfs(answer(0x4000000, b"smbfs")))
    assert is_shared_type(type_in_statfs(answer(0x18, b"macfuse")))


@pytest.mark.parametrize(
    ("path", "shared"),
    [
        ("\\\\server\\logs\\app.log", True),
        ("//server/logs/app.log", True),
        ("\\\\?\\UNC\\server\\logs\\app.log", True),
        ("\\\\wsl$\\Debian\\var\\log", True),
        ("app.log", False),
    ],
)
def test_windows_path_of_a_server_is_shared(path: str, shared: bool) -> None:
    """What a drive letter stands for, Windows itself must say."""
    assert is_shared_type(windows_type(path)) is shared
