"""Batches: what an admin decides about one, which items it holds, and in which order they are handed out."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from pydantic import Field

from manners.config import Config
from manners.errors import MannersError
from manners.feedback.materials import Material
from manners.feedback.tables import BATCHES
from manners.records import content_hash

Mode = Literal["rank", "pair", "ratings", "thumbs", "edit"]
MODES: tuple[Mode, ...] = ("rank", "pair", "ratings", "thumbs", "edit")

# How many answers an item may have in each mode.
ANSWERS: Mapping[str, tuple[int, int]] = {
    "rank": (2, 9),
    "pair": (2, 2),
    "ratings": (1, 9),
    "thumbs": (1, 9),
    "edit": (1, 9),
}


class BatchSettings(Config):
    """What an admin decides about a batch."""

    name: str = Field(min_length=1, max_length=120, description="what annotators see")
    mode: Mode = Field(default="rank", description="rank, pair, ratings, thumbs or edit")
    overlap: int = Field(default=1, ge=1, le=100, description="judgements wanted per item, each by somebody else")
    lease_minutes: float = Field(
        default=60, gt=0, le=7 * 24 * 60, description="how long an item is kept for one person"
    )
    gold_share: float = Field(default=0.1, ge=0, le=0.5, description="share of work that is items with a known answer")
    repeat_share: float = Field(default=0.0, ge=0, le=0.5, description="share of work that is own items once more")
    active_share: float = Field(
        default=0.0, ge=0, le=1, description="share of items chosen by priority; the others at random"
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="draws the order of items and answers")


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as the store keeps it."""

    id: str
    settings: BatchSettings
    guideline_id: str
    open: bool
    created_at: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a batch is. `wanted` judgements in all, gold not counted; `judged` of them are there."""

    items: int
    gold: int
    wanted: int
    judged: int
    skipped: int


def check_answers(mode: Mode, count: int, what: str = "there are") -> None:
    """Raises MannersError where a batch of that mode takes no items with `count` answers; `what` begins the sentence."""
    least, most = ANSWERS[mode]
    if not least <= count <= most:
        wanted = str(least) if least == most else f"{least} to {most}"
        raise MannersError(f"{what} {count} answers; a batch of mode {mode} takes items with {wanted}")


def fitting(mode: Mode, materials: Iterable[Material]) -> list[Material]:
    """Each different material once. Raises MannersError where one has the wrong number of answers, or nothing is to be judged."""
    kept = {(m.prompt.id, frozenset(c.id for c in m.completions)): m for m in materials}
    for material in kept.values():
        check_answers(mode, len(material.completions), f"the prompt {material.prompt.text[:60]!r} has")
    if all(material.gold for material in kept.values()):
        raise MannersError("a batch needs an item without a known answer; add prompts with answers to judge")
    return list(kept.values())


def item_rows(
    batch_id: str, settings: BatchSettings, materials: Sequence[Material], moment: str
) -> list[dict[str, Any]]:
    """The items of a batch as rows of their table, in the order in which they are handed out."""
    rows = []
    for place, (material, arm) in enumerate(_arranged(materials, settings)):
        ids = [c.id for c in material.completions]
        gold = [[ids[p] for p in tier] for tier in material.gold] if material.gold else None
        arm = "gold" if gold else arm
        rows.append(
            {"id": content_hash("item", batch_id, material.prompt.id, sorted(ids)), "batch_id": batch_id,
             "prompt_id": material.prompt.id, "completions": ids, "gold": gold, "arm": arm, "place": place, "taken": 0,
             "judged": 0, "created_at": moment}
        )  # fmt: skip
    return rows


def _arranged(materials: Sequence[Material], settings: BatchSettings) -> list[tuple[Material, str]]:
    """The order of the batch with each item's arm: by priority for a share of the places, at random for the others.

    The random arm stays beside the active one: it alone says how the model does on prompts as they come.
    """
    draws = random.Random(settings.seed)
    at_random = list(range(len(materials)))
    draws.shuffle(at_random)
    by_priority = sorted(
        (p for p in at_random if materials[p].priority is not None), key=lambda p: -(materials[p].priority or 0)
    )
    arranged: dict[int, str] = {}
    while len(arranged) < len(materials):
        active = bool(by_priority) and draws.random() < settings.active_share
        line = by_priority if active else at_random
        place = line.pop(0)
        if place not in arranged:
            arranged[place] = "active" if active else "random"
    return [(materials[place], arm) for place, arm in arranged.items()]


def batch_of(connection: sa.Connection, batch_id: str) -> Batch:
    """The batch of that id. Raises MannersError where there is none."""
    row = connection.execute(sa.select(BATCHES).where(BATCHES.c.id == batch_id)).mappings().one_or_none()
    if row is None:
        raise MannersError("there is no such batch")
    return batch_from(row)


def batch_from(row: sa.RowMapping, prefix: str = "") -> Batch:
    """The batch that a row holds; `prefix` stands before the names of its columns where the row holds more."""
    settings = BatchSettings.model_construct(**{key: row[prefix + key] for key in BatchSettings.model_fields})
    own = (row[prefix + key] for key in ("guideline_id", "open", "created_at"))
    return Batch(row["batch_id" if prefix else "id"], settings, *own)
