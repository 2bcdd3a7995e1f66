"""The queue handler and the listener in one process: what is kept, in which order, and when it stops."""

from __future__ import annotations

import json
import logging
import logging.handlers
import multiprocessing
import queue
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from concurrent_log_handler import ConcurrentRotatingFileHandler
from concurrent_log_handler.patterns import (
    BatchingQueueListener,
    FastQueueHandler,
    GracefulQueueHandler,
    MonitoredQueueHandler,
    RecordQueue,
    RobustQueueListener,
)
from concurrent_log_handler.patterns._common import Counter
from patterns_support import SECONDS, Gate, Keep, a_record, chain, run_program

QUEUES = [RecordQueue, queue.Queue, lambda _: queue.SimpleQueue(), multiprocessing.Queue]
QUEUE_NAMES = ["RecordQueue", "queue.Queue", "SimpleQueue", "multiprocessing.Queue"]


@pytest.mark.parametrize("make", QUEUES, ids=QUEUE_NAMES)
def test_every_kind_of_queue_delivers_all_in_order(make) -> None:
    """A user brings the queue that he has."""
    records = make(1000)
    gate = Keep()
    handler, listener = FastQueueHandler(records), BatchingQueueListener(records, gate)
    listener.start()

    for number in range(500):
        handler.handle(a_record("number %d", logging.INFO, number))
    left = listener.stop(SECONDS)

    assert left == 0
    assert gate.texts == [f"number {number}" for number in range(500)]
    handler.handle(a_record("after the end"))
    assert gate.texts[-1] == "after the end"
    assert gate.threads - {threading.get_ident()}, "the listener's thread wrote nothing"


@pytest.mark.parametrize("make", QUEUES, ids=QUEUE_NAMES)
def test_start_and_stop_may_come_in_any_order_and_number(make) -> None:
    """Set-up and teardown code of applications runs more than once."""
    records = make(10)
    gate = Keep()
    handler, listener = FastQueueHandler(records), BatchingQueueListener(records, gate)

    assert listener.stop() == 0
    for round_ in range(3):
        listener.start()
        listener.start()
        handler.handle(a_record(f"round {round_}"))
        assert listener.stop() == listener.stop() == 0

    assert gate.texts == ["round 0", "round 1", "round 2"]
    assert not [thread for thread in threading.enumerate() if thread.name == "log listener"]


def test_join_of_the_callers_queue_returns() -> None:
    """`queue.Queue.join()` counts tasks; ours are reported done."""
    records: queue.Queue[logging.LogRecord] = queue.Queue(10)
    gate = Keep()
    with BatchingQueueListener(records, gate):
        for number in range(20):
            while records.full():
                time.sleep(0.001)
            logging.handlers.QueueHandler(records).handle(a_record(str(number)))
        joiner = threading.Thread(target=records.join, daemon=True)
        joiner.start()
        joiner.join(SECONDS)

    assert not joiner.is_alive()
    assert len(gate.records) == 20


def test_a_standard_listener_reads_what_our_handler_puts_in() -> None:
    """Either end can be replaced alone."""
    records: queue.Queue[logging.LogRecord] = queue.Queue(10)
    gate = Keep()
    listener = logging.handlers.QueueListener(records, gate)
    listener.start()

    FastQueueHandler(records).handle(a_record("from %s", logging.INFO, "ours"))
    listener.stop()

    assert gate.texts == ["from ours"]


def test_a_second_listener_on_a_queue_is_refused() -> None:
    """Two would split the records."""
    records = RecordQueue(10)
    first, second = BatchingQueueListener(records, Keep()), BatchingQueueListener(records, Keep())
    first.start()

    with pytest.raises(RuntimeError, match="another listener"):
        second.start()

    first.stop()
    second.start()
    assert second.stop() == 0


def test_records_wait_for_a_listener_that_starts_late() -> None:
    """As in the standard library, what is logged before `start()` is written then."""
    records = RecordQueue(10)
    gate = Keep()
    handler, listener = FastQueueHandler(records), BatchingQueueListener(records, gate)
    handler.handle(a_record("early"))
    assert gate.texts == []

    listener.start()

    assert listener.flush() == 0
    assert gate.texts == ["early"]
    listener.stop()


def test_stop_is_bounded_and_counts_what_is_left() -> None:
    """A handler that hangs must not hang the end of the application."""
    records = RecordQueue(10)
    gate = Gate()
    handler, listener = FastQueueHandler(records), BatchingQueueListener(records, gate)
    listener.start()
    for number in range(5):
        handler.handle(a_record(str(number)))
    assert gate.entered.wait(SECONDS)

    begun = time.monotonic()
    left = listener.stop(timeout=0.2)

    assert time.monotonic() - begun < 5
    assert left == 5
    gate.gate.set()
    assert listener.stop(SECONDS) == 0
    assert gate.texts == ["0", "1", "2", "3", "4"]


