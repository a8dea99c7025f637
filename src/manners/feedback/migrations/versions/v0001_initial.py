"""The first schema: prompts, completions, rankings, imports, and the triggers that keep them append-only."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# What may never change once written. Only where a prompt came from (category, split) may be filled in later.
_FIXED = {
    "prompts": "UPDATE OF id, messages",
    "completions": "UPDATE",
    "rankings": "UPDATE",
    "imports": "UPDATE",
}


def upgrade() -> None:
    op.create_table(
        "prompts",
        sa.Column("sequence", sa.Integer, sa.Identity(), primary_key=True),
        sa.Column("id", sa.String(16), nullable=False, unique=True),
        sa.Column("messages", sa.JSON, nullable=False),
        sa.Column("category", sa.Text, nullable=False),
        sa.Column("split", sa.String(16), nullable=False),
        sa.Column("created_at", sa.String(40), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "completions",
        sa.Column("sequence", sa.Integer, sa.Identity(), primary_key=True),
        sa.Column("id", sa.String(16), nullable=False, unique=True),
        sa.Column("prompt_id", sa.String(16), sa.ForeignKey("prompts.id"), nullable=False, index=True),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("finished", sa.Boolean, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("sampling", sa.JSON, nullable=False),
        sa.Column("seed", sa.BigInteger),
        sa.Column("created_at", sa.String(40), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "rankings",
        sa.Column("sequence", sa.Integer, sa.Identity(), primary_key=True),
        sa.Column("id", sa.String(16), nullable=False, unique=True),
        sa.Column("prompt_id", sa.String(16), sa.ForeignKey("prompts.id"), nullable=False, index=True),
        sa.Column("completions", sa.JSON, nullable=False),
        sa.Column("tiers", sa.JSON, nullable=False),
        sa.Column("source", sa.String(16), nullable=False),
        sa.Column("judge", sa.Text, nullable=False),
        sa.Column("shown", sa.JSON, nullable=False),
        sa.Column("all_bad", sa.Boolean, nullable=False),
        sa.Column("seconds", sa.Float),
        sa.Column("note", sa.Text, nullable=False),
        # No foreign key: the ranking that was revised may have stayed behind in another store.
        sa.Column("supersedes", sa.String(16), index=True),
        sa.Column("created_at", sa.String(40), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "imports",
        sa.Column("sequence", sa.Integer, sa.Identity(), primary_key=True),
        sa.Column("id", sa.String(16), nullable=False, unique=True),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("layout", sa.Text, nullable=False),
        sa.Column("options", sa.JSON, nullable=False),
        sa.Column("counts", sa.JSON, nullable=False),
        sa.Column("created_at", sa.String(40), nullable=False),
        sqlite_autoincrement=True,
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION manners_append_only() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "RAISE EXCEPTION 'judgements are append-only: add a ranking that supersedes the old one'; END $$"
        )
    for table, update in _FIXED.items():
        for name, event in (("update", update), ("delete", "DELETE")):
            _forbid(table, name, event)


def _forbid(table: str, name: str, event: str) -> None:
    head = f"CREATE TRIGGER {table}_no_{name} BEFORE {event} ON {table} FOR EACH ROW"
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"{head} EXECUTE FUNCTION manners_append_only()")
    else:
        message = "judgements are append-only: add a ranking that supersedes the old one"
        op.execute(f"{head} BEGIN SELECT RAISE(ABORT, '{message}'); END")
