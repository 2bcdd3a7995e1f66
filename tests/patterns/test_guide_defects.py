"""What goes wrong with the well-known sketches of non-blocking logging, one test for each.

The sketches combine `logging.handlers.QueueHandler` and `QueueListener` by hand.  Each docstring says
what they do; each test fails on them.
"""

from __future__ import annotations

import asyncio
import gc
import io
import logging
import logging.config
import logging.handlers
import multiprocessing
import os
import queue
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
import weakref
from pathlib import Path

import pytest

from concurrent_log_handler import ConcurrentRotatingFileHandler
from concurrent_log_handler.patterns import (
    BatchingQueueListener,
    FastQueueHandler,
    GracefulLoggingShutdown,
    GracefulQueueHandler,
    MonitoredQueueHandler,
    NonBlockingFileHandler,
    RecordQueue,
    RobustQueueListener,
    django_logging,
    logging_lifespan,
    managed_listener,
    setup_critical_and_background_logging,
    setup_non_blocking_logging,
)
from patterns_support import SECONDS, Broken, Gate, Keep, a_record, chain, numbers, once, run_program

if sys.platform == "win32":
    pytest.skip("fork and POSIX signals", allow_module_level=True)

SET_UP = """
import logging, logging.handlers, multiprocessing, os, queue, signal, sys, threading, time
from concurrent_log_handler import ConcurrentRotatingFileHandler
from concurrent_log_handler.patterns import *
log = logging.getLogger()
def write(start, count):
    for number in range(start, start + count):
        log.info("number %d", number)
"""


def run(body: str, directory: Path, **options) -> subprocess.CompletedProcess[str]:
    return run_program(SET_UP + textwrap.dedent(body), directory, **options)


# --- fork and processes -------------------------------------------------------------------------------


def test_01_child_of_a_fork_writes_its_records(tmp_path: Path) -> None:
    """The listener's thread is gone after `fork()`: none of 500 records arrives."""
    run(
        """
        setup_non_blocking_logging("app.log")
        if os.fork() == 0:
            write(0, 500)
            sys.exit(0)
        assert os.wait()[1] == 0
        """,
        tmp_path,
    )

    assert numbers(chain(tmp_path)) == once(500)


def test_02_child_of_a_fork_does_not_write_the_parents_records(tmp_path: Path) -> None:
    """It inherits the queue's content; restarting the thread writes that a second time."""
    run(
        """
        listener = BatchingQueueListener(records := RecordQueue(500), ConcurrentRotatingFileHandler("app.log"))
        log.setLevel(logging.INFO)
        log.addHandler(GracefulQueueHandler(records))
        write(0, 50)
        if os.fork() == 0:
            listener.start()
            write(50, 50)
            sys.exit(0)
        assert os.wait()[1] == 0
        listener.start()
        """,
        tmp_path,
    )

    assert numbers(chain(tmp_path)) == once(100)


def test_03_application_that_was_loaded_before_the_fork_logs_in_its_workers(tmp_path: Path) -> None:
    """gunicorn --preload with the Flask block: none of 60 records.  `test_servers.py` has the real one."""
    run(
        """
        import flask
        app = flask.Flask("shop")
        setup_flask_logging(app, "app.log")
        @app.get("/<int:number>")
        def index(number):
            app.logger.info("number %d", number)
            return ""
        for worker in range(3):
            if os.fork() == 0:
                for number in range(20):
                    app.test_client().get(f"/{worker * 20 + number}")
                sys.exit(0)
        for _ in range(3):
            assert os.wait()[1] == 0
        """,
        tmp_path,
        quiet=False,  # Flask's own handler
    )

    assert numbers(chain(tmp_path)) == once(60)


def test_04_forked_multiprocessing_children_flush_at_their_end(tmp_path: Path) -> None:
    """They end by `os._exit`, so `atexit` does not run: 148 of 8,000 records kept."""
    run(
        """
        setup_non_blocking_logging("app.log", queue_size=3000)
        context = multiprocessing.get_context("fork")
        pool = context.Pool(4)
        pool.starmap(write, [(2000 * task, 2000) for task in range(4)], 1)
        pool.close()
        pool.join()
        """,
        tmp_path,
    )

    assert numbers(chain(tmp_path)) == once(8000)


