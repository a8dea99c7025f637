"""What the store holds about one person: all of it as JSON, and its deletion on request.

Deleted are the name, the password, sessions, tokens, drafts, and every word that the person wrote about others' answers: reasons
for judgements, for skipping and for settling. Notes on links that are used up or have run out go as well, since they say for whom
a link was meant. What stays is pseudonymous work: who preferred which answer, ratings, flags, times, all under an id that belongs
to nobody any more, so that what was learned from it can still be accounted for. An answer that the person wrote or edited stays,
too: it is an answer like a model's, and judgements rest on it. That somebody was forgotten is itself an entry of the log.

Copies elsewhere (backups, exports, folders of pairs) are beyond the store's reach.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa

from manners.errors import MannersError
from manners.feedback.clock import iso, now
from manners.feedback.remarks import NOTE
from manners.feedback.store import Store
from manners.feedback.tables import (
    ASSIGNMENTS,
    COMPLETIONS,
    DRAFTS,
    FORGOTTEN,
    INVITES,
    RANKINGS,
    REMARKS,
    SESSIONS,
    SETTLEMENTS,
    SUBMISSIONS,
    TOKENS,
    USERS,
)

_NOT_SHOWN = frozenset({"sequence", "password", "login", "token_hash", "csrf", "client_key", "commitment"})


def erase(connection: sa.Connection, user_id: str, by: str, moment: str) -> None:
    """Delete the words and the traces of a person whose account is emptied in the same transaction, and note that in the log."""
    mine = sa.select(ASSIGNMENTS.c.id).where(ASSIGNMENTS.c.user_id == user_id)
    connection.execute(DRAFTS.delete().where(DRAFTS.c.assignment_id.in_(mine)))
    connection.execute(TOKENS.delete().where(TOKENS.c.user_id == user_id))
    connection.execute(SESSIONS.delete().where(SESSIONS.c.user_id == user_id))
    connection.execute(REMARKS.delete().where(REMARKS.c.author == user_id))
    connection.execute(RANKINGS.update().where(RANKINGS.c.judge == user_id, RANKINGS.c.note != "").values(note=""))
    done = (INVITES.c.uses_left <= 0) | (INVITES.c.expires_at < moment)
    connection.execute(INVITES.update().where(done, INVITES.c.note != "").values(note=""))
    connection.execute(FORGOTTEN.insert().values(id=user_id, by=by, created_at=moment))


def data_of(store: Store, user_id: str, clock: Callable[[], float] = now) -> dict[str, Any]:
    """Everything the store holds about a person, as JSON values: account, sessions, tokens, links, drafts, work, words.

    Secrets are left out: of passwords, sessions and tokens the store has only hashes. Raises MannersError for an unknown pseudonym.
    """
    submissions = sa.select(SUBMISSIONS, RANKINGS.c.tiers, RANKINGS.c.all_bad, RANKINGS.c.supersedes, NOTE)
    submissions = submissions.join(RANKINGS, RANKINGS.c.id == SUBMISSIONS.c.ranking_id, isouter=True)
    submissions = submissions.join(REMARKS, REMARKS.c.id == SUBMISSIONS.c.id, isouter=True)
    settlements = sa.select(SETTLEMENTS, RANKINGS.c.tiers, RANKINGS.c.all_bad, NOTE)
    settlements = settlements.join(RANKINGS, RANKINGS.c.id == SETTLEMENTS.c.ranking_id, isouter=True)
    settlements = settlements.join(REMARKS, REMARKS.c.id == SETTLEMENTS.c.id, isouter=True)
    handed_in = sa.select(SUBMISSIONS.c.ranking_id).where(SUBMISSIONS.c.ranking_id.is_not(None))
    drafts = sa.select(DRAFTS).join(ASSIGNMENTS, ASSIGNMENTS.c.id == DRAFTS.c.assignment_id)
    queries: Mapping[str, sa.Select[Any]] = {
        "sessions": sa.select(SESSIONS).where(SESSIONS.c.user_id == user_id).order_by(SESSIONS.c.sequence),
        "tokens": sa.select(TOKENS).where(TOKENS.c.user_id == user_id).order_by(TOKENS.c.sequence),
        "links_made": sa.select(INVITES).where(INVITES.c.created_by == user_id).order_by(INVITES.c.sequence),
        "assignments": sa.select(ASSIGNMENTS).where(ASSIGNMENTS.c.user_id == user_id).order_by(ASSIGNMENTS.c.sequence),
        "drafts": drafts.where(ASSIGNMENTS.c.user_id == user_id).order_by(ASSIGNMENTS.c.sequence),
        "submissions": submissions.where(SUBMISSIONS.c.annotator == user_id).order_by(SUBMISSIONS.c.sequence),
        "settlements": settlements.where(SETTLEMENTS.c.reviewer == user_id).order_by(SETTLEMENTS.c.sequence),
        "other_rankings": sa.select(RANKINGS)
        .where(RANKINGS.c.judge == user_id, RANKINGS.c.id.not_in(handed_in))
        .order_by(RANKINGS.c.sequence),
        "forgotten": sa.select(FORGOTTEN).where(FORGOTTEN.c.id == user_id),
    }
    with store.reading() as connection:
        account = _rows(connection, sa.select(USERS).where(USERS.c.id == user_id))
        if not account:
            raise MannersError("there is no such person")
        held = {name: _rows(connection, query) for name, query in queries.items()}
        written = _written(connection, user_id)
    return {"made_at": iso(clock()), "account": account[0], **held, "answers_written": written}


def _written(connection: sa.Connection, user_id: str) -> list[dict[str, Any]]:
    """The answers that somebody edited: in the ranking, and not among those that were shown."""
    query = (
        sa.select(RANKINGS.c.completions, SUBMISSIONS.c.display_order)
        .join(SUBMISSIONS, SUBMISSIONS.c.ranking_id == RANKINGS.c.id)
        .where(SUBMISSIONS.c.annotator == user_id, SUBMISSIONS.c.mode == "edit")
    )
    new = [i for row in connection.execute(query) for i in row.completions if i not in row.display_order]
    rows = (_rows(connection, sa.select(COMPLETIONS).where(COMPLETIONS.c.id == i)) for i in dict.fromkeys(new))
    return [row for found in rows for row in found]


def _rows(connection: sa.Connection, query: sa.Select[Any]) -> list[dict[str, Any]]:
    """The rows without what opens doors, and without their place in the table."""
    rows = connection.execute(query).mappings()
    return [{key: value for key, value in row.items() if key not in _NOT_SHOWN} for row in rows]
