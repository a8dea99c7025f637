"""Each annotator by the side of the others: agreement, reliability, habits, speed, constancy, and who stands out by what."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from statistics import median

from manners.feedback.aggregation import Comparisons, DawidSkene, Reliability
from manners.feedback.agreement import alpha_of, either_way
from manners.feedback.biases import LengthBias, Place, PositionBias, length_bias, position_bias
from manners.feedback.estimates import Estimate, share_of, sign_p, summed
from manners.feedback.opinions import Opinion, Opinions, by_question

# Nobody reads faster: 1,500 words a minute of six characters each.
_CHARACTERS_A_SECOND = 150
_LEAST_SECONDS = 2
# How unlikely it must be that anybody of all annotators stands out that much by chance.
_REMARKABLE = 0.01
# How sure the others together must be of what is true before a deviation from it is counted.
_SURE = 0.8

Rows = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Remark:
    """That somebody stands out, in words. `kind` is place, length, contrary, chance, alike, fast, gold or inconstant.

    `other` is the annotator that a remark of kind alike speaks of.
    """

    kind: str
    text: str
    other: str = ""


@dataclass(frozen=True, slots=True)
class Standing:
    """One annotator. Shares are from 0 to 1.

    `agreement`: of comparisons in which this person and another one took a side, the share with the same side; 0.5 is chance.
    `consensus`: of comparisons of which the others leave no doubt which answer is better, the share with the same side.
    `alpha_without`: α of comparisons among all the others. `reliability`: −1 to 1, from Dawid & Skene. `seconds`: median time at
    work. `fast`: share of answers given faster than anybody reads. `constancy`: share of comparisons answered alike when asked
    again. `gold`: share of the known order given right.
    """

    id: str
    judgements: int
    agreement: Estimate
    consensus: Estimate
    alpha_without: float | None
    reliability: float | None
    position: PositionBias
    length: LengthBias
    seconds: float | None
    fast: Estimate
    constancy: Estimate
    gold: Estimate
    remarks: tuple[Remark, ...]


def standings(opinions: Opinions, comparisons: Comparisons, trust: Reliability) -> tuple[Standing, ...]:
    """Everybody who judged, those with most judgements first."""
    own, given = _by_annotator(opinions.latest()), _by_annotator(opinions.occasions())
    agreements, without = _agreements(comparisons), _alphas_without(comparisons)
    consensus = _against_consensus(comparisons, trust.fit) if trust.fit else {}
    alike = _alike(comparisons, trust.fit) if trust.fit else {}
    found = [
        Standing(
            id=who,
            judgements=len(theirs),
            agreement=_against_chance(agreements.get(who, ()), "nobody else took a side on the same answers"),
            consensus=_against_chance(
                consensus.get(who, ()), trust.undefined or "the others leave every comparison open"
            ),
            alpha_without=without.get(who),
            reliability=trust.values.get(who),
            position=position_bias(theirs),
            length=length_bias(own[who], opinions.lengths, comparisons),
            seconds=_median_seconds(theirs),
            fast=_fast(theirs, opinions.lengths),
            constancy=_constancy(theirs),
            gold=_gold(theirs),
            remarks=(),
        )
        for who, theirs in given.items()
    ]
    found = [replace(s, remarks=tuple(_remarks(s, len(found), alike.get(s.id, {})))) for s in found]
    return tuple(sorted(found, key=lambda standing: (-standing.judgements, standing.id)))


def _by_annotator(opinions: Iterable[Opinion]) -> dict[str, list[Opinion]]:
    found: dict[str, list[Opinion]] = defaultdict(list)
    for opinion in opinions:
        found[opinion.annotator].append(opinion)
    return found


# Agreement


def _agreements(comparisons: Comparisons) -> dict[str, Rows]:
    """For everybody a row for each question: comparisons with the same side as another person, and all with two sides taken."""
    rows: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for found in comparisons.values():
        counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        for said in found.values():
            for (one, here), (other, there) in combinations(said, 2):
                if here != 1 and there != 1:
                    for who in (one, other):
                        counts[who][0] += here == there
                        counts[who][1] += 1
        for who, (same, both) in counts.items():
            rows[who].append((float(same), float(both)))
    return dict(rows)


def _against_chance(rows: Rows, nothing: str) -> Estimate:
    share = share_of(rows, nothing)
    return replace(share, p=sign_p([same - both / 2 for same, both in rows]))


def _against_consensus(comparisons: Comparisons, fit: DawidSkene) -> dict[str, Rows]:
    """For everybody a row for each question: sides taken as the others show to be true, and all sides taken where they show one."""
    rows: dict[str, list[tuple[float, float]]] = defaultdict(list)
    evidence = _Evidence(fit)
    for found in comparisons.values():
        counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        for said in found.values():
            if len(said) > 1:
                together = evidence.together(said)
                for vote in said:
                    truth = _clear(together, evidence.of(vote))
                    if truth in (0, 2) and vote[1] != 1:
                        counts[vote[0]][0] += vote[1] == truth
                        counts[vote[0]][1] += 1
        for who, (same, both) in counts.items():
            rows[who].append((float(same), float(both)))
    return dict(rows)


def _alphas_without(comparisons: Comparisons) -> dict[str, float]:
    """α of comparisons among all but one, for each who shares comparisons with others: only that person's units change."""
    total = [0.0] * 9
    changes: dict[str, list[float]] = defaultdict(lambda: [0.0] * 9)
    for found in comparisons.values():
        for said in found.values():
            if len(said) < 2:
                continue
            whole = either_way(tuple(value for _, value in said))
            total = summed([total, whole])
            for who, _ in said:
                rest = either_way(tuple(value for other, value in said if other != who))
                changes[who] = [c + r - w for c, r, w in zip(changes[who], rest, whole, strict=True)]
    alphas = ((who, alpha_of(summed([total, change]), 3, "nominal")) for who, change in changes.items())
    return {who: alpha for who, alpha in alphas if alpha is not None}


