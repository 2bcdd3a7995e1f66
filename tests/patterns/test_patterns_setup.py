"""Whole set-ups: one call, called twice, replaced, declared in a dictConfig, closed."""

from __future__ import annotations

import asyncio
import gzip
import inspect
import logging
import logging.config
import logging.handlers
import os
import sys
import threading
import time
from pathlib import Path

import pytest

from concurrent_log_handler import ConcurrentRotatingFileHandler
from concurrent_log_handler.patterns import (
    CriticalityFilter,
    CriticalOnlyFilter,
    FastQueueHandler,
    NonBlockingFileHandler,
    NonCriticalFilter,
    RecordQueue,
    managed_listener,
    setup_critical_and_background_logging,
    setup_non_blocking_logging,
)
from patterns_support import SECONDS, Gate, Keep, a_record, chain, numbers, once, run_program


def queue_handlers(logger: logging.Logger) -> list[logging.Handler]:
    return [each for each in logger.handlers if isinstance(each, logging.handlers.QueueHandler)]


def test_quick_start_writes_the_documented_format_at_info(tmp_path: Path) -> None:
    """As in the quick start: root logger, INFO, five gzipped backups of ten MiB."""
    listener = setup_non_blocking_logging()
    logging.getLogger("shop").debug("unwanted")
    logging.getLogger("shop").info("wanted %s", "this")
    listener.stop()

    stamp, rest = chain(tmp_path).split(" - ", 1)
    assert rest == "shop - INFO - wanted this\n"
    assert time.strptime(stamp.split(",")[0], "%Y-%m-%d %H:%M:%S")
    (file,) = listener.handlers
    assert (file.maxBytes, file.backupCount) == (10 * 1024 * 1024, 5)


def test_backups_are_gzipped(tmp_path: Path) -> None:
    """Rotation happens behind the queue."""
    listener = setup_non_blocking_logging("app.log", 2_000, backup_count=50)
    for number in range(200):
        logging.info("number %d", number)
    listener.stop()
    listener.handlers[0].close()

    assert numbers(chain(tmp_path)) == once(200)
    assert gzip.decompress((tmp_path / "app.log.1.gz").read_bytes())


def test_identical_call_returns_the_running_listener(tmp_path: Path) -> None:
    """create_app() runs twice, a worker's initializer too."""
    first = setup_non_blocking_logging("app.log")
    second = setup_non_blocking_logging(tmp_path / "app.log")
    logging.info("number 1")
    first.stop()

    assert first is second
    assert len(queue_handlers(logging.getLogger())) == 1
    assert numbers(chain(tmp_path)) == once(1, 1)


def test_formatters_that_are_alike_make_identical_calls(tmp_path: Path) -> None:
    """A factory makes a new object each time it runs."""
    listeners = [
        setup_non_blocking_logging("app.log", formatter=logging.Formatter(text))
        for text in ("%(message)s", "%(message)s", "%(message)s!")
    ]
    logging.info("hello")
    listeners[-1].stop()

    assert listeners[0] is listeners[1]
    assert listeners[1] is not listeners[2]
    assert chain(tmp_path) == "hello!\n"


def test_other_call_replaces_the_first_whose_queue_is_written(tmp_path: Path) -> None:
    """No record twice, none lost."""
    first = setup_non_blocking_logging("one.log")
    logging.info("number 1")
    second = setup_non_blocking_logging("two.log")
    logging.info("number 2")
    second.stop()

    assert first.stopped
    assert len(queue_handlers(logging.getLogger())) == 1
    assert numbers(chain(tmp_path, "one.log")) == once(1, 1)
    assert numbers(chain(tmp_path, "two.log")) == once(1, 2)


def test_identical_call_after_stop_or_reset_sets_up_again(tmp_path: Path) -> None:
    """Somebody else's dictConfig may have taken our handler away meanwhile."""
    first = setup_non_blocking_logging("app.log")
    first.stop()
    second = setup_non_blocking_logging("app.log")
    logging.config.dictConfig({"version": 1, "root": {"handlers": []}})
    third = setup_non_blocking_logging("app.log")
    logging.info("number 1")
    third.stop()

    assert len({id(first), id(second), id(third)}) == 3
    assert len(queue_handlers(logging.getLogger())) == 1
    assert numbers(chain(tmp_path)) == once(1, 1)


