"""The laboratory: booted once for all tests that want it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import HERE, Lab, Unavailable, open_lab
from share import Share

import concurrent_log_handler


def _directory_of(module: str) -> Path:
    found = importlib.util.find_spec(module)
    assert found is not None and found.origin is not None
    return Path(found.origin).parent


def files_for_the_lab() -> dict[str, Path]:
    """What the tests need inside: the library as it is tested here, and the programs that use it."""
    names = ("writer.py", "judge.py")
    return {
        "concurrent_log_handler": Path(concurrent_log_handler.__file__).parent,
        "portalocker": _directory_of("portalocker"),
        "process_helpers.py": _directory_of("process_helpers") / "process_helpers.py",
        **{name: HERE / name for name in names},
    }


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    try:
        with open_lab(files_for_the_lab()) as opened:
            yield opened
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture
def share(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Share]:
    """A fresh directory on the share of the kind that the test names."""
    lab.mount(request.param)
    yield Share(lab, request.param)
    lab.run(0, "sh", "-c", "pkill -KILL -f [w]riter.py || true")  # of a test that failed
    lab.forget()
