"""Who hears of a new backup: `on_rotated` is called for each, once it is complete, outside all locks.

Marks make up for a process that is killed before it has called: small files, each with the inode of the file
that it is about in its name.  One is put down before that file becomes a backup (the live file) or takes a backup's
place (a `.gz`), and removed when the callback has returned.  Whoever tells the callback holds a lock on the
mark, so a living process is left alone and a dead one's mark is taken over.
"""

from __future__ import annotations

import contextlib
import os
import re
from functools import partial
from logging import LogRecord
from threading import get_ident
from typing import Dict, Iterable, List, Optional, Set, Tuple

from concurrent_log_handler._afterwards import Afterwards, Report
from concurrent_log_handler._files import Access, hidden_prefix, open_to_lock, remove
from concurrent_log_handler._forks import here
from concurrent_log_handler._locks import Locks
from concurrent_log_handler._locks._platform import lock_file_now, unlock_file
from concurrent_log_handler._settings import Settings

from . import Look
from ._gzip import GZ

_MOST_MORE = 7  # backups told of that come meanwhile: a callback that logs may cause a rotation each time


class Announcer:
    """
    Tells `on_rotated` of the backups of the log at *log*.

    Contract: `about_to_move`, `moved`, `replaces` and `forget` are called with the chain's locks held, by who
    rotates or compresses; without `on_rotated` they do nothing.  `tell` is called without any lock.
    """

    def __init__(self, log: str, settings: Settings, locks: Locks, afterwards: Afterwards) -> None:
        self._log = log
        self._settings = settings
        self._locks = locks
        self._afterwards = afterwards
        self._marks = Marks(log, settings.access)
        self._tellers: Set[int] = set()

    def about_to_move(self, inode: int) -> None:
        """The live file *inode* becomes a backup."""
        if self._settings.on_rotated is not None:
            self._mark(inode)

    def moved(self, inode: int, target: str) -> None:
        """The live file *inode* has become the backup *target*."""
        if self._settings.on_rotated is None:
            return
        with contextlib.suppress(OSError):
            found = os.lstat(target).st_ino
            if found != inode:  # a rotator that copies
                self._mark(found)
                self._marks.drop(inode)

    def replaces(self, inode: int) -> None:
        """The `.gz` *inode* takes a backup's place."""
        if self._settings.on_rotated is not None:
            self._mark(inode)

    def forget(self, inode: int) -> None:
        """The place of the backup *inode* is taken."""
        if self._settings.on_rotated is not None:
            self._marks.drop(inode)

    def tell(self, look: Look, record: LogRecord, report: Report) -> None:
        """Call `on_rotated` for each complete backup that it has not been told of."""
        me = get_ident()
        if me in self._tellers:
            return  # the callback logs, and that rotated: the outer call goes on with it
        try:
            self._tellers.add(me)
            for _ in range(self._marks.count() + _MOST_MORE):
                # One mark only: others rotate during the callback, and then the paths are different.
                claim = self._locks.chain(partial(self._claim, look))
                if claim is None:
                    return
                told = False
                try:
                    told = self._call_back(claim.backup, record, report)
                finally:
                    claim.settle(told)  # after an interrupt the mark stays, for somebody who has more time
        except Exception as error:
            report(record, error)
        finally:
            self._tellers.discard(me)

    def after_fork(self) -> None:
        """Forget the threads, which are the parent's."""
        self._tellers.clear()

    def _mark(self, inode: int) -> None:
        try:
            self._marks.put(inode)
        except OSError as error:
            self._afterwards.report(error)

    def _claim(self, look: Look, held: bool) -> Optional[Claim]:
        if not held or self._settings.on_rotated is None:
            return None
        live = -1
        with contextlib.suppress(OSError):
            live = os.lstat(self._log).st_ino
        return self._marks.claim(look().names(), live, wait_for_gz=self._settings.use_gzip)

    def _call_back(self, path: str, record: LogRecord, report: Report) -> bool:
        callback = self._settings.on_rotated
        if callback is not None:
            try:
                callback(path)
            except Exception as error:
                report(record, error)
        return True


