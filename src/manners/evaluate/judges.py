"""Judges are judged before they judge: do they agree with people, does the order of the answers sway them, do they like length?

Two kinds of judge can be asked: a `Scorer`, which sees one answer at a time and knows no order, and a `ComparisonJudge`, which sees
both and is asked in both orders.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from manners.evaluate.bench import ComparisonJudge
from manners.evaluate.by_prompt import mean_of, numbered
from manners.evaluate.length_bias import words
from manners.evaluate.preferences import Preference
from manners.evaluate.scores import score_preferences
from manners.ops.win_rate import both_orders
from manners.protocols import Scorer
from manners.records import Completion
from manners.runs import Track, untracked


def validate_scorer(scorer: Scorer, preferences: Sequence[Preference], track: Track = untracked) -> dict[str, Any]:
    """What `validity` says of a judge that sees one answer at a time, on pairs that people judged."""
    pairs = _pairs(preferences)
    scored = score_preferences(scorer, pairs, track)
    gaps = torch.tensor([float(one.chosen[0] - one.rejected[0]) for one in scored], dtype=torch.double)
    return validity(pairs, _side(0.5 + gaps.sign() / 2), None)


def validate_comparison_judge(
    judge: ComparisonJudge, preferences: Sequence[Preference], track: Track = untracked
) -> dict[str, Any]:
    """What `validity` says of a judge that sees two answers, asked in both orders, on pairs that people judged."""
    pairs = _pairs(preferences)
    orders = []
    for pair in track(pairs, "validating the judge"):
        chosen, rejected = (Completion(pair.prompt.id, text[0]) for text in (pair.chosen, pair.rejected))
        orders.append((judge.prefers(pair.prompt, chosen, rejected), 1 - judge.prefers(pair.prompt, rejected, chosen)))
    first, second = torch.tensor(orders, dtype=torch.double).reshape(-1, 2).T
    return validity(pairs, _side(both_orders(first, second)), torch.stack([_side(first), _side(second)], 1))


def _side(preferred: Tensor) -> Tensor:
    """1 where the chosen answer is preferred, 0 where the other one is, 0.5 a tie."""
    return (preferred > 0.5).double() + 0.5 * (preferred == 0.5)


def validity(pairs: Sequence[Preference], sides: Tensor, decided: Tensor | None) -> dict[str, Any]:
    """How far a judge can be believed, with 95 % intervals for which prompts are drawn.

    `sides` [N]: 1 where it sides with people, 0 where against, 0.5 a tie; ties count half as agreement. `decided` [N, 2]: the same in
    either order, None for a judge without orders. `flips` is the share of pairs whose winner changes with the order, `first` how often
    it prefers whatever is shown first (0.5 is fair). `prefers_longer` and `people_prefer_longer` are of pairs of unequal length.
    """
    clusters = numbered(pair.prompt.id for pair in pairs)
    lengths = torch.tensor([words(p.chosen[0]) - words(p.rejected[0]) for p in pairs])
    longer = torch.where(lengths > 0, sides, 1 - sides)
    found: dict[str, Any] = {
        "agreement": mean_of(sides, clusters),
        "ties": mean_of((sides == 0.5).double(), clusters),
        "flips": None,
        "first": None,
        "prefers_longer": mean_of(longer, clusters, lengths != 0),
        "people_prefer_longer": mean_of((lengths > 0).double(), clusters, lengths != 0),
    }
    if decided is not None:
        found["flips"] = mean_of(((decided[:, 0] - decided[:, 1]).abs() == 1).double(), clusters)
        found["first"] = mean_of((decided[:, 0] + 1 - decided[:, 1]) / 2, clusters)
    return found


def sentence(found: dict[str, Any]) -> str:
    """What a card says beside a number that the judge produced."""
    agreement = found["agreement"]
    if agreement["value"] is None:
        return "never compared with people's judgements"
    low, high = agreement["ci"]
    between = "" if low is None or high is None else f" [{low:.0%}, {high:.0%}]"
    parts = [f"agrees with people on {agreement['value']:.0%}{between} of {agreement['n']} pairs"]
    if found["flips"] is not None:
        parts.append(f"changes its mind with the order on {found['flips']['value']:.0%}")
    if found["prefers_longer"]["value"] is not None:
        own, people = (found[name]["value"] for name in ("prefers_longer", "people_prefer_longer"))
        parts.append(f"prefers the longer answer in {own:.0%} (people in {people:.0%})")
    return "; ".join(parts)


def _pairs(preferences: Sequence[Preference]) -> list[Preference]:
    return [preference for preference in preferences if preference.kind == "pairs"]
