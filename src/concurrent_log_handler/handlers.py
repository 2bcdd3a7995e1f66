"""The size handler: when a rotation is due, and what it makes of the files; the timed one is in `_timed`.

The way of a record is in `_writer`, limits are in `_limits`; names and shift plans come from `_rotation`.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import logging.handlers
import os
import stat
import time
import warnings
from itertools import count
from logging import LogRecord
from typing import Dict, Iterable, Iterator, List, Optional, Sequence, Set, Union

from . import _options
from ._compress import drop_twin
from ._limits import LimitedHandler, OnRotated
from ._retention import surplus
from ._rotation import GZ, check_names, plan_shift
from ._shared import LogFilenameType
from ._timed import ConcurrentTimedRotatingFileHandler

__all__ = ["ConcurrentRotatingFileHandler", "ConcurrentTimedRotatingFileHandler", "LogFilenameType"]


_LONG_CHAIN = 100  # backups from which on reading the whole directory is cheaper than asking for each
_WIDEST_GAP = 32  # numbers missing in a row; behind it, somebody else's files begin


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

    def _roll(self) -> bool:
        names = list(self._names_to_shift())
        check_names(self.baseFilename, names)
        present = _present_until_gap(names)
        self._carry_out(plan_shift(["", *names].__getitem__, present.__contains__, len(names)))
        self._move_live_to(names[0])
        if self._limits().need_status():
            self._enforce_limits()
        return True

    def _names_to_shift(self) -> Iterator[str]:
        """Yield the names from number 1 on: as many as may stay or, without a count, up to the first that is free."""
        if self._backup_count:
            yield from map(self._backup_name, range(1, self._backup_count + 1))
            return
        seen: Set[str] = set()
        for name in map(self._backup_name, count(1)):
            yield name
            if name in seen or not (os.path.lexists(name) or os.path.lexists(name + GZ)):
                return  # a namer that gives one name twice would go on for ever
            seen.add(name)

    def _backup_name(self, number: int) -> str:
        return os.fspath(self.rotation_filename(f"{self.baseFilename}.{number}"))

    def _backups(self) -> Iterator[str]:
        number = 0
        while number < self._backup_count:
            number += 1
            yield self._backup_name(number)
        seen: Set[str] = set()
        missing = 0
        while self._limits().need_status() and missing < _WIDEST_GAP:
            number += 1
            name = self._backup_name(number)
            if name in seen:
                return  # a namer that gives one name twice would go on for ever
            seen.add(name)
            missing = 0 if os.path.lexists(name) or os.path.lexists(name + GZ) else missing + 1
            if not missing:
                yield name

    def _plain_backups(self) -> Iterable[str]:
        names = list(self._backups())
        if len(names) < _LONG_CHAIN:
            return names
        listed = _listing(names)
        plain = [name for name in names if name in listed]
        known = plain or any(
            name + GZ in listed for name in names
        )  # or a namer writes its paths in another way
        return plain if known else names

    def _surplus(self) -> Iterable[str]:
        backups = []
        for name in reversed(list(self._backups())):
            backup = self._weigh(tuple(path for path in (name, name + GZ) if os.path.lexists(path)))
            if backup is not None:
                backups.append(backup)
        limits = self._limits()._replace(number=0)  # the shift has seen to it
        going = surplus(backups, limits, time.time(), self._weight_besides())
        return [path for backup in going for path in backup.paths]


def _present_until_gap(names: Sequence[str]) -> Set[str]:
    """Return what there is of *names*, plain and `.gz`, before the first that is free."""
    present: Set[str] = set()
    listed: Dict[str, bool] = {}
    for number, name in enumerate(names):
        if number == _LONG_CHAIN:
            listed = _listing(names)
        packed = name + GZ
        # Most are in one form, and a name that is not listed as it is written is asked for.
        if listed.get(name) is False and packed not in listed:
            present.add(name)
        elif listed.get(packed) is False and name not in listed:
            present.add(packed)
        else:
            forms = _forms(name)
            if not forms:
                break
            # A compressor killed before its last step; a kill between the two moves would part them for good.
            if len(forms) == 2 and drop_twin(name):
                forms.remove(name)
            present.update(forms)
    return present


def _listing(names: Iterable[str]) -> Dict[str, bool]:
    """Return the paths in the directories of *names*, and whether each is a directory."""
    found: Dict[str, bool] = {}
    for folder in {name.rpartition(os.sep)[0] for name in names}:
        with contextlib.suppress(OSError), os.scandir(folder or os.sep) as entries:
            found.update((entry.path, entry.is_dir(follow_symlinks=False)) for entry in entries)
    return found


def _forms(name: str) -> List[str]:
    """Return which of *name* and its `.gz` there are; a directory is an error, since it is not ours to move."""
    forms = []
    for path in (name, name + GZ):
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            continue
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(21, "a directory stands where a backup belongs", path)
        forms.append(path)
    return forms


# `class = handlers.ConcurrentRotatingFileHandler` in an ini: fileConfig evaluates it here.
logging.handlers.ConcurrentRotatingFileHandler = ConcurrentRotatingFileHandler  # type: ignore[attr-defined]
