"""Seconds of a step by part, down to what happens inside the seams: prefill and decode, each epoch, the optimizer."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator


class Stopwatch:
    """The one that stands still: it takes no time, waits for no device and tells nothing."""

    def part(self, name: str, *, whole: bool = False) -> contextlib.AbstractContextManager[None]:  # noqa: ARG002
        """The block is the part `name`. What runs as a part of its own within it is not counted in it, unless it is `whole`: then
        nothing within is told apart."""
        return contextlib.nullcontext()

    def take(self) -> dict[str, float]:
        """The seconds of each part since the last time they were taken, in the order of their first start."""
        return {}


STILL = Stopwatch()


class RunningStopwatch(Stopwatch):
    """At most one part runs at any time, so that no second counts twice and the parts add up to no more than the step.

    `synchronise` waits until the device has done what it was given: a kernel is only launched when its call returns.
    """

    def __init__(self, synchronise: Callable[[], None] = lambda: None) -> None:
        self._synchronise = synchronise
        self._seconds: dict[str, float] = {}
        self._open: list[str] = []
        self._whole = False
        self._since = 0.0

    @contextlib.contextmanager
    def part(self, name: str, *, whole: bool = False) -> Iterator[None]:
        if self._whole:
            yield
            return
        self._charge()
        self._open.append(name)
        self._seconds.setdefault(name, 0.0)
        self._whole = whole
        try:
            yield
        finally:
            self._charge()
            self._open.pop()
            self._whole = False

    def take(self) -> dict[str, float]:
        taken = {name: round(seconds, 6) for name, seconds in self._seconds.items()}
        self._seconds.clear()
        return taken

    def _charge(self) -> None:
        """What has gone by since the last call belongs to the innermost part."""
        self._synchronise()
        now = time.monotonic()
        if self._open:
            self._seconds[self._open[-1]] += now - self._since
        self._since = now
