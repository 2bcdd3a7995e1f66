"""The live file on Windows: it is asked itself whether it is still at its place.

`stat` and `fstat` open the file there, and cost more than all else that a record needs.
"""

from __future__ import annotations

import contextlib
import os
from os import lseek
from typing import Optional, Type

from concurrent_log_handler import _windows

from ._livefile import LiveFile


class WindowsFile(LiveFile):
    _place: Optional[_windows.Place] = None

    def look(self) -> int:
        with contextlib.suppress(OSError):
            if self._place is not None and lseek(self.fd, 0, 1) == self._mark:
                size = self._place.size(self.fd)
                if size != -1:
                    return size if size == self.end else self._mend(size)
        return self._look_again()

    def _has_name(self, fd: int) -> bool:
        return not _windows.is_deleted(fd) if self.regular else super()._has_name(fd)

    def _open_anew(self) -> os.stat_result:
        there = super()._open_anew()
        self._place = _windows.Place(self.fd, self.path) if self.regular else None
        return there


live_file: Type[LiveFile] = WindowsFile if _windows.AVAILABLE else LiveFile
