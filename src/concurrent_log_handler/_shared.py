"""A file handler whose file and lock processes share: constructor, locks, attributes, copying.

What a caller sees and sets; the way of a record is in `_writer`.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import warnings
from collections import deque
from io import TextIOWrapper
from logging import LogRecord
from logging.handlers import BaseRotatingHandler
from types import CodeType
from typing import (
    Any,
    Callable,
    Deque,
    Dict,
    Iterator,
    List,
    Optional,
    Sequence,
    Set,
    Tuple,
    TypeVar,
    Union,
)

from . import _options
from ._files import WINDOWS, Access
from ._forks import notice_fork
from ._format import QuickFormat
from ._livefile import LiveFile
from ._lock import CONFIG_PATIENCE, lock_for, logging_is_locked_here, sidecar_path
from ._text import TextFormat

LogFilenameType = Union[str, "os.PathLike[str]"]

# What subclasses of concurrent-log-handler 0.9 may override.
_GONE = frozenset(
    {
        *("do_gzip", "do_open", "do_write", "_do_lock", "_do_unlock", "_get_current_time", "atomic_open"),
        *("read_rollover_time", "write_rollover_time", "initialize_rollover_time"),
    }
)
_WRITTEN = "_written_nevertheless"
_LOCKED_STEPS: Set[CodeType] = set()
_Step = TypeVar("_Step", bound=Callable[..., Any])


def locked_step(method: _Step) -> _Step:
    """Mark *method* as one that holds the locks for a while, for `_inside`."""
    _LOCKED_STEPS.add(method.__code__)
    return method


class SharedFileHandler(BaseRotatingHandler):
    """A `BaseRotatingHandler` with the thread lock, the sidecar's lock and the live file that it needs."""

    _class_terminator = "\n"
    _live: LiveFile
    stream: Optional[TextIOWrapper]  # type: ignore[assignment]

    def __init__(
        self,
        filename: LogFilenameType,
        mode: str,
        encoding: Optional[str],
        delay: Optional[bool],
        errors: Optional[str],
        *,
        use_gzip: bool,
        background_gzip: bool,
        owner: Optional[_options.Owner],
        chmod: Union[int, str, None],
        umask: Union[int, str, None],
        newline: Optional[str],
        terminator: str,
        unicode_error_policy: Optional[str],
        lock_file_directory: Optional[LogFilenameType],
        keep_file_open: bool,
        lock_timeout: Optional[float],
        debug: bool,
    ) -> None:
        mode = _options.mode(mode)
        self._text = TextFormat(
            _options.encoding(encoding),
            _options.errors(errors, unicode_error_policy),
            _options.newline(newline),
            _options.terminator(terminator),
        )
        self._access = Access(
            *_options.owner(owner), _options.bits(chmod, "chmod"), _options.bits(umask, "umask")
        )
        self.lock_timeout = _options.seconds(lock_timeout, "lock_timeout")
        self.owner, self.chmod, self.umask, self.newline = owner, chmod, umask, newline
        self.unicode_error_policy = unicode_error_policy
        self.use_gzip = _options.flag(use_gzip, "use_gzip")
        self.background_gzip = _options.flag(background_gzip, "background_gzip")
        self.keep_file_open = _options.flag(keep_file_open, "keep_file_open")
        self.num_rollovers = 0
        self._debug = _options.flag(debug, "debug")

        self.baseFilename = os.path.abspath(os.fsdecode(filename))
        self.lockFilename = self.getLockFilename(lock_file_directory)
        _check_parent(self.baseFilename)
        self._set_up()
        # Not super(): a subclass may name the standard library's handler, too, which would set the limits anew.
        BaseRotatingHandler.__init__(self, self.baseFilename, mode, encoding, delay=True, errors=errors)
        self.delay = delay is None or _options.flag(delay, "delay")
        self.terminator = self._class_terminator if terminator == "\n" else terminator
        self._lock.check_path()
        if mode == "w":
            self._live.empty_when_opened()
        if mode == "x":
            self._access.create(self.baseFilename)
        self._lock.users.add(self)
        if not self.delay:
            self._open_now()

    def __init_subclass__(cls, **arguments: Any) -> None:
        """
        Take a `terminator` that a subclass sets as `StreamHandler` documents it: as a class attribute.

        Warns of a method that concurrent-log-handler 0.9 would call and this package never does.
        """
        super().__init_subclass__(**arguments)
        for name in _GONE.intersection(dir(cls)):
            warnings.warn(
                f"{cls.__name__}.{name} is not called any more, as by concurrent-log-handler 0.9",
                UserWarning,
                2,
            )
        own = next(base.__dict__["terminator"] for base in cls.__mro__ if "terminator" in base.__dict__)
        if isinstance(own, str):  # of the class, or of a mixin before us
            cls._class_terminator = own
            cls.terminator = SharedFileHandler.__dict__["terminator"]  # type: ignore[method-assign]  # stays in force

    def _set_up(self) -> None:
        """Make what belongs to this process and is neither copied nor pickled."""
        self._lock = lock_for(self.lockFilename, self._access)
        self._live = LiveFile(self.baseFilename, self._access, self._text)
        self._afterwards: Deque[Callable[[LogRecord], None]] = deque()
        self._quick_format = QuickFormat()
        self._close_each_time = not self.keep_file_open or WINDOWS

    @locked_step
    def _open_now(self) -> None:
        with self._exclusive() as held:
            if held:
                self._live.look()
            else:
                self._live.create()  # the first record will tell why there was no lock

    def after_fork(self) -> None:
        """Forget, in a forked child, what was the parent's."""

    def _let_go(self) -> None:
        """Close the files under the thread lock, between two records."""
        self._live.close()  # before unlocking: Windows renames nothing that is open
        self._lock.release()
        if not WINDOWS:
            self._lock.close()

    def _inside(self) -> bool:
        """
        Tell whether this thread really is on its way through a locked step.

        Two interrupts in quick succession can cut off both nets that release the lock; then the
        marks stay although no frame is left that stands for them, and are taken back here.
        """
        frame = sys._getframe(2)  # noqa: SLF001 - the only view of one's own stack
        while frame is not None:
            if frame.f_code in _LOCKED_STEPS and frame.f_locals["self"]._lock is self._lock:  # noqa: SLF001
                return True
            frame = frame.f_back  # type: ignore[assignment]
        self._lock.settle(keep_thread=False, certainly=True)
        return False

    # -- locks and descriptors ------------------------------------------------

    @contextlib.contextmanager
    def _exclusive(self, patience: float = 0.0, keep_open: bool = False) -> Iterator[bool]:
        """
        Hold the thread lock and the sidecar's, unless this thread has them already; yields whether it has.

        Args:
            patience: Seconds to wait at least, also where `lock_timeout` is shorter.
            keep_open: Leave the files open afterwards, whatever `keep_file_open` says.
        """
        lock = self._lock
        notice_fork()
        timeout = None if self.lock_timeout is None else max(self.lock_timeout, patience)
        mine = lock.mine()
        if mine and (lock.held or lock.entered):
            if self._inside() and lock.held:
                yield True
                return
            mine = lock.mine()
        try:
            try:
                entered = mine or lock.enter(timeout)
                if entered and not mine:
                    lock.entered = True
                yield entered and lock.acquire(timeout)
            finally:
                if self._close_each_time and lock.held and not keep_open:
                    self._let_go()
                lock.settle(mine)
        finally:
            if lock.mine() and (lock.held or not mine):
                lock.settle(mine, certainly=True)

    def createLock(self) -> None:
        """Use the thread lock that all handlers of this process on this log share."""
        super().createLock()
        self.lock = self._lock.thread

    def acquire(self) -> None:
        """Take the thread lock; gives up after `lock_timeout`, so that `logging.shutdown()` cannot hang."""
        notice_fork()
        self._lock.enter(self._closing_timeout())

    def _closing_timeout(self) -> Optional[float]:
        """Return `lock_timeout`, or less in `dictConfig()`: who has the lock may wait for this thread."""
        if not logging_is_locked_here():
            return self.lock_timeout
        return CONFIG_PATIENCE if self.lock_timeout is None else min(self.lock_timeout, CONFIG_PATIENCE)

    def release(self) -> None:
        """Release the thread lock, if this thread has it."""
        lock = self._lock
        if lock.mine():
            lock.thread.release()
        if self._afterwards and not lock.mine():
            self._do_afterwards()

    def flush(self) -> None:
        """Do nothing: a record is in the file when the logging call returns."""

    def close(self) -> None:
        """
        Close the files, after waiting for a compression in the background.

        A record that comes later opens them again.
        """
        lock = self._lock
        notice_fork()
        mine = lock.mine()
        if not (mine and lock.held):
            self._finish_afterwards(mine)
        try:
            if lock.mine() or lock.enter(self._closing_timeout()):
                self._live.close()
                if not lock.held:
                    lock.close()
        finally:
            if not mine and lock.mine():
                lock.thread.release()
        logging.StreamHandler.close(self)

    def _finish_afterwards(self, mine: bool) -> None:
        """Do what is left to do outside the locks; `logging.shutdown()` comes here with the thread lock held."""
        thread = self._lock.thread
        levels = self._lock.depth() if mine else 0
        for _ in range(levels):
            thread.release()
        try:
            self._wait_for_afterwards()
        finally:
            for _ in range(levels):
                if not self._lock.enter(self._closing_timeout()):
                    break  # a thread that hangs has it; `release` knows whether it is ours

    def _wait_for_afterwards(self) -> None:
        self._do_afterwards()

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

    @locked_step
    def _open(self) -> TextIOWrapper:
        """Open the live file and return a text stream on it (the standard library's hook)."""
        with self._exclusive(keep_open=True) as held:
            if not held:
                raise self._lock.take_trouble()
            self._live.look()
            stream = self._live.stream()
        if stream is None:
            raise FileNotFoundError(errno.ENOENT, "the log was closed while it was opened", self.baseFilename)
        return stream

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
        if not lock_file_directory:
            return sidecar_path(self.baseFilename)
        directory = os.path.abspath(os.fsdecode(lock_file_directory))
        os.makedirs(directory, exist_ok=True)
        return sidecar_path(self.baseFilename, directory)

    @staticmethod
    def baseLockFilename(baseFilename: str) -> Tuple[str, str]:
        """Return (directory, name) of the sidecar that belongs to the log *baseFilename*."""
        folder, name = os.path.split(sidecar_path(baseFilename))
        return folder, name

    # -- pickling (spawn) -----------------------------------------------------

    _OF_THIS_PROCESS: Tuple[str, ...] = (
        "lock",
        "_lock",
        "_live",
        "_quick_format",
        "_afterwards",
    )

    def __getstate__(self) -> Dict[str, Any]:
        state = {key: value for key, value in self.__dict__.items() if key not in self._OF_THIS_PROCESS}
        state["mode"] = "a"  # the copy continues the file
        return state

    def __setstate__(self, state: Dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._set_up()
        self.createLock()
        self._lock.users.add(self)
        logging._addHandlerRef(self)  # type: ignore[attr-defined]  # noqa: SLF001 - for logging.shutdown()

    # -- afterwards, outside every lock ---------------------------------------

    def _later(self, step: Callable[[LogRecord], None]) -> None:
        self._afterwards.append(step)

    def _take_afterwards(self) -> List[Callable[[LogRecord], None]]:
        """Take what this thread's step left to do, before another thread comes."""
        steps = []
        with contextlib.suppress(IndexError):  # a report that needs no lock may come or go meanwhile
            while self._afterwards:
                steps.append(self._afterwards.popleft())
        return steps

    def _do_afterwards(self) -> None:
        self._do(self._take_afterwards(), self._notice("after a rotation"))

    def _do(self, steps: Sequence[Callable[[LogRecord], None]], record: LogRecord) -> None:
        if not steps:
            return
        told = object.__new__(type(record))  # not copy(): the interpreter may be at its end
        told.__dict__.update(record.__dict__)
        told.__dict__[_WRITTEN] = True
        for step in steps:
            try:
                step(told)
            except Exception:
                self.handleError(told)

    def _later_report(self, error: BaseException) -> None:
        self._later(lambda record: self._report(record, error))

    def _report(self, record: LogRecord, error: BaseException) -> None:
        try:
            raise error
        except type(error):
            self.handleError(record)

    def _notice(self, text: str) -> LogRecord:
        """Return a record for `handleError` where there is no record of the application's."""
        return LogRecord(__name__, logging.WARNING, __file__, 0, f"{self.baseFilename}: {text}", (), None)

    def _say(self, text: str, *args: object) -> None:
        if self._debug and sys.stderr is not None:
            with contextlib.suppress(Exception):
                sys.stderr.write(f"{os.getpid()} {self.baseFilename}: {text % args}\n")


def is_written(record: LogRecord) -> bool:
    """Tell whether *record*, which came to `handleError`, was written, and the error is about what was due then."""
    return _WRITTEN in record.__dict__


def _check_parent(path: str) -> None:
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise FileNotFoundError(errno.ENOENT, "the log's directory does not exist", folder)
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, "the log is a directory", path)