def test_stop_waits_for_a_thread_that_has_not_begun_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread is starting it, on a loaded machine; what is queued by then must be written, too."""
    about, go_on = threading.Event(), threading.Event()

    class Late(threading.Thread):
        def start(self) -> None:
            about.set()
            assert go_on.wait(SECONDS)
            super().start()

    keep, ends = Keep(), []
    listener = BatchingQueueListener(RecordQueue(10), keep)
    listener.start()
    handler = FastQueueHandler(listener.queue)
    writer = threading.Thread(target=handler.handle, args=(a_record("first"),))
    stopper = threading.Thread(target=lambda: ends.append((listener.stop(), len(keep.records))))
    monkeypatch.setattr(threading, "Thread", Late)
    writer.start()
    assert about.wait(SECONDS)
    stopper.start()
    stopper.join(0.3)
    assert not ends
    go_on.set()
    for thread in (writer, stopper):
        thread.join(SECONDS)

    assert ends == [(0, 1)]


@pytest.mark.parametrize("make", QUEUES[:3], ids=QUEUE_NAMES[:3])
def test_stop_ends_while_threads_go_on_logging(make) -> None:
    """A server is stopped while its threads log: what they bring later is theirs to write."""
    records = make(1000)
    kept = Keep()
    handler, listener = GracefulQueueHandler(records, overflow="block"), BatchingQueueListener(records, kept)
    listener.start()
    ended = threading.Event()
    logged = [0] * 6

    def chatter(me: int) -> None:
        while not ended.is_set():
            handler.handle(a_record("number %d", logging.INFO, logged[me]))
            logged[me] += 1

    threads = [threading.Thread(target=chatter, args=(me,), daemon=True) for me in range(len(logged))]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            begun = time.monotonic()
            assert listener.stop(SECONDS) == 0
            assert time.monotonic() - begun < SECONDS / 3
            listener.start()
        assert listener.stop(SECONDS) == 0
    finally:
        ended.set()
        for thread in threads:
            thread.join(SECONDS)

    assert len(kept.records) == sum(logged)
    assert not handler.dropped_count


@pytest.mark.slow
def test_a_writer_that_hangs_is_waited_for_only_once() -> None:
    """After a stop that ran out of time, the application's threads must not hang either."""
    records = RecordQueue(100)
    gate = Gate()
    handler, listener = FastQueueHandler(records), BatchingQueueListener(records, gate)
    listener.start()
    handler.handle(a_record("0"))
    assert gate.entered.wait(SECONDS)
    listener.stop(timeout=0.05)

    begun = time.monotonic()
    for number in range(1, 20):
        handler.handle(a_record(str(number)))

    assert time.monotonic() - begun < 5
    gate.gate.set()
    assert listener.stop(SECONDS) == 0
    assert gate.texts == [str(number) for number in range(20)]


def test_message_and_arguments_are_frozen_at_the_call() -> None:
    """A list that changes after the call must not change the record; the caller's record stays as it was."""
    records = RecordQueue(10)
    gate = Keep()
    handler, listener = FastQueueHandler(records), BatchingQueueListener(records, gate)
    argument, event = [1], {"event": "login", "user": "ada"}
    original = a_record("values %s", logging.INFO, argument)

    handler.handle(original)
    handler.handle(a_record(event))
    argument.append(2)
    event["user"] = "bob"
    listener.start()
    listener.stop()

    assert gate.texts[0] == "values [1]"
    assert gate.records[1].msg == {"event": "login", "user": "ada"}
    assert original.msg == "values %s"


def test_exception_and_extra_fields_reach_the_files_own_formatter(tmp_path: Path) -> None:
    """`formatException` of the file decides how a traceback looks; `extra` arrives intact."""

    class Short(logging.Formatter):
        def formatException(self, ei) -> str:
            return f"SHORT {ei[0].__name__}"

    file = ConcurrentRotatingFileHandler(tmp_path / "app.log")
    file.setFormatter(Short("%(message)s %(user)s"))
    records = RecordQueue(10)
    handler, listener = FastQueueHandler(records), BatchingQueueListener(records, file)
    logger = logging.getLogger("extra")
    logger.addHandler(handler)

    with listener:
        try:
            1 / 0  # noqa: B018
        except ZeroDivisionError:
            logger.exception("failed", extra={"user": "ada"})
    file.close()

    assert chain(tmp_path) == "failed ada\nSHORT ZeroDivisionError\n"


