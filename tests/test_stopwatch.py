from __future__ import annotations

import pytest

from manners import stopwatch
from manners.stopwatch import STILL, RunningStopwatch


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in seconds, as the only number of a list that a test moves on."""
    now = [100.0]
    monkeypatch.setattr(stopwatch.time, "monotonic", lambda: now[0])
    return now


def test_a_part_within_another_is_not_counted_twice(clock: list[float]) -> None:
    watch = RunningStopwatch()
    with watch.part("epoch 1"):
        clock[0] += 1
        for _ in range(2):
            with watch.part("optimizer"):
                clock[0] += 4
            clock[0] += 16
    clock[0] += 64  # nobody's
    with watch.part("epoch 2"):
        clock[0] += 0.5
    assert watch.take() == {"epoch 1": 33, "optimizer": 8, "epoch 2": 0.5}
    assert watch.take() == {}


def test_nothing_is_told_apart_within_a_whole_part(clock: list[float]) -> None:
    watch = RunningStopwatch()
    with watch.part("evaluate", whole=True), watch.part("sample"):
        clock[0] += 1
        with watch.part("decode"):
            clock[0] += 2
    with watch.part("decode"):
        clock[0] += 4
    assert watch.take() == {"evaluate": 3, "decode": 4}


def test_an_error_ends_its_part(clock: list[float]) -> None:
    watch = RunningStopwatch()

    def fail() -> None:
        with watch.part("evaluate", whole=True):
            clock[0] += 1
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    clock[0] += 2
    with watch.part("score"):
        clock[0] += 4
    assert watch.take() == {"evaluate": 1, "score": 4}


def test_the_device_is_waited_for_before_the_clock_is_read_at_both_ends_of_a_part(clock: list[float]) -> None:
    watch = RunningStopwatch(lambda: clock.__setitem__(0, clock[0] + 8))  # work that was only launched takes 8 seconds
    with watch.part("decode"):
        clock[0] += 1
    assert watch.take() == {"decode": 9}
    assert clock == [117]


def test_one_that_stands_still_never_looks_at_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(stopwatch.time, "monotonic")
    with STILL.part("sample"), STILL.part("decode", whole=True):
        pass
    assert STILL.take() == {}
