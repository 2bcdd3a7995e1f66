"""The same records into this handler and into the standard library's: the same names, contents and shifts."""

from __future__ import annotations

import logging.handlers
import os
import string
import tempfile
import warnings
from pathlib import Path
from typing import Any, Callable, Optional, Union

from hypothesis import example, given, settings
from hypothesis import strategies as st

from handler_support import Strict, a_record, contents


class Cpython(logging.handlers.RotatingFileHandler):
    """CPython 3.13's, also where an older one runs."""

    def shouldRollover(self, record: logging.LogRecord) -> Any:
        """gh-116263: an empty file never rotates."""
        return bool(os.path.getsize(self.baseFilename)) and super().shouldRollover(record)

    def handleError(self, record: logging.LogRecord) -> None:
        raise  # noqa: PLE0704


def in_a_prefix(name: str) -> str:
    folder, last = os.path.split(name)
    return os.path.join(folder, f"old-{last}")


def with_the_number_first(name: str) -> str:
    stem, _, number = name.rpartition(".")
    return f"{stem[:-4]}.{number}.log"


NAMERS = (None, in_a_prefix, with_the_number_first)
TEXT = st.text(string.ascii_letters + string.digits + " \t\n%", max_size=40)
STEP = st.one_of(
    TEXT,
    TEXT,
    TEXT,
    st.sampled_from(["<close>", "<new handler>", "<roll by hand>"]),
    st.integers(0, 120),  # a new maxBytes
)


def outcome(
    kind: Callable[..., Any],
    found: tuple[str, ...],
    max_bytes: int,
    backup_count: int,
    namer: Optional[Callable[[str], str]],
    steps: list[Union[str, int]],
) -> list[dict[str, str]]:
    """What stands in the directory after each step."""
    after = []
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # maxBytes without backupCount
        directory = Path(name)
        log = str(directory / "app.log")
        for number, text in enumerate(found):
            backup = f"{log}.{number}"
            path = log if not number else namer(backup) if namer else backup
            Path(path).write_bytes(text.encode())

        def new() -> Any:
            handler = kind(log, maxBytes=max_bytes, backupCount=backup_count, encoding="ascii", delay=False)
            handler.namer = namer
            handler.terminator = "\n"
            return handler

        handler = new()
        written = False
        for step in steps:
            if isinstance(step, int):
                handler.maxBytes = step
            elif step == "<close>":
                handler.close()
            elif step == "<new handler>":
                handler.close()
                handler = new()
            elif step == "<roll by hand>":
                if written:
                    handler.doRollover()
                    written = False
            else:
                handler.handle(a_record("%s", step))
                written = True
            after.append(contents(directory))
        handler.close()
    return after


@settings(max_examples=150 if os.name != "nt" else 25)
@given(
    found=st.lists(TEXT, max_size=6).map(tuple),
    max_bytes=st.integers(0, 120),
    backup_count=st.integers(0, 4),
    namer=st.sampled_from(NAMERS),
    steps=st.lists(STEP, max_size=25),
)
@example(found=("", "a"), max_bytes=1, backup_count=1, namer=None, steps=["a", "b", "c"])
@example(found=("x" * 9,), max_bytes=10, backup_count=2, namer=None, steps=["", "", ""])
@example(found=("1", "2", "3", "4", "5"), max_bytes=5, backup_count=2, namer=None, steps=["aaaa", "bbbb"])
def test_same_records_give_the_same_files(
    found: tuple[str, ...],
    max_bytes: int,
    backup_count: int,
    namer: Optional[Callable[[str], str]],
    steps: list[Union[str, int]],
) -> None:
    """Names, boundaries and retention are CPython's, so monitoring, docs and habits carry over."""
    # A record cut short is sealed by ours; the standard library glues the next one to it.
    found = tuple(text if not text or text.endswith("\n") else text + "\n" for text in found)

    ours = outcome(Strict, found, max_bytes, backup_count, namer, steps)
    theirs = outcome(Cpython, found, max_bytes, backup_count, namer, steps)

    assert ours == theirs


@settings(max_examples=60 if os.name != "nt" else 15)
@given(
    texts=st.lists(TEXT, max_size=60),
    max_bytes=st.integers(1, 200),
    cut=st.lists(st.integers(0, 60), max_size=4),
)
def test_batches_give_the_same_files(texts: list[str], max_bytes: int, cut: list[int]) -> None:
    with tempfile.TemporaryDirectory() as single, tempfile.TemporaryDirectory() as batch:
        theirs = Cpython(os.path.join(single, "app.log"), maxBytes=max_bytes, backupCount=5, delay=False)
        for text in texts:
            theirs.handle(a_record("%s", text))
        theirs.close()

        ours = Strict(os.path.join(batch, "app.log"), maxBytes=max_bytes, backupCount=5, delay=False)
        bounds = sorted({0, len(texts), *(min(each, len(texts)) for each in cut)})
        for start, end in zip(bounds, bounds[1:]):
            ours.emit_batch([a_record("%s", text) for text in texts[start:end]])
        ours.close()

        assert contents(Path(batch)) == contents(Path(single))
