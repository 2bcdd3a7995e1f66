"""What becomes of a file that was rotated: its name, its compression, its end, and who is told."""

from __future__ import annotations

import os
from typing import Callable, Iterable, Iterator, List, Tuple

GZ = ".gz"
Forms = Tuple[str, ...]  # what stands behind a backup's name: nothing, `.gz`, or each of them once


class Chain:
    """
    One look at the backups of a log, good for as long as the chain's locks are held.

    *newest* is the path that this process gave last, or nothing.  A namer that goes by the clock or by what lies on
    the disk may have put it where the chain does not look.
    """

    def __init__(self, newest: str) -> None:
        self._newest = newest

    def listed(self) -> Iterable[Tuple[str, Forms]]:
        """Give the names, without `.gz`, that backups may have, newest first, and the forms that are there."""
        raise NotImplementedError

    def found(self) -> Iterator[Tuple[str, Forms]]:
        """As `listed`, and the newest, wherever it is."""
        listed = dict(self.listed())
        if self._newest not in ("", *listed):
            yield self._newest, tuple(form for form in ("", GZ) if os.path.lexists(self._newest + form))
        yield from listed.items()

    def plain(self) -> List[str]:
        return [name for name, forms in self.found() if "" in forms]


Look = Callable[[], Chain]
