"""Who may write when: the threads of this process, then all processes.  What others ask of the locks stands here."""

from __future__ import annotations

from typing import Any, Callable, ContextManager, Optional, Protocol, TypeVar

_Result = TypeVar("_Result")


class LockTimeoutError(TimeoutError):
    """
    The lock was not free within `lock_timeout`.

    The record was written without it; on a disk that machines share, it was not written.
    """


class Locks(Protocol):
    """The locks of one log; `_log.LogLocks` says what each does."""

    sidecar: Any  # a `_sidecar.SidecarLock`

    def exclusive(
        self, step: Callable[[bool], _Result], patience: float = 0.0, leave_open: bool = False
    ) -> _Result: ...
    def chain(self, step: Callable[[bool], _Result]) -> _Result: ...
    def in_place(self) -> bool: ...
    def reach_far(self) -> None: ...
    def directory(self) -> ContextManager[Optional[bool]]: ...
