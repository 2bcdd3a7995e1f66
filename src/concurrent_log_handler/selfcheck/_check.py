"""The self-check on this machine: one log after the other, and no file and no process left behind."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from typing import Callable

from ._chaos import Chaos
from ._records import average_bytes
from ._round import Result, Round, Settings, remove


class InterruptedCheckError(Exception):
    """The user asked to stop."""


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
            remove(own)
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
            self._progress("reading back", now.written)
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
        self._progress("writing", now.written)

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
