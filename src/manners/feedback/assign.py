"""Batches of items, and who is given which item next.

An item (a prompt with its answers) wants `overlap` judgements. Whoever asks for work gets a lease on an item that others have
judged least; when the lease runs out the place is free again, and a late answer is still taken. Some items come with a known
answer (gold) and some come back a second time: they measure the judge. Answers stand in an order of its own for every person and
item, drawn from a seed that is kept.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from manners.errors import MannersError
from manners.feedback.batch import Batch, BatchSettings, Progress, batch_from, batch_of, fitting, item_rows
from manners.feedback.clock import Clock, iso, now
from manners.feedback.guidelines import add_guideline
from manners.feedback.materials import Material
from manners.feedback.store import Store
from manners.feedback.tables import ASSIGNMENTS, BATCHES, DRAFTS, ITEMS, PROMPTS
from manners.records import Completion, Message, Prompt, content_hash

State = Literal["open", "expired", "done", "skipped"]

_GOLD = ITEMS.c.arm == "gold"
# A repeated item comes back after this many others, when its first answer is no longer in mind.
_REPEAT_AFTER = 10


@dataclass(frozen=True, slots=True)
class Task:
    """An item in the hands of one person: the answers in the order of the screen."""

    id: str
    batch: Batch
    item_id: str
    user_id: str
    round: int
    state: State
    prompt: Prompt
    completions: tuple[Completion, ...]
    seed: int
    leased_until: str
    created_at: str


# Asked for with every page and every answer, so it is written once: the task, its prompt and its batch in one row.
_TASK = (
    sa.select(
        ASSIGNMENTS,
        PROMPTS.c.messages,
        PROMPTS.c.category,
        PROMPTS.c.split,
        ITEMS.c.prompt_id,
        *(
            BATCHES.c[key].label(f"batch_{key}")
            for key in (*BatchSettings.model_fields, "guideline_id", "open", "created_at")
        ),
    )
    .join(ITEMS, ITEMS.c.id == ASSIGNMENTS.c.item_id)
    .join(PROMPTS, PROMPTS.c.id == ITEMS.c.prompt_id)
    .join(BATCHES, BATCHES.c.id == ASSIGNMENTS.c.batch_id)
    .where(ASSIGNMENTS.c.id == sa.bindparam("task"), ASSIGNMENTS.c.user_id == sa.bindparam("user"))
)


class Desk:
    """Hands out work. Every method is one short transaction."""

    def __init__(self, store: Store, clock: Clock = now) -> None:
        self.store, self._clock = store, clock

    # Batches

    def create(self, settings: BatchSettings, guideline: str, materials: Iterable[Material]) -> Batch:
        """Make a batch of `materials`, each kind of item once. Raises MannersError where one does not fit the mode."""
        kept = fitting(settings.mode, materials)
        batch_id, moment = secrets.token_hex(8), iso(self._clock())
        with self.store.transaction() as connection:
            version = add_guideline(self.store, guideline)
            self.store.add_completions((m.prompt, m.completions) for m in kept)
            connection.execute(
                BATCHES.insert().values(
                    id=batch_id, **settings.model_dump(), guideline_id=version.id, open=True, created_at=moment
                )
            )
            connection.execute(ITEMS.insert(), item_rows(batch_id, settings, kept, moment))
        return Batch(batch_id, settings, version.id, True, moment)

    def batches(self, only_open: bool = False) -> list[Batch]:
        """All batches, the newest first."""
        query = sa.select(BATCHES).order_by(BATCHES.c.sequence.desc())
        with self.store.reading() as connection:
            rows = connection.execute(query.where(BATCHES.c.open) if only_open else query).mappings().all()
        return [batch_from(row) for row in rows]

    def batch(self, batch_id: str) -> Batch:
        """Raises MannersError where there is none."""
        with self.store.reading() as connection:
            return batch_of(connection, batch_id)

    def set_open(self, batch_id: str, is_open: bool) -> None:
        """Close a batch, or open it again. A closed one hands out nothing, and still takes what was handed out."""
        with self.store.transaction() as connection:
            batch_of(connection, batch_id)
            connection.execute(BATCHES.update().where(BATCHES.c.id == batch_id).values(open=is_open))

    def set_guideline(self, batch_id: str, text: str) -> None:
        """From now on the batch goes by another wording; what was judged before keeps the version it was judged under."""
        with self.store.transaction() as connection:
            batch_of(connection, batch_id)
            version = add_guideline(self.store, text)
            connection.execute(BATCHES.update().where(BATCHES.c.id == batch_id).values(guideline_id=version.id))

    def progress(self, batch_id: str) -> Progress:
        plain = ~_GOLD
        overlap = self.batch(batch_id).settings.overlap
        counted = sa.case((ITEMS.c.judged > overlap, overlap), else_=ITEMS.c.judged)
        query = sa.select(
            sa.func.count(),
            sa.func.count().filter(plain),
            sa.func.coalesce(sa.func.sum(counted).filter(plain), 0),
        ).where(ITEMS.c.batch_id == batch_id)
        skipped = sa.select(sa.func.count()).where(ASSIGNMENTS.c.batch_id == batch_id, ASSIGNMENTS.c.state == "skipped")
        with self.store.reading() as connection:
            items, judged_ones, judged = connection.execute(query).one()
            return Progress(items, items - judged_ones, judged_ones * overlap, judged, connection.scalar(skipped) or 0)

    # Work

    def next(self, user_id: str, batch_id: str) -> str | None:
        """The id of the task that person should do next in a batch; None when nothing is left for them."""
        with self.store.transaction() as connection:
            batch = batch_of(connection, batch_id)
            self._sweep(connection)
            if not batch.open:
                return None
            return self._at_hand(connection, user_id, batch) or self._chosen(connection, user_id, batch)

    def task(self, task_id: str, user_id: str) -> Task:
        """A piece of work of that person, be it open or done. Raises MannersError for somebody else's."""
        with self.store.reading() as connection:
            row = connection.execute(_TASK, {"task": task_id, "user": user_id}).mappings().one_or_none()
            if row is None:
                raise MannersError("there is no such task for you")
            answers = {c.id: c for c in self.store.completions(row["prompt_id"])}
        messages = tuple(Message(m["role"], m["content"]) for m in row["messages"])
        prompt = Prompt(messages, row["category"], row["split"])
        shown = tuple(answers[completion_id] for completion_id in row["display_order"])
        return Task(row["id"], batch_from(row, "batch_"), row["item_id"], user_id, row["round"], row["state"], prompt, shown,
                    row["seed"], row["leased_until"], row["created_at"])  # fmt: skip

    def done(self, user_id: str, batch_id: str) -> int:
        """How many items of a batch that person has dealt with."""
        with self.store.reading() as connection:
            return _dealt_with(connection, user_id, batch_id)

    def _sweep(self, connection: sa.Connection) -> None:
        """Take back the leases that ran out."""
        over = sa.select(ASSIGNMENTS.c.id, ASSIGNMENTS.c.item_id, ASSIGNMENTS.c.round).where(
            ASSIGNMENTS.c.state == "open", ASSIGNMENTS.c.leased_until <= iso(self._clock())
        )
        for row in connection.execute(over).all():
            connection.execute(ASSIGNMENTS.update().where(ASSIGNMENTS.c.id == row.id).values(state="expired"))
            if row.round == 0:
                connection.execute(ITEMS.update().where(ITEMS.c.id == row.item_id).values(taken=ITEMS.c.taken - 1))

    def _at_hand(self, connection: sa.Connection, user_id: str, batch: Batch) -> str | None:
        """What the person has begun: still leased, or run out while nobody else took the place."""
        free = (ITEMS.c.taken < batch.settings.overlap) | _GOLD | (ASSIGNMENTS.c.round > 0)
        begun = (ASSIGNMENTS.c.state == "open") | ((ASSIGNMENTS.c.state == "expired") & free)
        mine = (
            sa.select(ASSIGNMENTS.c.id, ASSIGNMENTS.c.item_id, ASSIGNMENTS.c.round, ASSIGNMENTS.c.state)
            .join(ITEMS, ITEMS.c.id == ASSIGNMENTS.c.item_id)
            .where(ASSIGNMENTS.c.user_id == user_id, ASSIGNMENTS.c.batch_id == batch.id, begun)
            .order_by(sa.case((ASSIGNMENTS.c.state == "open", 0), else_=1), ASSIGNMENTS.c.sequence)
        )
        row = connection.execute(mine.limit(1)).one_or_none()
        if row is None:
            return None
        values = {"state": "open", "leased_until": self._lease(batch)}
        connection.execute(ASSIGNMENTS.update().where(ASSIGNMENTS.c.id == row.id).values(**values))
        if row.state == "expired" and row.round == 0:
            connection.execute(ITEMS.update().where(ITEMS.c.id == row.item_id).values(taken=ITEMS.c.taken + 1))
        return str(row.id)

    def _chosen(self, connection: sa.Connection, user_id: str, batch: Batch) -> str | None:
        """A new assignment: gold or a repetition now and then, else the item that was judged least."""
        dealt_with = _dealt_with(connection, user_id, batch.id)
        settings = batch.settings
        drawn = int(content_hash("measure", settings.seed, batch.id, user_id, dealt_with), 16) / 16**16
        unseen = _unseen(user_id, batch.id)
        item, number = None, 0
        if drawn < settings.gold_share:
            item = connection.execute(unseen.where(_GOLD).limit(1)).one_or_none()
        elif drawn < settings.gold_share + settings.repeat_share:
            item, number = connection.execute(_old(user_id, batch.id)).one_or_none(), 1
        if item is None:
            wanting = unseen.where(~_GOLD, ITEMS.c.taken < settings.overlap)
            item, number = connection.execute(wanting.limit(1)).one_or_none(), 0
        return self._assign(connection, user_id, batch, item, number) if item else None

    def _assign(self, connection: sa.Connection, user_id: str, batch: Batch, item: sa.Row[Any], number: int) -> str:
        seed = int(content_hash("view", batch.settings.seed, item.id, user_id, number), 16) >> 1
        order = list(item.completions)
        random.Random(seed).shuffle(order)
        task_id = content_hash("assignment", item.id, user_id, number)
        connection.execute(
            ASSIGNMENTS.insert().values(
                id=task_id, item_id=item.id, batch_id=batch.id, user_id=user_id, round=number, seed=seed, display_order=order,
                state="open", leased_until=self._lease(batch), created_at=iso(self._clock()),
            )
        )  # fmt: skip
        if number == 0:
            connection.execute(ITEMS.update().where(ITEMS.c.id == item.id).values(taken=ITEMS.c.taken + 1))
        return task_id

    def _lease(self, batch: Batch) -> str:
        return iso(self._clock() + 60 * batch.settings.lease_minutes)

    # Drafts

    def save_draft(self, task_id: str, user_id: str, content: Mapping[str, Any]) -> None:
        """Keep what was filled in so far, and the lease with it. A task that is done keeps no drafts.

        Raises MannersError for somebody else's task.
        """
        mine = (ASSIGNMENTS.c.id == task_id) & (ASSIGNMENTS.c.user_id == user_id)
        minutes = sa.select(ASSIGNMENTS.c.state, BATCHES.c.lease_minutes).join(
            BATCHES, BATCHES.c.id == ASSIGNMENTS.c.batch_id
        )
        with self.store.transaction() as connection:
            row = connection.execute(minutes.where(mine)).one_or_none()
            if row is None:
                raise MannersError("there is no such task for you")
            if row.state in ("done", "skipped"):
                return
            connection.execute(DRAFTS.delete().where(DRAFTS.c.assignment_id == task_id))
            values = {"assignment_id": task_id, "content": dict(content), "saved_at": iso(self._clock())}
            connection.execute(DRAFTS.insert().values(values))
            if row.state == "open":
                lease = iso(self._clock() + 60 * row.lease_minutes)
                connection.execute(ASSIGNMENTS.update().where(mine).values(leased_until=lease))

    def draft(self, task_id: str) -> Mapping[str, Any]:
        """What was filled in so far; empty where nothing was."""
        with self.store.reading() as connection:
            return connection.scalar(sa.select(DRAFTS.c.content).where(DRAFTS.c.assignment_id == task_id)) or {}


