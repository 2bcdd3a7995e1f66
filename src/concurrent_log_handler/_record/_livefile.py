"""The live file: open it, tell whether it is still the one at its path, append bytes whole or not at all.

Who may write when is decided by the caller, who holds the lock, except for `append_apart`, which needs none.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
import time
from io import TextIOWrapper
from os import lseek
from os import stat as os_stat
from typing import Callable, Optional, Tuple, Type

from concurrent_log_handler._access import Access, open_in_directory
from concurrent_log_handler._files import (
    OFFSET_IS_OURS,
    WINDOWS,
    Place,
    append_to,
    close_quietly,
    closed_if_it_fails,
    identity,
    is_deleted,
    is_ours,
    mark,
    read_at,
    root,
    truncate,
    write_through,
)
from concurrent_log_handler._patience import monotonic

from ._disk import Disk, write_rest
from ._format import TextFormat
from ._header import Header

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# Seconds from `look` to the end of `append` up to which nobody can have compressed the file
# meanwhile: `_compress` removes no backup that young.
LATE = 0.001
_PATIENCE = 0.02  # with a record that is being written without the lock


class LiveFile:
    """
    The file at *path*, kept open for append.

    Args:
        header: What each new file begins with.
        disk: Told of each write to a regular file; None leaves to the system when it is on the disk.

    Attributes:
        end: Size of the file after our last write; -1 if unknown.
        regular: It is a regular file: it can be measured, cut back and renamed.
        outdated: The file as it was, to be emptied when it is first opened (mode `"w"`) if nobody has logged since.
        needs_lock: Nothing may be appended without the lock.
        on_other_disk: Called when the file lies on another disk than before; tells whether to look at it anew.
    """

    needs_lock = False

    def __init__(
        self, path: str, access: Access, text: TextFormat, header: Header, disk: Optional[Disk] = None
    ) -> None:
        self.path = path
        self._encoded_path = os.fsencode(path)  # once, not with each record
        self.text = text
        self.header = header
        self._disk = disk
        self.fd = -1
        self.end = -1
        self.regular = True
        self.outdated: Optional[Tuple[int, int, int, int]] = None
        self._access = access
        self._mark = -2
        self._ino = -1
        self._dev = -1
        self._stream: Optional[TextIOWrapper] = None
        self._root = root()
        self.on_other_disk: Optional[Callable[[LiveFile], bool]] = None
        self._device, _ = identity(os.path.dirname(path)) or (-1, -1)

    def empty_when_opened(self) -> None:
        """Have what the file holds now, and nothing that comes later, removed when it is first opened."""
        with contextlib.suppress(OSError):
            there = os.stat(self.path)
            if stat.S_ISREG(there.st_mode):
                self.outdated = _state(there)

    def look(self) -> int:
        """
        Return the size of the file at the path, which is open afterwards and ends with a whole record.

        It is opened (and created) anew if it is gone, or another one lies there, or our
        descriptor was closed or belongs to somebody else by now.
        """
        try:
            there = os_stat(self._encoded_path)
            if lseek(self.fd, 0, 1) == self._mark and there.st_ino == self._ino and there.st_dev == self._dev:
                size = there.st_size
                if size == self.end:
                    return size
                # Somebody else wrote since: the usual case where processes share the log.
                text = self.text
                end = text.longest_end
                last = read_at(self.fd, end, size - end) if size > end else b""
                if not size % text.width and last.endswith(text.ends):
                    self.end = size
                    return size
                return self._mend(size)
        except OSError:
            pass
        return self._look_again()

    def append(self, data: bytes, size: int) -> None:
        """
        Write *data* behind the *size* bytes that `look` returned, with one system call.

        In an empty file, the header comes first.  Raises `OSError` if it could not be written whole; nothing
        of it is in the file then.
        """
        if not size and self.regular and not self.header.owed:
            with self.header.before_first_record(self.look) as opening:
                if opening:
                    self.append(opening + data, self.end)  # which `look` has told
                    return
        try:
            written = append_to(self.fd, data, size)
        except OSError as error:
            if error.errno == errno.ESPIPE:  # a pipe or a terminal, which has no offset
                write_through(self.fd, data)
            elif error.errno == errno.EBADF:  # closed since we looked
                self.append_apart(data)
            else:
                raise
            return
        if written != len(data):
            write_rest(self.fd, data, written, self.path)
        self.end = size + len(data)
        if self._disk is not None and self.regular:
            self._disk.soon(self.fd)

    def has_name(self, fd: int) -> bool:
        """Tell whether *fd* has open a file with a name, or what the path leads to without one (`/dev/stderr`)."""
        here = os.fstat(fd)
        return here.st_nlink > 0 or identity(self.path) == (here.st_dev, here.st_ino)

    def append_apart(
        self, data: bytes, is_missing: Callable[[int, bytes, int], bool] = lambda *_: True
    ) -> None:
        """
        Append *data* through a descriptor of its own, with one system call, whoever else is writing.

        If the file was removed meanwhile, *is_missing* is asked, with the descriptor, *data* and the size before it,
        whether it has to be written again.  Raises as `append` does.
        """
        for _ in range(3):
            fd = self._open_apart()
            try:
                size = self._append_to(fd, data)
                if self._disk is not None and stat.S_ISREG(os.fstat(fd).st_mode):
                    self._disk.now(fd)
                if self.has_name(fd) or not is_missing(fd, data, size):
                    return
            finally:
                os.close(fd)
        msg = "the file was removed again and again while a record was written to it"
        raise OSError(errno.ESTALE, msg, self.path)

    def _open_apart(self) -> int:
        try:
            os.stat(self.path)
            return self._open()
        except OSError as error:
            if self._out_of_reach(error) is not None:
                return os.dup(self.fd)
        return self._open()

    def _out_of_reach(self, error: OSError) -> Optional[os.stat_result]:
        """
        Return the status of the file that we have open, if *error* does not mean that another one is due.

        The process has given up its rights, and may not even look into the directory any more; or it
        has another root, and the path leads nowhere there.  None also if the file is not ours or was removed.
        """
        in_jail = isinstance(error, FileNotFoundError) and self._root != root()
        if not (isinstance(error, PermissionError) or in_jail) or not self._is_same(self.fd):
            return None
        here = os.fstat(self.fd)
        return here if here.st_nlink else None

    def _append_to(self, fd: int, data: bytes) -> int:
        """Append *data* and return the size of the file before it."""
        here = os.fstat(fd)
        size = here.st_size
        if not stat.S_ISREG(here.st_mode):
            write_through(fd, data)
        elif size:
            self._write(fd, self._missing_end(fd, size)[1] + data)
        else:
            with self.header.before_first_record(lambda: os.fstat(fd).st_size) as opening:
                self._write(fd, opening + data)
        return size

    def _write(self, fd: int, data: bytes) -> None:
        write_rest(fd, data, os.write(fd, data), self.path)

    def filled(self) -> Optional[os.stat_result]:
        """Return the status of the regular file at the path; None if it has no record.  Needs no lock."""
        with contextlib.suppress(OSError):
            found = os.stat(self.path)
            if stat.S_ISREG(found.st_mode) and not self.header.is_all_of(self.path, found.st_size):
                return found
        return None

    def create(self) -> None:
        """Make the file if it is not there; its content stays."""
        os.close(self._open())

    def ask_directory(self) -> None:
        """Have the names in the directory be those of this moment, as they are on a local disk."""

    def ask_for_all_names(self) -> None:
        """The same, and what the files are, for somebody who changes several."""

    def is_file(self) -> bool:
        """Tell whether the path leads to a regular file, or to nothing yet."""
        try:
            return stat.S_ISREG(os.stat(self.path).st_mode)
        except OSError:
            return True

    def close(self) -> None:
        """Close the file, if its descriptor is not somebody else's by now; the next `look` opens it again."""
        fd, self.fd = self.fd, -1
        stream, self._stream = self._stream, None
        if stream is not None:
            # Whoever has kept it must not write into the file that gets this number next.
            with contextlib.suppress(Exception):
                stream.close()
        if is_ours(fd, self._mark) or self._is_same(fd):
            close_quietly(fd)

    def __del__(self) -> None:
        try:
            self.close()
        except Exception:
            pass  # when the interpreter ends, the modules' names may be None already, `contextlib` too

    def stream(self) -> Optional[TextIOWrapper]:
        """Return a text stream on our descriptor that buffers nothing, or None while it is closed."""
        if self.fd == -1:
            return None
        stream = self._stream
        if stream is None or stream.closed or stream.fileno() != self.fd:
            raw = io.FileIO(self.fd, "a", closefd=False)
            raw.name = self.path  # as the standard library's stream has it, for whoever tells a file by that
            if not os.fstat(self.fd).st_size:
                self._append_to(self.fd, b"")
            text = self.text
            stream = TextIOWrapper(raw, text.codec, text.errors, text.newline, write_through=True)
            stream.mode = "a"  # type: ignore[misc]  # as open() does it
            self._stream = stream
        return stream

    def identity(self) -> tuple[int, int]:
        """Return (device, inode) of the open file."""
        return self._dev, self._ino

    # -- opening --------------------------------------------------------------

    def _open(self) -> int:
        return open_in_directory(self.path, lambda: self._access.open_log(self.path), self._root)

    def _look_again(self) -> int:
        there: Optional[os.stat_result]
        try:
            there = os.stat(self.path)
        except OSError as error:
            there = self._out_of_reach(error)
            if there is None and isinstance(error, PermissionError):
                raise
        if there is None or (there.st_dev, there.st_ino) != self.identity() or not self._is_same(self.fd):
            self.close()
            there = self._open_anew()
            if there.st_dev != self._device:
                self._device = there.st_dev
                if self.on_other_disk is not None and self.on_other_disk(self):
                    return self.look()
        self._put_mark()
        return self.end if there.st_size == self.end else self._mend(there.st_size)

    def _put_mark(self) -> None:
        if OFFSET_IS_OURS:
            self._mark = mark(self.fd)

    def _open_anew(self) -> os.stat_result:
        fd = self._open()
        with closed_if_it_fails(fd):
            there = os.fstat(fd)
            if self.outdated == _state(there):
                truncate(fd, 0)
                there = os.fstat(fd)
        self.outdated = None
        self._ino, self._dev = there.st_ino, there.st_dev
        self.regular = stat.S_ISREG(there.st_mode)
        self.end = -1
        self.fd = fd
        return there

    def _is_same(self, fd: int) -> bool:
        """Tell by `fstat` whether *fd* is our file, opened by us."""
        try:
            here = os.fstat(fd)
            ours = fcntl is None or fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND != 0
        except OSError:
            return False
        return ours and (here.st_dev, here.st_ino) == self.identity()

    def _mend(self, size: int) -> int:
        """End the file of *size* bytes with a whole record, since somebody else wrote to it, and return its size."""
        if not self.regular:
            return 0
        size, end = self._missing_end(self.fd, size)
        if end:
            write_rest(self.fd, end, append_to(self.fd, end, size), self.path)
            size += len(end)
        self.end = size
        return size

    def _missing_end(self, fd: int, size: int) -> Tuple[int, bytes]:
        """Return the file's size, and what a writer that died has left out: the rest of a header, or a record's end."""
        text, end, until = self.text, b"", 0.0
        with contextlib.suppress(OSError):  # write-only
            while size and text.ends:
                longest = min(text.longest_end, size)
                if not size % text.width and read_at(fd, longest, size - longest).endswith(text.ends):
                    break
                # So it looks while the kernel is copying the record of a writer without the lock.
                now = monotonic()
                until = until or now + _PATIENCE
                if now > until:
                    end = b"\0" * (-size % text.width) + text.seal
                    break
                time.sleep(_PATIENCE / 20)
                size = os.fstat(fd).st_size
        return size, self.header.rest(fd, size) or end


def _state(found: os.stat_result) -> Tuple[int, int, int, int]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


class WindowsFile(LiveFile):
    """
    A `LiveFile` that is asked itself whether it is still at its place.

    `stat` and `fstat` open the file there, and cost more than all else that a record needs.
    """

    _place: Optional[Place] = None

    def look(self) -> int:
        with contextlib.suppress(OSError):
            if self._place is not None and lseek(self.fd, 0, 1) == self._mark:
                size = self._place.size(self.fd)
                if size != -1:
                    return size if size == self.end else self._mend(size)
        return self._look_again()

    def has_name(self, fd: int) -> bool:
        return not is_deleted(fd) if self.regular else super().has_name(fd)

    def _open_anew(self) -> os.stat_result:
        there = super()._open_anew()
        self._place = Place(self.fd, self.path) if self.regular else None
        return there


live_file: Type[LiveFile] = WindowsFile if WINDOWS else LiveFile
