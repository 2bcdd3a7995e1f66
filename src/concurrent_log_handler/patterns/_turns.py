"""Who writes: one thread at a time; what an interrupt cuts off stays in hand for whoever writes next.

It owns the turn, the records that are out of the queue and not written yet, and how far the writing
has come.  Which handlers get what is the listener's; the queue is `_ports`'.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from concurrent_log_handler.patterns._handout import complain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from concurrent_log_handler.patterns._ports import Port

    Task = tuple[Any, deque[Any]]  # a handler, and what it has not been given yet

#: Records written under one lock.  Formatting them holds the interpreter for about a millisecond, which
#: is what another thread may have to wait for its turn.
BATCH = 200
# Without any progress for this long (seconds), whoever writes is taken to hang.
_TURN = 1.0


class _Hand:
    """What one thread has taken out of the queue: records to be shared out, and tasks that are left."""

    def __init__(self) -> None:
        # Replaced as one, so that an interrupt finds each record here or there.
        self.state: tuple[deque[Any], list[Task]] = deque(), []
        self.owed = 0

    def __len__(self) -> int:
        taken, tasks = self.state
        return len(taken) + max((len(records) for _, records in tasks), default=0)


class Turns:
    """
    Takes records from *port* and hands them out, in one thread at a time, whichever that is.

    Args:
        port: Where they come from.
        share: Makes tasks of a batch: one per handler.
        hand: Does one task; takes out of the deque what is dealt with.
    """

    def __init__(
        self,
        port: Port,
        share: Callable[[Sequence[Any]], list[Task]],
        hand: Callable[[Any, deque[Any]], None],
    ) -> None:
        self._port = port
        self._share = share
        self._hand = hand
        #: A thread that could not wait any longer has left its record in the queue.
        self.left_behind = False
        # Re-entrant: a signal handler, or a handler, may log in the middle of a write.
        self._lock = threading.RLock()
        self.mine: Callable[[], bool] = self._lock._is_owned  # type: ignore[attr-defined]
        self._hands = [_Hand()]  # more than one where a write was interrupted by another of the same thread
        self._taken = 0
        self._taking = 0
        self._steps = 0
        self._waiting: set[int] = set()
        self._hangs = False

    # --- how far the writing has come -------------------------------------------------------------

    def in_hand(self) -> int:
        """Number of records that are out of the queue and not written yet."""
        return sum(map(len, list(self._hands)))

    def due(self) -> int:
        """
        What `dealt()` will be, at most, when all that is queued or in hand at this moment is written.

        After a stop that is what has to be waited for.  Later records are written by the threads that
        bring them, for as long as these like.
        """
        self._port.attentive = False
        self.left_behind = False
        # In this order: what changes hands meanwhile may count twice, but never not at all.
        depth, taking = self._port.depth(), self._taking
        return sys.maxsize if depth is None else depth + taking + self._taken

    def dealt(self) -> int:
        """Number of records that were taken out of the queue and are written."""
        return self._taken - self.in_hand()

    def waited_for(self) -> bool:
        """Another thread wants to write."""
        return bool(self._waiting)

    # --- taking turns -----------------------------------------------------------------------------

    def in_turn(self, step: Callable[[bool], Any], patience: float | None = None) -> Any:
        """
        Return `step(nested)`, called while no other thread writes; None if there was no turn.

        Args:
            step: Gets True if this thread is in the middle of a write already.
            patience: Seconds to wait; None waits as long as whoever writes gets on.
        """
        if self.mine():
            return step(True)
        try:
            try:
                return step(False) if self._wait(patience) else None
            finally:
                if self.mine():
                    self._steps += 1
                    self._lock.release()
        finally:
            # An interrupt may have cut the `finally` above short.
            while self.mine():
                self._lock.release()

    def _wait(self, patience: float | None) -> bool:
        if patience is not None:
            return self._lock.acquire(timeout=patience)
        me = threading.get_ident()
        try:
            self._waiting.add(me)
            while True:
                before = self._progress()
                if self._lock.acquire(timeout=0 if self._hangs else _TURN):
                    self._hangs = False
                    return True
                if self._hangs or before == self._progress():
                    self._hangs = True  # waited for only once
                    return False
        finally:
            self._waiting.discard(me)

    def _progress(self) -> tuple[int, int, int]:
        return self._steps, self._taken, self.in_hand()

    def chunk(self, nested: bool) -> int:
        """Finish what was interrupted, take at most one batch and write it; returns the size of the batch."""
        try:
            if nested:
                hand = _Hand()
                self._hands.append(hand)
            else:
                for hand in reversed(self._hands):
                    self._finish(hand)
                hand = self._hands[0]
                del self._hands[1:]
            size = self._take(hand)
            self._finish(hand)
            if nested:
                self._hands.remove(hand)
        except BaseException:
            self._port.wake()  # somebody else has to go on
            raise
        self._hangs = False
        return size

    def _take(self, hand: _Hand) -> int:
        taken = hand.state[0]
        self._taking = BATCH
        try:
            self._port.take(BATCH, taken)
        finally:
            size = len(taken)
            hand.owed += size
            self._taken += size
            self._taking = 0
        return size

    def _finish(self, hand: _Hand) -> None:
        taken, tasks = hand.state
        if taken:
            tasks = [*tasks, *self._share([record for record in taken if record is not None])]
            hand.state = deque(), tasks
        while tasks:
            handler, records = tasks[0]
            try:
                self._hand(handler, records)
            except Exception as error:  # noqa: BLE001 - not even reporting worked; those behind it still have to be written
                complain(f"concurrent_log_handler: {error!r} while writing queued records; going on")
                if records:
                    records.popleft()
                    continue
            del tasks[0]
        if hand.owed:
            self._port.done(hand.owed)
            hand.owed = 0

    def write_due(self, deadline: float | None = None) -> None:
        """See that what is queued at this moment is written, by this thread in turn with others."""
        while True:
            due = self.due()
            while self.dealt() < due and (self._port.depth() != 0 or self.in_hand()):
                wrote = self.in_turn(self.chunk)
                if wrote is None:
                    self.left_behind = True
                    # Whoever writes now sees that when he is done, or was done before it was said.
                    wrote = self.in_turn(self.chunk, 0)
                if wrote is None:
                    return
                if not wrote:
                    break
                if deadline is not None and time.monotonic() >= deadline:
                    self.left_behind = True
                    return
            if not self.left_behind:
                return
