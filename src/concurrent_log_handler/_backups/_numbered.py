"""The numbered chain of the size handler: `.1` the newest, plain and `.gz` mixed.

What a shift moves, and in which order, is planned by `_shift`; here it is looked up and done.
"""

from __future__ import annotations

import contextlib
import os
import stat
from itertools import count
from typing import Callable, Dict, Iterable, Iterator, List, Sequence, Set, Tuple

from .._afterwards import Afterwards
from ._compress import drop_twin
from ._retention import Limits
from ._shift import GZ, Move, check_names, plan_shift

_LONG_CHAIN = 100  # backups from which on reading the whole directory is cheaper than asking for each
_WIDEST_GAP = 32  # numbers missing in a row; behind it, somebody else's files begin


class NumberedChain:
    """
    The backups of the log at *log*.

    Contract: everything is called with the chain's locks held.

    Args:
        name: Returns the path, without `.gz`, of the backup of a number; the user's `namer` has a say in it.
        limits: How many there may be; with another limit than their number, there may be more.
    """

    def __init__(self, log: str, name: Callable[[int], str], limits: Limits, afterwards: Afterwards) -> None:
        self._log = log
        self._name = name
        self._limits = limits
        self._afterwards = afterwards

    def make_room(self) -> str:
        """Move all backups up by one, as far as there is no gap, and return the path that is free for the newest."""
        names = list(self._names_to_shift())
        check_names(self._log, names)
        present = _present_until_gap(names)
        self._carry_out(plan_shift(["", *names].__getitem__, present.__contains__, len(names)))
        return names[0]

    def backups(self) -> Iterator[str]:
        """Yield the names, without `.gz`, that backups may have, newest first."""
        number = 0
        while number < self._limits.number:
            number += 1
            yield self._name(number)
        seen: Set[str] = set()
        missing = 0
        while self._limits.need_status() and missing < _WIDEST_GAP:
            number += 1
            name = self._name(number)
            if name in seen:
                return  # a namer that gives one name twice would go on for ever
            seen.add(name)
            missing = 0 if os.path.lexists(name) or os.path.lexists(name + GZ) else missing + 1
            if not missing:
                yield name

    def plain(self) -> Iterable[str]:
        """Return those of them that may not be compressed yet."""
        names = list(self.backups())
        if len(names) < _LONG_CHAIN:
            return names
        listed = _listing(names)
        plain = [name for name in names if name in listed]
        # Where none is listed, a namer writes its paths in another way perhaps.
        return plain if plain or any(name + GZ in listed for name in names) else names

    def forms(self) -> Iterator[Tuple[str, ...]]:
        """Yield the paths of each backup that there is, oldest first."""
        for name in reversed(list(self.backups())):
            yield tuple(path for path in (name, name + GZ) if os.path.lexists(path))

    def _names_to_shift(self) -> Iterator[str]:
        """Yield the names from number 1 on: as many as may stay or, without a count, up to the first that is free."""
        if self._limits.number:
            yield from map(self._name, range(1, self._limits.number + 1))
            return
        seen: Set[str] = set()
        for name in map(self._name, count(1)):
            yield name
            if name in seen or not (os.path.lexists(name) or os.path.lexists(name + GZ)):
                return  # a namer that gives one name twice would go on for ever
            seen.add(name)

    def _carry_out(self, moves: Iterable[Move]) -> None:
        for move in moves:
            if move.target is None:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(move.source)
            else:
                try:
                    os.rename(move.source, move.target)
                except FileNotFoundError:
                    if os.path.lexists(move.source):
                        raise
                    continue  # removed by somebody else meanwhile
            self._afterwards.say("%s -> %s", move.source, move.target or "deleted")


def _present_until_gap(names: Sequence[str]) -> Set[str]:
    """Return what there is of *names*, plain and `.gz`, before the first that is free."""
    present: Set[str] = set()
    listed: Dict[str, bool] = {}
    for number, name in enumerate(names):
        if number == _LONG_CHAIN:
            listed = _listing(names)
        packed = name + GZ
        # Most are in one form, and a name that is not listed as it is written is asked for.
        if listed.get(name) is False and packed not in listed:
            present.add(name)
        elif listed.get(packed) is False and name not in listed:
            present.add(packed)
        else:
            forms = _forms(name)
            if not forms:
                break
            # A compressor killed before its last step; a kill between the two moves would part them for good.
            if len(forms) == 2 and drop_twin(name):
                forms.remove(name)
            present.update(forms)
    return present


def _listing(names: Iterable[str]) -> Dict[str, bool]:
    """Return the paths in the directories of *names*, and whether each is a directory."""
    found: Dict[str, bool] = {}
    for folder in {name.rpartition(os.sep)[0] for name in names}:
        with contextlib.suppress(OSError), os.scandir(folder or os.sep) as entries:
            found.update((entry.path, entry.is_dir(follow_symlinks=False)) for entry in entries)
    return found


def _forms(name: str) -> List[str]:
    """Return which of *name* and its `.gz` there are; a directory is an error, since it is not ours to move."""
    forms = []
    for path in (name, name + GZ):
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            continue
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(21, "a directory stands where a backup belongs", path)
        forms.append(path)
    return forms


