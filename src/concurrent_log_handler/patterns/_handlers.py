"""The end of the queue at which the application logs: freeze a record, put it in, and decide what happens without room.

Nothing here waits for a file, except where the caller chose that.
"""

from __future__ import annotations

import copy
import logging
import logging.handlers
import pickle
import queue as queue_module
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from concurrent_log_handler import _options
from concurrent_log_handler._afterwards import is_written
from concurrent_log_handler._forks import home, notice_fork, threads_work
from concurrent_log_handler._patience import monotonic

from ._common import Counter, Trouble, WakeableThread, counted, patiently
from ._exit import hook_exit_of_children
from ._queue import LOGGER_NAME, queue_of
from ._writer import errors_noted, report

_new = object.__new__
_traceback: Callable[[Any], str] = logging.Formatter().formatException
_logger = logging.getLogger(LOGGER_NAME)


class FastQueueHandler(logging.handlers.QueueHandler):
    """
    A `logging.handlers.QueueHandler` whose call costs about half, and that survives `fork()`.

    The message is frozen at the call, by a formatter if this handler has one.  A message that is not a
    string stays what it is, a dict as a shallow copy, and so do `extra` fields.  Inside one process the
    formatter of the file renders `exc_info`; for a queue between processes it becomes text, and values that
    cannot be pickled become their `repr`.  When the queue, one as for `BatchingQueueListener`, is full, the
    record is dropped and counted, and the log itself says so.
    """

    def __init__(self, queue: Any) -> None:
        super().__init__(queue)
        self.listener: Any = None  # 3.12's `dictConfig` sets it
        self._queue = queue_of(queue)
        self._put = self._queue.put_nowait
        self._pickled = self._queue.crosses_processes
        if self._pickled:
            hook_exit_of_children()
        self._filters_itself = type(self).filter is not logging.Filterer.filter
        self._dropped = Counter()
        self._failing = Trouble()

    dropped_count: int = counted("_dropped", "Records of this handler that nobody wrote.  May be set.")

    def handle(self, record: logging.LogRecord) -> Any:
        if self.filters or self._filters_itself:
            verdict: Any = self.filter(record)
            if not verdict:
                return verdict
            if isinstance(verdict, logging.LogRecord):
                record = verdict
        self.emit(record)
        return True

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """A copy of *record* that no later change reaches; as the standard library's, `message` set, `args` None."""
        if type(record) is logging.LogRecord:
            # A third of what copy.copy() takes, and half of filling an empty dictionary.
            frozen = _new(logging.LogRecord)
            frozen.__dict__ = record.__dict__.copy()
        else:
            frozen = copy.copy(record)
        if self.formatter is not None:
            frozen.msg = frozen.message = self.format(record)
            frozen.exc_info = frozen.exc_text = frozen.stack_info = None
        elif frozen.args:
            frozen.msg = frozen.message = frozen.getMessage()
        else:
            message = frozen.msg
            frozen.message = message if isinstance(message, str) else frozen.getMessage()
            if isinstance(message, dict):
                frozen.msg = self._frozen_event(message)
        frozen.args = None
        if self._pickled:
            return self._for_other_processes(frozen)
        # By another handler's formatter: the file's own gets its turn.  Any other text is on purpose.
        if frozen.exc_text and frozen.exc_info and frozen.exc_text == _traceback(frozen.exc_info):
            frozen.exc_text = None
        return frozen

    def _frozen_event(self, event: dict[Any, Any]) -> dict[Any, Any]:
        """A copy of an event of structlog, whose `exc_info` may mean the exception of this moment."""
        frozen = event.copy()
        error = frozen.get("exc_info")
        if isinstance(error, BaseException):
            error = (type(error), error, error.__traceback__)
        elif error and not isinstance(error, tuple):
            error = sys.exc_info()
        if error and error[0] is not None:
            frozen["exc_info"] = error
            if self._pickled:
                frozen.setdefault("exception", _traceback(frozen.pop("exc_info")))
        return frozen

    def _for_other_processes(self, frozen: logging.LogRecord) -> logging.LogRecord:
        if not frozen.exc_text and isinstance(frozen.exc_info, tuple):
            frozen.exc_text = _traceback(frozen.exc_info)
        frozen.exc_info = None
        try:
            pickle.dumps(frozen)
        except Exception:  # noqa: BLE001 - whatever an object's own pickling may raise
            # Also a plain record: the class may be one that the other process cannot import.
            return logging.makeLogRecord({name: _picklable(value) for name, value in frozen.__dict__.items()})
        return frozen

    def enqueue(self, record: logging.LogRecord) -> None:
        """Put *record* in; where there is no room, `overflow` decides."""
        try:
            self._put(record)
        except queue_module.Full:
            if record.name == LOGGER_NAME:
                self._queue.keep(record)  # that the queue is full, one line at a time
            else:
                self.overflow(record)
        except Exception:  # noqa: BLE001 - a queue that only fails costs each record, and one traceback
            self._dropped.add()
            report(self, record, self._failing)
        else:
            if self._failing.on:
                self._failing.ends()
            # The listener is in another process: what was dropped here has to go through the queue as well.
            if self._pickled and self._queue.reader is None and self._queue.report_at <= monotonic():
                self._queue.report_drops(self._put)

    def overflow(self, record: logging.LogRecord) -> None:
        """Called for a record that found the queue full: drop it and count it."""
        self.drop(record)

    def drop(self, record: logging.LogRecord) -> None:
        """Count *record* as one that nobody writes; the log will say so."""
        self._dropped.add()
        self._queue.note_drop(record)


