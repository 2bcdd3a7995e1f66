"""What every room here shares: a line on stderr, a count, a wait, and a thread with the bell that wakes it."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from concurrent_log_handler._forks import among_greenlets, home
from concurrent_log_handler._patience import monotonic

#: Seconds between two lines about dropped records, or about one and the same trouble.
TELL_EVERY = 1.0
NEVER = float("inf")


def complain(text: str) -> None:
    """One line on stderr, without buffered I/O, so also from a signal handler."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.write(sys.stderr.fileno() if sys.stderr is not None else 2, f"{text}\n".encode(errors="replace"))


class Counter(itertools.count):  # type: ignore[type-arg]
    """`add()` takes no lock; `value()` is exact at any moment."""

    # One step; `+= 1` is several, and a thread may lose its turn between them.
    add = itertools.count.__next__

    def value(self) -> int:
        # Its repr, "Counter(17)", is the only public look at it that does not also move it.
        return int(repr(self).partition("(")[2][:-1])


def counted(name: str, doc: str) -> Any:
    """A property that is the value of the `Counter` called *name*, and may be set."""
    return property(
        lambda self: getattr(self, name).value(), lambda self, n: setattr(self, name, Counter(n)), doc=doc
    )


class Trouble:
    """Something that fails again and again: it is told of when it begins, and at most once a second."""

    on = False
    _again_at = 0.0

    def begins(self) -> bool:
        """Note that it has come; true if it is to be told of."""
        if self.on or monotonic() < self._again_at:
            return False
        self.on, self._again_at = True, monotonic() + TELL_EVERY
        return True

    def ends(self) -> None:
        self.on = False

    def complain(self, text: str) -> None:
        """Note that it has come, and tell of it on stderr."""
        if self.begins():
            complain(text)


def end_of(timeout: float | None) -> float:
    """When *timeout* seconds from now are over; None never ends."""
    return NEVER if timeout is None else monotonic() + timeout


def patiently(step: Callable[[], Any], refusal: type[Exception], timeout: float | None) -> Any:
    """Repeat *step* as long as it raises *refusal*, at most for *timeout* seconds."""
    deadline = end_of(timeout)
    while True:
        try:
            return step()
        except refusal:
            if monotonic() >= deadline:
                raise
        time.sleep(0.001)


def wait_until(
    done: Callable[[], Any], timeout: float | None, progress: Callable[[], Any] = bool, pause: float = 0.0005
) -> bool:
    """Look until it is *done*; false after *timeout* seconds in which *progress* stayed the same."""
    seen, deadline = progress(), end_of(timeout)
    while not done():
        if (now := progress()) != seen:
            seen, deadline = now, end_of(timeout)
        elif monotonic() >= deadline:
            return False
        time.sleep(pause)
    return True


class WakeableThread:
    """A thread and the bell that wakes it, of one kind: a greenlet that waits on a thread's lock stops them all."""

    def __init__(self, run: Callable[[WakeableThread], None], name: str) -> None:
        self._run, self._name = run, name
        self._thread: threading.Thread | None = None
        self._settled = False  # until it is settled whether it begins, is_alive() says no
        self._bell = threading.Lock()
        self._bell.acquire()
        self.green = among_greenlets()  #: It is a greenlet.
        self._born = self.green, home.generation

    def start(self) -> bool:
        """Start it; false if no thread can be had."""
        try:
            self._thread = threading.Thread(target=self._main, name=self._name, daemon=True)
            self._thread.start()
        except AssertionError:
            pass  # it was started; only waiting for that is forbidden where gevent's hub calls us
        except BaseException as error:
            self._settled = True
            if not isinstance(error, RuntimeError):
                raise
            return False  # the interpreter ends, or has no room for threads, or no daemons at all
        return True

    def _main(self) -> None:
        self._settled = True
        try:
            self._run(self)
        except BaseException as error:
            if not self.green:
                raise
            # Python runs signal handlers in whichever greenlet it finds; threading would keep Ctrl-C to itself.
            greenlet: Any = sys.modules["greenlet"]
            if not isinstance(error, greenlet.GreenletExit):
                greenlet.getcurrent().parent.throw(error)  # the hub's, which hands it to the main one
        # A thread cannot end where `threading` has been patched meanwhile, nor can a greenlet that gevent's
        # fork() has copied.
        while self._born != (among_greenlets(), home.generation):
            self._thread = None
            self.wait(NEVER)

    def join(self, timeout: float | None, wanted: Callable[[], bool] = lambda: True) -> bool:
        """Ring until it has ended, or is not *wanted* to any more; false after *timeout* seconds."""

        def ended() -> bool:
            self.ring()
            thread = self._thread
            # No join() of the thread's own, which may be of another kind than this one.
            over = self._settled and (thread is None or not thread.is_alive())
            return over or thread is threading.current_thread() or not wanted()

        return wait_until(ended, timeout, pause=0.002)

    def ring(self) -> None:
        """Wake it.  Waits for nothing, so that a signal handler may call it."""
        with contextlib.suppress(RuntimeError):  # somebody else rang in between
            if self._bell.locked():
                self._bell.release()

    def wait(self, timeout: float) -> bool:
        """In the thread: sleep until somebody rings, at most *timeout* seconds; tell whether somebody rang."""
        until = monotonic() + timeout
        # A thread of eventlet's pool rings in vain: look again.
        bound = 1.0 if self.green else threading.TIMEOUT_MAX
        while not self._bell.acquire(timeout=max(0.0, min(until - monotonic(), bound))):
            if monotonic() >= until:
                return False
        return True
