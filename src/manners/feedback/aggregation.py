"""What is probably true when people disagree, and how far each of them can be believed: Dawid & Skene's model.

A. P. Dawid and A. M. Skene (1979), "Maximum likelihood estimation of observer error-rates using the EM algorithm". The true class of
a unit is hidden; each annotator has a confusion matrix: what that person says when this or that is true.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

from manners.feedback.opinions import Opinion
from manners.records import Pair

Confusion = tuple[tuple[float, ...], ...]
Votes = Mapping[Hashable, Sequence[tuple[str, int]]]
Comparisons = Mapping[str, Mapping[tuple[str, str], Sequence[tuple[str, int]]]]

# A comparison read backwards: better becomes worse, a tie stays a tie.
BACKWARDS = (2, 1, 0)
_LEAST_WEIGHT = 0.01


@dataclass(frozen=True, slots=True)
class DawidSkene:
    """What the model found. `confusions[annotator][truth][said]` and `prior[truth]` are probabilities.

    `objective` is the logarithm of the posterior density of all parameters after each iteration, which never falls.
    """

    prior: tuple[float, ...]
    confusions: Mapping[str, Confusion]
    posteriors: Mapping[Hashable, tuple[float, ...]]
    objective: tuple[float, ...]
    converged: bool


def dawid_skene(
    votes: Votes,
    classes: int,
    mirror: Sequence[int] | None = None,
    smoothing: float = 1.0,
    tolerance: float = 1e-6,
    most_iterations: int = 200,
) -> DawidSkene:
    """Fit the model by expectation and maximisation to `votes`: of each unit who said which class.

    `smoothing` is how many further votes every cell of a confusion matrix is thought to have, so that who said little is not
    believed to be perfect. `mirror` names for every class the one that it becomes when the unit is read the other way round;
    the estimates are then the same in both directions. The classes are named by the majority: it starts the iteration, and the
    naming in which annotators are right most often is the one that is given back. Stops when the objective gains less than
    `tolerance` per vote, or after `most_iterations`.
    """
    posteriors = {unit: _majority(said, classes) for unit, said in votes.items()}
    size = sum(len(said) for said in votes.values())
    objective: list[float] = []
    converged = False
    prior: tuple[float, ...] = ()
    confusions: dict[str, Confusion] = {}
    while len(objective) < most_iterations and not converged:
        prior, confusions = _maximised(votes, posteriors, classes, mirror or range(classes), smoothing)
        posteriors, likelihood = _expected(votes, prior, confusions)
        objective.append(likelihood + _log_prior(prior, confusions, smoothing))
        converged = len(objective) > 1 and objective[-1] - objective[-2] < tolerance * size
    return named_by_majority(DawidSkene(prior, confusions, posteriors, tuple(objective), converged), votes)


def named_by_majority(found: DawidSkene, votes: Votes) -> DawidSkene:
    """The same fit with its classes renamed so that annotators, weighed by their votes, are right as often as possible.

    The likelihood does not know the names of the hidden classes; this keeps them from being switched.
    """
    counts: dict[str, int] = defaultdict(int)
    for said in votes.values():
        for annotator, _ in said:
            counts[annotator] += 1
    classes = range(len(found.prior))

    def right(order: Sequence[int]) -> float:
        """How many votes would be right if class c were the one that is called order[c] now."""
        return math.fsum(
            counts[who] * found.prior[order[c]] * matrix[order[c]][c]
            for who, matrix in found.confusions.items()
            for c in classes
        )

    best = max(permutations(classes), key=right)
    if right(best) <= right(classes) + 1e-9:
        return found
    return replace(
        found,
        prior=tuple(found.prior[c] for c in best),
        confusions={who: tuple(matrix[c] for c in best) for who, matrix in found.confusions.items()},
        posteriors={unit: tuple(values[c] for c in best) for unit, values in found.posteriors.items()},
    )


def _majority(said: Sequence[tuple[str, int]], classes: int) -> tuple[float, ...]:
    return tuple(sum(value == c for _, value in said) / len(said) for c in range(classes))


def _maximised(
    votes: Votes,
    posteriors: Mapping[Hashable, tuple[float, ...]],
    classes: int,
    mirror: Sequence[int],
    smoothing: float,
) -> tuple[tuple[float, ...], dict[str, Confusion]]:
    """The M step: counts of what was said against what is thought to be true, each counted in both directions."""
    totals = [1.0] * classes
    counts: dict[str, list[list[float]]] = {}
    for unit, said in votes.items():
        truth = posteriors[unit]
        for c, probability in enumerate(truth):
            totals[c] += probability / 2
            totals[mirror[c]] += probability / 2
        for who, value in said:
            table = counts.get(who)
            if table is None:
                table = counts[who] = [[0.0] * classes for _ in range(classes)]
            for c, probability in enumerate(truth):
                table[c][value] += probability
    prior = tuple(total / sum(totals) for total in totals)
    return prior, {who: _confusion(table, mirror, smoothing) for who, table in counts.items()}


def _confusion(table: Sequence[Sequence[float]], mirror: Sequence[int], smoothing: float) -> Confusion:
    rows = []
    for c in range(len(table)):
        row = [(table[c][v] + table[mirror[c]][mirror[v]]) / 2 + smoothing for v in range(len(table))]
        rows.append(tuple(value / sum(row) for value in row))
    return tuple(rows)


def _expected(
    votes: Votes, prior: Sequence[float], confusions: Mapping[str, Confusion]
) -> tuple[dict[Hashable, tuple[float, ...]], float]:
    """The E step, and the log-likelihood of the votes."""
    logs = {
        who: [[math.log(row[value]) for row in matrix] for value in range(len(prior))]
        for who, matrix in confusions.items()
    }
    start = [math.log(p) for p in prior]
    posteriors: dict[Hashable, tuple[float, ...]] = {}
    likelihood = 0.0
    for unit, said in votes.items():
        joint = start
        for who, value in said:
            joint = [a + b for a, b in zip(joint, logs[who][value], strict=True)]
        top = max(joint)
        weights = [math.exp(value - top) for value in joint]
        total = math.fsum(weights)
        posteriors[unit] = tuple(weight / total for weight in weights)
        likelihood += top + math.log(total)
    return posteriors, likelihood


def _log_prior(prior: Sequence[float], confusions: Mapping[str, Confusion], smoothing: float) -> float:
    """The Dirichlet densities that the added counts stand for, up to a constant."""
    cells = math.fsum(math.log(p) for matrix in confusions.values() for row in matrix for p in row)
    return math.fsum(map(math.log, prior)) + smoothing * cells


# Comparisons


def comparisons_of(opinions: Iterable[Opinion]) -> Comparisons:
    """Of every question, and every two answers to it, who said what: 0 the first is better, 1 a tie, 2 the second is better."""
    found: dict[str, dict[tuple[str, str], list[tuple[str, int]]]] = defaultdict(lambda: defaultdict(list))
    for opinion in opinions:
        for one, other, choice in opinion.choices():
            found[opinion.question][one, other].append((opinion.annotator, choice))
    return found


@dataclass(frozen=True, slots=True)
class Reliability:
    """How far each annotator's comparisons can be believed, or why that cannot be told.

    A value of 1: always right where one answer is better and a side was taken; 0: as often right as wrong; below 0: mostly the
    other way round. Only annotators who share questions with others have one.
    """

    values: Mapping[str, float]
    fit: DawidSkene | None
    undefined: str = ""


def reliability(comparisons: Comparisons) -> Reliability:
    """Dawid & Skene's model of comparisons: better, tie, worse, the same in both directions.

    The pairs of one ranking are treated as if they were judged one by one.
    """
    votes: Votes = {
        (question, pair): said
        for question, pairs in comparisons.items()
        for pair, said in pairs.items()
        if len(said) > 1
    }
    everybody = {who for said in votes.values() for who, _ in said}
    if len(everybody) < 3:
        reason = "who is right cannot be told with fewer than three annotators who judged the same questions"
        return Reliability({}, None, reason)
    # Half a vote in each of two directions is one.
    fit = dawid_skene(votes, 3, BACKWARDS, smoothing=0.5)
    return Reliability({who: believed(matrix) for who, matrix in fit.confusions.items()}, fit)


def believed(confusion: Confusion) -> float:
    """(right − reversed) / (right + reversed), where one of two answers is better."""
    right, reversed_ = confusion[0][0], confusion[0][2]
    return (right - reversed_) / (right + reversed_)


def weighted(pairs: Iterable[Pair], reliabilities: Mapping[str, float]) -> list[Pair]:
    """The pairs with their weight times the reliability of their judge.

    A judge without a known reliability keeps the whole weight. Pairs of judges who are right no more often than by chance are
    left out.
    """
    known = ((pair, reliabilities.get(pair.judge, 1.0)) for pair in pairs)
    return [replace(pair, weight=pair.weight * value) for pair, value in known if value >= _LEAST_WEIGHT]
