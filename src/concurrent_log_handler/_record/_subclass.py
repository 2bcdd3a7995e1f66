"""What users' subclasses bring with them."""

from __future__ import annotations

import warnings
from typing import Any

# What subclasses of concurrent-log-handler 0.9 may override.
_GONE = frozenset(
    {
        *("do_gzip", "do_open", "do_write", "_do_lock", "_do_unlock", "_get_current_time", "atomic_open"),
        *("read_rollover_time", "write_rollover_time", "initialize_rollover_time"),
    }
)


def warn_of_old_hooks(cls: type) -> None:
    """Warn of a method that concurrent-log-handler 0.9 would call and this package never does."""
    for name in _GONE.intersection(dir(cls)):
        warnings.warn(
            f"{cls.__name__}.{name} is not called any more, as by concurrent-log-handler 0.9",
            UserWarning,
            stacklevel=4,
        )


def class_attribute(cls: type, name: str) -> Any:
    """Return the attribute *name* as it stands in the class that has it, no descriptor asked."""
    return next(base.__dict__[name] for base in cls.__mro__ if name in base.__dict__)
