"""Settlements of reviewers, words that can be deleted, and the record that somebody was forgotten."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_SEVERAL = 500
_RANKINGS = sa.table(
    "rankings",
    *(
        sa.column(name, sa.String)
        for name in ("id", "prompt_id", "source", "judge", "note", "supersedes", "created_at")
    ),
    *(sa.column(name, sa.JSON) for name in ("completions", "tiers", "shown")),
    sa.column("sequence", sa.Integer),
    sa.column("all_bad", sa.Boolean),
    sa.column("seconds", sa.Float),
)
_ANCHORS = sa.table("anchors", *(sa.column(name, sa.String) for name in ("id", "digest", "created_at")))


def upgrade() -> None:
    op.add_column("submissions", sa.Column("commitment", sa.String(64)))
    _create_tables()
    for table in ("settlements", "anchors", "forgotten"):
        _forbid(table, "UPDATE")
        _forbid(table, "DELETE")
    _forbid("remarks", "UPDATE")
    _let_notes_be_emptied()
    _anchor_rankings()


def _create_tables() -> None:
    _table(
        "settlements",
        sa.Column("ranking_id", sa.String(16), sa.ForeignKey("rankings.id"), index=True),
        sa.Column("item_id", sa.String(16), nullable=False),
        sa.Column("batch_id", sa.String(16), nullable=False, index=True),
        sa.Column("question", sa.String(16), nullable=False, index=True),
        sa.Column("reviewer", sa.String(16), nullable=False, index=True),
        sa.Column("seen", sa.JSON, nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("display_order", sa.JSON, nullable=False),
        sa.Column("client_key", sa.String(64), nullable=False),
        sa.Column("commitment", sa.String(64), nullable=False),
    )
    _table("anchors", sa.Column("digest", sa.String(64), nullable=False))
    _table("forgotten", sa.Column("by", sa.String(16), nullable=False))
    _table(
        "remarks",
        sa.Column("author", sa.String(16), nullable=False, index=True),
        sa.Column("salt", sa.String(64), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
    )


def _let_notes_be_emptied() -> None:
    """A ranking may still not be changed, except that its note becomes empty."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP TRIGGER rankings_no_update ON rankings")
    else:
        op.execute("DROP TRIGGER rankings_no_update")
    # As texts, so that both databases can compare them, JSON and empty ones too.
    kept = [f"COALESCE(CAST({{}}.{c.name} AS TEXT), '')" for c in _RANKINGS.columns if c.name != "note"]
    same = " AND ".join(f"{text.format('NEW')} = {text.format('OLD')}" for text in kept)
    _forbid("rankings", "UPDATE", f" WHEN (NOT (NEW.note = '' AND {same}))")


def _anchor_rankings() -> None:
    """Whatever has a note already: the digest of the rest of it, to go by when the note is gone."""
    connection = op.get_bind()
    after = 0
    while True:
        query = sa.select(_RANKINGS).where(_RANKINGS.c.note != "", _RANKINGS.c.sequence > after)
        rows = [dict(r) for r in connection.execute(query.order_by(_RANKINGS.c.sequence).limit(_SEVERAL)).mappings()]
        if not rows:
            return
        made = [{"id": r["id"], "digest": _digest({**r, "note": ""}), "created_at": r["created_at"]} for r in rows]
        connection.execute(_ANCHORS.insert(), made)
        after = rows[-1]["sequence"]


def _digest(row: dict[str, Any]) -> str:
    text = json.dumps(row, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _table(name: str, *columns: sa.Column[Any]) -> None:
    op.create_table(
        name,
        sa.Column("sequence", sa.Integer, sa.Identity(), primary_key=True),
        sa.Column("id", sa.String(16), nullable=False, unique=True),
        *columns,
        sa.Column("created_at", sa.String(40), nullable=False),
        sqlite_autoincrement=True,
    )


def _forbid(table: str, event: str, when: str = "") -> None:
    head = f"CREATE TRIGGER {table}_no_{event.lower()} BEFORE {event} ON {table} FOR EACH ROW{when}"
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"{head} EXECUTE FUNCTION manners_append_only()")
    else:
        message = "judgements are append-only: add a ranking that supersedes the old one"
        op.execute(f"{head} BEGIN SELECT RAISE(ABORT, '{message}'); END")
