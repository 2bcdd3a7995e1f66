"""The two handlers: what a user asks them for, and which hooks of the standard library they answer."""

from __future__ import annotations

import datetime as dt
import logging.handlers
import time
import warnings
from logging import LogRecord
from logging.handlers import BaseRotatingHandler, TimedRotatingFileHandler
from typing import Iterable, List, Optional, Union

from . import _options
from ._backups._calendar import Calendar, Schedule, parse_calendar
from ._backups._chains import DatedChain, NumberedChain
from ._backups._naming import naming_for
from ._record._handler import ConcurrentHandler
from ._settings import Header, LogFilenameType, OnRotated

__all__ = ["ConcurrentRotatingFileHandler", "ConcurrentTimedRotatingFileHandler", "LogFilenameType"]


class ConcurrentRotatingFileHandler(ConcurrentHandler):
    r"""
    A `logging.handlers.RotatingFileHandler` that many processes can share.

    Each record is written once and whole, under a lock on a second file beside the log.  Backup
    names and boundaries are CPython 3.13's: rotation comes before the record that would reach
    *maxBytes*, an empty file never rotates (gh-116263), nor does anything but a regular file
    (bpo-45401).  One difference: CPython adds the characters of the new record to the bytes of
    the file; this adds its encoded bytes.

    Args:
        filename: The log.  Its directory must exist.
        mode: `"a"` appends; `"w"` empties the file once, when it is first opened; `"x"` wants a
            new file.  Where *maxBytes* is set, `"a"` is used, as in CPython.
        maxBytes: Size limit of one file in bytes: an int, a float (rounded down) or text such as
            `"10485760"`, `"10 MB"` or `"512 KiB"`.  0 never rotates.
        backupCount: Backups kept, `.1` the newest.  0 keeps one growing file, as in CPython, or,
            with *max_total_bytes* or *max_age*, backups without a limit in number.
        encoding: None is the locale's, as for `open()`.
        delay: None or True creates the file with the first record, False now.
        errors: What becomes of characters that *encoding* lacks; None is `"backslashreplace"`.
        use_gzip: Compress backups, outside the lock; when the call that rotated returns, the
            `.gz` is there.
        background_gzip: Do that in a short-lived thread instead.
        owner: (user, group) of all files, as names or numbers; None in it leaves that part.
        chmod: Permission bits of all files, from the moment they exist.
        umask: Permission bits that new files do not get, in place of the process's umask.
        newline: As for `open()`: None is the platform's line end, `""` writes `\n` as it is.
        terminator: What ends a record.
        unicode_error_policy: CLH's name for *errors*, which goes before it.
        lock_file_directory: Where the lock file lies, in place of the log's directory.
        keep_file_open: False opens and closes the files for each record.
        lock_timeout: Seconds to wait for the lock before a record is appended without it; None
            waits for ever.
        debug: Tell on stderr what is renamed.
        max_total_bytes: Limit of the live file, the backups and unfinished `.gz` together, right after
            a rotation; the oldest backups go first.  An int, a float or text, as for *maxBytes*.
        max_age: Seconds, or a `datetime.timedelta`, since a backup was last written; also looked at
            with a process's first record.
        on_rotated: Called with the path of each backup once it is complete (the `.gz` where there
            is one), outside all locks; a callable or a dotted name of one.
        header: Text that each new file begins with, CSV columns say; or a callable that returns it, asked when
            a file is begun, or a dotted name of one.  It ends as a record does and counts for *maxBytes*; a file
            with nothing else is empty.
        fsync: A record, or a batch, is on the disk when the logging call returns, and so are a rotation's
            names; other processes and threads go on meanwhile.
        shared_between_machines: Whether other machines may write the same log, or read what this one
            writes, on a network disk.  None asks the mount table.  There each record is with the server
            before the lock is free, and none is appended without the lock.

    Raises:
        ValueError, TypeError: For a value that no log file could have.
        FileNotFoundError: The log's directory does not exist.
        OSError: The file cannot be opened (with `delay=False`), or something other than a
            regular file lies where the lock file belongs.

    Once running, errors go to `handleError()`.  If only the rotation failed, the record is still
    written.  Without *fsync*, a record survives the death of the process, not a power cut.
    """

    def __init__(
        self,
        filename: LogFilenameType,
        mode: str = "a",
        maxBytes: _options.Size = 0,
        backupCount: _options.Count = 0,
        encoding: Optional[str] = None,
        delay: Optional[bool] = None,
        errors: Optional[str] = None,
        *,
        use_gzip: bool = False,
        background_gzip: bool = False,
        owner: Optional[_options.Owner] = None,
        chmod: Union[int, str, None] = None,
        umask: Union[int, str, None] = None,
        newline: Optional[str] = None,
        terminator: str = "\n",
        unicode_error_policy: Optional[str] = None,
        lock_file_directory: Optional[LogFilenameType] = None,
        keep_file_open: bool = True,
        lock_timeout: Optional[float] = 5.0,
        debug: bool = False,
        max_total_bytes: Optional[_options.Size] = None,
        max_age: Union[float, dt.timedelta, None] = None,
        on_rotated: Union[OnRotated, str, None] = None,
        header: Union[str, Header, None] = None,
        fsync: bool = False,
        shared_between_machines: Optional[bool] = None,
    ) -> None:
        super().__init__(dict(locals()))
        if self.maxBytes and not self._rotates():
            msg = "maxBytes without backupCount: the log is never rotated and will grow, as with the standard library"
            warnings.warn(msg, UserWarning, stacklevel=2)

    def shouldRollover(self, record: LogRecord) -> bool:
        """Tell whether *record* would make a non-empty file reach `maxBytes`."""
        return self._rotation.is_full(self, record)

    _decides = shouldRollover

    def _rotates(self) -> bool:
        return self._rotation.retention.limits().any()

    def _roll(self) -> bool:
        target, moves = self._backups().make_room()
        self._rotation.carry_out(moves)
        self._rotation.move_live_file(self, target)
        if self._rotation.retention.limits().need_status():
            self._rotation.retention.enforce(self._surplus)
        return True

    def _backups(self) -> NumberedChain:
        limits = self._rotation.retention.limits()
        return NumberedChain(self.baseFilename, self.rotation_filename, limits, self._rotation.newest)

    def _surplus(self) -> Iterable[str]:
        retention = self._rotation.retention
        limits = retention.limits()._replace(number=0)  # the shift has seen to it
        return retention.surplus(self._backups(), limits, time.time())


