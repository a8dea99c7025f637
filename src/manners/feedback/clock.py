"""The time as the database writes it: UTC, ISO 8601, to the millisecond, so that later is greater also as text."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], float]
"""Gives seconds since 1970; a test hands over its own."""

now: Clock = time.time


def iso(seconds: float) -> str:
    """`seconds` since 1970 as the database writes a time."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
