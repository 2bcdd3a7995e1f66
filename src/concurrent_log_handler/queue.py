"""The deprecated module of older releases: its names, as thin calls into `patterns`.

Use `concurrent_log_handler.patterns.setup_non_blocking_logging()` instead: it names the file and the
logger, where this module changes whatever handlers it finds.
"""

from __future__ import annotations

import logging
import logging.handlers
import warnings
from typing import TYPE_CHECKING, Any

from concurrent_log_handler.patterns import BatchingQueueListener, GracefulQueueHandler, RecordQueue

if TYPE_CHECKING:
    from logging.handlers import QueueHandler, QueueListener

__all__ = ["get_all_logger_names", "queuify_logger", "setup_logging_queues", "stop_queue_listeners"]

_INSTEAD = "use concurrent_log_handler.patterns.setup_non_blocking_logging() instead"
_QUEUE_SIZE = 10_000

# What setup_logging_queues() has put on each logger, in this process and its parents.
_in_front: dict[str, tuple[GracefulQueueHandler, BatchingQueueListener]] = {}


def setup_logging_queues() -> None:
    """
    Put a bounded queue in front of the handlers of every logger that has some.

    Loggers that have one already are left alone, so a second call only adds what is new.  The end of
    the process stops the listeners.

    Deprecated: use `patterns.setup_non_blocking_logging`.
    """
    _warn("setup_logging_queues()")
    for name in _names(include_root=True):
        logger = logging.getLogger(name)
        slow = [
            handler for handler in logger.handlers if not isinstance(handler, logging.handlers.QueueHandler)
        ]
        known = _in_front.get(name)
        if known is None and slow:
            records = RecordQueue(_QUEUE_SIZE)
            # Every handler is to get every record, so an error waits for room instead of going to one of them.
            handler = GracefulQueueHandler(records, critical_overflow="block")
            known = _in_front[name] = handler, BatchingQueueListener(records)
        if known is None:
            continue
        handler, listener = known
        if slow:
            listener.stop()  # what is queued was not logged to the new ones
            _queuify(logger, handler, listener)
        listener.start()


def stop_queue_listeners(*listeners: QueueListener) -> None:
    """
    Write what is queued and stop; without arguments, every listener of `setup_logging_queues`.

    Afterwards the loggers write synchronously.  Deprecated: use the listener's own `stop()`.
    """
    _warn("stop_queue_listeners()")
    for listener in listeners or [listener for _, listener in _in_front.values()]:
        listener.stop()


def get_all_logger_names(include_root: bool = False) -> list[str]:
    """
    Names of all loggers that exist, `""` for the root first if *include_root*.

    Deprecated: use `logging.root.manager.loggerDict`.
    """
    _warn("get_all_logger_names()")
    return _names(include_root)


def queuify_logger(logger: logging.Logger | str, queue_handler: QueueHandler, queue_listener: Any) -> None:
    """
    Hand the handlers of *logger* over to *queue_listener* and put *queue_handler* in their place.

    Deprecated: use `patterns.NonBlockingFileHandler`, or a queue handler and a listener by hand.
    """
    _warn("queuify_logger()")
    _queuify(logging.getLogger(logger) if isinstance(logger, str) else logger, queue_handler, queue_listener)


def _queuify(logger: logging.Logger, queue_handler: QueueHandler, queue_listener: QueueListener) -> None:
    known = queue_listener.handlers
    new = [each for each in logger.handlers if each not in known and each is not queue_handler]
    queue_listener.handlers = (*known, *new)
    # A new list, so that no other thread meets the logger without any handler.
    kept = [each for each in logger.handlers if each not in new and each is not queue_handler]
    logger.handlers = [*kept, queue_handler]


def _names(include_root: bool) -> list[str]:
    return [""] * bool(include_root) + list(logging.root.manager.loggerDict)


def _warn(what: str) -> None:
    warnings.warn(f"{what} is deprecated; {_INSTEAD}", DeprecationWarning, stacklevel=3)


_warn("the module concurrent_log_handler.queue")
