"""What stands between the application and the listener: the port, and the fastest queue behind it.

A *port* is one queue seen from both ends: taking in, handing out, waking whoever reads, and what a
forked child finds.  `RecordQueue` is a port by itself; queues that callers bring get one in `_callers`.
What becomes of a record, and who reads, is `_listener`'s business; what happens when there is no room
is `_handler`'s.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections import deque
from itertools import repeat, starmap
from typing import TYPE_CHECKING, Any

from concurrent_log_handler._forks import home, notice_fork
from concurrent_log_handler.patterns._counter import Counter

if TYPE_CHECKING:
    from collections.abc import Callable

    from concurrent_log_handler.patterns._listener import BatchingQueueListener

#: The log tells of dropped records at most this often, in seconds.
TELL_EVERY = 1.0


class Port:
    """One queue: `put_nowait` for the application, `take` and `wait` for the one listener."""

    #: Records of several processes meet here: what is put in must be picklable.
    crosses_processes = False
    #: Whoever puts records in also rings; else the listener's thread must run from the start.
    rings = False

    def __init__(self) -> None:
        #: Called after each record that finds nobody attentive.
        self.attend: Callable[[], None] = nobody
        #: The listener's thread is awake and will look again before it sleeps.
        self.attentive = False
        #: The listener that reads here, or did, or will.
        self.reader: BatchingQueueListener | None = None
        self.dropped = Counter()
        #: Of `dropped`, how many the log already tells of, and since when it does not.
        self.told = 0
        self.untold_since: float | None = None
        self.last_dropped: Any = None
        self._bell = new_bell()

    def put_nowait(self, record: Any) -> None:
        """Take *record* in, or raise `queue.Full`."""
        raise NotImplementedError

    def take(self, limit: int, into: deque[Any]) -> None:
        """Move at most *limit* of what is there, at once, to the end of *into*."""
        raise NotImplementedError

    def keep(self, record: Any) -> None:
        """Take *record* in, although nobody may wait for its turn now; or raise `queue.Full`."""
        raise NotImplementedError

    def wait(self, timeout: float | None) -> None:
        """Sleep until there may be something to take, at most *timeout* seconds."""
        raise NotImplementedError

    def depth(self) -> int | None:
        """Number of records inside; None where the queue cannot tell."""
        raise NotImplementedError

    def capacity(self) -> int:
        """Number of records that fit; 0 for no (known) limit."""
        raise NotImplementedError

    def reset(self) -> None:
        """In a forked child: what is queued belongs to the parent, and so do the locks."""
        self._bell = new_bell()
        self.attentive = False
        # The parent tells of what was dropped before the fork.
        self.told, self.untold_since, self.last_dropped = self.dropped.value(), None, None

    def entered_here(self) -> bool:
        """This thread is inside the queue, perhaps with its lock; only a signal handler finds that."""
        return False

    def done(self, count: int) -> None:
        """Tell the queue that *count* records that it handed out are dealt with."""

    def finish(self, deadline: float | None) -> None:
        """Make sure that `take` will see everything that this process has put in."""

    def settled(self) -> bool:
        """What `finish` waits for has come, or its time is up."""
        return True

    def linger(self, seconds: float) -> None:
        """Sleep while records gather, unless somebody rings."""
        self._bell.acquire(timeout=seconds)

    def wake(self) -> None:
        """Ring.  Waits for no lock beyond a moment, so that a signal handler may call it."""
        if self._bell.locked():
            try:
                self._bell.release()
            except RuntimeError:
                pass  # somebody else rang in between

    def due(self) -> bool:
        """Dropped records have gone untold for as long as they may."""
        since = self.untold_since
        return since is not None and time.monotonic() - since >= TELL_EVERY

    def note_drop(self, record: Any) -> None:
        """Count *record* as one that nobody will write."""
        self.dropped.add()
        self.last_dropped = record
        if self.untold_since is None:
            self.untold_since = time.monotonic()


class RecordQueue(Port):
    """
    A bounded queue of log records for the threads and forked children of one process.

    Its only moving parts are a `collections.deque` and a lock that serves as a bell.  No thread ever
    waits for another in it, so a signal handler and a forked child can use it at any moment.

    Args:
        maxsize: Number of records that fit.  Threads that race may pass it by one each.  0 or less:
            no limit, which the set-up functions never use.
    """

    rings = True

    def __init__(self, maxsize: int = 10_000) -> None:
        super().__init__()
        self.maxsize = maxsize
        self._items: deque[Any] = deque()
        self._crowd = max(1, maxsize // 2) if maxsize > 0 else sys.maxsize

    def put_nowait(self, record: Any) -> None:
        if getattr(record, "process", None) != home.pid:
            notice_fork()  # a standard QueueHandler does not
        self.add(record)

    def add(self, record: Any) -> None:
        """As `put_nowait`, for those who have seen to it that no fork went unnoticed."""
        items = self._items
        if len(items) >= self._crowd:
            self._crowded()
        items.append(record)
        if not self.attentive:
            self.attend()

    def _crowded(self) -> None:
        self.wake()  # a lingering listener must not wait until the queue is full
        if len(self._items) >= self.maxsize:
            raise queue.Full

    def put(self, record: Any, block: bool = True, timeout: float | None = None) -> None:
        """As `queue.Queue.put`; *timeout* in seconds."""
        patiently(lambda: self.put_nowait(record), queue.Full, timeout if block else 0.0)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """As `queue.Queue.get`, for code that is not ours; *timeout* in seconds."""
        return patiently(self.get_nowait, queue.Empty, timeout if block else 0.0)

    def get_nowait(self) -> Any:
        """As `queue.Queue.get_nowait`."""
        try:
            return self._items.popleft()
        except IndexError:
            raise queue.Empty from None

    def take(self, limit: int, into: deque[Any]) -> None:
        move(self._items, limit, into)

    def keep(self, record: Any) -> None:
        self._items.append(record)

    def wait(self, timeout: float | None) -> None:
        self._bell.acquire(timeout=-1 if timeout is None else timeout)

    def depth(self) -> int:
        return len(self._items)

    qsize = depth

    def capacity(self) -> int:
        return max(0, self.maxsize)

    def empty(self) -> bool:
        return not self._items

    def full(self) -> bool:
        return 0 < self.maxsize <= len(self._items)

    def reset(self) -> None:
        super().reset()
        self._items.clear()


def patiently(step: Callable[[], Any], refusal: type[Exception], timeout: float | None) -> Any:
    """Repeat *step* as long as it raises *refusal*, at most for *timeout* seconds."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        try:
            return step()
        except refusal:
            if deadline is not None and time.monotonic() >= deadline:
                raise
        time.sleep(0.001)


def move(source: deque[Any], limit: int, into: deque[Any]) -> None:
    """Move at most *limit* records; no interrupt finds one of them in neither place, since C does it."""
    try:
        into.extend(starmap(source.popleft, repeat((), min(limit, len(source)))))
    except IndexError:
        pass  # another thread was faster


def nobody() -> None:
    """No listener is known in this process: the record waits in the queue."""


def new_bell() -> threading.Lock:
    bell = threading.Lock()
    bell.acquire()
    return bell
