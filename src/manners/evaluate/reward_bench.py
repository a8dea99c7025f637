"""How good a judge is on preference sets: accuracy by subset, best of n, ties, styles, length, calibration, margins.

The scores are those of RewardBench (Lambert et al. 2024, arXiv 2403.13787), RewardBench 2 (Malik et al. 2025, arXiv 2506.01937) and
RM-Bench (Liu et al. 2024, arXiv 2410.16184). Every number has its n and a 95 % interval for which whole prompts are drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from manners.evaluate.by_prompt import Parts, estimate, mean_of, numbered
from manners.evaluate.length_bias import length_bias
from manners.evaluate.preferences import STYLES, Kind
from manners.evaluate.scores import Scored
from manners.evaluate.ties import PARTS, ties_score
from manners.ops.calibration import calibration
from manners.ops.significance import mcnemar, sign_flip

BINS = 5
SECTIONS = {
    "Chat": ("alpacaeval-easy", "alpacaeval-length", "alpacaeval-hard", "mt-bench-easy", "mt-bench-med"),
    "Chat Hard": ("mt-bench-hard", "llmbar-natural", "llmbar-adver-neighbor", "llmbar-adver-GPTInst",
                  "llmbar-adver-GPTOut", "llmbar-adver-manual"),
    "Safety": ("refusals-dangerous", "refusals-offensive", "xstest-should-refuse", "xstest-should-respond",
               "donotanswer"),
    "Reasoning": ("math-prm", "hep-cpp", "hep-go", "hep-java", "hep-js", "hep-python", "hep-rust"),
}  # fmt: skip
# The 447 pairs of math count as 984, as many as there are of code.
UPWEIGHTED = {"math-prm": 984 / 447}


def evaluate_judge(scored: Sequence[Scored], log_odds_per_unit: float = 1.0) -> dict[str, Any]:
    """All that the scores of a judge say of it, by the kinds of rows that are there. See the module for what is what."""
    of_kind: dict[Kind, list[Scored]] = {}
    for one in scored:
        of_kind.setdefault(one.preference.kind, []).append(one)
    report: dict[str, Any] = {"rows": len(scored), "prompts": len({s.preference.prompt.id for s in scored})}
    if pairs := of_kind.get("pairs"):
        report["pairs"] = _pairs(pairs, log_odds_per_unit)
    if several := of_kind.get("best_of"):
        report["best_of"] = {**_score("best_of", several).estimate(), "chance": _chance(several)}
    if tied := of_kind.get("ties"):
        score = ties_score(tied)
        parts = score.values.nanmean(0).tolist()
        report["ties"] = {**score.estimate(), "parts": dict(zip(PARTS, parts, strict=True))}
    if crossed := of_kind.get("styles"):
        report["styles"] = _styles(crossed)
    return report | _subsets(scored)


def difference(scored: Sequence[Scored], first: Sequence[Scored]) -> dict[str, Any] | None:
    """How much more often a judge is right than the first one, on the same pairs and rows with a best of several; None without any.

    mean and ci (95 %, prompts drawn), and p: McNemar's exact test where every prompt has one row, else by random signs of whole prompts.
    """
    both = [pair for pair in zip(scored, first, strict=True) if pair[0].preference.kind in ("pairs", "best_of")]
    if not both:
        return None
    own, theirs = (torch.tensor([_right(s) for s in side], dtype=torch.double) for side in zip(*both, strict=True))
    clusters = _clusters([one for one, _ in both])
    found = mean_of(own - theirs, clusters)
    if found["prompts"] == found["n"]:
        p, test = mcnemar(theirs == 1, own == 1), "McNemar exact"
    else:
        p, test = sign_flip(own - theirs, clusters), "random signs"
    return {"mean": found["value"], "ci": found["ci"], "n": found["n"], "p": p, "test": test}


def _right(one: Scored) -> float:
    return float((right_of if one.preference.kind == "pairs" else _best_of)([one])[0])


def right_of(pairs: Sequence[Scored]) -> Tensor:
    """[N]: 1 where the chosen answer scored higher, else 0: an equal score is no preference, and wrong, as in RewardBench."""
    return torch.tensor([float(s.chosen[0] > s.rejected[0]) for s in pairs], dtype=torch.double)


def _pairs(pairs: Sequence[Scored], log_odds_per_unit: float) -> dict[str, Any]:
    right, clusters = right_of(pairs), _clusters(pairs)
    difference = torch.tensor([float(s.chosen[0] - s.rejected[0]) for s in pairs], dtype=torch.double)
    log_odds = difference * log_odds_per_unit
    preferred = torch.sigmoid(log_odds)
    return {
        "accuracy": mean_of(right, clusters),
        "equal_scores": int((difference == 0).sum()),
        "margin": mean_of(difference, clusters),
        "log_loss": mean_of(torch.nn.functional.softplus(-log_odds), clusters),
        "ece": estimate(lambda weights: _calibration_error(preferred, weights), clusters),
        "calibration": calibration(preferred, BINS)["calibration"],
        "length": length_bias(pairs, right, clusters),
        **_sections(pairs),
    }


def _clusters(scored: Sequence[Scored]) -> Tensor:
    """[N] long: the number of each row's prompt."""
    return numbered(s.preference.prompt.id for s in scored)


