"""What can happen to a log that is in use: its writers die, its sidecar and its live file go."""

from __future__ import annotations

import contextlib
import os
import random
import time
from typing import Callable

from ._round import SIDECAR, Round


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