class GracefulQueueHandler(FastQueueHandler):
    """
    A queue handler that says what becomes of a record when the queue is full.

    `"drop"` counts it in `dropped_count`; `"fallback"` writes it at once through *fallback_handler*, in
    the calling thread; `"block"` waits for room, and falls back inside a write, where nobody makes any.  If
    the fallback writes to the listener's file, what is queued is written first.  A record that the
    fallback's level or filters refuse, or that needs a fallback where there is none, counts as dropped.

    Args:
        overflow: What happens to records below *critical_level*.
        critical_overflow: What happens to records from *critical_level* up.
        block_timeout: Seconds after which `"block"` drops the record; None waits as long as it takes.

    Raises:
        ValueError: For an unknown policy or level.
    """

    def __init__(
        self,
        queue: Any,
        fallback_handler: logging.Handler | None = None,
        *,
        overflow: str = "drop",
        critical_overflow: str = "fallback",
        critical_level: int | str = logging.ERROR,
        block_timeout: float | None = None,
    ) -> None:
        for name, policy in (("overflow", overflow), ("critical_overflow", critical_overflow)):
            with _options.accepted(f"{name} must be one of drop, fallback, block", policy):
                if policy not in ("drop", "fallback", "block"):
                    raise ValueError
        self.critical_level = level_number(critical_level)
        super().__init__(queue)
        self.fallback_handler = fallback_handler
        self.block_timeout = block_timeout
        self._policies = (overflow, critical_overflow)
        self._rescued = Counter()

    rescued_count: int = counted("_rescued", "Records without room that were written.  May be set.")

    def overflow(self, record: logging.LogRecord) -> None:
        policy = self._policies[record.levelno >= self.critical_level]
        try:
            if self._rescue(record, policy, self._queue.reader):
                self._rescued.add()
                return
        except queue_module.Full:
            pass
        except Exception:  # noqa: BLE001 - the standard library's rule for handlers
            self.handleError(record)
        self.drop(record)

    def _rescue(self, record: logging.LogRecord, policy: str, listener: Any) -> bool:
        # Then nobody writes, or makes room, before this thread goes on.
        busy = listener is not None and listener.busy_here()
        if policy == "block" and not busy:
            patiently(lambda: self._put(record), queue_module.Full, self.block_timeout)
            return True
        handler = self.fallback_handler
        if policy == "drop" or handler is None or record.levelno < handler.level:
            return False
        if listener is not None and not (busy or self._pickled):
            file, *others = (getattr(each, "baseFilename", each) for each in (handler, *listener.handlers))
            if file in others:
                listener.write_queued()
        failed: list[bool] = []
        # A record that is written may tell of what came after: a rotation, or a lock that was not had.
        with errors_noted(handler, lambda told: failed.append(not is_written(told))):
            verdict: Any = handler.handle(record)
        # A handler of its own kind may return nothing at all.
        return (verdict is None or bool(verdict)) and not any(failed)


def level_number(level: int | str) -> int:
    """The number of *level*, which may be a name such as `"ERROR"`."""
    number = level if isinstance(level, int) else logging.getLevelName(level.upper())
    if not isinstance(number, int):
        msg = f"unknown level {level!r}; accepted are numbers and names such as 'ERROR'"
        raise ValueError(msg)  # noqa: TRY004 - the type is right
    return number


class CriticalityFilter(logging.Filter):
    """Lets records from *min_level* up pass; a number or a name such as `"ERROR"`."""

    def __init__(self, min_level: int | str = logging.ERROR) -> None:
        super().__init__()
        self.min_level = level_number(min_level)

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= self.min_level


class CriticalOnlyFilter(CriticalityFilter):
    """For the handler that writes at once: ERROR and above, unless told otherwise."""