# --- set-up -------------------------------------------------------------------------------------------


def test_05_full_queue_costs_one_line_not_a_traceback_each(capfd: pytest.CaptureFixture[str]) -> None:
    """300 records lost with 300 tracebacks on stderr."""
    records, keep = RecordQueue(10), Gate()
    handler, listener = GracefulQueueHandler(records), BatchingQueueListener(records, keep)
    for number in range(310):
        handler.handle(a_record(str(number)))
    keep.gate.set()
    with listener:
        pass

    assert capfd.readouterr().err == ""
    assert handler.dropped_count == 300
    assert [text for text in keep.texts if "dropped" in text] == [
        "300 log records dropped, 300 in all: the queue of 10 was full"
    ]


def test_06_set_up_twice_writes_once(tmp_path: Path) -> None:
    """Every record stands there twice."""
    for _ in range(2):
        listener = setup_non_blocking_logging("app.log")
    logging.info("number 0")
    listener.stop()

    assert numbers(chain(tmp_path)) == once(1)


def test_07_records_after_stop_are_written(tmp_path: Path) -> None:
    """They vanish in a queue that nobody reads."""
    setup_non_blocking_logging("app.log").stop()
    for number in range(20):
        logging.info("number %d", number)

    assert numbers(chain(tmp_path)) == once(20)


def test_08_formatter_of_the_file_renders_the_exception(tmp_path: Path) -> None:
    """`prepare()` bakes the traceback into the message, so `formatException()` is never asked."""

    class OneLine(logging.Formatter):
        def formatException(self, ei) -> str:
            return "as the file wants it"

    listener = setup_non_blocking_logging("app.log", formatter=OneLine("%(message)s"))
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError:
        logging.exception("failed")
    listener.stop()

    assert chain(tmp_path) == "failed\nas the file wants it\n"


# --- start and stop -----------------------------------------------------------------------------------


def test_09_stop_twice() -> None:
    """AttributeError."""
    listener = BatchingQueueListener(queue.Queue(10), Keep())
    listener.start()

    assert listener.stop() == 0
    assert listener.stop() == 0


def test_10_stopping_needs_no_room_in_the_queue() -> None:
    """`queue.Full` is raised, with nothing written."""
    records, gate = queue.Queue(5), Gate()
    handler, listener = GracefulQueueHandler(records), BatchingQueueListener(records, gate)
    listener.start()
    handler.handle(a_record("first"))
    assert gate.entered.wait(SECONDS)
    for number in range(5):
        handler.handle(a_record(str(number)))
    assert records.full()

    assert listener.stop(0.05) == 6
    gate.gate.set()

    assert listener.stop(SECONDS) == 0
    assert gate.texts == ["first", "0", "1", "2", "3", "4"]


def test_11_managed_listener_shows_the_applications_own_exception() -> None:
    """`queue.Full` from `stop()` hides it."""
    records: queue.Queue = queue.Queue(5)

    def application() -> None:
        with managed_listener(records, Keep()):
            for _ in range(100):
                GracefulQueueHandler(records).handle(a_record())
            raise KeyError("the application's own")

    with pytest.raises(KeyError, match="own") as caught:
        application()
    assert caught.value.__context__ is None


def test_12_start_twice_makes_one_thread() -> None:
    """Two threads, and the process never ends."""
    before = set(threading.enumerate())
    listener = BatchingQueueListener(queue.Queue(5), Keep())
    listener.start()
    listener.start()

    assert len(set(threading.enumerate()) - before) == 1
    listener.stop()
    assert not set(threading.enumerate()) - before


def test_13_second_listener_on_one_queue_is_a_clear_error() -> None:
    """They split the records and hang in `stop()`."""
    records: queue.Queue = queue.Queue(5)
    with managed_listener(records, Keep()), pytest.raises(RuntimeError, match="another listener is running"):
        RobustQueueListener(records, Keep()).start()


