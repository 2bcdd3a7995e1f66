"""Small questions on the way to a handler: does it take batches, what passes, and what to say on stderr.

No state but a memory of handler classes; who asks, and in which thread, is `_listener`'s.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
from collections import deque
from typing import TYPE_CHECKING, Any

from concurrent_log_handler.patterns._ports import patiently

if TYPE_CHECKING:
    from concurrent_log_handler.patterns._ports import Port

LOGGER_NAME = "concurrent_log_handler.patterns"
_takes_batches: dict[type, bool] = {}


def drop_report(port: Port) -> logging.LogRecord:
    """The record that tells of what was dropped at *port* since the last such record."""
    port.untold_since = None
    total = port.dropped.value()
    new, port.told = total - port.told, total
    limit = port.capacity()
    text = f"{new} log records dropped, {total} in all: the queue{f' of {limit}' if limit else ''} was full"
    report = _report(logging.WARNING, text)
    # The formatter of the file may count on fields that the application's records have.
    last, port.last_dropped = port.last_dropped, None
    if last is not None:
        report.__dict__.update(
            {name: value for name, value in vars(last).items() if name not in vars(report)}
        )
    return report


def tell_reader(port: Port, patience: float = 0.0) -> None:
    """Send the report of what was dropped at *port* to the process that reads there, within *patience* seconds."""
    since, told, last = port.untold_since, port.told, port.last_dropped
    report = drop_report(port)
    try:
        patiently(lambda: port.put_nowait(report), queue.Full, patience)
    except queue.Full:
        port.untold_since, port.told, port.last_dropped = since, told, last


def unreadable_report(count: int, error: Exception) -> logging.LogRecord:
    """The record that stands in for what another process put in and this one cannot unpickle."""
    return _report(logging.ERROR, f"{count} log records of other processes cannot be read here: {error!r}")


def _report(level: int, text: str) -> logging.LogRecord:
    return logging.LogRecord(LOGGER_NAME, level, __file__, 0, text, None, None)


def takes_batches(handler: logging.Handler) -> bool:
    """*handler* has `emit_batch`, and nobody has overridden what that would bypass."""
    kind = type(handler)
    known = _takes_batches.get(kind)
    if known is None:
        known = False
        for base in kind.__mro__:
            if "emit_batch" in base.__dict__:
                known = True
                break
            if "emit" in base.__dict__ or "handle" in base.__dict__:
                break
        _takes_batches[kind] = known
    return known and "emit" not in handler.__dict__ and "handle" not in handler.__dict__


def filters_itself(handler: logging.Handler) -> bool:
    """The class of *handler* has a `filter` of its own, which is asked although no filter was added."""
    return type(handler).filter is not logging.Filterer.filter


def filtered(handler: logging.Handler, batch: deque[logging.LogRecord]) -> deque[logging.LogRecord]:
    """What the filters of *handler* let through; from Python 3.12 on they may replace a record."""
    if not handler.filters and not filters_itself(handler):
        return batch
    passed: deque[logging.LogRecord] = deque()
    for record in batch:
        try:
            verdict: Any = handler.filter(record)
        except Exception:  # noqa: BLE001 - one bad record must not cost its neighbours
            handler.handleError(record)
            continue
        if verdict:
            passed.append(verdict if isinstance(verdict, logging.LogRecord) else record)
    return passed


def complain(text: str) -> None:
    """One line on stderr, without buffered I/O, so also from a signal handler."""
    try:
        os.write(sys.stderr.fileno() if sys.stderr is not None else 2, f"{text}\n".encode(errors="replace"))
    except (OSError, ValueError, AttributeError):
        pass
