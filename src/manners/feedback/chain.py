"""The hash chain over the log: every ranking and every submission is linked to all that came before it.

A link holds the digest of one row of the log and `hash = SHA-256(previous hash, kind, subject, digest)`. Whoever changes, removes
or inserts a row behind the database's back has to recompute every later hash, and then the last one, the head, is another: a head
that was noted elsewhere tells. The links are made by the store itself, in the transaction that writes the rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from manners.feedback.tables import CHAIN, COMPLETIONS, GUIDELINES, PROMPTS, RANKINGS, SUBMISSIONS
from manners.records import Completion, Prompt, content_hash

START = "0" * 64
_LOG: tuple[tuple[str, sa.Table], ...] = (("ranking", RANKINGS), ("submission", SUBMISSIONS))
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
    """The SHA-256 of all columns of a row, written as canonical JSON."""
    text = json.dumps(dict(row), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


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
            page = _page(connection, table, page[-1]["sequence"]) if len(page) == _PAGE else []


def audit(connection: sa.Connection, head: str = "", progress: Callable[[int], None] = lambda _: None) -> Audit:
    """Recompute the whole chain from the rows of the log, and every content id that the log rests on.

    `head` is a hash that was noted earlier: it must still be in the chain. `progress` is told the number of links so far.
    """
    problems: list[str] = []
    previous, count, found = START, 0, not head
    kept = {kind: _rows(connection, table) for kind, table in _LOG}
    for row in _rows(connection, CHAIN):
        count += 1
        problems += _problems_of_link(row, count, previous, kept)
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
    progress(count)
    return Audit(count, previous, tuple(problems))


def _problems_of_link(
    row: Mapping[str, Any], count: int, previous: str, kept: Mapping[str, Iterator[Mapping[str, Any]]]
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
    elif digest_of(logged) != row["digest"]:
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


def _linked(connection: sa.Connection, kind: str, row: Mapping[str, Any]) -> bool:
    """Whether a row beyond the links that were read has got its link in the meantime."""
    query = sa.select(CHAIN.c.subject).where(CHAIN.c.kind == kind, CHAIN.c.place == row["sequence"])
    return connection.scalar(query) == row["id"]


def _last(connection: sa.Connection) -> tuple[int, str]:
    query = sa.select(CHAIN.c.sequence, CHAIN.c.hash).order_by(CHAIN.c.sequence.desc()).limit(1)
    row = connection.execute(query).one_or_none()
    return (row.sequence, row.hash) if row else (0, START)


def _rows(connection: sa.Connection, table: sa.Table) -> Iterator[Mapping[str, Any]]:
    """All rows in their order, fetched as they are asked for, so that a large log does not fill the memory."""
    page = _page(connection, table, 0)
    while page:
        yield from page
        page = _page(connection, table, page[-1]["sequence"])


def _page(connection: sa.Connection, table: sa.Table, after: int) -> list[Mapping[str, Any]]:
    query = sa.select(table).where(table.c.sequence > after).order_by(table.c.sequence).limit(_PAGE)
    return [dict(row) for row in connection.execute(query).mappings()]
