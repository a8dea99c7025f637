"""The arena: which of two models people prefer, from blind votes between stored answers to the same prompts.

An arena batch is a batch of mode pair whose items hold answers of two models. The votes are rankings like any other, so pairs are
made of them, too. What is computed here:

- a table of who won against whom, and how often;
- Bradley–Terry scores, in points where 400 mean ten times the odds and all models' mean is 1000. A tie is half a win for each, and
  so is "both bad", as LMArena counts them; their shares are given beside it;
- the same with the length of the answers held equal: the covariate is (a − b) / (a + b) for answers of a and b characters, in units
  of its root mean square, as in LMArena's style control, but not centred, since swapping the sides has to turn its sign.

Intervals are those of clusters of votes on one prompt. A vote is the last opinion of a person on a question. How a reviewer settled
it counts for training and not here: who settles has seen the votes of the others. Answers come from the store, whoever put them
there: a program that samples from a model while people vote only has to add them under the model's name.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, pairwise
from typing import Any

import sqlalchemy as sa

from manners.errors import MannersError
from manners.feedback.bradley_terry import Comparison, Fit, UndefinedError, fit, sigmoid
from manners.feedback.current import is_superseded
from manners.feedback.estimates import Estimate, share_of
from manners.feedback.materials import Material
from manners.feedback.store import Store
from manners.feedback.tables import COMPLETIONS, ITEMS, RANKINGS, SUBMISSIONS
from manners.records import Completion, Prompt, content_hash

POINTS = 400 / math.log(10)
MEAN = 1000.0

Answers = Iterable[tuple[Prompt, Sequence[Completion]]]


@dataclass(frozen=True, slots=True)
class Pairings:
    """Items for an arena batch. `alike` pairs of answers say the same and were left out, `alone` prompts lack an opponent."""

    materials: tuple[Material, ...]
    alike: int
    alone: int


@dataclass(frozen=True, slots=True)
class Vote:
    """One person's choice between the answers of two models: `won` is 1 for the first, 0 for the second, 0.5 for neither."""

    prompt: str
    annotator: str
    models: tuple[str, str]
    lengths: tuple[int, int]
    won: float
    both_bad: bool


@dataclass(frozen=True, slots=True)
class Duel:
    """All votes between two models. `rate` is the share of the first one's wins, with ties and both-bad votes as half a win."""

    first: str
    second: str
    wins: int
    losses: int
    ties: int
    both_bad: int
    rate: Estimate


@dataclass(frozen=True, slots=True)
class Standing:
    """A model's score in points, and its score at equal length."""

    model: str
    votes: int
    mean_length: float
    score: Estimate
    at_equal_length: Estimate


@dataclass(frozen=True, slots=True)
class Arena:
    """What the votes say. `longer` is the chance of an answer that is longer by one unit, between models of equal score."""

    votes: int
    prompts: int
    judges: int
    both_bad: Estimate
    ties: Estimate
    standings: tuple[Standing, ...]
    duels: tuple[Duel, ...]
    longer: Estimate
    sentences: tuple[str, ...]
    left_out: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


# Making a batch


def models_in(store: Store) -> list[tuple[str, int]]:
    """The models whose answers the store holds, with the number of prompts that each of them answered; the busiest first."""
    count = sa.func.count(sa.distinct(COMPLETIONS.c.prompt_id))
    query = sa.select(COMPLETIONS.c.model, count).where(COMPLETIONS.c.model != "").group_by(COMPLETIONS.c.model)
    with store.reading() as connection:
        return [(row[0], row[1]) for row in connection.execute(query.order_by(count.desc(), COMPLETIONS.c.model))]


def answers_in(store: Store, models: Sequence[str]) -> Iterator[tuple[Prompt, list[Completion]]]:
    """Every prompt with those of its answers that are by one of `models`."""
    for prompt in store.prompts():
        answers = [completion for completion in store.completions(prompt.id) if completion.model in models]
        if answers:
            yield prompt, answers


