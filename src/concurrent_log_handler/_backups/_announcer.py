"""Who hears of a new backup: `on_rotated` is called for each, once it is complete, outside all locks.

Marks make up for a process that is killed before it has called: small files, each with the inode of the file
that it is about in its name.  One is put down before that file becomes a backup (the live file) or takes a backup's
place (a `.gz`), and removed when the callback has returned.  Whoever tells the callback holds a lock on the
mark, so a living process is left alone and a dead one's mark is taken over.
"""

from __future__ import annotations

import contextlib
import os
from functools import partial
from threading import get_ident
from typing import Dict, List, Optional, Set, Tuple, Type

from concurrent_log_handler._afterwards import Afterwards, Report
from concurrent_log_handler._files import files_like, hidden_prefix, look_at, open_to_lock, remove
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

    Contract: `about_to_move`, `moved` and `forget` are called with the chain's locks held, by who
    rotates or compresses; without `on_rotated` they do nothing.  `tell` is called without any lock.
    """

    def __init__(self, log: str, settings: Settings, locks: Locks, afterwards: Afterwards) -> None:
        self._folder = os.path.dirname(log)
        self._prefix = hidden_prefix(log)
        self._settings = settings
        self._locks = locks
        self._afterwards = afterwards
        self._tellers: Set[int] = set()

    def about_to_move(self, inode: int) -> None:
        """The live file *inode* becomes a backup, or the `.gz` *inode* takes a backup's place."""
        if self._settings.on_rotated is not None:
            try:
                with contextlib.suppress(FileNotFoundError):
                    # Of another file that had this inode, or a link that somebody has put there.
                    remove(self._mark(inode))
                self._settings.access.create(self._mark(inode))
            except OSError as error:
                self._afterwards.report(error)

    def moved(self, inode: int, target: str) -> None:
        """The live file *inode* has become the backup *target*."""
        found = look_at(target) if self._settings.on_rotated is not None else None
        if found is not None and found.st_ino != inode:  # a rotator that copies
            self.about_to_move(found.st_ino)
            self.forget(inode)

    def forget(self, inode: int) -> None:
        """The place of the backup *inode* is taken."""
        if self._settings.on_rotated is not None:
            with contextlib.suppress(OSError):
                remove(self._mark(inode))

    def tell(self, look: Look, report: Report) -> None:
        """Call `on_rotated` for each complete backup that it has not been told of."""
        me = get_ident()
        if me in self._tellers:
            return  # the callback logs, and that rotated: the outer call goes on with it
        try:
            self._tellers.add(me)
            for _ in range(len(self._marks()) + _MOST_MORE):
                # One mark only: others rotate during the callback, and then the paths are different.
                claim = self._locks.chain(partial(self._claim, look))
                callback = self._settings.on_rotated
                if claim is None:
                    return
                with claim:
                    try:
                        if callback is not None:
                            callback(claim.backup)
                    except Exception as error:
                        report(error)
        except Exception as error:
            report(error)
        finally:
            self._tellers.discard(me)

    def after_fork(self) -> None:
        """Forget the threads, which are the parent's."""
        self._tellers.clear()

    def _mark(self, inode: int) -> str:
        return os.path.join(self._folder, f"{self._prefix}{inode:x}.new")

    def _marks(self) -> Dict[int, str]:
        found = files_like(self._folder, self._prefix, r"([0-9a-f]+)\.new")
        return {int(inode, 16): mark for inode, mark in found.items()}

    def _claim(self, look: Look, held: bool) -> Optional[Claim]:
        """Take on the mark of the oldest complete backup that has one; marks of files that are gone are removed."""
        if not held or self._settings.on_rotated is None:
            return None
        wanted = self._marks()
        found: List[Tuple[str, str]] = []
        for name in look().names():
            if not wanted:
                break
            for path in (name, name + GZ):
                there = look_at(path)
                mark = None if there is None else wanted.pop(there.st_ino, None)
                complete = path != name or not self._settings.use_gzip
                if mark is not None and complete:
                    found.append((mark, path))
        if wanted:
            with os.scandir(self._folder) as entries:
                # The live file's is of a process that died before it rotated; another handler on this log may
                # have made others.
                there_too = {entry.inode() for entry in entries}
            for inode in wanted.keys() - there_too:
                abandoned = _claim_one(wanted[inode], "")
                if abandoned is not None:
                    with abandoned:
                        pass
        claims = (_claim_one(mark, path) for mark, path in reversed(found))
        return next((claim for claim in claims if claim is not None), None)


class Claim:
    """
    One mark that this process has taken on, and the backup that it is about.

    The mark goes at the end; after an interrupt it stays, for somebody who has more time.
    """

    def __init__(self, fd: int, mark: str, backup: str) -> None:
        self.backup = backup
        self._fd = fd
        self._mark = mark
        self._process = here()

    def __enter__(self) -> None:
        """Nothing is to be done."""

    def __exit__(self, interrupt: Optional[Type[BaseException]], *_: object) -> None:
        if here() != self._process:
            return  # a child forked by the callback; the mark is its parent's
        if interrupt is None:
            with contextlib.suppress(OSError):
                remove(self._mark)
        unlock_file(self._fd)


def _claim_one(mark: str, backup: str) -> Optional[Claim]:
    try:
        fd = open_to_lock(mark, getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return None
    if lock_file_now(fd) is not False and os.path.lexists(mark):
        return Claim(fd, mark, backup)
    unlock_file(fd)
    return None
