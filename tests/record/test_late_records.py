"""Records on the rarest ways: late for a rotation, from inside a rotation, without a lock, through filters in a batch.

The moments between two steps are made by replacing a method for one call.
"""

from __future__ import annotations

import errno
import gzip
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from concurrent_log_handler import ConcurrentRotatingFileHandler
from concurrent_log_handler._backups._gzip import has_read
from concurrent_log_handler._record import _handler
from concurrent_log_handler.patterns import RecordQueue, managed_listener
from handler_support import Recording, Strict, a_record, contents, on_wine, write


@pytest.fixture
def late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], Strict]:
    """A handler whose next append is late: the file at the path is gone before it is done."""

    def handler_with(afterwards: Callable[[], object]) -> Strict:
        handler = Strict(tmp_path / "app.log", maxBytes=1000, backupCount=3, use_gzip=True)
        write(handler, "one")
        append = handler._live.append

        def slow(data: bytes, size: int) -> None:
            monkeypatch.setattr(handler._live, "append", append)
            append(data, size)
            afterwards()

        monkeypatch.setattr(_handler, "LATE", -1.0)
        monkeypatch.setattr(handler._live, "append", slow)
        return handler

    return handler_with


@pytest.mark.skipif(on_wine, reason="Wine does not tell of a file that is deleted")
@pytest.mark.parametrize("batch", [False, True], ids=["record", "batch"])
def test_late_record_in_a_file_that_was_removed_is_written_again(
    batch: bool, tmp_path: Path, late: Callable[[Callable[[], object]], Strict]
) -> None:
    """Somebody else rotated and compressed without it: the file that took it has no name any more."""

    def compressed_before() -> None:
        (tmp_path / "app.log.1.gz").write_bytes(gzip.compress(b"one\n"))
        os.unlink(tmp_path / "app.log")

    handler = late(compressed_before)
    if batch:
        handler.emit_batch([a_record("two"), a_record("three")])
    else:
        write(handler, "two")
    handler.close()

    assert contents(tmp_path) == {
        "app.log": "two\nthree\n" if batch else "two\n",
        "app.log.1.gz": "one\n",
    }


@pytest.mark.skipif(on_wine, reason="Wine does not tell of a file that is deleted")
def test_late_record_that_the_compressor_has_read_is_not_doubled(
    tmp_path: Path, late: Callable[[Callable[[], object]], Strict]
) -> None:
    """The same, but the compressor came after the record."""

    def compressed_after() -> None:
        (tmp_path / "app.log.1.gz").write_bytes(gzip.compress(b"one\ntwo\n"))
        os.unlink(tmp_path / "app.log")

    handler = late(compressed_after)
    write(handler, "two", "three")
    handler.close()

    assert contents(tmp_path) == {"app.log": "three\n", "app.log.1.gz": "one\ntwo\n"}


@pytest.mark.parametrize(
    ("packed", "expected"),
    [
        (gzip.compress(b"one\ntwo\n"), True),
        (gzip.compress(b"one\n") + gzip.compress(b"two\n"), True),
        (gzip.compress(b"one\n"), False),
        (gzip.compress(b"two\n"), False),
        (gzip.compress(b"one\ntwo\n")[:-9], False),
        (b"no gzip at all", False),
        (gzip.compress(b""), False),
    ],
    ids=["whole", "two members", "shorter", "another file", "cut off", "no gzip", "empty"],
)
def test_only_a_whole_gz_of_this_file_counts_as_read(packed: bytes, expected: bool, tmp_path: Path) -> None:
    """In doubt, a record is written twice rather than not at all."""
    (tmp_path / "app.log.1.gz").write_bytes(packed)
    (tmp_path / "app.log").write_bytes(b"one\ntwo\n")
    missing = str(tmp_path / "app.log.2.gz")

    with (tmp_path / "app.log").open("rb") as file:
        assert has_read([missing, str(tmp_path / "app.log.1.gz")], file.fileno(), b"two\n", 4) is expected


def test_batch_from_inside_a_rotation(tmp_path: Path) -> None:
    """A namer that logs a batch: the process has the lock, and the outer step goes on."""
    handler = Strict(tmp_path / "app.log", maxBytes=10, backupCount=5)

    def namer(name: str) -> str:
        if name.endswith(".1") and not (tmp_path / "app.log.1").exists():
            handler.emit_batch([a_record("in"), a_record("side")])
        return name

    handler.namer = namer
    write(handler, "first", "second")
    handler.close()

    text = "".join(contents(tmp_path).values())
    assert sorted(set(text.split())) == ["first", "in", "second", "side"]
    assert text.count("first") == text.count("second") == 1


@pytest.mark.parametrize("batch", [False, True], ids=["record", "batch"])
def test_lock_file_that_is_replaced_again_and_again_costs_no_record(
    batch: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a hundred tries it gives up, appends without the lock and says so once."""
    handler = Recording(tmp_path / "app.log")
    monkeypatch.setattr(handler._lock, "_in_place", lambda: False)

    if batch:
        handler.emit_batch([a_record("one"), a_record("two")])
    else:
        write(handler, "one", "two")
    handler.close()

    assert (tmp_path / "app.log").read_text() == "one\ntwo\n"
    ((_, error),) = handler.failures
    assert isinstance(error, OSError)
    assert error.errno == errno.ESTALE


class Choosy(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        if record.getMessage() == "bad":
            msg = "a filter that fails"
            raise RuntimeError(msg)
        return record.getMessage() != "secret"


def test_filters_hold_for_each_record_of_a_batch(tmp_path: Path) -> None:
    """One record that a filter refuses, or fails on, leaves its neighbours alone."""
    handler = Recording(tmp_path / "app.log")
    handler.addFilter(Choosy())
    queue = RecordQueue(100)

    for text in ("one", "secret", "bad", "two"):
        queue.put(a_record(text))
    with managed_listener(queue, handler):
        pass
    handler.close()

    assert (tmp_path / "app.log").read_text() == "one\ntwo\n"
    assert [str(error) for _, error in handler.failures] == ["a filter that fails"]


def test_batch_that_cannot_be_had_under_the_lock_is_taken_apart(tmp_path: Path) -> None:
    """A handler without `emit_batch` behind the queue gets each record by itself."""
    written: list[str] = []

    class Plain(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            written.append(record.getMessage())

    queue = RecordQueue(100)
    for number in range(10):
        queue.put(a_record(str(number)))
    with managed_listener(queue, Plain(), ConcurrentRotatingFileHandler("app.log")):
        pass

    assert written == [str(number) for number in range(10)]
    assert Path("app.log").read_text().split() == written