def pair_up(answers: Answers, models: Sequence[str], seed: int = 0, most: int | None = None) -> Pairings:
    """Every two of `models` on every prompt that both answered, each with one answer of theirs, drawn by the seed.

    With `most`, that many of the items, drawn by the seed as well. Which answer stands on which side is drawn when an item is handed
    out. Raises MannersError where there are fewer than two models, or nothing to compare.
    """
    if len(set(models)) < 2:
        raise MannersError("an arena needs answers of two models at least")
    by_prompt: dict[str, tuple[Prompt, dict[str, list[Completion]]]] = {}
    for prompt, given in answers:
        by_model = by_prompt.setdefault(prompt.id, (prompt, defaultdict(list)))[1]
        for completion in given:
            by_model[completion.model].append(completion)
    found, alike, alone = [], 0, 0
    for prompt, by_model in by_prompt.values():
        drawn = {m: min(by_model[m], key=lambda c: content_hash(seed, c.id)) for m in models if by_model.get(m)}
        alone += len(drawn) < 2
        for one, other in combinations(drawn.values(), 2):
            if one.text.strip() == other.text.strip():
                alike += 1
            else:
                found.append(Material(prompt, (one, other)))
    if not found:
        raise MannersError(f"there is no prompt on which two of {', '.join(models)} gave different answers")
    found.sort(key=lambda m: content_hash("arena", seed, *(c.id for c in m.completions)))
    return Pairings(tuple(found[:most]), alike, alone)


# Reading the votes


def read_votes(store: Store, batch_id: str = "") -> tuple[list[Vote], dict[str, int]]:
    """The votes of one batch, or of all, and how many were left out for which reason."""
    query = (
        sa.select(SUBMISSIONS.c.annotator, SUBMISSIONS.c.display_order, RANKINGS.c.prompt_id, RANKINGS.c.tiers, RANKINGS.c.all_bad)
        .join(RANKINGS, RANKINGS.c.id == SUBMISSIONS.c.ranking_id)
        .join(ITEMS, ITEMS.c.id == SUBMISSIONS.c.item_id)
        .where(SUBMISSIONS.c.mode == "pair", ITEMS.c.arm != "gold", ~is_superseded())
        .order_by(SUBMISSIONS.c.sequence)
    )  # fmt: skip
    known = sa.select(COMPLETIONS.c.id, COMPLETIONS.c.model, sa.func.length(COMPLETIONS.c.text))
    if batch_id:
        query = query.where(SUBMISSIONS.c.batch_id == batch_id)
        known = known.where(
            COMPLETIONS.c.prompt_id.in_(sa.select(ITEMS.c.prompt_id).where(ITEMS.c.batch_id == batch_id))
        )
    votes, left_out = [], Counter({"one and the same model": 0, "a model without a name": 0})
    with store.reading() as connection:
        answers = {row[0]: (row[1], row[2]) for row in connection.execute(known)}
        for row in connection.execute(query):
            # By the ids of the answers, so that votes on the same two always stand the same way round.
            one, other = sorted(row.display_order, key=lambda i: (answers[i][0], i))
            models = (answers[one][0], answers[other][0])
            if not all(models):
                left_out["a model without a name"] += 1
            elif models[0] == models[1]:
                left_out["one and the same model"] += 1
            else:
                won = 0.5 if row.all_bad or len(row.tiers) == 1 else float(row.tiers[0][0] == one)
                votes.append(
                    Vote(row.prompt_id, row.annotator, models, (answers[one][1], answers[other][1]), won, row.all_bad)
                )
    return votes, dict(left_out)


def arena(store: Store, batch_id: str = "") -> Arena:
    """What the votes of one batch say, or of all batches together."""
    votes, left_out = read_votes(store, batch_id)
    return arena_of(votes, left_out)


def arena_of(votes: Sequence[Vote], left_out: Mapping[str, int] | None = None) -> Arena:
    """What some votes say."""
    models = sorted({model for vote in votes for model in vote.models})
    plain, why = _fitted(votes, models, False)
    controlled, why_not = _fitted(votes, models, True)
    standings = [_standing(votes, models, m, (plain, why), (controlled, why_not)) for m in models]
    standings.sort(key=lambda s: (-(s.score.value or 0.0), s.model))
    duels = _duels(votes)
    return Arena(
        votes=len(votes),
        prompts=len({vote.prompt for vote in votes}),
        judges=len({vote.annotator for vote in votes}),
        both_bad=_share(votes, lambda vote: vote.both_bad),
        ties=_share(votes, lambda vote: vote.won == 0.5 and not vote.both_bad),
        standings=tuple(standings),
        duels=duels,
        longer=_longer(controlled, why_not, len(votes)),
        sentences=tuple(_sentences(standings, duels, models, (plain, why), (controlled, why_not))),
        left_out=dict(left_out or {}),
    )


Fitted = tuple[Fit | None, str]


