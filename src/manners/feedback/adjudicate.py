"""Questions that judges disagree on, and how a reviewer settles them.

Two judges of the same answers disagree from 0 to 1: for every pair of answers that both ranked it counts 1 that they order it in
opposite ways and one half that only one of them sees a tie, and the mean of that is taken; where one of them finds no answer
acceptable and the other does not, it is 1. The disagreement on a question is the mean over all pairs of its judges; with two
answers and no ties it is the share of pairs of judges who disagree.

Settling adds a ranking of the reviewer, with the judge `settled:` and the reviewer's pseudonym, since somebody who has seen what
the others said is not the judge that they are when they judge blindly. `current` says what counts afterwards.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import sqlalchemy as sa

from manners.errors import MannersError
from manners.feedback.clock import Clock, iso, now
from manners.feedback.current import is_superseded
from manners.feedback.remarks import NOTE, keep_remark
from manners.feedback.store import Store
from manners.feedback.submissions import Answer, ChangedElsewhereError, check_places, ranked
from manners.feedback.tables import ITEMS, RANKINGS, REMARKS, SETTLEMENTS, SUBMISSIONS
from manners.records import Completion, Judgement, Prompt, Ranking, content_hash

Tiers = tuple[tuple[str, ...], ...]
_SEVERAL = 500


@dataclass(frozen=True, slots=True)
class Given:
    """What one judge says: the latest of their rankings of a question. `late` where it came after the last decision."""

    ranking_id: str
    annotator: str
    tiers: Tiers
    all_bad: bool
    note: str
    flags: Mapping[str, Sequence[str]]
    order: Sequence[str]
    created_at: str
    late: bool


@dataclass(frozen=True, slots=True)
class Settlement:
    """The latest decision on a question. Without a ranking it says that the question is open again."""

    id: str
    reviewer: str
    ranking_id: str | None
    tiers: Tiers
    all_bad: bool
    reason: str
    seen: tuple[str, ...]
    created_at: str


@dataclass(frozen=True, slots=True)
class Dispute:
    """An item with what its judges say. `disagreement` is None with fewer than two of them, or where they share no pair."""

    item_id: str
    batch_id: str
    question: str
    prompt_id: str
    answers: tuple[str, ...]
    given: tuple[Given, ...]
    disagreement: float | None
    settlement: Settlement | None

    @property
    def settled(self) -> bool:
        return self.settlement is not None and self.settlement.ranking_id is not None

    @property
    def some_all_bad(self) -> bool:
        """Whether some judges, and not all, found no answer acceptable."""
        return len({given.all_bad for given in self.given}) == 2

    @property
    def late(self) -> int:
        return sum(given.late for given in self.given)

    @property
    def seen(self) -> str:
        """Changes with everything that a reviewer should see before deciding."""
        return content_hash(
            "seen", sorted(g.ranking_id for g in self.given), self.settlement.id if self.settlement else ""
        )


@dataclass(frozen=True, slots=True)
class Screen:
    """The answers in the order in which one reviewer sees them, drawn from a seed that is kept."""

    prompt: Prompt
    completions: tuple[Completion, ...]
    seed: int


def disagreement(one: Given, other: Given) -> float | None:
    """How much two judges disagree, 0 to 1; None where no pair of answers was ranked by both."""
    if one.all_bad or other.all_bad:
        return float(one.all_bad != other.all_bad)
    first, second = _ranks(one.tiers), _ranks(other.tiers)
    pairs = list(combinations([i for i in first if i in second], 2))
    if not pairs:
        return None
    apart = [abs(_sign(first[a] - first[b]) - _sign(second[a] - second[b])) / 2 for a, b in pairs]
    return sum(apart) / len(apart)


def disputes(store: Store, batch_id: str) -> list[Dispute]:
    """The items of a batch that somebody judged, the greatest disagreement first and settled ones last; gold and edits left out."""
    found = _find(store, ITEMS.c.batch_id == batch_id)
    return sorted(found, key=lambda d: (d.settled, -(d.disagreement if d.disagreement is not None else -1.0)))


def dispute(store: Store, batch_id: str, item_id: str) -> Dispute:
    """One of them. Raises MannersError where there is no such item, or nobody judged it."""
    found = _find(store, (ITEMS.c.batch_id == batch_id) & (ITEMS.c.id == item_id))
    if not found:
        raise MannersError("nobody has judged such an item in this batch")
    return found[0]


def screen_of(store: Store, found: Dispute, reviewer: str) -> Screen:
    """What the reviewer is shown."""
    seed = int(content_hash("settle", found.item_id, reviewer), 16) >> 1
    order = sorted(found.answers)
    random.Random(seed).shuffle(order)
    known = {completion.id: completion for completion in store.completions(found.prompt_id)}
    return Screen(store.prompt(found.prompt_id), tuple(known[i] for i in order), seed)


def settle(store: Store, found: Dispute, answer: Answer, reviewer: str, seen: str, clock: Clock = now) -> Settlement:
    """Let the reviewer's ranking stand in the place of the others; `answer` goes by the places on their screen.

    The same client key again changes nothing. Raises MannersError where the ranking or its reason (`answer.note`) is missing, and
    ChangedElsewhereError where `seen` is not what the question looks like now.
    """
    screen = screen_of(store, found, reviewer)
    check_places(answer, len(screen.completions))
    ids = [completion.id for completion in screen.completions]
    tiers = tuple(tuple(ids[place] for place in sorted(tier)) for tier in ranked(answer))
    ranking = Ranking(found.prompt_id, tiers, judge=f"settled:{reviewer}", shown=tuple(ids), all_bad=answer.all_bad or not tiers,
                      seconds=round(answer.active_ms / 1000, 1) or None)  # fmt: skip
    return _decide(
        store, found, screen, Judgement(screen.prompt, screen.completions, ranking), answer, reviewer, seen, clock
    )


def reopen(store: Store, found: Dispute, answer: Answer, reviewer: str, seen: str, clock: Clock = now) -> Settlement:
    """Let the rankings of the judges count again; of `answer` only the key and the reason are looked at."""
    if not found.settled:
        raise MannersError("this question is not settled")
    return _decide(store, found, screen_of(store, found, reviewer), None, answer, reviewer, seen, clock)


def _decide(
    store: Store, found: Dispute, screen: Screen, judgement: Judgement | None, answer: Answer, reviewer: str, seen: str, clock: Clock
) -> Settlement:  # fmt: skip
    if not answer.note.strip():
        raise MannersError("say why: the reason is what others learn from")
    decision, moment = content_hash("settlement", reviewer, answer.client_key), iso(clock())
    with store.transaction() as connection:
        known = _settlements(connection, SETTLEMENTS.c.id == decision)
        if known:
            return known[found.question]
        present = dispute(store, found.batch_id, found.item_id)
        if present.seen != seen:
            raise ChangedElsewhereError("somebody judged or settled this in the meantime; look again, then decide")
        if judgement is not None:
            store.add_ranking(judgement)
        connection.execute(
            SETTLEMENTS.insert().values(
                id=decision, ranking_id=judgement.ranking.id if judgement else None, item_id=found.item_id, batch_id=found.batch_id,
                question=found.question, reviewer=reviewer, seen=[g.ranking_id for g in present.given], seed=screen.seed,
                display_order=[c.id for c in screen.completions], client_key=answer.client_key,
                commitment=keep_remark(connection, decision, reviewer, answer.note, moment), created_at=moment,
            )
        )  # fmt: skip
        return _settlements(connection, SETTLEMENTS.c.id == decision)[found.question]


def _find(store: Store, wanted: sa.ColumnElement[bool]) -> list[Dispute]:
    judged = sa.select(SUBMISSIONS.c.item_id, SUBMISSIONS.c.question).distinct()
    judged_items = judged.where(SUBMISSIONS.c.ranking_id.is_not(None), SUBMISSIONS.c.mode != "edit").subquery()
    query = (
        sa.select(ITEMS, judged_items.c.question)
        .join(judged_items, judged_items.c.item_id == ITEMS.c.id)
        .where(wanted, ITEMS.c.arm != "gold")
        .order_by(ITEMS.c.place)
    )
    settled: dict[str, Settlement] = {}
    given: dict[str, list[Given]] = {}
    with store.reading() as connection:
        items = connection.execute(query).mappings().all()
        questions = sorted({item["question"] for item in items})
        for start in range(0, len(questions), _SEVERAL):
            some = questions[start : start + _SEVERAL]
            settled |= _settlements(connection, SETTLEMENTS.c.question.in_(some))
            for question, judged_so in _given(connection, some, settled):
                given.setdefault(question, []).append(judged_so)
    return [_dispute(item, given.get(item["question"], []), settled.get(item["question"])) for item in items]


def _dispute(item: sa.RowMapping, given: Sequence[Given], settled: Settlement | None) -> Dispute:
    apart = [d for one, other in combinations(given, 2) if (d := disagreement(one, other)) is not None]
    return Dispute(item["id"], item["batch_id"], item["question"], item["prompt_id"], tuple(item["completions"]), tuple(given),
                   sum(apart) / len(apart) if apart else None, settled)  # fmt: skip


def _given(
    connection: sa.Connection, questions: Sequence[str], settled: Mapping[str, Settlement]
) -> Iterator[tuple[str, Given]]:
    """What every judge said last to each of the questions, in whichever batch."""
    query = (
        sa.select(SUBMISSIONS, RANKINGS.c.tiers, RANKINGS.c.all_bad, NOTE)
        .join(RANKINGS, RANKINGS.c.id == SUBMISSIONS.c.ranking_id)
        .join(REMARKS, REMARKS.c.id == SUBMISSIONS.c.id, isouter=True)
        .where(SUBMISSIONS.c.question.in_(questions), ~is_superseded())
        .order_by(SUBMISSIONS.c.sequence)
    )
    for row in connection.execute(query).mappings():
        decided = settled.get(row["question"])
        late = decided is not None and row["ranking_id"] not in decided.seen
        yield row["question"], Given(row["ranking_id"], row["annotator"], _tiers(row["tiers"]), row["all_bad"], row["note"],
                                     row["flags"], row["display_order"], row["created_at"], late)  # fmt: skip


def _settlements(connection: sa.Connection, wanted: sa.ColumnElement[bool]) -> dict[str, Settlement]:
    """The latest of the wanted settlements of each question."""
    query = (
        sa.select(SETTLEMENTS, RANKINGS.c.tiers, RANKINGS.c.all_bad, NOTE)
        .join(RANKINGS, RANKINGS.c.id == SETTLEMENTS.c.ranking_id, isouter=True)
        .join(REMARKS, REMARKS.c.id == SETTLEMENTS.c.id, isouter=True)
        .where(wanted)
        .order_by(SETTLEMENTS.c.sequence)
    )
    return {
        row["question"]: Settlement(row["id"], row["reviewer"], row["ranking_id"], _tiers(row["tiers"] or ()), bool(row["all_bad"]),
                                    row["note"], tuple(row["seen"]), row["created_at"])
        for row in connection.execute(query).mappings()
    }  # fmt: skip


def _tiers(value: Sequence[Sequence[str]]) -> Tiers:
    return tuple(tuple(tier) for tier in value)


def _ranks(tiers: Tiers) -> dict[str, int]:
    return {i: rank for rank, tier in enumerate(tiers) for i in tier}


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)
