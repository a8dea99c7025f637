"""What everybody said, question by question: what agreement and bias are measured on.

A question is a prompt with the answers that were to be compared, whichever batch asked. Of several answers of one person to one
question the last one is the person's opinion; the earlier ones serve to see how constant the person is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import sqlalchemy as sa

from manners.feedback.current import is_superseded
from manners.feedback.store import Store
from manners.feedback.tables import COMPLETIONS, ITEMS, RANKINGS, SETTLEMENTS, SUBMISSIONS
from manners.records import content_hash

Tiers = Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Opinion:
    """One answer of one annotator to one question.

    `tiers` and `ratings` are as in a ranking and a submission. `compares` is False where nothing was compared: everything was bad,
    or an answer was written anew. `occasion` tells answers given on different occasions from changes of mind on the same one.
    `seconds` is the time at work, None where unknown. `gold` is the known order of the answers, where the item has one.
    """

    question: str
    annotator: str
    occasion: str
    tiers: Tiers
    shown: Sequence[str]
    all_bad: bool
    compares: bool
    ratings: Mapping[str, Mapping[str, int]]
    seconds: float | None
    gold: Tiers | None

    def ranks(self) -> dict[str, int]:
        """The place of each ranked answer, 0 for the best; tied ones share theirs."""
        return {answer: place for place, tier in enumerate(self.tiers) for answer in tier}

    def choices(self) -> Iterator[tuple[str, str, int]]:
        """Every two ranked answers in the order of their ids, with 0 where the first is better, 1 for a tie, 2 for the second."""
        if self.compares:
            ranks = self.ranks()
            for one, other in combinations(sorted(ranks), 2):
                yield one, other, 1 + (ranks[one] > ranks[other]) - (ranks[one] < ranks[other])


@dataclass(frozen=True, slots=True)
class Opinions:
    """All opinions in the order in which they were given, and how long (in characters) the answers are that they speak of."""

    all: Sequence[Opinion]
    lengths: Mapping[str, int]

    def latest(self) -> list[Opinion]:
        """One opinion for each annotator and question: the last."""
        return list({(o.annotator, o.question): o for o in self.all}.values())

    def occasions(self) -> list[Opinion]:
        """One opinion for each time that somebody was asked: the last."""
        return list({(o.annotator, o.occasion): o for o in self.all}.values())


def by_question(opinions: Iterable[Opinion]) -> dict[str, list[Opinion]]:
    """The opinions on each question."""
    found: dict[str, list[Opinion]] = defaultdict(list)
    for opinion in opinions:
        found[opinion.question].append(opinion)
    return dict(found)


def read_opinions(store: Store, batch_id: str = "") -> Opinions:
    """What people said in one batch, or of everything: then also current rankings of named people that were imported."""
    with store.reading() as connection:
        golds = {
            row.id: row.gold for row in connection.execute(sa.select(ITEMS.c.id, ITEMS.c.gold)) if row.gold is not None
        }
        found = [_submitted(row, golds) for row in connection.execute(_submissions(batch_id)).mappings()]
        if not batch_id:
            found += [_imported(row) for row in connection.execute(_named_rankings()).mappings()]
        return Opinions(found, {row.id: row.length for row in connection.execute(_lengths(batch_id))})


def _submissions(batch_id: str) -> sa.Select[Any]:
    said = (RANKINGS.c.tiers, RANKINGS.c.all_bad)
    query = sa.select(SUBMISSIONS, *said).join(RANKINGS, RANKINGS.c.id == SUBMISSIONS.c.ranking_id)
    query = query.order_by(SUBMISSIONS.c.sequence)
    return query.where(SUBMISSIONS.c.batch_id == batch_id) if batch_id else query


def _named_rankings() -> sa.Select[Any]:
    """People's rankings that came from elsewhere, the superseded ones left out.

    Who settles a question knows what the others said, so a settlement is no opinion of its own.
    """
    elsewhere = [
        ~sa.select(table.c.id).where(table.c.ranking_id == RANKINGS.c.id).exists()
        for table in (SUBMISSIONS, SETTLEMENTS)
    ]
    named = (RANKINGS.c.source == "human") & (RANKINGS.c.judge != "")
    return sa.select(RANKINGS).where(named, ~is_superseded(), *elsewhere).order_by(RANKINGS.c.sequence)


def _lengths(batch_id: str) -> sa.Select[Any]:
    query = sa.select(COMPLETIONS.c.id, sa.func.length(COMPLETIONS.c.text).label("length"))
    if not batch_id:
        return query
    return query.where(COMPLETIONS.c.prompt_id.in_(sa.select(ITEMS.c.prompt_id).where(ITEMS.c.batch_id == batch_id)))


def _submitted(row: sa.RowMapping, golds: Mapping[str, Tiers]) -> Opinion:
    # What was written anew never stood on the screen beside the others, and is compared with its origin alone.
    edited = row["mode"] == "edit"
    return Opinion(
        question=row["question"],
        annotator=row["annotator"],
        occasion=row["assignment_id"],
        tiers=row["tiers"],
        shown=() if edited else row["display_order"],
        all_bad=row["all_bad"],
        compares=not edited and not row["all_bad"],
        ratings=row["ratings"],
        seconds=row["active_ms"] / 1000 or None,
        gold=golds.get(row["item_id"]),
    )


def _imported(row: sa.RowMapping) -> Opinion:
    return Opinion(
        question=content_hash("question", row["prompt_id"], sorted(row["completions"]), "compare"),
        annotator=row["judge"],
        occasion=row["id"],
        tiers=row["tiers"],
        # The test of places rests on an order that was drawn at random for every person: who knows that of other programs?
        shown=(),
        all_bad=row["all_bad"],
        compares=not row["all_bad"],
        ratings={},
        seconds=row["seconds"],
        gold=None,
    )
