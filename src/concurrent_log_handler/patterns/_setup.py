"""Whole set-ups in one call: queue, queue handler, listener and rotating file, on one logger or for a web framework.

It owns which set-up is in force on which logger: a second call replaces the first and never doubles a record.
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from concurrent_log_handler._forks import notice_fork
from concurrent_log_handler._locks._threads import logging_lock, patience_here
from concurrent_log_handler.handlers import ConcurrentRotatingFileHandler

from ._handlers import CriticalOnlyFilter, GracefulQueueHandler, NonCriticalFilter, level_number
from ._listener import BatchingQueueListener
from ._queue import RecordQueue

Lifespan = Callable[[Any], AbstractAsyncContextManager[Any]]
_MIB = 1024 * 1024
DEFAULT_FORMAT = "%(asctime)s - %(name)s - %(levelname)s - %(message)s"


class _MakesItsQueue(GracefulQueueHandler):
    """Apart, so that `inspect` shows the arguments of `__init__`."""

    def __new__(cls, *args: Any, **_options: Any) -> Any:
        # Under `class`, dictConfig of 3.12 and later puts a queue before the keywords, a filename among them.
        if args and hasattr(args[0], "put_nowait"):
            msg = "makes its own queue: in a dictConfig name it under '()', as a factory, not under 'class'"
            raise TypeError(msg)
        return super().__new__(cls)


class NonBlockingFileHandler(_MakesItsQueue):
    """
    A rotating file behind a queue in one handler: the whole pattern, also in `dictConfig`, there under `"()"`.

    A formatter goes to the file, which is its own fallback.  The listener runs until `close()` or the end of the
    process.

    Args:
        max_bytes: Size limit of one file: bytes, or text such as "10 MB".
        use_gzip: Compress backups, in the background unless `background_gzip` is given as False.
        queue_size: Number of records that may wait.
        handler: A ready handler to put behind the queue, in place of a filename and options for the file.
        overflow: As for `GracefulQueueHandler`; so are its neighbours.
        file_options: Further keywords of `ConcurrentRotatingFileHandler`.
    """

    def __init__(
        self,
        filename: str | os.PathLike[str] | None = None,
        max_bytes: float | str = 10 * _MIB,
        backup_count: int = 5,
        use_gzip: bool = True,
        *,
        queue_size: int = 10_000,
        format: str = DEFAULT_FORMAT,  # noqa: A002 - as in logging.basicConfig
        handler: logging.Handler | None = None,
        overflow: str = "drop",
        critical_overflow: str = "fallback",
        critical_level: int | str = logging.ERROR,
        block_timeout: float | None = None,
        **file_options: Any,
    ) -> None:
        if not isinstance(queue_size, int) or queue_size < 1:
            msg = f"queue_size must be a number of records of 1 or more, got {queue_size!r}"
            raise ValueError(msg)
        self._own_target = handler is None
        if (handler is None) == (filename is None) or (file_options and filename is None):
            msg = "either a handler or a filename is needed, and options for the file only with a filename"
            raise TypeError(msg)
        if handler is None:
            handler = _file_handler(filename, max_bytes, backup_count, use_gzip, **file_options)
        if handler.formatter is None:
            handler.setFormatter(logging.Formatter(format))
        super().__init__(
            RecordQueue(queue_size),
            handler,
            overflow=overflow,
            critical_overflow=critical_overflow,
            critical_level=critical_level,
            block_timeout=block_timeout,
        )
        self.target = handler
        self.listener: BatchingQueueListener = BatchingQueueListener(self.queue, handler)
        self.listener.start()

    def setFormatter(self, fmt: logging.Formatter | None) -> None:  # noqa: N802 - the standard library's name
        self.target.setFormatter(fmt)

    def close(self) -> None:
        """Write what is queued and close the file, unless it was given as a ready handler; it opens again."""
        # dictConfig() closes it: the listener may wait for logging's own lock, which this thread holds.
        self.listener.stop(patience_here(30.0))
        if self._own_target:
            self.target.close()  # waits for a backup that is being compressed
        super().close()


def _file_handler(filename: Any, max_bytes: Any, backup_count: int, use_gzip: bool, **options: Any) -> Any:
    """The rotating handler behind a queue; *options* may also use the handler's own spelling."""
    options = {"maxBytes": max_bytes, "backupCount": backup_count, "use_gzip": use_gzip, **options}
    return ConcurrentRotatingFileHandler(filename, **{"background_gzip": use_gzip, **options})