def test_bad_arguments_leave_the_old_set_up_in_force(tmp_path: Path) -> None:
    """The error comes before anything is taken away."""
    listener = setup_non_blocking_logging("app.log")
    with pytest.raises(FileNotFoundError):
        setup_non_blocking_logging("missing/app.log")
    with pytest.raises(ValueError, match="overflow must be"):
        setup_non_blocking_logging("app.log", overflow="x")
    with pytest.raises(TypeError):
        setup_non_blocking_logging("app.log", no_such_option=1)
    logging.info("number 1")
    listener.stop()

    assert numbers(chain(tmp_path)) == once(1, 1)


def test_named_logger_level_formatter_and_options_of_the_file(tmp_path: Path) -> None:
    """Each keyword has its effect."""
    listener = setup_non_blocking_logging(
        "app.log",
        "1 MB",
        logger="shop",
        level="DEBUG",
        formatter=logging.Formatter("%(message)s|"),
        backup_count=3,
        use_gzip=False,
        queue_size=7,
        chmod=0o600,
    )
    logger = logging.getLogger("shop")
    logger.debug("hello")
    listener.stop()

    assert chain(tmp_path) == "hello|\n"
    assert listener.queue.maxsize == 7
    assert os.name == "nt" or (tmp_path / "app.log").stat().st_mode & 0o777 == 0o600
    assert queue_handlers(logging.getLogger()) == []


def test_any_handler_can_stand_behind_the_queue() -> None:
    """A timed handler, or one for a socket."""
    keep = Keep()
    listener = setup_non_blocking_logging(handler=keep, level=None)
    logging.getLogger().warning("hello")
    listener.stop()

    assert keep.texts == ["hello"]
    with pytest.raises(TypeError, match="either a handler or a filename"):
        NonBlockingFileHandler("app.log", handler=keep)
    with pytest.raises(TypeError, match="filename is needed"):
        NonBlockingFileHandler()


def test_records_after_stop_are_written_at_once(tmp_path: Path) -> None:
    """Nobody reads the queue any more."""
    listener = setup_non_blocking_logging("app.log")
    listener.stop()

    for number in range(50):
        logging.info("number %d", number)

    assert numbers(chain(tmp_path)) == once(50)


@pytest.mark.parametrize("class_key", ["()", "class"])
def test_dictconfig_entry_needs_no_further_code(tmp_path: Path, class_key: str) -> None:
    """The same dictionary on every Python; 3.12 treats a `class` that is a queue handler in its own way."""
    if class_key == "class" and sys.version_info >= (3, 12):
        pytest.skip("3.12 wants `queue` and `listener` there")
    config = {
        "version": 1,
        "formatters": {"line": {"format": "%(levelname)s %(message)s"}},
        "handlers": {
            "file": {
                class_key: "concurrent_log_handler.patterns.NonBlockingFileHandler",
                "filename": "app.log",
                "max_bytes": "1 MB",
                "backup_count": 3,
                "formatter": "line",
                "level": "INFO",
            }
        },
        "root": {"level": "DEBUG", "handlers": ["file"]},
    }
    logging.config.dictConfig(config)
    logging.debug("unwanted")
    logging.info("number %d", 1)
    logging.config.dictConfig(config)  # the first one is closed: its queue is written
    logging.info("number %d", 2)
    logging.shutdown([lambda: logging.getLogger().handlers[0]])

    assert chain(tmp_path) == "INFO number 1\nINFO number 2\n"


@pytest.mark.skipif(
    sys.version_info < (3, 12, 2), reason="`class` works before 3.12, and until 3.12.1 Python refuses"
)
def test_dictconfig_entry_under_class_says_what_to_write_instead() -> None:
    """3.12 and later put a queue before the keywords; the filename among them made a riddle of the error."""
    factory = "concurrent_log_handler.patterns.NonBlockingFileHandler"
    config = {"version": 1, "handlers": {"file": {"class": factory, "filename": "app.log"}}}
    with pytest.raises(ValueError, match="handler 'file'") as caught:
        logging.config.dictConfig(config)

    assert "name it under '()', as a factory, not under 'class'" in str(caught.value.__cause__)
    assert "filename" in inspect.signature(NonBlockingFileHandler).parameters


@pytest.mark.skipif(sys.version_info < (3, 12), reason="`listener` in a dictConfig came with 3.12")
def test_dictconfig_with_the_keys_of_python_3_12(tmp_path: Path) -> None:
    """Our classes in the standard library's own scheme."""
    logging.config.dictConfig(
        {
            "version": 1,
            "handlers": {
                "file": {
                    "class": "concurrent_log_handler.ConcurrentRotatingFileHandler",
                    "filename": "app.log",
                },
                "queue": {
                    "class": "concurrent_log_handler.patterns.FastQueueHandler",
                    "queue": {"()": "queue.Queue", "maxsize": 1000},
                    "listener": "concurrent_log_handler.patterns.BatchingQueueListener",
                    "handlers": ["file"],
                    "respect_handler_level": True,
                },
            },
            "root": {"level": "INFO", "handlers": ["queue"]},
        }
    )
    listener = logging.getHandlerByName("queue").listener
    listener.start()
    logging.info("number %d", 1)
    assert listener.stop() == 0

    assert numbers(chain(tmp_path)) == once(1, 1)


