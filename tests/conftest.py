"""What every test shares: each gets its own working directory, and leaves `logging` as it found it."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Installing and booting a virtual machine takes more than `pytest` alone may be taken to ask for: name it.
collect_ignore = ["network"]

# What a shell runs in the background ignores Ctrl-C, and its children do, too.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes is the machine's business; a hang fails by pytest's time-out.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative file name in a test or a snippet must not land in the source tree."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory on a disk where a sync takes no time, for what is killed hundreds of times."""
    fast = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=fast if os.access(fast, os.W_OK) else None) as directory:
        yield Path(directory)


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory in which other users may work; every pytest that starts closes the one above `tmp_path` to them."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o777)
        yield Path(directory)


@pytest.fixture(autouse=True)
def _logging_as_found() -> Iterator[None]:
    """Handlers that a test adds anywhere are closed and removed; levels go back."""
    before = {logger: (logger.level, _handlers(logger), logger.disabled) for logger in _loggers()}
    mask = os.umask(0o022)
    os.umask(mask)
    yield
    for logger in _loggers():
        level, handlers, disabled = before.get(logger, (logging.NOTSET, [], False))
        for handler in _handlers(logger):
            if handler not in handlers:
                logger.removeHandler(handler)
                handler.close()
        for handler in handlers:
            if handler not in logger.handlers:
                logger.addHandler(handler)
        logger.setLevel(level)
        logger.disabled = disabled
    os.umask(mask)


def _loggers() -> list[logging.Logger]:
    named = logging.root.manager.loggerDict.values()
    return [logging.root, *(each for each in named if isinstance(each, logging.Logger))]


def _handlers(logger: logging.Logger) -> list[logging.Handler]:
    """Pytest puts its own handlers there and takes them away itself."""
    return [each for each in logger.handlers if not type(each).__module__.startswith("_pytest")]
