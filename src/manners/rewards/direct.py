"""What direct methods minimise: a loss on the log-probabilities that the policy and the reference give to judged answers.

β times a log-ratio of an answer is its implicit reward. All answers to a prompt stand in one packed row, so that the prompt is computed
once for both sides of a pair; what the reference says of them never changes and is computed once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from manners.batches import pad_rows, split_by_tokens
from manners.losses.direct import (
    apo_down_loss,
    apo_zero_loss,
    dpo_loss,
    hinge_loss,
    ipo_loss,
    kto_loss,
    kto_reference_point,
    orpo_loss,
    robust_dpo_loss,
    simpo_loss,
)
from manners.models.likelihood import packed_logps
from manners.models.trunk import Trunk
from manners.rewards.groups import Group, GroupStates
from manners.runs import Track, untracked

Loss = Literal["dpo", "robust", "ipo", "hinge", "simpo", "orpo", "kto", "apo_zero", "apo_down"]
WITHOUT_REFERENCE = ("simpo", "orpo")
AVERAGED = ("ipo", "simpo", "orpo")  # the papers' own choice: means over tokens; the others take sums


class Answers(NamedTuple):
    """What is known of the answers of a batch of groups, all [B, K]: log-probabilities of whole answers under the policy and under the
    reference, nats, and lengths in tokens. Where a group has no k-th answer: 0."""

    logps: Tensor
    reference: Tensor
    lengths: Tensor


class _Pairs(NamedTuple):
    """The pairs of a batch, all [N]: row of the group, places of chosen and rejected, weight, tiers apart, soft label."""

    rows: Tensor
    chosen: Tensor
    rejected: Tensor
    weights: Tensor
    apart: Tensor
    probability: Tensor


class _Singles(NamedTuple):
    """Single answers with a verdict, all [N]: row of the group, place, weight, and how likely the answer is a good one."""

    rows: Tensor
    places: Tensor
    weights: Tensor
    desirable: Tensor


@dataclass(frozen=True)
class DirectObjective:
    """The chosen loss with its settings. `margin` is in reward units per tier between the two; `length_normalised`: means over tokens."""

    loss: Loss
    beta: float
    label_smoothing: float = 0.0
    margin: float = 0.0
    gamma: float = 0.0
    sft_weight: float = 0.0
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    length_normalised: bool = False

    @property
    def of_singles(self) -> bool:
        """Whether the loss takes answers one by one, with a verdict each."""
        return self.loss == "kto"

    def __call__(
        self, answers: Answers, groups: Sequence[Group], step: Sequence[Group], reference_point: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """The part [] that `groups` have in the loss of `step`, all groups of one optimizer step: a sum over the weights of the whole.

        Gives weighted sums of what is worth logging as well, for `means`. `reference_point` [] is KTO's z₀.
        """
        rewards = self.rewards(answers)
        if self.of_singles:
            singles = _singles(groups, answers.logps)
            losses, weights = self._losses_of_singles(answers, singles, reference_point), singles.weights
            good = (singles.rows, singles.places, weights * singles.desirable)
            bad = (singles.rows, singles.places, weights * (1 - singles.desirable))
        else:
            pairs = _pairs(groups, answers.logps)
            losses, weights = self._losses_of_pairs(answers, pairs), pairs.weights
            good, bad = (pairs.rows, pairs.chosen, weights), (pairs.rows, pairs.rejected, weights)
        sums = _sums(answers.logps.detach(), rewards, good, bad) | _agreement(rewards, _pairs(groups, answers.logps))
        return (weights * losses).sum() / self.weight(step), sums

    def weight(self, groups: Sequence[Group]) -> float:
        """The summed weight of all that the loss counts."""
        of_pairs = sum(pair.weight for group in groups for pair in group.pairs)
        if not self.of_singles:
            return of_pairs or 1.0
        return 2 * of_pairs + sum(thumb.weight for group in groups for thumb in group.thumbs) or 1.0

    def rewards(self, answers: Answers) -> Tensor:
        """Implicit rewards [B, K], without gradient: β·(log π − log π_ref) of whole answers, or β·(mean log π) where there is no reference.

        They are what TRL logs: summed over tokens even where the loss compares means.
        """
        logps = answers.logps.detach()
        if self.loss in WITHOUT_REFERENCE:
            return self.beta * logps / answers.lengths.clamp(min=1)
        return self.beta * (logps - answers.reference)

    def _compared(self, answers: Answers) -> Tensor:
        """What the loss compares [B, K]: log-ratios or log-probabilities, sums or means."""
        found = answers.logps if self.loss in WITHOUT_REFERENCE else answers.logps - answers.reference
        return found / answers.lengths.clamp(min=1) if self.length_normalised else found

    def _losses_of_pairs(self, answers: Answers, pairs: _Pairs) -> Tensor:
        compared = self._compared(answers)
        chosen, rejected = compared[pairs.rows, pairs.chosen], compared[pairs.rows, pairs.rejected]
        losses = self._pair_losses(chosen, rejected, self.margin * pairs.apart, pairs.probability)
        if not self.sft_weight:
            return losses
        return losses + self.sft_weight * _negative_mean_logps(answers)[pairs.rows, pairs.chosen]

    def _pair_losses(self, chosen: Tensor, rejected: Tensor, margin: Tensor, probability: Tensor) -> Tensor:
        beta, smoothing = self.beta, self.label_smoothing
        match self.loss:
            case "robust":
                return robust_dpo_loss(
                    chosen, rejected, beta=beta, label_smoothing=smoothing, margin=margin, probability=probability
                )
            case "ipo":
                return ipo_loss(chosen, rejected, beta=beta, probability=probability)
            case "hinge":
                return hinge_loss(chosen, rejected, beta=beta, margin=margin, probability=probability)
            case "simpo":
                return simpo_loss(chosen, rejected, beta=beta, gamma=self.gamma + margin, probability=probability)
            case "orpo":
                return orpo_loss(chosen, rejected, beta=beta, probability=probability)
            case "apo_zero":
                return apo_zero_loss(chosen, rejected, beta=beta, probability=probability)
            case "apo_down":
                return apo_down_loss(chosen, rejected, beta=beta, probability=probability)
            case _:
                return dpo_loss(
                    chosen, rejected, beta=beta, margin=margin, label_smoothing=smoothing, probability=probability
                )

    def _losses_of_singles(self, answers: Answers, singles: _Singles, reference_point: Tensor) -> Tensor:
        losses = kto_loss(
            self._compared(answers)[singles.rows, singles.places], singles.desirable, reference_point, beta=self.beta,
            desirable_weight=self.desirable_weight, undesirable_weight=self.undesirable_weight,
        )  # fmt: skip
        if not self.sft_weight:
            return losses
        return (
            losses + self.sft_weight * singles.desirable * _negative_mean_logps(answers)[singles.rows, singles.places]
        )


def means(sums: Mapping[str, float]) -> dict[str, float]:
    """The means that the sums of one step, or of a whole look, come to, under the names that TRL logs them by."""
    sides = {side: sums[f"weight/{side}"] for side in ("chosen", "rejected")}
    found = {f"{name}/{side}": sums[f"{name}/{side}"] / weight
             for name in ("rewards", "logps") for side, weight in sides.items() if weight}  # fmt: skip
    if all(sides.values()):
        found["rewards/margins"] = found["rewards/chosen"] - found["rewards/rejected"]
    if sums["weight/pairs"]:
        found["rewards/accuracies"] = sums["rewards/accuracies"] / sums["weight/pairs"]
    return found


class Material:
    """Judged answers, ready to be learned from: groups, their branch states, what the reference says of them, and, for KTO, an answer
    to another prompt for each ("stranger"), by which the distance from the reference is estimated.

    `temperature` divides the logits in every log-probability. `states`: branch states of groups, by place, that are there already.
    """

    def __init__(
        self,
        trunk: Trunk,
        groups: Sequence[Group],
        objective: DirectObjective,
        micro_tokens: int,
        seed: int,
        *,
        temperature: float = 1.0,
        states: Mapping[int, Tensor] | None = None,
        track: Track = untracked,
    ) -> None:
        self.groups = groups
        self.micro_tokens = micro_tokens
        self.temperature = temperature
        self.cached = GroupStates(trunk, groups)
        self.cached.states |= {self.cached.keys[i]: own for i, own in (states or {}).items()}
        self.reference: list[Tensor] = []
        if objective.loss not in WITHOUT_REFERENCE:
            self.reference = self.logps(None, range(len(groups)), track)
        self.strangers: Material | None = None
        if objective.of_singles and len(groups) > 1:
            beside, plain = _strangers(groups, trunk.context, seed), replace(objective, loss="dpo")
            self.strangers = Material(trunk, beside, plain, micro_tokens, seed, temperature=temperature, track=track)

    @property
    def lengths(self) -> Tensor:
        return torch.tensor([group.length for group in self.groups])

    def answers(self, places: Sequence[int], adapter: str | None) -> Answers:
        """The answers of the groups at `places`, with gradient."""
        packed, states = self.cached.batch(places)
        logps = packed_logps(self.cached.trunk, adapter, packed, states, temperature=self.temperature)
        known = [self.reference[i] for i in places] if self.reference else [torch.zeros(logps.shape[1])] * len(places)
        counts = [torch.tensor([float(len(c)) for c in self.groups[i].completions]) for i in places]
        return Answers(logps, pad_rows(known).to(logps), pad_rows(counts).to(logps))

    @torch.no_grad()
    def logps(self, adapter: str | None, places: Sequence[int], track: Track = untracked) -> list[Tensor]:
        """Log-probabilities [K] of the answers of each group at `places`, on the CPU, in passes without gradient."""
        found: dict[int, Tensor] = {}
        parts = split_by_tokens(self.lengths[list(places)], 3 * self.micro_tokens)
        for part in track(parts, "asking the reference" if adapter is None else "asking the policy"):
            own = [places[place] for place in part.tolist()]
            packed, states = self.cached.batch(own)
            rows = packed_logps(self.cached.trunk, adapter, packed, states, temperature=self.temperature)
            for i, row in zip(own, rows, strict=True):
                found[i] = row[: len(self.groups[i].completions)].float().cpu()
        return [found[i] for i in places]

    def reference_point(self, places: Sequence[int], adapter: str | None) -> Tensor:
        """KTO's z₀ [] over the strangers of the groups at `places`, under `adapter`; 0 where there are none."""
        device = self.cached.trunk.device
        if self.strangers is None:
            return torch.zeros((), device=device)
        now = self.strangers.logps(adapter, places)
        shifts = torch.stack([own[0] - self.strangers.reference[i][0] for own, i in zip(now, places, strict=True)])
        return kto_reference_point(shifts).to(device)


