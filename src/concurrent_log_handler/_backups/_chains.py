"""The backups of a log, numbered or dated, as they lie on the disk: which there are, where one more goes, which go.

Nothing is moved here.  Of two forms of one backup one that is needless is deleted: a shift would part the two.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from itertools import count
from typing import Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

from concurrent_log_handler._afterwards import Afterwards
from concurrent_log_handler._files import exists, look_at, remove
from concurrent_log_handler._patience import Streak
from concurrent_log_handler._settings import Settings

from . import GZ, Chain, Forms
from ._gzip import settle
from ._naming import Backup, Namer, Naming, next_number, reader_of

_SHORT = 32  # backups that are asked for one by one: there may be many more files of others
_WIDEST_GAP = 32  # numbers missing in a row; behind it, somebody else's files begin


class Move(NamedTuple):
    """Rename *source* to *target*; a target of None deletes."""

    source: str
    target: Optional[str]


def plan_shift(chain: Dict[str, Forms]) -> List[Move]:
    """
    Return the moves that free number 1 of a chain of backups.

    Only what lies below the first free number moves, so a gap that a kill left is closed.  A full chain loses its last
    number first.  *chain* has the plain names from number 1 on, up to the first that is free or, if none is, all that
    may stay, with the forms of each, which move together.
    """
    names = list(chain)
    moves = [Move(names[-1] + form, None) for form in chain[names[-1]]]
    for source, target in reversed(list(zip(names, names[1:]))):
        moves += [Move(source + form, target + form) for form in chain[source]]
    return moves


class NumberedChain(Chain):
    """
    The backups of the log at *live*, `.1` the newest.

    Args:
        namer: Makes a backup's plain path of the usual one.  It may count by what lies on the disk.
        limits: Where they ask for sizes or times, those that an earlier, higher limit has left are found, too.
    """

    def __init__(self, live: str, namer: Namer, limits: Limits, newest: str) -> None:
        super().__init__(newest)
        self._live = live
        self._namer = namer
        self._limits = limits
        self._listed: Set[str] = set()
        self._there: Dict[str, bool] = {}  # what lies in directories that are listed; True for a directory

    def make_room(self) -> Tuple[str, List[Move]]:
        """Return the path for one more backup, and the moves that free it; raises if a name cannot be one's."""
        chain: Dict[str, Forms] = {}
        # A namer is asked for all, as in CPython.
        within = list(map(self._name, range(1, self._limits.number + 1)))
        for name in within or map(self._name, count(1)):
            if name == self._live or name in chain:
                got = [*chain, name]
                msg = f"namer must give each backup of {self._live!r} a name of its own, got {got!r}"
                raise ValueError(msg)
            forms = self._forms(name, movable=True)
            # A compressor killed before its last step; a kill between the two moves would part them for good.
            chain[name] = settle(name) if len(forms) == 2 else forms
            if not forms:
                break
        return next(iter(chain)), plan_shift(chain)

    def listed(self) -> Iterator[Tuple[str, Forms]]:
        """Yield those within the limit, and others that are there."""
        known: Set[str] = set()
        missing = 0
        for number in count(1):
            within = number <= self._limits.number
            if not within and not (self._limits.need_status() and missing < _WIDEST_GAP):
                return
            name = self._name(number)
            if name in known:
                return  # a namer that gives one name twice would go on for ever
            known.add(name)
            forms = self._forms(name)
            missing = 0 if within or forms else missing + 1
            if not missing:
                yield name, forms

    def _name(self, number: int) -> str:
        return os.fspath(self._namer(f"{self._live}.{number}"))

    def _forms(self, name: str, movable: bool = False) -> Forms:
        """Return the forms in which *name* is there; *movable*: for a move, so be sure, and refuse a directory."""
        there, gz = self._there, name + GZ
        folder = name[: len(name) - len(os.path.basename(name))]  # as written: paths are compared so
        if not 0 < self._limits.number <= _SHORT and folder not in self._listed:
            self._listed.add(folder)
            with contextlib.suppress(OSError), os.scandir(folder) as entries:
                there.update({each.path: each.is_dir(follow_symlinks=False) for each in entries})
        # The file system may make no difference between two spellings, or the directory not be ours to read.
        if not there or (movable and name not in there and gz not in there):
            asked = {path: look_at(path) for path in (name, gz)}
            there = {path: stat.S_ISDIR(found.st_mode) for path, found in asked.items() if found is not None}
        if movable and (there.get(name) or there.get(gz)):
            path = name if there.get(name) else gz
            raise IsADirectoryError(errno.EISDIR, "a directory stands where a backup belongs", path)
        return ("",) * (name in there) + (GZ,) * (gz in there)


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

    def free_name(self, text: str) -> str:
        known = self._dated()
        if self._newest:  # also if it was uploaded and deleted since
            folder, name = os.path.split(self._newest)
            known += self._naming.list_backups([name], folder)
        first = next_number(known, text)

        def taken(path: str) -> bool:
            return path == self._naming.path or exists(path) or exists(path + GZ)

        return self._naming.free_path(text, first, taken)


class Kept(NamedTuple):
    """One backup, whose forms go together."""

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

    *besides* are bytes of files that count but cannot go: the live file, unfinished `.gz`.
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
        """Return the paths of the backups in *chain* that go *now*; how long one elsewhere stays is up to the user."""
        kept: List[Kept] = []
        for name, forms in reversed(list(chain.listed())):
            paths = tuple(name + form for form in forms)
            if not limits.need_status():
                kept.append(Kept(paths))
                continue
            found = [status for status in map(look_at, paths) if status is not None]
            if found and all(stat.S_ISREG(each.st_mode) for each in found):
                modified = max(each.st_mtime for each in found)
                kept.append(Kept(paths, sum(each.st_size for each in found), modified))
        others = [] if limits.total_bytes is None else [self._log, *self._part_files()]
        besides = sum(each.st_size for each in map(look_at, others) if each is not None)
        return [path for backup in surplus(kept, limits, now, besides) for path in backup.paths]

    def enforce(self, going: Callable[[], Iterable[str]]) -> None:
        trouble: Optional[Exception] = None
        try:
            for path in going():
                try:
                    with contextlib.suppress(FileNotFoundError):
                        remove(path)
                        self._afterwards.say("%s deleted", path)
                except OSError as error:
                    trouble = error
        except Exception as error:
            trouble = error
        if trouble is None:
            self._trouble.end()
        else:
            self._trouble.note(trouble, self._afterwards.report)
