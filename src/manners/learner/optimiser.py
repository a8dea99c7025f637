"""One optimizer step at a time: AdamW, learning-rate schedule, gradient clipping, on Accelerate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from manners.errors import MannersError

Schedule = Literal["linear", "cosine", "constant"]
EpsPlacement = Literal["torch", "tensorflow"]
LIMIT_IN_A_ROW = 3


class Optimiser:
    """AdamW over groups of parameters with their own learning rates; linear warm-up, then a fall to `final` of the peak.

    Adam's ε is 1e-5 in PPO (openai/baselines) and 1e-8 elsewhere. `eps_placement`: PyTorch adds it to √v̂, TensorFlow to √v before
    the bias correction, which is ε/√(1 − β₂ᵗ) in PyTorch's place: 31.6 times as much at the first step (Huang et al. 2024,
    arXiv 2403.17031). Non-finite gradients never reach the weights: such a step is skipped and counted, and three in a row end
    the run with a MannersError.
    """

    def __init__(
        self,
        groups: Sequence[tuple[Sequence[nn.Parameter], float]],
        *,
        steps: int,
        warmup_steps: int = 0,
        final: float = 0.0,
        schedule: Schedule = "linear",
        max_grad_norm: float = 1.0,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        eps_placement: EpsPlacement = "torch",
    ) -> None:
        self.accelerator = Accelerator()
        self.parameters = [p for parameters, _ in groups for p in parameters]
        adam = torch.optim.AdamW(
            [{"params": list(parameters), "lr": rate} for parameters, rate in groups],
            betas=betas, eps=eps, weight_decay=weight_decay,
        )  # fmt: skip
        self.adam = self.accelerator.prepare(adam)
        self.rates = [rate for _, rate in groups]
        self.steps, self.warmup_steps, self.final, self.schedule = steps, warmup_steps, final, schedule
        self.max_grad_norm = max_grad_norm
        self.eps, self.eps_placement, self.beta2 = eps, eps_placement, betas[1]
        self.done = 0
        self.updates = 0
        self._skipped_in_a_row = 0
        self._set_rates()

    @property
    def skipped(self) -> int:
        """Steps so far that changed nothing."""
        return self.done - self.updates

    @property
    def factor(self) -> float:
        """The share of the peak learning rate that the next step uses."""
        if self.done < self.warmup_steps:
            return (self.done + 1) / (self.warmup_steps + 1)
        gone = min(1.0, (self.done - self.warmup_steps) / max(1, self.steps - self.warmup_steps))
        match self.schedule:
            case "linear":
                return max(self.final, 1 - (1 - self.final) * gone)
            case "cosine":
                return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * gone))
            case "constant":
                return 1.0

    def backward(self, loss: Tensor) -> None:
        self.accelerator.backward(loss)

    def step(self) -> float:
        """Clip, update, clear the gradients; gives the norm before clipping."""
        norm = float(self.accelerator.clip_grad_norm_(self.parameters, self.max_grad_norm))
        if math.isfinite(norm):
            if self.eps_placement == "tensorflow":
                for group in self.adam.param_groups:
                    group["eps"] = self.eps / math.sqrt(1 - self.beta2 ** (self._age(group["params"][0]) + 1))
            self.adam.step()
            self.updates += 1
            self._skipped_in_a_row = 0
            self._next()
        else:
            self.skip()
        return norm

    def skip(self) -> None:
        """Clear the gradients and go on without an update. Raises MannersError the third time in a row."""
        self._skipped_in_a_row += 1
        self._next()
        if self._skipped_in_a_row == LIMIT_IN_A_ROW:
            raise MannersError(
                "the loss or the ratio is not a usable number three times in a row; lower the learning rate or look at the data"
            )

    def _next(self) -> None:
        self.adam.zero_grad(set_to_none=True)
        self.done += 1
        self._set_rates()

    def _set_rates(self) -> None:
        for group, rate in zip(self.adam.param_groups, self.rates, strict=True):
            group["lr"] = rate * self.factor

    def forget(self) -> None:
        """Drop Adam's moments: after a roll back they belong to other weights. Schedule and counts stay."""
        self.adam.state.clear()

    def _age(self, parameter: nn.Parameter) -> int:
        """Updates that Adam's moments of this parameter have seen: a group may be left out for a while."""
        return int(self.adam.state.get(parameter, {}).get("step", 0))

    def state(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        """Adam's moments by parameter number, and the counts: all that `load_state` needs to go on to the bit."""
        tensors = {
            f"{number}.{name}": value.detach().cpu().contiguous()
            for number, parameter in enumerate(self.parameters)
            for name, value in self.adam.state.get(parameter, {}).items()
        }
        return tensors, {"done": self.done, "updates": self.updates, "skipped_in_a_row": self._skipped_in_a_row}

    def load_state(self, tensors: Mapping[str, Tensor], counts: Mapping[str, Any]) -> None:
        self.adam.state.clear()
        for name, value in tensors.items():
            number, _, key = name.partition(".")
            parameter = self.parameters[int(number)]
            place = value.clone() if key == "step" else value.to(parameter.device).clone()
            self.adam.state[parameter][key] = place
        self.done, self.updates, self._skipped_in_a_row = (
            int(counts[name]) for name in ("done", "updates", "skipped_in_a_row")
        )
        self._set_rates()
