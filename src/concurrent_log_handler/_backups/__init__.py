"""What becomes of a file that was rotated: its name, its compression, its end, and who is told."""

from __future__ import annotations

from typing import Callable, Iterable, Iterator, List, Tuple

Forms = Tuple[str, ...]  # what stands behind a backup's name: nothing, `.gz`, or each of them once


class Chain:
    """One look at the backups of a log, good for as long as the chain's locks are held."""

    def found(self) -> Iterable[Tuple[str, Forms]]:
        """Give the names, without `.gz`, that backups may have, newest first, and the forms that are there."""
        raise NotImplementedError

    def names(self) -> Iterator[str]:
        """Yield the names, without `.gz`, that backups may have, newest first."""
        return (name for name, _ in self.found())

    def plain(self) -> List[str]:
        """Return the names of those that are there and not compressed, newest first."""
        return [name for name, forms in self.found() if "" in forms]

    def backups(self) -> List[Tuple[str, ...]]:
        """Return the paths of each backup that is there, in all its forms, newest first."""
        return [tuple(name + form for form in forms) for name, forms in self.found() if forms]


Look = Callable[[], Chain]
