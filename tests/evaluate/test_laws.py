from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from manners.evaluate.laws import Curve, compare, describe, law_of
from manners.ops.scaling_law import BestOfNLaw, PolicyLaw

DISTANCES = torch.linspace(0, 3, 10)


def bending(alpha: float, beta: float) -> Tensor:
    return DISTANCES * (alpha - beta * DISTANCES)


def curve(alpha: float, beta: float, proxy: float = 1.0) -> Curve:
    return Curve(DISTANCES, bending(alpha, beta), proxy * DISTANCES)


def test_replicates_that_agree_leave_no_doubt() -> None:
    found = law_of(BestOfNLaw, [(DISTANCES, bending(2.0, 0.5))] * 3)
    assert [found[name] for name in ("alpha", "beta", "peak", "height", "r2")] == pytest.approx([2, 0.5, 2, 2, 1])
    assert found["peak_ci"] == pytest.approx([2, 2])


def test_the_law_is_that_of_the_mean_and_its_interval_spans_the_replicates() -> None:
    found = law_of(BestOfNLaw, [(DISTANCES, bending(1.0, 0.5)), (DISTANCES, bending(3.0, 0.5))])
    assert (found["alpha"], found["peak"]) == pytest.approx((2, 2))
    assert found["alpha_ci"] == pytest.approx([1, 3])
    assert found["peak_ci"] == pytest.approx([1, 3])
    assert found["beta_ci"] == pytest.approx([0.5, 0.5])


def test_r2_is_told_on_average_and_at_its_worst() -> None:
    nothing_to_do_with_it = torch.tensor([0, 1, -1, 1, -1, 1, -1, 1, -1, 1.0])
    alone = law_of(BestOfNLaw, [(DISTANCES, nothing_to_do_with_it)])["r2"]
    found = law_of(BestOfNLaw, [(DISTANCES, bending(1.0, 0.5)), (DISTANCES, nothing_to_do_with_it)])
    assert alone < 0.5
    assert found["r2"] == pytest.approx((1 + alone) / 2)
    assert found["r2_lowest"] == pytest.approx(alone)


def test_a_peak_that_is_never_reached_is_none_and_json_can_hold_it() -> None:
    found = law_of(BestOfNLaw, [(DISTANCES, bending(1.0, -0.1)), (DISTANCES, bending(1.0, -0.2))])
    assert (found["peak"], found["height"], found["peak_ci"]) == (None, None, [None, None])
    mixed = law_of(BestOfNLaw, [(DISTANCES, bending(1.0, 0.5)), (DISTANCES, bending(1.0, -0.2))])
    assert mixed["peak_ci"] == [pytest.approx(1.0), None]
    json.dumps([found, mixed], allow_nan=False)


def test_gains_are_paired_by_replicate() -> None:
    worse = [
        curve(1.0, 0.4),
        curve(3.0, 0.4),
    ]  # far apart from each other, but each 0.3 below its partner at every distance
    better = [Curve(c.distances, c.gold + 0.3, c.proxy) for c in worse]
    found = compare(BestOfNLaw, better, worse)
    assert (found["highest_gain"], found["last_gain"]) == pytest.approx((0.3, 0.3))
    assert [*found["highest_gain_ci"], *found["last_gain_ci"]] == pytest.approx([0.3] * 4)


def test_a_peak_further_out_and_lower_is_told_as_that() -> None:
    found = compare(
        BestOfNLaw, [curve(0.5, 0.1)] * 2, [curve(1.0, 0.25)] * 2
    )  # peaks 2.5 against 2, heights 0.625 against 1
    assert (found["peak_further"], found["peak_higher"]) == (1.0, 0.0)
    assert (found["highest_gain"] < 0, found["last_gain"]) == (True, pytest.approx(0.6 - 0.75))


def test_where_one_of_two_replicates_gains_so_do_the_resamples_that_hold_it() -> None:
    found = compare(BestOfNLaw, [curve(1.0, 0.25), curve(1.0, 0.2)], [curve(1.0, 0.25)] * 2)
    assert found["peak_further"] == pytest.approx(0.75, abs=0.03)  # all but the resamples of the first alone


def test_every_judge_but_the_baseline_is_compared() -> None:
    found = describe({"one": [curve(1.0, 0.25)] * 2, "all": [curve(1.2, 0.25, proxy=2.0)] * 2}, PolicyLaw, "one")
    assert ("against_one" in found["one"], "against_one" in found["all"]) == (False, True)
    assert found["all"]["against_one"]["highest_gain"] > 0
    assert found["all"]["proxy"]["alpha"] == pytest.approx(2.0)
    assert found["one"]["curves"][1] == {
        "distances": pytest.approx(DISTANCES.tolist(), abs=1e-5),
        "gold": pytest.approx(bending(1.0, 0.25).tolist(), abs=1e-5),
        "proxy": pytest.approx(DISTANCES.tolist(), abs=1e-5),
    }
