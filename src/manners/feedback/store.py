"""The store: prompts, completions and every judgement ever made of them, in one SQLite file or a PostgreSQL database.

Judgements are an append-only log. A change of mind is a new ranking that `supersedes` the old one; nothing is
overwritten or deleted, and triggers in the database refuse it. (Words that a person wrote can be deleted: see `personal`.)
Everything is recognised by its content id, so adding a thing twice adds it once. Which rankings count is said in `current`.

A ranking id is the hash of what was judged, by whom, in which order it was shown, the outcome, the note and what it
supersedes, but not of the time. A judge who says exactly the same thing about the same prompt again therefore makes no
second event: a retried request or a repeated import changes nothing. Whoever wants to record a repetition on purpose
(to measure how constant a judge is) tells the two apart by `note`, or lets the second one supersede the first.
A ranking that was superseded stays superseded, also when the very same content is handed in again.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from manners.feedback import chain
from manners.feedback.clock import iso, now
from manners.feedback.current import is_current, latest_settlements
from manners.feedback.database import Database
from manners.feedback.tables import COMPLETIONS, IMPORTS, PROMPTS, RANKINGS, SETTLEMENTS
from manners.records import Completion, Judgement, Message, Prompt, Ranking, Source, content_hash

_BATCH = 500
T = TypeVar("T")


class Added(NamedTuple):
    """How many of the things handed over were new, and how many the store knew already."""

    new: int
    known: int


class Counts(NamedTuple):
    """How much the store holds; `current` rankings are those that count."""

    prompts: int
    completions: int
    rankings: int
    current: int
    imports: int


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of the log: its place (counting up, gaps are possible), its id, its time (UTC, ISO 8601) and what was said.

    The id is that of the ranking as it was added; one whose note was deleted since keeps it.
    """

    sequence: int
    id: str
    created_at: str
    judgement: Judgement


@dataclass(frozen=True, slots=True)
class ImportRecord:
    """That a file or data set was imported: `id` is a hash of its content, the layout and the options."""

    id: str
    path: str
    layout: str
    options: Mapping[str, Any]
    counts: Mapping[str, int]


