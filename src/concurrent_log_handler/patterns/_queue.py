"""The queue between those who log and the one who writes: the fastest one, and a caller's behind the same face.

What becomes of a record that finds no room, and who writes, is decided elsewhere.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable
from itertools import repeat, starmap
from typing import Any

from concurrent_log_handler._forks import GREEN, home, notice_fork
from concurrent_log_handler._patience import monotonic

from ._common import NEVER, TELL_EVERY, Counter, Trouble, patiently

LOGGER_NAME = "concurrent_log_handler.patterns"
_PATIENCE = 0.1  # seconds that a thread waits for a caller's queue whose lock somebody else has
_ASIDE_LIMIT = 1000  # records that a signal handler may leave beside a caller's queue
# What a queue between processes raises once it is closed or its other end is gone.
_GONE = (OSError, EOFError, ValueError)
# Whose queues join the threads, or the greenlets, of one process, whatever has been patched by now.
_OF_THREADS = GREEN | {"queue", "_queue"}
_OCCUPIED = object()


class RecordQueue:
    """
    A bounded queue of log records for the threads of one process; no thread ever waits for another in it.

    Its methods are those of `queue.Queue`.  Threads that race may pass *maxsize* by one each; 0 or less is no limit.
    """

    #: Records of several processes meet here: what is put in must be picklable.
    crosses_processes = False
    #: Seconds after which a sleeping listener looks for records that came without a call of `attend`.
    look_again = NEVER

    def __init__(self, maxsize: int = 10_000) -> None:
        self.maxsize = maxsize
        self.capacity = max(0, maxsize)  #: Number of records that fit; 0 for no (known) limit.
        self._items: deque[Any] = deque()
        self._crowd = max(1, maxsize // 2) if maxsize > 0 else sys.maxsize
        self.awake = False  #: The listener's thread is awake and will look again before it sleeps.
        self.reader: Any = None  #: The `BatchingQueueListener` that reads here, or did, or will.
        #: Threads that are inside the queue, perhaps with its lock; only a signal handler finds its own there.
        self.inside: set[int] = set()
        self.dropped = Counter()
        self.report_at = NEVER  #: When dropped records have to be told of.
        self._told = 0  # of `dropped`
        self._last_dropped: Any = None

    def put_nowait(self, record: Any) -> None:
        """Take *record* in, or raise `queue.Full`."""
        if getattr(record, "process", None) != home.pid:
            notice_fork()
        items = self._items
        if len(items) >= self._crowd:
            self.attend()  # a listener that lets records gather must not wait until the queue is full
            if len(items) >= self.maxsize:
                raise queue.Full
        items.append(record)
        if not self.awake:
            self.attend()

    def attend(self) -> None:
        """Called after each record that finds nobody awake; where no listener is known, it waits in the queue."""
        if self.reader is not None:
            self.reader.attend()

    def put(self, record: Any, block: bool = True, timeout: float | None = None) -> None:
        patiently(lambda: self.put_nowait(record), queue.Full, timeout if block else 0.0)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        return patiently(self.get_nowait, queue.Empty, timeout if block else 0.0)

    def get_nowait(self) -> Any:
        try:
            return self._items.popleft()
        except IndexError:
            raise queue.Empty from None

    def qsize(self) -> int:
        return len(self._items)

    def empty(self) -> bool:
        return not self._items

    def full(self) -> bool:
        return 0 < self.maxsize <= len(self._items)

    def take(self, limit: int, into: deque[Any]) -> None:
        """Move at most *limit* of what is there, at once, to the end of *into*."""
        # In one step of C's: no interrupt finds a record in neither place.
        with contextlib.suppress(IndexError):  # another thread was faster
            into.extend(starmap(self._items.popleft, repeat((), min(limit, len(self._items)))))

    def keep(self, record: Any) -> None:
        """Take *record* in although there is no room, or nobody may wait for its turn; or raise `queue.Full`."""
        self._items.append(record)

    def done(self, count: int) -> None:
        """Tell the queue that *count* records that it handed out are dealt with."""

    def reset(self) -> None:
        """In a forked child: what is queued, and told of, belongs to the parent, and so do the locks."""
        self._items.clear()
        self.inside.clear()
        self.awake = False
        self._told, self.report_at = self.dropped.value(), NEVER

    def note_drop(self, record: Any) -> None:
        self.dropped.add()
        self._last_dropped = record
        self.report_at = min(self.report_at, monotonic() + TELL_EVERY)
        if self.crosses_processes:
            owing.add(self)

    def report_drops(self, send: Callable[[logging.LogRecord], Any]) -> None:
        """*send* the record that tells of what was dropped since the last such record; if it raises, it stays due."""
        due, self.report_at = self.report_at, NEVER
        if due == NEVER:
            return
        told, self._told = self._told, self.dropped.value()
        of = f" of {self.capacity}" if self.capacity else ""
        text = f"{self._told - told} log records dropped, {self._told} in all: the queue{of} was full"
        report = logging.LogRecord(LOGGER_NAME, logging.WARNING, __file__, 0, text, None, None)
        # The formatter of the file may count on fields that the application's records have.
        report.__dict__ = {**getattr(self._last_dropped, "__dict__", {}), **report.__dict__}
        try:
            send(report)
        except queue.Full:
            self.report_at, self._told = due, told


class CallersQueue(RecordQueue):
    """
    Any queue with `put_nowait` and `get_nowait`.

    A signal handler may interrupt a thread inside it, with its lock: its record goes aside, and the listener
    finds it there.  A fork may copy it while another thread has the lock.
    """

    look_again = 0.05

    def __init__(self, target: Any) -> None:
        super().__init__(_ASIDE_LIMIT)  # of what goes aside
        self.target = target
        limit = getattr(target, "maxsize", getattr(target, "_maxsize", 0))
        # multiprocessing stands in SEM_VALUE_MAX where no limit was given.
        self.capacity = limit if isinstance(limit, int) and 0 < limit < 2**31 - 1 else 0
        modules = {base.__module__.partition(".")[0] for base in type(target).__mro__}
        self.crosses_processes = _OF_THREADS.isdisjoint(modules)
        self._mutex: Any = getattr(target, "mutex", getattr(getattr(target, "_notempty", 0), "_lock", None))
        self._unreadable, self._failing = 0, Trouble()

    def _within(self, step: Callable[..., Any], *args: Any) -> Any:
        """Return `step(*args)`, a call of the queue's; `_OCCUPIED` if this thread cannot have it now."""
        me = threading.get_ident()
        if me in self.inside:
            return _OCCUPIED
        try:
            try:
                self.inside.add(me)
                return step(*args) if self._is_free() else _OCCUPIED
            finally:
                self.inside.discard(me)
        except BaseException as error:
            self.inside.discard(me)  # an interrupt may have cut the `finally` above short
            if not isinstance(error, (queue.Full, queue.Empty)) and not self._is_free():
                # One inside `Condition.__enter__` left the lock taken, and nobody would ever free it.
                self._mutex.release()
            raise

    def _is_free(self) -> bool:
        """Others have its lock for a moment only; the code that a signal handler interrupted keeps it."""
        free = self._mutex is None or not self._mutex.locked()
        if not free and self._mutex.acquire(timeout=_PATIENCE):
            self._mutex.release()
            return True
        return free

    def put_nowait(self, record: Any) -> None:
        if getattr(record, "process", None) != home.pid:
            notice_fork()
        if self.crosses_processes and self.reader is not None and self.reader.stopped:
            self.reader.write_at_once(record)
            return
        if self._within(self._put, record) is _OCCUPIED:
            self.keep(record)
        if not self.awake:
            self.attend()

    def _put(self, record: Any) -> None:
        self._settle()
        self.target.put_nowait(record)

    def settle(self) -> None:
        """Put in what went aside, where nobody in this process would find it."""
        self._within(self._settle)

    def _settle(self) -> None:
        # By one thread at a time.
        while self._items and self.reader is None and len(self.inside) == 1:
            self.target.put_nowait(self._items[0])
            self._items.popleft()

    def keep(self, record: Any) -> None:
        if self.full():
            raise queue.Full
        super().keep(record)
        owing.add(self)

    def take(self, limit: int, into: deque[Any]) -> None:
        self._within(self._take, limit, into)
        super().take(limit - len(into), into)

    def _take(self, limit: int, into: deque[Any]) -> None:
        try:
            while len(into) < limit:
                into.append(self.target.get_nowait())
                self._failing.ends()
        except (queue.Empty, *_GONE):
            pass
        except Exception as error:  # noqa: BLE001 - whatever unpickling here may raise costs this record only
            self._unreadable += 1
            if self._failing.begins():
                of = " of other processes" if self.crosses_processes else ""
                text = f"{self._unreadable} log records{of} cannot be read{of and ' here'}: {error!r}"
                into.append(logging.LogRecord(LOGGER_NAME, logging.ERROR, __file__, 0, text, None, None))
                self._unreadable = 0

    def done(self, count: int) -> None:
        # A ValueError, where somebody else has called it as well.
        with contextlib.suppress(AttributeError, *_GONE):
            self._within(lambda: [self.target.task_done() for _ in range(count)])

    def qsize(self) -> Any:
        """Number of records inside; None where the queue cannot tell."""
        try:
            size = self._within(self.target.qsize)
        except (NotImplementedError, AttributeError, OSError, EOFError):
            return None
        return None if size is _OCCUPIED else int(size) + len(self._items)

    def reset(self) -> None:
        super().reset()
        with contextlib.suppress(Exception):  # `queue.Empty`, or whatever one that only fails raises
            if self.crosses_processes:
                # The parent reads: this process only puts in, and nobody here needs to be called.
                self.reader, self.awake = None, True
                # The thread that sends for a multiprocessing.Queue exists in the parent only; a fork() that
                # multiprocessing did not make goes unnoticed there.
                self.target._reset(after_fork=True)
                return
            if self._mutex is not None and self._mutex.locked():
                self._mutex.release()  # whoever had it at the fork is not in this process
            while True:
                self.target.get_nowait()
                self.done(1)


def queue_of(target: Any) -> RecordQueue:
    """The one `RecordQueue` of *target* in this process: handlers and listeners find each other through it."""
    notice_fork()
    # It keeps the target alive, whose number nobody else gets meanwhile.
    return _known.setdefault(id(target), target if isinstance(target, RecordQueue) else CallersQueue(target))


def all_queues() -> list[RecordQueue]:
    """Every queue of this process that somebody still uses."""
    # Not values(): that breaks off if another thread adds one meanwhile.
    return [known for known in (reference() for reference in _known.valuerefs()) if known is not None]


#: Queues that others read, and that lack a record of ours or the report of a drop: no handler may be left at the end.
owing: set[Any] = set()
_known: weakref.WeakValueDictionary[int, RecordQueue] = weakref.WeakValueDictionary()
