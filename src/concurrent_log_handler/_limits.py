"""What both handlers have in common about limits: how large the live file gets, how much of the past
is kept, and who hears of a new backup.

How the files are moved is the handlers' business, and in which order things happen, that of `_base`.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import stat
from logging import LogRecord
from threading import get_ident
from typing import Callable, Iterable, Optional, Set, Tuple, Union

from . import _options
from ._base import ConcurrentHandler
from ._compress import Job
from ._marks import Claim, Marks
from ._retention import Kept, Limits
from ._rotation import nearly_full
from ._shared import locked_step

OnRotated = Callable[[str], object]

_ALWAYS = -1
_MOST_MORE = 7  # backups told of that come meanwhile: a callback that logs may cause a rotation each time


class LimitedHandler(ConcurrentHandler):
    """
    A `ConcurrentHandler` with limits.

    A subclass calls `_set_limits` before this class's `__init__`, and says which backups are too
    many (`_surplus`).
    """

    _OF_THIS_PROCESS = (*ConcurrentHandler._OF_THIS_PROCESS, "_marks", "_tellers")

    _begun = False  # the first record has come

    def _set_limits(
        self,
        max_bytes: _options.Size,
        backup_count: _options.Count,
        max_total_bytes: Optional[_options.Size],
        max_age: Union[float, dt.timedelta, None],
        on_rotated: Union[OnRotated, str, None],
    ) -> None:
        self._max_bytes = _options.size(max_bytes, "maxBytes")
        self._backup_count = _options.count(backup_count, "backupCount")
        self._max_total_bytes = _options.total_bytes(max_total_bytes, self._max_bytes)
        self._max_age = _options.age(max_age)
        self._on_rotated = _options.callback(on_rotated, "on_rotated")

    def _set_up(self) -> None:
        super()._set_up()
        self._marks = Marks(self.baseFilename, self._access)
        self._tellers: Set[int] = set()
        self._deleting_in_trouble = False
        self.after_fork()  # a copy begins anew, too

    def after_fork(self) -> None:
        super().after_fork()
        self._begun = False
        self._look_closer_at = _ALWAYS  # until the first record
        self._tellers.clear()

    # -- the limits as attributes ---------------------------------------------

    @property
    def maxBytes(self) -> int:
        """Size limit of one file in bytes; may be set to whatever the constructor takes."""
        return self._max_bytes

    @maxBytes.setter
    def maxBytes(self, value: _options.Size) -> None:
        size = _options.size(value, "maxBytes")
        _options.total_bytes(self._max_total_bytes, size)  # must have room for it
        self._max_bytes = size
        self._adjust()

    @property
    def backupCount(self) -> int:
        """Backups kept; may be set."""
        return self._backup_count

    @backupCount.setter
    def backupCount(self, value: _options.Count) -> None:
        self._backup_count = _options.count(value, "backupCount")
        self._adjust()

    @property
    def max_total_bytes(self) -> Optional[int]:
        """Limit of all files of this log together in bytes, or None; may be set to whatever the constructor takes."""
        return self._max_total_bytes

    @max_total_bytes.setter
    def max_total_bytes(self, value: Optional[_options.Size]) -> None:
        self._max_total_bytes = _options.total_bytes(value, self._max_bytes)
        self._adjust()

    @property
    def max_age(self) -> Optional[float]:
        """Age in seconds beyond which backups go, or None; may be set to whatever the constructor takes."""
        return self._max_age

    @max_age.setter
    def max_age(self, value: Union[float, dt.timedelta, None]) -> None:
        self._max_age = _options.age(value)
        self._adjust()

    @property
    def on_rotated(self) -> Optional[OnRotated]:
        """What is called with the path of each complete backup, or None; may be set, also to a dotted name."""
        return self._on_rotated

    @on_rotated.setter
    def on_rotated(self, value: Union[OnRotated, str, None]) -> None:
        self._on_rotated = _options.callback(value, "on_rotated")

    def _limits(self) -> Limits:
        return Limits(self._backup_count, self._max_total_bytes, self._max_age)

    # -- the size of the live file --------------------------------------------

    def _adjust(self) -> None:
        """Say from which size of the live file a rotation may be due."""
        if not self._begun or self._asks_each_time():
            self._look_closer_at = _ALWAYS
        elif self._max_bytes and self._wants_rotation():
            self._look_closer_at = nearly_full(self._max_bytes)
        else:
            self._look_closer_at = ConcurrentHandler._look_closer_at

    def _asks_each_time(self) -> bool:
        """Tell whether a subclass decides when to rotate."""
        raise NotImplementedError

    def _is_full(self, record: LogRecord) -> bool:
        """Tell whether *record* would make a non-empty file reach `maxBytes`."""
        if not self._max_bytes or not self._wants_rotation():
            return False
        try:
            found = os.stat(self.baseFilename)
        except OSError:
            return False
        if not found.st_size or not stat.S_ISREG(found.st_mode):
            return False
        return found.st_size + self._length(record) >= self._max_bytes

    def _consider(self, record: LogRecord, length: int) -> int:
        if not self._begun:
            self._begun = True
            self._adjust()
            self._begin()
        return super()._consider(record, length)

    def _begin(self) -> None:
        """Do what comes with a process's first record.  Lock held."""
        if self._limits().need_status() and self._lock.check_place(self.lock_timeout):
            with self._directory_lock() as state:
                if state is not False:
                    self._enforce_limits()
        if self._on_rotated is not None:
            self._later(self._tell)

    # -- how much of the past is kept -----------------------------------------

    def _surplus(self) -> Iterable[str]:
        """Return the paths of the backups that go.  Locks held."""
        raise NotImplementedError

    def _enforce_limits(self) -> None:
        """Delete the backups that are too many; an error is reported once per streak.  Locks held."""
        failure: Optional[Exception] = None
        try:
            for path in self._surplus():
                try:
                    os.unlink(path)
                    self._say("%s deleted", path)
                except FileNotFoundError:
                    pass
                except OSError as error:
                    failure = error
        except Exception as error:
            failure = error
        if failure is not None and not self._deleting_in_trouble:
            self._later_report(failure)
        self._deleting_in_trouble = failure is not None

    def _weigh(self, paths: Tuple[str, ...]) -> Optional[Kept]:
        """Return size and time of the backup that has the forms *paths*; None if it is gone, or no file."""
        if not self._limits().need_status():
            return Kept(paths)
        found = [status for status in map(_status, paths) if status is not None]
        if not found or not all(stat.S_ISREG(each.st_mode) for each in found):
            return None
        return Kept(paths, sum(each.st_size for each in found), max(each.st_mtime for each in found))

    def _weight_besides(self) -> int:
        """Return the bytes of this log's files that are no backups."""
        if self._max_total_bytes is None:
            return 0
        found = map(_status, [self.baseFilename, *self._compression.part_files()])
        return sum(each.st_size for each in found if each is not None)

    # -- who hears of a new backup --------------------------------------------

    def _move_live_to(self, target: str) -> None:
        if self._on_rotated is None:
            super()._move_live_to(target)
            return
        inode = self._live.identity()[1]
        self._mark(inode)
        super()._move_live_to(target)
        found = _status(target)
        if found is not None and found.st_ino != inode:  # a rotator that copies
            self._mark(found.st_ino)
            self._marks.drop(inode)

    def _mark(self, inode: int) -> None:
        try:
            self._marks.put(inode)
        except OSError as error:
            self._later_report(error)

    def _before_publishing(self, job: Job) -> None:
        if self._on_rotated is None:
            return
        for path in self._compression.part_files():
            found = _status(path) if path.endswith(f".{job.inode[1]:x}.part") else None
            if found is not None:
                self._mark(found.st_ino)

    def _published(self, job: Job) -> None:
        if self._on_rotated is not None:
            self._marks.drop(job.inode[1])

    def _rolled(self) -> None:
        if self._on_rotated is not None:
            self._later(self._tell)

    def _compressed_in_background(self) -> None:
        self._tell(self._notice("after a compression"))

    def _tell(self, record: LogRecord) -> None:
        """Call `on_rotated` for each complete backup that it has not been told of.  No lock held."""
        me = get_ident()
        if me in self._tellers:
            return  # the callback logs, and that rotated: the outer call goes on with it
        try:
            self._tellers.add(me)
            for _ in range(self._marks.count() + _MOST_MORE):
                claim = self._claim_mark()
                if claim is None:
                    return
                told = False
                try:
                    told = self._call_back(claim.backup, record)
                finally:
                    claim.settle(told)  # after an interrupt the mark stays, for somebody who has more time
        except Exception as error:
            self._report(record, error)
        finally:
            self._tellers.discard(me)

    @locked_step
    def _claim_mark(self) -> Optional[Claim]:
        """Take on one mark only: others rotate during the callback, and then the paths are different."""
        if self._on_rotated is None:
            return None
        with self._chain() as held:
            if not held:
                return None
            live = _status(self.baseFilename)
            return self._marks.claim(self._backups(), live.st_ino if live else -1, wait_for_gz=self.use_gzip)

    def _call_back(self, path: str, record: LogRecord) -> bool:
        callback = self._on_rotated
        if callback is not None:
            try:
                callback(path)
            except Exception as error:
                self._report(record, error)
        return True


def _status(path: str) -> Optional[os.stat_result]:
    with contextlib.suppress(OSError):
        return os.lstat(path)
    return None
