"""A user's program that uses every public name; type checkers read it, nothing runs it.

`test_typing.py` has mypy check it strictly, and looks that no public name is missing.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import logging.handlers
import queue
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import concurrent_log_handler
from concurrent_log_handler import (
    ConcurrentRotatingFileHandler,
    ConcurrentTimedRotatingFileHandler,
    LogFilenameType,
)
from concurrent_log_handler import queue as old_queue
from concurrent_log_handler.patterns import (
    DEFAULT_FORMAT,
    BatchingQueueListener,
    CriticalityFilter,
    CriticalOnlyFilter,
    FastQueueHandler,
    GracefulLoggingShutdown,
    GracefulQueueHandler,
    MonitoredQueueHandler,
    NonBlockingFileHandler,
    NonCriticalFilter,
    QueueFigures,
    RecordQueue,
    RobustQueueListener,
    django_logging,
    logging_lifespan,
    managed_listener,
    setup_critical_and_background_logging,
    setup_flask_logging,
    setup_non_blocking_logging,
)

version: str = concurrent_log_handler.__version__
record = logging.makeLogRecord({"msg": "text"})


# -- handlers -----------------------------------------------------------------


def upload(path: str) -> None:
    print(path)


def log_in(directory: Path) -> LogFilenameType:
    return directory / "app.log"


def columns() -> str:
    return "time,level,message"


by_size = ConcurrentRotatingFileHandler(
    log_in(Path()),
    "a",
    "10 MB",
    5,
    "utf-8",
    None,
    "backslashreplace",
    use_gzip=True,
    background_gzip=True,
    owner=("www-data", None),
    chmod=0o660,
    umask=0o007,
    newline="",
    terminator="\n",
    unicode_error_policy=None,
    lock_file_directory=Path("/run/lock"),
    keep_file_open=True,
    lock_timeout=None,
    debug=False,
    max_total_bytes="1 GB",
    max_age=dt.timedelta(days=30),
    on_rotated=upload,
    header="time,level,message",
    fsync=True,
)
by_time = ConcurrentTimedRotatingFileHandler(
    "app.log",
    "midnight",
    1,
    14,
    "utf-8",
    True,
    True,
    dt.time(4, 30),
    None,
    10_000_000,
    use_gzip=True,
    lock_timeout=2.5,
    max_age=86_400.0,
    on_rotated="shop.upload",
    header=columns,
    fsync=False,
)

base: logging.handlers.BaseRotatingHandler = by_size
timed: logging.handlers.TimedRotatingFileHandler = by_time

by_size.emit_batch([record, record])
by_size.handle(record)
by_size.doRollover()
by_size.flush()
by_size.close()
by_size.maxBytes = 20_000
by_size.backupCount = 7
by_size.max_total_bytes = None
by_size.max_age = None
by_size.on_rotated = None
rolled: int = by_size.num_rollovers
lock_file: str = by_size.lockFilename


def short(name: str) -> str:
    return name + ".old"


by_size.namer = short
by_time.rolloverAt = 0
next_rollover: int = by_time.computeRollover(1_700_000_000.0)
going: list[str] = by_time.getFilesToDelete()


class Announcing(ConcurrentRotatingFileHandler):
    """A subclass as people write them."""

    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)

    def doRollover(self) -> None:
        super().doRollover()

    def shouldRollover(self, record: logging.LogRecord) -> bool:
        return super().shouldRollover(record)


# -- patterns -----------------------------------------------------------------

listener: BatchingQueueListener = setup_non_blocking_logging("app.log", "10 MB", level="INFO", backup_count=9)
left: int = listener.stop(timeout=10)

setup_critical_and_background_logging("critical.log", "app.log", critical_level=logging.ERROR).stop()

records = RecordQueue(1000)
fast = FastQueueHandler(records)
dropped: int = fast.dropped_count
graceful = GracefulQueueHandler(queue.Queue(100), by_size, overflow="block", block_timeout=0.5)
rescued: int = graceful.rescued_count


def watch(figures: QueueFigures) -> None:
    depth: int | None = figures.depth
    print(depth, figures.capacity, figures.dropped_count, figures.above_threshold)


monitored = MonitoredQueueHandler(records, interval=5.0, threshold=0.5, callback=watch)
monitored.stop_monitoring()


def on_error(record: logging.LogRecord, error: BaseException) -> None:
    print(record.getMessage(), error)


robust = RobustQueueListener(records, by_size, error_handler=on_error)
robust.start()
errors: int = robust.error_count
unwritten: int = robust.flush(timeout=None)

with managed_listener(records, by_size, by_time, timeout=5.0) as managed:
    managed.flush()

one = NonBlockingFileHandler("app.log", 1_000_000, 3, queue_size=500, format=DEFAULT_FORMAT)
one.close()

filters: list[CriticalityFilter] = [CriticalOnlyFilter("ERROR"), NonCriticalFilter(logging.ERROR)]
passed: bool = filters[0].filter(record)

shutdown = GracefulLoggingShutdown(listener, timeout=5, signals=[signal.SIGTERM])
shutdown.restore()

settings: dict[str, Any] = django_logging("django.log", base={"version": 1}, level="INFO")
setup_flask_logging(object(), "flask.log", "5 MB")


@contextlib.asynccontextmanager
async def own_lifespan(app: object) -> AsyncIterator[None]:
    yield


lifespan = logging_lifespan("fastapi.log", lifespan=own_lifespan)

# -- the old module -----------------------------------------------------------

names: list[str] = old_queue.get_all_logger_names(include_root=True)
old_queue.setup_logging_queues()
old_queue.queuify_logger("shop", fast, listener)
old_queue.stop_queue_listeners()
