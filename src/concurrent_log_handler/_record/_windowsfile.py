"""The live file on Windows, where a file of ours can be renamed while it is open (`_windows`).

What differs from other systems is how it is looked at: `stat` and `fstat` open the file there, and cost more
than all else that a record needs.  So the open file itself is asked whether it is still at its place.
"""

from __future__ import annotations

import contextlib
import os
from os import lseek
from typing import Optional, Type

from concurrent_log_handler import _windows

from ._livefile import LiveFile


class WindowsFile(LiveFile):
    """A `LiveFile` that asks Windows in its own words.  Everything that is promised there holds here."""

    _place: Optional[_windows.Place] = None

    def look(self) -> int:
        """As in `LiveFile`."""
        with contextlib.suppress(OSError):
            if self._place is not None and lseek(self.fd, 0, 1) == self._mark:
                size = self._place.size(self.fd)
                if size != -1:
                    return size if size == self.end else self._mend(size)
        return self._look_again()

    def linked(self) -> bool:
        """As in `LiveFile`."""
        if self.fd != -1 and self.regular:
            return not _windows.is_deleted(self.fd)
        return super().linked()

    def _open_anew(self) -> os.stat_result:
        there = super()._open_anew()
        self._place = _windows.Place(self.fd, self.path) if self.regular else None
        return there


live_file: Type[LiveFile] = WindowsFile if _windows.AVAILABLE else LiveFile