class Claim:
    """One mark that this process has taken on, and the backup that it is about."""

    def __init__(self, fd: int, mark: str, backup: str) -> None:
        self.backup = backup
        self._fd = fd
        self._mark = mark
        self._process = here()

    def settle(self, told: bool) -> None:
        """Let go of the mark; *told* removes it."""
        if here() != self._process:
            return  # a child forked by the callback; the mark is its parent's
        if told:
            with contextlib.suppress(OSError):
                remove(self._mark)
        unlock_file(self._fd)


class Marks:
    """The marks of the log at *path*, which lie beside it."""

    def __init__(self, path: str, access: Access) -> None:
        self._folder = os.path.dirname(path)
        self._prefix = hidden_prefix(path)
        self._pattern = re.compile(re.escape(self._prefix) + r"([0-9a-f]+)\.new")
        self._access = access

    def put(self, inode: int) -> None:
        """Mark the file *inode*, which is about to become a backup; raises `OSError`."""
        path = self._path(inode)
        with contextlib.suppress(FileNotFoundError):
            remove(path)  # of another file that had this inode, or a link that somebody has put there
        self._access.create(path)

    def count(self) -> int:
        """Return how many marks there are."""
        return len(self._read())

    def drop(self, inode: int) -> None:
        """Remove the mark of *inode*, whose place a marked file has taken."""
        with contextlib.suppress(OSError):
            remove(self._path(inode))

    def claim(self, backups: Iterable[str], live: int, wait_for_gz: bool) -> Optional[Claim]:
        """
        Take on the mark of the oldest complete backup that has one.  Marks of files that are gone are removed.

        Args:
            backups: Plain names of all backups, newest first.
            live: The live file's inode; its mark was put by a process that died before it rotated.
            wait_for_gz: A plain backup is not complete yet.
        """
        wanted = self._read()
        found: List[Tuple[str, str]] = []
        for name in backups:
            if not wanted:
                break
            for path in (name, name + GZ):
                inode = _inode(path)
                mark = None if inode is None else wanted.pop(inode, None)
                if mark is not None and not (wait_for_gz and path == name):
                    found.append((mark, path))
        wanted.pop(live, None)
        if wanted:
            self._remove_abandoned(wanted)
        for mark, path in reversed(found):
            claim = self._claim_one(mark, path)
            if claim is not None:
                return claim
        return None

    def _remove_abandoned(self, marks: Dict[int, str]) -> None:
        """Remove those of *marks* whose files are gone; another handler on this log may have made the others."""
        with os.scandir(self._folder) as entries:
            there = {entry.inode() for entry in entries}
        for inode, mark in marks.items():
            claim = None if inode in there else self._claim_one(mark, "")
            if claim is not None:
                claim.settle(told=True)

    def _read(self) -> Dict[int, str]:
        """Return the marks by inode."""
        try:
            with os.scandir(self._folder) as entries:
                names = [entry.name for entry in entries if entry.name.startswith(self._prefix)]
        except OSError:
            return {}
        matches = [match for match in map(self._pattern.fullmatch, names) if match is not None]
        return {int(match[1], 16): os.path.join(self._folder, match[0]) for match in matches}

    def _claim_one(self, mark: str, backup: str) -> Optional[Claim]:
        try:
            fd = open_to_lock(mark, getattr(os, "O_NOFOLLOW", 0))
        except OSError:
            return None
        there = os.fstat(fd)
        free = lock_file_now(fd) is not False
        if free and _inode(mark) == there.st_ino:
            return Claim(fd, mark, backup)
        unlock_file(fd)
        return None

    def _path(self, inode: int) -> str:
        return os.path.join(self._folder, f"{self._prefix}{inode:x}.new")


def _inode(path: str) -> Optional[int]:
    try:
        return os.lstat(path).st_ino
    except OSError:
        return None
