"""Who hears of a new backup: `on_rotated` is called for each, once it is complete, outside all locks.

Marks make up for a process that is killed before it has called: small files with an inode in their name, put down
before the live file with that inode becomes a backup, or a `.gz` takes a backup's place, and removed when the
callback has returned.  Whoever calls it holds a lock on the mark, so only a dead process's is taken over.
"""

from __future__ import annotations

import contextlib
import os
from functools import partial
from threading import get_ident
from typing import Dict, List, Optional, Set, Tuple

from concurrent_log_handler._access import Access
from concurrent_log_handler._afterwards import Afterwards, Report
from concurrent_log_handler._files import exists, files_like, hidden_prefix, look_at, open_to_lock, remove
from concurrent_log_handler._forks import here
from concurrent_log_handler._locks import Locks
from concurrent_log_handler._locks._platform import lock_file_now, unlock_file
from concurrent_log_handler._settings import OnRotated, Settings

from . import GZ, Look

_MOST_MORE = 7  # backups told of that come meanwhile: a callback that logs may cause a rotation each time


class Announcer:
    """
    Tells `on_rotated` of the backups of the log at *log*.

    Contract: `about_to_move`, `moved` and `forget` are called with the chain's locks held, by who
    rotates or compresses; without `on_rotated` no mark is made.  `tell` is called without any lock.
    """

    def __init__(
        self, log: str, settings: Settings, access: Access, locks: Locks, afterwards: Afterwards
    ) -> None:
        self._folder = os.path.dirname(log)
        self._prefix = hidden_prefix(log)
        self._settings = settings
        self._access = access
        self._locks = locks
        self._afterwards = afterwards
        self._tellers: Set[object] = set()  # threads of this process, or of the one that it was forked from

    def about_to_move(self, inode: int) -> None:
        """The live file *inode* becomes a backup, or the `.gz` *inode* takes a backup's place."""
        if self._settings.on_rotated is not None:
            self.forget(inode)  # another file may have had it, or somebody put a link there
            try:
                self._access.create(self._mark(inode))
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
        with contextlib.suppress(OSError):
            remove(self._mark(inode))

    def tell_later(self, look: Look) -> None:
        """Have `tell` called after the locks are released, if there is anybody to tell."""
        if self._settings.on_rotated is not None:
            self._afterwards.later(partial(self.tell, look))

    def tell(self, look: Look, report: Report) -> None:
        """Call `on_rotated` for each complete backup that it has not been told of."""
        me, callback = (here(), get_ident()), self._settings.on_rotated
        if callback is None or me in self._tellers:
            return  # the callback logs, and that rotated: the outer call goes on with it
        try:
            self._tellers.add(me)
            for _ in range(len(self._marks()) + _MOST_MORE):
                # One mark only: others rotate during the callback, and then the paths are different.
                claim = self._locks.chain(partial(self._claim, look))
                if claim is None:
                    return
                self._tell(callback, *claim, report)
        except Exception as error:
            report(error)
        finally:
            self._tellers.discard(me)

    @staticmethod
    def _tell(callback: OnRotated, backup: str, mark: str, locked: int, report: Report) -> None:
        """Call *callback*; after an interrupt the mark stays, for somebody who has more time."""
        process = here()
        try:
            try:
                callback(backup)
            except Exception as error:
                report(error)
            if here() == process:
                with contextlib.suppress(OSError):
                    remove(mark)
        finally:
            if here() == process:  # else a child forked by the callback; the mark is its parent's
                unlock_file(locked)

    def _mark(self, inode: int) -> str:
        return os.path.join(self._folder, f"{self._prefix}{inode:x}.new")

    def _marks(self) -> Dict[int, str]:
        found = files_like(self._folder, self._prefix, r"([0-9a-f]+)\.new")
        return {int(inode, 16): mark for inode, mark in found.items()}

    def _claim(self, look: Look, held: bool) -> Optional[Tuple[str, str, int]]:
        """Take on the oldest complete backup that has a mark; marks of files that are gone are removed."""
        if not held:
            return None
        wanted = self._marks()
        found: List[Tuple[str, str]] = []
        for name, forms in look().found():
            if not wanted:
                break
            for form in forms:
                there = look_at(name + form) if exists(name + form) else None
                mark = None if there is None else wanted.pop(there.st_ino, None)
                if mark is not None and (form == GZ or not self._settings.use_gzip):
                    found.append((name + form, mark))
        if wanted:
            with os.scandir(self._folder) as entries:
                # The live file's is of a process that died before it rotated; another handler on this log may
                # have made others.
                there_too = {entry.inode() for entry in entries}
            for inode in wanted.keys() - there_too:
                self.forget(inode)
        for backup, mark in reversed(found):
            with contextlib.suppress(OSError):
                fd = open_to_lock(mark, getattr(os, "O_NOFOLLOW", 0))
                if lock_file_now(fd) is not False and exists(mark):
                    return backup, mark, fd
                unlock_file(fd)
        return None
