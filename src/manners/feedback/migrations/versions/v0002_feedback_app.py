"""The feedback app: people, batches, assignments, drafts, submissions, guidelines, and the hash chain over the log."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_APPEND_ONLY = ("submissions", "guidelines", "chain")


def upgrade() -> None:
    _create_log()
    _create_people()
    _create_batches()
    for table in _APPEND_ONLY:
        for name, event in (("update", "UPDATE"), ("delete", "DELETE")):
            _forbid(table, name, event)


def _create_log() -> None:
    _table("guidelines", sa.Column("text", sa.Text, nullable=False))
    _table(
        "submissions",
        sa.Column("ranking_id", sa.String(16), sa.ForeignKey("rankings.id"), index=True),
        sa.Column("assignment_id", sa.String(16), nullable=False, index=True),
        sa.Column("item_id", sa.String(16), nullable=False, index=True),
        sa.Column("batch_id", sa.String(16), nullable=False, index=True),
        sa.Column("annotator", sa.String(16), nullable=False, index=True),
        sa.Column("question", sa.String(16), nullable=False),
        sa.Column("mode", sa.String(16), nullable=False),
        sa.Column("repeat", sa.Boolean, nullable=False),
        sa.Column("guideline_id", sa.String(16), nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("display_order", sa.JSON, nullable=False),
        sa.Column("strength", sa.Integer),
        sa.Column("ratings", sa.JSON, nullable=False),
        sa.Column("flags", sa.JSON, nullable=False),
        sa.Column("skip_reason", sa.Text, nullable=False),
        sa.Column("started_at", sa.String(40), nullable=False),
        sa.Column("active_ms", sa.Integer, nullable=False),
        sa.Column("client_key", sa.String(64), nullable=False),
    )
    op.create_index("submissions_question", "submissions", ["annotator", "question"])
    op.create_index("submissions_client_key", "submissions", ["annotator", "client_key"], unique=True)
    op.create_table(
        "chain",
        sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("place", sa.Integer, nullable=False),
        sa.Column("subject", sa.String(16), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.UniqueConstraint("kind", "place", name="chain_place"),
    )


def _create_people() -> None:
    op.create_table(
        "settings",
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    _table(
        "users",
        sa.Column("name", sa.Text),
        sa.Column("login", sa.Text, unique=True),
        sa.Column("password", sa.Text),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("active", sa.Boolean, nullable=False),
    )
    _table(
        "invites",
        sa.Column("token_hash", sa.String(64), nullable=False, unique=True),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("uses_left", sa.Integer, nullable=False),
        sa.Column("expires_at", sa.String(40), nullable=False),
        _user("created_by", nullable=True),
    )
    _table(
        "sessions",
        sa.Column("token_hash", sa.String(64), nullable=False, unique=True),
        _user(),
        sa.Column("csrf", sa.String(64), nullable=False),
        sa.Column("seen_at", sa.String(40), nullable=False),
        sa.Column("expires_at", sa.String(40), nullable=False, index=True),
    )
    _table(
        "tokens",
        sa.Column("token_hash", sa.String(64), nullable=False, unique=True),
        _user(),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("revoked_at", sa.String(40)),
    )


def _create_batches() -> None:
    _table(
        "batches",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("mode", sa.String(16), nullable=False),
        sa.Column("overlap", sa.Integer, nullable=False),
        sa.Column("guideline_id", sa.String(16), sa.ForeignKey("guidelines.id"), nullable=False),
        sa.Column("lease_minutes", sa.Float, nullable=False),
        sa.Column("gold_share", sa.Float, nullable=False),
        sa.Column("repeat_share", sa.Float, nullable=False),
        sa.Column("active_share", sa.Float, nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("open", sa.Boolean, nullable=False),
    )
    _table(
        "items",
        sa.Column("batch_id", sa.String(16), sa.ForeignKey("batches.id"), nullable=False),
        sa.Column("prompt_id", sa.String(16), sa.ForeignKey("prompts.id"), nullable=False),
        sa.Column("completions", sa.JSON, nullable=False),
        sa.Column("gold", sa.JSON),
        sa.Column("arm", sa.String(16), nullable=False),
        sa.Column("place", sa.Integer, nullable=False),
        sa.Column("taken", sa.Integer, nullable=False),
        sa.Column("judged", sa.Integer, nullable=False),
    )
    op.create_index("items_next", "items", ["batch_id", "taken", "place"])
    op.create_index("items_progress", "items", ["batch_id", "arm", "judged"])
    _table(
        "assignments",
        sa.Column("item_id", sa.String(16), sa.ForeignKey("items.id"), nullable=False),
        sa.Column("batch_id", sa.String(16), sa.ForeignKey("batches.id"), nullable=False),
        _user(),
        sa.Column("round", sa.Integer, nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("display_order", sa.JSON, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("leased_until", sa.String(40), nullable=False),
        sa.UniqueConstraint("item_id", "user_id", "round", name="assignments_once"),
    )
    op.create_index("assignments_leases", "assignments", ["state", "leased_until"])
    op.create_index("assignments_desk", "assignments", ["user_id", "batch_id", "state"])
    op.create_table(
        "drafts",
        sa.Column("assignment_id", sa.String(16), sa.ForeignKey("assignments.id"), primary_key=True),
        sa.Column("content", sa.JSON, nullable=False),
        sa.Column("saved_at", sa.String(40), nullable=False),
    )


def _table(name: str, *columns: sa.Column[Any] | sa.Constraint) -> None:
    op.create_table(
        name,
        sa.Column("sequence", sa.Integer, sa.Identity(), primary_key=True),
        sa.Column("id", sa.String(16), nullable=False, unique=True),
        *columns,
        sa.Column("created_at", sa.String(40), nullable=False),
        sqlite_autoincrement=True,
    )


def _user(name: str = "user_id", nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.String(16), sa.ForeignKey("users.id"), nullable=nullable, index=True)


def _forbid(table: str, name: str, event: str) -> None:
    head = f"CREATE TRIGGER {table}_no_{name} BEFORE {event} ON {table} FOR EACH ROW"
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"{head} EXECUTE FUNCTION manners_append_only()")
    else:
        message = "judgements are append-only: add a ranking that supersedes the old one"
        op.execute(f"{head} BEGIN SELECT RAISE(ABORT, '{message}'); END")
