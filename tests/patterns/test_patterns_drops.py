"""Records that found no room: each is written by somebody or counted, and the figure comes to light."""

from __future__ import annotations

import logging
import multiprocessing
import queue
import re
import sys
from pathlib import Path

import pytest

from concurrent_log_handler import ConcurrentRotatingFileHandler
from concurrent_log_handler.patterns import (
    BatchingQueueListener,
    GracefulQueueHandler,
    MonitoredQueueHandler,
    RecordQueue,
)
from patterns_support import SECONDS, Broken, Gate, Keep, a_record, run_program


def drop(handler: GracefulQueueHandler, listener: BatchingQueueListener, count: int) -> None:
    """Have *count* records dropped; the queue has room for one."""
    for number in range(count + 1):
        record = a_record(f"number {number}")
        record.request_id = "abc"
        handler.handle(record)
    listener.stop(SECONDS)
    assert handler.dropped_count == count


@pytest.mark.parametrize("style", ["%", "{"])
def test_report_where_the_format_wants_a_field_of_its_own(
    tmp_path: Path, style: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The filter that adds it sits on the queue handler, which the report does not pass."""
    records = RecordQueue(1)
    file = ConcurrentRotatingFileHandler(tmp_path / "app.log")
    fmt = "%(request_id)s %(message)s" if style == "%" else "{request_id} {message}"
    file.setFormatter(logging.Formatter(fmt, style=style))
    drop(GracefulQueueHandler(records), BatchingQueueListener(records, file), 4)

    assert (tmp_path / "app.log").read_text().splitlines() == [
        "abc number 0",
        "abc 4 log records dropped, 4 in all: the queue of 1 was full",
    ]
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("refusal", ["level", "filter"])
def test_report_that_no_handler_takes_goes_to_stderr(refusal: str, capfd: pytest.CaptureFixture[str]) -> None:
    records = RecordQueue(1)
    keep = Keep()
    if refusal == "level":
        keep.setLevel(logging.ERROR)
    else:
        keep.addFilter(logging.Filter("shop"))
    drop(GracefulQueueHandler(records), BatchingQueueListener(records, keep), 4)

    assert keep.texts == []
    told = "concurrent_log_handler: 4 log records dropped, 4 in all: the queue of 1 was full\n"
    assert capfd.readouterr().err == told


CHILDREN = """
import logging, multiprocessing, sys
from concurrent_log_handler import ConcurrentRotatingFileHandler
from concurrent_log_handler.patterns import BatchingQueueListener, GracefulQueueHandler

def child(records, dropped, together):
    handler = GracefulQueueHandler(records)
    together.wait(20)  # their last wait is short, and a start may take seconds
    for number in range(300):
        handler.handle(logging.LogRecord("child", 20, "f", 1, f"number {number}", None, None))
    dropped.put(handler.dropped_count)

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    records, dropped, together = context.Queue(10), context.Queue(), context.Barrier(2)
    listener = BatchingQueueListener(records, ConcurrentRotatingFileHandler("app.log"))
    children = [context.Process(target=child, args=(records, dropped, together)) for _ in range(2)]
    for each in children:
        each.start()
    counts = [dropped.get(timeout=100) for _ in children]
    listener.start()  # only now: the children's queue is full, and all are at their end
    for each in children:
        each.join(20)
        assert each.exitcode == 0
    assert listener.stop() == 0
    print(sum(counts))
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_tell_at_their_end_what_they_dropped(tmp_path: Path, method: str) -> None:
    """They end within a second of their first drop, and nobody else knows the figure."""
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"there is no {method} here")
    dropped = int(run_program(CHILDREN, tmp_path, method).stdout)

    text = (tmp_path / "app.log").read_text()
    assert dropped > 500
    assert sum(map(int, re.findall(r"^(\d+) log records dropped", text, re.MULTILINE))) == dropped
    assert text.count("number") + dropped == 600


def test_fallback_that_reports_its_error_counts_as_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    """Handlers swallow the errors of the disk; a record that was not written is not rescued."""
    handler = GracefulQueueHandler(RecordQueue(1), Broken())
    for number in range(6):
        handler.handle(a_record(f"number {number}", logging.ERROR))

    assert (handler.dropped_count, handler.rescued_count) == (5, 0)
    assert capsys.readouterr().err.count("OSError: [Errno 28] No space left on device") == 5


def test_monitors_warning_finds_room_in_a_full_queue() -> None:
    """It is about that queue, and goes through it where the root logger has no other handler."""
    records, gate = RecordQueue(5), Gate()
    handler = MonitoredQueueHandler(records, monitor=False)
    listener = BatchingQueueListener(records, gate)
    listener.start()
    logger = logging.getLogger("concurrent_log_handler.patterns")
    logger.addHandler(handler)
    handler.handle(a_record("first"))
    assert gate.entered.wait(SECONDS)
    for number in range(5):
        handler.handle(a_record(str(number)))
    handler.callback(handler.figures())
    gate.gate.set()
    listener.stop(SECONDS)

    assert gate.texts[-1] == "log queue holds 5 of 5 records"
    assert handler.dropped_count == 0