def _fitted(votes: Sequence[Vote], models: Sequence[str], by_length: bool) -> Fitted:
    """The scores, or why there are none."""
    differences = [(a - b) / max(1, a + b) for a, b in (vote.lengths for vote in votes)]
    unit = math.sqrt(sum(d * d for d in differences) / len(votes)) if votes else 0.0
    if by_length and votes and not unit:
        return None, "both answers are equally long in every vote"
    place = {model: k for k, model in enumerate(models)}
    comparisons = [
        Comparison(place[v.models[0]], place[v.models[1]], v.won, v.prompt, d / unit if by_length else 0.0)
        for v, d in zip(votes, differences, strict=True)
    ]
    try:
        return fit(comparisons, len(models), by_length), ""
    except UndefinedError as error:
        return None, str(error).replace("the covariate", "the difference in length").replace("covariate", "length")


def _standing(votes: Sequence[Vote], models: Sequence[str], model: str, plain: Fitted, controlled: Fitted) -> Standing:
    lengths = [
        length for vote in votes for name, length in zip(vote.models, vote.lengths, strict=True) if name == model
    ]
    scores = (_points(fitted, models.index(model), len(lengths)) for fitted in (plain, controlled))
    return Standing(model, len(lengths), sum(lengths) / len(lengths), *scores)


def _points(fitted: Fitted, player: int, n: int) -> Estimate:
    found, why = fitted
    if found is None:
        return Estimate(None, n=n, undefined=why)
    value, low, high = (MEAN + POINTS * nats for nats in found.ability(player))
    return Estimate(value, low, high, n)


def _longer(controlled: Fit | None, why_not: str, n: int) -> Estimate:
    if controlled is None:
        return Estimate(None, n=n, undefined=why_not)
    value, low, high = map(sigmoid, controlled.slope())
    return Estimate(value, low, high, n)


def _duels(votes: Sequence[Vote]) -> tuple[Duel, ...]:
    between: dict[tuple[str, str], list[Vote]] = defaultdict(list)
    for vote in votes:
        between[vote.models].append(vote)
    return tuple(
        Duel(
            first, second,
            wins=sum(vote.won == 1 for vote in found),
            losses=sum(vote.won == 0 for vote in found),
            ties=sum(vote.won == 0.5 and not vote.both_bad for vote in found),
            both_bad=sum(vote.both_bad for vote in found),
            rate=_share(found, lambda vote: vote.won),
        )
        for (first, second), found in sorted(between.items())
    )  # fmt: skip


def _share(votes: Sequence[Vote], of: Callable[[Vote], float]) -> Estimate:
    """A share of the votes, with an interval over prompts."""
    prompts: dict[str, list[float]] = defaultdict(list)
    for vote in votes:
        prompts[vote.prompt].append(float(of(vote)))
    return share_of([(sum(values), len(values)) for values in prompts.values()], "there are no votes yet")


def _sentences(
    standings: Sequence[Standing], duels: Sequence[Duel], models: Sequence[str], plain: Fitted, controlled: Fitted
) -> Iterator[str]:
    """Of two models what the votes say; of more of them, what they say of neighbours in the order of their scores."""
    if not standings:
        yield "There are no votes yet."
        return
    if plain[0] is None:
        yield f"No scores can be given: {plain[1]}."
        for duel in duels:
            yield f"{duel.first} won {duel.wins} of {duel.rate.n} votes against {duel.second}, and lost {duel.losses}."
        return
    for better, worse in pairwise(standings):
        one, other = models.index(better.model), models.index(worse.model)
        said = _chance(plain[0], one, other)
        yield (
            f"{better.model} is preferred to {worse.model} in {_percent(said)}, ties and both-bad votes counted half: "
            f"{_verdict(said, better.model, worse.model)}"
        )
        if controlled[0] is None:
            continue
        said = _chance(controlled[0], one, other)
        yield f"At equal length it would be {_percent(said)}: {_verdict(said, better.model, worse.model)}"
    if controlled[0] is None:
        yield f"Nothing can be said about equal length: {controlled[1]}."


def _chance(found: Fit, one: int, other: int) -> tuple[float, float, float]:
    value, low, high = map(sigmoid, found.difference(one, other))
    return value, low, high


def _percent(said: tuple[float, float, float]) -> str:
    value, low, high = (f"{100 * number:.0f}" for number in said)
    return f"{value} % of comparisons (95 % interval {low} to {high} %)"


def _verdict(said: tuple[float, float, float], better: str, worse: str) -> str:
    """Whether chance, a half, lies within the interval."""
    if said[1] > 0.5:
        return f"evidence that {better} is the better one."
    if said[2] < 0.5:
        return f"evidence that {worse} is the better one."
    return "no evidence that either is better, since the interval holds 50 %."
