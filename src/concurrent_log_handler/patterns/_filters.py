"""Filters that send a record one way or the other by its level."""

from __future__ import annotations

import logging

from concurrent_log_handler.patterns._handler import level_number


class CriticalityFilter(logging.Filter):
    """Lets records from *min_level* up pass; a number or a name such as `"ERROR"`."""

    def __init__(self, min_level: int | str = logging.ERROR) -> None:
        super().__init__()
        self.min_level = level_number(min_level)

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= self.min_level


class CriticalOnlyFilter(CriticalityFilter):
    """For the handler that writes at once: ERROR and above, unless told otherwise."""


class NonCriticalFilter(CriticalityFilter):
    """The other half: what is below *min_level*, ERROR unless told otherwise."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno < self.min_level
