"""Moments for the tests of the timed handler's calendar and names."""

from __future__ import annotations

import datetime as dt

from hypothesis import strategies as st


def utc(text: str) -> int:
    return int(dt.datetime.fromisoformat(text).replace(tzinfo=dt.timezone.utc).timestamp())


MOMENTS = st.integers(utc("1990-01-01T00:00"), utc("2037-12-31T00:00"))
