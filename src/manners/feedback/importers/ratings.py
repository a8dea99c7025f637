"""Numbers per answer, turned into rankings: Open-Assistant's ranks, and ratings by one or several criteria.

Among ranks the smallest number is the best tier, among ratings the highest; equal numbers are ties. Where an answer is
rated by several criteria their mean decides, or the one criterion that the options name. Numbers are compared to nine
decimals, so that a mean of 1/3 and 2/3 ties with 1/2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from manners.feedback.importers.rows import (
    BadRowError,
    ImportOptions,
    Layout,
    Reject,
    Row,
    list_of,
    need,
    number_of,
    row_by_row,
    text_of,
    texts_of,
)  # fmt: skip
from manners.feedback.importers.turns import judgement_of, own_text, prompt_of
from manners.records import Judgement, Prompt

_DECIMALS = 9


def tiers_of(ranks: Sequence[float]) -> list[list[int]]:
    """Places from 0, put into tiers by rank, the smallest first: [2.0, 1.0, 2.0] gives [[1], [0, 2]]."""
    places = sorted(range(len(ranks)), key=ranks.__getitem__)
    return [list(tier) for _, tier in groupby(places, key=ranks.__getitem__)]


# One row per prompt


def _fits(numbers: str) -> Callable[[Mapping[str, Any], ImportOptions], bool]:
    return lambda row, _: {"completions", numbers} <= row.keys() and not {"messages", "prompt"}.isdisjoint(row)


def _ranks(row: Mapping[str, Any], options: ImportOptions) -> Judgement:
    need(row, "completions", "ranks")
    ranks = [round(number_of(rank, "a rank"), _DECIMALS) for rank in list_of(row["ranks"], "ranks")]
    return _whole(row, ranks, options)


def _ratings(row: Mapping[str, Any], options: ImportOptions) -> Judgement:
    need(row, "completions", "scores")
    return _whole(row, [-_score(score, options.criterion) for score in list_of(row["scores"], "scores")], options)


def _whole(row: Mapping[str, Any], ranks: Sequence[float], options: ImportOptions) -> Judgement:
    prompt = "messages" if "messages" in row else "prompt"
    need(row, prompt)
    texts = texts_of(row["completions"])
    if len(ranks) != len(texts):
        raise BadRowError(f"there are {len(texts)} completions and {len(ranks)} numbers for them")
    if len(texts) < 2:
        raise BadRowError("a ranking needs two completions at least")
    models = list_of(row.get("systems") or [""] * len(texts), "systems")
    if len(models) != len(texts) or not all(isinstance(model, str) for model in models):
        raise BadRowError("systems must name the model of each completion")
    return judgement_of(prompt_of(row[prompt], row, options), texts, tiers_of(ranks), row, options, models)


def _score(value: Any, criterion: str) -> float:
    """One number for one answer: the named criterion, else the mean of all criteria."""
    if not isinstance(value, Mapping):
        if criterion:
            raise BadRowError(f"the scores are plain numbers, there is no criterion {criterion!r}")
        return round(number_of(value, "a score"), _DECIMALS)
    if criterion and criterion not in value:
        raise BadRowError(f"there is no criterion {criterion!r}; there are {', '.join(map(str, value))}")
    numbers = [number_of(number, str(name)) for name, number in value.items() if not criterion or name == criterion]
    if not numbers:
        raise BadRowError("a completion has no score")
    return round(sum(numbers) / len(numbers), _DECIMALS)


# One row per answer


@dataclass
class _Group:
    """The answers that one judge rated for one prompt, gathered from all over the file."""

    prompt: Prompt
    rows: list[Row] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    ranks: list[float] = field(default_factory=list)
    models: list[str] = field(default_factory=list)


def _rows_fit(row: Mapping[str, Any], options: ImportOptions) -> bool:
    return {"prompt", "completion", options.criterion or "rating"} <= row.keys()


def _grouped(rows: Iterable[Row], options: ImportOptions) -> Iterator[Judgement | Reject]:
    groups: dict[tuple[str, str], _Group] = {}
    for row in rows:
        try:
            _gather(groups, row, options)
        except ValueError as error:
            yield Reject(row.line, str(error), row.raw)
    for group in groups.values():
        if len(group.texts) < 2:
            alone = group.rows[0]
            yield Reject(alone.line, "no other answer to this prompt was rated; a ranking needs two", alone.raw)
            continue
        tiers = tiers_of(group.ranks)
        yield judgement_of(group.prompt, group.texts, tiers, group.rows[0].value, options, group.models)


def _gather(groups: dict[tuple[str, str], _Group], row: Row, options: ImportOptions) -> None:
    column = options.criterion or "rating"
    need(row.value, "prompt", "completion", column)
    text = text_of(row.value["completion"], "the completion")
    rating = round(number_of(row.value[column], column), _DECIMALS)
    model, judge = own_text(row.value, "model"), own_text(row.value, "judge")
    prompt = prompt_of(row.value["prompt"], row.value, options)
    group = groups.setdefault((prompt.id, judge), _Group(prompt))
    if text in group.texts:
        raise BadRowError("this answer was rated before in the file; a column 'judge' tells several judges apart")
    group.rows.append(row)
    group.texts.append(text)
    group.ranks.append(-rating)
    group.models.append(model)


OASST = Layout("oasst", "messages, completions, ranks (Open-Assistant)", _fits("ranks"), row_by_row(_ranks))
RATINGS = Layout(
    "ratings", "prompt or messages, completions, scores (a row per prompt)", _fits("scores"), row_by_row(_ratings)
)
RATED_ANSWERS = Layout("rated-answers", "prompt, completion, rating (a row per answer)", _rows_fit, _grouped)
