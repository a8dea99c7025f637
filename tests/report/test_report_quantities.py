from __future__ import annotations

import random

import pytest
from page_reader import Page

from manners.report.quantities import Quantity, quantities, reading, round_limits

RATIO = Quantity("ratio", "ratio", "times", "", centre=1.0, limits=(0.02, 0.05, 0.1, 0.2))
LOGP = Quantity("logp", "log π", "nats", "", sided=False, limits=(0.5, 1.0, 2.0, 5.0))


@pytest.mark.parametrize(
    ("quantity", "value", "colour"),
    [
        (RATIO, 1.0, None), (RATIO, 1.019, None), (RATIO, 1.02, "p1"), (RATIO, 1.2, "p4"), (RATIO, 9.0, "p4"),
        (RATIO, 0.8, "n4"), (RATIO, 0.95, "n2"), (RATIO, 0.951, "n1"), (RATIO, None, None),
        (LOGP, 0.0, None), (LOGP, -0.49, None), (LOGP, -0.5, "s1"), (LOGP, -4.9, "s3"), (LOGP, -5.0, "s4"),
    ],
)  # fmt: skip
def test_a_colour_begins_at_its_limit_on_either_side_of_the_centre(
    quantity: Quantity, value: float | None, colour: str | None
) -> None:
    assert quantity.colour(value) == colour


@pytest.mark.parametrize(
    ("last", "limits"),
    [
        (1.0, (0.1, 0.2, 0.5, 1.0)), (2.3, (0.2, 0.5, 1.0, 2.0)), (5.0, (0.5, 1.0, 2.0, 5.0)), (9.9, (0.5, 1.0, 2.0, 5.0)),
        (0.049, (0.002, 0.005, 0.01, 0.02)), (0.2, (0.02, 0.05, 0.1, 0.2)), (3000, (200, 500, 1000, 2000)),
    ],
)  # fmt: skip
def test_limits_are_round(last: float, limits: tuple[float, ...]) -> None:
    assert round_limits(last) == limits


def test_limits_reach_as_far_as_round_numbers_allow() -> None:
    draw = random.Random(1)
    for _ in range(300):
        last = 10 ** draw.uniform(-5, 5)
        limits = round_limits(last)
        assert len(limits) == 4
        assert list(limits) == sorted(set(limits))
        assert limits[-1] <= last * (1 + 1e-6) < 2.5 * limits[-1] * (1 + 1e-5)


def test_a_scale_reaches_what_one_token_in_fifty_reaches() -> None:
    plain = Quantity("value", "value", "reward", "")
    assert plain.scaled([0.5, -1.0] * 50 + [1000.0]).limits[-1] == 1.0
    assert plain.scaled([0.01] * 96 + [3.0] * 4).limits[-1] == 2.0
    assert plain.scaled([]).limits == plain.scaled([0.0, 0.0]).limits == (0.1, 0.2, 0.5, 1.0)
    assert LOGP.scaled([-100.0]) == LOGP
    assert Quantity("ratio", "", "", "", centre=1.0).scaled([1.25, 0.75]).limits == (0.02, 0.05, 0.1, 0.2)


def test_the_legend_has_a_box_for_each_colour_with_the_number_where_it_begins() -> None:
    page = Page(reading(RATIO))
    boxes = [(attrs.get("class"), word) for attrs, word in zip(page.named("i"), page.words["i"], strict=True)]
    assert boxes == [
        ("n4", "≤\u00a00.8"), ("n3", "0.9"), ("n2", "0.95"), ("n1", "0.98"), (None, "1"),
        ("p1", "1.02"), ("p2", "1.05"), ("p3", "1.1"), ("p4", "≥\u00a01.2"),
    ]  # fmt: skip
    page = Page(reading(LOGP))
    boxes = [(attrs.get("class"), word) for attrs, word in zip(page.named("i"), page.words["i"], strict=True)]
    assert boxes == [("s4", "≤\u00a0−5"), ("s3", "−2"), ("s2", "−1"), ("s1", "−0.5"), (None, "0")]


def test_every_quantity_is_told_in_a_sentence_that_fits_the_config() -> None:
    plain = quantities({})
    assert {q.key for q in plain} == {"logp", "reference_logp", "penalty", "value", "advantage", "ratio"}
    assert len({q.says for q in plain}) == 6
    assert all(q.says.endswith(".") for q in plain)
    units = [{q.key: q.unit for q in quantities({"whiten_advantages": white})}["advantage"] for white in (True, False)]
    assert units == ["standard deviations", "reward"]
    kinds = ("grpo", "grpo_without_std", "rloo", "reinforce", "remax")
    advantages = [{q.key: q for q in quantities({"advantage": kind})}["advantage"] for kind in kinds]
    assert [q.unit for q in advantages] == [
        "standard deviations of these", "reward", "reward", "standard deviations", "reward"
    ]  # fmt: skip
    assert not [q.says for q in advantages if "value function" in q.says]
    told = {q.key: q.says for q in quantities({"clip_low": 0.2, "clip_high": 0.28})}["ratio"]
    assert "Beyond 0.8 and 1.28 the clip" in told
    assert "clip" not in {q.key: q.says for q in plain}["ratio"]