def _strangers(groups: Sequence[Group], context: int, seed: int) -> list[Group]:
    """Each prompt with the first answer to the next one in a seeded circle of all prompts, cut to what fits."""
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed)).tolist()
    other = {here: there for here, there in zip(order, order[1:] + order[:1], strict=True)}
    return [
        replace(
            group,
            completions=[groups[other[i]].completions[0][: max(1, context - len(group.prompt))]],
            pairs=[],
            thumbs=(),
        )
        for i, group in enumerate(groups)
    ]


def _negative_mean_logps(answers: Answers) -> Tensor:
    """−mean log π per token [B, K]: the loss of fine-tuning on an answer."""
    return -answers.logps / answers.lengths.clamp(min=1)


def _sums(
    logps: Tensor,
    rewards: Tensor,
    good: tuple[Tensor, Tensor, Tensor],
    bad: tuple[Tensor, Tensor, Tensor],
) -> dict[str, float]:
    sums = {}
    for side, (rows, places, weights) in (("chosen", good), ("rejected", bad)):
        sums[f"weight/{side}"] = float(weights.sum())
        sums[f"rewards/{side}"] = float((weights * rewards[rows, places]).sum())
        sums[f"logps/{side}"] = float((weights * logps[rows, places]).sum())
    return sums


