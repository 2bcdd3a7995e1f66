"""One writer of the self-check: the process that logs, and its parent's view of it.

A writer counts in shared memory what was acknowledged, so a kill takes nothing of that away.
When it is started and killed is `_round`'s.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import multiprocessing
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ._records import Claim, record_text

SPAWN = multiprocessing.get_context("spawn")
_ACKNOWLEDGED, _SLOWEST, _ROTATIONS = range(3)  # what a writer keeps in shared memory
_ERRORS_PER_WRITER = 100
# what asks a program to stop
STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


# --- in the writers ---


@dataclass(frozen=True)
class Job:
    """What one writer is to do."""

    number: int
    path: str
    records: int
    longest: int
    handler_class: type[logging.Handler]
    arguments: dict[str, Any]


def write_records(job: Job, counters: Any, stop: Any, parent: Any) -> None:
    """Write the records of *job*; the main function of a writer process."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)  # the parent decides when we end
    try:
        handler = job.handler_class(job.path, **job.arguments)
        errors = _report_errors(handler, counters, parent)
        parent.send(("ready",))
        parent.recv()  # go
        _write(job, counters, stop, handler, errors)
        handler.close()
        parent.send(("done",))
    except (EOFError, BrokenPipeError):
        pass  # the parent has gone, and with it the directory
    except Exception as error:
        with contextlib.suppress(OSError):
            parent.send(("failed", f"{type(error).__name__}: {error}"))


def _write(job: Job, counters: Any, stop: Any, handler: Any, errors: list[int]) -> None:
    logger = logging.getLogger("concurrent_log_handler.self-check")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    clock = time.perf_counter_ns
    our_parent = multiprocessing.parent_process()  # its number alone tells nothing on Windows
    assert our_parent is not None
    for number in range(1, job.records + 1):
        if stop.value or len(errors) >= _ERRORS_PER_WRITER:
            return
        if number % 64 == 0 and not our_parent.is_alive():
            return  # killed; nobody will count what we write
        text = record_text(job.number, number, job.longest)
        before = clock()
        logger.info(text)
        took = clock() - before
        # The acknowledgement: this memory outlives a killed writer.
        counters[_ACKNOWLEDGED] = number
        counters[_SLOWEST] = max(took, counters[_SLOWEST])
        counters[_ROTATIONS] = getattr(handler, "num_rollovers", 0)


def _report_errors(handler: logging.Handler, counters: Any, parent: Any) -> list[int]:
    """Send every call of `handleError` to the parent; the list that is returned grows with each."""
    sending = threading.Lock()
    numbers: list[int] = []

    def handle_error(_record: logging.LogRecord | None) -> None:
        error = sys.exc_info()[1]
        number = counters[_ACKNOWLEDGED] + 1
        with sending:
            numbers.append(number)
            parent.send(("error", number, f"{type(error).__name__}: {error}"))

    handler.handleError = handle_error  # type: ignore[method-assign,assignment]
    return numbers


# --- in the parent ---


class Writer:
    """One writer process, as the parent sees it."""

    def __init__(self, job: Job, stop: Any) -> None:
        self.job = job
        self._counters: Any = SPAWN.RawArray(ctypes.c_uint64, 3)
        self.claim = Claim()
        self.errors: list[str] = []
        self.ready = False
        self.told_to_write = False
        self.done = False
        self.failure = ""
        self.pipe, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(
            target=write_records,
            args=(job, self._counters, stop, theirs),
            name=f"writer {job.number}",
            daemon=True,
        )
        with _signals_held_back():
            self.process.start()
        theirs.close()
        self._progress = (-1, time.monotonic())

    @property
    def written(self) -> int:
        return int(self._counters[_ACKNOWLEDGED])

    @property
    def slowest(self) -> float:
        """The longest logging call, in seconds."""
        return float(self._counters[_SLOWEST]) / 1e9

    @property
    def rotations(self) -> int:
        return int(self._counters[_ROTATIONS])

    @property
    def waits_for(self) -> list[Any]:
        return [self.process.sentinel] if self.pipe.closed else [self.pipe, self.process.sentinel]

    def start_writing(self) -> None:
        self.told_to_write = True
        with contextlib.suppress(OSError):
            self.pipe.send("go")

    def listen(self) -> None:
        """Take in what the writer has sent so far."""
        try:
            while not self.pipe.closed and self.pipe.poll():
                self._hear(*self.pipe.recv())
        except (EOFError, OSError):
            self.pipe.close()

    def _hear(self, kind: str, *details: Any) -> None:
        if kind == "ready":
            self.ready = True
        elif kind == "done":
            self.done = True
        elif kind == "failed":
            self.failure = details[0]
        else:
            number, text = details
            self.claim.reported.add(number)
            self.errors.append(text)

    def silent_for(self, now: float) -> float:
        """Return the seconds since it began to write, or since its last record."""
        waiting = self.ready and not self.told_to_write
        if waiting or self._progress[0] != self.written:
            self._progress = (self.written, now)
        return now - self._progress[1]

    def kill(self) -> None:
        self.claim.killed = True
        self.process.kill()

    def finish(self) -> None:
        """Close the books of a writer whose process has ended."""
        self.process.join(10)
        self.listen()
        self.pipe.close()
        self.claim.acknowledged = self.written

    def verdict(self) -> str | None:
        """Return what went wrong with this writer."""
        name = f"writer {self.job.number}"
        if self.errors:
            calls = "call" if len(self.errors) == 1 else "calls"
            return f"{name}: {len(self.errors)} {calls} of handleError, the first for {self.errors[0]}"
        if self.failure:
            return f"{name} failed after {self.written:,} records: {self.failure}"
        if not self.done and not self.claim.killed:
            self.claim.killed = True
            return f"{name} died after {self.written:,} records with exit code {self.process.exitcode}"
        return None


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """Let a process that is started here begin with its signals blocked: it has no handlers yet."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # it unblocks signals when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
