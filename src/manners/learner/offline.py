"""The learner of offline Q-learning: policy adapter, Q heads, their lagging targets and value head, all on one trunk.

It reads answers that are there already. Nothing is sampled; states below the branch are computed once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from manners.batches import Rollouts
from manners.errors import MannersError
from manners.learner.local import POLICY
from manners.learner.optimiser import Optimiser
from manners.models.adapters import read_tensors
from manners.models.heads import QValues, heads_of
from manners.models.packing import Packed
from manners.models.shaping import QShaping, save_q_values
from manners.models.trunk import Trunk
from manners.runs import read_json, write_json, writing


class Seen(NamedTuple):
    """What trunk and heads say of A answers of at most L tokens, all [A, L] and 0 where `mask` is False.

    logps: log π of each token, nats. q, partitions [2, A, L]: Q of each token by either head, and log Σ exp Q over the vocabulary (0 where
    it was not asked for). targets: the lesser target Q of each token. values: V of the state before it.
    """

    mask: Tensor
    logps: Tensor
    q: Tensor
    partitions: Tensor
    targets: Tensor
    values: Tensor


class QLearner:
    """Changes the adapter "policy" of `trunk` and the heads. `beta` goes into the checkpoint: how the policy is to be sampled."""

    def __init__(self, trunk: Trunk, *, rank: int, alpha: float, beta: float, micro_tokens: int, seed: int) -> None:
        self.trunk = trunk
        trunk.adapters.add(POLICY, rank=rank, alpha=alpha, seed=seed)
        self.q_values = QValues(trunk.width, seed).to(trunk.device)
        self.beta = beta
        self.micro_tokens = micro_tokens
        self.optimiser: Optimiser | None = None

    @property
    def shape(self) -> QShaping:
        """What the policy is sampled from, as it is now."""
        return QShaping(self.q_values, self.trunk.head_weight, self.beta)

    @property
    def parameters(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Those of the adapter, and those of the heads that learn."""
        heads = [*self.q_values.q.parameters(), *self.q_values.value.parameters()]
        return self.trunk.adapters.parameters(POLICY), heads

    def optimise(
        self, optimiser: Callable[[list[tuple[list[nn.Parameter], float]]], Optimiser], rate: float, head_rate: float
    ) -> None:
        """Set the optimizer up: `rate` for the adapter, `head_rate` for the heads."""
        adapter, heads = self.parameters
        self.optimiser = optimiser([(adapter, rate), (heads, head_rate)])

    def see(self, packed: Packed, states: Tensor, *, partitions: bool) -> Seen:
        """Everything the losses read, with gradient; `partitions` costs two passes over the vocabulary."""
        with self.trunk.adapters.using(POLICY):
            found = self.trunk.predict(packed, states)
        weight, tokens = self.trunk.head_weight, packed.tokens[found.rows, found.columns]
        heads = heads_of(self.q_values.q)
        if partitions:
            both = [head.chosen_and_partition(found.hidden, weight, tokens) for head in heads]
        else:
            both = [(q, torch.zeros_like(q)) for q in (head.chosen(found.hidden, weight, tokens) for head in heads)]
        answers, offsets = _places(packed, found.rows, found.columns)
        shape = (packed.ends.numel(), int(offsets.max()) + 1)

        def lay(values: Tensor) -> Tensor:
            return torch.zeros(shape, device=values.device, dtype=values.dtype).index_put((answers, offsets), values)

        return Seen(
            lay(torch.ones_like(answers, dtype=torch.bool)),
            lay(found.logps),
            torch.stack([lay(q) for q, _ in both]),
            torch.stack([lay(partition) for _, partition in both]),
            lay(self.q_values.target(found.hidden, weight, tokens)),
            lay(self.q_values.value(found.hidden)),
        )

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of one micro-batch."""
        self._ready().backward(loss)

    def step(self, loss: float) -> tuple[float, bool]:
        """Update by the gradients added up, whose `loss` it was; gives the norm before clipping and whether the step was skipped.

        It is where loss or norm is not finite. Raises MannersError the third time in a row.
        """
        if not math.isfinite(loss):
            self._ready().skip()
            return math.nan, True
        norm = self._ready().step()
        return norm, not math.isfinite(norm)

    @torch.no_grad()
    def logprobs(self, rollouts: Rollouts, who: Literal["policy", "reference"], temperature: float = 1.0) -> Tensor:
        """Log-probabilities [B, T] of rollouts of this trunk under π, unshaped, or under the reference."""
        logps = torch.zeros_like(rollouts.logps)
        with self.trunk.adapters.using(POLICY if who == "policy" else None):
            for index, part in rollouts.micro_batches(3 * self.micro_tokens):
                found = self.trunk.predict(part, part.states, temperature=temperature)
                logps[index[found.rows], found.columns] = found.logps
        return logps

    def save(self, path: Path) -> None:
        """Write adapter (peft's format), heads and manners.json into the folder `path`, all or nothing.

        Raises MannersError when a weight is not finite: such a checkpoint is never written.
        """
        adapter, _ = self.parameters
        if not all(p.isfinite().all() for p in [*adapter, *self.q_values.parameters()]):
            raise MannersError(f"a weight of the policy is not a finite number; {path} is not written")
        with writing(path) as beside:
            beside.mkdir()
            self.trunk.adapters.save(POLICY, beside, base=self.trunk.name)
            save_q_values(self.q_values, beside, train_layers=self.trunk.train_layers, beta=self.beta)

    def save_state(self, folder: Path) -> None:
        """Write all that a run needs to go on to the bit into `folder`: weights, targets, Adam's moments and counts."""
        moments, counts = self._ready().state()
        parts = {POLICY: self.trunk.adapters.state(POLICY), "heads": self.q_values.state_dict(), "adam": moments}
        tensors = {f"{part}.{key}": tensor.detach().cpu().contiguous()
                   for part, found in parts.items() for key, tensor in found.items()}  # fmt: skip
        save_file(dict(sorted(tensors.items())), folder / "learner.safetensors")
        write_json(folder / "learner.json", counts)

    def load_state(self, folder: Path) -> None:
        tensors = read_tensors(folder / "learner.safetensors")

        def of(part: str) -> dict[str, Tensor]:
            return {k.removeprefix(f"{part}."): v for k, v in tensors.items() if k.startswith(f"{part}.")}

        self.trunk.adapters.load_state(POLICY, of(POLICY))
        self.q_values.load_state_dict(of("heads"))
        self._ready().load_state(of("adam"), read_json(folder / "learner.json"))

    def _ready(self) -> Optimiser:
        if self.optimiser is None:
            raise MannersError("the learner has no optimizer yet; call optimise first")
        return self.optimiser


def _places(packed: Packed, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """For tokens at (rows, columns) [N]: which answer of the batch each belongs to, and where in it it stands, from 0."""
    prompt_lengths = (packed.segments == 0).sum(-1)
    answers = rows * packed.ends.shape[1] + packed.segments[rows, columns] - 1
    return answers, packed.positions[rows, columns] - prompt_lengths[rows]
