"""What a reward model minimises: a loss on pairs, or on whole rankings, with or without a likelihood for ties."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from manners.batches import pad_rows
from manners.errors import MannersError
from manners.losses.preference import centring_loss, davidson, outcome_loss, pair_loss, rao_kupper
from manners.losses.ranking import best_of_loss, davidson_luce_loss, plackett_luce_loss
from manners.rewards.groups import Compared, Group

Loss = Literal["pairs", "ranking", "best_of"]
Ties = Literal["drop", "davidson", "rao_kupper"]
LONGEST_WITH_TIES = 12  # a likelihood of ties in whole rankings goes through 2^K subsets


class _Pairs(NamedTuple):
    """The pairs of a batch, all [N]: rewards r_j and r_k, weights, tiers apart, soft labels, and whether they are tied."""

    preferred: Tensor
    other: Tensor
    weights: Tensor
    apart: Tensor
    probability: Tensor
    tied: Tensor


class Objective(nn.Module):
    """The loss of a reward model. `log_ties` is learned with it: the log-frequency of ties, of pairs [1] or of 2 … K answers [K − 1].

    It begins where the ties of `groups` would come from equal rewards: e^{log_ties} = 2s/(1 − s) for a share s of ties.
    """

    def __init__(
        self, groups: Sequence[Group], *, loss: Loss, ties: Ties, margin: float, label_smoothing: float, centring: float
    ) -> None:
        super().__init__()
        self.loss, self.ties = loss, ties
        self.margin, self.label_smoothing, self.centring = margin, label_smoothing, centring
        if loss == "ranking":
            _refuse_long(groups, ties)
        if ties != "drop":
            self.log_ties = nn.Parameter(_log_ties(groups, loss))

    def forward(self, rewards: Tensor, groups: Sequence[Group], step: Sequence[Group]) -> Tensor:
        """The part [] that `groups` have in the loss of `step`, all groups of one optimizer step: sum over weights of the whole.

        rewards [B, K]: raw rewards of the completions of `groups`.
        """
        pairs = _pairs(rewards, groups, with_ties=self.ties != "drop")
        weight = sum(c.weight for group in step for c in _compared(group, self.ties != "drop")) or 1.0
        centred = self.centring * centring_loss(pairs.preferred, pairs.other)
        if self.loss == "pairs":
            return (pairs.weights * (self._pair_losses(pairs) + centred)).sum() / weight
        count = sum(len(group.rankings) for group in step) or 1
        return self._ranking_losses(rewards, groups).sum() / count + (pairs.weights * centred).sum() / weight

    def tie_parameters(self) -> list[float]:
        """What was learned of ties: ν of Davidson (δ_2 … δ_K for whole rankings), θ of Rao & Kupper; nothing where they are left out."""
        if self.ties == "drop":
            return []
        frequencies = self.log_ties.detach().exp()
        return (1 + frequencies if self.ties == "rao_kupper" else frequencies).tolist()

    def _pair_losses(self, pairs: _Pairs) -> Tensor:
        match self.ties:
            case "drop":
                return pair_loss(
                    pairs.preferred,
                    pairs.other,
                    margin=self.margin * pairs.apart,
                    label_smoothing=self.label_smoothing,
                    probability=pairs.probability,
                )
            case "davidson":
                outcomes = davidson(pairs.preferred, pairs.other, self.log_ties[0])
            case "rao_kupper":
                outcomes = rao_kupper(pairs.preferred, pairs.other, self.log_ties[0])
        return outcome_loss(outcomes, pairs.tied, label_smoothing=self.label_smoothing, probability=pairs.probability)

    def _ranking_losses(self, rewards: Tensor, groups: Sequence[Group]) -> Tensor:
        found = [(row, ranking) for row, group in enumerate(groups) for ranking in group.rankings]
        if not found:
            return rewards.new_zeros(0)
        device = rewards.device
        rows = torch.tensor([row for row, _ in found], device=device)
        places = pad_rows([torch.tensor(ranking.places) for _, ranking in found]).to(device)
        ranks = pad_rows([torch.tensor(ranking.ranks) for _, ranking in found]).to(device)
        lengths = torch.tensor([len(ranking.places) for _, ranking in found], device=device)
        mask = torch.arange(places.shape[1], device=device) < lengths[:, None]
        own = rewards[rows[:, None], places]
        if self.loss == "best_of":
            return best_of_loss(own, ranks, mask)
        if self.ties == "drop":
            return plackett_luce_loss(own, ranks, mask)
        return davidson_luce_loss(own, ranks, mask, self.log_ties)


def weighted_right(rewards: Tensor, groups: Sequence[Group]) -> float:
    """The summed weight of the pairs whose preferred completion has the higher reward; rewards [B, K]."""
    pairs = _pairs(rewards, groups, with_ties=False)
    return float((pairs.weights * (pairs.preferred > pairs.other)).sum())


def _compared(group: Group, with_ties: bool) -> list[Compared]:
    return [*group.pairs, *group.ties] if with_ties else group.pairs


def _pairs(rewards: Tensor, groups: Sequence[Group], with_ties: bool) -> _Pairs:
    found = [(row, pair) for row, group in enumerate(groups) for pair in _compared(group, with_ties)]
    rows = torch.tensor([row for row, _ in found], dtype=torch.long)
    j, k = (torch.tensor([pair[i] for _, pair in found], dtype=torch.long) for i in range(2))
    weights, apart, probability = (torch.tensor([pair[i] for _, pair in found]).to(rewards) for i in range(2, 5))
    return _Pairs(rewards[rows, j], rewards[rows, k], weights, apart, probability, apart == 0)


def _log_ties(groups: Sequence[Group], loss: Loss) -> Tensor:
    ties = sum(pair.weight for group in groups for pair in group.ties)
    pairs = sum(pair.weight for group in groups for pair in group.pairs)
    share = min(max(ties / (ties + pairs or 1.0), 1e-3), 1 - 1e-3)
    longest = max((len(r.places) for g in groups for r in g.rankings), default=2) if loss == "ranking" else 2
    return math.log(2 * share / (1 - share)) * torch.arange(1.0, longest)


def _refuse_long(groups: Sequence[Group], ties: Ties) -> None:
    for ranking in (r for group in groups for r in group.rankings):
        needs_subsets = ties == "davidson" or len(set(ranking.ranks)) < len(ranking.ranks)
        if needs_subsets and len(ranking.places) > LONGEST_WITH_TIES:
            raise MannersError(
                f"a ranking of {len(ranking.places)} answers is too long for a likelihood of ties, which goes to {LONGEST_WITH_TIES};"
                " use loss pairs, or split the ranking"
            )
