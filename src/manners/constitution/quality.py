"""How good a judge is, on comparisons that people made; and whether it may teach.

Shares come with a 95 % interval for which whole prompts are drawn, as {"value", "ci", "n"}.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from pydantic import Field

from manners.config import Config
from manners.constitution.comparisons import Asked, Compared, compare
from manners.constitution.constitution import Comparison
from manners.constitution.judge import Judge, entropy
from manners.constitution.ledger import Ledger
from manners.constitution.writer import drawn
from manners.errors import MannersError
from manners.ops.calibration import calibration
from manners.ops.intervals import bootstrap_mean
from manners.records import Pair
from manners.runs import Track, untracked


class QualityConfig(Config):
    """What a judge must come up to before it may teach."""

    most_flips: float = Field(
        0.5, ge=0, le=1, description="share of comparisons whose winner may change with the order"
    )
    most_failures: float = Field(0.5, ge=0, le=1, description="share of comparisons that may have no verdict")
    allow_weak_judge: bool = Field(False, description="let it teach all the same")


def measured(values: Sequence[float], clusters: Sequence[str]) -> dict[str, Any]:
    """The mean of `values` with its 95 % interval by cluster and the count; None where there are none."""
    if not values:
        return {"value": None, "ci": [None, None], "n": 0}
    number = {name: place for place, name in enumerate(dict.fromkeys(clusters))}
    found = bootstrap_mean(torch.tensor(values), torch.tensor([number[name] for name in clusters]))
    return {"value": found.mean, "ci": found.ends, "n": len(values)}


def habits(compared: Sequence[Compared]) -> dict[str, Any]:
    """What can be said of a judge without knowing which answer is better: flips, the pull of the first place, doubt, length.

    `first_wins`: share of all orders asked in which the answer shown first wins; `entropy`: of the labels, nats, log 2 = 0.693 at most;
    `longer_wins`: share of comparisons of unequal length in which the longer answer wins. A tie is half a win.
    """
    prompts = [c.asked.prompt.id for c in compared]
    both = [(c, p) for c, p in zip(compared, prompts, strict=True) if c.swapped is not None]
    orders = [(v.probability, p) for c, p in zip(compared, prompts, strict=True) for v in (c.shown, c.swapped) if v]
    uneven = [
        (c, p) for c, p in zip(compared, prompts, strict=True) if len(c.asked.first.text) != len(c.asked.second.text)
    ]
    longer = [
        _won(c.probability if len(c.asked.first.text) > len(c.asked.second.text) else 1 - c.probability)
        for c, _ in uneven
    ]
    return {
        "flip_rate": measured([float(c.flipped) for c, _ in both], [p for _, p in both]),
        "first_wins": measured([_won(probability) for probability, _ in orders], [p for _, p in orders]),
        "entropy": measured([entropy(c.probability) for c in compared], prompts),
        "longer_wins": measured(longer, [p for _, p in uneven]),
    }


def judge_quality(
    judge: Judge,
    pairs: Sequence[Pair],
    principles: Sequence[Comparison],
    ledger: Ledger,
    *,
    seed: int = 0,
    swap: bool = True,
    batch: int = 64,
    retry: bool = False,
    say: Callable[[str], None] = lambda _: None,
    track: Track = untracked,
) -> dict[str, Any]:
    """Ask the judge about `pairs` whose better answer people named, a principle drawn for each, and say how often it agrees.

    What is in `ledger` is not asked again. `agreement` is by the label, `agreement_one_order` by the first order alone; which answer
    stands first in it is drawn. `ece` and `calibration`: see `ops.calibration`; labels of 0.5 claim nothing and
    are left out. Raises MannersError where it gave no verdict at all.
    """
    asked = [_asked(pair, principles, seed) for pair in pairs]
    found = compare(judge, asked, ledger, swap=swap, batch=batch, retry=retry, say=say, track=track)
    if not found.compared:
        kinds = ", ".join(f"{kind} {count}" for kind, count in found.failures.most_common())
        raise MannersError(
            f"{judge.name} gave no verdict on {len(pairs)} comparisons ({kinds or 'none asked'}); use another judge"
        )
    judged = [(c, pair) for c, pair in zip(found.each, pairs, strict=True) if c is not None]
    right = [_chosen(c, pair, c.probability) for c, pair in judged]
    rows = list(zip(found.compared, right, strict=True))
    prompts = [c.asked.prompt.id for c in found.compared]
    lengths = [(len(p.chosen.text) - len(p.rejected.text), p.prompt.id) for p in pairs]
    return {
        "judge": judge.name,
        "n_pairs": len(found.compared),
        "n_prompts": len(set(prompts)),
        "agreement": measured([_won(p) for p in right], prompts),
        "agreement_one_order": measured([_won(_chosen(c, pair, c.shown.probability)) for c, pair in judged], prompts),
        **habits(found.compared),
        "longer_wins_by_people": measured([float(d > 0) for d, _ in lengths if d], [p for d, p in lengths if d]),
        **_calibration([p for p in right if p != 0.5]),
        "by_principle": _by(rows, lambda c: c.asked.principle.id),
        "by_category": _by(rows, lambda c: c.asked.prompt.category),
        "failures": dict(found.failures),
        "failure_rate": found.failure_rate,
    }


def some_of(pairs: Sequence[Pair], count: int, seed: int) -> list[Pair]:
    """About `count` of the pairs: whole prompts in an order drawn by `seed`, until there are enough."""
    by_prompt: dict[str, list[Pair]] = {}
    for pair in pairs:
        by_prompt.setdefault(pair.prompt.id, []).append(pair)
    found: list[Pair] = []
    for prompt_id in sorted(by_prompt, key=lambda prompt_id: drawn("check", seed, prompt_id)):
        if len(found) >= count:
            break
        found += by_prompt[prompt_id]
    return found[:count]


def weaknesses(quality: dict[str, Any], config: QualityConfig) -> list[str]:
    """Why the judge should not teach, a phrase each; none where it may."""
    found = []
    agreement, flips = quality["agreement"], quality["flip_rate"]
    low, high = agreement["ci"]
    if agreement["value"] < 0.5 or (high is not None and high < 0.5):
        ends = f", 95 % interval {low:.3f} to {high:.3f}" if low is not None else ""
        found.append(
            f"agrees with people in {agreement['value']:.3f} of {agreement['n']} comparisons{ends}, less than by chance"
        )
    if flips["value"] is not None and flips["value"] > config.most_flips:
        found.append(
            f"changes its mind with the order in {flips['value']:.3f} of them, more than most_flips {config.most_flips:g}"
        )
    if quality["failure_rate"] > config.most_failures:
        found.append(
            f"has no verdict in {quality['failure_rate']:.3f}, more than most_failures {config.most_failures:g}"
        )
    return found


def refuse_weak_judge(quality: dict[str, Any], config: QualityConfig) -> list[str]:
    """The weaknesses of a judge that may teach all the same. Raises MannersError where it may not."""
    found = weaknesses(quality, config)
    if found and not config.allow_weak_judge:
        raise MannersError(
            f"{quality['judge']} is no teacher: it {', and it '.join(found)}; use another judge, or set allow_weak_judge: true"
        )
    return found


def _asked(pair: Pair, principles: Sequence[Comparison], seed: int) -> Asked:
    """The pair as a question; which answer stands first is drawn, since people's choice always stands first in a pair."""
    first, second = sorted((pair.chosen, pair.rejected), key=lambda c: c.text)
    if drawn("order", seed, pair.prompt.id, first.text, second.text) % 2:
        first, second = second, first
    return Asked.draw(pair.prompt, first, second, principles, seed)


def _chosen(compared: Compared, pair: Pair, probability: float) -> float:
    """How likely the judge finds people's choice, from its probability of the first answer."""
    return probability if compared.asked.first.text == pair.chosen.text else 1 - probability


def _calibration(right: Sequence[float]) -> dict[str, Any]:
    return calibration(torch.tensor(right)) if right else {"ece": None, "calibration": []}


def _won(probability: float) -> float:
    return 1.0 if probability > 0.5 else 0.5 if probability == 0.5 else 0.0


def _by(rows: Iterable[tuple[Compared, float]], name: Callable[[Compared], str]) -> dict[str, Any]:
    """Agreement for each name; what has none is left out."""
    found: dict[str, list[tuple[float, str]]] = {}
    for compared, right in rows:
        found.setdefault(name(compared), []).append((_won(right), compared.asked.prompt.id))
    return {key: measured([w for w, _ in own], [p for _, p in own]) for key, own in sorted(found.items()) if key}
