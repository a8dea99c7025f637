"""The learner of PPO on one trunk: policy adapter, value head, and the reference that is the trunk with the adapter off."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from manners.batches import PPOBatch, Rollouts, TokenBatch
from manners.errors import MannersError
from manners.learner.optimiser import Optimiser
from manners.models.adapters import read_tensors
from manners.models.heads import ScalarHead
from manners.models.trunk import Trunk
from manners.protocols import Evaluated, Objective
from manners.runs import write_json, writing

POLICY = "policy"


class LocalLearner:
    """Changes the adapter "policy" of `trunk` and a value head, in minibatches that differ by one sequence at most.

    `temperature` divides the logits in every log-probability, as it did while sampling. Micro-batches hold at most
    `micro_tokens` positions in training and three times as many in forward-only passes.
    """

    def __init__(
        self,
        trunk: Trunk,
        *,
        rank: int,
        alpha: float,
        temperature: float,
        minibatches: int,
        micro_tokens: int,
        seed: int,
        entropy_gradient: bool,
    ) -> None:
        self.trunk = trunk
        trunk.adapters.add(POLICY, rank=rank, alpha=alpha, seed=seed)
        self.value_head = ScalarHead.for_value(trunk.width).to(trunk.device)
        self.temperature = temperature
        self.minibatches = minibatches
        self.micro_tokens = micro_tokens
        self.entropy_gradient = entropy_gradient
        self.generator = torch.Generator().manual_seed(seed)
        self.optimiser: Optimiser | None = None

    def optimise(
        self,
        optimiser: Callable[[list[tuple[list[torch.nn.Parameter], float]]], Optimiser],
        rate: float,
        value_rate: float,
    ) -> None:
        """Set the optimizer up: `rate` for the policy adapter, `value_rate` for the value head."""
        policy = self.trunk.adapters.parameters(POLICY)
        self.optimiser = optimiser([(policy, rate), (list(self.value_head.parameters()), value_rate)])

    @torch.no_grad()
    def logprobs(self, rollouts: Rollouts, who: Literal["policy", "reference"]) -> Tensor:
        """Log-probabilities [B, T] of the response tokens under the policy or under the reference."""
        logps = torch.zeros_like(rollouts.logps)
        with self.trunk.adapters.using(POLICY if who == "policy" else None):
            for index, part in rollouts.micro_batches(3 * self.micro_tokens):
                found = self.trunk.predict(part, self._states(part, part.states), temperature=self.temperature)
                logps[index[found.rows], found.columns] = found.logps
        return logps

    @torch.no_grad()
    def values(self, rollouts: Rollouts) -> Tensor:
        """Values [B, T]: at a response position, of the state before its token."""
        values = torch.zeros_like(rollouts.logps)
        with self.trunk.adapters.using(POLICY):
            for index, part in rollouts.micro_batches(3 * self.micro_tokens):
                hidden = self.trunk.hidden(self._states(part, part.states))
                rows, columns = part.response_mask.nonzero(as_tuple=True)
                values[index[rows], columns] = self.value_head(hidden[rows, columns - 1])
        return values

    def _states(self, part: TokenBatch, states: Tensor) -> Tensor:
        """The branch states: those of the sampler, or computed here where the sampler does not share the trunk."""
        return states if states.shape[-1] else self.trunk.states(part.tokens)

    def evaluate(self, part: PPOBatch) -> Evaluated:
        """Log-probabilities, entropies and values of a micro-batch, with gradients."""
        with self.trunk.adapters.using(POLICY):
            found = self.trunk.predict(
                part,
                self._states(part, part.states),
                temperature=self.temperature,
                entropy_gradient=self.entropy_gradient,
            )
        spoken = (found.logps, found.entropies, self.value_head(found.hidden))
        return Evaluated(*(found.spread(x, like=part.tokens) for x in spoken))

    def step(self, batch: PPOBatch, objective: Callable[[Evaluated, PPOBatch], Objective]) -> dict[str, float]:
        """One epoch over `batch`, each sequence once. Token losses are divided by the response tokens of the whole minibatch.

        Gives the mean per response token of every part and statistic, and the mean gradient norm.
        """
        if self.optimiser is None:
            raise MannersError("the learner has no optimizer yet; call optimise first")
        totals: dict[str, float] = defaultdict(float)
        norms = []
        order = torch.randperm(len(batch), generator=self.generator)
        for index in order.tensor_split(min(self.minibatches, len(order))):
            minibatch = batch.rows(index.to(batch.tokens.device))
            tokens = minibatch.response_mask.sum()
            for _, part in minibatch.micro_batches(self.micro_tokens):
                result = objective(self.evaluate(part), part)
                mask = part.response_mask
                self.optimiser.backward(torch.where(mask, result.total, 0).sum() / tokens)
                for name, values in {**result.parts, **result.statistics}.items():
                    totals[name] += float(torch.where(mask, values.detach().float(), 0).sum())
            norms.append(self.optimiser.step())
        count = int(batch.response_mask.sum())
        return {name: total / count for name, total in totals.items()} | {"gradient_norm": sum(norms) / len(norms)}

    def save(self, path: Path) -> None:
        """Write adapter (peft's format), value head and manners.json into the folder `path`, all or nothing."""
        with writing(path) as beside:
            beside.mkdir()
            self.trunk.adapters.save(POLICY, beside, base=self.trunk.name)
            save_file(
                {k: v.detach().contiguous().cpu() for k, v in self.value_head.state_dict().items()},
                beside / "value_head.safetensors",
            )
            write_json(
                beside / "manners.json",
                {"role": "policy", "train_layers": self.trunk.train_layers, "temperature": self.temperature},
            )

    def load(self, path: Path) -> None:
        self.trunk.adapters.load_state(POLICY, read_tensors(path / "adapter_model.safetensors"))
        self.value_head.load_state_dict(read_tensors(path / "value_head.safetensors"))
