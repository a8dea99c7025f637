"""The hash chain over the log: every ranking, submission and settlement is linked to all that came before it.

A link holds the digest of one row of the log and `hash = SHA-256(previous hash, kind, subject, digest)`. Whoever changes, removes
or inserts a row behind the database's back has to recompute every later hash, and then the last one, the head, is another: a head
that was noted elsewhere tells. The links are made by the store itself, in the transaction that writes the rows.

Words that a person wrote may have to be deleted, so no digest depends on them alone. Rows of the app hold a salted hash of their
remark (`commitment`); once remark and salt are gone, it says nothing of the words, and the row verifies as before. Rankings that
came with a note in them, imported ones and old ones, have an anchor: the digest of all but the note. It counts only where the
chain says that the judge was forgotten.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from manners.feedback.clock import iso, now
from manners.feedback.tables import (
    ANCHORS,
    CHAIN,
    COMPLETIONS,
    FORGOTTEN,
    GUIDELINES,
    PROMPTS,
    RANKINGS,
    REMARKS,
    SETTLEMENTS,
    SUBMISSIONS,
)
from manners.records import Completion, Prompt, content_hash

START = "0" * 64
_LOG: tuple[tuple[str, sa.Table], ...] = (
    ("ranking", RANKINGS),
    ("submission", SUBMISSIONS),
    ("settlement", SETTLEMENTS),
    # Behind the rankings: sealing those makes anchors.
    ("anchor", ANCHORS),
    ("forgotten", FORGOTTEN),
)
# For each table the last row there is, and the last that has a link.
_HOW_FAR = sa.select(
    *(
        place.scalar_subquery()
        for kind, table in _LOG
        for place in (
            sa.select(sa.func.max(table.c.sequence)),
            sa.select(sa.func.max(CHAIN.c.place)).where(CHAIN.c.kind == kind),
        )
    )
)
_PAGE = 500


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit found: the number of links, the last hash, and every problem as one sentence."""

    links: int
    head: str
    problems: tuple[str, ...]

    @property
    def whole(self) -> bool:
        return not self.problems