def test_listener_writes_on_after_dictconfig_closed_its_file(tmp_path: Path) -> None:
    """`dictConfig` closes every handler that it knows, also the one behind our queue."""
    file = ConcurrentRotatingFileHandler("app.log")
    records = RecordQueue(10)
    with managed_listener(records, file):
        logging.config.dictConfig({"version": 1})
        logger = logging.getLogger("after")
        logger.setLevel(logging.INFO)
        logger.addHandler(FastQueueHandler(records))
        logger.info("number 1")

    assert numbers(chain(tmp_path)) == once(1, 1)


def test_criticality_filters_split_records_at_a_level() -> None:
    """Every record passes exactly one of the two."""
    for level in (logging.DEBUG, logging.WARNING, logging.ERROR, logging.CRITICAL):
        record = a_record("x", level)
        assert CriticalOnlyFilter().filter(record) is (level >= logging.ERROR)
        assert NonCriticalFilter().filter(record) is (level < logging.ERROR)
        assert CriticalityFilter("WARNING").filter(record) is (level >= logging.WARNING)
    with pytest.raises(ValueError, match="unknown level"):
        CriticalityFilter("LOUD")


def test_critical_records_are_on_disk_when_the_call_returns(tmp_path: Path) -> None:
    """The rest waits in the queue, and is there in the end."""
    listener = setup_critical_and_background_logging(
        tmp_path / "critical.log", tmp_path / "app.log", formatter=logging.Formatter("%(message)s")
    )
    same = setup_critical_and_background_logging(
        tmp_path / "critical.log", tmp_path / "app.log", formatter=listener.handlers[0].formatter
    )
    assert same is listener

    logging.info("background")
    logging.error("critical")

    assert chain(tmp_path, "critical.log") == "critical\n"
    listener.stop()
    assert chain(tmp_path) == "background\n"
    assert chain(tmp_path, "critical.log") == "critical\n"


def test_managed_listener_does_not_hide_the_blocks_exception() -> None:
    """Also with a queue that is full at that moment."""
    records = RecordQueue(2)
    keep = Keep()
    with pytest.raises(ZeroDivisionError), managed_listener(records, keep):  # noqa: PT012
        for number in range(2):
            FastQueueHandler(records).handle(a_record(str(number)))
        1 / 0  # noqa: B018

    assert keep.texts == ["0", "1"]


