"""Which rankings count: what training, exports and agreement with the log read unless they ask for everything.

A ranking counts unless a later one of the same prompt supersedes it, and unless a reviewer settled its question. A question is a
prompt with its answers, whichever batch asks it. While the latest settlement of a question names a ranking, that one stands in the
place of every ranking that people handed in to that question, before or after; those stay in the log. When a reviewer opens the
question again, the people's rankings count once more and the settled one does not. Rankings that were imported, or given by a
model, answer no question of the app and are left as they are.
"""

from __future__ import annotations

import sqlalchemy as sa

from manners.feedback.tables import RANKINGS, SETTLEMENTS, SUBMISSIONS


def is_current(end: int | None = None, settled: int | None = None) -> sa.ColumnElement[bool]:
    """True for a ranking that counts, going by the log up to place `end` of the rankings and `settled` of the settlements."""
    return ~is_superseded(end) & ~_is_outdone(settled) & ~_is_no_longer_settled(settled)


def is_superseded(end: int | None = None) -> sa.ColumnElement[bool]:
    """True for a ranking that another one of the same prompt, up to place `end` of the log, supersedes."""
    later = RANKINGS.alias("later")
    query = sa.select(later.c.id).where(later.c.supersedes == RANKINGS.c.id, later.c.prompt_id == RANKINGS.c.prompt_id)
    if end is not None:
        query = query.where(later.c.sequence <= end)
    return query.exists()


def latest_settlements(settled: int | None = None) -> sa.Subquery:
    """The last row of every question, up to place `settled`."""
    rows, newer = SETTLEMENTS.alias("latest_settlement"), SETTLEMENTS.alias("newer_settlement")
    later = sa.select(newer.c.id).where(newer.c.question == rows.c.question, newer.c.sequence > rows.c.sequence)
    if settled is not None:
        later = later.where(newer.c.sequence <= settled)
    query = sa.select(rows).where(~later.exists())
    if settled is not None:
        query = query.where(rows.c.sequence <= settled)
    return query.subquery("latest")


def _is_outdone(settled: int | None) -> sa.ColumnElement[bool]:
    """True for a ranking that was handed in to a question that is settled."""
    latest = latest_settlements(settled)
    query = (
        sa.select(SUBMISSIONS.c.id)
        .join(latest, latest.c.question == SUBMISSIONS.c.question)
        .where(SUBMISSIONS.c.ranking_id == RANKINGS.c.id, latest.c.ranking_id.is_not(None))
    )
    return query.exists()


def _is_no_longer_settled(settled: int | None) -> sa.ColumnElement[bool]:
    """True for a ranking that settled a question which was settled otherwise, or opened again, afterwards."""
    latest = latest_settlements(settled)
    ever = sa.select(SETTLEMENTS.c.id).where(SETTLEMENTS.c.ranking_id == RANKINGS.c.id)
    still = sa.select(latest.c.id).where(latest.c.ranking_id == RANKINGS.c.id)
    return ever.exists() & ~still.exists()