# --- graceful degradation -----------------------------------------------------------------------------


def test_14_arguments_that_change_after_the_call_do_not_change_the_record() -> None:
    """`emit` skips `prepare()`."""
    records, keep, basket = RecordQueue(10), Keep(), ["apple"]
    listener = BatchingQueueListener(records, keep)
    GracefulQueueHandler(records).handle(a_record("basket %s", logging.INFO, basket))
    basket.append("pear")
    with listener:
        pass

    assert keep.texts == ["basket ['apple']"]


def test_15_what_cannot_be_pickled_crosses_a_multiprocessing_queue() -> None:
    """Exceptions and locks die in the queue's feeder thread."""
    records, keep = multiprocessing.Queue(), Keep()
    handler = GracefulQueueHandler(records)
    with managed_listener(records, keep):
        try:
            raise OSError(threading.Lock())
        except OSError:
            record = a_record("lock %s", logging.ERROR, threading.Lock())
            record.exc_info = sys.exc_info()
            handler.handle(record)

    assert "OSError" in keep.records[0].exc_text
    assert keep.texts[0].startswith("lock <unlocked")


def test_16_fallback_respects_level_filters_and_lock() -> None:
    """`fallback.emit()` goes round them."""
    fallback = Keep()
    fallback.setLevel(logging.CRITICAL)
    fallback.addFilter(lambda record: "secret" not in record.getMessage())
    held = []
    fallback.acquire = lambda: held.append(1)
    fallback.release = lambda: None
    fallback.lock = _Noted(held)
    handler = GracefulQueueHandler(RecordQueue(1), fallback)
    handler.handle(a_record("fills it"))
    for text, level in (("error", 40), ("secret", 50), ("critical", 50)):
        handler.handle(a_record(text, level))

    assert fallback.texts == ["critical"]
    assert held


class _Noted:
    """A lock that notes its use; which way a handler takes it depends on Python's version."""

    def __init__(self, held: list[int]) -> None:
        self.held = held

    def acquire(self) -> None:
        self.held.append(1)

    def release(self) -> None: ...

    def __enter__(self) -> None:
        self.held.append(1)

    def __exit__(self, *_) -> None: ...


def test_17_dropped_records_are_reported_though_the_queue_is_full() -> None:
    """The warning needs room in the full queue: none seen for 3,000 lost.  Rescued ones count as dropped."""
    records, keep = RecordQueue(10), Keep()
    handler, listener = GracefulQueueHandler(records, Keep()), BatchingQueueListener(records, keep)
    for _ in range(3010):
        handler.handle(a_record())
    for _ in range(7):
        handler.handle(a_record("rescued", logging.ERROR))
    with listener:
        pass

    assert (handler.dropped_count, handler.rescued_count) == (3000, 7)
    assert any("3000 log records dropped" in text for text in keep.texts)


def test_18_critical_records_without_a_fallback_are_counted_and_the_set_ups_give_one(tmp_path: Path) -> None:
    """50 of 50 lost in silence."""
    handler = GracefulQueueHandler(RecordQueue(1))
    for _ in range(51):
        handler.handle(a_record("critical", logging.CRITICAL))
    assert handler.dropped_count == 50

    listener = setup_non_blocking_logging("app.log", queue_size=1)
    for number in range(50):
        logging.critical("number %d", number)
    assert listener.flush(SECONDS) == 0
    assert numbers(chain(tmp_path)) == once(50)


def test_19_any_error_of_the_queue_stays_out_of_the_application(capfd: pytest.CaptureFixture[str]) -> None:
    """It crashes the log call."""

    class Broken_(queue.Queue):
        def _put(self, item) -> None:
            raise OSError("broken queue")

    logger = logging.getLogger("defect")
    logger.addHandler(GracefulQueueHandler(Broken_(5)))

    logger.error("hello")

    assert "broken queue" in capfd.readouterr().err


