"""Annotators whose ways were planted are recognised, honest ones are left alone, and single numbers by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from planted import opinion, planted

from manners.feedback.aggregation import comparisons_of, reliability
from manners.feedback.annotators import Standing, standings
from manners.feedback.opinions import Opinion, Opinions
from manners.feedback.quality import quality_of


def _standings(opinions: Opinions) -> dict[str, Standing]:
    comparisons = comparisons_of(opinions.latest())
    return {s.id: s for s in standings(opinions, comparisons, reliability(comparisons))}


def _kinds(standing: Standing) -> list[str]:
    return [remark.kind for remark in standing.remarks]


@pytest.mark.parametrize(
    "how",
    [
        {"seed": 0, "questions": 150},
        {"seed": 1, "questions": 200, "answers": 4},
        {"seed": 2, "questions": 300, "answers": 2, "overlap": 7},
    ],
)
def test_planted_ways_are_recognised_and_nothing_else_is_said(how: dict[str, int]) -> None:
    found = _standings(planted(**how))
    assert _kinds(found["random"]) == ["chance"]
    assert _kinds(found["first"]) == ["place"]
    assert _kinds(found["longer"]) == ["length"]
    assert _kinds(found["adversary"]) == ["contrary"]
    assert [(r.kind, r.other) for r in found["copy"].remarks] == [("alike", "good0")]
    assert [(r.kind, r.other) for r in found["good0"].remarks] == [("alike", "copy")]
    assert [_kinds(found[f"good{n}"]) for n in range(1, 5)] == [[]] * 4


@pytest.mark.parametrize("noise", [0.3, 1.0])
def test_honest_people_are_left_alone(noise: float) -> None:
    people = [f"good{n}" for n in range(10)]
    for seed in range(4):
        assert not any(s.remarks for s in _standings(planted(people, overlap=4, noise=noise, seed=seed)).values())


def test_reliability_follows_the_noise() -> None:
    sharp = [o for o in planted(["sharp1", "sharp2", "dull1", "dull2"], 200, overlap=4, noise=0.2, seed=3).all]
    dull = {
        (o.question, o.annotator): o
        for o in planted(["sharp1", "sharp2", "dull1", "dull2"], 200, overlap=4, noise=1.5, seed=3).all
    }
    mixed = [dull[o.question, o.annotator] if o.annotator.startswith("dull") else o for o in sharp]
    found = _standings(Opinions(mixed, planted(seed=3, questions=200).lengths))
    assert min(found[f"sharp{n}"].reliability or 0 for n in (1, 2)) > max(
        found[f"dull{n}"].reliability or 0 for n in (1, 2)
    )


def test_alpha_without_somebody_is_the_alpha_of_the_others() -> None:
    opinions = planted(questions=40)
    found = _standings(opinions)
    for who in ("adversary", "good1"):
        others = Opinions([o for o in opinions.all if o.annotator != who], opinions.lengths)
        [alpha] = [m.estimate.value for m in quality_of(others).measures if m.key == "pairs_alpha"]
        assert found[who].alpha_without == pytest.approx(alpha)


def _alone(*given: Opinion, lengths: dict[str, int] | None = None) -> Standing:
    [standing] = _standings(Opinions(given, lengths or {"a": 30, "b": 60, "c": 90})).values()
    return standing


def test_taking_sides_by_hand() -> None:
    """Ann and Bob agree on (a, b) and differ on (a, c); that Bob ties b and c is no side taken."""
    opinions = [
        opinion("q", "ann", ["a"], ["b"], ["c"]),
        opinion("q", "bob", ["b", "c"], ["a"]),
        opinion("r", "bob", ["a"], ["b"]),
    ]
    lengths = dict.fromkeys("abc", 1)
    found = _standings(Opinions(opinions, lengths))
    assert (found["ann"].agreement.value, found["ann"].agreement.n) == (0, 2)
    assert found["ann"].consensus.undefined.startswith("who is right cannot be told")
    alone = _alone(opinion("q", "ann", ["a"], ["b"]))
    assert (alone.alpha_without, alone.reliability) == (None, None)
    assert alone.agreement.undefined == "nobody else took a side on the same answers"


def test_clear_comparisons_are_those_that_the_others_leave_no_doubt_of() -> None:
    """Where Bob and Cat contradict each other, Ann's own word must not make it clear; where she ties, she takes no side."""
    opinions = [opinion(f"same {n}", who, "a", "b") for n in range(20) for who in ("ann", "bob", "cat")]
    for n in range(5):
        opinions += [opinion(f"split {n}", "ann", "a", "b"), opinion(f"split {n}", "bob", "a", "b")]
        opinions += [opinion(f"split {n}", "cat", "b", "a"), opinion(f"lone {n}", "ann", "a", "b")]
    opinions += [
        opinion(f"against {n}", who, *("ba" if who == "ann" else "ab"))
        for n in range(2)
        for who in ("ann", "bob", "cat")
    ]
    opinions += [opinion("tied", "ann", "ab"), *(opinion("tied", who, "a", "b") for who in ("bob", "cat"))]
    found = _standings(Opinions(opinions, dict.fromkeys("ab", 1)))["ann"].consensus
    assert (found.value, found.n) == (pytest.approx(20 / 22), 22)