@dataclass(eq=False)
class _Setup:
    """What one call has put on one logger; the last of the *handlers* is the one with a queue."""

    logger: logging.Logger
    wish: Any
    handlers: list[Any]
    #: Lifespans that run now, and calls by hand, which never end.
    users: int = 1

    @property
    def listener(self) -> BatchingQueueListener:
        return self.handlers[-1].listener  # type: ignore[no-any-return]

    def in_force(self) -> bool:
        return not self.listener.stopped and all(one in self.logger.handlers for one in self.handlers)

    def put_in_place_of(self, old: list[Any]) -> None:
        # A new list, not a changed one: a thread that is logging finds either the old handlers or the
        # new ones, never none or both.
        kept = [handler for handler in self.logger.handlers if handler not in old]
        self.logger.handlers = [*kept, *self.handlers]

    def end(self) -> None:
        """Write what is queued; a record that is still on its way is written by its own thread."""
        for handler in self.handlers:
            self.logger.removeHandler(handler)
        self.listener.stop()
        for handler in self.handlers:
            handler.close()


def _install(
    lasting: bool, logger: Any, level: Any, formatter: Any, wish: Any, make: Callable[[], list[Any]]
) -> _Setup:
    """The set-up of *logger*: the one in force if it is what is wished for, else what *make* returns, in its place."""
    wish = level, _alike(formatter), wish
    target = logger if isinstance(logger, logging.Logger) else logging.getLogger(logger)
    threshold = target.level if level is None else level_number(level)
    notice_fork()
    with logging_lock:  # which addHandler() holds, and a fork() sees to
        stack = _stacks.setdefault(target, [])
        replaced = stack[-1:]
        stands = bool(replaced) and replaced[0].in_force()
        if stands and replaced[0].wish == wish:
            replaced[0].users += 1
            return replaced[0]
        # First of all: a bad argument leaves the old set-up as it is.
        setup = _Setup(target, wish, make())
        for handler in setup.handlers if formatter is not None else ():
            handler.setFormatter(formatter)
        setup.put_in_place_of([handler for old in replaced for handler in old.handlers])
        target.setLevel(threshold)
        if lasting or not stands:
            stack.clear()
        stack.append(setup)
    for old in replaced:
        old.end()
    return setup


def _release(setup: _Setup) -> None:
    """One user less: the last one takes *setup* off its logger, and the one that it replaced comes back."""
    notice_fork()
    with logging_lock:
        setup.users -= 1
        if setup.users:
            return
        stack = _stacks[setup.logger]
        in_force = stack[-1:] == [setup]
        stack[:] = [each for each in stack if each is not setup]
        if in_force and stack:
            stack[-1].listener.start()
            stack[-1].put_in_place_of(setup.handlers)
    setup.end()


def setup_non_blocking_logging(
    filename: str | os.PathLike[str] = "app.log",
    max_bytes: float | str = 10 * _MIB,
    *,
    level: int | str | None = logging.INFO,
    logger: logging.Logger | str | None = None,
    formatter: logging.Formatter | None = None,
    **options: Any,
) -> BatchingQueueListener:
    """
    Log to a rotating file without waiting for it; returns the listener, which is running.

    The same call again returns the same listener; another one replaces the set-up, whose queue is written
    first.  A process made by spawn needs a call of its own, for example as a pool's `initializer`.

    Args:
        level: Level for the logger; None leaves it.
        logger: A logger or its name; the root logger by default.
        formatter: For the file; by default `DEFAULT_FORMAT`.
        options: Those of `NonBlockingFileHandler`, as are *filename* and *max_bytes*.

    Raises:
        OSError: If the file's directory is missing.
        TypeError, ValueError: For arguments that no log file could have.
    """
    return _install_file(True, filename, logger, level, formatter, max_bytes=max_bytes, **options).listener


def _install_file(
    lasting: bool, filename: Any, logger: Any, level: Any, formatter: Any = None, **options: Any
) -> _Setup:
    """As `setup_non_blocking_logging`; what is not *lasting*, `_release` ends."""
    name = None if "handler" in options else os.path.abspath(filename)
    make = partial(NonBlockingFileHandler, name, **options)
    return _install(lasting, logger, level, formatter, (name, options), lambda: [make()])


def setup_critical_and_background_logging(
    critical_filename: str | os.PathLike[str] = "critical.log",
    background_filename: str | os.PathLike[str] = "app.log",
    *,
    critical_level: int | str = logging.ERROR,
    level: int | str | None = logging.INFO,
    logger: logging.Logger | str | None = None,
    formatter: logging.Formatter | None = None,
    critical_options: dict[str, Any] | None = None,
    **options: Any,
) -> BatchingQueueListener:
    """
    Write critical records at once, in the calling thread, and queue all others; returns the listener.

    If both names are the same file, a critical record stands before what is still queued.

    Args:
        critical_filename: File for *critical_level* and above; 100 MB each, 20 backups.
        background_filename: File for the rest; 50 MB each, 10 backups.
        level: As for `setup_non_blocking_logging`; so are *logger* and *formatter*, for both files.
        critical_options: Keywords of `ConcurrentRotatingFileHandler` for the critical file.
        options: Those of `NonBlockingFileHandler` for the other one.
    """
    apart = {"max_bytes": 100 * _MIB, "backup_count": 20, "use_gzip": False, **(critical_options or {})}
    options = {"max_bytes": 50 * _MIB, "backup_count": 10, **options}
    formatter = formatter or logging.Formatter(options.get("format", DEFAULT_FORMAT))

    def make() -> list[Any]:
        critical = _file_handler(critical_filename, **apart)
        critical.addFilter(CriticalOnlyFilter(critical_level))
        background = NonBlockingFileHandler(background_filename, **options)
        background.addFilter(NonCriticalFilter(critical_level))
        return [critical, background]

    names = os.path.abspath(critical_filename), os.path.abspath(background_filename)
    return _install(True, logger, level, formatter, (names, critical_level, apart, options), make).listener