def digest_of(row: Mapping[str, Any]) -> str:
    """The SHA-256 of all columns of a row, written as canonical JSON; without `commitment` where there is none, as in old rows."""
    said = {column: value for column, value in row.items() if column != "commitment" or value is not None}
    text = json.dumps(said, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def commitment(salt: str, text: str) -> str:
    """The hash that binds a row to its remark: without the salt, nobody can find out the words by trying."""
    return hashlib.sha256(f"{salt}\n{text}".encode()).hexdigest()


def link(previous: str, kind: str, subject: str, digest: str) -> str:
    """The hash of one link."""
    return hashlib.sha256("\n".join((previous, kind, subject, digest)).encode("utf-8")).hexdigest()


def seal(connection: sa.Connection) -> None:
    """Link every row of the log that has no link yet. The caller is the one writer."""
    places = tuple(connection.execute(_HOW_FAR).one())
    logged, linked = places[::2], places[1::2]
    if logged == linked:
        return
    sequence, head = _last(connection)
    for (kind, table), done in zip(_LOG, linked, strict=True):
        page = _page(connection, table, done or 0)
        while page:
            links = []
            for row in page:
                sequence += 1
                digest = digest_of(row)
                head = link(head, kind, row["id"], digest)
                links.append({"sequence": sequence, "kind": kind, "place": row["sequence"], "subject": row["id"],
                              "digest": digest, "hash": head})  # fmt: skip
            connection.execute(CHAIN.insert(), links)
            if kind == "ranking":
                _anchor(connection, page)
            page = _page(connection, table, page[-1]["sequence"]) if len(page) == _PAGE else []


def _anchor(connection: sa.Connection, rankings: list[Mapping[str, Any]]) -> None:
    moment = iso(now())
    made = [
        {"id": row["id"], "digest": digest_of({**row, "note": ""}), "created_at": moment}
        for row in rankings
        if row["note"]
    ]
    if made:
        connection.execute(ANCHORS.insert(), made)


def audit(connection: sa.Connection, head: str = "", progress: Callable[[int], None] = lambda _: None) -> Audit:
    """Recompute the whole chain from the rows of the log, every content id that the log rests on, and the remarks.

    `head` is a hash that was noted earlier: it must still be in the chain. `progress` is told the number of links so far.
    """
    problems: list[str] = []
    previous, count, found = START, 0, not head
    kept = {kind: _rows(connection, table) for kind, table in _LOG}
    erased = _erased_digests(connection)
    for row in _rows(connection, CHAIN):
        count += 1
        problems += _problems_of_link(row, count, previous, kept, erased)
        previous = row["hash"]
        found = found or previous == head
        if count % _PAGE == 0:
            progress(count)
    for kind, rows in kept.items():
        problems += [
            f"{kind} {r['id']} is in the log but not in the chain" for r in rows if not _linked(connection, kind, r)
        ]
    if not found:
        problems.append(f"the noted head {head} is not in the chain: its end was cut off or rewritten")
    problems += _problems_of_contents(connection)
    problems += _problems_of_remarks(connection)
    progress(count)
    return Audit(count, previous, tuple(problems))


def _problems_of_link(
    row: Mapping[str, Any],
    count: int,
    previous: str,
    kept: Mapping[str, Iterator[Mapping[str, Any]]],
    erased: Mapping[str, str],
) -> list[str]:
    name = f"link {count} ({row['kind']} {row['subject']})"
    problems = []
    if row["sequence"] != count:
        problems.append(f"{name} stands at place {row['sequence']}: links are missing before it")
    if link(previous, row["kind"], row["subject"], row["digest"]) != row["hash"]:
        problems.append(f"{name} does not follow from the link before it")
    # Links of one kind stand in the order of the rows, so one pass over each table meets them all.
    logged = next(kept[row["kind"]], None) if row["kind"] in kept else None
    if logged is None or logged["id"] != row["subject"] or logged["sequence"] != row["place"]:
        problems.append(f"{name} speaks of a row that is not in its place in the log")
    elif (digest := digest_of(logged)) != row["digest"] and (
        row["kind"] != "ranking" or digest != erased.get(row["subject"])
    ):
        problems.append(f"{name}: the row in the log was changed")
    return problems


def _problems_of_contents(connection: sa.Connection) -> Iterator[str]:
    """Prompts, completions and guidelines go by the hash of their content: does it still fit?"""
    for row in _rows(connection, PROMPTS):
        if Prompt.from_json({"messages": row["messages"]}).id != row["id"]:
            yield f"prompt {row['id']} was changed"
    for row in _rows(connection, COMPLETIONS):
        if Completion(row["prompt_id"], row["text"], row["finished"], row["model"]).id != row["id"]:
            yield f"completion {row['id']} was changed"
    for row in _rows(connection, GUIDELINES):
        if content_hash("guideline", row["text"]) != row["id"]:
            yield f"guideline {row['id']} was changed"


def _erased_digests(connection: sa.Connection) -> dict[str, str]:
    """What is left of rankings whose judge was forgotten: by their id, the digest of all but the note.

    The anchor has to stand in the chain before the person was forgotten: one that was put in afterwards counts for nothing.
    """
    anchored, forgot = CHAIN.alias("anchored"), CHAIN.alias("forgot")
    query = (
        sa.select(ANCHORS.c.id, ANCHORS.c.digest)
        .join(RANKINGS, RANKINGS.c.id == ANCHORS.c.id)
        .join(anchored, (anchored.c.kind == "anchor") & (anchored.c.place == ANCHORS.c.sequence))
        .join(FORGOTTEN, FORGOTTEN.c.id == RANKINGS.c.judge)
        .join(forgot, (forgot.c.kind == "forgotten") & (forgot.c.place == FORGOTTEN.c.sequence))
        .where(RANKINGS.c.note == "", anchored.c.sequence < forgot.c.sequence)
    )
    return {row.id: row.digest for row in connection.execute(query)}


def _problems_of_remarks(connection: sa.Connection) -> Iterator[str]:
    """Every row has the remark that it is bound to, unless its author was forgotten."""
    for kind, table, author in (
        ("submission", SUBMISSIONS, SUBMISSIONS.c.annotator),
        ("settlement", SETTLEMENTS, SETTLEMENTS.c.reviewer),
    ):
        query = (
            sa.select(table.c.id, table.c.commitment, REMARKS.c.salt, REMARKS.c.text, FORGOTTEN.c.id.label("forgotten"))
            .join(REMARKS, REMARKS.c.id == table.c.id, isouter=True)
            .join(FORGOTTEN, FORGOTTEN.c.id == author, isouter=True)
            .where(table.c.commitment.is_not(None) | REMARKS.c.id.is_not(None))
        )
        for row in _rows(connection, table, query):
            if row["salt"] is None and row["forgotten"] is None:
                yield f"the remark of {kind} {row['id']} is gone, and its author was not forgotten"
            elif row["salt"] is not None and commitment(row["salt"], row["text"]) != row["commitment"]:
                yield f"the remark of {kind} {row['id']} was changed"


def _linked(connection: sa.Connection, kind: str, row: Mapping[str, Any]) -> bool:
    """Whether a row beyond the links that were read has got its link in the meantime."""
    query = sa.select(CHAIN.c.subject).where(CHAIN.c.kind == kind, CHAIN.c.place == row["sequence"])
    return connection.scalar(query) == row["id"]


def _last(connection: sa.Connection) -> tuple[int, str]:
    query = sa.select(CHAIN.c.sequence, CHAIN.c.hash).order_by(CHAIN.c.sequence.desc()).limit(1)
    row = connection.execute(query).one_or_none()
    return (row.sequence, row.hash) if row else (0, START)


def _rows(
    connection: sa.Connection, table: sa.Table, query: sa.Select[Any] | None = None
) -> Iterator[Mapping[str, Any]]:
    """All rows in their order, fetched as they are asked for, so that a large log does not fill the memory."""
    asked = sa.select(table) if query is None else query.add_columns(table.c.sequence)
    page = _page(connection, table, 0, asked)
    while page:
        yield from page
        page = _page(connection, table, page[-1]["sequence"], asked)


def _page(
    connection: sa.Connection, table: sa.Table, after: int, query: sa.Select[Any] | None = None
) -> list[Mapping[str, Any]]:
    asked = sa.select(table) if query is None else query
    asked = asked.where(table.c.sequence > after).order_by(table.c.sequence).limit(_PAGE)
    return [dict(row) for row in connection.execute(asked).mappings()]
