"""α, τ and W: published examples, hand numbers, scipy, and the definitions written out."""

from __future__ import annotations

import csv
import os
import random
from collections import Counter
from itertools import permutations, product
from pathlib import Path
from statistics import mean

import pytest
from scipy import stats

from manners.feedback.agreement import (
    Metric,
    alpha_of,
    either_way,
    kendall_tau_b,
    kendall_w,
    krippendorff_alpha,
    mid_ranks,
)
from manners.feedback.estimates import summed

# Four observers, twelve units, five values: Krippendorff (2011), "Computing Krippendorff's alpha-reliability", section C.
KRIPPENDORFF = [
    [1, 1, 1], [2, 2, 3, 2], [3, 3, 3, 3], [3, 3, 3, 3], [2, 2, 2, 2], [1, 2, 3, 4], [4, 4, 4, 4], [1, 1, 2, 1], [2, 2, 2, 2],
    [5, 5, 5], [1, 1], [3],
]  # fmt: skip


@pytest.mark.parametrize(("metric", "known"), [("nominal", 0.743), ("ordinal", 0.815)])
def test_alpha_of_krippendorffs_own_example(metric: Metric, known: float) -> None:
    units = [[value - 1 for value in unit] for unit in KRIPPENDORFF]
    assert krippendorff_alpha(units, 5, metric) == pytest.approx(known, abs=5e-4)


def test_alpha_by_hand() -> None:
    # Five 0, three 1, one unit of two apart: 1 − 7 · 1 / (5 · 3).
    assert krippendorff_alpha([[0, 0], [1, 1], [0, 1], [0, 0]], 2, "nominal") == pytest.approx(8 / 15)
    # Always the opposite: 1 − 3 · 2 / (2 · 2).
    assert krippendorff_alpha([[0, 1], [1, 0]], 2, "nominal") == pytest.approx(-0.5)
    assert krippendorff_alpha([[0, 0, 0], [1, 1]], 2, "ordinal") == 1


def test_alpha_is_undefined_where_nothing_varies() -> None:
    assert krippendorff_alpha([[2, 2], [2, 2, 2]], 5, "ordinal") is None
    assert krippendorff_alpha([[0], [1]], 2, "nominal") is None
    assert krippendorff_alpha([], 2, "nominal") is None


def _alpha_by_definition(units: list[list[int]], metric: Metric) -> float:
    """Mean disagreement of two values of a unit against that of any two values, pair by pair."""
    units = [unit for unit in units if len(unit) > 1]
    everything = [value for unit in units for value in unit]
    counts = Counter(everything)

    def apart(one: int, other: int) -> float:
        if metric == "nominal":
            return float(one != other)
        low, high = sorted((one, other))
        between = sum(counts[g] for g in range(low, high + 1)) - (counts[low] + counts[high]) / 2
        return between**2

    def pairs(values: list[int]) -> list[float]:
        places = range(len(values))
        return [apart(values[i], values[j]) for i in places for j in places if i != j]

    observed = sum(sum(pairs(unit)) / (len(unit) - 1) for unit in units) / len(everything)
    return 1 - observed / mean(pairs(everything))


@pytest.mark.parametrize("metric", ["nominal", "ordinal"])
@pytest.mark.parametrize("seed", range(5))
def test_alpha_is_what_the_definition_says(metric: Metric, seed: int) -> None:
    draws = random.Random(seed)
    units = [[draws.choice((0, 1, 1, 3)) for _ in range(draws.randrange(0, 5))] for _ in range(15)]
    assert krippendorff_alpha(units, 4, metric) == pytest.approx(_alpha_by_definition(units, metric))


def test_a_value_that_stands_alone_changes_nothing() -> None:
    units = [[0, 1], [1, 1], [0, 0]]
    assert krippendorff_alpha([*units, [1], []], 2, "nominal") == krippendorff_alpha(units, 2, "nominal")


