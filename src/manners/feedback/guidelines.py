"""Guidelines: what annotators are asked to go by, in Markdown. A new wording is a new version; none is ever overwritten."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

import sqlalchemy as sa

from manners.errors import MannersError
from manners.feedback.clock import iso, now
from manners.feedback.store import Store
from manners.feedback.tables import GUIDELINES
from manners.records import content_hash

LONGEST = 100_000


@dataclass(frozen=True, slots=True)
class Guideline:
    """One version. `id` is a hash of the text, `version` counts up within a store."""

    id: str
    version: int
    text: str
    created_at: str


def add_guideline(store: Store, text: str) -> Guideline:
    """Keep `text` as a version, unless the very same words are one already."""
    text = text.strip()
    if not text or len(text) > LONGEST:
        raise MannersError(f"a guideline has 1 to {LONGEST} characters")
    guideline_id = content_hash("guideline", text)
    with store.transaction() as connection:
        known = sa.select(GUIDELINES.c.id).where(GUIDELINES.c.id == guideline_id)
        if connection.scalar(known) is None:
            connection.execute(GUIDELINES.insert().values(id=guideline_id, text=text, created_at=iso(now())))
        return guideline(store, guideline_id)


def guideline(store: Store, guideline_id: str) -> Guideline:
    """The version of that id. Raises MannersError where there is none."""
    with store.reading() as connection:
        row = connection.execute(sa.select(GUIDELINES).where(GUIDELINES.c.id == guideline_id)).one_or_none()
    if row is None:
        raise MannersError(f"there is no guideline {guideline_id}")
    return Guideline(row.id, row.sequence, row.text, row.created_at)


def starter_guideline() -> str:
    """The guideline that comes with the program: helpful, honest, harmless."""
    return (files("manners") / "starter" / "guideline.md").read_text(encoding="utf-8")
