"""Figures about the queue: right, from a thread that ends, and never a danger to logging."""

from __future__ import annotations

import gc
import importlib
import logging
import queue
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest

from concurrent_log_handler.patterns import (
    BatchingQueueListener,
    MonitoredQueueHandler,
    RecordQueue,
    RobustQueueListener,
)
from patterns_support import SECONDS, Keep, a_record, chain, run_program


class Reports:
    """A callback that lets a test wait for the next report."""

    def __init__(self) -> None:
        self.seen: queue.Queue = queue.Queue()

    def __call__(self, figures) -> None:
        self.seen.put(figures)

    def next(self):
        return self.seen.get(timeout=SECONDS)


def monitors() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "log queue monitor"]


def wait_for_no_monitor() -> None:
    last = time.monotonic() + SECONDS
    while monitors():
        assert time.monotonic() < last
        threading.Event().wait(0.005)


def test_callback_gets_the_figures() -> None:
    """Depth, limit, maximum, total, dropped, and whether it is nearly full."""
    reports = Reports()
    handler = MonitoredQueueHandler(
        RecordQueue(10), interval=0.01, threshold=0.5, callback=reports, monitor=False
    )
    for _ in range(12):
        handler.handle(a_record())
    handler.start_monitoring()
    handler.start_monitoring()
    assert len(monitors()) == 1

    figures = reports.next()
    handler.close()

    assert (figures.depth, figures.capacity, figures.max_depth_seen) == (10, 10, 10)
    assert (figures.total_messages, figures.dropped_count, figures.above_threshold) == (12, 2, True)
    assert (handler.max_depth_seen, handler.total_messages) == (10, 12)
    assert not monitors()


@pytest.mark.parametrize("limit", [0, -1])
def test_queue_without_a_limit_is_never_nearly_full(limit: int) -> None:
    """An unknown limit is no limit."""
    reports = Reports()
    handler = MonitoredQueueHandler(queue.Queue(limit), interval=0.01, callback=reports)
    for _ in range(100):
        handler.handle(a_record())

    figures = reports.next()
    handler.close()

    assert figures.capacity == 0
    assert not figures.above_threshold


def test_queue_that_cannot_tell_its_depth_does_not_end_the_monitor() -> None:
    """`multiprocessing.Queue.qsize` does not exist everywhere."""

    class Blind(queue.SimpleQueue):
        def qsize(self) -> int:
            raise NotImplementedError

    reports = Reports()
    handler = MonitoredQueueHandler(Blind(), interval=0.01, callback=reports)
    handler.handle(a_record())

    assert [reports.next().depth for _ in range(3)] == [None] * 3
    handler.close()


def test_raising_callback_is_reported_and_called_again(capfd: pytest.CaptureFixture[str]) -> None:
    """statsd may be away for a while."""
    called = queue.Queue()

    def callback(figures) -> None:
        called.put(figures)
        raise ConnectionError("statsd is away")

    handler = MonitoredQueueHandler(RecordQueue(10), interval=0.01, callback=callback)
    for _ in range(2):
        called.get(timeout=SECONDS)
    handler.close()

    assert "statsd is away" in capfd.readouterr().err


def test_without_a_callback_a_warning_goes_to_the_log() -> None:
    """Through `logging`, not `print`."""
    keep = Keep()
    logging.getLogger("concurrent_log_handler.patterns").addHandler(keep)
    handler = MonitoredQueueHandler(RecordQueue(10), interval=0.01)
    for _ in range(9):
        handler.handle(a_record())
    last = time.monotonic() + SECONDS
    while not keep.records:
        assert time.monotonic() < last
        threading.Event().wait(0.005)
    handler.close()

    assert keep.texts[0] == "log queue holds 9 of 10 records"
    assert keep.records[0].levelno == logging.WARNING


def test_monitor_does_not_keep_a_forgotten_handler_alive() -> None:
    """Nor does it outlive it by an interval."""
    handler = MonitoredQueueHandler(RecordQueue(10), interval=3600)
    assert monitors()
    gone = weakref.ref(handler)

    del handler
    gc.collect()

    assert gone() is None
    wait_for_no_monitor()


@pytest.mark.parametrize("interval", [0, -1, float("nan")])
def test_bad_interval_is_a_clear_error(interval: float) -> None:
    """0 would spin."""
    with pytest.raises(ValueError, match="interval must be more than 0 seconds, got"):
        MonitoredQueueHandler(RecordQueue(1), interval=interval)


def test_bad_threshold_is_named_by_its_error() -> None:
    """Who gives both has to know which of them was wrong."""
    with pytest.raises(ValueError, match="threshold must be from 0 to 1, got 80"):
        MonitoredQueueHandler(RecordQueue(1), interval=1, threshold=80)
    with pytest.raises(TypeError, match="threshold must be from 0 to 1, got '80 %'"):
        MonitoredQueueHandler(RecordQueue(1), threshold="80 %")


@pytest.mark.parametrize("known", [MonitoredQueueHandler, RobustQueueListener])
def test_what_cannot_be_called_is_refused_at_once(known) -> None:
    """Else its error comes once per interval on a stderr that nobody reads, or for each record that failed."""
    name = "callback" if known is MonitoredQueueHandler else "error_handler"
    records = RecordQueue(1)
    with pytest.raises(TypeError, match=f"{name} must be a callable or a dotted name of one, got 80"):
        known(records, **{name: 80})
    assert records.reader is None
    with pytest.raises(ValueError, match=f"{name} 'no.such.module' cannot be resolved"):
        known(RecordQueue(1), **{name: "no.such.module"})
    assert not monitors()


def test_callback_may_be_a_dotted_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dictConfig in a file has no other way to name one."""
    (tmp_path / "statsd_of_ours.py").write_text("import queue\nseen = queue.Queue()\n")
    monkeypatch.syspath_prepend(tmp_path)
    handler = MonitoredQueueHandler(RecordQueue(7), interval=0.01, callback="statsd_of_ours.seen.put")

    figures = importlib.import_module("statsd_of_ours").seen.get(timeout=SECONDS)
    handler.close()

    assert figures.capacity == 7


def test_records_pass_while_it_monitors() -> None:
    """It is a queue handler first."""
    records = RecordQueue(1000)
    keep = Keep()
    handler = MonitoredQueueHandler(records)
    with BatchingQueueListener(records, keep):
        for number in range(300):
            handler.handle(a_record(str(number)))
    handler.close()

    assert len(keep.records) == handler.total_messages == 300


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_forked_child_monitors_too(tmp_path: Path) -> None:
    """The thread is gone after the fork and comes back with the child's first record."""
    run_program(
        """
        import logging, os, sys, threading
        from concurrent_log_handler import ConcurrentRotatingFileHandler
        from concurrent_log_handler.patterns import *
        reported = threading.Event()
        records = RecordQueue(100)
        handler = MonitoredQueueHandler(records, interval=0.01, callback=lambda figures: reported.set())
        log = logging.getLogger("app")
        log.addHandler(handler)
        BatchingQueueListener(records, ConcurrentRotatingFileHandler("app.log")).start()
        assert reported.wait(20)
        child = os.fork()
        if child == 0:
            reported.clear()
            log.warning("from the child")
            assert reported.wait(20)
            sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0
        """,
        tmp_path,
    )

    assert chain(tmp_path) == "from the child\n"
