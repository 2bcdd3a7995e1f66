"""What a step leaves to do for the moment after the locks are released: compressions, callbacks, reports."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections import deque
from logging import LogRecord
from typing import Callable, Deque, List, Optional, Sequence

# Tells of an error; the record that it comes with was written.
Report = Callable[[BaseException], None]
Afterward = Callable[[Report], None]
HandleError = Callable[[LogRecord], None]

_WRITTEN = "_written_nevertheless"


class Afterwards:
    """
    Steps in the order in which they were left, for one handler.

    Contract: `later` and `report` are called with the locks held; who held them calls `take` before they are
    released, so that no other thread does what this one promised, and `do` with the result behind that.
    """

    def __init__(self, log: str, debug: bool) -> None:
        self._log = log
        self._debug = debug
        self.steps: Deque[Afterward] = deque()

    def later(self, step: Afterward) -> None:
        self.steps.append(step)

    def report(self, error: BaseException) -> None:
        self.later(lambda report: report(error))

    def take(self) -> List[Afterward]:
        steps = []
        with contextlib.suppress(IndexError):  # a report that needs no lock may come or go meanwhile
            while self.steps:
                steps.append(self.steps.popleft())
        return steps

    def do(self, steps: Sequence[Afterward], record: Optional[LogRecord], handle_error: HandleError) -> None:
        """Do *steps*, one whatever becomes of the others; *record*, if any, is the one that they come after."""
        if not steps:
            return
        if record is None:
            text = f"{self._log}: after a rotation"
            record = LogRecord(__name__, logging.WARNING, __file__, 0, text, (), None)

        def tell(error: BaseException) -> None:
            told = object.__new__(type(record))  # not copy(): the interpreter may be at its end
            told.__dict__.update(record.__dict__, **{_WRITTEN: True})
            report_to(handle_error, told, error)

        for step in steps:
            try:
                step(tell)
            except Exception as error:
                tell(error)

    def say(self, text: str, *args: object) -> None:
        """Say on stderr what is done, where the handler was made with *debug*."""
        if self._debug and sys.stderr is not None:
            with contextlib.suppress(Exception):
                sys.stderr.write(f"{os.getpid()} {self._log}: {text % args}\n")


def report_to(handle_error: HandleError, record: LogRecord, error: BaseException) -> None:
    """Call *handle_error* as it is called while *error* is handled."""
    try:
        raise error
    except type(error):
        handle_error(record)


def is_written(record: LogRecord) -> bool:
    """Tell whether *record*, which came to `handleError`, was written, and the error is about what was due then."""
    return _WRITTEN in record.__dict__
