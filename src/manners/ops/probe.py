"""A linear probe on differences of features: the convex start of a reward head.

Starting fine-tuning from a fitted head in place of a random one keeps the features from being bent towards noise: Kumar et al.
2022 (arXiv 2202.10054), "linear probing, then fine-tuning".
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

STRENGTHS = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01)


def fit_probe(differences: Tensor, weights: Tensor, strength: float) -> Tensor:
    """The head [H] that minimises the weighted mean of −log σ(h · (x_j − x_k)) plus strength/2 · |h ∘ s|².

    differences [N, H]: features of the preferred answer less those of the other; weights [N]. Each feature counts in units of its
    root mean square s, so that the penalty does not depend on its scale. Known value: an infinite strength gives h = 0.
    """
    scale = differences.double().square().mean(0).sqrt().clamp(min=1e-8)
    x = differences.double() / scale
    w = weights.double() / weights.double().sum()
    head = torch.zeros(x.shape[1], dtype=torch.double, requires_grad=True)
    solver = torch.optim.LBFGS([head], max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        value = -(w * F.logsigmoid(x @ head)).sum() + 0.5 * strength * head.square().sum()
        value.backward()
        return value

    solver.step(loss)
    return (head.detach() / scale).to(differences.dtype)


def choose_strength(
    differences: Tensor, weights: Tensor, clusters: Tensor, *, strengths: Sequence[float] = STRENGTHS, folds: int = 5
) -> float:
    """The strength with the least mean loss on left-out folds; a cluster [N] long (a prompt) is never split between folds."""
    _, group = clusters.unique(return_inverse=True)
    fold = group % folds

    def left_out(strength: float) -> float:
        total = 0.0
        for number in fold.unique().tolist():
            inside, outside = fold != number, fold == number
            if inside.any():
                head = fit_probe(differences[inside], weights[inside], strength)
                total -= float((weights[outside] * F.logsigmoid(differences[outside] @ head)).sum())
        return total

    return min(strengths, key=left_out)