@pytest.mark.parametrize(
    ("seconds", "characters", "fast"),
    [(1.9, 10, True), (2.1, 10, False), (19.0, 3000, True), (21.0, 3000, False)],
)
def test_faster_than_anybody_reads(seconds: float, characters: int, fast: bool) -> None:
    """Two seconds at least, and no more than 150 characters in each."""
    given = opinion("q", "ann", ["a"], ["b"], shown=("a", "b"), seconds=seconds)
    found = _alone(given, lengths={"a": characters - 5, "b": 5})
    assert (found.fast.value, found.seconds) == (float(fast), seconds)
    assert _alone(opinion("q", "ann", ["a"], ["b"])).fast.undefined == "no time at work is known"


def test_whoever_is_fast_most_of_the_time_is_named() -> None:
    given = [
        opinion(f"q{n}", "ann", "a", "b", shown="ab" if n % 2 else "ba", seconds=1.0 if n < 8 else 60.0)
        for n in range(12)
    ]
    standing = _alone(*given)
    assert (standing.seconds, standing.fast.value) == (1.0, pytest.approx(2 / 3))
    assert _kinds(standing) == ["fast"]


def _twice(question: str, before: Sequence[str], after: Sequence[str], **more: bool) -> list[Opinion]:
    return [
        opinion(question, "ann", *before, occasion=f"{question} 1"),
        opinion(question, "ann", *after, occasion=f"{question} 2", **more),
    ]


def test_constancy_by_hand() -> None:
    """Same order of (a, b), another of (a, c) and (b, c); then the same thing twice; a tie is not the same as a preference."""
    given = [
        *_twice("q1", ["a", "b", "c"], ["c", "a", "b"]),
        *_twice("q2", ["a", "b"], ["a", "b"]),
        *_twice("q3", ["a", "b"], ["ab"]),
    ]
    found = _alone(*given).constancy
    assert (found.value, found.n) == (pytest.approx(2 / 5), 5)
    changed = [opinion("q", "ann", "a", "b", occasion="one"), opinion("q", "ann", "b", "a", occasion="one")]
    assert _alone(*changed).constancy.undefined == "no question was asked twice"
    assert _alone(*_twice("q", ["a", "b"], [], all_bad=True)).constancy.value == 0


def test_gold_by_hand() -> None:
    """Known: a before b before c. Right, two of three right, one tie, an answer left out, all bad."""
    gold = (("a",), ("b",), ("c",))
    given = [
        opinion("q1", "ann", "a", "b", "c", gold=gold),
        opinion("q2", "ann", "a", "c", "b", gold=gold),
        opinion("q3", "ann", "ab", "c", gold=gold),
        opinion("q4", "ann", "a", "b", gold=gold),
        opinion("q5", "ann", gold=gold, all_bad=True),
        opinion("q6", "ann", "c", "b", "a"),
    ]
    found = _alone(*given).gold
    assert (found.value, found.n) == (pytest.approx((3 + 2 + 2 + 1 + 0) / 15), 15)
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high


def test_who_misses_known_answers_and_who_changes_every_time_is_named() -> None:
    wrong = [opinion(f"q{n}", "ann", "b", "a", gold=(("a",), ("b",))) for n in range(8)]
    assert _kinds(_alone(*wrong)) == ["gold"]
    fickle = [o for n in range(8) for o in _twice(f"q{n}", ["a", "b"], ["b", "a"])]
    assert _kinds(_alone(*fickle)) == ["inconstant"]
