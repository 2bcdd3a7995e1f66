"""Set-ups for web frameworks, none of which is imported here."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from ._listener import BatchingQueueListener
from ._setup import MIB, install_file, release, setup_non_blocking_logging

Lifespan = Callable[[Any], AbstractAsyncContextManager[Any]]


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
    targets = [config.setdefault("root", {})]
    named = config.setdefault("loggers", {})
    targets += [named.setdefault(name, {"propagate": False}) for name in loggers]
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

    Applications of one name share a logger, and so the file: it may stand in a `create_app()`.  The arguments are those
    of `setup_non_blocking_logging`.
    """
    return setup_non_blocking_logging(
        filename, max_bytes, level=level, logger=app.logger, format=format, **options
    )


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

    At the end, also after an error, what is queued is written and the handler is taken off its logger.  Your own
    *lifespan* runs inside.  The other arguments are those of `setup_non_blocking_logging`; `backup_count` is 10.
    """
    options = {"backup_count": 10, **options}

    @asynccontextmanager
    async def with_logging(app: Any) -> AsyncIterator[Any]:
        setup = install_file(False, filename, max_bytes, level, logger, **options)
        try:
            if lifespan is None:
                yield
            else:
                async with lifespan(app) as state:
                    yield state
        finally:
            release(setup)  # two applications of one process may share it

    return with_logging