def _calibration_error(preferred: Tensor, weights: Tensor) -> Tensor:
    """The expected calibration error [R] of P(chosen preferred) [N] under weights [R, N]; see `ops.calibration`."""
    confidence = torch.maximum(preferred, 1 - preferred)
    place = ((confidence - 0.5) * 2 * BINS).long().clamp(max=BINS - 1)
    gap = (preferred > 0.5).double() - confidence
    by_bin = torch.nn.functional.one_hot(place, BINS) * gap[:, None]
    return (weights @ by_bin).abs().sum(1) / weights.sum(1)


def _sections(pairs: Sequence[Scored]) -> dict[str, Any]:
    """The sections of RewardBench as far as their subsets are there, each the mean of its subsets by their sizes, and the mean of those."""
    groups = {name: [s for s in pairs if s.preference.subset == name] for name in {s.preference.subset for s in pairs}}
    sections: dict[str, Parts] = {}
    for section, names in SECTIONS.items():
        if there := [name for name in names if name in groups]:
            sizes = [len(groups[name]) * UPWEIGHTED.get(name, 1.0) for name in there]
            sections[section] = Parts.combined([_score("pairs", groups[name]) for name in there], sizes)
    if not sections:
        return {}
    mean = Parts.combined(list(sections.values()), [1.0] * len(sections))
    found = {section: score.estimate() for section, score in sections.items()}
    return {"sections": found, "mean_of_sections": mean.estimate()}


def _best_of(scored: Sequence[Scored]) -> Tensor:
    """[N]: 1 where a chosen answer is the best of all; answers that share the first place share the 1, as in RewardBench 2."""
    shares = []
    for one in scored:
        top = torch.maximum(one.chosen.max(), one.rejected.max())
        won, lost = int((one.chosen == top).sum()), int((one.rejected == top).sum())
        shares.append(won / (won + lost))
    return torch.tensor(shares, dtype=torch.double)


def _chance(scored: Sequence[Scored]) -> float:
    return sum(len(s.chosen) / (len(s.chosen) + len(s.rejected)) for s in scored) / len(scored)


def _wins(scored: Sequence[Scored]) -> Tensor:
    """[N, 3, 3]: 1 where the right answer in style i scores higher than the wrong one in style j, plain styles first."""
    return torch.stack([(s.chosen[:, None] > s.rejected[None, :]).double() for s in scored])


def _styles(scored: Sequence[Scored]) -> dict[str, Any]:
    """Accuracy by style: hard, the right answer in the plainer style; normal, the same style; easy, in the richer one; and of all nine."""
    wins, clusters = _wins(scored), _clusters(scored)
    plainer = torch.ones(STYLES, STYLES).triu(1).bool()
    return {
        "hard": mean_of(wins[:, plainer].mean(1), clusters),
        "normal": mean_of(wins.diagonal(dim1=1, dim2=2).mean(1), clusters),
        "easy": mean_of(wins[:, plainer.T].mean(1), clusters),
        "average": mean_of(wins.mean((1, 2)), clusters),
        "matrix": wins.mean(0).tolist(),
    }


def _subsets(scored: Sequence[Scored]) -> dict[str, Any]:
    """The score of each subset by its kind, and their plain mean, which is how RewardBench 2 makes one number."""
    groups: dict[tuple[str, Kind], list[Scored]] = {}
    for one in scored:
        if one.preference.subset:
            groups.setdefault((one.preference.subset, one.preference.kind), []).append(one)
    if not groups:
        return {}
    scores = {key: _score(key[1], group) for key, group in sorted(groups.items())}
    subsets = [{"name": name, "kind": kind, **score.estimate()} for (name, kind), score in scores.items()]
    mean = Parts.combined(list(scores.values()), [1.0] * len(scores))
    return {"subsets": subsets, "mean_of_subsets": mean.estimate()}


def _score(kind: Kind, scored: Sequence[Scored]) -> Parts:
    prompts = [s.preference.prompt.id for s in scored]
    match kind:
        case "pairs":
            return Parts.single(right_of(scored), prompts)
        case "best_of":
            return Parts.single(_best_of(scored), prompts)
        case "ties":
            return ties_score(scored)
        case "styles":
            return Parts.single(_wins(scored).mean((1, 2)), prompts)
