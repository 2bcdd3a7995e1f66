"""Set-ups for web frameworks, none of which is imported here."""

from __future__ import annotations

import copy
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from concurrent_log_handler.patterns._setup import MIB, install_file, uninstall

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from concurrent_log_handler.patterns._listener import BatchingQueueListener

    Lifespan = Callable[[Any], AbstractAsyncContextManager[Any]]

_FACTORY = "concurrent_log_handler.patterns.NonBlockingFileHandler"


def django_logging(
    filename: str | os.PathLike[str] = "django_app.log",
    max_bytes: float | str = 100 * MIB,
    *,
    base: dict[str, Any] | None = None,
    level: int | str = "INFO",
    format: str = "[%(asctime)s] %(levelname)s %(name)s: %(message)s",  # noqa: A002
    loggers: tuple[str, ...] = ("django",),
    **options: Any,
) -> dict[str, Any]:
    """
    Django's `LOGGING`, with one non-blocking rotating file for the root logger and *loggers*.

    Args:
        filename: The live file.
        max_bytes: Size limit of one file.
        base: A `LOGGING` of your own to complete; it is not changed.  A logger that it configures keeps
            its level and its handlers; the root and *loggers* get the file in addition.
        level: Level for the loggers that *base* does not configure.
        format: Format string for the file.
        loggers: Loggers that write to the file themselves and do not propagate.
        options: Those of `NonBlockingFileHandler`; `backup_count` is 10 here.

    Returns:
        A dictionary for `LOGGING`, or for `logging.config.dictConfig`.
    """
    config = copy.deepcopy(base) if base else {}
    config.setdefault("version", 1)
    config.setdefault("disable_existing_loggers", False)
    config.setdefault("handlers", {})["non_blocking_file"] = {
        "()": _FACTORY,
        "filename": str(filename),
        "max_bytes": max_bytes,
        "format": format,
        "backup_count": 10,
        **options,
    }
    targets = [config.setdefault("root", {})]
    named = config.setdefault("loggers", {})
    for name in loggers:
        if name not in named:
            named[name] = {"propagate": False}
        targets.append(named[name])
    for target in targets:
        target.setdefault("level", level)
        # A logger that propagates reaches the file through the root.
        if target is targets[0] or not target.get("propagate", True):
            target["handlers"] = [*target.get("handlers", []), "non_blocking_file"]
    return config


def setup_flask_logging(
    app: Any,
    filename: str | os.PathLike[str] = "flask_app.log",
    max_bytes: float | str = 50 * MIB,
    *,
    level: int | str | None = logging.INFO,
    format: str = "%(asctime)s %(levelname)s: %(message)s",  # noqa: A002
    **options: Any,
) -> BatchingQueueListener:
    """
    Give `app.logger` a non-blocking rotating file; returns the listener.

    Safe in a `create_app()` that is called more than once: applications of one name share a logger, and
    so they share the file.

    Args:
        app: A Flask application, or anything with a `logger`.
        filename: The live file.
        max_bytes: Size limit of one file.
        level: Level for `app.logger`; None leaves it.
        format: Format string for the file.
        options: Those of `setup_non_blocking_logging`.
    """
    formatter = options.pop("formatter", None)
    options.setdefault("format", format)
    return install_file(filename, max_bytes, level, app.logger, formatter, options).listener


def logging_lifespan(
    filename: str | os.PathLike[str] = "fastapi_app.log",
    max_bytes: float | str = 100 * MIB,
    *,
    lifespan: Lifespan | None = None,
    level: int | str | None = logging.INFO,
    logger: logging.Logger | str | None = None,
    **options: Any,
) -> Lifespan:
    """
    A `lifespan` for FastAPI or Starlette: a non-blocking rotating file for as long as the app runs.

    At the end, also after an error, what is queued is written and the handler is taken off its logger.

    Args:
        filename: The live file.
        max_bytes: Size limit of one file.
        lifespan: The application's own; it runs inside, and its state is passed on.
        level: Level for the logger; None leaves it.
        logger: A logger or its name; the root logger by default.
        options: Those of `setup_non_blocking_logging`; `backup_count` is 10 here.
    """
    formatter = options.pop("formatter", None)
    options.setdefault("backup_count", 10)

    @asynccontextmanager
    async def with_logging(app: Any) -> AsyncIterator[Any]:
        setup = install_file(filename, max_bytes, level, logger, formatter, options, lasting=False)
        setup.users += 1
        try:
            if lifespan is None:
                yield
            else:
                async with lifespan(app) as state:
                    yield state
        finally:
            setup.users -= 1
            if not setup.users and not setup.lasting:  # two applications of one process may share it
                uninstall(setup)

    return with_logging
