"""The cheap end of the queue: freeze a record, put it in, and decide what happens when there is no room.

Nothing here opens a file or waits for one, except where the caller chose a synchronous write or to wait
for room.  Who reads the queue, and when, is `_listener`'s.
"""

from __future__ import annotations

import copy
import logging
import logging.handlers
import os
import pickle
import queue as queue_module
from functools import partial
from typing import TYPE_CHECKING, Any

from concurrent_log_handler._forks import home, notice_fork
from concurrent_log_handler.patterns._callers import port_of
from concurrent_log_handler.patterns._counter import Counter
from concurrent_log_handler.patterns._exit import hook_exit_of_children, owing
from concurrent_log_handler.patterns._handout import LOGGER_NAME, filters_itself, tell_reader
from concurrent_log_handler.patterns._ports import RecordQueue, patiently
from concurrent_log_handler.patterns._taps import failures_noted

if TYPE_CHECKING:
    from collections.abc import Callable

    from concurrent_log_handler.patterns._listener import BatchingQueueListener

_POLICIES = ("drop", "fallback", "block")
_new = object.__new__
_NO_FORMATTER = logging.Formatter()


class FastQueueHandler(logging.handlers.QueueHandler):
    """
    A `logging.handlers.QueueHandler` whose call costs about half, and that survives `fork()`.

    The message is frozen at the call, by a formatter if this handler has one.  A message that is not a
    string stays what it is, a dict as a shallow copy, and so do `extra` fields.  Inside one process
    `exc_info` stays with the record, so that the formatter of the file renders it; for a queue between
    processes it becomes text, and values that cannot be pickled become their `repr`.  No lock is taken.

    When the queue is full the record is dropped and counted, and the log itself says so.

    Args:
        queue: As for `BatchingQueueListener`, which reads it.
    """

    def __init__(self, queue: Any) -> None:
        super().__init__(queue)
        #: The listener that belongs to this handler; 3.12's `dictConfig` sets it.
        self.listener: Any = None
        self._port = port_of(queue)
        self._put: Callable[[Any], None] = self._port.put_nowait
        if isinstance(self._port, RecordQueue) and type(self._port).put_nowait is RecordQueue.put_nowait:
            self._put = self._port.add  # `emit` looks for forks itself
        self._pickled = self._port.crosses_processes
        if self._pickled:
            hook_exit_of_children()
        self._filters_itself = filters_itself(self)
        self._dropped = Counter()

    @property
    def dropped_count(self) -> int:
        """Number of records of this handler that nobody wrote.  May be set."""
        return self._dropped.value()

    @dropped_count.setter
    def dropped_count(self, value: int) -> None:
        self._dropped.set(value)

    def handle(self, record: logging.LogRecord) -> Any:
        if self.filters or self._filters_itself:
            verdict: Any = self.filter(record)
            if not verdict:
                return verdict
            if isinstance(verdict, logging.LogRecord):
                record = verdict
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if record.process != home.pid:
                notice_fork()
            self.enqueue(self.prepare(record))
        except Exception:  # noqa: BLE001 - the standard library's rule for handlers
            self.handleError(record)

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """
        A copy of *record* that no later change of the caller's reaches.

        A formatter of this handler's own makes the message, with traceback and stack, as in the
        standard library.
        """
        if type(record) is logging.LogRecord:
            # A third of what copy.copy() takes, and half of filling an empty dictionary.
            frozen = _new(logging.LogRecord)
            frozen.__dict__ = record.__dict__.copy()
        else:
            frozen = copy.copy(record)
        message = frozen.msg
        if self.formatter is not None:
            frozen.msg = frozen.message = self.format(record)
            frozen.args = frozen.exc_info = frozen.exc_text = frozen.stack_info = None
        elif isinstance(message, str):
            if frozen.args:
                frozen.msg = frozen.getMessage()
                frozen.args = None
        elif isinstance(message, dict):
            frozen.msg = message.copy()
        if self._pickled:
            return self._for_other_processes(frozen)
        if frozen.exc_text and _is_plain_traceback(frozen):
            frozen.exc_text = None
        return frozen

    def _for_other_processes(self, frozen: logging.LogRecord) -> logging.LogRecord:
        if frozen.exc_info:
            if not frozen.exc_text and isinstance(frozen.exc_info, tuple):
                formatter = self.formatter or _NO_FORMATTER
                frozen.exc_text = formatter.formatException(frozen.exc_info)
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
                self._port.keep(record)  # that the queue is full, one line at a time
            else:
                self.overflow(record)
        else:
            if self._pickled and self._port.untold_since is not None:
                self._tell_reader()

    def overflow(self, record: logging.LogRecord) -> None:
        """Called for a record that found the queue full: drop it and count it."""
        self.drop(record)

    def drop(self, record: logging.LogRecord) -> None:
        """Count *record* as one that nobody writes; the log will say so."""
        self._dropped.add()
        self._port.note_drop(record)
        if self._pickled and self._port.reader is None:
            owing.add(self._port)

    def _tell_reader(self) -> None:
        # The listener is in another process: what was dropped here has to go through the queue as well.
        if self._port.reader is None and self._port.due():
            tell_reader(self._port)
            if self._port.untold_since is None:
                owing.discard(self._port)


