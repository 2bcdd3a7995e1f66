"""The self-check at work: what is written into one log, and what may be done to its writers meanwhile.

Employs, watches, disturbs and ends the writers, and removes every file they made.  What a writer does is
`_checkwriter`'s, what the files say `_readback`'s, and what the user asked for and sees `__main__`'s.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import random
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from multiprocessing import connection
from typing import Any, Callable

from ._checkwriter import SPAWN, Job, Writer
from ._readback import (
    Audit,
    Findings,
    Limits,
    average_bytes,
    chain_of,
    largest_bytes,
    longest_text,
)

SIDECAR = ".__app.lock"

_FILES_PER_ROUND = 250  # each rotation renames every backup once


class InterruptedCheckError(Exception):
    """The user asked to stop."""


@dataclass(frozen=True)
class Settings:
    """
    One self-check, as asked for.

    Attributes:
        directory: Where the check makes its own directory and removes it; None: among temporary files.
        processes: Writers at a time.
        records: Records of each writer; None: until *seconds* are over.
        seconds: Time after which the writers are stopped; None: when *records* are written.
        max_bytes: The log's `maxBytes`.
        backup_count: The log's `backupCount`; None: enough for all that is written.
        chaos: Kill and replace writers, delete the sidecar, move the live file away.
        patience: Seconds without a record after which a writer counts as hanging.
        handler_class: Class of the handlers, called as `ConcurrentRotatingFileHandler` is.
    """

    directory: str | None
    processes: int
    records: int | None
    seconds: float | None
    max_bytes: int
    backup_count: int | None
    gzip: bool
    background_gzip: bool
    chaos: bool
    patience: float
    handler_class: type[logging.Handler]

    @property
    def longest(self) -> int:
        return longest_text(self.max_bytes)

    def records_per_round(self) -> int:
        """Return how many records each writer may put into one log before a new one is begun."""
        per_file = max(1, self.max_bytes // average_bytes(self.longest))
        return max(1, min(_FILES_PER_ROUND * per_file, 1_000_000) // self.processes)

    def backups(self) -> int:
        """Return the `backupCount`: by default twice what a round needs."""
        return 2 * _FILES_PER_ROUND + 50 if self.backup_count is None else self.backup_count


@dataclass
class Result:
    """All that was seen, over all rounds."""

    written: int = 0
    findings: Findings = field(default_factory=Findings)
    rotations: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    handler_errors: int = 0
    rounds: int = 0
    kills: int = 0
    sidecars_deleted: int = 0
    files_moved: int = 0

    @property
    def problems(self) -> list[str]:
        return self.findings.problems

    @property
    def good(self) -> bool:
        found = self.findings
        wrong = (
            found.lost,
            found.doubled,
            found.torn,
            found.out_of_order,
            found.over_limit,
            self.handler_errors,
        )
        return not any(wrong) and not self.problems

    def add(self, found: Findings) -> None:
        """Add what one more log says."""
        total = self.findings
        for name in (
            "present",
            "lost",
            "doubled",
            "torn",
            "out_of_order",
            "expired",
            "fragments",
            "empty_lines",
            "over_limit",
        ):
            setattr(total, name, getattr(total, name) + getattr(found, name))
        total.largest = max(total.largest, found.largest)
        total.problems += found.problems


class Round:
    """One log, from its first record to the reading back."""

    def __init__(self, settings: Settings, result: Result, directory: str, quota: int) -> None:
        self.settings = settings
        self.result = result
        self.log = os.path.join(directory, "log", "app.log")
        self.apart = os.path.join(directory, "apart")
        self.quota = quota
        self.living: list[Writer] = []
        self.ended: list[Writer] = []
        self.stop: Any = SPAWN.RawValue(ctypes.c_uint64, 0)
        os.makedirs(os.path.dirname(self.log))
        os.makedirs(self.apart)

    @property
    def written(self) -> int:
        return sum(writer.written for writer in self.living) + sum(writer.written for writer in self.ended)

    def employ(self, records: int) -> Writer:
        """Start a writer; it begins to write when it is told to."""
        settings = self.settings
        arguments = {
            "maxBytes": settings.max_bytes,
            "backupCount": settings.backups(),
            "encoding": "utf-8",
            "delay": None,
            "use_gzip": settings.gzip,
            "background_gzip": settings.background_gzip,
        }
        number = len(self.living) + len(self.ended) + 1
        writer = Writer(
            Job(number, self.log, records, settings.longest, settings.handler_class, arguments),
            self.stop,
        )
        self.living.append(writer)
        return writer

    def watch(self, seconds: float) -> None:
        """Wait up to *seconds* for news of the writers, and note it."""
        connection.wait([each for writer in self.living for each in writer.waits_for], seconds)
        now = time.monotonic()
        for writer in list(self.living):
            writer.listen()
            if not writer.process.is_alive():
                self._end(writer)
            elif writer.silent_for(now) > self.settings.patience:
                self.result.problems.append(
                    f"writer {writer.job.number} hangs: no record for {self.settings.patience:g} s "
                    f"after {writer.written:,} records; it was killed"
                )
                writer.kill()

    def _end(self, writer: Writer) -> None:
        writer.finish()
        self.living.remove(writer)
        self.ended.append(writer)
        problem = writer.verdict()
        if problem:
            self.result.problems.append(problem)

    def end_all(self) -> None:
        """Kill what still runs; no writer outlives this."""
        for writer in self.living:
            writer.process.kill()
        for writer in self.living:
            writer.process.join(10)
            writer.pipe.close()
        self.living.clear()

    def read_back(self, heed: Callable[[], None]) -> None:
        """Count what is in the files against what the writers claim; calls *heed* before each file."""
        settings, result = self.settings, self.result
        claims = {writer.job.number: writer.claim for writer in self.ended}
        # While a sidecar is deleted, two processes can each hold one.  Both see room for their record, and
        # one may see half of the other's, which the kernel is still copying, and seal it.
        slack = (settings.processes - 1) * largest_bytes(settings.longest) if settings.chaos else 0
        audit = Audit(
            claims,
            Limits(settings.max_bytes, settings.backups(), settings.longest, slack, settings.chaos),
            heed,
        )
        chain = chain_of(self.log, SIDECAR)
        audit.read_chain(chain)
        audit.read_apart(os.path.join(self.apart, name) for name in sorted(os.listdir(self.apart)))
        result.add(audit.finish())
        if chain.strays:
            result.problems.append(f"left in the directory: {', '.join(chain.strays[:5])}")
        if settings.gzip and chain.plain:
            result.problems.append(f"not compressed: {', '.join(chain.plain[:5])}")
        for writer in self.ended:
            result.written += writer.written
            result.slowest = max(result.slowest, writer.slowest)
            result.rotations += writer.rotations
            result.handler_errors += len(writer.errors)
        result.rounds += 1


class Chaos:
    """What can happen to a log that is in use: its writers die, its sidecar and its live file go."""

    def __init__(self, around: Round) -> None:
        self._round = around
        self._random = random.Random()  # noqa: S311 - no secret
        self._due: list[tuple[float, Callable[[], None]]] = []
        self._moved = 0
        for action in (self._kill, self._delete_sidecar, self._move_live_file):
            self._plan(action)

    def step(self) -> None:
        """Do what is due."""
        now = time.monotonic()
        for due in [each for each in self._due if each[0] <= now]:
            self._due.remove(due)
            due[1]()
            self._plan(due[1])

    def _plan(self, action: Callable[[], None]) -> None:
        every = {self._kill: 0.4, self._delete_sidecar: 0.03, self._move_live_file: 0.7}[action]
        self._due.append((time.monotonic() + self._random.uniform(0.5, 1.5) * every, action))

    def _kill(self) -> None:
        busy = [writer for writer in self._round.living if writer.written and not writer.done]
        if busy:
            self._random.choice(busy).kill()
            self._round.result.kills += 1

    def _delete_sidecar(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(os.path.dirname(self._round.log), SIDECAR))
            self._round.result.sidecars_deleted += 1

    def _move_live_file(self) -> None:
        with contextlib.suppress(OSError):
            os.rename(self._round.log, os.path.join(self._round.apart, f"{self._moved:06}.log"))
            self._moved += 1
            self._round.result.files_moved += 1

    def replace_the_killed(self, ended_before: int) -> None:
        """Replace each killed writer, but the first *ended_before*, for the rest of its records."""
        for writer in self._round.ended[ended_before:]:
            rest = writer.job.records - writer.written
            if writer.claim.killed and rest > 0 and not self._round.stop.value:
                self._round.employ(rest).start_writing()


class Check:
    """
    A whole self-check.

    Args:
        settings: What to do.
        interrupted: Asked often; true ends the check with `InterruptedCheckError`.
        progress: Told often what is going on, and how many records are written.
    """

    def __init__(
        self, settings: Settings, interrupted: Callable[[], bool], progress: Callable[[str, int], None]
    ) -> None:
        self._settings = settings
        self._interrupted = interrupted
        self._progress = progress
        self._result = Result()
        self._deadline = float("inf")

    def run(self) -> Result:
        """
        Run round after round until all records are written or the time is over.

        Raises:
            OSError: The directory cannot be used.
            InterruptedCheckError: The user asked to stop; no process and no file is left.
        """
        settings = self._settings
        own = tempfile.mkdtemp(prefix="log-self-check-", dir=settings.directory)
        try:
            left = settings.records
            while left is None or left > 0:
                quota = settings.records_per_round()
                if left is not None:
                    # A count of backups that the user chose is meant for everything.
                    quota = left if settings.backup_count is not None else min(quota, left)
                    left -= quota
                directory = os.path.join(own, str(self._result.rounds + 1))
                self._round(Round(settings, self._result, directory, quota))
                shutil.rmtree(directory)
                if time.monotonic() >= self._deadline or not self._result.good:
                    break
        finally:
            _remove(own)
        return self._result

    def _round(self, now: Round) -> None:
        try:
            self._start(now)
            began = time.monotonic()
            chaos = Chaos(now) if self._settings.chaos else None
            while now.living:
                self._tick(now, 0.01 if chaos else 0.1, chaos)
                if time.monotonic() >= self._deadline:
                    now.stop.value = 1
            if chaos:
                self._heal(now)
            self._result.seconds += time.monotonic() - began
            self._progress("reading back", self._result.written + now.written)
            now.read_back(self._heed)
        finally:
            now.end_all()

    def _start(self, now: Round) -> None:
        for _ in range(self._settings.processes):
            now.employ(now.quota)
            self._heed()
        while not all(writer.ready for writer in now.living) and not now.ended:
            now.watch(0.1)
            self._heed()
        if self._deadline == float("inf") and self._settings.seconds is not None:
            self._deadline = time.monotonic() + self._settings.seconds
        for writer in now.living:
            writer.start_writing()

    def _tick(self, now: Round, seconds: float, chaos: Chaos | None) -> None:
        ended = len(now.ended)
        now.watch(seconds)
        self._heed()
        if chaos:
            chaos.step()
            chaos.replace_the_killed(ended)
        self._progress("writing", self._result.written + now.written)

    def _heal(self, now: Round) -> None:
        """Let an undisturbed writer rotate: that must finish whatever the killed ones left."""
        now.stop.value = 0
        per_file = self._settings.max_bytes // average_bytes(self._settings.longest)
        now.employ(3 * per_file + 10).start_writing()
        while now.living:
            self._tick(now, 0.1, None)

    def _heed(self) -> None:
        if self._interrupted():
            raise InterruptedCheckError


def _remove(directory: str) -> None:
    for _ in range(3):
        shutil.rmtree(directory, ignore_errors=True)
        if not os.path.exists(directory):
            return