def test_structlog_and_json_formatters_work_behind_the_queue(tmp_path: Path) -> None:
    """structlog hands a dict on as the message; python-json-logger reads `extra` from the record."""
    structlog = pytest.importorskip("structlog")
    json_format = pytest.importorskip("pythonjsonlogger.json")
    file = ConcurrentRotatingFileHandler(tmp_path / "app.log")
    file.setFormatter(
        structlog.stdlib.ProcessorFormatter(processor=structlog.processors.JSONRenderer(sort_keys=True))
    )
    plain = ConcurrentRotatingFileHandler(tmp_path / "json.log")
    plain.setFormatter(json_format.JsonFormatter("%(message)s"))
    records = RecordQueue(10)
    handler, listener = FastQueueHandler(records), BatchingQueueListener(records, file)
    logger = logging.getLogger("structured")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    structured = structlog.wrap_logger(
        logger,
        processors=[structlog.stdlib.add_log_level, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
    )

    with listener:
        structured.info("login", user="ada", groups=[1, 2])
    with BatchingQueueListener(records, plain):
        logger.info("order %d", 7, extra={"customer": "bob"})

    assert json.loads(chain(tmp_path)) == {"event": "login", "user": "ada", "groups": [1, 2], "level": "info"}
    assert json.loads(chain(tmp_path, "json.log")) == {"message": "order 7", "customer": "bob"}


def test_levels_and_filters_of_each_handler_are_respected() -> None:
    """Also a filter that raises costs only its own record."""
    records = RecordQueue(10)
    loud, all_ = Keep(), Keep()
    loud.setLevel(logging.ERROR)
    all_.addFilter(lambda record: record.getMessage() != "secret")
    with BatchingQueueListener(records, loud, all_):
        handler = FastQueueHandler(records)
        handler.addFilter(lambda record: record.getMessage() != "unwanted")
        for text, level in [("info", 20), ("secret", 20), ("unwanted", 40), ("error", 40)]:
            handler.handle(a_record(text, level))

    assert loud.texts == ["error"]
    assert all_.texts == ["info", "error"]


def test_every_handler_gets_every_record_when_levels_are_not_respected() -> None:
    """The standard library's default can be had."""
    records = RecordQueue(10)
    gate = Keep()
    gate.setLevel(logging.ERROR)

    with BatchingQueueListener(records, gate, respect_handler_level=False):
        FastQueueHandler(records).handle(a_record("info"))

    assert gate.texts == ["info"]


def test_overridden_emit_and_handle_are_not_bypassed(tmp_path: Path) -> None:
    """`emit_batch` must not go round what a subclass has changed."""

    class Shouting(ConcurrentRotatingFileHandler):
        def emit(self, record: logging.LogRecord) -> None:
            record.msg = str(record.msg).upper()
            super().emit(record)

    class Marking(BatchingQueueListener):
        def handle(self, record: logging.LogRecord) -> None:
            record.msg += "!"
            super().handle(record)

    records = RecordQueue(10)
    with Marking(records, Shouting(tmp_path / "app.log")):
        FastQueueHandler(records).handle(a_record("hello"))

    assert chain(tmp_path) == "HELLO!\n"


def test_bad_record_costs_only_itself(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One bad format string in a batch of hundreds."""
    records = RecordQueue(10)
    file = ConcurrentRotatingFileHandler(tmp_path / "app.log")
    handler, listener = FastQueueHandler(records), BatchingQueueListener(records, file)

    for record in (a_record("one"), a_record("%d", logging.INFO, "no number"), a_record("two")):
        handler.handle(record)
    with listener:
        pass

    assert chain(tmp_path) == "one\ntwo\n"
    assert "no number" in capfd.readouterr().err


def test_full_queue_drops_counts_and_tells_in_the_log() -> None:
    """The default below ERROR; one line in the log carries the figure."""
    records = RecordQueue(10)
    gate = Gate()
    handler, listener = GracefulQueueHandler(records), BatchingQueueListener(records, gate)
    listener.start()
    handler.handle(a_record("first"))
    assert gate.entered.wait(SECONDS)  # the thread has it in hand: the queue is empty

    for number in range(25):
        handler.handle(a_record(str(number)))
    gate.gate.set()
    listener.stop()

    assert handler.dropped_count == 15
    assert gate.texts[:11] == ["first", *(str(number) for number in range(10))]
    assert gate.texts[11:] == ["15 log records dropped, 15 in all: the queue of 10 was full"]


@pytest.mark.slow
def test_dropped_records_are_told_of_at_most_once_a_second() -> None:
    """A log that drops must not be filled by saying so."""
    records = RecordQueue(5)
    gate = Keep()
    handler, listener = GracefulQueueHandler(records), BatchingQueueListener(records, gate)
    listener.start()
    begun = time.monotonic()
    while time.monotonic() - begun < 1.3:
        for number in range(50):
            handler.handle(a_record(str(number)))
        time.sleep(0.001)
    listener.stop()

    told = [text for text in gate.texts if "dropped" in text]
    assert 1 <= len(told) <= 2
    assert f"{handler.dropped_count} in all" in told[-1]
    assert sum(int(text.split()[0]) for text in told) == handler.dropped_count


@pytest.mark.parametrize("refusal", ["level", "filter", "none"])
def test_error_that_nobody_writes_counts_as_dropped(refusal: str) -> None:
    """A fallback that refuses a record has not saved it."""
    records = RecordQueue(1)
    fallback = Keep()
    if refusal == "level":
        fallback.setLevel(logging.CRITICAL)
    elif refusal == "filter":
        fallback.addFilter(lambda record: False)
    handler = GracefulQueueHandler(records, None if refusal == "none" else fallback)

    for _ in range(3):
        handler.handle(a_record("error", logging.ERROR))

    assert handler.dropped_count == 2
    assert handler.rescued_count == 0
    assert fallback.records == []


def test_fallback_writes_errors_and_they_do_not_count_as_dropped() -> None:
    """Also those of a fallback that writes elsewhere."""
    records = RecordQueue(1)
    fallback = Keep()
    handler = GracefulQueueHandler(records, fallback)

    for level in (logging.INFO, logging.INFO, logging.ERROR, logging.CRITICAL):
        handler.handle(a_record(logging.getLevelName(level), level))

    assert fallback.texts == ["ERROR", "CRITICAL"]
    assert handler.dropped_count == 1
    assert handler.rescued_count == 2


def test_fallback_to_the_listeners_own_file_keeps_the_order(tmp_path: Path) -> None:
    """An error must not stand before what led to it."""
    records = RecordQueue(10)
    file = ConcurrentRotatingFileHandler(tmp_path / "app.log")
    same = ConcurrentRotatingFileHandler(tmp_path / "app.log")
    handler = GracefulQueueHandler(records, same)
    listener = BatchingQueueListener(records, file)  # not started: the queue fills up

    for number in range(10):
        handler.handle(a_record(f"step {number}"))
    handler.handle(a_record("failed", logging.ERROR))

    assert chain(tmp_path).split("\n") == [*(f"step {number}" for number in range(10)), "failed", ""]
    assert listener.stop() == 0
    assert handler.dropped_count == 0


def test_blocking_waits_for_room_and_then_delivers() -> None:
    """The third choice: nothing is dropped, and the application waits."""
    records = RecordQueue(2)
    gate = Keep()
    handler = GracefulQueueHandler(records, overflow="block")
    with BatchingQueueListener(records, gate):
        for number in range(200):
            handler.handle(a_record(str(number)))

    assert gate.texts == [str(number) for number in range(200)]
    assert handler.dropped_count == 0


def test_blocking_has_a_bound_if_it_was_given_one() -> None:
    """Nobody reads here."""
    handler = GracefulQueueHandler(RecordQueue(1), overflow="block", block_timeout=0.05)

    handler.handle(a_record("kept"))
    handler.handle(a_record("dropped"))

    assert handler.dropped_count == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overflow": "ignore"}, "overflow must be one of drop, fallback, block, got 'ignore'"),
        ({"critical_overflow": "x"}, "critical_overflow must be one of"),
        ({"critical_level": "LOUD"}, "unknown level 'LOUD'"),
    ],
)
def test_unknown_policy_is_a_clear_error(options: dict[str, str], message: str) -> None:
    """A typing error must not become a silent default."""
    with pytest.raises(ValueError, match=message):
        GracefulQueueHandler(RecordQueue(1), **options)


def test_counts_are_exact_over_threads() -> None:
    """`+= 1` would lose some."""
    handler = GracefulQueueHandler(RecordQueue(1))
    handler.handle(a_record("fills the queue"))
    record = a_record("dropped")
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [
            threading.Thread(target=lambda: [handler.handle(record) for _ in range(1500)]) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
    finally:
        sys.setswitchinterval(interval)

    assert handler.dropped_count == 6000


@pytest.mark.parametrize("swallow", [True, False], ids=["swallowed", "raised"])
def test_robust_listener_sees_every_error_and_goes_on(swallow: bool) -> None:
    """Handlers swallow the errors of the disk; a raising error handler must not end the thread either."""
    from patterns_support import Broken

    records = RecordQueue(100)
    seen = []

    def on_error(record: logging.LogRecord, error: BaseException) -> None:
        seen.append((record.getMessage(), type(error)))
        raise RuntimeError("broken as well")

    gate = Keep()
    listener = RobustQueueListener(records, Broken(swallow), gate, error_handler=on_error)
    with listener:
        for number in range(20):
            FastQueueHandler(records).handle(a_record(str(number)))

    assert listener.error_count == 20
    assert seen == [(str(number), OSError) for number in range(20)]
    assert len(gate.records) == 20


def test_robust_listener_leaves_errors_of_other_threads_alone(capfd: pytest.CaptureFixture[str]) -> None:
    """The handler may be used elsewhere too, where its own `handleError` counts."""
    from patterns_support import Broken

    records = RecordQueue(10)
    broken = Broken()
    with RobustQueueListener(records, broken, error_handler=lambda *_: None) as listener:
        FastQueueHandler(records).handle(a_record("behind the queue"))
        assert listener.flush() == 0
        broken.handle(a_record("directly"))

    assert listener.error_count == 1
    assert "directly" in capfd.readouterr().err


def test_default_error_handler_reports_one_line_a_second(capfd: pytest.CaptureFixture[str]) -> None:
    """A full disk must not fill the terminal too."""
    from patterns_support import Broken

    records = RecordQueue(100)
    listener = RobustQueueListener(records, Broken())
    for _ in range(50):
        FastQueueHandler(records).handle(a_record())
    with listener:
        pass

    assert listener.error_count == 50
    assert 1 <= capfd.readouterr().err.count("logging error #") <= 2


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")
@pytest.mark.parametrize("make", QUEUES, ids=QUEUE_NAMES)
@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_signal_handler_that_logs_into_the_queue_it_interrupts(make, stopped: bool) -> None:
    """At any bytecode, also inside the caller's own queue with its lock: no deadlock, nothing lost."""
    records = make(30_000)
    gate = Keep()
    handler, listener = GracefulQueueHandler(records, overflow="block"), BatchingQueueListener(records, gate)
    listener.start()
    if stopped:
        listener.stop()
    fired: list[None] = []  # appending is one step, also for a signal within a signal

    depth = 0

    def on_alarm(*_) -> None:
        nonlocal depth
        if depth == 30:
            return  # on a busy machine the stack would fill without end
        depth += 1
        fired.append(None)
        handler.handle(a_record("signal"))
        depth -= 1

    before = signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        end, written = time.monotonic() + 0.5, 0
        # A loaded machine gives this program its turn, and the signals, now and then only.
        while time.monotonic() < end or (len(fired) <= 20 and time.monotonic() < end + SECONDS):
            handler.handle(a_record("main"))
            written += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert listener.stop(SECONDS) == 0

    assert len(fired) > 20
    assert handler.dropped_count == 0
    assert gate.texts.count("main") == written
    assert gate.texts.count("signal") == len(fired)


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="POSIX signals")
@pytest.mark.parametrize("make", QUEUES[:2], ids=QUEUE_NAMES[:2])
@pytest.mark.parametrize("falls_back", [True, False])
def test_signal_handler_does_not_wait_for_room_that_the_code_it_interrupts_holds_up(
    make, falls_back: bool
) -> None:
    """The main thread is inside the file, on its own account; the listener waits for the lock of that file."""

    class Interrupted(Keep):
        def filter(self, record: logging.LogRecord) -> bool:
            if record.getMessage() == "queued":
                about_to_wait.set()
            return True

        def emit(self, record: logging.LogRecord) -> None:
            super().emit(record)
            if record.getMessage() == "direct":
                listener.start()
                assert about_to_wait.wait(SECONDS)
                signal.raise_signal(signal.SIGALRM)

    def on_alarm(*_) -> None:
        for number in range(10):
            handler.handle(a_record(f"signal {number}"))

    about_to_wait, kept, records = threading.Event(), Interrupted(), make(3)
    handler = GracefulQueueHandler(records, kept if falls_back else None, overflow="block")
    listener = BatchingQueueListener(records, kept)
    handler.handle(a_record("queued"))
    before = signal.signal(signal.SIGALRM, on_alarm)
    try:
        kept.handle(a_record("direct"))
    finally:
        signal.signal(signal.SIGALRM, before)

    assert listener.stop(SECONDS) == 0
    assert (handler.rescued_count, handler.dropped_count) == ((7, 0) if falls_back else (0, 7))
    assert sum(text.startswith("signal ") for text in kept.texts) == 10 - handler.dropped_count


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="POSIX signals")
def test_signal_handler_does_not_wait_for_room_while_its_thread_stands_in_line_for_the_file(
    tmp_path: Path,
) -> None:
    """The listener stands behind it: whoever waits for the lock of a file gets it in turn."""

    class Told(ConcurrentRotatingFileHandler):
        def filter(self, record: logging.LogRecord) -> bool:
            told.set()
            return super().filter(record)

    def hold() -> None:
        target.acquire()
        held.set()
        until = time.monotonic() + SECONDS
        while not target._lock._line and time.monotonic() < until:
            time.sleep(0.001)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)
        assert interrupted.wait(SECONDS)
        target.release()

    def on_alarm(*_) -> None:
        listener.start()
        assert told.wait(SECONDS)
        interrupted.set()
        for number in range(10):
            handler.handle(a_record(f"signal {number}"))

    told, held, interrupted = threading.Event(), threading.Event(), threading.Event()
    target, records = Told(tmp_path / "app.log", lock_timeout=None), RecordQueue(3)
    handler, listener = (
        GracefulQueueHandler(records, overflow="block"),
        BatchingQueueListener(records, target),
    )
    handler.handle(a_record("queued"))
    before = signal.signal(signal.SIGALRM, on_alarm)
    holding = threading.Thread(target=hold, daemon=True)
    holding.start()
    try:
        assert held.wait(SECONDS)
        target.emit(a_record("direct"))
    finally:
        signal.signal(signal.SIGALRM, before)
    holding.join(SECONDS)

    assert listener.stop(SECONDS) == 0
    assert handler.dropped_count == 7
    texts = (tmp_path / "app.log").read_text().splitlines()
    assert sorted(texts[:5]) == ["direct", "queued", "signal 0", "signal 1", "signal 2"]


