"""Ports for the queues that callers bring, and where handlers and listeners find the port of a queue.

Such a queue has locks of its own.  A signal handler may interrupt a thread that holds one, and a fork
may copy one that is held: both are dealt with here.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from concurrent_log_handler._forks import notice_fork
from concurrent_log_handler.patterns._handout import unreadable_report
from concurrent_log_handler.patterns._ports import TELL_EVERY, Port, move, nobody

if TYPE_CHECKING:
    from collections.abc import Callable

    from concurrent_log_handler.patterns._listener import BatchingQueueListener

# How long a thread waits for a caller's queue whose lock somebody else has, in seconds.
_PATIENCE = 0.1
# How often a sleeping listener looks at a queue that cannot ring for everything, in seconds.
_LOOK_AGAIN = 0.2
# What a queue between processes raises once it is closed or its other end is gone.
_GONE = (OSError, EOFError, ValueError)
_MARK = "concurrent_log_handler: all before this is taken"
# Records that a signal handler may leave beside a caller's queue.
_ASIDE_LIMIT = 1000


class _Guarded(Port):
    """A queue of the caller's, with locks of its own that a signal handler may find taken."""

    def __init__(self, target: Any) -> None:
        super().__init__()
        self.target = target
        # Threads that are inside the queue right now.  A signal handler that runs in one of them
        # must not enter it again: its record goes aside.
        self._inside: set[int] = set()
        self._aside: deque[Any] = deque()

    def entered_here(self) -> bool:
        return threading.get_ident() in self._inside

    def _put_aside(self, record: Any) -> None:
        if len(self._aside) >= _ASIDE_LIMIT:
            raise queue.Full
        self._aside.append(record)

    def keep(self, record: Any) -> None:
        self._put_aside(record)

    def _take_aside(self, limit: int, into: deque[Any]) -> None:
        move(self._aside, limit - len(into), into)

    def capacity(self) -> int:
        limit = getattr(self.target, "maxsize", getattr(self.target, "_maxsize", 0))
        # multiprocessing stands in SEM_VALUE_MAX where no limit was given.
        return limit if isinstance(limit, int) and 0 < limit < 2**31 - 1 else 0

    def reset(self) -> None:
        super().reset()
        self._inside.clear()
        self._aside.clear()


class ThreadPort(_Guarded):
    """A caller's `queue.Queue`, also a `PriorityQueue` or a subclass."""

    target: queue.Queue[Any]

    def __init__(self, target: queue.Queue[Any]) -> None:
        super().__init__(target)
        self._owed = 0

    def put_nowait(self, record: Any) -> None:
        if not self._locked(self._put, record):
            self._put_aside(record)
        if not self.attentive:
            self.attend()

    def _put(self, record: Any) -> None:
        target = self.target
        if 0 < target.maxsize <= target._qsize():
            raise queue.Full
        target._put(record)
        target.unfinished_tasks += 1
        target.not_empty.notify()

    def _locked(self, step: Callable[..., None], *args: Any) -> bool:
        """Run *step* under the queue's lock; False if this thread cannot have it."""
        me, mutex = threading.get_ident(), self.target.mutex
        if me in self._inside:
            return False
        self._inside.add(me)
        try:
            # Bounded: the interrupted frame may hold it through the queue's own methods.
            if not mutex.acquire(timeout=_PATIENCE):
                return False
            try:
                step(*args)
            finally:
                mutex.release()
        finally:
            self._inside.discard(me)
        return True

    def take(self, limit: int, into: deque[Any]) -> None:
        self._locked(self._take, limit, into)
        self._take_aside(limit, into)

    def _take(self, limit: int, into: deque[Any]) -> None:
        target = self.target
        if type(target) is queue.Queue:
            move(target.queue, limit, into)
        else:
            for _ in range(min(limit, target._qsize())):
                into.append(target._get())
        if into:
            target.not_full.notify(len(into))

    def done(self, count: int) -> None:
        self._owed += count
        self._locked(self._settle)

    def _settle(self) -> None:
        owed, self._owed = self._owed, 0
        target = self.target
        target.unfinished_tasks = max(0, target.unfinished_tasks - owed)
        if not target.unfinished_tasks:
            target.all_tasks_done.notify_all()

    def wait(self, timeout: float | None) -> None:
        # A bound on every sleep: a record aside, or a stop, may come while the lock is taken.
        bound = 5 * _LOOK_AGAIN if timeout is None else timeout
        target = self.target
        with target.mutex:
            if not target._qsize() and not self._aside and self._bell.locked():
                target.not_empty.wait(bound)
        self._bell.acquire(False)

    def wake(self) -> None:
        super().wake()
        self._locked(self.target.not_empty.notify_all)

    def depth(self) -> int:
        return self.target._qsize() + len(self._aside)

    def reset(self) -> None:
        super().reset()
        target = self.target
        # Another thread of the parent may have held the lock at the fork: nobody would ever free it.
        target.mutex = threading.Lock()
        target.not_empty = threading.Condition(target.mutex)
        target.not_full = threading.Condition(target.mutex)
        target.all_tasks_done = threading.Condition(target.mutex)
        for _ in range(target._qsize()):
            target._get()
        target.unfinished_tasks = self._owed = 0


