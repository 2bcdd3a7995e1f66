"""Processes that end with their test."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

from windows_support import Program


@pytest.fixture
def program(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Program]]:
    """Start a `Program` with what the test's module has in `PRELUDE`."""
    started: list[Program] = []

    def start(source: str, *arguments: object) -> Program:
        source = request.module.PRELUDE + textwrap.dedent(source)
        started.append(Program(tmp_path, source, *arguments))
        return started[-1]

    yield start
    for each in started:
        each.kill()
