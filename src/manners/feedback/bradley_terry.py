"""Bradley–Terry scores of players from comparisons of two, with a covariate if wanted, and intervals that hold within clusters.

P(first beats second) = σ(θ_first − θ_second + γ·covariate). A tie is half a win for each (as LMArena counts them). The covariance is
the sandwich H⁻¹ (Σ_g u_g u_gᵀ) H⁻¹ · G/(G − 1) over G clusters with scores u_g (Huber 1967; Liang & Zeger 1986): comparisons within
a cluster may depend on each other, and ties need not vary as coins do. In plain Python, since the server that collects judgements has
no numerical library; players are few.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

_STEPS = 60
_SMALL = 1e-10
_LEVEL = 0.95
Matrix = list[list[float]]


class UndefinedError(ValueError):
    """There is no finite solution; the message says why."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Player `first` against player `second`: `won` is 1 for the first, 0 for the second, 0.5 for a tie."""

    first: int
    second: int
    won: float
    cluster: str
    covariate: float = 0.0


@dataclass(frozen=True, slots=True)
class Fit:
    """The parameters (every player against the first one, then the covariate's slope if there is one), and their covariance."""

    players: int
    parameters: Sequence[float]
    covariance: Matrix
    clusters: int

    def ability(self, player: int) -> tuple[float, float, float]:
        """θ of a player, where all players' mean is 0, with its 95 % interval. In nats of odds."""
        share = [-1 / self.players] * (self.players - 1)
        if player:
            share[player - 1] += 1
        return self._interval(share)

    def difference(self, one: int, other: int) -> tuple[float, float, float]:
        """θ of one player less that of another, with its 95 % interval: the log-odds that one beats the other."""
        contrast = [0.0] * (self.players - 1)
        for player, sign in ((one, 1.0), (other, -1.0)):
            if player:
                contrast[player - 1] += sign
        return self._interval(contrast)

    def slope(self) -> tuple[float, float, float]:
        """γ with its 95 % interval."""
        return self._interval([0.0] * (self.players - 1) + [1.0])

    def _interval(self, contrast: Sequence[float]) -> tuple[float, float, float]:
        weights = [*contrast, *[0.0] * (len(self.parameters) - len(contrast))]
        value = sum(w * p for w, p in zip(weights, self.parameters, strict=True))
        carried = [sum(w * c for w, c in zip(weights, row, strict=True)) for row in self.covariance]
        half = t_quantile(self.clusters - 1) * math.sqrt(
            max(0.0, sum(w * c for w, c in zip(weights, carried, strict=True)))
        )
        return value, value - half, value + half


def fit(comparisons: Sequence[Comparison], players: int, covariate: bool = False) -> Fit:
    """The most likely scores of players 0 to `players` − 1. Raises UndefinedError where there are none, or no interval."""
    clusters = {c.cluster for c in comparisons}
    if not comparisons:
        raise UndefinedError("there are no votes yet")
    _check_connections(comparisons, players)
    parameters = _maximum(comparisons, players, covariate)
    if len(clusters) < 2:
        raise UndefinedError("all votes are on one prompt: how much prompts differ cannot be told")
    bread = _inverse(_information(comparisons, players, parameters, covariate))
    meat = _meat(comparisons, players, parameters, covariate)
    correction = len(clusters) / (len(clusters) - 1)
    covariance = [[value * correction for value in row] for row in _times(_times(bread, meat), bread)]
    if all(covariance[k][k] < _SMALL**2 for k in range(len(parameters))):
        raise UndefinedError("the votes came out alike on every prompt: how much prompts differ cannot be told")
    return Fit(players, parameters, covariance, len(clusters))


def sigmoid(x: float) -> float:
    """1 / (1 + e^−x), for every x."""
    if x >= 0:
        return 1 / (1 + math.exp(-x))
    return math.exp(x) / (1 + math.exp(x))


