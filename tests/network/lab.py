"""
A laboratory of two machines and one share, in one virtual machine.

A whole Debian kernel in qemu, emulated in software (a KVM that is there need not work); in it an NFS server, Samba
and two "machines": namespaces for network, names and mounts, with caches and an NFS client identity of their own.
What goes in: Debian packages (the image, which is kept outside the clone) and the files of this directory and of
the library (a tar archive, unpacked at boot).  What goes on there is in `inside/`.

Any number of laboratories may run at once: each has its own copy of the disks, and the image is built under a lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

HERE = Path(__file__).resolve().parent
NEEDED = {"qemu-system-x86_64": "qemu-system-x86", "debootstrap": "debootstrap", "mke2fs": "e2fsprogs"}
SUITE = "bookworm"
PACKAGES = (
    *("linux-image-amd64", "initramfs-tools", "kmod", "iproute2", "procps", "util-linux", "python3"),
    *("nfs-kernel-server", "nfs-common", "rpcbind", "netbase", "samba", "cifs-utils"),
)
MODULES = "virtio_pci\nvirtio_blk\next4\n"  # what the root file system needs; the rest is loaded later
INIT = """#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for tmp in /run /tmp /dev/shm; do mkdir -p $tmp; mount -t tmpfs tmpfs $tmp; done
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
mkdir /lab; tar xf /dev/vdb -C /lab
sh /lab/inside/start.sh
echo o >/proc/sysrq-trigger; sleep 9
"""
BOOT = "console=ttyS0 root=/dev/vda rw init=/init.lab loglevel=4 mitigations=off"
BOOT_SECONDS = 240.0


class Unavailable(Exception):
    """There can be no laboratory here."""


def cache() -> Path:
    """Return where the image is kept."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "concurrent-log-handler" / "netlab"


def image() -> Path:
    """Return the directory with the disk, the kernel and its first file system; it is built if need be."""
    if os.geteuid():
        raise Unavailable("only root can build and boot the laboratory")
    recipe = repr((SUITE, PACKAGES, MODULES, INIT)).encode()
    folder = cache() / hashlib.sha256(recipe).hexdigest()[:16]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _install_tools()
        if not folder.exists():
            for old in folder.parent.iterdir():
                if old.is_dir():
                    shutil.rmtree(old)  # of another recipe; who runs on it keeps it open
            _build(folder)
    return folder


def _install_tools() -> None:
    missing = [package for tool, package in NEEDED.items() if not shutil.which(tool)]
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise Unavailable(f"no apt-get to install {' '.join(missing)} with")
    for command in (["update"], ["install", "-y", "--no-install-recommends", *missing]):
        _call(
            ["apt-get", "-qq", *command], seconds=300, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        )


def _build(folder: Path) -> None:
    mirrors = _call(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian"],
        seconds=60,
    ).split()
    with _scratch(folder.parent) as work:
        root = work / "root"
        _call(
            [
                "unshare",
                "--mount",
                "debootstrap",
                "--variant=minbase",
                f"--include={','.join(PACKAGES)}",
                SUITE,
                root,
                *mirrors[:1],
            ],
            seconds=1200,
        )
        (root / "init.lab").write_text(INIT)
        (root / "init.lab").chmod(0o755)
        (root / "etc/initramfs-tools/modules").write_text(MODULES)
        (root / "etc/initramfs-tools/conf.d/lab").write_text("MODULES=list\n")
        _call(["chroot", root, "update-initramfs", "-u"], seconds=300)
        done = work / "done"
        done.mkdir()
        for name in ("vmlinuz", "initrd.img"):
            shutil.copy(next((root / "boot").glob(f"{name}-*")), done / name)
        shutil.rmtree(root / "var/cache/apt")
        shutil.rmtree(root / "var/lib/apt/lists")
        _make_disk(done / "root.img", "3G", "-d", root)
        done.rename(folder)


def _make_disk(path: Path, size: str, *options: object) -> None:
    _call(["truncate", "-s", size, path], seconds=60)
    _call(["mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", *options, path], seconds=300)


def _call(command: list[Any], seconds: float, env: Optional[dict[str, str]] = None) -> str:
    try:
        done = subprocess.run(
            [*map(str, command)], env=env, capture_output=True, text=True, timeout=seconds, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(str(error)) from error
    if done.returncode:
        raise Unavailable(f"{' '.join(map(str, command))}: {(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


@contextlib.contextmanager
def _scratch(parent: Optional[Path] = None) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="netlab-", dir=parent))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


