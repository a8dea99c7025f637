"""What people write in their own words: kept beside the log, so that it can be deleted while the chain over the log verifies."""

from __future__ import annotations

import secrets

import sqlalchemy as sa

from manners.feedback import chain
from manners.feedback.tables import RANKINGS, REMARKS

# Beside a row that is joined with its ranking and its remark. Rankings from before there were remarks hold the words themselves.
NOTE = sa.func.coalesce(REMARKS.c.text, RANKINGS.c.note, "").label("note")


def keep_remark(connection: sa.Connection, subject: str, author: str, text: str, moment: str) -> str | None:
    """Keep what `author` wrote with a row of the log; gives the salted hash that the row has to hold, None where nothing was said."""
    text = text.strip()
    if not text:
        return None
    salt = secrets.token_hex(32)
    connection.execute(
        REMARKS.insert().values(id=subject, author=author, salt=salt, text=text, created_at=moment)
    )  # fmt: skip
    return chain.commitment(salt, text)
