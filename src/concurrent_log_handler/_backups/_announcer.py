"""Who hears of a new backup: `on_rotated` is called for each, once it is complete, outside all locks.

The marks by which a process that was killed is made up for are in `_marks`.
"""

from __future__ import annotations

import contextlib
import os
from functools import partial
from logging import LogRecord
from threading import get_ident
from typing import Iterable, Optional, Protocol, Set

from .._afterwards import Afterwards, Report
from .._locks._log import LogLocks
from .._settings import Settings
from ._marks import Claim, Marks

_MOST_MORE = 7  # backups told of that come meanwhile: a callback that logs may cause a rotation each time


class _Chain(Protocol):
    def backups(self) -> Iterable[str]: ...


class Announcer:
    """
    Tells `on_rotated` of the backups of the log at *log*.

    Contract: `about_to_move`, `moved`, `replaces` and `forget` are called with the chain's locks held, by who
    rotates or compresses; without `on_rotated` they do nothing.  `tell` is called without any lock.
    """

    def __init__(self, log: str, settings: Settings, locks: LogLocks, afterwards: Afterwards) -> None:
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

    def tell(self, chain: _Chain, record: LogRecord, report: Report) -> None:
        """Call `on_rotated` for each complete backup that it has not been told of."""
        me = get_ident()
        if me in self._tellers:
            return  # the callback logs, and that rotated: the outer call goes on with it
        try:
            self._tellers.add(me)
            for _ in range(self._marks.count() + _MOST_MORE):
                # One mark only: others rotate during the callback, and then the paths are different.
                claim = self._locks.chain(partial(self._claim, chain))
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

    def _claim(self, chain: _Chain, held: bool) -> Optional[Claim]:
        if not held or self._settings.on_rotated is None:
            return None
        live = -1
        with contextlib.suppress(OSError):
            live = os.lstat(self._log).st_ino
        return self._marks.claim(chain.backups(), live, wait_for_gz=self._settings.use_gzip)

    def _call_back(self, path: str, record: LogRecord, report: Report) -> bool:
        callback = self._settings.on_rotated
        if callback is not None:
            try:
                callback(path)
            except Exception as error:
                report(record, error)
        return True
