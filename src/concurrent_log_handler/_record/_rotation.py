"""A rotation, from the question whether it is due to the new live file.

What becomes of a backup later is for the compressor, the retention and the announcer, who are told here in that order.
"""

from __future__ import annotations

import contextlib
import os
import sys
from logging import LogRecord
from typing import Any, Callable, Iterable, Optional, Tuple

from concurrent_log_handler._afterwards import Afterwards
from concurrent_log_handler._backups import Look
from concurrent_log_handler._backups._announcer import Announcer
from concurrent_log_handler._backups._calendar import Schedule
from concurrent_log_handler._backups._chains import Move, Retention
from concurrent_log_handler._files import WINDOWS, identity, remove
from concurrent_log_handler._locks import Locks, LockTimeoutError
from concurrent_log_handler._patience import Streak
from concurrent_log_handler._settings import Settings

from ._disk import Disk
from ._livefile import LiveFile

_ALWAYS, _NEVER = -1, sys.maxsize  # as sizes of the live file from which a rotation is considered


class Rotation:
    """
    The rotations of the log of *live* by one handler.

    Contract: everything but `is_due` is called with the thread lock and the sidecar's held.  A rotation
    that fails costs no record: it is reported once per streak, and tried again later.  *hooks* is the handler, which
    cannot be held: it holds this, and goes as soon as it is dropped.

    Attributes:
        look_closer_at: Size of the live file from which `make_room` is asked.
        schedule: The time that all processes go by, of a handler that rotates by time.
        newest: The path that was given to a backup last, or nothing.
    """

    def __init__(
        self,
        live: LiveFile,
        locks: Locks,
        afterwards: Afterwards,
        settings: Settings,
        announcer: Announcer,
        retention: Retention,
        compress: Callable[[Look], None],
        schedule: Optional[Schedule],
        disk: Optional[Disk],
    ) -> None:
        self._live = live
        self._locks = locks
        self._afterwards = afterwards
        self._settings = settings
        self._announcer = announcer
        self.retention = retention
        self._compress = compress
        self.schedule = schedule
        self._disk = disk
        self.trouble = Streak()
        self.newest = ""
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget, in a forked child, what was the parent's."""
        self.rolling = False
        self._incoming: Tuple[Optional[LogRecord], int] = (None, 0)
        self._begun = False  # the first record has come
        self.look_closer_at = _ALWAYS  # until then

    # -- when ------------------------------------------------------------------

    def is_due(self, size: int) -> bool:
        """Tell whether `make_room` is to be asked before the file has *size* bytes; stands in `emit`'s way, too."""
        return size >= self.look_closer_at or (self.schedule is not None and self.schedule.is_up())

    def adjust(self, hooks: Any) -> None:
        """Learn anew from which size of the live file a rotation may be due."""
        if not self._begun or hooks.shouldRollover != hooks._decides:
            self.look_closer_at = _ALWAYS
        elif self._settings.maxBytes and hooks._rotates():
            self.look_closer_at = nearly_full(self._settings.maxBytes)
        else:
            self.look_closer_at = _NEVER

    def is_full(self, hooks: Any, record: LogRecord) -> bool:
        limit = self._settings.maxBytes
        found = self._live.filled() if limit and hooks._rotates() else None
        if found is None:
            return False
        known, length = self._incoming
        return found.st_size + (length if known is record else len(hooks._bytes(record))) >= limit

    def by_hand(self) -> bool:
        """Tell whether no record has caused the rotation that is going on."""
        return self._incoming[0] is None

    def make_room(self, hooks: Any, record: LogRecord, length: int) -> int:
        """Rotate before *record* of *length* bytes, if that is due; return the live file's size."""
        if not self._locks.in_place():
            return self._live.look()
        if not self._begun:
            self._begun = True
            self.adjust(hooks)
            if self.retention.limits().need_status():
                with contextlib.suppress(OSError):
                    self._locks.chain(lambda held: self.retention.enforce(hooks._surplus) if held else None)
            self._announcer.tell_later(hooks._backups)
        self._incoming = (record, length)
        try:
            if hooks.shouldRollover(record) and not self.trouble.waits() and not self.rolling:
                hooks.doRollover()
                self.trouble.end()
        except Exception as error:
            self.trouble.note(error, self._afterwards.report)
        finally:
            self._incoming = (None, 0)
        size = self._live.look()
        if self.schedule is not None:
            self.schedule.settled()
        return size

    # -- how -------------------------------------------------------------------

    def roll_over(self, hooks: Any, held: bool) -> bool:
        """
        Rotate; returns whether there was something to rotate.

        What is moved is looked at again with the directory's lock held, for the case that it is there for.
        """
        if not held or not self._locks.in_place():
            raise self._locks.sidecar.take_trouble()
        self._live.look()
        if not hooks._rotates() or not self._live.regular:
            return False
        before = self._live.identity()
        moved = False
        self.rolling = True
        try:
            with self._locks.directory() as state:
                if state is False:
                    msg = f"no lock on the directory of {self._live.path!r}; the log is not rotated for now"
                    raise LockTimeoutError(msg)
                self._live.look()
                moved = self._live.identity() == before and hooks._roll()
                if moved and self._settings.use_gzip:
                    self._compress(hooks._backups)
                if moved:
                    self._announcer.tell_later(hooks._backups)
        finally:
            self.rolling = False
            self._locks.sidecar.forget_foreign()  # a namer or a rotator is the user's code: it may close anything
        self._live.look()
        return moved

    def carry_out(self, moves: Iterable[Move]) -> None:
        for move in moves:
            try:
                remove(move.source) if move.target is None else os.rename(move.source, move.target)
            except FileNotFoundError:
                if move.target is not None and not os.path.isdir(os.path.dirname(move.target)):
                    raise
            else:  # not removed by somebody else meanwhile
                self._afterwards.say("%s -> %s", move.source, move.target or "deleted")

    def move_live_file(self, hooks: Any, target: str) -> None:
        """Make the live file the backup *target*, and begin a new one."""
        before = self._live.identity()
        self._announcer.about_to_move(before[1])
        if WINDOWS:
            self._live.close()  # a rotator that deletes it frees its name only where nobody has it open
        try:
            hooks.rotate(self._live.path, target)
        except FileNotFoundError:
            self._live.look()
            if self._live.identity() == before:
                raise
            return  # somebody else took the live file away meanwhile: nothing is left to rotate
        self._afterwards.say("%s -> %s", self._live.path, target)
        self.newest = target
        try:
            self._live.look()
        except OSError:  # for want of inodes, say: go on with the old file
            if identity(target) == before and not os.path.lexists(self._live.path):
                with contextlib.suppress(OSError):
                    os.rename(target, self._live.path)
            raise
        self._announcer.moved(before[1], target)
        if self._disk is not None:
            self._disk.renamed(target)


def nearly_full(max_bytes: int) -> int:
    """Return the size from which a file is looked at more closely before it reaches *max_bytes*."""
    return max_bytes - min(16384, max_bytes // 32)
