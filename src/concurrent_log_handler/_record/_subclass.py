"""What users' subclasses bring with them."""

from __future__ import annotations

import warnings

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
