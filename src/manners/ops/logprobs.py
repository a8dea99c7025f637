"""Log-probabilities of chosen tokens straight from hidden states, without ever holding a [tokens, vocabulary] matrix whole."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from manners.ops.products import times

CHUNK = 512


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
    computed in the forward pass, `CHUNK` rows at a time; the backward pass is one multiplication. Entropies carry no gradient
    unless `entropy_gradient` asks for it (one more matrix product). Everything is in float32.

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
        for start in range(0, count, CHUNK):
            rows = slice(start, start + CHUNK)
            logits = times(hidden[rows], weight.T).to(logps.dtype).div_(temperature)
            logits -= logits.logsumexp(-1, keepdim=True)  # log-probabilities from here on
            logps[rows] = logits.gather(-1, tokens[rows, None])[:, 0]
            probabilities = logits.exp()
            entropies[rows] = -torch.linalg.vecdot(probabilities, logits)
            if need:
                mean_weight = probabilities.to(weight.dtype) @ weight
                jacobian[rows] = (weight[tokens[rows]] - mean_weight) / temperature
            if need and entropy_gradient:
                slope = probabilities.mul_(logits.add_(entropies[rows, None]))
                entropy_jacobian[rows] = slope.to(weight.dtype) @ weight / -temperature
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
