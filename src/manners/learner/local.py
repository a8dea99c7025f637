"""The learner of on-policy methods on one trunk: policy adapter, value function where the method has one, and the reference that is
the trunk with the adapter off."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from manners.batches import PolicyBatch, Rollouts, TokenBatch
from manners.errors import MannersError
from manners.learner.optimiser import Optimiser
from manners.losses.reduction import Shares, token_mean
from manners.models.adapters import read_tensors
from manners.models.heads import ScalarHead
from manners.models.trunk import Trunk
from manners.protocols import BatchT, Evaluated, Objective
from manners.runs import read_json, write_json, writing
from manners.stopwatch import STILL, Stopwatch

POLICY = "policy"
CRITIC = "critic"


class LocalLearner:
    """Changes the adapter "policy" of `trunk` and the value function, in minibatches that differ by one sequence at most.

    Token losses become one number per minibatch by `reduction`, which is given the lengths of all its responses.

    `temperature` divides the logits in every log-probability, as it did while sampling. Micro-batches hold at most
    `micro_tokens` positions in training and three times as many in forward-only passes. The value function is a head on the
    policy's own states (`critic` "shared") or has an adapter of its own ("adapter"), or there is none ("none"). A minibatch whose
    mean ratio exceeds `max_mean_ratio`, or whose loss or gradient is not finite, is skipped and counted. `stopwatch` is told when the
    optimizer steps.
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
        critic: Literal["shared", "adapter", "none"] = "shared",
        reduction: Callable[[Tensor], Shares] = token_mean,
        max_mean_ratio: float = math.inf,
        stopwatch: Stopwatch = STILL,
    ) -> None:
        self.trunk = trunk
        trunk.adapters.add(POLICY, rank=rank, alpha=alpha, seed=seed)
        self.critic = POLICY
        if critic == "adapter":
            self.critic = CRITIC
            trunk.adapters.add(CRITIC, rank=rank, alpha=alpha, seed=seed + 1)
        self._value_head = None if critic == "none" else ScalarHead.for_value(trunk.width).to(trunk.device)
        self.temperature = temperature
        self.minibatches = minibatches
        self.micro_tokens = micro_tokens
        self.entropy_gradient = entropy_gradient
        self.reduction = reduction
        self.max_mean_ratio = max_mean_ratio
        self.stopwatch = stopwatch
        self.generator = torch.Generator().manual_seed(seed)
        self.optimiser: Optimiser | None = None

    def begin_critic(self, adapter: str, head: ScalarHead, mean: float, std: float) -> None:
        """Let the value function begin as a reward model on the same trunk: with a copy of its `adapter`, of the same rank and
        alpha, and with its head scaled to the (r − mean)/std that its scores are given in. Needs `critic` "adapter"."""
        adapters = self.trunk.adapters
        adapters.add(CRITIC, rank=adapters.rank[adapter], alpha=adapters.alpha[adapter], seed=0)
        adapters.load_state(CRITIC, adapters.state(adapter))
        with torch.no_grad():
            self.value_head.linear.weight.copy_(head.linear.weight / std)
            self.value_head.linear.bias.copy_((head.linear.bias - mean) / std)

    @property
    def value_head(self) -> ScalarHead:
        """Raises ValueError where there is no value function."""
        if self._value_head is None:
            raise ValueError("this learner has no value function")
        return self._value_head

    @property
    def policy_parameters(self) -> list[nn.Parameter]:
        return self.trunk.adapters.parameters(POLICY)

    @property
    def critic_parameters(self) -> list[nn.Parameter]:
        own = self.trunk.adapters.parameters(CRITIC) if self.critic == CRITIC else []
        return own + ([] if self._value_head is None else list(self._value_head.parameters()))

    def optimise(
        self, optimiser: Callable[[list[tuple[list[nn.Parameter], float]]], Optimiser], rate: float, value_rate: float
    ) -> None:
        """Set the optimizer up: `rate` for the policy adapter, `value_rate` for the value function."""
        groups = [(self.policy_parameters, rate), (self.critic_parameters, value_rate)]
        self.optimiser = optimiser([group for group in groups if group[0]])

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
        """Values [B, T]: at a response position, of the state before its token. The rollouts are those of the policy as it is: where
        sampling left its states, a value function on them reads these."""
        values = torch.zeros_like(rollouts.logps)
        if self.critic == POLICY and rollouts.trunk is self.trunk and rollouts.hidden is not None:
            mask = rollouts.response_mask
            values[mask] = self.value_head(rollouts.hidden[mask])
            return values
        for index, part in rollouts.micro_batches(3 * self.micro_tokens):
            rows, columns = part.response_mask.nonzero(as_tuple=True)
            values[index[rows], columns] = self.value_head(self._critic_states(part, rows, columns))
        return values

    def _critic_states(self, part: Rollouts | PolicyBatch, rows: Tensor, columns: Tensor) -> Tensor:
        """Hidden states [N, H] before the tokens at (rows, columns), as the value function sees them."""
        with self.trunk.adapters.using(self.critic):
            return self.trunk.hidden_at(part, self._states(part, part.states), rows, columns - 1)

    def _states(self, part: TokenBatch, states: Tensor) -> Tensor:
        """The branch states: those of the sampler, or computed here where the sampler does not share the trunk."""
        return states if states.shape[-1] else self.trunk.states(part)

    def evaluate(self, part: PolicyBatch) -> Evaluated:
        """Log-probabilities, entropies and values of a micro-batch, with gradients."""
        with self.trunk.adapters.using(POLICY):
            found = self.trunk.predict(
                part,
                self._states(part, part.states),
                temperature=self.temperature,
                entropy_gradient=self.entropy_gradient,
            )
        logps, entropies = (found.spread(x, like=part.tokens) for x in (found.logps, found.entropies))
        if self._value_head is None:
            return Evaluated(logps, entropies, logps.new_empty(len(part), 0))
        seen = found.hidden if self.critic == POLICY else self._critic_states(part, found.rows, found.columns)
        return Evaluated(logps, entropies, found.spread(self._value_head(seen), like=part.tokens))

    def step(
        self,
        batch: BatchT,
        objective: Callable[[Evaluated, BatchT], Objective],
        *,
        only_critic: bool = False,
    ) -> dict[str, float]:
        """One epoch over `batch`, each sequence once. Token losses are reduced over the whole minibatch, not by micro-batches.

        Gives the mean per response token of every part and statistic; of every statistic also the mean in the first minibatch,
        as "first_…"; the mean gradient norm; and how many minibatches were skipped. `only_critic`: the policy stays as it is.
        """
        optimiser = self._ready()
        totals: dict[str, float] = defaultdict(float)
        first: dict[str, float] = {}
        norms: list[float] = []
        count = skipped = 0
        order = torch.randperm(len(batch), generator=self.generator)
        for index in order.tensor_split(min(self.minibatches, len(order))):
            minibatch = batch.rows(index.to(batch.tokens.device))
            tokens = int(minibatch.response_mask.sum())
            sums, watched = self._accumulate(minibatch, objective)
            first = first or {f"first_{name}": sums[name] / tokens for name in watched}
            if not all(map(math.isfinite, sums.values())) or sums.get("ratio", 0) / tokens > self.max_mean_ratio:
                optimiser.skip()
                skipped += 1
                continue
            if only_critic:
                for parameter in self.policy_parameters:
                    parameter.grad = None
            with self.stopwatch.part("optimizer"):
                norms.append(optimiser.step())
            skipped += not math.isfinite(norms[-1])
            for name, value in sums.items():
                totals[name] += value
            count += tokens
        finite = [norm for norm in norms if math.isfinite(norm)]
        means = {name: total / count for name, total in totals.items()}
        return {**means, **first, "gradient_norm": sum(finite) / max(1, len(finite)), "skipped": float(skipped)}

    def _accumulate(
        self, minibatch: BatchT, objective: Callable[[Evaluated, BatchT], Objective]
    ) -> tuple[dict[str, float], list[str]]:
        """Add up the gradients of a minibatch; gives the sums over its tokens of the total, of every part and statistic, and
        the statistics' names."""
        optimiser, shares = self._ready(), self.reduction(minibatch.response_lengths)
        sums: dict[str, float] = defaultdict(float)
        watched: list[str] = []
        for index, part in minibatch.micro_batches(self.micro_tokens):
            result = objective(self.evaluate(part), part)
            mask = part.response_mask
            total = torch.where(mask, result.total, 0)
            optimiser.backward((shares.weights[index, None] * total).sum() / shares.denominator)
            sums["loss"] += float(total.detach().sum())
            for name, values in {**result.parts, **result.statistics}.items():
                sums[name] += float(torch.where(mask, values.detach().float(), 0).sum())
            watched = list(result.statistics)
        return dict(sums), watched

    def _ready(self) -> Optimiser:
        if self.optimiser is None:
            raise MannersError("the learner has no optimizer yet; call optimise first")
        return self.optimiser

    def save(self, path: Path) -> None:
        """Write adapter (peft's format), value function and manners.json into the folder `path`, all or nothing.

        Raises MannersError when a weight is not finite: such a checkpoint is never written.
        """
        if not all(p.isfinite().all() for p in [*self.policy_parameters, *self.critic_parameters]):
            raise MannersError(f"a weight of the policy is not a finite number; {path} is not written")
        with writing(path) as beside:
            beside.mkdir()
            self.trunk.adapters.save(POLICY, beside, base=self.trunk.name)
            if self.critic == CRITIC:
                (beside / CRITIC).mkdir()
                self.trunk.adapters.save(CRITIC, beside / CRITIC, base=self.trunk.name)
            if self._value_head is not None:
                save_file(_tensors(self._value_head), beside / "value_head.safetensors")
            write_json(
                beside / "manners.json",
                {"role": "policy", "train_layers": self.trunk.train_layers, "temperature": self.temperature},
            )

    def load(self, path: Path) -> None:
        """The weights that `save` left in the folder `path`."""
        self.trunk.adapters.load_state(POLICY, read_tensors(path / "adapter_model.safetensors"))
        if self.critic == CRITIC:
            self.trunk.adapters.load_state(CRITIC, read_tensors(path / CRITIC / "adapter_model.safetensors"))
        if self._value_head is not None:
            self._value_head.load_state_dict(read_tensors(path / "value_head.safetensors"))

    def roll_back(self, path: Path) -> None:
        """Load the checkpoint `path` and drop the optimizer's moments, which belong to the weights that are given up."""
        self.load(path)
        self._ready().forget()

    def save_state(self, folder: Path) -> None:
        """Write all that a run needs to go on to the bit into `folder`: weights, Adam's moments, counts, order of minibatches."""
        moments, counts = self._ready().state()
        tensors = {f"{name}.{key}": tensor.detach().cpu().contiguous()
                   for name in {POLICY, self.critic} for key, tensor in self.trunk.adapters.state(name).items()}  # fmt: skip
        if self._value_head is not None:
            tensors |= {f"value_head.{key}": tensor for key, tensor in _tensors(self._value_head).items()}
        tensors |= {f"adam.{key}": tensor for key, tensor in moments.items()}
        tensors["generator"] = self.generator.get_state()
        save_file(dict(sorted(tensors.items())), folder / "learner.safetensors")
        write_json(folder / "learner.json", counts)

    def load_state(self, folder: Path) -> None:
        tensors = read_tensors(folder / "learner.safetensors")

        def of(part: str) -> dict[str, Tensor]:
            return {k.removeprefix(f"{part}."): v for k, v in tensors.items() if k.startswith(f"{part}.")}

        for name in {POLICY, self.critic}:
            self.trunk.adapters.load_state(name, of(name))
        if self._value_head is not None:
            self._value_head.load_state_dict(of("value_head"))
        self.generator.set_state(tensors["generator"])
        self._ready().load_state(of("adam"), read_json(folder / "learner.json"))


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous().cpu() for name, tensor in module.state_dict().items()}
