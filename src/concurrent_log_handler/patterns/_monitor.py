"""How full the queue is: figures for a monitoring system, or one warning in the log."""

from __future__ import annotations

import contextlib
import logging
import threading
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from concurrent_log_handler._forks import home, notice_fork, threads_work
from concurrent_log_handler.patterns._counter import Counter
from concurrent_log_handler.patterns._handler import GracefulQueueHandler
from concurrent_log_handler.patterns._handout import LOGGER_NAME, complain

if TYPE_CHECKING:
    from collections.abc import Callable

_logger = logging.getLogger(LOGGER_NAME)


@dataclass(frozen=True)
class QueueFigures:
    """
    What a `MonitoredQueueHandler` reports.

    Attributes:
        depth: Records in the queue now; None where the queue cannot tell.
        capacity: Records that fit; 0 where there is no known limit.
        max_depth_seen: The highest depth after a record was put in.
        total_messages: Records given to the handler.
        dropped_count: Records that nobody wrote.
        above_threshold: The depth is above the threshold; never so without a limit.
    """

    depth: int | None
    capacity: int
    max_depth_seen: int
    total_messages: int
    dropped_count: int
    above_threshold: bool


class MonitoredQueueHandler(GracefulQueueHandler):
    """
    A `GracefulQueueHandler` that reports how full its queue is.

    Args:
        queue: As for `FastQueueHandler`.
        interval: Seconds between two reports.
        threshold: Part of the queue's capacity above which it counts as nearly full, 0 to 1.
        callback: Gets a `QueueFigures` once per interval, for statsd, Prometheus and the like, in the
            monitor's thread.  If it raises, that is reported on stderr.  Without one, a WARNING goes to
            the logger `concurrent_log_handler.patterns` while the queue is nearly full.
        monitor: False leaves it to you to call `start_monitoring()`.
        options: Those of `GracefulQueueHandler`.

    Raises:
        ValueError: For an interval of 0 or less, or a threshold outside 0 to 1.
        TypeError: For a callback that cannot be called.

    The thread ends with `stop_monitoring()` or `close()`, when nothing else refers to the handler, and
    with the process.  A forked child starts its own with its first record.
    """

    def __init__(
        self,
        queue: Any,
        *,
        interval: float = 60.0,
        threshold: float = 0.8,
        callback: Callable[[QueueFigures], Any] | None = None,
        monitor: bool = True,
        **options: Any,
    ) -> None:
        if not isinstance(interval, (int, float)) or not interval > 0:
            msg = f"interval must be more than 0 seconds, got {interval!r}"
            raise ValueError(msg)
        if not isinstance(threshold, (int, float)) or not 0 <= threshold <= 1:
            msg = f"threshold must be a part of the queue's capacity, 0 to 1, got {threshold!r}"
            raise ValueError(msg)
        if callback is not None and not callable(callback):
            msg = f"callback must be callable or None, got {callback!r}"
            raise TypeError(msg)
        super().__init__(queue, **options)
        self.interval = interval
        self.threshold = threshold
        self.callback: Callable[[QueueFigures], Any] = callback or _warn
        self.max_depth_seen = 0
        self._total = Counter()
        self._monitor: threading.Thread | None = None
        self._ended = threading.Event()
        self._monitored = False
        self._lives_in = -1
        self._starting: dict[int, object] = {}
        if monitor:
            self.start_monitoring()

    @property
    def total_messages(self) -> int:
        """Number of records given to this handler, dropped ones included.  May be set."""
        return self._total.value()

    @total_messages.setter
    def total_messages(self, value: int) -> None:
        self._total.set(value)

    def enqueue(self, record: logging.LogRecord) -> None:
        super().enqueue(record)
        self._total.add()
        depth = self._port.depth()
        if depth is not None and depth > self.max_depth_seen:
            self.max_depth_seen = depth
        if self._monitored and self._lives_in != home.generation:
            self.start_monitoring()

    def figures(self) -> QueueFigures:
        """The figures of this moment."""
        depth, capacity = self._port.depth(), self._port.capacity()
        above = depth is not None and capacity > 0 and depth > self.threshold * capacity
        return QueueFigures(
            depth, capacity, self.max_depth_seen, self.total_messages, self.dropped_count, above
        )

    def start_monitoring(self) -> None:
        """Start the monitor's thread, unless it runs; where threads do not work yet, the first record later does."""
        self._monitored = True
        notice_fork()
        mine, process = object(), home.generation
        if not threads_work() or self._starting.setdefault(process, mine) is not mine:
            return  # another thread of a forked child is at it
        try:
            if self._monitor is None or self._lives_in != process or not self._monitor.is_alive():
                self._start_thread()
            self._lives_in = process
        finally:
            self._starting.clear()

    def _start_thread(self) -> None:
        self._ended = ended = threading.Event()
        monitor = threading.Thread(
            target=_watch,
            args=(weakref.ref(self, lambda _: ended.set()), ended, self.interval),
            name="log queue monitor",
            daemon=True,
        )
        self._monitor = None
        with contextlib.suppress(RuntimeError):  # the interpreter is shutting down
            monitor.start()
            self._monitor = monitor

    def stop_monitoring(self) -> None:
        """End the monitor's thread, unless it has ended."""
        self._monitored = False
        monitor, self._monitor = self._monitor, None
        self._ended.set()
        if monitor is not None and monitor is not threading.current_thread() and monitor.is_alive():
            monitor.join(timeout=1.0)

    def close(self) -> None:
        self.stop_monitoring()
        super().close()


def _watch(handler_ref: weakref.ref[MonitoredQueueHandler], ended: threading.Event, interval: float) -> None:
    while not ended.wait(interval):
        handler = handler_ref()
        if handler is None:
            return
        try:
            handler.callback(handler.figures())
        except Exception as error:  # noqa: BLE001 - the next report may succeed
            complain(f"log queue monitor: the callback raised {error!r}")
        del handler  # the next wait must not keep it alive


def _warn(figures: QueueFigures) -> None:
    if figures.above_threshold:
        _logger.warning("log queue holds %d of %d records", figures.depth, figures.capacity)
