"""What type checkers see of the package: strictly, as a user's program would have it checked."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "typing" / "api.py"


def test_program_uses_every_public_name() -> None:
    """A new name without a line there would be a type that nobody has checked."""
    text = PROGRAM.read_text(encoding="utf-8")

    names = {
        name
        for module in ("concurrent_log_handler", "concurrent_log_handler.patterns")
        for name in importlib.import_module(module).__all__
    }
    assert {name for name in names if len(re.findall(rf"\b{name}\b", text)) < 2} == set()


@pytest.mark.slow
def test_a_users_program_passes_mypy_strictly(tmp_path: Path) -> None:
    """`py.typed` is found in the installed package, and nothing in it is `Any` by accident."""
    pytest.importorskip("mypy")

    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(PROGRAM)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
