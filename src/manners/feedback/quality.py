"""How good the judgements of a batch, or of everything, are: agreement, biases, annotators, each number with what it means."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from manners.feedback.aggregation import Comparisons, Reliability, comparisons_of, reliability
from manners.feedback.agreement import Metric, alpha_of, coincidences, either_way, kendall_tau_b, kendall_w
from manners.feedback.annotators import Standing, standings
from manners.feedback.biases import LengthBias, PositionBias, length_bias, position_bias
from manners.feedback.estimates import Estimate, bootstrap, share_of, summed
from manners.feedback.opinions import Opinion, Opinions, by_question, read_opinions
from manners.feedback.store import Store
from manners.feedback.submissions import CRITERIA

_STEPS = 5
_NEVER_THE_SAME = "people who judged the same question never ranked the same two answers"


@dataclass(frozen=True, slots=True)
class Measure:
    """One number for how far people agree. `chance` is what it would be if they answered blindly; `reads` says what it means."""

    key: str
    title: str
    estimate: Estimate
    chance: float
    reads: str


@dataclass(frozen=True, slots=True)
class Quality:
    """The whole report. `shared` questions were judged by two people or more; `believed` says what Dawid & Skene's model found."""

    judgements: int
    questions: int
    shared: int
    measures: tuple[Measure, ...]
    position: PositionBias
    position_reads: str
    length: LengthBias
    length_reads: str
    believed: str
    annotators: tuple[Standing, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def quality(store: Store, batch_id: str = "") -> Quality:
    """The report on one batch, or on everything that people judged."""
    return quality_of(read_opinions(store, batch_id))


def quality_of(opinions: Opinions) -> Quality:
    """The report on these opinions."""
    latest, occasions = opinions.latest(), opinions.occasions()
    questions = by_question(latest)
    shared = {question: found for question, found in questions.items() if len(found) > 1}
    comparisons = comparisons_of(latest)
    trust = reliability(comparisons)
    position, length = position_bias(occasions), length_bias(latest, opinions.lengths)
    return Quality(
        judgements=len(occasions),
        questions=len(questions),
        shared=len(shared),
        measures=_measures(latest, shared, comparisons),
        position=position,
        position_reads=_position_reads(position),
        length=length,
        length_reads=_length_reads(length),
        believed=_believed_reads(trust),
        annotators=standings(opinions, comparisons, trust),
    )


def _measures(
    latest: Sequence[Opinion], shared: Mapping[str, Sequence[Opinion]], comparisons: Comparisons
) -> tuple[Measure, ...]:
    nothing = _why_nothing(latest, shared)
    votes = [
        [tuple(value for _, value in said) for said in comparisons[question].values()]
        for question in shared
        if question in comparisons
    ]
    found = [_pairs(votes, nothing), _same(votes, nothing), _tau(shared, nothing), _concordance(shared, nothing)]
    for criterion in (*CRITERIA, "thumb"):
        if any(criterion in given for opinion in latest for given in opinion.ratings.values()):
            found.append(_ratings(shared, criterion, nothing))
    if any(opinion.all_bad for opinion in latest):
        found.append(_all_bad(shared, nothing))
    return tuple(found)


def _why_nothing(latest: Sequence[Opinion], shared: Mapping[str, Sequence[Opinion]]) -> str:
    """Why no agreement can be measured at all; empty where it can."""
    if not latest:
        return "nobody has judged anything yet"
    if len({opinion.annotator for opinion in latest}) < 2:
        return "one person alone has judged; agreement takes two"
    if not shared:
        return "no question was judged by two people; give the batch an overlap of 2 or more"
    return ""


# Krippendorff's α


def _pairs(votes: Sequence[Sequence[tuple[int, ...]]], nothing: str) -> Measure:
    rows = [summed([[0.0] * 9, *map(either_way, found)]) for found in votes]
    nothing = nothing or _unless(rows, _NEVER_THE_SAME)
    estimate = _alpha(rows, 3, "nominal", nothing, "everybody called every two answers equal", 2)
    return Measure("pairs_alpha", "Krippendorff's α of choices", estimate, 0.0, _alpha_reads(estimate))


def _ratings(shared: Mapping[str, Sequence[Opinion]], criterion: str, nothing: str) -> Measure:
    levels, lowest = (2, 0) if criterion == "thumb" else (_STEPS, 1)
    rows = []
    for found in shared.values():
        answers = {answer for opinion in found for answer in opinion.ratings}
        matrices = [coincidences(_given(found, answer, criterion, lowest), levels) for answer in sorted(answers)]
        rows.append(summed([[0.0] * (levels * levels), *matrices]))
    nothing = nothing or _unless(rows, "no answer was rated by two people")
    estimate = _alpha(rows, levels, "ordinal", nothing, "everybody gave the same rating everywhere")
    title = f"Krippendorff's α of {'thumbs' if criterion == 'thumb' else f'ratings, {criterion}'}"
    return Measure(f"{criterion}_alpha", title, estimate, 0.0, _alpha_reads(estimate))


def _given(found: Sequence[Opinion], answer: str, criterion: str, lowest: int) -> list[int]:
    rated = (opinion.ratings.get(answer, {}) for opinion in found)
    return [given[criterion] - lowest for given in rated if criterion in given]


def _all_bad(shared: Mapping[str, Sequence[Opinion]], nothing: str) -> Measure:
    rows = [coincidences([int(opinion.all_bad) for opinion in found], 2) for found in shared.values()]
    estimate = _alpha(rows, 2, "nominal", nothing, "on shared questions everybody said the same")
    return Measure("all_bad_alpha", "Krippendorff's α of “all bad”", estimate, 0.0, _alpha_reads(estimate))


def _unless(rows: Sequence[Sequence[float]], reason: str) -> str:
    return "" if any(map(any, rows)) else reason


def _alpha(
    rows: Sequence[Sequence[float]], levels: int, metric: Metric, nothing: str, unanimous: str, directions: int = 1
) -> Estimate:
    if nothing:
        return Estimate(None, undefined=nothing)
    total = summed(rows)
    count = round(sum(total) / directions)
    value = alpha_of(total, levels, metric)
    if value is None:
        reason = f"{unanimous}: where nothing varies, agreement beyond chance cannot be told"
        return Estimate(None, n=count, undefined=reason)
    low, high = bootstrap(rows, lambda sums: alpha_of(sums, levels, metric)) or (None, None)
    return Estimate(value, low, high, count)


def _alpha_reads(estimate: Estimate) -> str:
    value = estimate.value
    if value is None:
        return f"Not defined: {estimate.undefined}."
    if value >= 0.8:
        return "People agree well enough for firm conclusions; 0.8 is Krippendorff's bound for that."
    if value >= 0.667:
        return "People agree well enough for tentative conclusions; Krippendorff's bounds are 0.667, and 0.8 for firm ones."
    if estimate.high is not None and estimate.high < 0:
        return (
            "People contradict each other more often than by chance: somebody may put the worst first, or the guideline may"
            " be read in two ways."
        )
    if estimate.low is None or estimate.low <= 0:
        return "This cannot be told from chance: judge more questions twice, or make the guideline clearer."
    return (
        "People agree more than by chance, but one judgement alone says little; that is usual where answers are about equally"
        " good. More people per item help, and a clearer guideline does."
    )


# Plain agreement and rankings


def _same(votes: Sequence[Sequence[tuple[int, ...]]], nothing: str) -> Measure:
    rows, counts = [], Counter[int]()
    for found in votes:
        together = [values for values in found if len(values) > 1]
        same = sum(one == other for values in together for one, other in combinations(values, 2))
        rows.append((float(same), float(sum(math.comb(len(values), 2) for values in together))))
        counts.update(value for values in together for value in values)
    estimate = share_of(rows, nothing or _NEVER_THE_SAME)
    ties = counts[1] / (counts.total() or 1)
    chance = ties**2 + (1 - ties) ** 2 / 2
    reads = f"Not defined: {estimate.undefined}."
    if estimate.value is not None:
        reads = (
            f"Two people who compare the same two answers say the same {_of_hundred(estimate.value)}; blindly it would be"
            f" {100 * chance:.0f}. In published collections of such judgements it is 63 to 77."
        )
    return Measure("pairs_same", "Same choice of two answers", estimate, chance, reads)


def _tau(shared: Mapping[str, Sequence[Opinion]], nothing: str) -> Measure:
    rows = []
    for found in shared.values():
        values = [value for one, other in combinations(found, 2) if (value := _correlation(one, other)) is not None]
        rows.append((sum(values), float(len(values))))
    estimate = _mean(rows, nothing or "of people who ranked the same answers, one always called all of them equal")
    reads = f"Not defined: {estimate.undefined}."
    if estimate.value is not None:
        reads = (
            f"Where neither calls them equal, the rankings of two people have the same order of two answers about"
            f" {_of_hundred((1 + estimate.value) / 2)}; blindly it would be 50."
        )
    return Measure("tau_b", "Kendall's τ-b of two rankings", estimate, 0.0, reads)


def _correlation(one: Opinion, other: Opinion) -> float | None:
    if not (one.compares and other.compares):
        return None
    here, there = one.ranks(), other.ranks()
    common = [answer for answer in here if answer in there]
    return kendall_tau_b([here[answer] for answer in common], [there[answer] for answer in common])


def _concordance(shared: Mapping[str, Sequence[Opinion]], nothing: str) -> Measure:
    """The mean over questions. Who left an answer unranked is left out: W needs whole rankings."""
    rows, chances = [], []
    for found in shared.values():
        ranks = [opinion.ranks() for opinion in found if opinion.compares]
        answers = sorted({answer for ranking in ranks for answer in ranking})
        whole = [[ranking[answer] for answer in answers] for ranking in ranks if len(ranking) == len(answers)]
        value = kendall_w(whole) if len(whole) > 1 else None
        if value is not None:
            rows.append((value, 1.0))
            chances.append(1 / len(whole))
    reason = nothing or "no question was ranked as a whole by two people who see a difference between the answers"
    estimate = _mean(rows, reason)
    chance = sum(chances) / len(chances) if chances else 0.0
    reads = f"Not defined: {estimate.undefined}."
    if estimate.value is not None:
        reads = f"1 would be complete agreement on every question; blind rankings by as many people give {chance:.2f}."
    return Measure("w", "Kendall's W of all rankings", estimate, chance, reads)


def _mean(rows: Sequence[tuple[float, float]], nothing: str) -> Estimate:
    """The mean of rows of (sum, count), one for each question, with its bootstrap interval."""
    total, count = (sum(column) for column in zip(*rows, strict=True)) if rows else (0.0, 0.0)
    if not count:
        return Estimate(None, undefined=nothing)
    low, high = bootstrap(rows, lambda sums: sums[0] / sums[1] if sums[1] else None) or (None, None)
    return Estimate(total / count, low, high, round(count))


# Sentences


def _of_hundred(share: float) -> str:
    return f"{100 * share:.0f} times in 100"


def _position_reads(bias: PositionBias) -> str:
    if bias.first.value is None or bias.fair is None or bias.first.p is None:
        return f"Not defined: {bias.first.undefined}."
    said = f"The answer shown first wins {_of_hundred(bias.first.value)}; {100 * bias.fair:.0f} would be its share."
    if bias.first.p < 0.01:
        more = "more" if bias.first.value > bias.fair else "less"
        return f"{said} That is {more} than chance explains: the screen has a say in the judgements."
    if bias.all_places_p is not None and bias.all_places_p < 0.01:
        return f"{said} The places together differ by more than chance explains."
    return f"{said} Chance explains that."


def _length_reads(bias: LengthBias) -> str:
    if bias.longer.value is None:
        return f"Not defined: {bias.longer.undefined}."
    said = f"The longer of two answers is preferred {_of_hundred(bias.longer.value)}."
    if bias.longer.p is None or bias.longer.p >= 0.01:
        return f"{said} Chance explains the distance from 50."
    what = "longer" if bias.longer.value > 0.5 else "shorter"
    return (
        f"{said} Chance does not explain that. The {what} answers may be the better ones; if not, a model trained on this"
        f" learns to write {what} answers."
    )


def _believed_reads(trust: Reliability) -> str:
    if trust.fit is None:
        return f"Not defined: {trust.undefined}."
    sure = sum(map(max, trust.fit.posteriors.values())) / len(trust.fit.posteriors)
    steps = f"{len(trust.fit.objective)} iterations"
    ending = f"converged after {steps}" if trust.fit.converged else f"not converged after {steps}: take it with care"
    return (
        f"Dawid and Skene's model {ending}. What it holds to be true of two answers that several people compared has a"
        f" probability of {sure:.2f} on average."
    )
