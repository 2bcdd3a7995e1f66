"""What becomes of a file that was rotated: its name, its compression, its end, and who is told."""

from __future__ import annotations

from typing import Callable, Iterable, Protocol


class Chain(Protocol):
    """One look at the backups of a log, good for as long as the chain's locks are held."""

    def names(self) -> Iterable[str]:
        """Give the names, without `.gz`, that backups may have, newest first."""

    def plain(self) -> Iterable[str]:
        """Give those of them that may not be compressed yet."""


Look = Callable[[], Chain]