def test_logging_calls_of_a_thousand_tasks_do_not_hold_the_event_loop(tmp_path: Path) -> None:
    """What a task waits in its logging call, the loop waits too."""
    listener = setup_non_blocking_logging("app.log", 500_000, logger="loop")
    logger = logging.getLogger("loop")
    calls: list[float] = []

    async def task(number: int) -> None:
        for step in range(5):
            begun = time.perf_counter()
            logger.info("number %d", number * 5 + step)
            calls.append(time.perf_counter() - begun)
            await asyncio.sleep(0.01)

    async def main() -> None:
        await asyncio.gather(*(task(number) for number in range(1000)))

    asyncio.run(main())
    listener.stop()
    listener.handlers[0].close()

    assert numbers(chain(tmp_path)) == once(5000)
    # The interpreter's switch interval is 5 ms; a busy machine adds its own. The median is the promise.
    calls.sort()
    assert calls[len(calls) // 2] < 0.001
    assert calls[int(len(calls) * 0.99)] < 0.005


def test_heartbeat_of_an_event_loop_goes_on_while_a_thousand_tasks_log(tmp_path: Path) -> None:
    """Each round rotates and compresses.  Other programs may disturb one, so the best one counts."""
    logger = logging.getLogger("loop")
    records = 0

    async def task(number: int) -> None:
        nonlocal records
        await asyncio.sleep(number / 5000)
        logger.info("number %d %s", records, "x" * 100)
        records += 1

    async def longest_gap() -> float:
        tasks = asyncio.gather(*(task(number) for number in range(1000)))
        await asyncio.sleep(0.02)  # a thousand tasks begin in one go: that is asyncio's, not ours
        longest, last = 0.0, time.perf_counter()
        while not tasks.done():
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
        return longest

    listener = setup_non_blocking_logging("app.log", 50_000, backup_count=999, logger="loop")
    gaps = []
    while len(gaps) < 20 and min(gaps, default=1.0) > 0.25:
        gaps.append(asyncio.run(longest_gap()))
    listener.stop()
    listener.handlers[0].close()

    assert min(gaps) <= 0.25, gaps
    assert numbers(chain(tmp_path)) == once(records)
    assert len(list(tmp_path.glob("app.log.*.gz"))) >= len(gaps)


def test_event_loop_does_not_wait_for_a_disk_that_hangs() -> None:
    """All tasks log to their end while not one record can be written."""
    gate = Gate()
    listener = setup_non_blocking_logging(handler=gate, logger="loop")

    async def main() -> None:
        await asyncio.gather(*(task(number) for number in range(1000)))

    async def task(number: int) -> None:
        for step in range(5):
            logging.getLogger("loop").info("number %d", number * 5 + step)
            await asyncio.sleep(0)

    asyncio.run(main())

    assert gate.texts == []
    gate.gate.set()
    assert listener.stop() == 0
    assert len(gate.texts) == 5000


def test_replacing_a_set_up_costs_no_record_of_other_threads(tmp_path: Path) -> None:
    """There is no moment without a handler, nor one with both."""
    logger, ended = logging.getLogger("shop"), threading.Event()
    counts = [0, 0]

    def write(place: int) -> None:
        while not ended.is_set():
            logger.info("number %d", place * 1_000_000 + counts[place])
            counts[place] += 1

    options = {"logger": "shop", "overflow": "block"}
    setup_non_blocking_logging("app.log", 0, backup_count=1, **options)
    threads = [threading.Thread(target=write, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    try:
        for size in range(1000, 1010):
            listener = setup_non_blocking_logging("app.log", 0, backup_count=1, queue_size=size, **options)
    finally:
        ended.set()
        for thread in threads:
            thread.join(SECONDS)
    listener.stop()

    assert all(counts)
    assert numbers(chain(tmp_path)) == once(counts[0]) + once(counts[1], 1_000_000)


def test_unknown_level_leaves_the_old_set_up_in_force() -> None:
    """And adds nothing."""
    first = setup_non_blocking_logging("app.log")

    with pytest.raises(ValueError, match="unknown level 'NOPE'"):
        setup_non_blocking_logging("app.log", level="NOPE")

    assert setup_non_blocking_logging("app.log") is first
    assert not first.stopped


def test_set_up_from_many_threads_at_once_installs_one(tmp_path: Path) -> None:
    """A server that imports the application in several threads."""
    listeners = []
    threads = [
        threading.Thread(target=lambda: listeners.append(setup_non_blocking_logging("app.log")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)

    assert len(set(map(id, listeners))) == 1
    assert len(queue_handlers(logging.getLogger())) == 1


@pytest.mark.slow
@pytest.mark.parametrize("what", ["formatter", "callback"])
def test_configuring_again_does_not_wait_for_a_listener_that_waits_for_logging(
    tmp_path: Path, what: str
) -> None:
    """`dictConfig` closes handlers under logging's own lock, which `getLogger` in the listener's thread wants."""
    run_program(
        f"""
        import logging, logging.config, threading, time
        reached, locked = threading.Event(), threading.Event()
        def ask(*_):
            if not reached.is_set():
                reached.set()
                assert locked.wait(20)
                logging.getLogger("asked for in the listener's thread")
            return True
        class Asking(logging.Formatter):
            def format(self, record):
                ask()
                return super().format(record)
        class Locking(logging.Handler):  # the first to be closed: dictConfig has the lock by then
            def close(self):
                locked.set()
                super().close()
        def configure():
            handler = {{
                "()": "concurrent_log_handler.patterns.NonBlockingFileHandler", "filename": "app.log",
                "max_bytes": 1000, "use_gzip": False,
            }}
            if {what!r} == "formatter":
                handler["formatter"] = "asking"
            else:
                handler["on_rotated"] = ask
            logging.config.dictConfig({{
                "version": 1, "disable_existing_loggers": False,
                "formatters": {{"asking": {{"()": Asking}}}},
                "handlers": {{"file": handler, "locking": {{"()": Locking}}}},
                "root": {{"level": "INFO", "handlers": ["file"]}},
            }})
        configure()
        for number in range(30):
            logging.info("number %d %s", number, "x" * 60)
        assert reached.wait(20)
        started = time.monotonic()
        configure()
        assert time.monotonic() - started < 8, time.monotonic() - started
        """,
        tmp_path,
        quiet=False,
    )

    assert numbers(chain(tmp_path)) == once(30)
