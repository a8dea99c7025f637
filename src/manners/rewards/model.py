"""The reward model: an adapter and a scalar head on a trunk.

It reads the answer either at its last real token, as is usual, or as the mean over the answer's tokens, which serves small models
better (measured in docs/log.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from manners.batches import Rollouts, split_by_tokens
from manners.errors import MannersError
from manners.models.adapters import read_tensors
from manners.models.heads import ScalarHead
from manners.models.load import base_of, load_trunk
from manners.models.packing import Packed, pack_rows
from manners.models.trunk import TrainLayers, Trunk
from manners.records import Completion, Prompt
from manners.runs import read_json, write_json, writing
from manners.text.chat import Chat

Read = Literal["last", "mean"]


class RewardModel:
    """Rewards of answers. Scores are (raw − mean)/std: on the samples it was normalised on they have mean 0 and deviation 1."""

    def __init__(
        self, trunk: Trunk, adapter: str, head: ScalarHead, read: Read, mean: float = 0.0, std: float = 1.0
    ) -> None:
        self.trunk = trunk
        self.adapter = adapter
        self.head = head
        self.read = read
        self.mean, self.std = mean, std
        self.chat = Chat(trunk.tokenizer, trunk.context)

    def features(self, packed: Packed, states: Tensor) -> Tensor:
        """What the head reads [B, K, H] of packed rows from their branch states, with gradient; where a row has no k-th answer:
        something to be left out by `packed.ends >= 0`."""
        shape = packed.ends.shape
        if self.read == "last":
            rows = torch.arange(shape[0], device=states.device)[:, None].expand(shape).flatten()
            columns = packed.ends.clamp(min=0).flatten()
        else:
            rows, columns = packed.response_mask.nonzero(as_tuple=True)
        with self.trunk.adapters.using(self.adapter):
            hidden = self.trunk.hidden_at(packed, states, rows, columns)
        if self.read == "last":
            return hidden.view(*shape, -1)
        answers = rows * shape[1] + packed.segments[rows, columns] - 1
        return _means(hidden, answers, packed.ends.numel()).view(*shape, -1)

    def raw(self, packed: Packed, states: Tensor) -> Tensor:
        """Raw rewards [B, K]: the head on the features."""
        rewards: Tensor = self.head(self.features(packed, states))
        return rewards

    def score(self, rollouts: Rollouts, max_tokens: int = 8192) -> Tensor:
        """Scores [B] of rollouts. Token for token and state for state what was sampled, where sampler and judge share a trunk."""
        return score_rollouts([self], rollouts, max_tokens)[:, 0]

    def score_texts(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion], max_tokens: int = 8192
    ) -> Tensor:
        """Scores [N] of completions[i] as answers to prompts[i]."""
        return score_texts([self], prompts, completions, max_tokens)[:, 0]

    def save(self, path: Path) -> None:
        """Write adapter (peft's format), head and manners.json with the normalisation into the folder `path`, all or nothing."""
        with writing(path) as beside:
            beside.mkdir()
            self.trunk.adapters.save(self.adapter, beside, base=self.trunk.name)
            save_file(
                {k: v.detach().contiguous().cpu() for k, v in self.head.state_dict().items()},
                beside / "head.safetensors",
            )
            facts = {"role": "reward", "train_layers": self.trunk.train_layers, "read": self.read, "mean": self.mean, "std": self.std,
                     "base": self.trunk.fingerprint, "base_bits": self.trunk.base_bits}  # fmt: skip
            write_json(beside / "manners.json", facts)

    @classmethod
    def load(cls, folder: Path, trunk: Trunk | None = None, adapter: str = "reward") -> RewardModel:
        """The reward model in `folder`, on `trunk` where that is the very base it was trained on, with adapters on as many layers or more,
        else on a trunk of its own.

        Raises MannersError for a folder that holds no reward model.
        """
        return cls.load_among(folder, [] if trunk is None else [trunk], adapter)

    @classmethod
    def load_among(cls, folder: Path, trunks: Sequence[Trunk], adapter: str) -> RewardModel:
        """The reward model in `folder`, on the first of `trunks` that is the very base it was trained on, else on one of its own."""
        folder = final_checkpoint(folder)
        if not (folder / "head.safetensors").exists():
            raise MannersError(f"{folder} holds no reward model; train one with `manners train reward`")
        facts = read_json(folder / "manners.json")
        fitting = (t for t in trunks if _reaches(t, facts["train_layers"]) and t.fingerprint == facts["base"])
        trunk = next(fitting, None) or _own_trunk(folder, facts)
        trunk.adapters.load(adapter, folder, partly=True)
        head = ScalarHead(trunk.width)
        head.load_state_dict(read_tensors(folder / "head.safetensors"))
        return cls(trunk, adapter, head.to(trunk.device), facts["read"], float(facts["mean"]), float(facts["std"]))


@torch.no_grad()
def score_rollouts(models: Sequence[RewardModel], rollouts: Rollouts, max_tokens: int = 8192) -> Tensor:
    """Scores [B, M] of rollouts by reward models that share a trunk: from the rollouts' own states where that trunk sampled them."""
    trunk = models[0].trunk
    if rollouts.trunk is not trunk:
        return score_texts(models, rollouts.prompts, rollouts.completions, max_tokens).to(rollouts.tokens.device)
    scores = torch.zeros(len(rollouts), len(models), device=rollouts.tokens.device)
    for index, part in rollouts.micro_batches(max_tokens):
        for column, model in enumerate(models):
            last = (torch.arange(len(part), device=index.device), part.lengths - 1)
            rows, columns = last if model.read == "last" else part.response_mask.nonzero(as_tuple=True)
            with trunk.adapters.using(model.adapter):
                hidden = trunk.hidden_at(part, part.states, rows, columns)
            scores[index, column] = model.head(hidden if model.read == "last" else _means(hidden, rows, len(part)))
    return _normalise(scores, models)


@torch.no_grad()
def score_texts(
    models: Sequence[RewardModel], prompts: Sequence[Prompt], completions: Sequence[Completion], max_tokens: int = 8192
) -> Tensor:
    """Scores [N, M] of completions[i] as answers to prompts[i] by reward models that share a trunk; branch states are computed once."""
    trunk, chat = models[0].trunk, models[0].chat
    rows = [chat.judged(p, [c]) for p, c in zip(prompts, completions, strict=True)]
    scores = torch.zeros(len(rows), len(models))
    for index in split_by_tokens(torch.tensor([len(p) + len(c[0]) for p, c in rows]), max_tokens):
        packed = pack_rows([rows[i] for i in index.tolist()]).to(trunk.device)
        states = trunk.states(packed)
        for column, model in enumerate(models):
            scores[index, column] = model.raw(packed, states)[:, 0].cpu()
    return _normalise(scores, models)


def final_checkpoint(folder: Path) -> Path:
    """The final checkpoint of a run; any other folder is one already."""
    return folder / "checkpoints" / "final" if (folder / "lineage.json").exists() else folder


def _normalise(scores: Tensor, models: Sequence[RewardModel]) -> Tensor:
    return torch.stack([(scores[:, i] - model.mean) / model.std for i, model in enumerate(models)], 1)


def _own_trunk(folder: Path, facts: Mapping[str, Any]) -> Trunk:
    """The base that the reward model in `folder` was trained on, loaded anew. Raises MannersError where it has other weights now."""
    base = base_of(folder)
    trunk = load_trunk(base, facts["train_layers"], base_bits=facts.get("base_bits", "full"))
    if trunk.fingerprint != facts["base"]:
        raise MannersError(
            f"the reward model in {folder} was trained on other weights than {base} now has; train it again"
        )
    return trunk


def _reaches(trunk: Trunk, train_layers: TrainLayers) -> bool:
    """Whether every layer that an adapter on `train_layers` changes has room for one on `trunk`."""
    return trunk.branch == 0 or (train_layers != "all" and train_layers <= len(trunk.layers) - trunk.branch)


def _means(hidden: Tensor, answers: Tensor, count: int) -> Tensor:
    """Means [count, H] of hidden [N, H] over the tokens of each answer, of which `answers` [N] is the number; 0 for an empty one."""
    sums = hidden.new_zeros(count, hidden.shape[-1]).index_add(0, answers, hidden)
    return sums / answers.bincount(minlength=count).clamp(min=1)[:, None]