class Store:
    """An open store. Safe to share between threads, and between processes that open it each for themselves."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._mine = threading.local()

    @property
    def place(self) -> str:
        """Where the store lies, without user and password."""
        return self._database.place

    def __repr__(self) -> str:
        return f"Store({self.place!r})"

    @classmethod
    def open(cls, place: str | Path, create: bool = True) -> Store:
        """Open the store at `place`: a path, sqlite:///path, or postgresql://user@host/database.

        The schema is brought up to date. With `create` False a SQLite file that does not exist is an error instead of a
        new store. Raises MannersError for a place that cannot be opened, that belongs to another program, or that a
        newer version of manners wrote.
        """
        return cls(Database.open(place, create))

    def close(self) -> None:
        self._database.engine.dispose()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Writing

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """Everything written inside the block is kept together, or not at all when an exception leaves it.

        Blocks may be nested. There is one writer at a time: the others wait up to a minute for the block to end. What the
        block adds to the log is linked into the hash chain before it is kept.
        """
        outer = self._open_transaction()
        if outer is not None:
            with outer.begin_nested():
                yield outer
            return
        with self._database.writing() as connection:
            self._mine.connection = connection
            try:
                yield connection
                chain.seal(connection)
            finally:
                self._mine.connection = None

    def add(self, judgements: Iterable[Judgement]) -> Added:
        """Append judgements with their prompts and completions, in one transaction; known ones are passed over.

        A prompt keeps the first category and the first split that it was given: an empty one is filled in, a given one
        never changes, so that no import can move a prompt from the test set into the training set.
        """
        total = new = 0
        with self.transaction():
            for batch in _batches(judgements):
                self._add_prompts(j.prompt for j in batch)
                self._insert(COMPLETIONS, {c.id: _completion_row(c) for j in batch for c in j.completions}.values())
                new += self._insert(RANKINGS, [_ranking_row(j) for j in batch])
                total += len(batch)
        return Added(new, total - new)

    def add_ranking(self, judgement: Judgement) -> bool:
        """Append a judgement whose prompt and completions are in the store already; False when it is known."""
        with self.transaction():
            return self._insert(RANKINGS, [_ranking_row(judgement)]) == 1

    def add_completions(self, items: Iterable[tuple[Prompt, Sequence[Completion]]]) -> Added:
        """Append prompts with completions that nobody has judged yet, in one transaction. Counts completions."""
        total = new = 0
        with self.transaction():
            for batch in _batches(items):
                if any(c.prompt_id != prompt.id for prompt, completions in batch for c in completions):
                    raise ValueError("a completion belongs to another prompt")
                self._add_prompts(prompt for prompt, _ in batch)
                rows = [_completion_row(c) for _, completions in batch for c in completions]
                new += self._insert(COMPLETIONS, rows)
                total += len(rows)
        return Added(new, total - new)

    def record_import(self, record: ImportRecord) -> None:
        """Remember that something was imported; a record known already is kept as it was."""
        with self.transaction():
            row = {**asdict(record), "options": dict(record.options), "counts": dict(record.counts)}
            self._insert(IMPORTS, [row])

    def scrub(self) -> None:
        """After a deletion: let no copy of what was deleted linger in the files of the database, as far as it can be helped."""
        if self._open_transaction() is None:
            self._database.scrub()

    # Reading

    @contextlib.contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection to read from: the one that this thread has open already, if it has.

        What is read inside the block is of one moment in SQLite; in PostgreSQL every statement sees what was kept before it.
        """
        connection = self._open_transaction() or self._mine_reading()
        if connection is not None:
            yield connection
            return
        with self._database.explaining(), self._database.engine.connect() as connection:
            self._mine.reading = connection
            try:
                yield connection
            finally:
                self._mine.reading = None

    def judgements(
        self,
        current_only: bool = True,
        source: Source | None = None,
        judge: str | None = None,
        prompt_id: str | None = None,
    ) -> Iterator[Judgement]:
        """The judgements in the order in which they were added.

        Those that do not count (see `current`) are left out unless `current_only` is False. `source`, `judge` and `prompt_id`
        narrow the selection. What is added while the iterator runs is not part of it.
        """
        for event in self.events(current_only, source, judge, prompt_id):
            yield event.judgement

    def events(
        self,
        current_only: bool = False,
        source: Source | None = None,
        judge: str | None = None,
        prompt_id: str | None = None,
        after: int = 0,
    ) -> Iterator[Event]:
        """The log itself, oldest first, from behind place `after`: every judgement with its place and time."""
        ranking = RANKINGS.c
        wanted = []
        with self.reading() as connection:
            end = connection.scalar(sa.select(sa.func.max(ranking.sequence))) or 0
            settled = connection.scalar(sa.select(sa.func.max(SETTLEMENTS.c.sequence))) or 0
        if current_only:
            wanted.append(is_current(end, settled))
        for column, value in ((ranking.source, source), (ranking.judge, judge), (ranking.prompt_id, prompt_id)):
            if value is not None:
                wanted.append(column == value)
        # Page by page, each in its own short transaction: an iterator that is left lying holds nothing open. The log
        # only grows, so the part up to `end` is the same for every page.
        while True:
            page = sa.select(RANKINGS).where(ranking.sequence > after, ranking.sequence <= end, *wanted)
            with self.reading() as connection:
                rows = connection.execute(page.order_by(ranking.sequence).limit(_BATCH)).all()
                events = _assemble(connection, rows)
            if not events:
                return
            yield from events
            after = events[-1].sequence

    def prompts(self) -> Iterator[Prompt]:
        """All prompts in the order in which they were added."""
        with self.reading() as connection:
            rows = connection.execute(sa.select(PROMPTS).order_by(PROMPTS.c.sequence)).all()
        for row in rows:
            yield _prompt(row)

    def prompt(self, prompt_id: str) -> Prompt:
        """Raises KeyError for an unknown prompt."""
        with self.reading() as connection:
            row = connection.execute(sa.select(PROMPTS).where(PROMPTS.c.id == prompt_id)).one_or_none()
        if row is None:
            raise KeyError(prompt_id)
        return _prompt(row)

    def completions(self, prompt_id: str) -> list[Completion]:
        """The completions of one prompt in the order in which they were added; none for an unknown prompt."""
        query = sa.select(COMPLETIONS).where(COMPLETIONS.c.prompt_id == prompt_id).order_by(COMPLETIONS.c.sequence)
        with self.reading() as connection:
            return [_completion(row) for row in connection.execute(query)]

    def imported(self, record_id: str) -> ImportRecord | None:
        """The record of an earlier import of the same content with the same layout and options, if there was one."""
        with self.reading() as connection:
            row = connection.execute(sa.select(IMPORTS).where(IMPORTS.c.id == record_id)).one_or_none()
        return ImportRecord(row.id, row.path, row.layout, row.options, row.counts) if row else None

    def counts(self) -> Counts:
        with self.reading() as connection:
            sizes = [
                connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0
                for table in (PROMPTS, COMPLETIONS, RANKINGS, IMPORTS)
            ]
            current = connection.scalar(sa.select(sa.func.count()).select_from(RANKINGS).where(is_current())) or 0
        return Counts(sizes[0], sizes[1], sizes[2], current, sizes[3])

    def content_hash(self) -> str:
        """A hash of all judgements in the store, of the splits that their prompts were given, and of how questions were settled.

        It is what lineage records, and does not depend on the order in which judgements were added.
        """
        query = (
            sa.select(RANKINGS.c.id, PROMPTS.c.split)
            .join(PROMPTS, PROMPTS.c.id == RANKINGS.c.prompt_id)
            .order_by(RANKINGS.c.id)
        )
        latest = latest_settlements()
        settled = sa.select(latest.c.question, latest.c.ranking_id).order_by(latest.c.question)
        with self.reading() as connection:
            said = [[list(row) for row in connection.execute(query)]]
            how = [list(row) for row in connection.execute(settled)]
        return content_hash("rankings", *said, *([how] if how else []))

    # Underneath

    def _add_prompts(self, prompts: Iterable[Prompt]) -> None:
        rows = {(p.id, p.category, p.split): _prompt_row(p) for p in prompts}
        insert = self._insert_statement(PROMPTS)
        given = insert.excluded
        category, split = PROMPTS.c.category, PROMPTS.c.split
        fill_in = insert.on_conflict_do_update(
            index_elements=["id"],
            set_={
                "category": sa.case((category == "", given.category), else_=category),
                "split": sa.case((split == "", given.split), else_=split),
            },
            where=sa.or_(sa.and_(category == "", given.category != ""), sa.and_(split == "", given.split != "")),
        )
        if rows:
            self._writing().execute(fill_in, _stamped(rows.values()))

    def _insert(self, table: sa.Table, rows: Iterable[Mapping[str, Any]]) -> int:
        stamped = _stamped(rows)
        if not stamped:
            return 0
        statement = self._insert_statement(table).on_conflict_do_nothing(index_elements=["id"])
        return self._writing().execute(statement, stamped, execution_options={"preserve_rowcount": True}).rowcount

    def _insert_statement(self, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
        return sqlite.insert(table) if self._database.engine.dialect.name == "sqlite" else postgresql.insert(table)

    def _open_transaction(self) -> sa.Connection | None:
        connection: sa.Connection | None = getattr(self._mine, "connection", None)
        return connection

    def _mine_reading(self) -> sa.Connection | None:
        connection: sa.Connection | None = getattr(self._mine, "reading", None)
        return connection

    def _writing(self) -> sa.Connection:
        connection = self._open_transaction()
        if connection is None:
            raise RuntimeError("writing needs an open transaction")
        return connection


def _assemble(connection: sa.Connection, rows: Sequence[sa.Row[Any]]) -> list[Event]:
    prompts = {row.id: _prompt(row) for row in _fetch(connection, PROMPTS, {row.prompt_id for row in rows})}
    wanted = {completion for row in rows for completion in row.completions}
    completions = {row.id: _completion(row) for row in _fetch(connection, COMPLETIONS, wanted)}
    return [
        Event(
            row.sequence,
            row.id,
            row.created_at,
            Judgement(prompts[row.prompt_id], tuple(completions[c] for c in row.completions), _ranking(row)),
        )
        for row in rows
    ]


def _fetch(connection: sa.Connection, table: sa.Table, ids: Iterable[str]) -> Iterator[sa.Row[Any]]:
    for batch in _batches(sorted(ids)):
        yield from connection.execute(sa.select(table).where(table.c.id.in_(batch)))


def _batches(things: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(things)
    while batch := list(islice(rest, _BATCH)):
        yield batch


def _stamped(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    moment = iso(now())
    return [{**row, "created_at": moment} for row in rows]


def _prompt_row(prompt: Prompt) -> dict[str, Any]:
    return {"id": prompt.id, **prompt.to_json()}


def _prompt(row: sa.Row[Any]) -> Prompt:
    return Prompt(tuple(Message(m["role"], m["content"]) for m in row.messages), row.category, row.split)


def _completion_row(completion: Completion) -> dict[str, Any]:
    return {"id": completion.id, **completion.to_json()}


def _completion(row: sa.Row[Any]) -> Completion:
    return Completion(row.prompt_id, row.text, row.finished, row.model, row.sampling, row.seed)


def _ranking_row(judgement: Judgement) -> dict[str, Any]:
    ranking = judgement.ranking
    return {"id": ranking.id, "completions": [c.id for c in judgement.completions], **ranking.to_json()}


def _ranking(row: sa.Row[Any]) -> Ranking:
    return Ranking(
        row.prompt_id,
        tuple(tuple(tier) for tier in row.tiers),
        row.source,
        row.judge,
        tuple(row.shown),
        row.all_bad,
        row.seconds,
        row.note,
        row.supersedes,
    )