def _alike(comparisons: Comparisons, fit: DawidSkene) -> dict[str, dict[str, Estimate]]:
    """For every two people: of comparisons in which one of them differs from what the others show to be true, how often both
    said the same. Independent people err each for themselves, so it is a small share; for who copies it is near 1."""
    rows: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    evidence = _Evidence(fit)
    for found in comparisons.values():
        counts: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
        for said in found.values():
            if len(said) > 2:
                together = evidence.together(said)
                for one, other in combinations(sorted(said), 2):
                    truth = _clear(together, evidence.of(one), evidence.of(other))
                    if truth is not None and (one[1] != truth or other[1] != truth):
                        counts[one[0], other[0]][0] += one[1] == other[1]
                        counts[one[0], other[0]][1] += 1
        for pair, (same, both) in counts.items():
            rows[pair].append((float(same), float(both)))
    alike: dict[str, dict[str, Estimate]] = defaultdict(dict)
    for (one_id, other_id), clusters in rows.items():
        alike[one_id][other_id] = alike[other_id][one_id] = share_of(clusters, "")
    return alike


class _Evidence:
    """What votes say about the truth by a fitted model: logarithms for each class, which add up."""

    def __init__(self, fit: DawidSkene) -> None:
        classes = range(len(fit.prior))
        self._prior = [math.log(p) for p in fit.prior]
        self._logs = {
            who: [[math.log(matrix[c][value]) for c in classes] for value in classes]
            for who, matrix in fit.confusions.items()
        }

    def of(self, vote: tuple[str, int]) -> Sequence[float]:
        return self._logs[vote[0]][vote[1]]

    def together(self, said: Sequence[tuple[str, int]]) -> Sequence[float]:
        return summed([self._prior, *map(self.of, said)])


def _clear(together: Sequence[float], *without: Sequence[float]) -> int | None:
    """The class that the evidence shows when some of it is taken away again; None where it leaves that open."""
    rest = [total - sum(parts) for total, *parts in zip(together, *without, strict=True)]
    top = max(rest)
    return rest.index(top) if math.fsum(math.exp(value - top) for value in rest) <= 1 / _SURE else None


# Time, constancy, gold


def _median_seconds(given: Sequence[Opinion]) -> float | None:
    times = [opinion.seconds for opinion in given if opinion.seconds is not None]
    return median(times) if times else None


