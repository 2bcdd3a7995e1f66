"""What each new file begins with, together with its first record: a byte order mark, and the user's header."""

from __future__ import annotations

import contextlib
from typing import Callable, Iterator, Optional

from concurrent_log_handler._afterwards import Report
from concurrent_log_handler._files import open_to_read, read_at
from concurrent_log_handler._patience import Streak


class Header:
    """
    The header of one log, in this process.

    Contract: the live file calls it, as a rule with the locks held.  No error of it costs a record: it goes to
    *report* once per streak, and the file begins with *bare*.  *make* returns the bytes for one more file;
    if *fixed*, the same each time, without asking the user's callable.
    """

    def __init__(self, make: Callable[[], bytes], bare: bytes, fixed: bool, report: Report) -> None:
        self._make = make
        self._bare = bare
        self._fixed = fixed
        self._report = report
        self._trouble = Streak()
        self._last = b""
        self._ready: Optional[bytes] = None
        self.owed = False  # somebody in this process is about to write it
        self._overtaken = False

    def ready(self) -> bytes:
        """Return what the next file that is begun will begin with."""
        if self._ready is not None:
            return self._ready
        before, self.owed = self.owed, True
        try:
            opening = self._last = self._make()
            self._trouble.end()
        except Exception as error:
            opening = self._bare
            self._trouble.note(error, self._report)
        finally:
            self.owed = before
        self._ready = opening
        return opening

    @contextlib.contextmanager
    def before_first_record(self, size: Callable[[], int]) -> Iterator[bytes]:
        """
        Yield what has to stand before the first record of a file that was empty when it was looked at.

        A record that interrupts us until the end of the `with` (a signal handler logs, or the user's callable
        does) gets nothing before it: the header comes once, with ours.  *size* returns the file's size by then.
        """
        if self.owed:
            self._overtaken = True
            yield b""
            return
        self.owed = True
        try:
            opening = self.ready()
            self._ready = None
            # Somebody may have begun the file since: a signal handler, or a process that got no lock.
            # First the size: whoever comes in between after that shows in the mark.
            begun = bool(opening) and size() > 0
            yield b"" if begun and not self._overtaken else opening
        finally:
            self.owed = self._overtaken = False

    def rest(self, fd: int, size: int) -> bytes:
        """Return what the file of *size* bytes lacks, if there is only the beginning of a header in it."""
        known = self._known()
        if 0 < size < len(known):
            with contextlib.suppress(OSError):  # write-only
                if known.startswith(read_at(fd, size, 0)):
                    return known[size:]
        return b""

    def is_all_of(self, path: str, size: int) -> bool:
        """Tell whether the file of *size* bytes at *path* has no record: it is empty, or has the header alone."""
        known = self._known()
        if size and size == len(known):
            with contextlib.suppress(OSError), open(open_to_read(path), "rb") as file:
                return file.read(size + 1) == known
        return not size

    def _known(self) -> bytes:
        """Return the header as far as it is known without asking: the one that this process wrote last."""
        return self._make() if self._fixed else self._last
