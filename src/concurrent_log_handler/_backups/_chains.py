"""The backups of a log, numbered or dated, as they lie on the disk: which there are, and where one more goes.

Nothing is moved here, and of two forms of one backup only one that is needless goes: a shift would part the two.
"""

from __future__ import annotations

import contextlib
import os
import stat
from itertools import count
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

from concurrent_log_handler._files import look_at

from . import GZ, Chain, Forms
from ._gzip import settle
from ._naming import Backup, Naming, next_number, reader_of

_SHORT = 32  # backups that are asked for one by one: there may be many more files of others
_WIDEST_GAP = 32  # numbers missing in a row; behind it, somebody else's files begin


class Move(NamedTuple):
    """Rename *source* to *target*; a target of None deletes."""

    source: str
    target: Optional[str]


def plan_shift(names: Sequence[str], taken: Sequence[Sequence[str]]) -> List[Move]:
    """
    Return the moves that free number 1 of a chain of backups.

    Only what lies below the first free number moves, so a gap that a kill left is closed.  A full chain loses its last
    number first.  *names* are the plain ones from number 1 on, up to the first that is free or, if none is, all that
    may stay.  *taken* are the forms of those that are not free; both move together.
    """
    full = bool(taken) and len(taken) == len(names)
    expired = [Move(names[-1] + form, None) for form in (taken[-1] if full else ())]
    shifted = reversed(list(zip(names, names[1:], taken)))
    return expired + [
        Move(source + form, target + form) for source, target, forms in shifted for form in forms
    ]


class NumberedChain(Chain):
    """
    The backups of the log at *live*, `.1` the newest.

    Args:
        name: Returns the plain path of a number's backup.  A `namer` may count by what lies on the disk.
        limit: How many may stay; 0 is any number.
        beyond: Also look for those that an earlier, higher limit has left.
    """

    def __init__(
        self, live: str, name: Callable[[int], str], limit: int, beyond: bool = False, newest: str = ""
    ) -> None:
        super().__init__(newest)
        self._live = live
        self._name = name
        self._limit = limit
        self._beyond = beyond
        self._is_long = not 0 < limit <= _SHORT
        self._listed: Set[str] = set()
        self._there: Dict[
            str, bool
        ] = {}  # what lies in directories that are listed, and is a directory itself

    def make_room(self) -> Tuple[str, List[Move]]:
        """Return the path for one more backup, and the moves that free it; raises if a name cannot be one's."""
        names: List[str] = []
        taken: List[Forms] = []
        known = {self._live}
        within = list(map(self._name, range(1, self._limit + 1)))  # a namer is asked for all, as in CPython
        for name in within or map(self._name, count(1)):
            names.append(name)
            if name in known:
                msg = f"namer must give each backup of {self._live!r} a name of its own, got {names!r}"
                raise ValueError(msg)
            known.add(name)
            forms = self._forms(name, movable=True)
            if not forms:
                break
            # A compressor killed before its last step; a kill between the two moves would part them for good.
            if len(forms) == 2:
                forms = settle(name)
            taken.append(forms)
        return names[0], plan_shift(names, taken)

    def listed(self) -> Iterator[Tuple[str, Forms]]:
        """Yield those within the limit, and others that are there."""
        known: Set[str] = set()
        missing = 0
        for number in count(1):
            within = number <= self._limit
            if not within and not (self._beyond and missing < _WIDEST_GAP):
                return
            name = self._name(number)
            if name in known:
                return  # a namer that gives one name twice would go on for ever
            known.add(name)
            forms = self._forms(name)
            missing = 0 if within or forms else missing + 1
            if not missing:
                yield name, forms

    def _forms(self, name: str, movable: bool = False) -> Forms:
        """Return the forms in which *name* is there; *movable*: for a move, so be sure, and refuse a directory."""
        there, gz = self._there, name + GZ
        if self._is_long and name not in there and gz not in there:
            self._list(name[: len(name) - len(os.path.basename(name))])
        # The file system may make no difference between two spellings, or the directory not be ours to read.
        if not there or (movable and name not in there and gz not in there):
            asked = {path: look_at(path) for path in (name, gz)}
            there = {path: stat.S_ISDIR(found.st_mode) for path, found in asked.items() if found is not None}
        if movable and (there.get(name) or there.get(gz)):
            directory = name if there.get(name) else gz
            raise IsADirectoryError(21, "a directory stands where a backup belongs", directory)
        return ("",) * (name in there) + (GZ,) * (gz in there)

    def _list(self, folder: str) -> None:
        if folder not in self._listed:
            self._listed.add(folder)
            with contextlib.suppress(OSError), os.scandir(folder) as entries:
                self._there.update({each.path: each.is_dir(follow_symlinks=False) for each in entries})


class DatedChain(Chain):
    """The dated backups that one timed handler made."""

    def __init__(self, naming: Naming, newest: str) -> None:
        super().__init__(newest)
        self._naming = naming

    def listed(self) -> Iterator[Tuple[str, Forms]]:
        """Yield those in the directory where the namer puts them now."""
        for backup in reversed(self._dated()):
            path = self._naming.backup_path(backup.text, backup.number)
            length = len(os.path.basename(path))
            yield path, tuple(name[length:] for name in backup.names)

    def _dated(self) -> List[Backup]:
        """Return the backups that this handler made, oldest first."""
        directory = self._naming.backup_directory()
        try:
            names = os.listdir(directory)
        except (FileNotFoundError, PermissionError):  # a directory may be written and not read
            return []
        backups = self._naming.list_backups(names, directory)
        if reader_of(self._naming.suffix) is None:  # the names show no order
            found = {each: look_at(os.path.join(directory, each.names[0])) for each in backups}
            backups.sort(key=lambda backup: getattr(found[backup], "st_mtime", 0.0))
        return backups

    def free_name(self, log: str, text: str) -> str:
        """Return a path, which is free, for one more backup of the period *text*."""
        known = self._dated()
        if self._newest:  # also if it was uploaded and deleted since
            folder, name = os.path.split(self._newest)
            known += self._naming.list_backups([name], folder)
        first = next_number(known, text)

        def taken(path: str) -> bool:
            return path == log or os.path.lexists(path) or os.path.lexists(path + GZ)

        return self._naming.free_path(text, first, taken)
