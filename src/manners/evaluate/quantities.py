"""The rows of a behaviour card: what is measured, in which unit, by whom, on what; and what one model's reading of it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from manners.evaluate.datasets import Source
from manners.evaluate.readings import Reading

Group = Literal["harmless", "honest", "helpful", "hhh", "side_effects"]
Better = Literal["higher", "lower", "neither"]
OFFLINE, REFUSAL, LIKELIHOOD, TEXT = (
    "offline toxicity scorer",
    "refusal detector",
    "log-probability",
    "the words themselves",
)


@dataclass(frozen=True)
class Quantity:
    """One row: its name in card.json, what people read, its unit, which way is better, who measures it, and on which items."""

    name: str
    group: Group
    label: str
    unit: str
    better: Better
    scorer: str
    data: Source


class Measured(NamedTuple):
    """A quantity, and one model's reading of it."""

    quantity: Quantity
    reading: Reading
