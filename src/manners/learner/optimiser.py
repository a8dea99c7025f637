"""One optimizer step at a time: AdamW, learning-rate schedule, gradient clipping, on Accelerate."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from manners.errors import MannersError


class Optimiser:
    """AdamW over groups of parameters with their own learning rates; linear warm-up, then linear decay to `final` of the peak.

    Adam's ε is 1e-5 in PPO (openai/baselines) and 1e-8 elsewhere. Non-finite gradients never reach the weights: such a step is skipped and
    counted, and three in a row end the run with a MannersError.
    """

    def __init__(
        self,
        groups: Sequence[tuple[Sequence[nn.Parameter], float]],
        *,
        steps: int,
        warmup_steps: int = 0,
        final: float = 0.0,
        max_grad_norm: float = 1.0,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self.accelerator = Accelerator()
        self.parameters = [p for parameters, _ in groups for p in parameters]
        adam = torch.optim.AdamW(
            [{"params": list(parameters), "lr": rate} for parameters, rate in groups],
            betas=betas, eps=eps, weight_decay=weight_decay,
        )  # fmt: skip
        self.adam = self.accelerator.prepare(adam)
        self.rates = [rate for _, rate in groups]
        self.steps, self.warmup_steps, self.final = steps, warmup_steps, final
        self.max_grad_norm = max_grad_norm
        self.done = 0
        self.skipped = 0
        self._skipped_in_a_row = 0
        self._set_rates()

    @property
    def factor(self) -> float:
        """The share of the peak learning rate that the next step uses."""
        if self.done < self.warmup_steps:
            return (self.done + 1) / (self.warmup_steps + 1)
        rest = max(1, self.steps - self.warmup_steps)
        return max(self.final, 1 - (1 - self.final) * (self.done - self.warmup_steps) / rest)

    def backward(self, loss: Tensor) -> None:
        self.accelerator.backward(loss)

    def step(self) -> float:
        """Clip, update, clear the gradients; gives the norm before clipping."""
        norm = float(self.accelerator.clip_grad_norm_(self.parameters, self.max_grad_norm))
        if math.isfinite(norm):
            self.adam.step()
            self._skipped_in_a_row = 0
        else:
            self.skipped += 1
            self._skipped_in_a_row += 1
        self.adam.zero_grad(set_to_none=True)
        if self._skipped_in_a_row == 3:
            raise MannersError(
                "the loss is not a finite number three times in a row; lower the learning rate or look at the data"
            )
        self.done += 1
        self._set_rates()
        return norm

    def _set_rates(self) -> None:
        for group, rate in zip(self.adam.param_groups, self.rates, strict=True):
            group["lr"] = rate * self.factor