class NonCriticalFilter(CriticalityFilter):
    """The other half: what is below *min_level*, ERROR unless told otherwise."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno < self.min_level


def _picklable(value: Any) -> Any:
    try:
        pickle.dumps(value)
    except Exception:  # noqa: BLE001 - as above
        return repr(value)
    return value


@dataclass(frozen=True)
class QueueFigures:
    """What a `MonitoredQueueHandler` reports."""

    depth: int | None  #: Records in the queue now; None where the queue cannot tell.
    capacity: int  #: Records that fit; 0 where there is no known limit.
    max_depth_seen: int  #: The highest depth after a record was put in.
    total_messages: int  #: Records given to the handler.
    dropped_count: int  #: Records that nobody wrote.
    above_threshold: bool  #: The depth is above the threshold; never so without a limit.


class MonitoredQueueHandler(GracefulQueueHandler):
    """
    A `GracefulQueueHandler` that reports how full its queue is.

    The thread that does ends with `stop_monitoring()` or `close()`, and when nothing else refers to the handler.
    A forked child starts its own with its first record.

    Args:
        interval: Seconds between two reports.
        threshold: Part of the queue's capacity above which it counts as nearly full, 0 to 1.
        callback: Gets a `QueueFigures` once per interval, in the monitor's thread; what it raises is reported on
            stderr.  A callable or its dotted name; by default, a WARNING says that the queue is nearly full.
        monitor: False leaves it to you to call `start_monitoring()`.
        options: Those of `GracefulQueueHandler`.

    Raises:
        TypeError, ValueError: For an interval of 0 or less, a threshold outside 0 to 1, or what cannot be called.
    """

    def __init__(
        self,
        queue: Any,
        *,
        interval: float = 60.0,
        threshold: float = 0.8,
        callback: Callable[[QueueFigures], Any] | str | None = None,
        monitor: bool = True,
        **options: Any,
    ) -> None:
        with _options.accepted("interval must be more than 0 seconds", interval):
            if not interval > 0:
                raise ValueError
        with _options.accepted("threshold must be from 0 to 1", threshold):
            if not 0 <= threshold <= 1:
                raise ValueError
        self.callback: Callable[[QueueFigures], Any] = _options.callback(callback, "callback") or _warn
        super().__init__(queue, **options)
        self.interval = interval
        self.threshold = threshold
        self.max_depth_seen = 0
        self._total = Counter()
        self._monitors: dict[int, WakeableThread] | None = None  # by process; None while it does not monitor
        if monitor:
            self.start_monitoring()

    total_messages: int = counted("_total", "Records given to it, dropped ones included.  May be set.")

    def enqueue(self, record: logging.LogRecord) -> None:
        super().enqueue(record)
        self._total.add()
        self.max_depth_seen = max(self.max_depth_seen, self._queue.qsize() or 0)
        if self._monitors is not None and home.generation not in self._monitors:
            self.start_monitoring()

    def figures(self) -> QueueFigures:
        """The figures of this moment."""
        depth, capacity = self._queue.qsize(), self._queue.capacity
        above = capacity > 0 and (depth or 0) > self.threshold * capacity
        total, dropped = self.total_messages, self.dropped_count
        return QueueFigures(depth, capacity, self.max_depth_seen, total, dropped, above)

    def start_monitoring(self) -> None:
        """Start the monitor's thread, unless it runs."""
        self._monitors = {} if self._monitors is None else self._monitors
        notice_fork()
        if not threads_work():
            return  # a later record does
        handler_ref = weakref.ref(self, lambda _: monitor.ring())
        monitor = WakeableThread(partial(_watch, handler_ref, self.interval), "log queue monitor")
        if self._monitors.setdefault(home.generation, monitor) is monitor and not monitor.start():
            self._monitors.clear()

    def stop_monitoring(self) -> None:
        """End the monitor's thread."""
        monitors, self._monitors = self._monitors, None
        for monitor in (monitors or {}).values():
            monitor.join(1.0)

    def close(self) -> None:
        self.stop_monitoring()
        super().close()


def _watch(handler_ref: weakref.ref[MonitoredQueueHandler], interval: float, monitor: WakeableThread) -> None:
    trouble = Trouble()
    while not monitor.wait(interval):
        handler = handler_ref()
        if handler is None:
            return
        try:
            handler.callback(handler.figures())
            trouble.ends()
        except Exception as error:  # noqa: BLE001 - the next report may succeed
            trouble.complain(f"log queue monitor: the callback raised {error!r}")
        del handler  # the next wait must not keep it alive


def _warn(figures: QueueFigures) -> None:
    if figures.above_threshold:
        _logger.warning("log queue holds %d of %d records", figures.depth, figures.capacity)