@contextmanager
def managed_listener(
    queue: Any, *handlers: logging.Handler, timeout: float | None = 30.0, **options: Any
) -> Iterator[BatchingQueueListener]:
    """A `BatchingQueueListener` that runs for the length of a `with` block; *timeout* and errors as of `stop()`."""
    listener = BatchingQueueListener(queue, *handlers, **options)
    listener.start()
    try:
        yield listener
    finally:
        listener.stop(timeout)


def django_logging(
    filename: str | os.PathLike[str] = "django_app.log",
    max_bytes: float | str = 100 * _MIB,
    *,
    base: dict[str, Any] | None = None,
    level: int | str = "INFO",
    format: str = "[%(asctime)s] %(levelname)s %(name)s: %(message)s",  # noqa: A002
    loggers: tuple[str, ...] = ("django",),
    **options: Any,
) -> dict[str, Any]:
    """
    Return a `LOGGING` for Django (or a `dictConfig`): a non-blocking rotating file for the root and *loggers*.

    Args:
        base: A `LOGGING` of your own to complete; it is not changed, and its loggers keep what they have.
        level: Level for the loggers that *base* does not configure.
        loggers: Loggers that write to the file themselves and do not propagate.
        options: Those of `NonBlockingFileHandler`; `backup_count` is 10 here.
    """
    config: dict[str, Any] = {"version": 1, "disable_existing_loggers": False, **copy.deepcopy(base or {})}
    config.setdefault("handlers", {})["non_blocking_file"] = {
        "()": "concurrent_log_handler.patterns.NonBlockingFileHandler",
        "filename": str(filename),
        "max_bytes": max_bytes,
        "format": format,
        "backup_count": 10,
        **options,
    }
    root, named = config.setdefault("root", {}), config.setdefault("loggers", {})
    for target in [root, *(named.setdefault(name, {"propagate": False}) for name in loggers)]:
        target.setdefault("level", level)
        # A logger that propagates reaches the file through the root.
        if target is root or not target.get("propagate", True):
            target["handlers"] = [*target.get("handlers", []), "non_blocking_file"]
    return config


def setup_flask_logging(
    app: Any,
    filename: str | os.PathLike[str] = "flask_app.log",
    max_bytes: float | str = 50 * _MIB,
    *,
    level: int | str | None = logging.INFO,
    format: str = "%(asctime)s %(levelname)s: %(message)s",  # noqa: A002
    **options: Any,
) -> BatchingQueueListener:
    """
    Give `app.logger` a non-blocking rotating file; returns the listener.

    Applications of one name share a logger, and so the file: it may stand in a `create_app()`.  The arguments are those
    of `setup_non_blocking_logging`.
    """
    return setup_non_blocking_logging(
        filename, max_bytes, level=level, logger=app.logger, format=format, **options
    )


def logging_lifespan(
    filename: str | os.PathLike[str] = "fastapi_app.log",
    max_bytes: float | str = 100 * _MIB,
    *,
    lifespan: Lifespan | None = None,
    level: int | str | None = logging.INFO,
    logger: logging.Logger | str | None = None,
    **options: Any,
) -> Lifespan:
    """
    A `lifespan` for FastAPI or Starlette: a non-blocking rotating file for as long as the app runs.

    At the end, also after an error, what is queued is written and the handler is taken off its logger.  Your own
    *lifespan* runs inside.  The other arguments are those of `setup_non_blocking_logging`; `backup_count` is 10.
    """
    options = {"max_bytes": max_bytes, "backup_count": 10, **options}

    @asynccontextmanager
    async def with_logging(app: Any) -> AsyncIterator[Any]:
        async with AsyncExitStack() as stack:
            stack.callback(_release, _install_file(False, filename, logger, level, **options))
            yield None if lifespan is None else await stack.enter_async_context(lifespan(app))

    return with_logging


def _alike(formatter: logging.Formatter | None) -> Any:
    """Equal for formatters that were made alike: a factory that runs twice makes two."""
    parts = dict(getattr(formatter, "__dict__", {}))
    style = parts.pop("_style", None)
    return type(formatter), parts, type(style), getattr(style, "__dict__", None)


#: The set-ups of each logger: the last is in force, and a lifespan's stands on the one that comes back after it.
_stacks: dict[logging.Logger, list[_Setup]] = {}
