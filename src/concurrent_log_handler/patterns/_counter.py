"""A count that threads, signal handlers and forked children can raise without losing one of them."""

from __future__ import annotations

import itertools


class Counter:
    """`add()` takes no lock; `value()` is exact at any moment, and goes back only where `set()` says so."""

    def __init__(self) -> None:
        # next() of it is one step; `+= 1` is several, and a thread may lose its turn between them.
        self._count = itertools.count()

    def add(self) -> None:
        next(self._count)

    def set(self, value: int) -> None:
        """Begin again from *value*."""
        self._count = itertools.count(value)

    def value(self) -> int:
        # Its repr, "count(17)", is the only public look at it that does not also move it.
        return int(repr(self._count)[len("count(") : -1])
