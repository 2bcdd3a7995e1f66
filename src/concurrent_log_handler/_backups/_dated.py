"""The dated backups of the timed handler, as they lie on the disk.

What their names mean is known to `_naming`; when a period ends, to `_calendar`.
"""

from __future__ import annotations

import os
from typing import List, Tuple

from concurrent_log_handler._files import look_at

from ._gzip import GZ
from ._naming import Backup, Naming, backup_directory, backup_path, free_path, list_backups, next_number


class DatedChain:
    """
    The backups of one log.

    Contract: everything is called with the chain's locks held.  *newest* is the path that this process gave last;
    a namer may have put it where the listing does not look, into a directory for each month say.
    """

    def __init__(self, naming: Naming, newest: str) -> None:
        self._naming = naming
        self._newest = newest

    def names(self) -> List[str]:
        """Return the names, without `.gz`, of all backups, newest first."""
        return self._with_newest([self._path(each) for each in reversed(self.listed())])

    def plain(self) -> List[str]:
        """Return those of them that are not compressed yet."""
        listed = [(self._path(each), each.names) for each in reversed(self.listed())]
        return self._with_newest([path for path, names in listed if os.path.basename(path) in names])

    def backups(self) -> List[Tuple[str, ...]]:
        """Return the paths of each backup, in all its forms, newest first."""
        directory = backup_directory(self._naming)
        return [
            tuple(os.path.join(directory, name) for name in each.names) for each in reversed(self.listed())
        ]

    def listed(self) -> List[Backup]:
        """Return the backups that this handler made, oldest first."""
        directory = backup_directory(self._naming)
        try:
            names = os.listdir(directory)
        except (FileNotFoundError, PermissionError):  # a directory may be written and not read
            return []
        backups = list_backups(self._naming, names, directory)
        if not self._naming.dated:  # the names show no order
            found = {each: look_at(os.path.join(directory, each.names[0])) for each in backups}
            backups.sort(key=lambda backup: getattr(found[backup], "st_mtime", 0.0))
        return backups

    def free_name(self, log: str, text: str, least: int) -> Tuple[int, str]:
        """Return number, *least* or more, and path, which is free, for one more backup of the period *text*."""
        naming = self._naming
        first = max(least, next_number(self.listed(), text))

        def taken(path: str) -> bool:
            return path == log or os.path.lexists(path) or os.path.lexists(path + GZ)

        found = free_path(naming, text, first, taken)
        if found is None:
            path = backup_path(naming, text, first)
            msg = f"no free name for a backup of {log!r}: {path!r} and those after it are taken"
            raise FileExistsError(msg)
        return found

    def _path(self, backup: Backup) -> str:
        return backup_path(self._naming, backup.text, backup.number)

    def _with_newest(self, listed: List[str]) -> List[str]:
        return listed if self._newest in ("", *listed) else [self._newest, *listed]