JOIN = """
import logging, multiprocessing, sys, threading
from concurrent_log_handler.patterns import BatchingQueueListener, GracefulQueueHandler

if __name__ == "__main__":
    if sys.argv[1] == "manager":
        manager = multiprocessing.Manager()
        records = manager.Queue()
    else:
        records = multiprocessing.JoinableQueue()
    written = []
    class Keep(logging.Handler):
        def emit(self, record):
            written.append(record.getMessage())
    handler, listener = GracefulQueueHandler(records), BatchingQueueListener(records, Keep())
    for start in range(2):
        listener.start()
        for number in range(50):
            handler.handle(logging.LogRecord("n", 20, "f", 1, "x", None, None))
        if not start:
            listener.stop()
            listener.start()
        joining = threading.Thread(target=records.join, daemon=True)
        joining.start()
        joining.join(10)
        assert not joining.is_alive(), "join() hangs"
        assert len(written) == 50 * (start + 1)
        listener.stop()
"""


@pytest.mark.parametrize("kind", ["joinable", "manager"])
def test_join_of_a_queue_between_processes_returns(tmp_path: Path, kind: str) -> None:
    """As with the standard library's listener, also after a stop, which puts something of its own in."""
    run_program(JOIN, tmp_path, kind)


def test_formatter_of_the_queue_handler_makes_the_message() -> None:
    """As in the standard library, whose queue handler formats before it puts a record in."""
    records, keep = queue.Queue(10), Keep()
    handler = GracefulQueueHandler(records)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    with BatchingQueueListener(records, keep):
        handler.handle(a_record("number %d", logging.INFO, 1))
        try:
            raise ValueError("no")
        except ValueError:
            record = a_record("failed", logging.ERROR)
            record.exc_info = sys.exc_info()
            handler.handle(record)

    assert keep.texts[0] == "INFO number 1"
    assert keep.texts[1].startswith("ERROR failed\nTraceback")
    assert keep.texts[1].endswith("ValueError: no")
    assert [each.exc_info or each.exc_text for each in keep.records] == [None, None]


def test_counts_may_be_set() -> None:
    """Subclasses add to them, and monitoring sets them back."""
    handler = MonitoredQueueHandler(RecordQueue(1), monitor=False)
    for _ in range(3):
        handler.handle(a_record())
    handler.dropped_count += 1
    assert handler.dropped_count == 3
    handler.dropped_count = handler.total_messages = 0
    handler.handle(a_record())
    assert (handler.dropped_count, handler.total_messages) == (1, 1)


def test_report_passes_each_filter_once(tmp_path: Path) -> None:
    """One that drops what it has seen before must not drop it at its first appearance."""
    seen: set[str] = set()

    def new(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        known = message in seen
        seen.add(message)
        return not known

    records, keep = RecordQueue(1), Keep()
    keep.addFilter(new)
    file = ConcurrentRotatingFileHandler(tmp_path / "app.log")
    drop(GracefulQueueHandler(records), BatchingQueueListener(records, keep), 3)
    file.addFilter(new)
    seen.clear()
    records = RecordQueue(1)
    drop(GracefulQueueHandler(records), BatchingQueueListener(records, file), 3)

    told = "3 log records dropped, 3 in all: the queue of 1 was full"
    assert keep.texts == ["number 0", told]
    assert (tmp_path / "app.log").read_text().splitlines() == ["number 0", told]


@pytest.mark.skipif(sys.platform == "win32", reason="needs flock")
def test_fallback_that_writes_and_reports_what_came_after_has_rescued(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The lock could not be had: that is reported, and the record is in the file."""
    import fcntl

    fallback = ConcurrentRotatingFileHandler(tmp_path / "app.log", lock_timeout=0.1)
    handler = GracefulQueueHandler(RecordQueue(1), fallback)
    with open(fallback.lockFilename, "w") as sidecar:
        fcntl.flock(sidecar, fcntl.LOCK_EX)
        for number in range(3):
            handler.handle(a_record(f"number {number}", logging.ERROR))

    assert (handler.dropped_count, handler.rescued_count) == (0, 2)
    assert (tmp_path / "app.log").read_text().splitlines() == ["number 1", "number 2"]
    assert "LockTimeoutError" in capsys.readouterr().err


def test_owing_to_a_queue_that_is_closed_costs_the_other_listeners_nothing(tmp_path: Path) -> None:
    """At the end of a child of Celery's, say."""
    run_program(
        """
        import logging, multiprocessing, pathlib
        from concurrent_log_handler import ConcurrentRotatingFileHandler
        from concurrent_log_handler.patterns import *
        from concurrent_log_handler.patterns import _exit
        closed = multiprocessing.Queue(1)
        handler = GracefulQueueHandler(closed)
        for number in range(3):
            handler.handle(logging.LogRecord("n", 20, "f", 1, "dropped", None, None))
        assert handler.dropped_count == 2
        closed.close()
        setup_non_blocking_logging("app.log")
        logging.info("must be written")
        _exit.finish_all()
        assert "must be written" in pathlib.Path("app.log").read_text()
        """,
        tmp_path,
    )
