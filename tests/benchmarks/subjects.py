"""What is measured: a name in, a logger that writes to a file out.

Every subject logs the same text in the same layout.  `worker` decides what is logged and timed.
A subject that cannot be had (not built yet, not installed) raises `UnavailableError`.
"""

from __future__ import annotations

import gzip
import importlib
import logging
import logging.handlers
import os
import queue
import shutil
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Callable

try:
    import fcntl
except ImportError:  # Windows: the raw subject is missing there, the others work
    fcntl = None  # type: ignore[assignment]

DISTRIBUTION = "concurrent-log-handler"
FORMAT = "%(asctime)s - %(name)s - %(levelname)s - %(message)s"
LOGURU_FORMAT = "{time:YYYY-MM-DD HH:mm:ss,SSS} - bench - {level} - {message}"
TEN_MB = 10_000_000
UNREACHABLE = 10**12
BACKUPS = 5


class UnavailableError(Exception):
    """This subject does not exist here; the text says why."""


@dataclass
class Files:
    """How the subject is to keep its files."""

    max_bytes: int = TEN_MB
    backups: int = BACKUPS
    gzip: bool = False
    when: str = "midnight"


class RawHandler(logging.Handler):
    """The least that a handler must do to share a file with other processes; it does not even rotate."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        if fcntl is None:
            msg = "fcntl is missing on this platform"
            raise UnavailableError(msg)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self._path = str(path)
        self._log = os.open(path, flags, 0o644)
        self._lock = os.open(path.with_suffix(".rawlock"), flags, 0o644)

    def emit(self, record: logging.LogRecord) -> None:
        data = (self.format(record) + "\n").encode("utf-8")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        os.stat(self._path)
        os.write(self._log, data)
        fcntl.flock(self._lock, fcntl.LOCK_UN)


def handler_for(subject: str, path: Path, files: Files) -> logging.Handler:
    """The handler of *subject* (one of `HANDLERS`), writing to *path*."""
    handler = HANDLERS[subject](path, files)
    handler.setFormatter(logging.Formatter(FORMAT))
    return handler


def logger_with(handler: logging.Handler) -> logging.Logger:
    """A logger whose records reach *handler* and nobody else."""
    logger = logging.getLogger("bench")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for old in list(logger.handlers):
        logger.removeHandler(old)
    logger.addHandler(handler)
    return logger


def version_of(subject: str) -> str:
    """What stands behind *subject*, with its version, for the report."""
    if subject.startswith("loguru"):
        return f"loguru {_loguru().__version__}"
    if subject.startswith(("this", "clh", "guide")):
        expected, _, _ = os.environ["PYTHONPATH"].partition(os.pathsep)
        if Path(expected).resolve() not in Path(_package().__file__).resolve().parents:
            msg = f"another concurrent_log_handler is in the way: {_package().__file__}"
            raise UnavailableError(msg)
        own = _package().__version__ if subject.startswith("this") else metadata.version(DISTRIBUTION)
        return f"{DISTRIBUTION} {own}, portalocker {importlib.import_module('portalocker').__version__}"
    return "standard library"


def loguru_sink(path: Path, rotation: Any, *, compress: bool = False) -> Any:
    """loguru's logger with one process-safe sink; children get it through multiprocessing, by pickle."""
    logger = _loguru().logger
    logger.remove()
    logger.add(
        path,
        format=LOGURU_FORMAT,
        rotation=rotation,
        retention=BACKUPS,
        compression="gz" if compress else None,
        enqueue=True,
        context="spawn",
    )
    return logger


class QueuedLogging:
    """The root logger, non-blocking: the guide's own queue set-up over CLH, ours, or a handler that does nothing."""

    def __init__(self, subject: str, path: Path, max_bytes: int) -> None:
        self.logger = logging.getLogger("bench")
        self.logger.setLevel(logging.INFO)
        self._listener = _LISTENERS[subject](path, max_bytes)

    def start(self) -> None:
        self._listener.start()

    def drain(self) -> None:
        """Return when every record logged so far is in its file; `start` must follow."""
        self._listener.stop()


def _our_listener(path: Path, max_bytes: int) -> Any:
    try:
        from concurrent_log_handler import patterns
    except ImportError as error:
        msg = f"patterns is not built yet ({error})"
        raise UnavailableError(msg) from error
    if not hasattr(patterns, "setup_non_blocking_logging"):
        msg = "patterns.setup_non_blocking_logging is not built yet"
        raise UnavailableError(msg)
    return patterns.setup_non_blocking_logging(str(path), max_bytes)


def _guide_listener(path: Path, max_bytes: int) -> Any:
    target = handler_for("clh", path, Files(max_bytes=max_bytes, gzip=True))
    records: queue.Queue[Any] = queue.Queue(10_000)
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    root.addHandler(logging.handlers.QueueHandler(records))
    listener = logging.handlers.QueueListener(records, target, respect_handler_level=True)
    listener.start()
    return listener


def _null_listener(_path: Path, _max_bytes: int) -> Any:
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    root.addHandler(logging.NullHandler())
    listener = logging.handlers.QueueListener(queue.Queue())
    listener.start()  # for `drain`; it has nothing to do
    return listener


_LISTENERS = {"this": _our_listener, "guide": _guide_listener, "null": _null_listener}


def _size(path: Path, files: Files, **more: Any) -> logging.Handler:
    return _ours("ConcurrentRotatingFileHandler")(
        str(path),
        maxBytes=files.max_bytes,
        backupCount=files.backups,
        encoding="utf-8",
        use_gzip=files.gzip,
        **more,
    )


def _timed(path: Path, files: Files) -> logging.Handler:
    return _ours("ConcurrentTimedRotatingFileHandler")(
        str(path), when=files.when, backupCount=files.backups, encoding="utf-8", use_gzip=files.gzip
    )


def _background(path: Path, files: Files) -> logging.Handler:
    return _size(path, files, background_gzip=True)


def _file(path: Path, _files: Files) -> logging.Handler:
    return logging.FileHandler(path, encoding="utf-8")


def _rotating(path: Path, files: Files) -> logging.Handler:
    handler = logging.handlers.RotatingFileHandler(
        path, maxBytes=files.max_bytes, backupCount=files.backups, encoding="utf-8"
    )
    if files.gzip:
        handler.namer = lambda name: name + ".gz"
        handler.rotator = _gzip_rotator
    return handler


def _gzip_rotator(source: str, dest: str) -> None:
    with open(source, "rb") as plain, gzip.open(dest, "wb", compresslevel=6) as packed:
        shutil.copyfileobj(plain, packed, 1 << 18)
    os.remove(source)


def _ours(name: str) -> Any:
    try:
        return getattr(_package(), name)
    except AttributeError as error:
        msg = f"{name} is not built yet"
        raise UnavailableError(msg) from error


def _package() -> Any:
    try:
        import concurrent_log_handler
    except ImportError as error:
        msg = f"concurrent_log_handler cannot be imported ({error})"
        raise UnavailableError(msg) from error
    return concurrent_log_handler


def _loguru() -> Any:
    try:
        import loguru
    except ImportError as error:
        msg = f"loguru cannot be imported ({error})"
        raise UnavailableError(msg) from error
    return loguru


HANDLERS: dict[str, Callable[[Path, Files], logging.Handler]] = {
    "this": _size,
    "this-background": _background,
    "this-timed": _timed,
    "clh": _size,
    "clh-timed": _timed,
    "file": _file,
    "rotating": _rotating,
    "raw": lambda path, _files: RawHandler(path),
}
