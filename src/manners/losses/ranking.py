"""Losses of a reward model on whole rankings: one likelihood for all K answers in place of K(K − 1)/2 pairs.

Everywhere: rewards [B, K]; ranks [B, K] long, 0 for the best tier, 1 for the next, and so on, equal ranks are tied; mask [B, K] bool,
True where an answer was ranked. What the mask leaves out counts for nothing. Ties need a sum over subsets of the answers, of which
there are 2^K.
"""

from __future__ import annotations

import torch
from torch import Tensor


def plackett_luce_loss(rewards: Tensor, ranks: Tensor, mask: Tensor) -> Tensor:
    """−log P of each ranking [B], when the best answer is drawn with probability softmax(r), the next from those left, and so on.

    Plackett 1975, Luce 1959. Within a tie any order would have led to what was said, so the probabilities of all of them are
    summed: a tie says nothing about its members. Known values: two answers give `pair_loss`; equal rewards give log K! without
    ties, and 0 where everything is tied.
    """
    same = (ranks[:, :, None] == ranks[:, None, :]) & mask[:, :, None] & mask[:, None, :]
    if int(same.sum()) > int(mask.sum()):
        return _in_any_order(rewards, ranks, mask)
    left = (ranks[:, None, :] >= ranks[:, :, None]) & mask[:, None, :]
    left = left | torch.eye(rewards.shape[1], dtype=torch.bool, device=rewards.device)
    lead = rewards - _logsumexp(rewards[:, None, :], left)
    return -torch.where(mask, lead, 0).sum(1)


def best_of_loss(rewards: Tensor, ranks: Tensor, mask: Tensor) -> Tensor:
    """−log of the best answer's share [B] in a softmax over all of them: the first draw of Plackett–Luce alone.

    Ziegler et al. 2019 (arXiv 1909.08593), eq. 1, for the best of four. Where several are tied as best, their shares are added.
    Known value: equal rewards and one best give log K.
    """
    return _logsumexp(rewards, mask) - _logsumexp(rewards, mask & (ranks == 0))


def davidson_luce_loss(rewards: Tensor, ranks: Tensor, mask: Tensor, log_ties: Tensor) -> Tensor:
    """−log P of each ranking [B], when whole tiers are drawn: a tier of n answers in proportion to δ_n·e^(mean of their r).

    log_ties [K − 1 or more]: log δ_2 … log δ_K, without bounds, δ_1 = 1. Firth, Kosmidis & Turner 2019 (arXiv 1909.07123). Known values:
    δ = 0 gives `plackett_luce_loss`, two answers give `davidson`.
    """
    count = rewards.shape[1]
    codes, members = _subsets(count, rewards.device)
    sizes = members.sum(1)
    log_delta = torch.cat([log_ties.new_zeros(1), log_ties])[sizes[1:] - 1]
    strength = log_delta + rewards @ (members[1:].to(rewards) / sizes[1:, None]).T
    log_p = torch.zeros_like(rewards[:, 0])
    for tier in range(count):
        chosen, left = (_code(mask & here) for here in (ranks == tier, ranks >= tier))
        possible = (codes[1:] & ~left[:, None]) == 0
        said = strength.gather(1, (chosen - 1).clamp(min=0)[:, None])[:, 0]
        drawn = chosen > 0
        log_p = log_p + torch.where(drawn, said - _logsumexp(strength, possible | ~drawn[:, None]), 0)
    return -log_p


def _in_any_order(rewards: Tensor, ranks: Tensor, mask: Tensor) -> Tensor:
    """Plackett–Luce with the orders within ties summed over: from the empty set upwards, P of drawing all of a set in such an order."""
    count = rewards.shape[1]
    codes, members = _subsets(count, rewards.device)
    best = torch.where(members, ranks[:, None, :], torch.iinfo(ranks.dtype).max).amin(2)
    next_ = members & (ranks[:, None, :] == best[:, :, None])
    log_p = rewards.new_zeros(len(rewards), len(codes))
    for size in range(1, count + 1):
        here = codes[members.sum(1) == size]
        without = here[:, None] ^ (1 << torch.arange(count, device=rewards.device))
        drawn = rewards[:, None, :] - _logsumexp(rewards[:, None, :], members[here])[:, :, None]
        paths = drawn + log_p[:, without]
        log_p = log_p.index_copy(1, here, _logsumexp(paths, next_[:, here]))
    return -log_p.gather(1, _code(mask)[:, None])[:, 0]


def _subsets(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The codes [2^K] of all subsets of K things, and who is in them [2^K, K] bool: bit k is the k-th thing."""
    codes = torch.arange(2**count, device=device)
    return codes, (codes[:, None] >> torch.arange(count, device=device) & 1).bool()


def _code(members: Tensor) -> Tensor:
    """The code [B] of each row of members [B, K] bool."""
    return (members.long() << torch.arange(members.shape[1], device=members.device)).sum(1)


def _logsumexp(values: Tensor, mask: Tensor) -> Tensor:
    """log Σ exp over the last dimension where `mask` is True."""
    return torch.where(mask, values, float("-inf")).logsumexp(-1)
