"""Preferences that have nothing to do with what an answer says: for a place on the screen, and for length."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from manners.feedback.aggregation import Comparisons
from manners.feedback.estimates import Estimate, binomial_p, chi_square_p, share_of, sign_p, two_sided, wilson
from manners.feedback.opinions import Opinion

_NO_WINNER = "no judgement with a single winner was given on our screen, where the order is drawn at random"


@dataclass(frozen=True, slots=True)
class Place:
    """How often the answer at one place of the screen, from 0, won, and how often it would if the place did not matter."""

    place: int
    wins: int
    expected: float
    shown: int
    p: float | None


@dataclass(frozen=True, slots=True)
class PositionBias:
    """Whether the answer that was shown first wins more often than its share `fair`; `p` of all places together is `all_places_p`."""

    first: Estimate
    fair: float | None
    places: Sequence[Place]
    all_places_p: float | None


@dataclass(frozen=True, slots=True)
class LengthBias:
    """How often the longer of two answers wins; beside it, what the others said of the very same pairs, and the p of the difference."""

    longer: Estimate
    others: float | None
    p_against_others: float | None


def position_bias(opinions: Iterable[Opinion]) -> PositionBias:
    """Place by place, over all judgements with a single winner.

    The order on the screen was drawn at random, so under no bias each win falls on each place with probability 1/K whatever
    people think: the tests are exact, and hold for judgements of the same people and of the same questions too.
    """
    wins: dict[int, Counter[int]] = defaultdict(Counter)
    for opinion in opinions:
        if opinion.compares and len(opinion.shown) > 1 and len(opinion.tiers[0]) == 1:
            wins[len(opinion.shown)][list(opinion.shown).index(opinion.tiers[0][0])] += 1
    if not wins:
        return PositionBias(Estimate(None, undefined=_NO_WINNER), None, (), None)
    places = [_place(wins, place) for place in range(max(wins))]
    first = places[0]
    low, high = wilson(first.wins, first.shown)
    estimate = Estimate(first.wins / first.shown, low, high, first.shown, first.p)
    return PositionBias(estimate, first.expected / first.shown, places, _all_places(wins))


def _place(wins: Mapping[int, Counter[int]], place: int) -> Place:
    """Exact where all judgements had the same number of answers, else by the normal limit."""
    here = {size: (counts[place], counts.total()) for size, counts in wins.items() if place < size}
    won, shown = sum(w for w, _ in here.values()), sum(n for _, n in here.values())
    expected = math.fsum(n / size for size, (_, n) in here.items())
    if len(here) == 1:
        [size] = here
        return Place(place, won, expected, shown, binomial_p(won, shown, 1 / size))
    variance = math.fsum(n / size * (1 - 1 / size) for size, (_, n) in here.items())
    return Place(place, won, expected, shown, two_sided((won - expected) / math.sqrt(variance)))


def _all_places(wins: Mapping[int, Counter[int]]) -> float | None:
    """Pearson's χ² test over all places; None where fewer than five wins are expected on each."""
    enough = {size: counts for size, counts in wins.items() if counts.total() >= 5 * size}
    if not enough:
        return None
    statistic = math.fsum(
        (counts[place] - counts.total() / size) ** 2 / (counts.total() / size)
        for size, counts in enough.items()
        for place in range(size)
    )
    return chi_square_p(statistic, sum(size - 1 for size in enough))


def length_bias(
    opinions: Iterable[Opinion], lengths: Mapping[str, int], everybodys: Comparisons | None = None
) -> LengthBias:
    """Over all pairs of answers of different length of which one was preferred, by question.

    Longer answers may well be the better ones. `everybodys` comparisons let the preference of one person be set against that of the
    others on the same pairs.
    """
    counted: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    differences: dict[str, float] = defaultdict(float)
    theirs: list[float] = []
    for opinion in opinions:
        for one, other, choice in opinion.choices():
            if choice == 1 or lengths[one] == lengths[other]:
                continue
            longer = 0 if lengths[one] > lengths[other] else 2
            counted[opinion.question][0] += choice == longer
            counted[opinion.question][1] += 1
            said = everybodys[opinion.question][one, other] if everybodys else ()
            votes = [vote == longer for who, vote in said if who != opinion.annotator and vote != 1]
            if votes:
                theirs.append(sum(votes) / len(votes))
                differences[opinion.question] += (choice == longer) - theirs[-1]
    share = share_of(
        [(won, size) for won, size in counted.values()], "no judgement prefers one of two answers of different length"
    )
    p = sign_p([won - size / 2 for won, size in counted.values()])
    others = math.fsum(theirs) / len(theirs) if theirs else None
    return LengthBias(replace(share, p=p), others, sign_p(list(differences.values())))
