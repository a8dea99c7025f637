"""Log-probabilities of chosen tokens straight from hidden states, without ever holding a [tokens, vocabulary] matrix whole."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from manners.ops.products import times

ROWS, TOKENS = 512, 4096  # hidden states and tokens of the vocabulary: no larger block of logits exists at a time


class TokenLogprobs(NamedTuple):
    """logps [N]: log-probability of each token, nats. entropies [N]: entropy of the distribution it was drawn from, nats."""

    logps: Tensor
    entropies: Tensor


def token_logprobs(
    hidden: Tensor, weight: Tensor, tokens: Tensor, *, temperature: float = 1.0, entropy_gradient: bool = False
) -> TokenLogprobs:
    """Log-probability of tokens [N] under softmax(hidden [N, H] · weight[V, H]ᵀ / temperature), and the entropy there.

    The head's weight is frozen, so the gradient with respect to `hidden` is known in closed form as soon as the probabilities
    are: ∂ log p(y)/∂h = (w_y − Σ_v p_v w_v)/temperature, ∂ entropy/∂h = −Σ_v p_v (log p_v + entropy) w_v/temperature. It is
    computed in the forward pass, by blocks of the vocabulary whose sums are scaled anew wherever a higher logit turns up (Milakov and
    Gimelshein 2018, arXiv 1805.02867); the backward pass is one multiplication. Entropies carry no gradient unless
    `entropy_gradient` asks for it (one more matrix product). Everything is in float32.

    Known value: with all-zero `hidden`, logps = −log V and entropies = log V.
    """
    if weight.requires_grad:
        raise ValueError("token_logprobs takes a frozen head; its closed-form gradient leaves the weight out")
    logps, entropies = _FrozenHead.apply(hidden, weight, tokens, temperature, entropy_gradient)
    return TokenLogprobs(logps, entropies)


class _FrozenHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, tokens: Tensor, temperature: float, entropy_gradient: bool
    ) -> tuple[Tensor, Tensor]:
        count = hidden.shape[0]
        logps = hidden.new_empty(count, dtype=torch.float64 if hidden.dtype == torch.float64 else torch.float32)
        entropies = torch.empty_like(logps)
        need = ctx.needs_input_grad[0]
        jacobian = torch.empty_like(hidden) if need else hidden.new_empty(0)
        entropy_jacobian = torch.empty_like(hidden) if need and entropy_gradient else hidden.new_empty(0)
        for start in range(0, count, ROWS):
            rows = slice(start, start + ROWS)
            sums = _over_vocabulary(
                hidden[rows], weight, tokens[rows], temperature, logps.dtype,
                means=need, slopes=need and entropy_gradient,
            )  # fmt: skip
            log_total = sums.total.log()
            # log p = (logit − highest) − log total, and the sums are of exp(logit − highest)
            logps[rows] = sums.chosen - sums.highest - log_total
            entropies[rows] = log_total - sums.spread / sums.total
            if need:
                mean_weight = sums.mean / sums.total[:, None]
                jacobian[rows] = (weight[tokens[rows]] - mean_weight) / temperature
            if need and entropy_gradient:
                slope = sums.slope / sums.total[:, None] + (entropies[rows] - log_total)[:, None] * mean_weight
                entropy_jacobian[rows] = slope / -temperature
        ctx.save_for_backward(jacobian, entropy_jacobian)
        ctx.entropy_gradient = entropy_gradient
        if not entropy_gradient:
            ctx.mark_non_differentiable(entropies)
        return logps, entropies

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        jacobian, entropy_jacobian = ctx.saved_tensors
        gradient = gradients[0][:, None].to(jacobian.dtype) * jacobian
        if ctx.entropy_gradient:
            gradient = gradient + gradients[1][:, None].to(jacobian.dtype) * entropy_jacobian
        return gradient, None, None, None, None


class _Sums(NamedTuple):
    """Over the vocabulary, with e = exp(logit − highest): the logit of the chosen token, the highest logit, Σ e, Σ e·(logit − highest), all
    [N]; Σ e·w and Σ e·(logit − highest)·w [N, H], where asked for."""

    chosen: Tensor
    highest: Tensor
    total: Tensor
    spread: Tensor
    mean: Tensor
    slope: Tensor


def _over_vocabulary(
    hidden: Tensor,
    weight: Tensor,
    tokens: Tensor,
    temperature: float,
    dtype: torch.dtype,
    *,
    means: bool,
    slopes: bool,
) -> _Sums:
    """The sums for hidden [N, H], weight [V, H] and tokens [N], in one pass over the vocabulary by blocks of `TOKENS`."""
    highest = hidden.new_full((len(hidden),), -torch.inf, dtype=dtype)
    chosen, total, spread = (torch.zeros_like(highest) for _ in range(3))
    mean, slope = (torch.zeros_like(hidden, dtype=dtype) for _ in range(2))
    for start in range(0, len(weight), TOKENS):
        block = weight[start : start + TOKENS]
        logits = times(hidden, block.T).to(dtype)
        if temperature != 1:
            logits /= temperature
        place = tokens - start
        here = logits.gather(1, place.clamp(0, len(block) - 1)[:, None])[:, 0]
        chosen = torch.where((place >= 0) & (place < len(block)), here, chosen)
        before, highest = highest, torch.maximum(highest, logits.amax(-1))
        logits -= highest[:, None]
        e = logits.exp()
        fall = (before - highest).clamp(min=torch.finfo(dtype).min)  # from −inf, where nothing is to be scaled
        scale = fall.exp()
        if slopes:
            slope.addcmul_(fall[:, None], mean).mul_(scale[:, None]).add_((e * logits).to(weight.dtype) @ block)
        if means:
            mean.mul_(scale[:, None]).add_(e.to(weight.dtype) @ block)
        spread = (spread + fall * total) * scale + torch.linalg.vecdot(e, logits)
        total = total * scale + e.sum(-1)
    return _Sums(chosen, highest, total, spread, mean, slope)