def t_quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's distribution, by its expansion about the normal one (Abramowitz & Stegun 26.7.5).

    Within 1 % from 2 degrees of freedom on; with 1 it is too small by 11 %.
    """
    z = NormalDist().inv_cdf(0.5 + _LEVEL / 2)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, 1))


def _check_connections(comparisons: Sequence[Comparison], players: int) -> None:
    """Scores are finite if and only if everybody can be reached from everybody by steps to somebody whom one beat or tied.

    Ford 1957, "Solution of a ranking problem from binary comparisons".
    """
    beats: dict[int, set[int]] = defaultdict(set)
    loses: dict[int, set[int]] = defaultdict(set)
    for c in comparisons:
        for winner, loser, share in ((c.first, c.second, c.won), (c.second, c.first, 1 - c.won)):
            if share > 0:
                beats[winner].add(loser)
                loses[loser].add(winner)
    met = {player: beats[player] | loses[player] for player in range(players)}
    if len(_reached(met)) < players:
        raise UndefinedError("some models were never compared with the others, not even through third ones")
    if len(_reached(beats)) < players or len(_reached(loses)) < players:
        raise UndefinedError("one side won every vote, so that its lead has no upper bound; more votes may bound it")


def _reached(steps: dict[int, set[int]]) -> set[int]:
    found, waiting = {0}, [0]
    while waiting:
        new = steps[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def _maximum(comparisons: Sequence[Comparison], players: int, covariate: bool) -> list[float]:
    """Newton's method, with steps halved while they make things worse. Without a finite maximum its steps never become small."""
    parameters = [0.0] * (players - 1 + covariate)
    likelihood = _likelihood(comparisons, parameters, covariate)
    for number in range(_STEPS):
        information = _information(comparisons, players, parameters, covariate)
        try:
            step = _solve(information, _score(comparisons, players, parameters, covariate))
        except ZeroDivisionError:
            if number == 0:
                raise UndefinedError(
                    "the covariate cannot be told from the models: it is the same in every vote"
                ) from None
            break
        for _ in range(30):
            tried = [p + s for p, s in zip(parameters, step, strict=True)]
            better = _likelihood(comparisons, tried, covariate)
            if better >= likelihood - _SMALL:
                break
            step = [s / 2 for s in step]
        parameters, likelihood = tried, better
        if max(map(abs, step)) < _SMALL:
            return parameters
    raise UndefinedError(
        "model and covariate together tell every vote, so that no score is finite; more votes may change that"
    )


def _terms(c: Comparison, covariate: bool, slope: int) -> Iterator[tuple[int, float]]:
    """Where a comparison's row of the design is not 0. Player 0 has no parameter: the others are measured against it."""
    if c.first:
        yield c.first - 1, 1.0
    if c.second:
        yield c.second - 1, -1.0
    if covariate:
        yield slope, c.covariate


def _chance(c: Comparison, parameters: Sequence[float], covariate: bool) -> float:
    return sigmoid(sum(parameters[k] * x for k, x in _terms(c, covariate, len(parameters) - 1)))


def _likelihood(comparisons: Sequence[Comparison], parameters: Sequence[float], covariate: bool) -> float:
    total = 0.0
    for c in comparisons:
        logit = sum(parameters[k] * x for k, x in _terms(c, covariate, len(parameters) - 1))
        # won·log σ(logit) + (1 − won)·log σ(−logit)
        total += c.won * logit - max(logit, 0.0) - math.log1p(math.exp(-abs(logit)))
    return total


def _score(
    comparisons: Sequence[Comparison], players: int, parameters: Sequence[float], covariate: bool
) -> list[float]:  # fmt: skip
    score = [0.0] * len(parameters)
    for c in comparisons:
        left = c.won - _chance(c, parameters, covariate)
        for k, x in _terms(c, covariate, players - 1):
            score[k] += left * x
    return score


def _information(
    comparisons: Sequence[Comparison], players: int, parameters: Sequence[float], covariate: bool
) -> Matrix:
    matrix = [[0.0] * len(parameters) for _ in parameters]
    for c in comparisons:
        chance = _chance(c, parameters, covariate)
        row = list(_terms(c, covariate, players - 1))
        for k, x in row:
            for m, y in row:
                matrix[k][m] += chance * (1 - chance) * x * y
    return matrix


def _meat(comparisons: Sequence[Comparison], players: int, parameters: Sequence[float], covariate: bool) -> Matrix:
    clusters: dict[str, list[Comparison]] = defaultdict(list)
    for c in comparisons:
        clusters[c.cluster].append(c)
    scores = [_score(members, players, parameters, covariate) for members in clusters.values()]
    return [[sum(u[k] * u[m] for u in scores) for m in range(len(parameters))] for k in range(len(parameters))]


def _solve(matrix: Matrix, right: Sequence[float]) -> list[float]:
    """The solution of a system with a positive definite matrix, by elimination. Raises ZeroDivisionError where it has none."""
    return [row[0] for row in _eliminated(matrix, [[value] for value in right])]


def _inverse(matrix: Matrix) -> Matrix:
    size = len(matrix)
    return _eliminated(matrix, [[float(k == m) for m in range(size)] for k in range(size)])


def _eliminated(matrix: Matrix, right: Matrix) -> Matrix:
    rows = [[*row, *rest] for row, rest in zip(matrix, right, strict=True)]
    size, scales = len(rows), [abs(matrix[k][k]) for k in range(len(matrix))]
    for k in range(size):
        pivot = max(range(k, size), key=lambda m: abs(rows[m][k]))
        if abs(rows[pivot][k]) <= _SMALL * max(scales):
            raise ZeroDivisionError
        rows[k], rows[pivot] = rows[pivot], rows[k]
        for m in range(size):
            if m != k:
                factor = rows[m][k] / rows[k][k]
                rows[m] = [value - factor * above for value, above in zip(rows[m], rows[k], strict=True)]
    return [[value / rows[k][k] for value in rows[k][size:]] for k in range(size)]


def _times(one: Matrix, other: Matrix) -> Matrix:
    columns = list(zip(*other, strict=True))
    return [[sum(a * b for a, b in zip(row, column, strict=True)) for column in columns] for row in one]
