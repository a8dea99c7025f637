"""Heads on the trunk: one number from a hidden state, a reward or a value; or a number for every token that could follow."""

from __future__ import annotations

import copy
import math
from typing import cast

import torch
from torch import Tensor, nn

from manners.ops.logprobs import token_logprobs


class ScalarHead(nn.Module):
    """Hidden states [..., H] to numbers [...], float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1)

    @classmethod
    def for_reward(cls, width: int, seed: int) -> ScalarHead:
        """Weights drawn with standard deviation 1/√(H + 1), bias 0 (Ziegler et al. 2019)."""
        head = cls(width)
        nn.init.normal_(head.linear.weight, std=1 / math.sqrt(width + 1), generator=torch.Generator().manual_seed(seed))
        nn.init.zeros_(head.linear.bias)
        return head

    @classmethod
    def for_value(cls, width: int) -> ScalarHead:
        """All zero: before the first update every value is 0 (Ziegler et al. 2019, shared trunk)."""
        head = cls(width)
        nn.init.zeros_(head.linear.weight)
        nn.init.zeros_(head.linear.bias)
        return head

    def forward(self, hidden: Tensor) -> Tensor:
        values: Tensor = self.linear(hidden.to(self.linear.weight.dtype))[..., 0]
        return values


class QHead(nn.Module):
    """Q(s, a) of every token a from a hidden state h: level(h) + w_a·direction(h)/H, w being the frozen output embedding [V, H].

    Both parts read one hidden layer as wide as h. A matrix of its own from there to V tokens would be larger than a small model itself;
    this one costs 2·H² weights, and tokens that are alike begin alike. The part common to all tokens is apart from what tells them apart
    (Wang et al. 2016, arXiv 1511.06581). All Q are 0 before the first update. A step of Adam moves every entry of direction(h) by about as
    much as level(h), and w_a adds up H of them: without the division by H the first steps would throw Q far beyond every reward.
    """

    def __init__(self, width: int, seed: int = 0) -> None:
        super().__init__()
        self.width = width
        self.inner = nn.Linear(width, width)
        self.direction = nn.Linear(width, width, bias=False)
        self.level = ScalarHead.for_value(width)
        nn.init.normal_(self.inner.weight, std=1 / math.sqrt(width), generator=torch.Generator().manual_seed(seed))
        nn.init.zeros_(self.inner.bias)
        nn.init.zeros_(self.direction.weight)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """level [N] and direction / H [N, H] of hidden states [N, H], float32."""
        features = torch.relu(self.inner(hidden.to(self.inner.weight.dtype)))
        return self.level(features), self.direction(features) / self.width

    def chosen(self, hidden: Tensor, weight: Tensor, tokens: Tensor) -> Tensor:
        """Q(s, a) [N] of tokens [N]."""
        level, direction = self(hidden)
        return level + (direction * weight[tokens].to(direction.dtype)).sum(-1)

    def chosen_and_partition(self, hidden: Tensor, weight: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Q(s, a) [N] of tokens [N], and log Σ_a exp Q(s, a) [N] over the whole vocabulary, of which only a part is held at a time."""
        level, direction = self(hidden)
        chosen = level + (direction * weight[tokens].to(direction.dtype)).sum(-1)
        # level cancels in Q(s, a) − log Σ exp Q, which is the log-probability of a softmax of Q
        return chosen, chosen - token_logprobs(direction.to(weight.dtype), weight, tokens).logps

    def all(self, hidden: Tensor, weight: Tensor) -> Tensor:
        """Q(s, ·) [N, V], float32: for sampling, where a row is one position."""
        level, direction = self(hidden)
        return level[:, None] + (direction.to(weight.dtype) @ weight.T).float()


class QValues(nn.Module):
    """The heads of offline Q-learning: two Q heads, a copy of each that lags behind as a target, and a value head.

    The lesser of two is what counts wherever Q is believed, since the greater of two errors is always too hopeful (Fujimoto et al. 2018,
    arXiv 1802.09477).
    """

    def __init__(self, width: int, seed: int = 0) -> None:
        super().__init__()
        self.q = nn.ModuleList([QHead(width, 2 * seed), QHead(width, 2 * seed + 1)])
        self.targets = copy.deepcopy(self.q).requires_grad_(False)
        self.value = ScalarHead.for_value(width)

    @torch.no_grad()
    def sync(self, rate: float) -> None:
        """Move the targets by the share `rate` of the way to the Q heads; 1 makes them equal."""
        for target, own in zip(self.targets.parameters(), self.q.parameters(), strict=True):
            target.lerp_(own, rate)

    @torch.no_grad()
    def target(self, hidden: Tensor, weight: Tensor, tokens: Tensor) -> Tensor:
        """min of the two target Q(s, a) [N] of tokens [N]."""
        return torch.minimum(*(head.chosen(hidden, weight, tokens) for head in heads_of(self.targets)))

    @torch.no_grad()
    def target_of_all(self, hidden: Tensor, weight: Tensor) -> Tensor:
        """min of the two target Q(s, ·) [N, V] of every token."""
        return torch.minimum(*(head.all(hidden, weight) for head in heads_of(self.targets)))


def heads_of(modules: nn.ModuleList) -> list[QHead]:
    """`modules` by their type, which a list of modules forgets."""
    return cast(list[QHead], list(modules))