def test_signal_handler_logs_while_the_callers_queue_is_locked_by_the_same_thread() -> None:
    """The worst moment, on purpose: the interrupted code is inside `queue.Queue`'s own lock."""
    records: queue.Queue[logging.LogRecord] = queue.Queue(10)
    gate = Keep()
    handler, listener = FastQueueHandler(records), BatchingQueueListener(records, gate)
    listener.start()
    done = threading.Event()

    def interrupted() -> None:
        with records.mutex:
            handler.handle(a_record("inside"))
        done.set()

    threading.Thread(target=interrupted, daemon=True).start()

    assert done.wait(SECONDS)
    assert listener.flush() == 0
    assert gate.texts == ["inside"]
    listener.stop()


@pytest.mark.parametrize("place", ["queue", "start"])
def test_stop_in_a_signal_handler_does_not_wait_for_what_it_interrupted(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interrupted frame is in the queue, or just about to start the listener's thread."""
    records, keep, lefts = RecordQueue(10) if place == "start" else queue.Queue(10), Keep(), []
    handler, listener = FastQueueHandler(records), BatchingQueueListener(records, keep)
    listener.start()
    begun = time.monotonic()

    def interrupted(*_) -> None:
        lefts.append(listener.stop(SECONDS))

    if place == "queue":
        handler._queue._within(interrupted)
    else:
        start = threading.Thread.start

        def interrupted_start(thread: threading.Thread) -> None:
            interrupted()
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", interrupted_start)
        handler.handle(a_record("kept"))
        monkeypatch.undo()

    assert time.monotonic() - begun < SECONDS / 2
    if place == "queue":
        handler.handle(a_record("kept"))
    assert listener.stop(SECONDS) == 0
    assert keep.texts == ["kept"]
    assert len(lefts) == 1


def test_record_that_cannot_be_pickled_crosses_processes() -> None:
    """Exceptions, locks and lambdas are rendered for a queue between processes, not lost in its feeder."""
    records = multiprocessing.Queue(10)
    gate = Keep()
    handler = FastQueueHandler(records)
    logger = logging.getLogger("unpicklable")
    logger.addHandler(handler)

    with BatchingQueueListener(records, gate):
        try:
            1 / 0  # noqa: B018
        except ZeroDivisionError:
            logger.exception("failed %s", object(), extra={"lock": threading.Lock()})

    (record,) = gate.records
    assert "ZeroDivisionError" in record.exc_text
    assert "lock" in record.lock
    assert record.exc_info is None


def test_closed_multiprocessing_queue_does_not_spin_or_hang_the_listener(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Somebody else's teardown may be faster."""
    records = multiprocessing.Queue(10)
    keep = Keep()
    handler, listener = FastQueueHandler(records), BatchingQueueListener(records, keep)
    listener.start()
    handler.handle(a_record("hello"))
    assert listener.flush(SECONDS) == 0
    records.close()

    begun = time.monotonic()
    listener.stop(timeout=10)

    assert time.monotonic() - begun < 5
    assert keep.texts == ["hello"]
    assert capfd.readouterr().err == ""


def test_one_interpreter_wide_exit_hook_survives_a_listener_nobody_kept() -> None:
    """The thread, not a variable of the user's, keeps a running listener alive."""
    records = RecordQueue(10)
    gate = Keep()
    BatchingQueueListener(records, gate).start()

    FastQueueHandler(records).handle(a_record("kept"))
    reader = FastQueueHandler(records)._queue.reader

    assert reader.stop() == 0
    assert gate.texts == ["kept"]


def test_record_queue_is_a_queue() -> None:
    """Code that was given the queue can ask it what it asks any other."""
    records = RecordQueue(2)
    assert records.empty()
    assert not records.full()
    records.put("a")
    records.put("b", block=False)
    assert (records.qsize(), records.full(), records.maxsize) == (2, True, 2)
    with pytest.raises(queue.Full):
        records.put_nowait("c")
    with pytest.raises(queue.Full):
        records.put("c", timeout=0.01)
    assert [records.get_nowait(), records.get_nowait()] == ["a", "b"]
    with pytest.raises(queue.Empty):
        records.get_nowait()
    records.put("d")
    assert records.get() == "d"
    with pytest.raises(queue.Empty):
        records.get(timeout=0.01)


def test_a_standard_listener_reads_a_record_queue() -> None:
    """Which asks it with a `get()` that waits."""
    records, keep = RecordQueue(10), Keep()
    listener = logging.handlers.QueueListener(records, keep)
    listener.start()
    FastQueueHandler(records).handle(a_record("kept"))
    listener.stop()

    assert keep.texts == ["kept"]


def test_count_never_goes_back_while_threads_add() -> None:
    """The report of dropped records takes the difference of two looks at it."""
    counter, ended, looks = Counter(), threading.Event(), []

    def add() -> None:
        for _ in range(20_000):
            counter.add()

    def look() -> None:
        while not ended.is_set():
            looks.append(counter.value())

    adding = [threading.Thread(target=add) for _ in range(3)]
    looking = threading.Thread(target=look)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in (looking, *adding):
            thread.start()
        for thread in adding:
            thread.join(SECONDS)
    finally:
        sys.setswitchinterval(before)
        ended.set()
        looking.join(SECONDS)

    assert counter.value() == 60_000
    assert looks == sorted(looks)


def test_handler_that_logs_while_it_writes_does_not_wait_for_itself() -> None:
    """Its own thread is the only one that makes room."""
    logger = logging.getLogger("echo")
    logger.setLevel(logging.INFO)

    class Echo(Keep):
        def emit(self, record: logging.LogRecord) -> None:
            super().emit(record)
            if record.getMessage() == "outer":
                for _ in range(10):
                    logger.info("inner")

    records, echo = RecordQueue(3), Echo()
    handler, listener = GracefulQueueHandler(records, overflow="block"), BatchingQueueListener(records, echo)
    logger.addHandler(handler)
    listener.start()
    logging_thread = threading.Thread(target=lambda: [logger.info("outer") for _ in range(20)], daemon=True)
    logging_thread.start()
    logging_thread.join(SECONDS)

    assert not logging_thread.is_alive()
    assert listener.stop() == 0
    assert echo.texts.count("outer") == 20
    assert echo.texts.count("inner") + handler.dropped_count == 200


class Unreadable:
    """Can be pickled, and not be read again: a class that the other process lacks."""

    def __reduce__(self) -> tuple[object, tuple[()]]:
        return _cannot_be_read, ()


def _cannot_be_read() -> None:
    raise AttributeError("no such class here")


def test_record_that_cannot_be_unpickled_costs_only_itself() -> None:
    """Neither its neighbours nor the thread; the log tells of it."""
    records, keep = multiprocessing.Queue(), Keep()
    handler, listener = FastQueueHandler(records), BatchingQueueListener(records, keep)
    listener.start()
    for part in range(3):
        for number in range(5):
            handler.handle(a_record(f"{part}-{number}"))
        bad = a_record("bad")
        bad.extra = Unreadable()
        handler.handle(bad)
        assert listener.flush(SECONDS) == 0

    assert listener.stop() == 0
    assert [text for text in keep.texts if "-" in text] == [f"{p}-{n}" for p in range(3) for n in range(5)]
    assert "1 log records of other processes cannot be read here: AttributeError" in keep.texts[5]
    records.close()
    records.join_thread()


def test_handler_that_exits_does_not_end_the_thread(capfd: pytest.CaptureFixture[str]) -> None:
    """`SystemExit` in a thread ends it in silence."""

    class Exiting(Keep):
        def emit(self, record: logging.LogRecord) -> None:
            super().emit(record)
            if record.getMessage() == "exit":
                sys.exit(1)

    records, keep = RecordQueue(10), Exiting()
    with BatchingQueueListener(records, keep) as listener:
        FastQueueHandler(records).handle(a_record("exit"))
        assert listener.flush(SECONDS) == 0
        FastQueueHandler(records).handle(a_record("after"))

    assert keep.texts == ["exit", "after"]
    assert "SystemExit" in capfd.readouterr().err


# --- what a turn at writing survives -------------------------------------------------------------


class Sleepy(Keep):
    """A disk that takes a millisecond for each record."""

    def emit(self, record: logging.LogRecord) -> None:
        time.sleep(0.001)
        super().emit(record)


@pytest.mark.parametrize(
    "make", QUEUES[:2], ids=QUEUE_NAMES[:2]
)  # with a limit: what is queued is soon written
def test_stop_ends_while_threads_log_into_a_slow_handler(make) -> None:
    """Threads that wait for their turn behind a slow one are not waiting for one that hangs."""
    records = make(300)
    kept = Sleepy()
    handler, listener = GracefulQueueHandler(records, overflow="block"), BatchingQueueListener(records, kept)
    listener.start()
    ended, enough = threading.Event(), threading.Event()
    logged = [0] * 4

    def chatter(me: int) -> None:
        while not ended.is_set():
            handler.handle(a_record("chatter"))
            logged[me] += 1
            if sum(logged) > 300:
                enough.set()

    threads = [threading.Thread(target=chatter, args=(me,), daemon=True) for me in range(len(logged))]
    for thread in threads:
        thread.start()
    try:
        assert enough.wait(SECONDS)
        begun = time.monotonic()
        assert listener.stop(SECONDS) == 0
        assert time.monotonic() - begun < SECONDS / 3
    finally:
        ended.set()
        for thread in threads:
            thread.join(SECONDS)

    assert len(kept.records) == sum(logged)


def test_records_after_a_stop_are_written_when_the_call_returns_whoever_writes_them() -> None:
    records = RecordQueue(1000)
    kept = Sleepy()
    handler, listener = GracefulQueueHandler(records), BatchingQueueListener(records, kept)
    listener.start()
    listener.stop()
    wrong: list[str] = []

    def work(me: int) -> None:
        for number in range(30):
            handler.handle(a_record(f"{me} {number}"))
            if f"{me} {number}" not in kept.texts:
                wrong.append(f"{me} {number}")

    threads = [threading.Thread(target=work, args=(me,), daemon=True) for me in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)

    assert not wrong
    assert len(kept.records) == 120


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer that interrupts")
def test_interrupts_at_random_moments_keep_nobody_from_writing(tmp_path: Path) -> None:
    """Ctrl-C in a notebook, while the main thread writes what found no room; nothing may stay locked or be lost."""
    run_program(
        """
        import logging, random, signal
        from concurrent_log_handler import ConcurrentRotatingFileHandler
        from concurrent_log_handler.patterns import *
        records, target = RecordQueue(3), ConcurrentRotatingFileHandler("app.log")
        handler, listener = GracefulQueueHandler(records, target), BatchingQueueListener(records, target)
        listener.start()
        armed, hits, acknowledged = False, 0, []
        def interrupt(*_):
            if armed:
                raise KeyboardInterrupt
        signal.signal(signal.SIGALRM, interrupt)
        for attempt in range(1000):
            try:
                signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00002, 0.0004))
                armed = True
                for number in range(40):
                    text = f"{attempt} {number}"
                    handler.handle(logging.makeLogRecord({"msg": text, "levelno": logging.ERROR}))
                    acknowledged.append(text)
            except KeyboardInterrupt:
                hits += 1
            armed = False
            assert not listener._mine()
        assert listener.stop(20) == 0
        assert hits > 20
        with open("app.log") as file:
            lost = set(acknowledged) - set(file.read().splitlines())
        assert not lost, lost
        """,
        tmp_path,
        quiet=False,  # what interrupts a callback of the garbage collector is shown, not raised
    )


@pytest.mark.parametrize("with_file", [True, False])
def test_interrupt_while_others_records_are_written_leaves_them_for_the_next(
    tmp_path: Path, with_file: bool
) -> None:
    records = RecordQueue(100)
    interrupting = [True]

    class Formatter(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            if interrupting and record.getMessage() == "waits 50":
                interrupting.clear()
                raise KeyboardInterrupt
            return super().format(record)

    class Formatting(Keep):
        def emit(self, record: logging.LogRecord) -> None:
            self.format(record)
            super().emit(record)

    kept = Formatting()
    target = ConcurrentRotatingFileHandler(tmp_path / "app.log") if with_file else kept
    target.setFormatter(Formatter())
    handler, listener = GracefulQueueHandler(records, target), BatchingQueueListener(records, target)
    for number in range(100):
        handler.handle(a_record(f"waits {number}"))

    with pytest.raises(KeyboardInterrupt):
        handler.handle(a_record("found no room", logging.ERROR))

    assert listener.left() > 0
    listener.start()
    assert listener.stop(SECONDS) == 0
    texts = (tmp_path / "app.log").read_text().splitlines() if with_file else kept.texts
    assert texts == [f"waits {number}" for number in range(100)]


@pytest.mark.parametrize("batch", [False, True])
def test_handler_that_exits_costs_its_neighbours_nothing(batch: bool, tmp_path: Path) -> None:
    class Exiting(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            if record.getMessage() == "number 3":
                sys.exit(1)
            return super().format(record)

    class Quiet(ConcurrentRotatingFileHandler):
        def handleError(self, record: logging.LogRecord) -> None:
            failed.append(record.getMessage())

    class Single(Quiet):
        def emit(self, record: logging.LogRecord) -> None:
            super().emit(record)

    failed: list[str] = []
    target = (Quiet if batch else Single)(tmp_path / "app.log")
    target.setFormatter(Exiting())
    records = RecordQueue(100)
    handler, listener = FastQueueHandler(records), BatchingQueueListener(records, target)
    for number in range(10):
        handler.handle(a_record("number %d", logging.INFO, number))
    listener.start()

    assert listener.stop(SECONDS) == 0
    assert failed == ["number 3"]
    assert (tmp_path / "app.log").read_text().splitlines() == [f"number {n}" for n in range(10) if n != 3]


def test_fallback_that_raises_counts_as_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    class Raising(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            raise OSError(28, "no space")

    monkeypatch.setattr(logging, "raiseExceptions", False)
    handler = GracefulQueueHandler(RecordQueue(1), Raising())
    for number in range(3):
        handler.handle(a_record(f"number {number}", logging.ERROR))

    assert (handler.dropped_count, handler.rescued_count) == (2, 0)


def test_filter_of_a_class_is_asked(tmp_path: Path) -> None:
    class Choosy(ConcurrentRotatingFileHandler):
        def filter(self, record: logging.LogRecord) -> bool:
            return "secret" not in record.getMessage()

    class ChoosyQueue(FastQueueHandler):
        def filter(self, record: logging.LogRecord) -> bool:
            return "hidden" not in record.getMessage()

    records = RecordQueue(10)
    handler = ChoosyQueue(records)
    with BatchingQueueListener(records, Choosy(tmp_path / "app.log")):
        for text in ("ok", "secret", "hidden"):
            handler.handle(a_record(text))

    assert (tmp_path / "app.log").read_text() == "ok\n"


@pytest.mark.slow
def test_stop_is_bounded_where_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Keep):
        def emit(self, record: logging.LogRecord) -> None:
            time.sleep(0.01)
            super().emit(record)

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    records, kept = RecordQueue(1000), Slow()
    handler, listener = FastQueueHandler(records), BatchingQueueListener(records, kept)
    for number in range(900):
        handler.handle(a_record(f"number {number}"))
    monkeypatch.setattr(threading.Thread, "start", refuse)
    begun = time.monotonic()
    listener.start()
    left = listener.stop(0.1)

    assert time.monotonic() - begun < 8
    assert left == 900 - len(kept.records) > 0


# --- a queue between processes -------------------------------------------------------------------


def test_record_that_is_being_put_in_while_the_listener_stops_is_written() -> None:
    records = multiprocessing.Queue(100)
    kept = Keep()
    handler, listener = FastQueueHandler(records), BatchingQueueListener(records, kept)
    listener.start()
    inside, go_on = threading.Event(), threading.Event()
    put = records.put

    def put_nowait(record: object) -> None:
        inside.set()
        assert go_on.wait(SECONDS)
        put(record, False)

    records.put_nowait = put_nowait  # type: ignore[method-assign]
    thread = threading.Thread(target=handler.handle, args=(a_record("precious"),), daemon=True)
    thread.start()
    assert inside.wait(SECONDS)
    assert listener.stop(SECONDS) == 0
    go_on.set()
    thread.join(SECONDS)

    assert kept.texts == ["precious"]
    records.close()
    records.join_thread()


@pytest.mark.slow
def test_stop_that_ran_out_of_time_does_not_make_callers_wait() -> None:
    """Five records, one of them in the hands of a handler that hangs."""
    records = multiprocessing.Queue(100)
    gate = Gate()
    handler, listener = FastQueueHandler(records), BatchingQueueListener(records, gate)
    listener.start()
    for number in range(5):
        handler.handle(a_record(f"number {number}"))
    assert gate.entered.wait(SECONDS)
    while listener.left() != 5:  # they are on their way
        time.sleep(0.001)

    assert listener.stop(0.2) == 5
    begun = time.monotonic()
    handler.handle(a_record("late"))
    assert time.monotonic() - begun < 10
    gate.gate.set()
    assert listener.stop(SECONDS) == 0

    assert sorted(gate.texts) == ["late", *(f"number {number}" for number in range(5))]
    records.close()
    records.join_thread()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer that interrupts")
def test_monitored_manager_queue_is_not_asked_in_a_signal_handler() -> None:
    """Its proxy talks over one connection, in whose middle the signal came."""
    with multiprocessing.Manager() as manager:
        records = manager.Queue(5000)
        handler = MonitoredQueueHandler(records, monitor=False)
        kept = Keep()
        listener = BatchingQueueListener(records, kept)
        listener.start()
        signals = []

        def log(*_: object) -> None:
            signals.append(1)
            handler.handle(a_record("signal"))

        before = signal.signal(signal.SIGALRM, log)
        signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
        try:
            for number in range(1000):
                handler.handle(a_record(f"number {number}"))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert listener.stop(SECONDS) == 0

        assert len(kept.records) == 1000 + len(signals)


# --- one bad record ------------------------------------------------------------------------------


class Refusing(BatchingQueueListener):
    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        if record.getMessage() == "bad":
            raise ValueError("not prepared")
        return record


class Exits:
    """A filter that exits at one record."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.getMessage() == "bad":
            sys.exit(1)
        return True


class Worse(ConcurrentRotatingFileHandler):
    """Reporting an error exits as well."""

    def format(self, record: logging.LogRecord) -> str:
        if record.getMessage() == "bad":
            raise ValueError("not formatted")
        return super().format(record)

    def handleError(self, record: logging.LogRecord) -> None:
        sys.exit(1)


@pytest.mark.parametrize("trouble", ["prepare", "no record", "filter", "handleError"])
def test_one_bad_record_costs_only_itself_whatever_is_wrong_with_it(
    tmp_path: Path, trouble: str, capfd: pytest.CaptureFixture[str]
) -> None:
    records = RecordQueue(100)
    target = (Worse if trouble == "handleError" else ConcurrentRotatingFileHandler)(tmp_path / "app.log")
    target.setLevel(logging.INFO)
    listener = (Refusing if trouble == "prepare" else BatchingQueueListener)(records, target)
    if trouble == "filter":
        target.addFilter(Exits())  # type: ignore[arg-type]
    for text in ("before", "bad", "after"):
        records.put_nowait(text if trouble == "no record" and text == "bad" else a_record(text))
    listener.start()

    assert listener.stop(SECONDS) == 0
    assert (tmp_path / "app.log").read_text().split() == ["before", "after"]
    assert capfd.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_signal_handler_that_exits_ends_the_process_though_it_interrupts_a_write(tmp_path: Path) -> None:
    """After `stop()` the main thread writes by itself; an orderly SIGTERM must not be taken for its handler's."""
    run_program(
        """
        import logging, os, signal, sys
        from concurrent_log_handler import ConcurrentRotatingFileHandler
        from concurrent_log_handler.patterns import *
        class Slow(ConcurrentRotatingFileHandler):
            def format(self, record):
                if record.getMessage() == "first" and not sent:
                    sent.append(1)
                    os.kill(os.getpid(), signal.SIGTERM)
                    for _ in range(1000):
                        pass
                return super().format(record)
        sent = []
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
        records = RecordQueue(10)
        handler, listener = FastQueueHandler(records), BatchingQueueListener(records, Slow("app.log"))
        listener.start()
        listener.stop()
        handler.handle(logging.makeLogRecord({"msg": "first"}))
        """,
        tmp_path,
        status=3,
    )

    assert (tmp_path / "app.log").read_text() == "first\n"


def test_filter_that_changes_the_record_leaves_earlier_handlers_theirs(tmp_path: Path) -> None:
    """As with the standard library's listener, and its errors come to the error handler."""

    def redact(record: logging.LogRecord) -> bool:
        if record.msg == "bad":
            raise ValueError("no filter for that")
        record.msg = "REDACTED"
        return True

    plain, redacted = (
        ConcurrentRotatingFileHandler(tmp_path / name) for name in ("plain.log", "redacted.log")
    )
    redacted.addFilter(redact)
    records = RecordQueue(10)
    with RobustQueueListener(records, plain, redacted, error_handler=lambda record, error: None) as listener:
        for text in ("secret", "bad"):
            FastQueueHandler(records).handle(a_record(text))

    assert (tmp_path / "plain.log").read_text() == "secret\nbad\n"
    assert (tmp_path / "redacted.log").read_text() == "REDACTED\n"
    assert listener.error_count == 1


@pytest.mark.slow
def test_callers_wait_for_others_that_get_on_also_with_a_queue_between_processes() -> None:
    class Slow(Keep):
        def emit(self, record: logging.LogRecord) -> None:
            time.sleep(0.2)
            super().emit(record)

    records = multiprocessing.Queue(100)
    kept = Slow()
    handler, listener = FastQueueHandler(records), BatchingQueueListener(records, kept)
    listener.start()
    listener.stop()
    late: list[str] = []

    def work(me: int) -> None:
        handler.handle(a_record(f"thread {me}"))
        if f"thread {me}" not in kept.texts:
            late.append(f"thread {me}")

    threads = [threading.Thread(target=work, args=(me,), daemon=True) for me in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)

    assert not late
    records.close()
    records.join_thread()