def _fast(given: Sequence[Opinion], lengths: Mapping[str, int]) -> Estimate:
    rows = []
    for opinion in given:
        if opinion.seconds is not None:
            characters = sum(lengths.get(answer, 0) for answer in opinion.shown)
            least = max(_LEAST_SECONDS, characters / _CHARACTERS_A_SECOND)
            rows.append((float(opinion.seconds < least), 1.0))
    return share_of(rows, "no time at work is known")


def _constancy(given: Sequence[Opinion]) -> Estimate:
    """Over questions that were answered on more than one occasion, each answer beside the one before it."""
    rows = []
    for answers in by_question(given).values():
        for before, after in pairwise(answers):
            if before.compares and after.compares:
                here, there = _choices(before), _choices(after)
                common = here.keys() & there.keys()
                rows.append((float(sum(here[pair] == there[pair] for pair in common)), float(len(common))))
            elif before.all_bad or after.all_bad:
                rows.append((float(before.all_bad and after.all_bad), 1.0))
    return share_of(rows, "no question was asked twice")


def _choices(opinion: Opinion) -> dict[Hashable, int]:
    return {(one, other): choice for one, other, choice in opinion.choices()}


def _gold(given: Sequence[Opinion]) -> Estimate:
    """An answer that was left unranked, or tied with one that is known to be better, is not right."""
    rows = []
    for opinion in given:
        if opinion.gold is not None:
            ranks = opinion.ranks() if opinion.compares else {}
            known = [
                (better, worse) for upper, lower in combinations(opinion.gold, 2) for better in upper for worse in lower
            ]
            right = sum(b in ranks and w in ranks and ranks[b] < ranks[w] for b, w in known)
            rows.append((float(right), float(len(known))))
    return share_of(rows, "no item with a known answer was judged")


# Who stands out


def _remarks(s: Standing, people: int, alike: Mapping[str, Estimate]) -> list[Remark]:
    """What is remarkable about one of `people` annotators."""
    habits = (_place(s.position, people), _long(s.length, people), _contrary(s.consensus, people))
    found = [remark for remark in habits if remark is not None]
    if not found and s.consensus.n >= 30 and (s.consensus.high or 1) < 0.65:
        share = _percent(s.consensus.value)
        found.append(Remark("chance", f"is with the others in {share} of clear comparisons; a coin would be in 50 %"))
    found += [
        Remark("alike", f"where one of the two is alone, both say the same in {_percent(share.value)}: a copy?", other)
        for other, share in alike.items()
        if share.n >= 10 and (share.low or 0) > 0.5
    ]
    if s.fast.n >= 10 and (s.fast.low or 0) > 0.2:
        found.append(Remark("fast", f"gives {_percent(s.fast.value)} of the answers faster than anybody reads"))
    if s.gold.n >= 5 and (s.gold.high or 1) < 0.8:
        found.append(Remark("gold", f"gets {_percent(s.gold.value)} of the known order right"))
    if s.constancy.n >= 5 and (s.constancy.high or 1) < 0.75:
        found.append(Remark("inconstant", f"says the same again in {_percent(s.constancy.value)} of comparisons"))
    return found


def _place(bias: PositionBias, people: int) -> Remark | None:
    def excess(place: Place) -> float:
        return (place.wins - place.expected) / place.shown

    favourite = max(bias.places, key=excess, default=None)
    if favourite is None or favourite.p is None or excess(favourite) < 0.1:
        return None
    if favourite.p * people * len(bias.places) >= _REMARKABLE:
        return None
    won, fair = favourite.wins / favourite.shown, favourite.expected / favourite.shown
    where = f"the answer shown in place {favourite.place + 1} wins in {_percent(won)}; {_percent(fair)} would be fair"
    return Remark("place", where)


def _long(bias: LengthBias, people: int) -> Remark | None:
    own, p = bias.longer.value, bias.p_against_others
    if own is None or bias.others is None or p is None or own - bias.others < 0.15 or p * people >= _REMARKABLE:
        return None
    return Remark(
        "length", f"prefers the longer answer in {_percent(own)}; others of the same ones in {_percent(bias.others)}"
    )


def _contrary(consensus: Estimate, people: int) -> Remark | None:
    if consensus.value is None or consensus.p is None or consensus.value >= 0.4 or consensus.p * people >= _REMARKABLE:
        return None
    share = _percent(1 - consensus.value)
    return Remark("contrary", f"takes the other side than others in {share} of clear comparisons: worst first, perhaps")


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"