def test_which_answer_is_called_the_first_does_not_matter() -> None:
    draws = random.Random(0)
    votes = [tuple(draws.choice((0, 0, 1, 2)) for _ in range(3)) for _ in range(40)]
    turned = [tuple(2 - v for v in values) if n % 2 else values for n, values in enumerate(votes)]
    one, other = (alpha_of(summed([either_way(v) for v in some]), 3, "nominal") for some in (votes, turned))
    assert one == pytest.approx(other)
    # Even where by accident the better one is always called the first, agreement can be told.
    assert alpha_of(summed([either_way((0, 0))] * 5), 3, "nominal") == 1


@pytest.mark.parametrize("seed", range(20))
def test_tau_is_scipys(seed: int) -> None:
    draws = random.Random(seed)
    one, other = ([draws.randrange(4) for _ in range(6)] for _ in range(2))
    assert kendall_tau_b(one, other) == pytest.approx(stats.kendalltau(one, other).statistic)


def test_tau_by_hand_and_undefined() -> None:
    assert kendall_tau_b([0, 1, 2], [0, 2, 1]) == pytest.approx(1 / 3)
    assert kendall_tau_b([0, 1, 2], [2, 1, 0]) == -1
    assert kendall_tau_b([0, 0, 0], [0, 1, 2]) is None
    assert kendall_tau_b([0], [0]) is None


@pytest.mark.parametrize("seed", range(10))
def test_w_is_friedmans_statistic_over_its_largest_value(seed: int) -> None:
    draws = random.Random(seed)
    rankings = [[draws.randrange(4) for _ in range(5)] for _ in range(4)]
    friedman = stats.friedmanchisquare(*([float(ranking[k]) for ranking in rankings] for k in range(5)))
    assert kendall_w(rankings) == pytest.approx(friedman.statistic / (4 * (5 - 1)))


def test_w_by_hand_and_undefined() -> None:
    # Rank sums 4, 5, 9 about their mean 6: 12 · 14 / (9 · 24).
    assert kendall_w([[1, 2, 3], [1, 2, 3], [2, 1, 3]]) == pytest.approx(7 / 9)
    assert kendall_w([[0, 1, 1], [0, 1, 1]]) == pytest.approx(1)
    assert kendall_w([[1, 2], [2, 1]]) == 0
    assert kendall_w([[1, 1], [1, 1]]) is None
    assert kendall_w([[1, 2]]) is None


def test_blind_rankings_give_one_over_the_number_of_people() -> None:
    orders = list(permutations(range(3)))
    for people in (2, 3):
        values = [kendall_w(rankings) for rankings in product(orders, repeat=people)]
        assert mean(v for v in values if v is not None) == pytest.approx(1 / people)


def test_mid_ranks_are_scipys() -> None:
    values = [3, 1, 1, 7, 3, 3]
    assert mid_ranks(values) == stats.rankdata(values).tolist()


DATA = os.environ.get("MANNERS_DATA")


@pytest.mark.data
@pytest.mark.skipif(DATA is None, reason="MANNERS_DATA names no folder")
@pytest.mark.parametrize("model", ["gpt4", "llama2orig"])
def test_two_people_who_labelled_real_answers(model: str) -> None:
    """With two observers and nothing missing, α is Scott's π with a small correction: 1 − (1 − π)(1 − 1 / 2N)."""
    path = Path(DATA or "") / "xstest" / f"xstest_v2_completions_{model}.csv"
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    said = [(row["annotation_1"], row["annotation_2"]) for row in rows]
    labels = sorted({label for both in said for label in both})
    shares = Counter(label for both in said for label in both)
    expected = sum((count / (2 * len(said))) ** 2 for count in shares.values())
    observed = sum(row["agreement"] == "TRUE" for row in rows) / len(rows)
    pi = (observed - expected) / (1 - expected)
    units = [[labels.index(label) for label in both] for both in said]
    found = krippendorff_alpha(units, len(labels), "nominal")
    assert found == pytest.approx(1 - (1 - pi) * (1 - 1 / (2 * len(said))))
    assert found is not None
    assert 0.9 < found < 1
