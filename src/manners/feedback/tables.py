"""All tables. The log (prompts to chain) only grows; the tables of the feedback app (people to drafts) hold what may change.

Nothing in the log names a person: a judge there is the pseudonym that `users.id` is, and what tells who that is can be deleted.
What people write in their own words stands in `remarks`, outside the log, which holds a salted hash of it: the words can be
deleted, and the chain over the log still verifies.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

METADATA = sa.MetaData()


def _table(name: str, *columns: sa.Column[Any] | sa.Constraint) -> sa.Table:
    return sa.Table(
        name,
        METADATA,
        sa.Column("sequence", sa.Integer, sa.Identity(), primary_key=True),
        sa.Column("id", sa.String(16), nullable=False, unique=True),
        *columns,
        sa.Column("created_at", sa.String(40), nullable=False),
        sqlite_autoincrement=True,
    )


def _user(name: str = "user_id", nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.String(16), sa.ForeignKey("users.id"), nullable=nullable, index=True)


# The log

PROMPTS = _table(
    "prompts",
    sa.Column("messages", sa.JSON, nullable=False),
    sa.Column("category", sa.Text, nullable=False),
    sa.Column("split", sa.String(16), nullable=False),
)
COMPLETIONS = _table(
    "completions",
    sa.Column("prompt_id", sa.String(16), sa.ForeignKey("prompts.id"), nullable=False, index=True),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("finished", sa.Boolean, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("sampling", sa.JSON, nullable=False),
    sa.Column("seed", sa.BigInteger),
)
RANKINGS = _table(
    "rankings",
    sa.Column("prompt_id", sa.String(16), sa.ForeignKey("prompts.id"), nullable=False, index=True),
    sa.Column("completions", sa.JSON, nullable=False),
    sa.Column("tiers", sa.JSON, nullable=False),
    sa.Column("source", sa.String(16), nullable=False),
    sa.Column("judge", sa.Text, nullable=False),
    sa.Column("shown", sa.JSON, nullable=False),
    sa.Column("all_bad", sa.Boolean, nullable=False),
    sa.Column("seconds", sa.Float),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("supersedes", sa.String(16), index=True),
)
IMPORTS = _table(
    "imports",
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("layout", sa.Text, nullable=False),
    sa.Column("options", sa.JSON, nullable=False),
    sa.Column("counts", sa.JSON, nullable=False),
)
# The id is a hash of the text, so a judgement that names its guideline is bound to the very words.
GUIDELINES = _table("guidelines", sa.Column("text", sa.Text, nullable=False))
# How a judgement was given: what `rankings` has no room for. A skipped item has no ranking.
SUBMISSIONS = _table(
    "submissions",
    sa.Column("ranking_id", sa.String(16), sa.ForeignKey("rankings.id"), index=True),
    sa.Column("assignment_id", sa.String(16), nullable=False, index=True),
    sa.Column("item_id", sa.String(16), nullable=False, index=True),
    sa.Column("batch_id", sa.String(16), nullable=False, index=True),
    sa.Column("annotator", sa.String(16), nullable=False, index=True),
    # One judge holds one opinion on one question: a later submission under the same question supersedes the earlier ranking.
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
    # Binds the submission to its remark; NULL where nothing was written, and in rows from before there were remarks.
    sa.Column("commitment", sa.String(64)),
)
sa.Index("submissions_question", SUBMISSIONS.c.annotator, SUBMISSIONS.c.question)
sa.Index("submissions_client_key", SUBMISSIONS.c.annotator, SUBMISSIONS.c.client_key, unique=True)
# How a reviewer settled a question that judges disagreed on. The latest row of a question holds; without a ranking it says that
# the question is open again.
SETTLEMENTS = _table(
    "settlements",
    sa.Column("ranking_id", sa.String(16), sa.ForeignKey("rankings.id"), index=True),
    sa.Column("item_id", sa.String(16), nullable=False),
    sa.Column("batch_id", sa.String(16), nullable=False, index=True),
    sa.Column("question", sa.String(16), nullable=False, index=True),
    sa.Column("reviewer", sa.String(16), nullable=False, index=True),
    # The rankings that lay before the reviewer.
    sa.Column("seen", sa.JSON, nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("display_order", sa.JSON, nullable=False),
    sa.Column("client_key", sa.String(64), nullable=False),
    sa.Column("commitment", sa.String(64), nullable=False),
)
# The digest of a ranking without its note, for those that came with one: what is left to verify once the note is deleted.
ANCHORS = _table("anchors", sa.Column("digest", sa.String(64), nullable=False))
# That the words and the account of the person with this pseudonym were deleted, and who did it.
FORGOTTEN = _table("forgotten", sa.Column("by", sa.String(16), nullable=False))
# Links every row of rankings, submissions, settlements, anchors and forgotten to all that came before it. `place` is the row's
# sequence in its own table.
CHAIN = sa.Table(
    "chain",
    METADATA,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("place", sa.Integer, nullable=False),
    sa.Column("subject", sa.String(16), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
    sa.UniqueConstraint("kind", "place", name="chain_place"),
)

# The feedback app

# What people wrote: why a submission says what it says, or a settlement. `id` is that of the submission or settlement.
REMARKS = _table(
    "remarks",
    sa.Column("author", sa.String(16), nullable=False, index=True),
    sa.Column("salt", sa.String(64), nullable=False),
    sa.Column("text", sa.Text, nullable=False),
)
SETTINGS = sa.Table(
    "settings",
    METADATA,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
USERS = _table(
    "users",
    # Empty once the person asked to be forgotten; the row stays, so that the pseudonym still means somebody.
    sa.Column("name", sa.Text),
    sa.Column("login", sa.Text, unique=True),
    sa.Column("password", sa.Text),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("active", sa.Boolean, nullable=False),
)
INVITES = _table(
    "invites",
    sa.Column("token_hash", sa.String(64), nullable=False, unique=True),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("uses_left", sa.Integer, nullable=False),
    sa.Column("expires_at", sa.String(40), nullable=False),
    _user("created_by", nullable=True),
)
SESSIONS = _table(
    "sessions",
    sa.Column("token_hash", sa.String(64), nullable=False, unique=True),
    _user(),
    sa.Column("csrf", sa.String(64), nullable=False),
    sa.Column("seen_at", sa.String(40), nullable=False),
    sa.Column("expires_at", sa.String(40), nullable=False, index=True),
)
TOKENS = _table(
    "tokens",
    sa.Column("token_hash", sa.String(64), nullable=False, unique=True),
    _user(),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("revoked_at", sa.String(40)),
)
BATCHES = _table(
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
ITEMS = _table(
    "items",
    sa.Column("batch_id", sa.String(16), sa.ForeignKey("batches.id"), nullable=False),
    sa.Column("prompt_id", sa.String(16), sa.ForeignKey("prompts.id"), nullable=False),
    sa.Column("completions", sa.JSON, nullable=False),
    sa.Column("gold", sa.JSON(none_as_null=True)),
    sa.Column("arm", sa.String(16), nullable=False),
    # In which order items of the same standing are handed out.
    sa.Column("place", sa.Integer, nullable=False),
    # Judgements given plus leases that run: what is compared with the overlap.
    sa.Column("taken", sa.Integer, nullable=False),
    sa.Column("judged", sa.Integer, nullable=False),
)
sa.Index("items_next", ITEMS.c.batch_id, ITEMS.c.taken, ITEMS.c.place)
sa.Index("items_progress", ITEMS.c.batch_id, ITEMS.c.arm, ITEMS.c.judged)
ASSIGNMENTS = _table(
    "assignments",
    sa.Column("item_id", sa.String(16), sa.ForeignKey("items.id"), nullable=False),
    sa.Column("batch_id", sa.String(16), sa.ForeignKey("batches.id"), nullable=False),
    _user(),
    # Counts how often this person was given this item: 0 the first time, 1 the repetition that measures constancy.
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("display_order", sa.JSON, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("leased_until", sa.String(40), nullable=False),
    sa.UniqueConstraint("item_id", "user_id", "round", name="assignments_once"),
)
sa.Index("assignments_leases", ASSIGNMENTS.c.state, ASSIGNMENTS.c.leased_until)
sa.Index("assignments_desk", ASSIGNMENTS.c.user_id, ASSIGNMENTS.c.batch_id, ASSIGNMENTS.c.state)
DRAFTS = sa.Table(
    "drafts",
    METADATA,
    sa.Column("assignment_id", sa.String(16), sa.ForeignKey("assignments.id"), primary_key=True),
    sa.Column("content", sa.JSON, nullable=False),
    sa.Column("saved_at", sa.String(40), nullable=False),
)
