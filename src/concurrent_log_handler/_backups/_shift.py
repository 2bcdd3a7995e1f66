"""Where each backup goes: names and shift plans.  No file is touched here.

A plan is a list of moves in the order they must happen.  `handlers` carries it
out while it holds the locks, so everything here is tested with strings.
"""

from __future__ import annotations

from typing import Callable, List, NamedTuple, Optional, Sequence, Tuple

GZ = ".gz"


class Move(NamedTuple):
    """Rename *source* to *target*; a target of None deletes."""

    source: str
    target: Optional[str]


def check_names(live: str, names: Sequence[str]) -> None:
    """Raise `ValueError` if a `namer` gives one name to several backups, or the live file's to one."""
    if len(set(names)) != len(names) or live in names:
        msg = f"namer must give each backup of {live!r} a name of its own, got {list(names)!r}"
        raise ValueError(msg)


def plan_shift(name: Callable[[int], str], exists: Callable[[str], bool], backup_count: int) -> List[Move]:
    """
    Return the moves that free number 1 of a chain numbered from 1 (newest) to *backup_count*.

    Only what lies below the first free number moves, so a gap that a kill left is closed.  A full
    chain loses its last number first.  A backup is plain, or with `.gz` behind its name, or, if a
    compressor was killed just before its last step, both; both forms move together.

    Args:
        name: The plain name of a number.
        exists: Whether there is something at a path.
        backup_count: At least 1.
    """
    names: List[str] = []
    taken: List[Tuple[str, ...]] = []
    for number in range(1, backup_count + 1):
        path = name(number)
        names.append(path)
        plain, packed = exists(path), exists(path + GZ)
        if not plain and not packed:
            break
        taken.append(("", GZ) if plain and packed else ("",) if plain else (GZ,))
    moves: List[Move] = []
    if len(taken) == backup_count:
        moves.extend(Move(names[-1] + suffix, None) for suffix in taken.pop())
    for index in range(len(taken) - 1, -1, -1):
        source, target = names[index], names[index + 1]
        moves += [Move(source + suffix, target + suffix) for suffix in taken[index]]
    return moves


def nearly_full(max_bytes: int) -> int:
    """Return the size from which a file is looked at more closely before it reaches *max_bytes*."""
    return max_bytes - min(16384, max_bytes // 32)
