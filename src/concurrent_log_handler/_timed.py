"""The timed handler: when it rolls over, and what its backups are called on disk.

The arithmetic of time is in `_calendar`, names are in `_naming`; limits are in `_limits`, the order of the steps
in `_base` and `_writer`.  What is left to this module is the disk and the time that all processes share.

That time stands in the sidecar.  It is read only when the one that this process knows has come:
between two boundaries a record costs one look at the clock.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import logging.handlers
import os
import stat
import time
from logging import LogRecord
from logging.handlers import BaseRotatingHandler, TimedRotatingFileHandler
from typing import Any, Callable, Iterable, Iterator, List, Optional, Tuple, Union

from . import _options
from ._calendar import (
    MIN_VALID_TIME,
    Calendar,
    first_boundary,
    format_rollover,
    next_boundary,
    parse_calendar,
    period_text,
    read_rollover,
)
from ._limits import LimitedHandler, OnRotated
from ._naming import (
    Backup,
    Naming,
    backup_directory,
    backup_path,
    free_path,
    list_backups,
    naming_for,
    next_number,
)
from ._retention import surplus
from ._rotation import GZ
from ._shared import LogFilenameType

_TICK = 0.02  # the time of a file's last change may lag the clock by this much
_AT_ONCE = 1.0  # any time long past


class _Timed(TimedRotatingFileHandler):
    """The standard library's handler without its constructor, which would open the file and compute times."""

    def __init__(
        self, filename: str, mode: str, encoding: Optional[str], delay: bool, errors: Optional[str]
    ) -> None:
        BaseRotatingHandler.__init__(self, filename, mode, encoding=encoding, delay=delay, errors=errors)