class ForeignPort(_Guarded):
    """Any other queue that has `put` and `get`: its locks are its own, so it is only called."""

    def __init__(self, target: Any) -> None:
        super().__init__(target)
        self.crosses_processes = not isinstance(target, queue.SimpleQueue)
        self._first: deque[Any] = deque()
        self._owed = 0
        self._unreadable, self._unreadable_told = 0, -TELL_EVERY
        self._marks = self._marks_inside = 0
        self._mark: tuple[str, int, int] | None = None
        self._mark_deadline: float | None = None

    def put_nowait(self, record: Any) -> None:
        if self.crosses_processes and self.reader is not None and self.reader.stopped:
            self.reader.handle(record)  # what goes in now would come out only after a while
            return
        me = threading.get_ident()
        if me in self._inside:
            self._put_aside(record)  # the interrupted call below, or the listener, sees to it
            return
        self._inside.add(me)
        try:
            self._put(record)
            self._put_what_is_aside()
        finally:
            self._inside.discard(me)
        if self.crosses_processes and self.reader is not None and self.reader.stopped:
            self.reader.write_latecomer()  # stopped while we were inside
        elif not self.attentive:
            self.attend()

    def _put(self, record: Any) -> None:
        put = getattr(self.target, "put_nowait", None)
        if put is not None:
            put(record)
        else:
            self.target.put(record)

    def _put_what_is_aside(self) -> None:
        while self._aside:
            record = self._aside.popleft()
            try:
                self._put(record)
            except queue.Full:  # not the caller's: the next call, or the listener, finds it there
                self._aside.appendleft(record)
                return

    def take(self, limit: int, into: deque[Any]) -> None:
        me = threading.get_ident()
        if me in self._inside:
            self._take_aside(limit, into)
            return
        self._inside.add(me)
        try:
            while len(into) < limit:
                item = self._first.popleft() if self._first else self._get_whole(0.0)
                if not isinstance(item, tuple) or item[:1] != (_MARK,):
                    into.append(item)
                    continue
                self._marks_inside -= item[1] == os.getpid()
                self._owed += 1
                if item == self._mark:  # any other one came too late for its `stop()`
                    self._mark = None
        except (queue.Empty, *_GONE):
            pass
        finally:
            self._inside.discard(me)
        self._take_aside(limit, into)

    def done(self, count: int) -> None:
        self._owed += count
        task_done = getattr(self.target, "task_done", None)
        me = threading.get_ident()
        if task_done is None or me in self._inside:
            return
        self._inside.add(me)
        try:
            while self._owed > 0:
                self._owed -= 1
                task_done()
        except (*_GONE, AttributeError):  # a ValueError, where somebody else has called it as well
            self._owed = 0
        finally:
            self._inside.discard(me)

    def _get_whole(self, timeout: float) -> Any:
        try:
            return self._get(timeout)
        except (queue.Empty, *_GONE):
            raise
        except Exception as error:  # noqa: BLE001 - whatever unpickling here may raise costs this record only
            time.sleep(0.001)  # a queue that only fails must not take the whole processor
            self._unreadable += 1
            now = time.monotonic()
            if now < self._unreadable_told + TELL_EVERY:
                return None  # which the listener leaves out
            self._unreadable_told = now
            return unreadable_report(self._unreadable, error)

    def _get(self, timeout: float) -> Any:
        if hasattr(self.target, "get_nowait"):
            return self.target.get(True, timeout) if timeout else self.target.get_nowait()
        # multiprocessing.SimpleQueue knows neither a time limit nor "nothing there".
        if self.target.empty():
            time.sleep(timeout)
            raise queue.Empty
        return self.target.get()

    def wait(self, timeout: float | None) -> None:
        bound = _LOOK_AGAIN if timeout is None else min(timeout, _LOOK_AGAIN)
        try:
            self._first.append(self._get_whole(bound))
        except queue.Empty:
            pass
        except _GONE:
            self.linger(bound)

    def finish(self, deadline: float | None) -> None:
        # A multiprocessing.Queue sends from a thread of its own: what this process has put in is all
        # there once a mark that follows it has come out.
        if not hasattr(self.target, "_buffer"):
            return
        self._marks += 1
        mark = (_MARK, os.getpid(), self._marks)
        self._mark_deadline, self._mark = deadline, mark
        while not self.settled():
            try:
                self.target.put(mark, True, _PATIENCE)
                self._marks_inside += 1
                return
            except queue.Full:
                continue
            except Exception:  # noqa: BLE001 - a closed queue: nothing can follow
                self._mark = None

    def settled(self) -> bool:
        return self._mark is None or (
            self._mark_deadline is not None and time.monotonic() >= self._mark_deadline
        )

    def depth(self) -> int | None:
        me = threading.get_ident()
        if me in self._inside:
            return None  # we are in a signal handler: a manager's queue must not be asked now
        self._inside.add(me)
        try:
            return max(0, int(self.target.qsize()) + len(self._first) + len(self._aside) - self._marks_inside)
        except (NotImplementedError, AttributeError, OSError, EOFError):
            return None
        finally:
            self._inside.discard(me)
            if self._aside and self.reader is None:
                self._put_late()

    def _put_late(self) -> None:
        """Put in what a signal handler could not, where no listener of this process will look."""
        me = threading.get_ident()
        self._inside.add(me)
        try:
            self._put_what_is_aside()
        finally:
            self._inside.discard(me)

    def reset(self) -> None:
        super().reset()
        self._first.clear()
        self._mark, self._marks_inside, self._owed = None, 0, 0
        if not self.crosses_processes:
            self.take(sys.maxsize, deque())
            return
        # The parent reads: this process only puts in, and nobody here needs to be called.
        self.attend, self.reader, self.attentive = nobody, None, True
        # The thread that sends for a multiprocessing.Queue exists in the parent only; a fork() that
        # multiprocessing did not make goes unnoticed there.
        renew = getattr(self.target, "_reset", None) or getattr(self.target, "_after_fork", None)
        if callable(renew) and hasattr(self.target, "_buffer"):
            renew(after_fork=True) if renew.__name__ == "_reset" else renew()


def port_of(target: Any) -> Port:
    """The one port of *target* in this process: handlers and listeners find each other through it."""
    notice_fork()
    if isinstance(target, Port):
        _ports[id(target)] = target
        return target
    with _making:
        port = _ports.get(id(target))
        if port is None:
            # A port keeps its queue alive, so the number is not given to another one meanwhile.
            port = ThreadPort(target) if isinstance(target, queue.Queue) else ForeignPort(target)
            _ports[id(target)] = port
        return port


def all_ports() -> list[Port]:
    """Every port of this process that somebody still uses."""
    # Not values(): that breaks off if another thread adds one meanwhile.
    return [port for port in (reference() for reference in _ports.valuerefs()) if port is not None]


def reset_ports() -> list[tuple[BatchingQueueListener, bool]]:
    """In a forked child: make every port usable; the listeners that read there are returned."""
    global _making
    _making = threading.Lock()
    readers = []
    for port in all_ports():
        if port.reader is not None:
            readers.append((port.reader, port.crosses_processes))
        port.reset()
    return readers


_ports: weakref.WeakValueDictionary[int, Port] = weakref.WeakValueDictionary()
_making = threading.Lock()