def _unseen(user_id: str, batch_id: str) -> sa.Select[Any]:
    """Items of a batch that a person was never given, the least judged first."""
    given = sa.select(ASSIGNMENTS.c.id).where(ASSIGNMENTS.c.item_id == ITEMS.c.id, ASSIGNMENTS.c.user_id == user_id)
    return (
        sa.select(ITEMS.c.id, ITEMS.c.completions)
        .where(ITEMS.c.batch_id == batch_id, ~given.exists())
        .order_by(ITEMS.c.taken, ITEMS.c.place)
    )


def _old(user_id: str, batch_id: str) -> sa.Select[Any]:
    """The item that a person judged longest ago and has not seen since."""
    mine = (ASSIGNMENTS.c.user_id == user_id) & (ASSIGNMENTS.c.batch_id == batch_id) & (ASSIGNMENTS.c.state == "done")
    again = ASSIGNMENTS.alias("again")
    repeated = sa.select(again.c.id).where(
        again.c.item_id == ASSIGNMENTS.c.item_id, again.c.user_id == user_id, again.c.round > 0
    )
    recent = sa.select(ASSIGNMENTS.c.sequence).where(mine).order_by(ASSIGNMENTS.c.sequence.desc()).limit(_REPEAT_AFTER)
    return (
        sa.select(ITEMS.c.id, ITEMS.c.completions)
        .join(ASSIGNMENTS, ASSIGNMENTS.c.item_id == ITEMS.c.id)
        .where(mine, ASSIGNMENTS.c.round == 0, ~repeated.exists(), ASSIGNMENTS.c.sequence.not_in(recent))
        .order_by(ASSIGNMENTS.c.sequence)
        .limit(1)
    )


def _dealt_with(connection: sa.Connection, user_id: str, batch_id: str) -> int:
    query = sa.select(sa.func.count()).where(
        ASSIGNMENTS.c.user_id == user_id,
        ASSIGNMENTS.c.batch_id == batch_id,
        ASSIGNMENTS.c.state.in_(("done", "skipped")),
    )
    return connection.scalar(query) or 0
