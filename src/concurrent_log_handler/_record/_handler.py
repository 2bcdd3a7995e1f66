"""The base of both handlers: the standard library's interface, and the order of the steps.

format → encode → lock → look → (rotate) → write → unlock → (compress).  How each step is done is
known to the parts that the handler holds: the locks, the live file, the backups and what becomes of them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from functools import partial
from io import TextIOWrapper
from logging import LogRecord
from logging.handlers import BaseRotatingHandler, TimedRotatingFileHandler
from time import monotonic
from typing import Any, Callable, Dict, Iterable, Mapping, Optional, Sequence, Tuple

from concurrent_log_handler import _options
from concurrent_log_handler._access import Access, check_parent
from concurrent_log_handler._afterwards import Afterward, Afterwards, report_to
from concurrent_log_handler._backups import GZ, Chain
from concurrent_log_handler._backups._announcer import Announcer
from concurrent_log_handler._backups._calendar import Schedule
from concurrent_log_handler._backups._chains import Retention
from concurrent_log_handler._backups._compressor import Compressor
from concurrent_log_handler._backups._gzip import has_read
from concurrent_log_handler._files import extended
from concurrent_log_handler._forks import home, notice_fork
from concurrent_log_handler._locks._log import LogLocks, lock_for, sidecar_path
from concurrent_log_handler._locks._sidecar import ENTERED, INSIDE
from concurrent_log_handler._locks._threads import patience_here
from concurrent_log_handler._settings import LogFilenameType, OnRotated, Setting, Settings

from ._batch import Batch
from ._disk import Disk
from ._format import QuickFormat
from ._header import Header
from ._livefile import LATE, live_file
from ._rotation import Rotation
from ._shareddisk import choose, warn_of_lock_elsewhere

# What subclasses of concurrent-log-handler 0.9 may override.
_GONE = {
    *("do_gzip", "do_open", "do_write", "_do_lock", "_do_unlock", "_get_current_time", "atomic_open"),
    *("read_rollover_time", "write_rollover_time", "initialize_rollover_time"),
}


class ConcurrentHandler(BaseRotatingHandler):
    """
    A rotating file handler whose every record is written whole, once, under a lock that processes share.

    *given*: the constructor's arguments by name.
    """

    _class_terminator = "\n"
    _schedule: Optional[Schedule] = None
    stream: Optional[TextIOWrapper]  # type: ignore[assignment]

    # Each may be set to whatever the constructor takes.
    maxBytes = Setting[int]()  #: Size limit of one file in bytes.
    backupCount = Setting[int]()  #: Backups kept.
    max_total_bytes = Setting[Optional[int]]()  #: Limit of all files of this log together in bytes, or None.
    max_age = Setting[Optional[float]]()  #: Age in seconds beyond which backups go, or None.
    on_rotated = Setting[Optional[OnRotated]]()  #: What is called with the path of each complete backup.
    lock_timeout = Setting[Optional[float]]()
    use_gzip = Setting[bool]()
    background_gzip = Setting[bool]()
    keep_file_open = Setting[bool]()
    shared_between_machines = Setting[Optional[bool]]()
    owner = Setting[Any]()
    chmod = Setting[Any]()
    umask = Setting[Any]()
    newline = Setting[Optional[str]]()
    unicode_error_policy = Setting[Optional[str]]()

    # What a subclass adds, and a rotation asks.
    _decides: Callable[[LogRecord], bool]  # our own `shouldRollover`, whatever a subclass of the user's has
    _rotates: Callable[[], bool]  # it ever rotates
    _backups: Callable[[], Chain]
    _surplus: Callable[[], Iterable[str]]  # the paths of the backups that are too many
    _roll: Callable[[], bool]  # move the live file and its backups; tells whether it was moved

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._settings = Settings(given)
        self.num_rollovers = 0
        self.baseFilename = extended(os.path.abspath(os.fsdecode(given["filename"])))
        self.lockFilename = self.getLockFilename(given["lock_file_directory"])
        check_parent(self.baseFilename)
        self._set_up()
        mode = self._settings.mode
        # By its name: a user's class may have another handler of the standard library among its bases.
        BaseRotatingHandler.__init__(self, self.baseFilename, mode, given["encoding"], True, given["errors"])
        self.delay = self._settings.delay
        self.terminator = self._class_terminator if given["terminator"] == "\n" else given["terminator"]
        self._lock.check_path()
        warn_of_lock_elsewhere(self._live, self.lockFilename)
        if mode == "w":
            self._live.empty_when_opened()
        if mode == "x":
            Access(*self._settings.access).create(self.baseFilename)
        if not self.delay:
            # The first record will tell why there was no lock.
            self._locks.exclusive(lambda held: self._live.look() if held else self._live.create())

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Take a `terminator` that a subclass sets as a class attribute; warn of what is never called."""
        super().__init_subclass__(**arguments)
        for name in _GONE.intersection(dir(cls)):
            msg = f"{cls.__name__}.{name} is not called any more, as by concurrent-log-handler 0.9"
            warnings.warn(msg, UserWarning, stacklevel=2)
        own: Any = cls.terminator
        if isinstance(own, str):  # of the class, or of a mixin before us, as `StreamHandler` documents it
            cls._class_terminator, cls.terminator = own, ConcurrentHandler.terminator  # type: ignore[method-assign]

    def _set_up(self) -> None:
        """Make the parts, which belong to this process and are neither copied nor pickled."""
        log, settings = self.baseFilename, self._settings
        self._text = settings.text
        access = Access(*settings.access)
        self._lock = lock_for(self.lockFilename, access)
        self._afterwards = Afterwards(log, settings.debug)
        fixed = not callable(settings.header)
        header = Header(settings.opening, settings.text.opening(""), fixed, self._afterwards.report)
        self._disk = Disk(log, self._afterwards) if settings.fsync else None
        self._live = live_file(log, access, settings.text, header, self._disk)
        self._locks = LogLocks(self._lock, self._live, settings)
        choose(self._live, self._locks, settings.shared_between_machines)
        self._quick_format = QuickFormat()
        if isinstance(self, TimedRotatingFileHandler):
            self._schedule = Schedule(self._live, self._lock, self._afterwards)
        both = self._locks, self._afterwards
        announcer = Announcer(log, settings, access, *both)
        self._compressor = Compressor(log, settings, access, *both, announcer)
        retention = Retention(log, settings, self._afterwards, self._compressor.part_files)
        compress = self._compressor.claim
        self._rotation = Rotation(
            self._live, *both, settings, announcer, retention, compress, self._schedule, self._disk
        )
        self._lock.users[id(self)] = self

    _PARTS: Tuple[str, ...] = (
        *("lock", "_lock", "_live", "_locks", "_afterwards", "_quick_format"),
        *("_compressor", "_rotation", "_schedule", "_disk"),
    )

    def after_fork(self) -> None:
        if not self._lock.mine():  # else the child goes on in a step that forked
            self._rotation.begin_anew()
            self._live.header.owed = False
        if self._live.needs_lock:
            self._live.close()  # its lock is the parent's, for as long as there is a copy
        if self._disk is not None:
            self._disk.after_fork()
        self._compressor.after_fork()

    # -- one record -----------------------------------------------------------

    def handle(self, record: LogRecord) -> Any:
        """
        Write *record* if the filters let it pass.

        The locking is left to `emit`, so that compression, which comes last, keeps nobody waiting; but an `emit`
        of a subclass is called with the thread lock held, as by `logging.Handler.handle`.
        """
        passed: Any = self.filter(record)
        if passed:
            if isinstance(passed, LogRecord):  # since Python 3.12 a filter may return another record
                record = passed
            if type(self).emit is ConcurrentHandler.emit:
                self.emit(record)
            else:
                self.acquire()
                try:
                    self.emit(record)
                finally:
                    self.release()
        return passed

    def emit(self, record: LogRecord) -> None:
        """
        Write *record* whole and once, rotating first if it is due.  Errors go to `handleError`.

        Safe from any thread or process, from a signal handler, and from inside itself.
        """
        if record.process != home.pid:
            notice_fork()
        try:
            afterwards = self._lock.run(self._write, record, self._settings.lock_timeout)
        except RecursionError:  # as in CPython's StreamHandler.emit
            raise
        except Exception:
            self.handleError(record)
            afterwards = () if self._lock.mine() else self._afterwards.take()
        if afterwards:
            self._afterwards.do(afterwards, record, self.handleError)

    def _write(self, record: LogRecord, way: int) -> Sequence[Afterward]:
        form, lock = self._text, self._lock
        text = self.format(record) + self._terminator
        data = text.encode(form.codec, form.errors) if form.newline == "\n" else form.encode(text)
        if way == ENTERED and lock.acquire(self._settings.lock_timeout):
            live, rotation = self._live, self._rotation
            looked = monotonic()
            try:
                size = live.look()
                if size + len(data) >= rotation.look_closer_at or (
                    rotation.schedule is not None and rotation.schedule.is_up()
                ):
                    size = rotation.make_room(self, record, len(data))
                live.append(data, size)
                if not self._locks.close_each_time:
                    lock.release()
                if monotonic() - looked > LATE:
                    self._make_sure(data, size)
            finally:
                if self._locks.close_each_time:
                    self._locks.close_files()
        else:
            self._write_apart(way == INSIDE, data)
        return self._afterwards.take() if way <= ENTERED and self._afterwards.steps else ()

    def format(self, record: LogRecord) -> str:
        return self._quick_format.text(self.formatter, record)

    def _bytes(self, record: LogRecord) -> bytes:
        return self._text.encode(self.format(record) + self._terminator)

    def _write_apart(self, inside: bool, data: bytes) -> None:
        """Append *data* by itself: from *inside* another record of this thread, or since the lock was not had."""
        lock, live = self._lock, self._live
        if not (inside and lock.again()) and live.needs_lock:
            raise lock.take_trouble()
        live.append_apart(data, self._is_missing)
        # /dev/stdout and the like have no place for a sidecar.
        if not inside and lock.trouble is not None and live.is_file():
            self._afterwards.report(lock.take_trouble())

    def _make_sure(self, data: bytes, size: int) -> None:
        """
        Write *data* again if the file that it went to, behind *size* bytes, was already out of use.

        Whoever deletes the sidecar puts us under another lock than the process that rotates; if we then come `LATE`
        with what `look` saw, the file may be a backup by now, or gone.
        """
        live = self._live
        with contextlib.suppress(OSError):  # it is in the file, as far as anybody can tell
            if not live.has_name(live.fd) and self._is_missing(live.fd, data, size):
                live.append_apart(data, self._is_missing)

    def _is_missing(self, fd: int, data: bytes, size: int) -> bool:
        """Tell whether no `.gz` has *data*, written behind *size* bytes to *fd*, a file without a name by now."""
        with self._locks.directory():  # whoever removed the file is done with it
            return not has_read((name + GZ for name, _ in self._backups().found()), fd, data, size)

    def emit_batch(self, records: Iterable[LogRecord]) -> None:
        """
        Write *records* in their order, under one lock, with one write for each file that they fill.

        Each has `emit`'s guarantees; one that cannot be formatted or written goes to `handleError` and leaves the
        others alone.  From a `collections.deque`, records are taken as they are dealt with: after an interrupt,
        what is left in it was not written.  Level and filters are the caller's business, as with `emit`.
        """
        notice_fork()
        batch = Batch(records)
        afterwards = self._lock.run(self._write_batch, batch, self._settings.lock_timeout)
        batch.done()
        for record, error in batch.failed:
            report_to(self.handleError, record, error)
        last = batch.records[-1] if batch.records else None
        self._afterwards.do(afterwards, last, self.handleError)

    def _write_batch(self, batch: Batch, way: int) -> Sequence[Afterward]:
        batch.encode(self._bytes)
        if batch.lines and way == ENTERED and self._lock.acquire(self._settings.lock_timeout):
            try:
                make_room = partial(self._rotation.make_room, self)
                batch.write(self._live, self._rotation.is_due, make_room, self._make_sure)
            finally:
                if self._locks.close_each_time:
                    self._locks.close_files()
        else:
            batch.write_each(batch.lines, partial(self._write_apart, way == INSIDE))
        return self._afterwards.take() if way <= ENTERED else ()

    # -- rotation --------------------------------------------------------------

    def doRollover(self) -> None:
        """
        Rotate now, whatever the size or the time; callable from anywhere, also without the lock.

        Raises:
            OSError: The rotation failed.  Nothing is lost; where it stopped half-way, the next one goes on.
            LockTimeoutError: Another process held the lock for `lock_timeout` seconds.
        """
        by_hand = not self._lock.mine()
        if self._rotation.rolling and not by_hand:
            return  # called from inside itself, say by a namer that logs
        self.num_rollovers += self._locks.exclusive(partial(self._rotation.roll_over, self))
        if by_hand:
            self._do_afterwards()

    # -- locks and descriptors ------------------------------------------------

    def createLock(self) -> None:
        """Use the thread lock that all handlers of this process on this log share."""
        # logging's own createLock() would have it renewed in every forked child, in the middle of a step.
        self.lock = self._lock.rlock

    def acquire(self) -> None:
        """Take the thread lock; gives up after `lock_timeout`, so that `logging.shutdown()` cannot hang."""
        notice_fork()
        self._lock.enter(patience_here(self._settings.lock_timeout))

    def release(self) -> None:
        """Release the thread lock, if this thread has it."""
        lock = self._lock
        if lock.mine():
            lock.rlock.release()
        if self._afterwards.steps and not lock.mine():
            self._do_afterwards()

    def _do_afterwards(self) -> None:
        self._afterwards.do(self._afterwards.take(), None, self.handleError)

    def flush(self) -> None:
        """Do nothing: a record is in the file when the logging call returns."""

    def close(self) -> None:
        """Close the files, after waiting for a compression in the background; a later record opens them again."""
        self._locks.close(self._finish)
        logging.StreamHandler.close(self)

    def _finish(self) -> None:
        self._do_afterwards()
        # The user's code in the thread may wait for what this thread holds.  The interpreter's exit still waits.
        self._compressor.wait(patience_here(None))

    # -- attributes of the standard library and of CLH ------------------------

    @property  # type: ignore[no-redef,override]
    def stream(self) -> Optional[TextIOWrapper]:
        """A text stream on the open live file, for `files_preserve` and the like; None while it is closed."""
        return self._live.stream()

    @stream.setter
    def stream(self, value: Optional[TextIOWrapper]) -> None:
        if value is None:
            self._live.close()
        elif value is not self._live.stream():  # self.stream = self._open() is a usual line in subclasses
            msg = "the stream of a file handler follows its file; only None (close it) can be set"
            raise TypeError(msg)

    def _open(self) -> TextIOWrapper:
        """Open the live file and return a text stream on it (the standard library's hook)."""
        return self._locks.exclusive(self._open_stream, leave_open=True)

    def _open_stream(self, held: bool) -> Any:
        if not held:
            raise self._lock.take_trouble()
        self._live.look()
        return self._live.stream()

    @property
    def terminator(self) -> str:
        """The text that ends each record."""
        return self._terminator

    @terminator.setter
    def terminator(self, value: str) -> None:
        self._terminator = _options.terminator(value)
        self._text.set_terminator(self._terminator)

    def getLockFilename(self, lock_file_directory: Optional[LogFilenameType] = None) -> str:
        """Return the sidecar's path; a *lock_file_directory* that is missing is made."""
        directory = os.path.abspath(os.fsdecode(lock_file_directory)) if lock_file_directory else None
        if directory is not None:
            os.makedirs(directory, exist_ok=True)
        return sidecar_path(self.baseFilename, directory)

    @staticmethod
    def baseLockFilename(baseFilename: str) -> Tuple[str, str]:
        """Return (directory, name) of the sidecar that belongs to the log *baseFilename*."""
        return os.path.split(sidecar_path(baseFilename))

    # -- pickling (spawn) -----------------------------------------------------

    def __getstate__(self) -> Dict[str, Any]:
        state = {key: value for key, value in self.__dict__.items() if key not in self._PARTS}
        state["mode"] = "a"  # the copy continues the file
        return state

    def __setstate__(self, state: Dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._set_up()
        self.createLock()
        logging._addHandlerRef(self)  # type: ignore[attr-defined]  # noqa: SLF001 - for logging.shutdown()
