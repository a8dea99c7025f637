"""The report as a whole: hand numbers, what is said about them, and why something is undefined."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from planted import opinion, planted
from scipy import stats

from manners.feedback.opinions import Opinion, Opinions
from manners.feedback.quality import Measure, Quality, quality, quality_of
from manners.feedback.store import Store

LENGTHS = {name: 10 * (n + 1) for n, name in enumerate("abcdef")}


def _report(*given: Opinion) -> Quality:
    return quality_of(Opinions(given, LENGTHS))


def _measure(report: Quality, key: str) -> Measure:
    [found] = [m for m in report.measures if m.key == key]
    return found


def _asked(orders: dict[str, Sequence[str]], questions: int = 1, **more: Any) -> list[Opinion]:
    return [opinion(f"q{n}", who, *order, **more) for n in range(questions) for who, order in orders.items()]


def test_three_people_by_hand() -> None:
    """ann a b c, bob a b c, cat a c b: of nine comparisons of two people's choices seven are the same."""
    report = _report(*_asked({"ann": "abc", "bob": "abc", "cat": "acb"}, questions=2))
    assert (report.judgements, report.questions, report.shared) == (6, 2, 2)
    same = _measure(report, "pairs_same").estimate
    assert (same.value, same.n) == (pytest.approx(7 / 9), 18)
    # τ is 1 once and 1/3 twice for each question.
    tau = _measure(report, "tau_b").estimate
    assert (tau.value, tau.n) == (pytest.approx((1 + 1 / 3 + 1 / 3) / 3), 6)
    assert (tau.low, tau.high) == (pytest.approx(tau.value), pytest.approx(tau.value))
    # Rank sums 3, 7, 8 about 6: 12 · 14 / (9 · 24).
    concordance = _measure(report, "w")
    assert (concordance.estimate.value, concordance.chance) == (pytest.approx(7 / 9), pytest.approx(1 / 3))
    # Each question, in both directions, has 18 values; 2 of them differ from both others, so 4 coincidences of 18 are off.
    alpha = _measure(report, "pairs_alpha").estimate
    assert (alpha.value, alpha.n) == (pytest.approx(1 - 35 * (8 / 2) / (18 * 18)), 18)
    assert (alpha.low, alpha.high) == (alpha.value, alpha.value)


def test_ties_count_as_an_answer_of_their_own() -> None:
    report = _report(*_asked({"ann": ["ab"], "bob": ["ab"], "cat": ["a", "b"], "dan": ["a", "b"]}))
    assert _measure(report, "pairs_same").estimate.value == pytest.approx(2 / 6)
    assert _measure(report, "pairs_same").chance == pytest.approx(0.5**2 + 0.5**2 / 2)
    assert _measure(report, "tau_b").estimate.value == 1
    assert _measure(report, "tau_b").estimate.n == 1


def test_partial_rankings_are_compared_where_they_overlap() -> None:
    report = _report(*_asked({"ann": "abc", "bob": "ca"}))
    assert (_measure(report, "tau_b").estimate.value, _measure(report, "pairs_same").estimate.n) == (-1, 1)
    assert "ranked as a whole" in _measure(report, "w").estimate.undefined


def _rated(question: str, who: str, *ratings: int, criterion: str = "helpful") -> Opinion:
    given = {name: {criterion: rating} for name, rating in zip("abcdef", ratings, strict=False)}
    return opinion(question, who, "ab", ratings=given)


def test_ratings_by_hand() -> None:
    """Ordinal α of two raters who differ by one step on one of three answers: 1, 1 · 3, 4 · 5, 5."""
    report = _report(_rated("q", "ann", 1, 3, 5), _rated("q", "bob", 1, 4, 5))
    found = _measure(report, "helpful_alpha").estimate
    # Sizes 2, 1, 1, 2 of levels 1, 3, 4, 5: δ(3,4) = 1; 13: 1.5; 14: 2.5; 15: 4; 35: 2.5; 45: 1.5.
    expected = 2 * 1.5**2 + 2 * 2.5**2 + 4 * 4**2 + 1 + 2 * 2.5**2 + 2 * 1.5**2
    assert found.value == pytest.approx(1 - 5 * 1 / expected)
    assert found.n == 6
    assert not [m for m in report.measures if m.key in ("honest_alpha", "thumb_alpha", "all_bad_alpha")]


