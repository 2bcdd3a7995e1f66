"""Where each backup goes: shift plans.  No file is touched here.

A plan is a list of moves in the order they must happen.  The handler carries it
out while it holds the locks, so everything here is tested with strings.
"""

from __future__ import annotations

from typing import List, NamedTuple, Optional, Sequence

GZ = ".gz"


class Move(NamedTuple):
    """Rename *source* to *target*; a target of None deletes."""

    source: str
    target: Optional[str]


def plan_shift(names: Sequence[str], taken: Sequence[Sequence[str]]) -> List[Move]:
    """
    Return the moves that free number 1 of a chain of backups.

    Only what lies below the first free number moves, so a gap that a kill left is closed.  A full
    chain loses its last number first.  A backup is plain, or with `.gz` behind its name, or, if a
    compressor was killed just before its last step, both; both forms move together.

    Args:
        names: The plain names from number 1 (newest) on: up to the first that is free or, if none is, all
            that may stay.
        taken: For each of them that is not free, what stands behind it: nothing, `.gz`, or each of them.
    """
    moves: List[Move] = []
    if taken and len(taken) == len(names):
        moves += [Move(names[-1] + suffix, None) for suffix in taken[-1]]
    for index in range(len(names) - 2, -1, -1):
        source, target = names[index], names[index + 1]
        for suffix in taken[index]:
            moves.append(Move(source + suffix, target + suffix))
    return moves


def nearly_full(max_bytes: int) -> int:
    """Return the size from which a file is looked at more closely before it reaches *max_bytes*."""
    return max_bytes - min(16384, max_bytes // 32)