def test_20_errors_do_not_overtake_in_one_file(tmp_path: Path) -> None:
    """With one file for both handlers, an error stands before what led to it."""
    records = RecordQueue(20)
    queued, direct = (ConcurrentRotatingFileHandler("app.log") for _ in range(2))
    handler, listener = GracefulQueueHandler(records, direct), BatchingQueueListener(records, queued)
    for number in range(20):
        handler.handle(a_record(f"number {number}"))
    handler.handle(a_record("number 20", logging.ERROR))
    listener.start()
    listener.flush(SECONDS)
    listener.stop()

    assert list(numbers(chain(tmp_path))) == list(range(21))


# --- criticality and web ------------------------------------------------------------------------------


def test_21_critical_pattern_sets_the_level(tmp_path: Path) -> None:
    """Its own `info` line is dropped by the root logger's WARNING."""
    listener = setup_critical_and_background_logging()
    logging.info("number 0")
    logging.error("number 1")
    listener.stop()

    assert numbers(chain(tmp_path)) == once(1)
    assert numbers(chain(tmp_path, "critical.log")) == once(1, 1)


def test_22_critical_pattern_is_written_at_exit(tmp_path: Path) -> None:
    """It never stops its listener: 217 of 8,000 records kept."""
    run("setup_critical_and_background_logging(overflow='block')\nwrite(0, 8000)", tmp_path)

    assert numbers(chain(tmp_path)) == once(8000)


