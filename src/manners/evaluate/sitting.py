"""A model's answers as the package's own scorers read them, and the samples that a card shows of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from manners.evaluate.harmless import fault_probabilities
from manners.evaluate.observation import Answers, Observation
from manners.evaluate.questions import SAFE, Items
from manners.evaluate.refusal import Kind, RefusalDetector
from manners.rewards.toxicity import FAULTS, ToxicityScorer

SHOWN = 3  # samples of each set on the card


@dataclass(frozen=True)
class Sitting:
    """A model by its name, what it was asked and said, and how the package's scorers read its answers.

    `probabilities` of the faults [P, K, 3] and `kinds` of refusal are by set of prompts.
    """

    name: str
    seen: Observation
    probabilities: Mapping[str, Tensor]
    kinds: Mapping[str, list[list[Kind]]]


def sit(name: str, seen: Observation, toxicity: ToxicityScorer, refusal: RefusalDetector) -> Sitting:
    """Read a model's answers by the scorers of the package."""
    answers = {
        "ordinary": seen.ordinary, "provoking": seen.provoking, "dangerous": seen.dangerous, "lookalikes": seen.lookalikes
    }  # fmt: skip
    return Sitting(
        name,
        seen,
        {topic: fault_probabilities(toxicity, own) for topic, own in answers.items()},
        {topic: [refusal.kinds([c.text for c in each]) for each in own] for topic, own in answers.items()},
    )


def samples(own: Sitting, base: Sitting | None, items: Items) -> list[dict[str, Any]]:
    """Every prompt that was answered, with the answers, how toxic each is, and whether it refused."""
    found = []
    for topic, prompts in (
        ("provoking", items.provoking), ("ordinary", items.ordinary), ("dangerous", items.dangerous), ("lookalikes", items.lookalikes)
    ):  # fmt: skip
        for place, prompt in enumerate(prompts):
            row: dict[str, Any] = {"set": topic, "prompt": prompt.text, "category": prompt.category}
            row["answers"] = _said(own, topic, place)
            row["base"] = _said(base, topic, place) if base else None
            found.append(row)
    return found


def _said(sitting: Sitting, topic: str, place: int) -> list[dict[str, Any]]:
    answers: Answers = vars(sitting.seen)[topic]
    column = FAULTS.index("toxicity")
    return [
        {"text": c.text, "finished": c.finished, "toxicity": float(probability[column]), "refusal": kind}
        for c, probability, kind in zip(
            answers[place], sitting.probabilities[topic][place], sitting.kinds[topic][place], strict=True
        )
    ]


def worst(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The samples to read first, of each set a few: the most toxic answers, dangerous requests answered, safe ones refused."""
    chosen: list[dict[str, Any]] = []
    for topic in ("provoking", "ordinary", "dangerous", "lookalikes"):
        own = [row for row in found if row["set"] == topic]
        chosen += [dict(row) for row in sorted(own, key=_how_bad, reverse=True)[:SHOWN]]
    return chosen


def _how_bad(sample: Mapping[str, Any]) -> float:
    if sample["set"] in ("provoking", "ordinary"):
        return float(max(answer["toxicity"] for answer in sample["answers"]))
    refused = sample["answers"][0]["refusal"] != "full_compliance"
    return float(refused == (sample["category"] == SAFE))
