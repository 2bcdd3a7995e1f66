"""One log under test: its writers are employed, watched and ended, and what they wrote is read back."""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import time
from dataclasses import dataclass, field
from multiprocessing import connection
from typing import Any, Callable

from ._readback import Audit, Findings, Limits, chain_of
from ._records import Claim, average_bytes, largest_bytes, longest_text
from ._writer import SPAWN, Job, Writer

SIDECAR = ".__app.lock"
_FILES_PER_ROUND = 250  # each rotation renames every backup once


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
        arguments: More keywords for it.
        machines: Machines that do this check together.
        wait: Seconds that they wait for each other to come.
        shared: The type of the file system, if other machines share it; else `""`.
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
    arguments: dict[str, Any] = field(default_factory=dict)
    machines: int = 1
    wait: float = 120.0
    shared: str = ""

    @property
    def longest(self) -> int:
        return longest_text(self.max_bytes)

    def records_per_round(self) -> int:
        """Return how many records each writer may put into one log before a new one is begun."""
        per_file = max(1, self.max_bytes // average_bytes(self.longest))
        return max(1, min(_FILES_PER_ROUND * per_file, 1_000_000) // (self.processes * self.machines))

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
    machines: list[str] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        return self.findings.problems

    @property
    def good(self) -> bool:
        return not (self.findings.wrong or self.handler_errors or self.problems)


class Round:
    """
    One log, from its first record to the reading back.

    Contract: what an ended writer did is in *result* and, by its number, in `claims`.

    Args:
        directory: Where the log is, and what was moved out of it.
        quota: Records of each writer.
        first: The number of the first writer.
    """

    def __init__(
        self, settings: Settings, result: Result, directory: str, quota: int, first: int = 1
    ) -> None:
        self.settings = settings
        self.result = result
        self.log = os.path.join(directory, "log", "app.log")
        self.apart = os.path.join(directory, "apart")
        self.quota = quota
        self.living: list[Writer] = []
        self.ended: list[Writer] = []
        self.claims: dict[int, Claim] = {}
        self._first = first
        self.stop: Any = SPAWN.RawValue(ctypes.c_uint64, 0)
        os.makedirs(os.path.dirname(self.log), exist_ok=True)
        os.makedirs(self.apart, exist_ok=True)

    @property
    def written(self) -> int:
        """Return how many records are written, over all rounds."""
        return self.result.written + sum(writer.written for writer in self.living)

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
            **settings.arguments,
        }
        number = len(self.living) + len(self.ended) + self._first
        job = Job(number, self.log, records, settings.longest, settings.handler_class, arguments)
        self.living.append(Writer(job, self.stop))
        return self.living[-1]

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
        self.claims[writer.job.number] = writer.claim
        result, problem = self.result, writer.verdict()
        if problem:
            result.problems.append(problem)
        result.written += writer.written
        result.slowest = max(result.slowest, writer.slowest)
        result.rotations += writer.rotations
        result.handler_errors += len(writer.errors)

    def end_all(self) -> None:
        """Kill what still runs; no writer outlives this."""
        for writer in self.living:
            writer.process.kill()
        for writer in self.living:
            writer.process.join(10)
            writer.pipe.close()
        self.living.clear()

    def read_back(self, heed: Callable[[], None]) -> None:
        """Count what is in the files against `claims`; calls *heed* before each file."""
        settings, result = self.settings, self.result
        # While a sidecar is deleted, two processes can each hold one.  Both see room for their record, and
        # one may see half of the other's, which the kernel is still copying, and seal it.
        slack = (settings.processes - 1) * largest_bytes(settings.longest) if settings.chaos else 0
        limits = Limits(
            settings.max_bytes,
            settings.backups(),
            settings.longest,
            slack,
            settings.chaos,
            settings.arguments.get("header", "").encode(),
        )
        audit = Audit(self.claims, limits, heed)
        chain = chain_of(self.log, SIDECAR)
        audit.read_chain(chain)
        audit.read_apart(os.path.join(self.apart, name) for name in sorted(os.listdir(self.apart)))
        result.findings.add(audit.finish())
        if chain.strays:
            result.problems.append(f"left in the directory: {', '.join(chain.strays[:5])}")
        if settings.gzip and chain.plain:
            result.problems.append(f"not compressed: {', '.join(chain.plain[:5])}")
        result.rounds += 1


def remove(directory: str) -> None:
    """Remove *directory* with all that is in it, also if killed processes still finish a call there."""
    for _ in range(3):
        shutil.rmtree(directory, ignore_errors=True)
        if not os.path.exists(directory):
            return
