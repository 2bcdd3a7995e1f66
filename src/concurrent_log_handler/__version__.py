"""The version's number, in a module of this name as concurrent-log-handler 0.9 has it."""

from __future__ import annotations


class _Version(str):
    """Text; `import concurrent_log_handler.__version__ as module` gives it, too, and asks it for `__version__`."""

    __slots__ = ()

    @property
    def __version__(self) -> str:
        return str(self)


__version__: str = _Version("1.1.0")
