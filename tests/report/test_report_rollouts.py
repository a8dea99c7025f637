from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest

from manners.report.rollouts import orders, read_rollouts, within


def row(step: int, **more: Any) -> dict[str, Any]:
    return {"step": step, "prompt": "p", "completion": "c", **more}


def test_rollouts_come_in_order_of_steps_and_rows_without_one_are_left_out() -> None:
    found = read_rollouts([row(3), row(1, reward=1.0), {"prompt": "no step"}, row(1, reward=2.0)])
    assert [(r.row["step"], r.value("reward")) for r in found] == [(1, 1.0), (1, 2.0), (3, None)]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (-0.0512345, -0.05123), (12345.678, 12350.0), (-1.23456e-5, -1e-05), (1e-7, 0.0), (-1e-9, 0.0), (0.1, 0.1),
        (float("nan"), None), (None, None), ("x", None), (True, None),
    ],
)  # fmt: skip
def test_numbers_keep_four_digits_and_five_decimals(given: Any, kept: float | None) -> None:
    (found,) = read_rollouts([row(1, tokens=["a"], trace={"value": [given]})])
    assert found.trace["value"] == [kept]
    assert str(found.trace["value"][0]) != "-0.0"


def test_a_quantity_without_a_number_for_every_token_is_left_out() -> None:
    trace = {"logp": [-1, -2], "value": [1], "ratio": [1, 2, 3], "advantage": "ab", "penalty": None}
    (found,) = read_rollouts([row(1, tokens=["a", "b"], trace=trace)])
    assert dict(found.trace) == {"logp": [-1, -2]}
    for odd in (
        {"tokens": "ab", "trace": trace},
        {"tokens": [], "trace": {"logp": []}},
        {"trace": trace},
        {"tokens": 3},
    ):
        assert not read_rollouts([row(1, **odd)])[0].trace


def test_the_gap_of_the_judges_is_in_standard_deviations_of_each() -> None:
    # Rewards 0 and 20 are −1 and +1 deviations from their mean, and so are the second judge's 5 and 3, the other way round.
    found = read_rollouts([row(1, reward=0, second_judge=5), row(2, reward=20, second_judge=3), row(3)])
    assert [r.gap for r in found] == [-2, 2, None]
    assert [r.gap for r in read_rollouts([row(1, reward=1, second_judge=2), row(2, reward=1, second_judge=9)])] == [
        None
    ] * 2


def test_only_orders_with_numbers_are_offered() -> None:
    assert set(orders(read_rollouts([row(1), row(2, kl=3.0)]))) == {"step", "-step", "kl", "-kl"}
    full = read_rollouts([row(i, reward=i, kl=i, second_judge=-i, disagreement=i) for i in range(2)])
    assert set(orders(full)) == {"step", "-step", "reward", "-reward", "kl", "-kl", "disagreement", "gap", "-gap"}
    assert next(iter(orders(full))) == "-step"


def test_what_has_room_is_all_there_and_in_order() -> None:
    found = read_rollouts([row(i, reward=(7 * i) % 10) for i in range(10)])
    assert within(found) == found
    assert within([]) == []


def test_of_too_many_the_extremes_and_an_even_choice_are_kept_within_the_room() -> None:
    draw = random.Random(2)
    rows = [row(i, reward=draw.random(), kl=draw.random(), tokens=["t"] * 30) for i in range(1000)]
    rows[500]["reward"], rows[501]["reward"], rows[777]["kl"] = 99.0, -99.0, 88.0
    found = read_rollouts(rows)
    kept = within(found, most=300 * found[0].cost)
    steps = [r.row["step"] for r in kept]
    assert len(kept) == 300
    assert steps == sorted(set(steps))
    assert {500, 501, 777} <= set(steps)
    assert max(b - a for a, b in pairwise(steps)) <= 8
    assert sum(r.cost for r in kept) <= 300 * found[0].cost