class GracefulQueueHandler(FastQueueHandler):
    """
    A queue handler that says what becomes of a record when the queue is full.

    `"drop"` counts it in `dropped_count`; `"fallback"` writes it at once through *fallback_handler*, in
    the calling thread; `"block"` waits for room.  If the fallback writes to the same file as the
    listener, what is queued is written first, so that no record overtakes another.  A record that the
    fallback's level or filters refuse, or that needs a fallback where there is none, counts as dropped.

    Args:
        queue: As for `FastQueueHandler`.
        fallback_handler: Writes what finds no room; usually the handler of the file itself.
        overflow: What happens to records below *critical_level*.
        critical_overflow: What happens to records from *critical_level* up.
        critical_level: A number or a name such as `"ERROR"`.
        block_timeout: Seconds that `"block"` waits at most; then the record counts as dropped.  None
            waits as long as it takes.

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
            if policy not in _POLICIES:
                msg = f"{name} must be one of {', '.join(_POLICIES)}, got {policy!r}"
                raise ValueError(msg)
        super().__init__(queue)
        self.fallback_handler = fallback_handler
        self.critical_level = level_number(critical_level)
        self.block_timeout = block_timeout
        self._policies = (overflow, critical_overflow)
        self._rescued = Counter()

    @property
    def rescued_count(self) -> int:
        """Number of records that found the queue full and were written all the same.  May be set."""
        return self._rescued.value()

    @rescued_count.setter
    def rescued_count(self, value: int) -> None:
        self._rescued.set(value)

    def overflow(self, record: logging.LogRecord) -> None:
        policy = self._policies[record.levelno >= self.critical_level]
        rescue = {"block": self._wait_for_room, "fallback": self._fall_back}.get(policy)
        if rescue is not None and rescue(record):
            self._rescued.add()
        else:
            self.drop(record)

    def _wait_for_room(self, record: logging.LogRecord) -> bool:
        if self._port.reader is not None and self._port.reader.busy_here():
            return False  # a handler that logs while it writes: nobody else would make room
        try:
            patiently(lambda: self._put(record), queue_module.Full, self.block_timeout)
        except queue_module.Full:
            return False
        return True

    def _fall_back(self, record: logging.LogRecord) -> bool:
        handler = self.fallback_handler
        if handler is None or record.levelno < handler.level:
            return False
        listener: BatchingQueueListener | None = self._port.reader
        write: Callable[[logging.LogRecord], Any]
        if listener is not None and any(_same_file(handler, other) for other in listener.handlers):
            write = partial(listener.write_after_queued, handle=partial(_written, handler))
        else:
            write = partial(_written, handler)
        try:
            return bool(write(record))
        except Exception:  # noqa: BLE001 - the standard library's rule for handlers
            self.handleError(record)
            return False


def _written(handler: logging.Handler, record: logging.LogRecord) -> bool:
    with failures_noted(handler) as failed:
        verdict = handler.handle(record)
    # A handler of its own kind may return nothing at all.
    return (verdict is None or bool(verdict)) and not failed


def level_number(level: int | str) -> int:
    """The number of *level*, which may be a name such as `"ERROR"`."""
    if isinstance(level, int):
        return level
    number = logging.getLevelName(level.upper())
    if not isinstance(number, int):
        msg = f"unknown level {level!r}; accepted are numbers and names such as 'ERROR'"
        raise ValueError(msg)  # noqa: TRY004 - the type is right
    return number


def _same_file(one: logging.Handler, other: logging.Handler) -> bool:
    if one is other:
        return True
    name = getattr(one, "baseFilename", None)
    return name is not None and name == getattr(other, "baseFilename", os.devnull)


def _is_plain_traceback(record: logging.LogRecord) -> bool:
    """
    The text was left by another handler's formatter, so the file's own must get its turn.

    Any other text was put there on purpose, to hide a secret for example.
    """
    info = record.exc_info
    return isinstance(info, tuple) and record.exc_text == _NO_FORMATTER.formatException(info)


def _picklable(value: Any) -> Any:
    try:
        pickle.dumps(value)
    except Exception:  # noqa: BLE001 - as above
        return repr(value)
    return value
