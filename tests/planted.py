"""Made-up annotators whose ways are known: the quality report has to tell them apart."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from manners.feedback.opinions import Opinion, Opinions

EVERYBODY = (*(f"good{n}" for n in range(5)), "random", "first", "longer", "copy", "adversary")


def opinion(question: str, annotator: str, *tiers: Sequence[str], **more: Any) -> Opinion:
    """An opinion of which only the order is told."""
    known: dict[str, Any] = {"occasion": f"{question} {annotator}", "shown": (), "all_bad": False, "ratings": {},
                             "seconds": None, "gold": None, **more}  # fmt: skip
    compares = known.pop("compares", not known["all_bad"])
    return Opinion(question, annotator, tiers=tiers, compares=compares, **known)


def planted(
    people: Sequence[str] = EVERYBODY,
    questions: int = 120,
    answers: int = 3,
    overlap: int = 5,
    noise: float = 0.45,
    seed: int = 0,
) -> Opinions:
    """Rankings by people who do as they are called: good ones see the worth of an answer with `noise`, copy does as good0 did."""
    draws = random.Random(seed)
    lengths: dict[str, int] = {}
    found = []
    for q in range(questions):
        names = [f"answer {k} to {q}" for k in range(answers)]
        lengths |= {name: draws.randrange(50, 2000) for name in names}
        worth = {name: draws.gauss(0, 1) for name in names}
        seen: list[str] = []
        for who in sorted(draws.sample(people, min(overlap, len(people))), key=lambda who: who == "copy"):
            shown = draws.sample(names, answers)
            honest = sorted(names, key=lambda name: -worth[name] - draws.gauss(0, noise))
            order = _order(who, shown, honest, lengths, seen, draws)
            if who == "good0":
                seen = order
            tiers = [[name] for name in order]
            found.append(opinion(f"question {q}", who, *tiers, shown=shown, seconds=draws.uniform(40, 90)))
    return Opinions(found, lengths)


def _order(
    who: str, shown: list[str], honest: list[str], lengths: dict[str, int], seen: list[str], draws: random.Random
) -> list[str]:
    match who.rstrip("0123456789"):
        case "random":
            return draws.sample(honest, len(honest))
        case "first":
            return [shown[0], *(name for name in honest if name != shown[0])]
        case "longer":
            return sorted(honest, key=lambda name: -lengths[name])
        case "adversary":
            return honest[::-1]
        case "copy":
            return seen or honest
    return honest