def _agreement(rewards: Tensor, pairs: _Pairs) -> dict[str, float]:
    right = rewards[pairs.rows, pairs.chosen] > rewards[pairs.rows, pairs.rejected]
    return {"rewards/accuracies": float((pairs.weights * right).sum()), "weight/pairs": float(pairs.weights.sum())}


def _pairs(groups: Sequence[Group], like: Tensor) -> _Pairs:
    found = [(row, pair) for row, group in enumerate(groups) for pair in group.pairs]
    rows = torch.tensor([row for row, _ in found], dtype=torch.long, device=like.device)
    j, k = (torch.tensor([pair[i] for _, pair in found], dtype=torch.long, device=like.device) for i in range(2))
    weights, apart, probability = (torch.tensor([pair[i] for _, pair in found]).to(like) for i in range(2, 5))
    return _Pairs(rows, j, k, weights, apart, probability)


def _singles(groups: Sequence[Group], like: Tensor) -> _Singles:
    """Every answer of a pair with the verdict that follows from it, and the thumbs."""
    found: list[tuple[int, int, float, float]] = []
    for row, group in enumerate(groups):
        for pair in group.pairs:
            found += [(row, pair.j, pair.weight, pair.probability), (row, pair.k, pair.weight, 1 - pair.probability)]
        found += [(row, thumb.place, thumb.weight, float(thumb.up)) for thumb in group.thumbs]
    rows, places = (torch.tensor([f[i] for f in found], dtype=torch.long, device=like.device) for i in range(2))
    weights, desirable = (torch.tensor([f[i] for f in found]).to(like) for i in range(2, 4))
    return _Singles(rows, places, weights, desirable)
