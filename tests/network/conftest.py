"""The laboratory: booted once for all tests that want it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lab import Lab, Unavailable, open_lab
from share import Share, files_for_the_lab


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run those on one kind of share together: to mount another takes seconds."""
    items.sort(key=lambda item: item.callspec.params["share"] if "share" in item.fixturenames else "")  # type: ignore[attr-defined]


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
