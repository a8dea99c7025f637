"""Preferences for a place and for length: hand numbers, scipy, and what must not matter."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from planted import opinion
from scipy import stats

from manners.feedback.aggregation import comparisons_of
from manners.feedback.biases import length_bias, position_bias
from manners.feedback.opinions import Opinion

NAMES = ("a", "b", "c", "d")


def _won(place: int, count: int, answers: int = 4) -> list[Opinion]:
    """Judgements in which the answer at that place of the screen won."""
    names = NAMES[:answers]
    rest = [[name] for name in names if name != names[place]]
    return [opinion(f"q{place}{answers}{n}", "ann", [names[place]], *rest, shown=names) for n in range(count)]


def _places(wins: Sequence[int]) -> list[Opinion]:
    return [o for place, count in enumerate(wins) for o in _won(place, count, len(wins))]


def test_the_first_answer_against_its_share() -> None:
    found = position_bias(_places((14, 6, 5, 5)))
    assert (found.first.value, found.fair, found.first.n) == (14 / 30, 0.25, 30)
    assert found.first.p == pytest.approx(stats.binomtest(14, 30, 0.25).pvalue)
    known = stats.binomtest(14, 30).proportion_ci(method="wilson")
    assert (found.first.low, found.first.high) == pytest.approx((known.low, known.high))
    assert [(p.place, p.wins, p.expected) for p in found.places] == [
        (0, 14, 7.5),
        (1, 6, 7.5),
        (2, 5, 7.5),
        (3, 5, 7.5),
    ]
    assert found.all_places_p == pytest.approx(stats.chisquare([14, 6, 5, 5]).pvalue)


def test_fair_shares_are_no_bias() -> None:
    found = position_bias(_places((10, 10, 10)))
    assert (found.first.value, found.first.p, found.all_places_p) == (pytest.approx(1 / 3), 1, 1)


def test_items_of_different_size_expect_different_shares() -> None:
    found = position_bias([*_places((30, 10)), *_places((20, 10, 10))])
    assert found.first.n == 80
    assert found.fair == pytest.approx((20 + 40 / 3) / 80)
    z = (50 - 20 - 40 / 3) / (40 / 4 + 40 * 2 / 9) ** 0.5
    assert found.first.p == pytest.approx(2 * stats.norm.sf(z))
    assert found.places[2].shown == 40
    both = stats.chisquare([30, 10]).statistic + stats.chisquare([20, 10, 10]).statistic
    assert found.all_places_p == pytest.approx(stats.chi2.sf(both, 3))


def test_who_has_no_single_winner_or_no_order_says_nothing_about_places() -> None:
    silent = [
        opinion("tie", "ann", ["a", "b"], ["c"], shown=("a", "b", "c")),
        opinion("bad", "ann", shown=("a", "b"), all_bad=True),
        opinion("imported", "ann", ["a"], ["b"]),
    ]
    found = position_bias(silent)
    assert found.first.value is None
    assert "single winner" in found.first.undefined
    assert position_bias([*silent, *_places((3, 1))]).first.n == 4


def test_few_judgements_have_no_test_of_all_places() -> None:
    assert position_bias(_places((4, 4, 4))).all_places_p is None
    assert position_bias(_places((5, 5, 5))).all_places_p == 1


LENGTHS = {"a": 100, "b": 300, "c": 300, "d": 900}


def test_the_longer_answer_by_hand() -> None:
    """b > a, d > a: longer wins; c > d: shorter; b and c are of one length, and the tie of c and a says nothing."""
    opinions = [
        opinion("q1", "ann", ["b"], ["a"]),
        opinion("q2", "ann", ["d"], ["a"]),
        opinion("q3", "ann", ["c"], ["d"]),
        opinion("q4", "ann", ["b"], ["c"]),
        opinion("q5", "ann", ["c", "a"]),
    ]
    found = length_bias(opinions, LENGTHS)
    assert (found.longer.value, found.longer.n) == (pytest.approx(2 / 3), 3)
    assert found.longer.p == pytest.approx(2 * stats.norm.sf(1 / 3**0.5))
    assert found.others is None
    assert length_bias(opinions[3:], LENGTHS).longer.undefined.startswith("no judgement prefers")


def test_all_pairs_of_one_question_are_one_cluster() -> None:
    """The ranking d, b, a prefers the longer one three times, and is one witness."""
    rankings = [opinion(f"q{n}", "ann", ["d"], ["b"], ["a"]) for n in range(9)]
    found = length_bias(rankings, LENGTHS)
    assert (found.longer.value, found.longer.n) == (1, 27)
    assert found.longer.p == pytest.approx(2 * stats.norm.sf(3))
    assert found.longer.low == pytest.approx(stats.binomtest(9, 9).proportion_ci(method="wilson").low)


def test_one_person_against_the_others_on_the_same_pairs() -> None:
    """Ann always prefers the longer one; of the others two in three do, on the pairs that they share with her. Ties are no vote."""
    opinions = []
    for n in range(30):
        opinions.append(opinion(f"q{n}", "ann", ["d"], ["a"]))
        opinions += [opinion(f"q{n}", who, *([["d"], ["a"]] if n % 3 else [["a"], ["d"]])) for who in ("bob", "cat")]
        opinions.append(opinion(f"q{n}", "dan", ["a", "d"]))
    opinions += [opinion(f"other {n}", "bob", ["a"], ["d"]) for n in range(50)]
    ann = [o for o in opinions if o.annotator == "ann"]
    found = length_bias(ann, LENGTHS, comparisons_of(opinions))
    assert (found.longer.value, found.others) == (1, pytest.approx(2 / 3))
    assert found.p_against_others == pytest.approx(2 * stats.norm.sf(10**0.5))
