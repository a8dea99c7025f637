"""Dawid and Skene's model: planted confusion matrices come out again, and what it does at its edges."""

from __future__ import annotations

import math
import random
from collections.abc import Hashable
from dataclasses import replace

import pytest
from planted import opinion, planted

from manners.feedback.aggregation import (
    BACKWARDS,
    Confusion,
    DawidSkene,
    Reliability,
    believed,
    comparisons_of,
    dawid_skene,
    named_by_majority,
    reliability,
    weighted,
)
from manners.records import Completion, Pair, Prompt

PLANTED: dict[str, Confusion] = {
    "sharp": ((0.95, 0.03, 0.02), (0.05, 0.9, 0.05), (0.02, 0.03, 0.95)),
    "lazy": ((0.5, 0.45, 0.05), (0.1, 0.85, 0.05), (0.05, 0.4, 0.55)),
    "tilted": ((0.9, 0.05, 0.05), (0.5, 0.4, 0.1), (0.3, 0.1, 0.6)),
    "blind": ((0.3, 0.3, 0.4), (0.3, 0.3, 0.4), (0.3, 0.3, 0.4)),
    "contrary": ((0.1, 0.1, 0.8), (0.2, 0.6, 0.2), (0.8, 0.1, 0.1)),
}
PRIOR = (0.5, 0.2, 0.3)
Said = dict[Hashable, list[tuple[str, int]]]


def _votes(units: int, seed: int, prior: tuple[float, ...] = PRIOR) -> tuple[Said, list[int]]:
    draws = random.Random(seed)
    truths = draws.choices(range(3), prior, k=units)
    votes: Said = {
        unit: [(who, draws.choices(range(3), matrix[truth])[0]) for who, matrix in PLANTED.items()]
        for unit, truth in enumerate(truths)
    }
    return votes, truths


def _furthest(one: Confusion, other: Confusion) -> float:
    return max(abs(a - b) for here, there in zip(one, other, strict=True) for a, b in zip(here, there, strict=True))


def test_planted_confusion_matrices_come_out() -> None:
    votes, truths = _votes(4000, seed=2)
    fit = dawid_skene(votes, 3)
    assert fit.converged
    assert fit.prior == pytest.approx(PRIOR, abs=0.04)
    for who, matrix in PLANTED.items():
        assert _furthest(fit.confusions[who], matrix) < 0.07, who
    right = sum(max(range(3), key=fit.posteriors[unit].__getitem__) == truth for unit, truth in enumerate(truths))
    majority = sum(max(range(3), key=[v for _, v in votes[u]].count) == truth for u, truth in enumerate(truths))
    assert right / len(truths) > 0.93 > 0.9 > majority / len(truths)


def test_the_probabilities_it_gives_are_calibrated() -> None:
    votes, truths = _votes(4000, seed=3)
    fit = dawid_skene(votes, 3)
    unsure = [u for u in range(4000) if 0.6 < max(fit.posteriors[u]) < 0.9]
    claimed = sum(max(fit.posteriors[u]) for u in unsure) / len(unsure)
    right = sum(max(range(3), key=fit.posteriors[u].__getitem__) == truths[u] for u in unsure) / len(unsure)
    assert right == pytest.approx(claimed, abs=3 * math.sqrt(0.25 / len(unsure)))


def _log_density(votes: Said, prior: tuple[float, ...], confusions: dict[str, Confusion]) -> float:
    """By enumeration of what may be true of each unit; every cell and every class has one further vote."""
    total = sum(math.log(p) for p in prior)
    total += sum(math.log(p) for matrix in confusions.values() for row in matrix for p in row)
    for said in votes.values():
        total += math.log(sum(prior[c] * math.prod(confusions[who][c][v] for who, v in said) for c in range(3)))
    return total


def _shaken(row: tuple[float, ...], draws: random.Random) -> tuple[float, ...]:
    moved = [p * math.exp(draws.gauss(0, 0.05)) for p in row]
    return tuple(p / sum(moved) for p in moved)