class ConcurrentTimedRotatingFileHandler(ConcurrentHandler, TimedRotatingFileHandler):
    r"""
    A `logging.handlers.TimedRotatingFileHandler` that many processes can share.

    Names and boundaries are CPython 3.13's, on every Python; where a release of it errs around a
    change of daylight-saving time, the wall clock wins.  All processes go by one rollover time, which
    they keep in the lock file.  The first record at or after it rolls over; nobody needs to wake for it.
    Where several boundaries went by, the log is rolled once, and named for the period in which it was
    last written.  A file that stayed empty is not rolled.

    Args:
        filename: The log.  Its directory must exist.
        when: `"S"`, `"M"`, `"H"`, `"D"`, `"MIDNIGHT"` or `"W0"` (Monday) to `"W6"`, in any case.
        interval: How many of these units a period has, 1 or more.
        backupCount: Files kept besides the live one; the oldest go first.  0 keeps all.
        utc: Boundaries and names by UTC in place of local time.
        atTime: The time of day of the boundary for MIDNIGHT and W.  Its time zone is ignored, as in CPython.
        maxBytes: Rotates inside a period, too, before the file reaches this size, in bytes:
            `app.log.2026-11-23`, `app.log.2026-11-23.1` and so on, each later than the one before.  0 is no limit.
        mode: Only `"a"`.

    Everything else is as for `ConcurrentRotatingFileHandler`, and so are the errors.
    """

    _schedule: Schedule

    def __init__(
        self,
        filename: LogFilenameType,
        when: str = "h",
        interval: float = 1,
        backupCount: _options.Count = 0,
        encoding: Optional[str] = None,
        delay: Optional[bool] = None,
        utc: bool = False,
        atTime: Optional[dt.time] = None,
        errors: Optional[str] = None,
        maxBytes: _options.Size = 0,
        *,
        use_gzip: bool = False,
        background_gzip: bool = False,
        owner: Optional[_options.Owner] = None,
        chmod: Union[int, str, None] = None,
        umask: Union[int, str, None] = None,
        newline: Optional[str] = None,
        terminator: str = "\n",
        unicode_error_policy: Optional[str] = None,
        lock_file_directory: Optional[LogFilenameType] = None,
        keep_file_open: bool = True,
        lock_timeout: Optional[float] = 5.0,
        debug: bool = False,
        max_total_bytes: Optional[_options.Size] = None,
        max_age: Union[float, dt.timedelta, None] = None,
        on_rotated: Union[OnRotated, str, None] = None,
        header: Union[str, Header, None] = None,
        fsync: bool = False,
        shared_between_machines: Optional[bool] = None,
        mode: str = "a",
    ) -> None:
        given = dict(locals())
        if _options.mode(mode) != "a":
            msg = f"mode must be 'a': a timed log is always continued, got {mode!r}"
            raise ValueError(msg)
        calendar = parse_calendar(when, interval, utc, atTime)
        self.when, self.interval = calendar.when, calendar.interval
        self.utc, self.atTime = calendar.utc, atTime
        self.suffix, self.extMatch = calendar.suffix, calendar.ext_match
        if calendar.day_of_week is not None:
            self.dayOfWeek = calendar.day_of_week
        super().__init__(given)
        self.finalize_handler_configuration()
        self._schedule.begin(self._calendar())

    def finalize_handler_configuration(self) -> None:
        """CLH's hook at the end of construction: a subclass sets `suffix`, `namer` and such before any rollover."""

    @property
    def clh(self) -> ConcurrentTimedRotatingFileHandler:
        """The handler itself; in CLH, the size handler inside the timed one."""
        return self

    @property  # type: ignore[override]
    def rolloverAt(self) -> float:
        """
        The next rollover time that this process knows, in seconds since the epoch.

        A value that is set counts in this process until it has come: `handler.rolloverAt = 0` rolls
        over with the next record.  Set while a rollover is going on, it counts for all processes.
        """
        return self._schedule.at

    @rolloverAt.setter
    def rolloverAt(self, value: float) -> None:
        if self._lock.mine() and self._lock.held:
            self._schedule.share(int(value), self._schedule.clock())
        else:
            self._schedule.set(value)

    def computeRollover(self, currentTime: float) -> int:
        """Return the first boundary after *currentTime*, both in seconds since the epoch; to be overridden."""
        return self._calendar().next_boundary(currentTime)

    def _calendar(self) -> Calendar:
        asked = parse_calendar(self.when, 1, bool(self.utc), self.atTime)
        return asked._replace(interval=self.interval, suffix=self.suffix, compute=self.computeRollover)

    def shouldRollover(self, record: LogRecord) -> bool:
        """Tell whether a boundary has been reached, or *record* would make a non-empty file reach `maxBytes`."""
        due = self._schedule.is_up() and self._live.is_file() and self._locks.exclusive(self._is_past)
        return due or self._rotation.is_full(self, record)

    _decides = shouldRollover

    def _is_past(self, held: bool) -> bool:
        now = self._schedule.clock()
        return held and now >= self._agree(now)

    def _agree(self, now: float) -> float:
        return self._schedule.agree(self._calendar(), now, in_trouble=bool(self._rotation.trouble.pause))

    def _rotates(self) -> bool:
        return True

    def _roll(self) -> bool:
        rotation, schedule = self._rotation, self._schedule
        now = schedule.clock()
        at = self._agree(now)
        due = now >= at
        moved = rotation.by_hand() or schedule.last_write() is not None
        if moved:
            period = schedule.period(self._calendar(), at, now)
            rotation.move_live_file(self, self._backups().free_name(period))
        if due or rotation.by_hand():
            # After the move: a kill in between leaves an empty file and a time gone by, and no
            # data under the name of another period.
            schedule.share(self.computeRollover(int(now)), now)
        if moved and rotation.retention.limits().any():
            rotation.retention.enforce(self._surplus)
        return moved

    def _backups(self) -> DatedChain:
        overridden = type(self).rotation_filename is not BaseRotatingHandler.rotation_filename
        namer = self.rotation_filename if overridden else self.namer if callable(self.namer) else None
        naming = naming_for(self.baseFilename, self.suffix, self.extMatch, namer)
        return DatedChain(naming, self._rotation.newest)

    def _surplus(self) -> Iterable[str]:
        return self.getFilesToDelete()

    def getFilesToDelete(self) -> List[str]:
        """
        Return the paths of the backups that go now, oldest first; for subclasses to override.

        Only names that this handler makes are among them: the log's name, a date as `suffix` writes
        it, perhaps a number and `.gz`, or what `namer` makes of these.
        """
        retention = self._rotation.retention
        return retention.surplus(self._backups(), retention.limits(), self._schedule.clock())


# `class = handlers.ConcurrentRotatingFileHandler` in an ini: fileConfig evaluates it here.
logging.handlers.ConcurrentRotatingFileHandler = ConcurrentRotatingFileHandler  # type: ignore[attr-defined]
logging.handlers.ConcurrentTimedRotatingFileHandler = ConcurrentTimedRotatingFileHandler  # type: ignore[attr-defined]
