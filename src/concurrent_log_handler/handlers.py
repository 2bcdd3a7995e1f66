"""The size handler: when a rotation is due, and what it makes of the files; the timed one is in `_timed`.

The way of a record is in `_writer`, limits are in `_limits`; names and shifts come from `_numbered`.
"""

from __future__ import annotations

import datetime as dt
import logging.handlers
import os
import time
import warnings
from logging import LogRecord
from typing import Iterable, Iterator, Optional, Union

from . import _options
from ._limits import LimitedHandler, OnRotated
from ._numbered import NumberedChain
from ._retention import surplus
from ._shared import LogFilenameType
from ._timed import ConcurrentTimedRotatingFileHandler

__all__ = ["ConcurrentRotatingFileHandler", "ConcurrentTimedRotatingFileHandler", "LogFilenameType"]


class ConcurrentRotatingFileHandler(LimitedHandler):
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

    Raises:
        ValueError, TypeError: For a value that no log file could have.
        FileNotFoundError: The log's directory does not exist.
        OSError: The file cannot be opened (with `delay=False`), or something other than a
            regular file lies where the lock file belongs.

    Once running, errors go to `handleError()`.  If only the rotation failed, the record is still
    written.  Nothing is fsynced: a record survives the death of the process, not a power cut.
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
    ) -> None:
        self._set_limits(maxBytes, backupCount, max_total_bytes, max_age, on_rotated)
        if self._max_bytes and not self._wants_rotation():
            warnings.warn(
                "maxBytes without backupCount: the log is never rotated and will grow, as with the standard library",
                UserWarning,
                stacklevel=2,
            )
        if self._max_bytes:
            _options.mode(mode)
            mode = "a"
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

    def _asks_each_time(self) -> bool:
        own = ConcurrentRotatingFileHandler.shouldRollover
        return type(self).shouldRollover is not own or "shouldRollover" in vars(self)

    def _wants_rotation(self) -> bool:
        return self._limits().any()

    def shouldRollover(self, record: LogRecord) -> bool:
        """Tell whether *record* would make a non-empty file reach `maxBytes`."""
        return self._is_full(record)

    def _set_up(self) -> None:
        super()._set_up()
        self._newest = ""

    def _numbered(self) -> NumberedChain:
        """Look at the backups.  Locks held; good until they are released, or something is moved."""
        beyond = self._limits().need_status()
        return NumberedChain(self.baseFilename, self._backup_name, self._backup_count, beyond, self._newest)

    def _backup_name(self, number: int) -> str:
        return os.fspath(self.rotation_filename(f"{self.baseFilename}.{number}"))

    def _roll(self) -> bool:
        target, moves = self._numbered().make_room()
        self._carry_out(moves)
        self._move_live_to(target)
        self._newest = target
        if self._limits().need_status():
            self._enforce_limits()
        return True

    def _backups(self) -> Iterator[str]:
        return self._numbered().names()

    def _plain_backups(self) -> Iterable[str]:
        return self._numbered().plain()

    def _surplus(self) -> Iterable[str]:
        weighed = [self._weigh(paths) for paths in reversed(self._numbered().backups())]
        backups = [backup for backup in weighed if backup is not None]
        limits = self._limits()._replace(number=0)  # the shift has seen to it
        going = surplus(backups, limits, time.time(), self._weight_besides())
        return [path for backup in going for path in backup.paths]


# `class = handlers.ConcurrentRotatingFileHandler` in an ini: fileConfig evaluates it here.
logging.handlers.ConcurrentRotatingFileHandler = ConcurrentRotatingFileHandler  # type: ignore[attr-defined]