def test_it_climbs_and_ends_on_a_top() -> None:
    votes, _ = _votes(120, seed=4)
    fit = dawid_skene(votes, 3, tolerance=1e-12, most_iterations=2000)
    assert fit.converged
    assert all(after >= before - 1e-9 for before, after in zip(fit.objective, fit.objective[1:], strict=False))
    top = _log_density(votes, fit.prior, dict(fit.confusions))
    draws = random.Random(0)
    for _ in range(100):
        confusions = {who: tuple(_shaken(row, draws) for row in matrix) for who, matrix in fit.confusions.items()}
        assert _log_density(votes, _shaken(fit.prior, draws), confusions) < top


def test_read_the_other_way_round_it_says_the_same_the_other_way_round() -> None:
    votes, _ = _votes(150, seed=5)
    draws = random.Random(0)
    turned = {u for u in votes if draws.random() < 0.5}
    other: Said = {u: [(w, BACKWARDS[v] if u in turned else v) for w, v in said] for u, said in votes.items()}
    one, two = dawid_skene(votes, 3, BACKWARDS), dawid_skene(other, 3, BACKWARDS)
    for who in PLANTED:
        assert _furthest(one.confusions[who], two.confusions[who]) < 1e-9
        matrix = one.confusions[who]
        assert matrix[0] == pytest.approx(matrix[2][::-1])
        assert matrix[1][0] == pytest.approx(matrix[1][2])
    for unit, values in one.posteriors.items():
        expected = two.posteriors[unit][::-1] if unit in turned else two.posteriors[unit]
        assert values == pytest.approx(expected)


def test_classes_are_not_switched() -> None:
    votes, _ = _votes(500, seed=6)
    fit = dawid_skene(votes, 3)
    order = (2, 0, 1)
    switched = DawidSkene(
        tuple(fit.prior[c] for c in order),
        {who: tuple(matrix[c] for c in order) for who, matrix in fit.confusions.items()},
        {unit: tuple(values[c] for c in order) for unit, values in fit.posteriors.items()},
        fit.objective,
        True,
    )
    assert named_by_majority(switched, votes) == fit
    assert named_by_majority(fit, votes) is fit


def test_it_says_when_it_did_not_converge() -> None:
    votes, _ = _votes(200, seed=7)
    fit = dawid_skene(votes, 3, most_iterations=2)
    assert not fit.converged
    assert len(fit.objective) == 2


def test_who_said_little_is_not_believed_to_be_perfect() -> None:
    votes: Said = {unit: [("a", 0), ("b", 0), ("c", 0)] for unit in range(40)}
    votes[0] = [*votes[0], ("new", 0)]
    fit = dawid_skene(votes, 3, BACKWARDS)
    assert believed(fit.confusions["a"]) > 0.9
    # The one vote, half in each direction, and one further vote in each cell: (1.5 − 1) / (1.5 + 1).
    assert believed(fit.confusions["new"]) == pytest.approx(0.2, abs=0.01)


def test_reliability_is_right_less_reversed() -> None:
    assert believed(((0.6, 0.2, 0.2), (0.3, 0.4, 0.3), (0.2, 0.2, 0.6))) == pytest.approx(0.5)
    assert believed(((0.1, 0.8, 0.1), (0.3, 0.4, 0.3), (0.1, 0.8, 0.1))) == 0


def test_with_two_people_nobody_can_tell_who_is_right() -> None:
    found = reliability(comparisons_of([opinion("q", who, "a", "b") for who in ("ann", "bob")]))
    assert found == Reliability({}, None, found.undefined)
    assert "fewer than three annotators" in found.undefined


def test_who_shares_no_question_has_no_reliability() -> None:
    opinions = [*planted().latest(), opinion("another", "hermit", "a", "b")]
    found = reliability(comparisons_of(opinions))
    assert "hermit" not in found.values
    assert found.values["adversary"] < -0.5
    assert -0.3 < found.values["random"] < 0.3
    assert min(found.values[f"good{n}"] for n in range(5)) > 0.5


def _pair(judge: str) -> Pair:
    prompt = Prompt.of("Where is Oslo?")
    return Pair(prompt, Completion(prompt.id, "In Norway."), Completion(prompt.id, "No idea."), weight=0.5, judge=judge)


def test_pairs_weigh_as_much_as_their_judge_is_believed() -> None:
    pairs = [_pair(judge) for judge in ("sharp", "blind", "contrary", "unknown")]
    found = weighted(pairs, {"sharp": 0.8, "blind": 0.0, "contrary": -0.7})
    assert found == [replace(pairs[0], weight=0.4), pairs[3]]
