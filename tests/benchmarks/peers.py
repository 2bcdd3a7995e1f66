"""The published libraries that are measured beside ours: pinned, each in a directory of its own.

They are never installed into the environment that runs the benchmark: one of them has our import
name.  The directories stay in the user's cache, so that only the first run needs the registry.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CLH = "concurrent-log-handler==0.9.31"
LOGURU = "loguru==0.7.3"
INSTALL_SECONDS = 180


class NotInstallableError(Exception):
    """pip could not install a peer; the text is its last line."""


def directory_of(requirement: str) -> Path:
    """The directory that holds *requirement*, to be put on `PYTHONPATH`; installed if it is not there yet."""
    target = _cache() / f"python{sys.version_info[0]}.{sys.version_info[1]}" / requirement.replace("==", "-")
    if not target.is_dir():
        _install(requirement, target)
    return target


def portalocker_alone() -> Path:
    """A directory with the portalocker that CLH got and nothing else, so that both lock alike."""
    target = directory_of(CLH)
    alone = target.with_name(target.name + "-portalocker")
    if not (alone / "portalocker").exists():
        alone.mkdir(exist_ok=True)
        shutil.copytree(target / "portalocker", alone / "portalocker", dirs_exist_ok=True)
    return alone


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or tempfile.gettempdir()
    return Path(base) / "concurrent-log-handler-benchmarks"


def _install(requirement: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=target.parent))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    try:
        done = subprocess.run(
            [*command, "--target", str(unfinished), requirement],
            capture_output=True,
            text=True,
            check=False,
            timeout=INSTALL_SECONDS,
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"pip ended with {done.returncode}"]
            raise NotInstallableError(lines[-1])
        unfinished.rename(target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