def test_23_second_lifespan_starts_afresh(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The first queue handler stays on the root; after 10,000 records a traceback each."""

    async def one(number: int) -> None:
        async with logging_lifespan("app.log", queue_size=50)(None):
            logging.info("number %d", number)

    for number in range(2):
        asyncio.run(one(number))
    for _ in range(200):
        logging.info("nobody wants it")

    assert not [each for each in logging.root.handlers if isinstance(each, logging.handlers.QueueHandler)]
    assert numbers(chain(tmp_path)) == once(2)
    assert capfd.readouterr().err == ""


def test_24_lifespan_writes_all_after_an_error(tmp_path: Path) -> None:
    """No `finally` around the yield: 87 of 5,000 written."""

    async def fail() -> None:
        async with logging_lifespan("app.log")(None):
            for number in range(5000):
                logging.info("number %d", number)
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        asyncio.run(fail())

    assert numbers(chain(tmp_path)) == once(5000)


def test_25_django_block_loads_on_every_python_and_writes_after_a_close(tmp_path: Path) -> None:
    """ "No handlers specified for a QueueHandler" on 3.12.1; `dictConfig` closes the file handler."""
    config = django_logging("app.log")
    logging.config.dictConfig(config)
    logging.getLogger("django").info("number 0")
    first = logging.getLogger("django").handlers[0]
    logging.config.dictConfig(config)
    first.handle(a_record("number 1"))
    logging.getLogger("django").info("number 2")
    logging.getLogger("django").handlers[0].listener.stop()

    assert numbers(chain(tmp_path)) == once(3)


# --- production ---------------------------------------------------------------------------------------


def test_26_monitored_handler_can_be_imported_by_itself(tmp_path: Path) -> None:
    """The block lacks `import logging.handlers`."""
    run_program(
        """
        from concurrent_log_handler.patterns import MonitoredQueueHandler
        import queue
        MonitoredQueueHandler(queue.Queue(10)).close()
        """,
        tmp_path,
    )


def test_27_unknown_limit_is_no_limit() -> None:
    """An unbounded queue always warns ("1/0 capacity"); one without `qsize` ends the monitor."""

    class Blind(queue.Queue):
        def _qsize(self) -> int:
            raise NotImplementedError

    unbounded = MonitoredQueueHandler(queue.Queue(), monitor=False)
    unbounded.handle(a_record())
    assert not unbounded.figures().above_threshold

    class Proxy:
        def put_nowait(self, item) -> None: ...
        def qsize(self) -> int:
            raise NotImplementedError

    called = queue.Queue()
    blind = MonitoredQueueHandler(Proxy(), interval=0.01, callback=called.put)
    blind.handle(a_record())
    for _ in range(2):
        assert called.get(timeout=SECONDS).depth is None
    blind.close()


def test_28_monitor_ends_with_its_handler() -> None:
    """Thread and closed handler live for ever."""
    handler = MonitoredQueueHandler(queue.Queue(5), interval=60)
    (monitor,), gone = handler._monitors.values(), weakref.ref(handler)
    thread = monitor._thread
    assert thread is not None
    handler.close()
    thread.join(SECONDS)
    assert not thread.is_alive()

    del handler
    gc.collect()
    assert gone() is None


def test_29_robust_listener_respects_levels_and_prepares() -> None:
    """Its `handle` ignores `respect_handler_level` and skips `prepare()`."""

    class Preparing(RobustQueueListener):
        def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
            record.msg += " prepared"
            return record

    records, errors, everything = RecordQueue(10), Keep(), Keep()
    errors.setLevel(logging.ERROR)
    with Preparing(records, errors, everything):
        FastQueueHandler(records).handle(a_record("info"))
        FastQueueHandler(records).handle(a_record("error", logging.ERROR))

    assert errors.texts == ["error prepared"]
    assert everything.texts == ["info prepared", "error prepared"]


def test_30_robust_listener_sees_errors_of_the_disk() -> None:
    """None of 20: handlers swallow them in `handleError`."""
    records, seen = RecordQueue(50), []
    listener = RobustQueueListener(records, Broken(), error_handler=lambda record, error: seen.append(error))
    for _ in range(20):
        FastQueueHandler(records).handle(a_record())
    with listener:
        pass

    assert listener.error_count == 20
    assert [type(error) for error in seen] == [OSError] * 20


def test_31_raising_error_handler_does_not_end_the_listener() -> None:
    """It kills the thread."""
    records, keep = RecordQueue(50), Keep()

    def error_handler(record, error) -> None:
        raise ValueError("worse")

    listener = RobustQueueListener(records, Broken(swallow=False), keep, error_handler=error_handler)
    with listener:
        for number in range(10):
            FastQueueHandler(records).handle(a_record(str(number)))

    assert len(keep.texts) == listener.error_count == 10


# --- graceful shutdown --------------------------------------------------------------------------------


def signalled(body: str, directory: Path, status: int, ready: str = "ready") -> str:
    """Run *body*, which prints "ready" and waits; send SIGTERM; return stderr."""
    path = directory / "program.py"
    path.write_text(SET_UP + textwrap.dedent(body), encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-W", "ignore:This process:DeprecationWarning", path],
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == f"{ready}\n"
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == status, f"exit {process.returncode}\n{err}"
    return err


# Short sleeps: Python sleeps on if a signal comes between its last look and the system call.
WAIT = """
print("ready", flush=True)
while True:
    time.sleep(0.05)
"""


def test_32_intake_of_child_loggers_ends_with_the_signal(tmp_path: Path) -> None:
    """`root.disabled` does not stop child loggers: the queue never empties and the whole timeout passes."""
    begun = time.monotonic()
    err = signalled(
        """
        listener = setup_non_blocking_logging("app.log", queue_size=1000)
        shutdown = GracefulLoggingShutdown(listener, timeout=25)
        def chatter():
            while True:
                logging.getLogger("a.child").info("still here")
        threading.Thread(target=chatter, daemon=True).start()
        """
        + textwrap.indent(WAIT, " " * 8),
        tmp_path,
        -signal.SIGTERM,
    )

    assert err == ""
    assert time.monotonic() - begun < 15


def test_33_full_queue_in_the_signal_handler_does_no_harm(tmp_path: Path) -> None:
    """`queue.Full` from `stop()`, exit status 1."""
    err = signalled(
        """
        records = queue.Queue(10)
        log.setLevel(logging.INFO)
        log.addHandler(GracefulQueueHandler(records))
        class Hanging(logging.Handler):
            def handle(self, record):
                threading.Event().wait(60)
        listener = BatchingQueueListener(records, Hanging())
        listener.start()
        shutdown = GracefulLoggingShutdown(listener, timeout=0.3)
        write(0, 100)
        assert records.full()
        """
        + textwrap.indent(WAIT, " " * 8),
        tmp_path,
        -signal.SIGTERM,
    )

    # Ten in the queue, and what the listener had taken out.
    assert re.fullmatch(r"log queue not written within 0\.3 s: (1\d|20) records are left\n", err)


def test_34_timeout_of_the_shutdown_is_kept(tmp_path: Path) -> None:
    """1 s asked, 7.2 s taken."""
    begun = time.monotonic()
    err = signalled(
        """
        class Slow(logging.Handler):
            def handle(self, record):
                time.sleep(0.1)
        log.setLevel(logging.INFO)
        listener = setup_non_blocking_logging(handler=Slow())
        shutdown = GracefulLoggingShutdown(listener, timeout=0.3)
        write(0, 300)
        """
        + textwrap.indent(WAIT, " " * 8),
        tmp_path,
        -signal.SIGTERM,
    )

    assert "not written within 0.3 s" in err
    assert time.monotonic() - begun < 10


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["queue.Queue(10)", "RecordQueue(10)"])
def test_35_signal_that_interrupts_the_queue_in_its_own_lock(tmp_path: Path, kind: str) -> None:
    """`qsize()` in the handler waits for the mutex that the interrupted code holds."""
    err = signalled(
        f"""
        records = {kind}
        listener = BatchingQueueListener(records, ConcurrentRotatingFileHandler("app.log"))
        listener.start()
        handler = GracefulQueueHandler(records)
        log.setLevel(logging.INFO)
        log.addHandler(handler)
        shutdown = GracefulLoggingShutdown(listener, timeout=2)
        lock = getattr(records, "mutex", None) or threading.Lock()
        write(0, 3)
        listener.flush()
        with lock:
            print("ready", flush=True)
            while True:
                time.sleep(0.05)
        """,
        tmp_path,
        -signal.SIGTERM,
    )

    # The lock stays taken for good: what matters is that the process ends.
    assert numbers(chain(tmp_path)) == once(3)
    del err


def test_36_signals_at_random_moments_of_a_logging_main_thread(tmp_path: Path) -> None:
    """2 of 13 runs hang."""
    for moment in range(4):
        directory = tmp_path / str(moment)
        directory.mkdir()
        err = signalled(
            f"""
            records = queue.Queue(20_000)
            listener = BatchingQueueListener(records, ConcurrentRotatingFileHandler("app.log"))
            listener.start()
            log.setLevel(logging.INFO)
            log.addHandler(GracefulQueueHandler(records))
            shutdown = GracefulLoggingShutdown(listener, timeout=20)
            begun = time.monotonic()
            print("ready", flush=True)
            while True:
                write(0, 1 + {moment})
                records.qsize()
            """,
            directory,
            -signal.SIGTERM,
        )
        assert err == ""


def test_37_second_signal_ends_the_process_at_once(tmp_path: Path) -> None:
    """It re-enters the handler with a new timeout."""
    begun = time.monotonic()
    run(
        """
        class Hanging(logging.Handler):
            def handle(self, record):
                time.sleep(60)
        listener = setup_non_blocking_logging(handler=Hanging())
        shutdown = GracefulLoggingShutdown(listener, timeout=60)
        write(0, 1)
        def twice():
            os.kill(os.getpid(), signal.SIGTERM)
            while signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
                time.sleep(0.001)
            os.kill(os.getpid(), signal.SIGTERM)
        threading.Thread(target=twice, daemon=True).start()
        while True:
            time.sleep(0.05)
        """,
        tmp_path,
        status=-signal.SIGTERM,
    )

    assert time.monotonic() - begun < 15


def test_38_previous_handler_and_status_of_the_signal_are_kept(tmp_path: Path) -> None:
    """The previous handler is discarded, the status of a SIGTERM is 0, and a thread gets a ValueError."""
    err = signalled(
        """
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(42))
        listener = setup_non_blocking_logging("app.log")
        shutdown = GracefulLoggingShutdown(listener)
        thread = threading.Thread(target=GracefulLoggingShutdown, args=(listener,))
        thread.start()
        thread.join()
        write(0, 100)
        """
        + textwrap.indent(WAIT, " " * 8),
        tmp_path,
        42,
    )
    assert err == ""
    assert numbers(chain(tmp_path)) == once(100)

    (tmp_path / "app.log").unlink()
    signalled(
        'listener = setup_non_blocking_logging("app.log")\nshutdown = GracefulLoggingShutdown(listener)'
        + WAIT,
        tmp_path,
        -signal.SIGTERM,
    )


def test_39_forked_child_drains_at_once(tmp_path: Path) -> None:
    """It waits the whole timeout and writes nothing."""
    begun = time.monotonic()
    run(
        """
        listener = setup_non_blocking_logging("app.log")
        shutdown = GracefulLoggingShutdown(listener, timeout=20)
        child = os.fork()
        if child == 0:
            write(0, 100)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        status = os.waitpid(child, 0)[1]
        assert os.WTERMSIG(status) == signal.SIGTERM, status
        """,
        tmp_path,
    )

    assert time.monotonic() - begun < 10
    assert numbers(chain(tmp_path)) == once(100)


def test_40_no_buffered_output_in_the_signal_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    """`print()` there: "reentrant call inside <_io.BufferedWriter>"."""

    class Trap(io.StringIO):
        def write(self, text: str) -> int:
            raise AssertionError("buffered output in a signal handler")

    hanging = threading.Event()

    class Hanging(logging.Handler):
        def handle(self, record: logging.LogRecord) -> None:
            hanging.wait(SECONDS)

    records, called = RecordQueue(10), []
    listener = BatchingQueueListener(records, Hanging())
    listener.start()
    FastQueueHandler(records).handle(a_record())
    before = signal.signal(signal.SIGTERM, lambda *_: called.append(1))
    shutdown = GracefulLoggingShutdown(listener, timeout=0.05)
    monkeypatch.setattr(sys, "stdout", Trap())
    monkeypatch.setattr(sys, "stderr", Trap())
    try:
        signal.raise_signal(signal.SIGTERM)
    finally:
        monkeypatch.undo()
        hanging.set()
        shutdown.restore()
        signal.signal(signal.SIGTERM, before)
    assert listener.stop(SECONDS) == 0

    assert called == [1]


# --- pitfalls -----------------------------------------------------------------------------------------


def test_41_policy_for_a_full_queue_takes_effect_in_enqueue() -> None:
    """`except queue.Full` around `QueueHandler.emit()` never fires, since `emit` catches everything."""
    seen = []

    class Counting(FastQueueHandler):
        def enqueue(self, record: logging.LogRecord) -> None:
            seen.append("enqueue")
            super().enqueue(record)

        def overflow(self, record: logging.LogRecord) -> None:
            seen.append("overflow")

    handler = Counting(RecordQueue(1))
    for _ in range(2):
        handler.handle(a_record())

    assert seen == ["enqueue", "enqueue", "overflow"]


def test_42_old_queue_module_works_and_warns(tmp_path: Path) -> None:
    """Gone in release 0.9.31: ImportError."""
    logger = logging.getLogger("defect.old")
    logger.setLevel(logging.INFO)
    logger.addHandler(ConcurrentRotatingFileHandler("app.log"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        from concurrent_log_handler.queue import setup_logging_queues, stop_queue_listeners

        setup_logging_queues()
        logger.info("number 0")
        stop_queue_listeners()

    assert any("patterns" in str(one.message) and one.category is DeprecationWarning for one in caught)
    assert numbers(chain(tmp_path)) == once(1)
    assert not isinstance(logger.handlers[0], NonBlockingFileHandler)
    assert os.path.exists("app.log")
