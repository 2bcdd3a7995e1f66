"""The dated backups of the timed handler, as they lie on the disk.

What their names mean is known to `_naming`; when a period ends, to `_calendar`.
"""

from __future__ import annotations

import os
from typing import Iterator, List, Tuple

from concurrent_log_handler._files import look_at

from . import Chain, Forms
from ._gzip import GZ
from ._naming import Backup, Naming, next_number, reading_of


class DatedChain(Chain):
    """
    The backups that one handler made.

    *newest* is the path that this process gave last; a namer may have put it where the listing does not look,
    into a directory for each month say.
    """

    def __init__(self, naming: Naming, newest: str) -> None:
        self._naming = naming
        self._newest = newest

    def found(self) -> Iterator[Tuple[str, Forms]]:
        """Yield the newest, where it is not listed, and those that are."""
        listed = dict(self._listed())
        if self._newest not in ("", *listed):
            yield self._newest, tuple(form for form in ("", GZ) if os.path.lexists(self._newest + form))
        yield from listed.items()

    def backups(self) -> List[Tuple[str, ...]]:
        """As in `Chain`, of those that are listed: how long another one stays is up to the user."""
        return [tuple(path + form for form in forms) for path, forms in self._listed()]

    def _listed(self) -> Iterator[Tuple[str, Forms]]:
        for backup in reversed(self.listed()):
            path = self._naming.backup_path(backup.text, backup.number)
            length = len(os.path.basename(path))
            yield path, tuple(name[length:] for name in backup.names)

    def listed(self) -> List[Backup]:
        """Return the backups that this handler made, oldest first."""
        directory = self._naming.backup_directory()
        try:
            names = os.listdir(directory)
        except (FileNotFoundError, PermissionError):  # a directory may be written and not read
            return []
        backups = self._naming.list_backups(names, directory)
        if reading_of(self._naming.suffix) is None:  # the names show no order
            found = {each: look_at(os.path.join(directory, each.names[0])) for each in backups}
            backups.sort(key=lambda backup: getattr(found[backup], "st_mtime", 0.0))
        return backups

    def free_name(self, log: str, text: str) -> str:
        """Return a path, which is free, for one more backup of the period *text*."""
        known = self.listed()
        if self._newest:  # also if it was uploaded and deleted since
            folder, name = os.path.split(self._newest)
            known += self._naming.list_backups([name], folder)
        first = next_number(known, text)

        def taken(path: str) -> bool:
            return path == log or os.path.lexists(path) or os.path.lexists(path + GZ)

        return self._naming.free_path(text, first, taken)
