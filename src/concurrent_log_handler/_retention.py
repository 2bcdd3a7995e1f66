"""Which backups go: limits and a list of backups in, those to be deleted out.  No file is touched here.

Where the backups are and what deleting them takes is the handlers' business.
"""

from __future__ import annotations

from typing import List, NamedTuple, Optional, Sequence, Tuple


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
        """Tell whether there is any limit."""
        return self.number > 0 or self.need_status()

    def need_status(self) -> bool:
        """Tell whether sizes and times play a part."""
        return self.total_bytes is not None or self.age is not None


def surplus(backups: Sequence[Kept], limits: Limits, now: float = 0.0, besides: int = 0) -> List[Kept]:
    """
    Return those of *backups* that go, in the order of going.

    What is too old goes wherever it stands; the other limits take from the old end.

    Args:
        backups: Oldest first.
        limits: What may stay.
        now: The time, in seconds since the epoch.
        besides: Bytes of the files that count but cannot go: the live file, unfinished `.gz`.
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
