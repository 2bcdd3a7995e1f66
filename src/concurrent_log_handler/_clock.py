"""A clock for patience, which a test-suite's frozen time does not reach."""

from __future__ import annotations

import time
from functools import partial
from typing import Callable

# freezegun replaces time.monotonic in every module that has it, and a wait that goes by it never ends.
# It does not know clock_gettime(), which Windows lacks, nor a partial.
monotonic: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_MONOTONIC)
    if hasattr(time, "clock_gettime")
    else partial(time.monotonic)
)