def test_thumbs_and_bad_answers_have_their_own_alpha() -> None:
    thumbs = [_rated("q", "ann", 1, 0, criterion="thumb"), _rated("q", "bob", 1, 0, criterion="thumb")]
    bad = [opinion("r", who, all_bad=True) for who in ("ann", "bob")]
    report = _report(*thumbs, *bad)
    assert _measure(report, "thumb_alpha").estimate.value == 1
    assert _measure(report, "all_bad_alpha").estimate.value == 1


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ([], "nobody has judged anything yet"),
        (_asked({"ann": "ab"}, questions=3), "one person alone has judged; agreement takes two"),
        ([opinion("q", "ann", "a", "b"), opinion("r", "bob", "a", "b")], "give the batch an overlap of 2 or more"),
        (_asked({"ann": "ab", "bob": "cd"}), "never ranked the same two answers"),
        (_asked({"ann": ["ab"], "bob": ["ab"]}), "everybody called every two answers equal: where nothing varies"),
        (_asked({"ann": "", "bob": ""}, all_bad=True), "never ranked the same two answers"),
    ],
)
def test_why_alpha_is_undefined(given: list[Opinion], reason: str) -> None:
    found = _measure(_report(*given), "pairs_alpha")
    assert found.estimate.value is None
    assert reason in found.estimate.undefined
    assert found.reads == f"Not defined: {found.estimate.undefined}."


def test_why_the_other_numbers_are_undefined() -> None:
    ties = _report(*_asked({"ann": ["ab"], "bob": "ab"}))
    assert "always called all of them equal" in _measure(ties, "tau_b").estimate.undefined
    same = _report(_rated("q", "ann", 3, 3), _rated("q", "bob", 3, 3))
    assert "everybody gave the same rating everywhere" in _measure(same, "helpful_alpha").estimate.undefined
    alone = _report(_rated("q", "ann", 3, 4), opinion("q", "bob", "a", "b"))
    assert _measure(alone, "helpful_alpha").estimate.undefined == "no answer was rated by two people"
    nothing = _report()
    assert nothing.position_reads.startswith("Not defined: no judgement with a single winner")
    assert nothing.length_reads.startswith("Not defined: no judgement prefers")
    assert "fewer than three annotators" in nothing.believed
    assert nothing.annotators == ()


def test_unanimous_people_agree_though_the_same_answer_always_wins() -> None:
    found = _measure(_report(*_asked({"ann": "ab", "bob": "ab"}, questions=4)), "pairs_alpha")
    assert found.estimate.value == 1
    assert "firm conclusions" in found.reads


@pytest.mark.parametrize(
    ("noise", "people", "words"),
    [
        (0.05, ("good1", "good2", "good3"), "firm conclusions"),
        (0.5, ("good1", "good2", "good3"), "more than by chance"),
        (0.3, ("random1", "random2"), "cannot be told from chance"),
        (0.1, ("good1", "adversary"), "contradict each other"),
    ],
)
def test_what_is_said_about_alpha(noise: float, people: tuple[str, ...], words: str) -> None:
    opinions = planted(people, 100, overlap=len(people), noise=noise, seed=4)
    assert words in _measure(quality_of(opinions), "pairs_alpha").reads


def test_a_biased_screen_is_told() -> None:
    fair = quality_of(planted(["good1", "good2"], 150, overlap=2, seed=1))
    assert fair.position_reads.endswith("Chance explains that.")
    biased = quality_of(planted(["good1", "first"], 150, overlap=2, seed=1))
    assert biased.position_reads.endswith("more than chance explains: the screen has a say in the judgements.")
    assert biased.position.first.p is not None
    assert biased.position.first.p < 1e-6


def test_a_liking_for_length_is_told() -> None:
    report = quality_of(planted(["longer", "good1"], 100, overlap=2, seed=2))
    assert "learns to write longer answers" in report.length_reads
    assert (
        "Chance explains the distance" in quality_of(planted(["good1", "good2"], 100, overlap=2, seed=2)).length_reads
    )


def test_tau_of_pairs_is_the_mean_of_scipys() -> None:
    opinions = planted(["good1", "good2", "good3"], 30, answers=4, overlap=2, seed=6)
    values = []
    questions = {o.question for o in opinions.all}
    for question in questions:
        one, other = (o.ranks() for o in opinions.all if o.question == question)
        values.append(stats.kendalltau([one[k] for k in one], [other[k] for k in one]).statistic)
    found = _measure(quality_of(opinions), "tau_b").estimate
    assert found.value == pytest.approx(sum(values) / len(values))
    error = stats.sem(values)
    assert found.high is not None
    assert found.low is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_the_report_is_json(store: Store) -> None:
    for report in (quality_of(planted(questions=30)), quality(store)):
        value = json.loads(json.dumps(report.to_json(), allow_nan=False))
        assert value["judgements"] == report.judgements
        assert [m["key"] for m in value["measures"]] == [m.key for m in report.measures]
        assert len(value["annotators"]) == len(report.annotators)


def test_the_same_opinions_give_the_same_report() -> None:
    assert quality_of(planted(questions=40)) == quality_of(planted(questions=40))
