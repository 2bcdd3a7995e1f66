"""What the tests of `patterns` share: reading a chain back, programs of their own, a handler that waits."""

from __future__ import annotations

import gzip
import logging
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SECONDS = 30.0 if os.name == "posix" else 200.0  # Wine takes its time to start programs


def chain(directory: Path, name: str = "app.log") -> str:
    """The text of a live file and all its backups, oldest first."""
    backups = []
    for path in directory.glob(f"{name}.*"):
        number = re.fullmatch(re.escape(name) + r"\.(\d+)(\.gz)?", path.name)
        assert number, f"a file that no reader expects: {path.name}"
        backups.append((int(number[1]), path))
    text = ""
    for _, path in sorted(backups, reverse=True):
        text += gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    live = directory / name
    return text + (live.read_text() if live.exists() else "")


def numbers(text: str, word: str = "number") -> Counter[int]:
    """How often each `number 17` stands in *text*."""
    return Counter(int(found) for found in re.findall(rf"\b{word} (\d+)\b", text))


def once(count: int, start: int = 0) -> Counter[int]:
    """Each number exactly once."""
    return Counter(range(start, start + count))


def run_program(
    source: str, directory: Path, *arguments: str, status: int = 0, quiet: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run *source* as a program of its own, with warnings as errors; by default stderr must be empty."""
    if "fork" in source and not hasattr(os, "fork"):
        pytest.skip("there is no fork")
    program = directory / "program.py"
    program.write_text(textwrap.dedent(source), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore:This process:DeprecationWarning", program, *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == status, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert not quiet or not done.stderr, done.stderr
    program.unlink()
    return done


@contextmanager
def service(command: list[str], directory: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A program that runs until it is told to end, and the file with all that it says; it is dead afterwards."""
    said = directory / "stderr"
    with said.open("wb") as stream:
        process = subprocess.Popen(
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    try:
        yield process, said
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(SECONDS)


def a_record(text: object = "text", level: int = logging.INFO, *args: object) -> logging.LogRecord:
    return logging.LogRecord("test", level, "test.py", 1, text, args or None, None)


class Keep(logging.Handler):
    """Keeps every record, and the threads that brought them."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.threads: set[int] = set()

    def emit(self, record: logging.LogRecord) -> None:
        self.threads.add(threading.get_ident())
        self.records.append(record)

    @property
    def texts(self) -> list[str]:
        return [record.getMessage() for record in self.records]


class Gate(Keep):
    """Waits with each record until the gate is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.gate = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.entered.set()
        assert self.gate.wait(SECONDS), "nobody opened the gate"
        super().emit(record)


class Broken(logging.Handler):
    """A disk that fails: swallowed as the standard library's handlers do, or raised."""

    def __init__(self, swallow: bool = True) -> None:
        super().__init__()
        self.swallow = swallow

    def emit(self, record: logging.LogRecord) -> None:
        try:
            raise OSError(28, "No space left on device")
        except OSError:
            if not self.swallow:
                raise
            self.handleError(record)
