"""Records on other ways than the usual one: without the lock, from inside another record, and once more."""

from __future__ import annotations

import contextlib

from concurrent_log_handler._afterwards import Afterwards
from concurrent_log_handler._backups import Look
from concurrent_log_handler._backups._gzip import GZ, has_read
from concurrent_log_handler._locks import Locks

from ._livefile import LiveFile


class Apart:
    """
    How one handler appends where the usual way is closed.

    Contract: `write` and `write_inside` need no lock, except where the live file does: there they raise why it
    was not had, and nothing is written.  *look* returns the chain, for whoever asks what became of a file.
    """

    def __init__(self, live: LiveFile, locks: Locks, afterwards: Afterwards) -> None:
        self._live = live
        self._locks = locks
        self._afterwards = afterwards

    def write(self, look: Look, data: bytes) -> None:
        """Append *data* without the lock, since it could not be had, and have that reported once."""
        if self._live.needs_lock:
            raise self._locks.sidecar.take_trouble()
        self._append(look, data)
        sidecar = self._locks.sidecar
        trouble, sidecar.trouble = sidecar.trouble, None
        # /dev/stdout and the like have no place for a sidecar.
        if trouble is not None and self._live.is_file():
            self._afterwards.report(trouble)

    def write_inside(self, look: Look, data: bytes) -> None:
        """Append *data* from inside another record of this thread: at once, to the path, and by itself."""
        if not self._locks.sidecar.again() and self._live.needs_lock:
            raise self._locks.sidecar.take_trouble()
        self._append(look, data)

    def make_sure(self, look: Look, data: bytes, size: int) -> None:
        """
        Write *data* again if the file that it went to, behind *size* bytes, was already out of use.

        Somebody who deletes the sidecar puts us under another lock than the process that rotates.
        If we then come `LATE` with what `look` saw, the file may be a backup by now, or gone.
        """
        with contextlib.suppress(OSError):  # it is in the file, as far as anybody can tell
            if not self._live.linked() and self._is_missing(look, self._live.fd, data, size):
                self._append(look, data)

    def _append(self, look: Look, data: bytes) -> None:
        self._live.append_apart(data, lambda *written: self._is_missing(look, *written))

    def _is_missing(self, look: Look, fd: int, data: bytes, size: int) -> bool:
        """Tell whether no `.gz` has *data*, written behind *size* bytes to *fd*, a file without a name by now."""
        with self._locks.directory():  # whoever removed the file is done with it
            return not has_read((name + GZ for name in look().names()), fd, data, size)