class Process:
    """A program in the laboratory: its standard input and output, by lines."""

    def __init__(self, address: tuple[str, int], command: list[str]) -> None:
        self._socket = socket.create_connection(address, timeout=10)
        self._lines = self._socket.makefile("r", encoding="utf-8", errors="replace")
        self.tell(json.dumps(command))
        self.seen: list[str] = []
        self.code: Optional[int] = None

    def tell(self, line: str) -> None:
        self._socket.sendall(f"{line}\n".encode())

    def close_input(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def line(self, seconds: float) -> Optional[str]:
        """Return the next line, or None at the end; `TimeoutError` after *seconds* without one."""
        if self.code is not None:
            return None
        self._socket.settimeout(seconds)
        line, end, code = self._lines.readline().partition("\0exit ")
        if end or not line:
            self.code = int(code or -1)
            self.close()
        if line:
            self.seen.append(line)
        return line.rstrip("\n") if line else None

    def close(self) -> None:
        self._lines.close()
        self._socket.close()

    def wait(self, seconds: float) -> str:
        """Return what it still prints until it ends; any other exit status than 0 is an `AssertionError`."""
        lines = []
        until = time.monotonic() + seconds
        while (line := self.line(max(0.1, until - time.monotonic()))) is not None:
            lines.append(line)
        assert self.code == 0, f"exit status {self.code}:\n{''.join(self.seen)}"
        return "\n".join(lines)


class Lab:
    """A running laboratory; `open_lab` makes one."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._mounted = ""
        self._started: list[Process] = []

    def start(self, machine: int, *command: object) -> Process:
        """Start *command* on *machine*: 1 or 2, 0 the server."""
        self._started.append(Process(self._address, [str(machine), *map(str, command)]))
        return self._started[-1]

    def forget(self) -> None:
        """Let go of all that was started."""
        for process in self._started:
            process.close()
        self._started.clear()

    def run(self, machine: int, *command: object, seconds: float = 60) -> str:
        return self.start(machine, *command).wait(seconds)

    def mount(self, kind: str) -> None:
        """Have `/mnt` on both machines lead to the share: `nfs42`, `smb`, `ext4`, with options as in `nfs3-nolock`."""
        if self._mounted != kind:
            self._mounted = ""
            for machine in (1, 2):
                self.run(machine, "sh", "/lab/inside/mount.sh", kind, machine)
            self._mounted = kind


@contextlib.contextmanager
def open_lab(files: dict[str, Path]) -> Iterator[Lab]:
    """Boot a laboratory with *files* (name inside: file or directory here) under `/lab`, and stop it afterwards."""
    folder = image()
    with _scratch() as work, contextlib.ExitStack() as stack:
        with tarfile.open(work / "files.tar", "w") as tar:
            for name, path in {**files, "inside": HERE / "inside"}.items():
                tar.add(path, name)
        _make_disk(work / "data.img", "512M")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = probe.getsockname()
        drives = [
            (folder / "root.img", "snapshot=on"),
            (work / "files.tar", "readonly=on"),
            (work / "data.img", "snapshot=on"),
        ]
        log = stack.enter_context(open(work / "qemu.log", "wb"))
        virtual = subprocess.Popen(
            [
                *(
                    "setpriv",
                    "--pdeathsig",
                    "KILL",
                    "qemu-system-x86_64",
                    "-accel",
                    "tcg,thread=multi",
                    "-cpu",
                    "max",
                ),
                *("-smp", "2", "-m", "2048", "-nodefaults", "-display", "none", "-no-reboot"),
                *("-serial", f"file:{work}/console.log", "-append", BOOT),
                *("-kernel", str(folder / "vmlinuz"), "-initrd", str(folder / "initrd.img")),
                *("-nic", f"user,model=virtio-net-pci,restrict=on,hostfwd=tcp:127.0.0.1:{address[1]}-:7"),
                *(
                    part
                    for path, how in drives
                    for part in ("-drive", f"file={path},if=virtio,format=raw,cache=unsafe,{how}")
                ),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        lab = Lab(address)
        try:
            _wait_for(lab, virtual, work)
            yield lab
        finally:
            lab.forget()
            virtual.kill()
            virtual.wait(timeout=30)


def _wait_for(lab: Lab, virtual: subprocess.Popen[bytes], work: Path) -> None:
    until = time.monotonic() + BOOT_SECONDS
    while True:
        # qemu takes the connection at once and ends it as long as nobody listens inside.
        with contextlib.suppress(OSError, AssertionError):
            lab.run(0, "true", seconds=20)
            return
        if virtual.poll() is not None or time.monotonic() > until:
            logs = "".join(path.read_text(errors="replace")[-3000:] for path in work.glob("*.log"))
            raise RuntimeError(f"the laboratory did not boot:\n{logs}")
        time.sleep(0.5)
