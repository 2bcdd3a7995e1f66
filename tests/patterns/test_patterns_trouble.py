"""Trouble that lasts: a queue or a handler that only fails, Ctrl-C at any moment, frozen clocks, no daemon threads."""

from __future__ import annotations

import logging
import logging.handlers
import queue
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from concurrent_log_handler.patterns import (
    BatchingQueueListener,
    FastQueueHandler,
    GracefulQueueHandler,
    RecordQueue,
    RobustQueueListener,
)
from patterns_support import SECONDS, Broken, Gate, Keep, a_record, chain, numbers, once, run_program


class Refusing(queue.Queue):
    """A queue whose other end is gone for good."""

    def put_nowait(self, item: object) -> None:
        raise ConnectionResetError("the broker is gone")

    def get_nowait(self) -> object:
        raise RuntimeError("nothing can be read")


def test_queue_that_only_fails_is_told_of_once_and_costs_no_processor(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """It made a traceback for each record, and 90 lines a second without any."""
    records, keep = Refusing(10), Keep()
    handler, listener = GracefulQueueHandler(records), BatchingQueueListener(records, keep)
    listener.start()
    used = time.process_time()
    for number in range(500):
        handler.handle(a_record(f"number {number}"))
    time.sleep(0.5)
    used = time.process_time() - used
    listener.stop(1)

    err = capfd.readouterr().err
    assert err.count("ConnectionResetError: the broker is gone") == err.count("Logging error") == 1
    assert handler.dropped_count == 500
    assert [text for text in keep.texts if "nothing can be read" in text] == [
        "1 log records cannot be read: RuntimeError('nothing can be read')"
    ]
    assert used < 0.4


def test_handler_that_only_raises_is_told_of_once_in_a_while(capfd: pytest.CaptureFixture[str]) -> None:
    """And the other handlers get every record."""
    records, keep = RecordQueue(1000), Keep()
    handler = FastQueueHandler(records)
    with BatchingQueueListener(records, Broken(swallow=False), keep):
        for number in range(500):
            handler.handle(a_record(f"number {number}"))

    assert 1 <= capfd.readouterr().err.count("No space left on device") <= 3
    assert len(keep.records) == 500


def test_handle_error_of_a_handlers_own_is_called_for_each_record() -> None:
    """What it does with an error is its business: only our line on stderr has a limit."""

    class Counting(Broken):
        failed = 0

        def handleError(self, record: logging.LogRecord) -> None:
            self.failed += 1

    records, counting = RecordQueue(1000), Counting(swallow=False)
    with BatchingQueueListener(records, counting):
        for number in range(300):
            FastQueueHandler(records).handle(a_record(f"number {number}"))

    assert counting.failed == 300


@pytest.mark.parametrize("robust", [False, True])
def test_record_with_a_level_that_is_none_costs_nobody_else(
    robust: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    """Made from somebody's dictionary; it must not make the thread begin the batch again and again."""
    records, keep = RecordQueue(100), Keep()
    keep.setLevel(logging.INFO)
    listener = (RobustQueueListener if robust else BatchingQueueListener)(records, keep)
    strange = a_record("strange")
    strange.levelno = None  # type: ignore[assignment]
    for record in (a_record("before"), strange, None, a_record("after")):
        records.put_nowait(record)
    listener.start()

    assert listener.stop(SECONDS) == 0
    assert [text for text in keep.texts if text != "strange"] == ["before", "after"]


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.timeout(180)
@pytest.mark.parametrize("make", ["RecordQueue(200_000)", "queue.Queue(200_000)"])
def test_ctrl_c_in_a_main_thread_that_only_logs_ends_it_at_once_by_that_signal(
    tmp_path: Path, make: str
) -> None:
    """Also between the taking of a lock and the block that gives it back, inside the standard library's queue."""
    program = textwrap.dedent(
        f"""
        import logging, queue
        from concurrent_log_handler import ConcurrentRotatingFileHandler
        from concurrent_log_handler.patterns import *
        records = {make}
        listener = BatchingQueueListener(records, ConcurrentRotatingFileHandler("app.log"))
        logging.getLogger().setLevel(logging.INFO)
        logging.getLogger().addHandler(GracefulQueueHandler(records))
        listener.start()
        print("ready", flush=True)
        while True:
            logging.info("r")
        """
    )
    dice = random.Random(7)
    for _ in range(40):
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(dice.uniform(0, 0.03))
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=10)
        finally:
            process.kill()
        assert process.returncode == -signal.SIGINT, err
        (tmp_path / "app.log").unlink(missing_ok=True)  # the first record may not have come


FROZEN = """
    import logging, os, sys, time
    from pathlib import Path
    from concurrent_log_handler.patterns import *
    from freezegun import freeze_time
    real = time.perf_counter
    class Hanging(logging.Handler):
        def emit(self, record):
            time.sleep(20)
    with freeze_time("2026-01-01"):
        begun = real()
        blocked = GracefulQueueHandler(RecordQueue(1), overflow="block", block_timeout=0.2)
        for _ in range(2):
            blocked.handle(logging.makeLogRecord({"msg": "text", "levelno": 20}))
        assert blocked.dropped_count == 1
        records = RecordQueue(10)
        listener = BatchingQueueListener(records, Hanging())
        listener.start()
        FastQueueHandler(records).handle(logging.makeLogRecord({"msg": "text"}))
        assert listener.stop(0.3) == 1
        assert listener.flush(0.1) == 1
        assert real() - begun < 10, real() - begun

        records = RecordQueue(2)
        handler, listener = GracefulQueueHandler(records), BatchingQueueListener(
            records, logging.FileHandler("app.log"))
        for _ in range(5):
            handler.handle(logging.makeLogRecord({"msg": "text", "levelno": 20}))
        listener.start()
        until = real() + 20
        while "3 log records dropped" not in Path("app.log").read_text() and real() < until:
            time.sleep(0.01)
        assert "3 log records dropped" in Path("app.log").read_text()
        listener.stop()
    sys.stderr.flush()
    os._exit(0)  # one handler hangs
"""


def test_every_bound_holds_where_a_test_suite_freezes_time(tmp_path: Path) -> None:
    """`freezegun` replaces `time.monotonic` in every module that has it."""
    pytest.importorskip("freezegun")
    run_program(FROZEN, tmp_path)


SUB_INTERPRETER = """
    import _interpreters
    CODE = '''
    import logging
    from concurrent_log_handler.patterns import *
    keep = []
    class Keep(logging.Handler):
        def emit(self, record):
            keep.append(record.getMessage())
    records = RecordQueue(100)
    handler = MonitoredQueueHandler(records, interval=0.01)
    listener = BatchingQueueListener(records, Keep())
    GracefulLoggingShutdown(listener)
    listener.start()
    for number in range(10):
        handler.handle(logging.makeLogRecord({"msg": f"number {number}", "levelno": 20}))
        assert len(keep) == number + 1, keep
    assert listener.stop() == 0
    handler.handle(logging.makeLogRecord({"msg": "after", "levelno": 20}))
    assert keep[-1] == "after"
    handler.close()
    '''
    interpreter = _interpreters.create(_interpreters.new_config("legacy", allow_daemon_threads=False))
    failed = _interpreters.exec(interpreter, CODE)
    assert failed is None, failed
    _interpreters.destroy(interpreter)
"""


@pytest.mark.skipif(
    sys.version_info < (3, 13), reason="from 3.13 on, a sub-interpreter has no daemon threads"
)
def test_sub_interpreter_without_daemon_threads_writes_in_the_thread_that_logs(tmp_path: Path) -> None:
    """mod_wsgi's home; nothing raises, nothing is printed."""
    run_program(SUB_INTERPRETER, tmp_path)


def test_record_is_prepared_as_by_the_standard_librarys_queue_handler() -> None:
    """Handlers of others, behind the listener, read `message` and expect no arguments."""
    records = RecordQueue(10)
    ours, theirs = FastQueueHandler(records), logging.handlers.QueueHandler(records)
    texts = [
        ("plain", None),
        ("%s of %s", (1, 2)),
        ("%(a)s", ({"a": 1},)),
        (ValueError("value"), None),
        (7, None),
    ]
    for text, arguments in texts:
        record = logging.LogRecord("test", logging.INFO, "test.py", 1, text, arguments, None)
        mine, their = ours.prepare(record), theirs.prepare(record)
        assert (mine.message, mine.args) == (their.message, their.args)
        assert mine.getMessage() == their.getMessage()
        assert record.msg is text


@pytest.mark.parametrize("crosses", [False, True])
def test_event_of_structlog_keeps_the_exception_of_its_call(crosses: bool) -> None:
    """`exc_info=True` means the exception of the moment; in the listener's thread there is none."""
    import multiprocessing

    records = multiprocessing.Queue(10) if crosses else RecordQueue(10)
    handler = FastQueueHandler(records)
    mine = ValueError("mine")
    events: list[dict[str, object]] = [
        {"event": "none", "exc_info": True},
        {"event": "boom", "exc_info": True},
        {"event": "given", "exc_info": mine},
        {"event": "tuple", "exc_info": (ValueError, mine, None)},
        {"event": "plain"},
    ]
    frozen = [handler.prepare(a_record(events[0])).msg]
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError:
        frozen += [handler.prepare(a_record(event)).msg for event in events[1:]]

    assert frozen[0] == events[0]
    assert frozen[4] == events[4]
    wanted = [ZeroDivisionError, ValueError, ValueError]
    for event, kind in zip(frozen[1:4], wanted):
        if crosses:
            assert "exc_info" not in event
            assert kind.__name__ in event["exception"]
        else:
            assert event["exc_info"][0] is kind
    assert events[1]["exc_info"] is True
    if crosses:
        records.close()
        records.join_thread()


@pytest.mark.slow
def test_application_does_not_wait_for_a_stop_that_waits_for_a_handler_that_hangs() -> None:
    """Another thread stops the listener; those who log leave their records to the thread that hangs."""
    records, gate = RecordQueue(100), Gate()
    handler, listener = FastQueueHandler(records), BatchingQueueListener(records, gate)
    listener.start()
    handler.handle(a_record("number 0"))
    assert gate.entered.wait(SECONDS)
    stopping = threading.Thread(target=listener.stop, args=(SECONDS,))
    stopping.start()
    while not listener.stopped:
        time.sleep(0.001)
    begun = time.monotonic()
    for number in range(1, 10):
        handler.handle(a_record(f"number {number}"))
    assert time.monotonic() - begun < 5
    gate.gate.set()
    stopping.join(SECONDS)

    assert not stopping.is_alive()
    assert gate.texts == [f"number {number}" for number in range(10)]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_queue_that_cannot_begin_anew_in_a_child_costs_the_others_nothing(tmp_path: Path) -> None:
    """A fork hook that raises would leave every later queue and listener as the parent had it."""
    run_program(
        """
        import logging, os, queue, sys
        from concurrent_log_handler.patterns import *
        class Worse(queue.Queue):
            def get_nowait(self):
                raise ZeroDivisionError
        class Keep(logging.Handler):
            def emit(self, record): ...
        worse = Worse(10)
        first = BatchingQueueListener(worse, Keep())
        listener = setup_non_blocking_logging("app.log")
        for number in range(10):
            logging.info("number %d", number)
        if os.fork() == 0:
            logging.info("number 10")
            sys.exit(0)
        assert os.wait()[1] == 0
        """,
        tmp_path,
    )

    assert numbers(chain(tmp_path)) == once(11)


def test_listener_is_usable_after_its_queue_was_closed_and_others_log_on(tmp_path: Path) -> None:
    """One broken set-up beside a good one: the end of the process stops both."""
    run_program(
        """
        import logging, multiprocessing
        from concurrent_log_handler import ConcurrentRotatingFileHandler
        from concurrent_log_handler.patterns import *
        closed = multiprocessing.Queue(10)
        BatchingQueueListener(closed, logging.NullHandler()).start()
        closed.close()
        setup_non_blocking_logging("app.log")
        logging.info("number 0")
        """,
        tmp_path,
    )

    assert numbers(chain(tmp_path)) == once(1)


@pytest.mark.parametrize("error", ["KeyboardInterrupt", "SystemExit", "TimeoutError"])
@pytest.mark.parametrize("make", ["queue.Queue(9)", "multiprocessing.Queue(9)"])
def test_signal_handler_that_raises_as_the_callers_queue_takes_its_lock_leaves_it_free(
    tmp_path: Path, make: str, error: str
) -> None:
    """A worker's SIGTERM handler that calls sys.exit(), or a job's time limit: logging, and the end, hung from then."""
    run_program(
        f"""
        import logging, multiprocessing, queue, threading
        from concurrent_log_handler import ConcurrentRotatingFileHandler
        from concurrent_log_handler.patterns import BatchingQueueListener, FastQueueHandler
        logging.raiseExceptions = False
        armed = []
        class Interrupted(threading.Condition):
            def __enter__(self):
                super().__enter__()
                if armed:
                    raise armed.pop()  # Python runs a signal handler right here
        records = {make}
        for name in {{"not_full", "_notempty"}} & vars(records).keys():
            setattr(records, name, Interrupted(vars(records)[name]._lock))
        handler = FastQueueHandler(records)
        listener = BatchingQueueListener(records, ConcurrentRotatingFileHandler("app.log"))
        listener.start()
        handler.handle(logging.makeLogRecord({{"msg": "number 0"}}))
        armed.append({error}())
        try:
            handler.handle(logging.makeLogRecord({{"msg": "cut"}}))
        except BaseException:
            pass
        assert not armed
        handler.handle(logging.makeLogRecord({{"msg": "number 1"}}))
        listener.stop(20)
        """,
        tmp_path,
    )
    assert numbers(chain(tmp_path)) == once(2)


def test_record_beside_the_callers_queue_is_put_in_once_though_threads_meet_there() -> None:
    """What a signal handler left there was put in by each thread that came, and records behind it were dropped."""

    class Met:
        """A queue of another process: a signal handler, and a thread, log while a record is put in."""

        def __init__(self) -> None:
            self.items: list[str] = []

        def put_nowait(self, record: logging.LogRecord) -> None:
            if record.msg == "first":
                log("aside")
                log("aside, too")
            elif record.msg == "aside" and not thread.ident:
                thread.start()
                thread.join(SECONDS)
            self.items.append(record.msg)

        def get_nowait(self) -> None:
            raise queue.Empty

    met = Met()
    handler = FastQueueHandler(met)

    def log(text: str) -> None:
        handler.handle(a_record(text))

    thread = threading.Thread(target=log, args=("of a thread",))
    log("first")
    log("last")

    assert sorted(met.items) == sorted(["first", "aside", "aside, too", "last", "of a thread"])