class ConcurrentTimedRotatingFileHandler(LimitedHandler, _Timed):
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
        maxBytes: Rotates inside a period, too, before the file reaches this size:
            `app.log.2026-11-23`, `app.log.2026-11-23.1` and so on, each later than the one before.
            An int, a float (rounded down) or text such as `"10 MB"`.  0 is no limit.
        max_total_bytes: Limit of the live file, the backups and unfinished `.gz` together, right after
            a rotation; the oldest backups go first.
        max_age: Seconds, or a `datetime.timedelta`, since a backup was last written.
        on_rotated: Called with the path of each backup once it is complete, outside all locks; also
            as a dotted name.
        mode: Only `"a"`.

    Everything else is as for `ConcurrentRotatingFileHandler`, and so are the errors.

    Raises:
        ValueError, TypeError: For a value that no log file could have.
        FileNotFoundError: The log's directory does not exist.
        OSError: The file cannot be opened (with `delay=False`), or something other than a
            regular file lies where the lock file belongs.
    """

    _OF_THIS_PROCESS = (*LimitedHandler._OF_THIS_PROCESS, "_names_known")

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
        mode: str = "a",
    ) -> None:
        if _options.mode(mode) != "a":
            msg = f"mode must be 'a': a timed log is always continued, got {mode!r}"
            raise ValueError(msg)
        calendar = parse_calendar(when, interval, utc, atTime)
        self.when, self.interval = calendar.when, calendar.interval
        self.utc, self.atTime = calendar.utc, atTime
        self.suffix, self.extMatch = calendar.suffix, calendar.ext_match
        if calendar.day_of_week is not None:
            self.dayOfWeek = calendar.day_of_week
        self._known_calendar: Optional[Tuple[Any, Calendar]] = None
        self._clock: Callable[[], float] = time.time
        self._set_limits(maxBytes, backupCount, max_total_bytes, max_age, on_rotated)
        super().__init__(
            filename,
            mode,
            encoding,
            delay,
            errors,
            use_gzip=use_gzip,
            background_gzip=background_gzip,
            owner=owner,
            chmod=chmod,
            umask=umask,
            newline=newline,
            terminator=terminator,
            unicode_error_policy=unicode_error_policy,
            lock_file_directory=lock_file_directory,
            keep_file_open=keep_file_open,
            lock_timeout=lock_timeout,
            debug=debug,
        )
        self.finalize_handler_configuration()
        if not self._own_time:
            self._rollover_at: float = self._agreed(self._peek(), self._clock())

    def _set_up(self) -> None:
        super()._set_up()
        self._names_known: Optional[Tuple[Any, Naming]] = None
        self._own_time = False  # the user has set `rolloverAt` in this process
        self._asked_at = 0.0
        self._file_then: Optional[Tuple[int, int]] = None
        self._given: Tuple[str, int] = ("", -1)
        self._newest = ""
        self._wake_at = _AT_ONCE  # the first record asks

    def finalize_handler_configuration(self) -> None:
        """
        Set `suffix`, `namer` and the like in a subclass; called at the end of construction.

        CLH's hook.  No rollover can come before it.
        """

    @property
    def clh(self) -> ConcurrentTimedRotatingFileHandler:
        """The handler itself; in CLH, the size handler inside the timed one."""
        return self

    # -- the time that all processes share ------------------------------------

    @property  # type: ignore[override]
    def rolloverAt(self) -> float:
        """
        The next rollover time that this process knows, in seconds since the epoch.

        A value that is set counts in this process until it has come: `handler.rolloverAt = 0` rolls
        over with the next record.  Set while a rollover is going on, it counts for all processes.
        """
        return self._rollover_at

    @rolloverAt.setter
    def rolloverAt(self, value: float) -> None:
        if self._lock.mine() and self._lock.held:
            self._share(int(value), self._clock())
            return
        self._know(value, 0.0)
        self._own_time = True

    def computeRollover(self, currentTime: float) -> int:
        """Return the first boundary after *currentTime*, both in seconds since the epoch; to be overridden."""
        return next_boundary(self._calendar(), currentTime)

    def _calendar(self) -> Calendar:
        key = (self.when, self.interval, self.utc, self.atTime)
        if self._known_calendar is None or self._known_calendar[0] != key:
            calendar = parse_calendar(self.when, 1, bool(self.utc), self.atTime)
            self._known_calendar = key, calendar._replace(interval=self.interval)
        return self._known_calendar[1]

    def _know(self, at: float, now: float) -> None:
        self._rollover_at = at
        self._asked_at = now
        self._wake_at = max(at, _AT_ONCE)
        self._file_then = None if self._rolling else self._live.identity()

    def _consider(self, record: LogRecord, length: int) -> int:
        size = super()._consider(record, length)
        if self._file_then is None:
            self._file_then = self._live.identity()  # the one after the rollover
        return size

    def _share(self, at: int, now: float) -> None:
        """Make *at* everybody's rollover time.  Lock held."""
        self._own_time = False
        self._know(at, now)
        try:
            self._lock.write(format_rollover(at).encode("ascii"))
        except OSError as error:
            self._later_report(error)

    def _agree(self, now: float) -> float:
        """Return the rollover time that everybody goes by, which is written down if it was not.  Lock held."""
        if self._own_time:
            return self._rollover_at
        content = self._lock.read()
        at = self._agreed(content, now)
        if content == format_rollover(at).encode("ascii") or not self._lock.writable:
            self._know(at, now)
        else:
            self._share(at, now)
        return at

    def _agreed(self, content: bytes, now: float) -> int:
        """Return the rollover time that the sidecar's *content* gives at the time *now*."""
        calendar, compute = self._calendar(), self.computeRollover
        at = read_rollover(content, calendar, now, compute)
        modified = self._last_write()
        known = self._known_before(now)
        if at is None or (
            known is not None and known <= now < at and self._nobody_rolled_at(known, modified)
        ):
            # Lost, or written for another log of the same name that shares this sidecar.
            at = known
        if at is None:
            return first_boundary(calendar, now, modified, compute)
        if modified is not None and at < modified <= now:
            boundary = compute(int(modified))
            if not self._lock.writable:
                return boundary  # somebody has rolled over, and could not write the next time down
            # Written for a whole period without a rollover: another program, or an older
            # handler, had the log meanwhile, and the time is from before that.
            if not self._retry_pause and boundary >= compute(compute(at)):
                return boundary
        return at

    def _known_before(self, now: float) -> Optional[int]:
        """Return the time that this process and the others agreed on, if it may still be believed *now*."""
        if not self._asked_at:
            return None
        known = format_rollover(int(self._rollover_at))
        return read_rollover(known, self._calendar(), now, self.computeRollover)

    def _nobody_rolled_at(self, known: int, modified: Optional[float]) -> bool:
        """Tell whether the live file is the one from before *known*, with nothing in it from after that."""
        return modified is not None and modified < known - _TICK and self._live.identity() == self._file_then

    def _peek(self) -> bytes:
        with contextlib.suppress(OSError), open(self.lockFilename, "rb") as sidecar:
            return sidecar.read(64)
        return b""

    def _last_write(self) -> Optional[float]:
        """Return when the live file was last written to; None if there is nothing in it."""
        try:
            found = os.stat(self.baseFilename)
        except OSError:
            return None
        return found.st_mtime if found.st_size and stat.S_ISREG(found.st_mode) else None

    # -- rollover -------------------------------------------------------------

    def _asks_each_time(self) -> bool:
        own = ConcurrentTimedRotatingFileHandler.shouldRollover
        return type(self).shouldRollover is not own or "shouldRollover" in vars(self)

    def shouldRollover(self, record: LogRecord) -> bool:
        """Tell whether a boundary has been reached, or *record* would make a non-empty file reach `maxBytes`."""
        return self._is_due() or self._is_full(record)

    def _is_due(self) -> bool:
        if not self._time_is_up() or not self._live.regular:
            return False
        with self._exclusive() as held:
            now = self._clock()
            return bool(held) and now >= self._agree(now)

    def _roll(self) -> bool:
        now = self._clock()
        at = self._agree(now)
        by_hand = self._incoming[0] is None
        due = now >= at
        moved = by_hand or self._last_write() is not None
        if moved:
            text, number, path = self._target(at, now)
            self._move_live_to(path)
            self._given, self._newest = (text, number), path
        if due or by_hand:
            # After the move: a kill in between leaves an empty file and a time gone by, and no
            # data under the name of another period.
            self._share(self.computeRollover(int(now)), now)
        if moved and self._limits().any():
            self._enforce_limits()
        return moved

    def _target(self, at: float, now: float) -> Tuple[str, int, str]:
        """Return text, number and path, which is free, for the backup of the period that ends at *at*."""
        calendar = self._calendar()
        if at < MIN_VALID_TIME:  # set by hand, to have a rollover at once
            at = first_boundary(calendar, now, self._last_write(), self.computeRollover)
        naming = self._naming()
        text = period_text(calendar, int(at), self.suffix)
        first = next_number(self._listed(naming), text)
        if self._given[0] == text:  # also if it was uploaded and deleted since
            first = max(first, self._given[1] + 1)

        def taken(path: str) -> bool:
            return path == self.baseFilename or os.path.lexists(path) or os.path.lexists(path + GZ)

        found = free_path(naming, text, first, taken)
        if found is None:
            path = backup_path(naming, text, first)
            msg = f"no free name for a backup of {self.baseFilename!r}: {path!r} and those after it are taken"
            raise FileExistsError(msg)
        return (text, *found)

    def _naming(self) -> Naming:
        overridden = type(self).rotation_filename is not BaseRotatingHandler.rotation_filename
        namer = self.rotation_filename if overridden else self.namer if callable(self.namer) else None
        key = (self.baseFilename, self.suffix, self.extMatch, namer)
        if self._names_known is None or self._names_known[0] != key:
            self._names_known = key, naming_for(self.baseFilename, self.suffix, self.extMatch, namer)
        return self._names_known[1]

    def _listed(self, naming: Naming) -> List[Backup]:
        directory = backup_directory(naming)
        try:
            names = os.listdir(directory)
        except (FileNotFoundError, PermissionError):  # a directory may be written and not read
            return []
        backups = list_backups(naming, names, directory)
        if naming.reading is None:  # the names show no order
            backups.sort(key=lambda backup: _last_modified(directory, backup))
        return backups

    def _backups(self) -> Iterator[str]:
        naming = self._naming()
        paths = [backup_path(naming, each.text, each.number) for each in reversed(self._listed(naming))]
        return self._with_newest(paths)

    def _plain_backups(self) -> Iterator[str]:
        naming = self._naming()
        backups = [
            (backup_path(naming, each.text, each.number), each.names)
            for each in reversed(self._listed(naming))
        ]
        return self._with_newest([path for path, names in backups if os.path.basename(path) in names])

    def _with_newest(self, listed: List[str]) -> Iterator[str]:
        # A namer may have put it where the listing does not look, into a directory for each month say.
        if self._newest and self._newest not in listed:
            yield self._newest
        yield from listed

    def _surplus(self) -> Iterable[str]:
        return self.getFilesToDelete()

    def getFilesToDelete(self) -> List[str]:
        """
        Return the paths of the backups that go now, oldest first; for subclasses to override.

        Only names that this handler makes are among them: the log's name, a date as `suffix` writes
        it, perhaps a number and `.gz`, or what `namer` makes of these.
        """
        naming = self._naming()
        directory = backup_directory(naming)
        backups = [
            backup
            for names in (each.names for each in self._listed(naming))
            for backup in [self._weigh(tuple(os.path.join(directory, name) for name in names))]
            if backup is not None
        ]
        going = surplus(backups, self._limits(), self._clock(), self._weight_besides())
        return [path for backup in going for path in backup.paths]


def _last_modified(directory: str, backup: Backup) -> float:
    try:
        return os.stat(os.path.join(directory, backup.names[0])).st_mtime
    except OSError:
        return 0.0


# `class = handlers.ConcurrentTimedRotatingFileHandler` in an ini: fileConfig evaluates it here.
logging.handlers.ConcurrentTimedRotatingFileHandler = ConcurrentTimedRotatingFileHandler  # type: ignore[attr-defined]
