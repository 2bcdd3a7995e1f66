"""Non-blocking logging: set-ups in one call, and the parts that they are made of.

The application's threads put records into a bounded queue, and one thread per process writes them.
Only names are gathered here; each room behind them owns one concern.
"""

from ._exit import GracefulLoggingShutdown
from ._handlers import (
    CriticalityFilter,
    CriticalOnlyFilter,
    FastQueueHandler,
    GracefulQueueHandler,
    MonitoredQueueHandler,
    NonCriticalFilter,
    QueueFigures,
)
from ._listener import BatchingQueueListener, RobustQueueListener
from ._queue import RecordQueue
from ._setup import (
    DEFAULT_FORMAT,
    NonBlockingFileHandler,
    django_logging,
    logging_lifespan,
    managed_listener,
    setup_critical_and_background_logging,
    setup_flask_logging,
    setup_non_blocking_logging,
)

__all__ = [
    "DEFAULT_FORMAT",
    "BatchingQueueListener",
    "CriticalOnlyFilter",
    "CriticalityFilter",
    "FastQueueHandler",
    "GracefulLoggingShutdown",
    "GracefulQueueHandler",
    "MonitoredQueueHandler",
    "NonBlockingFileHandler",
    "NonCriticalFilter",
    "QueueFigures",
    "RecordQueue",
    "RobustQueueListener",
    "django_logging",
    "logging_lifespan",
    "managed_listener",
    "setup_critical_and_background_logging",
    "setup_flask_logging",
    "setup_non_blocking_logging",
]
