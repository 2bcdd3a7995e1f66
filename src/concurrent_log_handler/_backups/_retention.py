"""How much of the past is kept: `surplus` decides which backups go, `Retention` asks the disk and deletes them."""

from __future__ import annotations

import stat
from typing import Callable, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from concurrent_log_handler._afterwards import Afterwards
from concurrent_log_handler._files import look_at, remove
from concurrent_log_handler._patience import Streak
from concurrent_log_handler._settings import Settings

from . import Chain


class Kept(NamedTuple):
    """One backup; its plain form and its `.gz`, where both exist, count as one and go together."""

    paths: Tuple[str, ...]
    size: int = 0  # bytes of all its forms
    modified: float = 0.0  # seconds since the epoch


class Limits(NamedTuple):
    """What may stay.  Each limit holds by itself; 0 and None are no limit."""

    number: int = 0  # of backups
    total_bytes: Optional[int] = None  # with the live file and what else belongs to the log
    age: Optional[float] = None  # seconds since the last record

    def any(self) -> bool:
        return self.number > 0 or self.need_status()

    def need_status(self) -> bool:
        """Tell whether sizes and times play a part."""
        return self.total_bytes is not None or self.age is not None


def surplus(backups: Sequence[Kept], limits: Limits, now: float = 0.0, besides: int = 0) -> List[Kept]:
    """
    Return those of *backups*, oldest first, that go, in the order of going.

    What is too old *now* goes wherever it stands; the other limits take from the old end.  *besides* are bytes
    of files that count but cannot go: the live file, unfinished `.gz`.
    """
    going: List[Kept] = []
    staying: List[Kept] = []
    for backup in backups:
        too_old = limits.age is not None and now - backup.modified > limits.age
        (going if too_old else staying).append(backup)
    first = max(len(staying) - limits.number, 0) if limits.number > 0 else 0
    if limits.total_bytes is not None:
        total = besides + sum(backup.size for backup in staying[first:])
        while first < len(staying) and total > limits.total_bytes:
            total -= staying[first].size
            first += 1
    return going + staying[:first]


class Retention:
    """
    Keeps the backups of the log at *log* within its limits.

    Contract: everything is called with the chain's locks held.  An error is reported once per streak, and
    costs no record.  *part_files* returns the paths of the unfinished `.gz`, which count for the total.
    """

    def __init__(
        self, log: str, settings: Settings, afterwards: Afterwards, part_files: Callable[[], List[str]]
    ) -> None:
        self._log = log
        self._settings = settings
        self._afterwards = afterwards
        self._part_files = part_files
        self._trouble = Streak()

    def limits(self) -> Limits:
        return Limits(self._settings.backupCount, self._settings.max_total_bytes, self._settings.max_age)

    def surplus(self, chain: Chain, limits: Limits, now: float) -> List[str]:
        """Return the paths of the backups in *chain* that go *now*."""
        kept: List[Kept] = []
        for paths in reversed(chain.backups()):
            if not limits.need_status():
                kept.append(Kept(paths))
                continue
            found = [status for status in map(look_at, paths) if status is not None]
            if found and all(stat.S_ISREG(each.st_mode) for each in found):
                modified = max(each.st_mtime for each in found)
                kept.append(Kept(paths, sum(each.st_size for each in found), modified))
        besides = 0
        if limits.total_bytes is not None:
            others = map(look_at, [self._log, *self._part_files()])
            besides = sum(each.st_size for each in others if each is not None)
        return [path for backup in surplus(kept, limits, now, besides) for path in backup.paths]

    def enforce(self, going: Callable[[], Iterable[str]]) -> None:
        trouble: Optional[Exception] = None
        try:
            for path in going():
                try:
                    remove(path)
                    self._afterwards.say("%s deleted", path)
                except FileNotFoundError:
                    pass
                except OSError as error:
                    trouble = error
        except Exception as error:
            trouble = error
        if trouble is None:
            self._trouble.end()
        else:
            self._trouble.note(trouble, self._afterwards.report)
