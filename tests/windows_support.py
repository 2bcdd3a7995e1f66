"""What the tests on Windows share: other processes, which stop where they are told to."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

SECONDS = 200
PRELUDE = """\
import os, sys
def meet(word="here"):
    print(word, flush=True)
    sys.stdin.readline()
"""
PATHS = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])


class Program:
    """Another process, which stops at each `meet()` of its source until it is let go on."""

    def __init__(self, directory: Path, source: str, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + textwrap.dedent(source), *map(str, arguments)],
            cwd=directory,
            env={**os.environ, "PYTHONPATH": PATHS, "PYTHONUTF8": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def met(self) -> str:
        assert self.process.stdout is not None
        word = self.process.stdout.readline()  # of a dead process: nothing, at once
        assert word, f"ended with {self.process.wait(SECONDS)}"
        return word.strip()

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> str:
        """Let it run to its end; returns what else it says."""
        output, _ = self.process.communicate("\n", timeout=SECONDS)
        assert self.process.returncode == 0
        return output

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()
