"""Judgements gathered by what they judge: one prompt with its answers, and what each judge said of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from manners.records import Completion, Judgement, Prompt, Source, content_hash


@dataclass(frozen=True, slots=True)
class Opinion:
    """What one judge said: tiers of places among the answers, best first. `seconds` is 0 where nobody took the time."""

    judge: str
    source: Source
    tiers: tuple[tuple[int, ...], ...]
    all_bad: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Judged:
    """One prompt with the answers that were judged together. `id` is a hash of both."""

    id: str
    prompt: Prompt
    completions: tuple[Completion, ...]
    opinions: list[Opinion]


def gathered(judgements: Iterable[Judgement]) -> list[Judged]:
    """Every prompt with its answers once, in the order of its first judgement. Answers stand in the order of that judgement."""
    found: dict[str, Judged] = {}
    for judgement in judgements:
        ids = sorted(c.id for c in judgement.completions)
        key = content_hash("judged", judgement.prompt.id, ids)
        item = found.setdefault(key, Judged(key, judgement.prompt, judgement.completions, []))
        place = {completion.id: number for number, completion in enumerate(item.completions)}
        ranking = judgement.ranking
        tiers = tuple(tuple(sorted(place[c] for c in tier)) for tier in ranking.tiers)
        item.opinions.append(Opinion(ranking.judge, ranking.source, tiers, ranking.all_bad, ranking.seconds or 0.0))
    return list(found.values())
