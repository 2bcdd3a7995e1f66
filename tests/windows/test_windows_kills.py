"""TerminateProcess after each single step of a rotation with its compression: every acknowledged record is there, once.

Runs on Windows, and under Wine by `run.py` beside this file.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Optional

import pytest

if os.name != "nt":
    pytest.skip("files of Windows", allow_module_level=True)

from handler_support import Strict
from process_helpers import check, write

AT_A_TIME = 3
OPTIONS = {"maxBytes": 400, "backupCount": 20, "encoding": "utf-8", "newline": "\n", "use_gzip": True}
VICTIM = """
import sys
from process_helpers import *
steps = Steps()
from concurrent_log_handler import ConcurrentRotatingFileHandler
handler = open_log("app.log", lock_timeout=40, **OPTIONS)
write(handler, "victim", [0])
print(0, flush=True)
steps.arm(int(sys.argv[1]))
for number in (1, 2):
    write(handler, "victim", [number])
    assert not handler.failures, handler.failures
    print(number, flush=True)
handler.close()
print(*steps.names)
"""


def killed_after(directory: Path, step: int) -> tuple[int, Optional[list[str]]]:
    """Start a victim; return how many records it had acknowledged, and its steps if it came to its end."""
    done = subprocess.run(
        [sys.executable, "-c", VICTIM.replace("OPTIONS", repr(OPTIONS)), str(step)],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    lines = done.stdout.splitlines()
    if done.returncode == 0:
        return len(lines) - 1, lines[-1].split()
    assert done.returncode == 9, done.stderr
    return len(lines), None


@pytest.mark.slow
@pytest.mark.timeout(900)  # some forty processes
def test_killed_after_each_single_step(tmp_path: Path) -> None:
    """A chain of three files with room for more; the victim's second record rotates."""
    chain = tmp_path / "chain"
    chain.mkdir()
    handler = Strict(chain / "app.log", **OPTIONS)  # type: ignore[arg-type]
    write(handler, "old", range(26))
    handler.close()
    assert len(list(chain.glob("app.log*"))) == 3

    def step(number: int) -> Optional[list[str]]:
        logs = tmp_path / str(number)
        shutil.copytree(chain, logs, copy_function=shutil.copyfile)  # what copy() calls, Wine 8 does not have
        acknowledged, steps = killed_after(logs, number)
        healthy = Strict(logs / "app.log", **OPTIONS)  # type: ignore[arg-type]
        write(healthy, "healthy", range(12))
        healthy.close()
        try:
            check(
                logs,
                {"old": range(26), "victim": range(acknowledged), "healthy": range(12)},
                perhaps=[("victim", acknowledged)],
                max_bytes=400,
            )
        except AssertionError as error:
            raise AssertionError(f"killed after step {number}, acknowledged {acknowledged}") from error
        return steps

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        for first in count(1, AT_A_TIME):
            steps = [each for each in pool.map(step, range(first, first + AT_A_TIME)) if each]
            if steps:
                break

    assert {"rename", "write", "CreateFileW", "replace", "unlink"} <= set(steps[0])
    assert len(steps[0]) > 25
