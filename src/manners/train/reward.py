"""The reward model: learns from pairs with −log σ(r_j − r_k), the preferred one first.

All completions of one prompt stand in one row and share the prompt; their states below the branch are computed once and serve
every epoch. Details, values and sources: docs/details/reward.md.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from manners.batches import split_by_tokens
from manners.config import Config
from manners.errors import MannersError
from manners.learner.optimiser import Optimiser
from manners.losses.preference import centring_loss, pair_loss
from manners.models.heads import ScalarHead
from manners.models.load import load_trunk
from manners.models.trunk import Packed, TrainLayers, Trunk, pack_rows
from manners.ops.calibration import calibration
from manners.ops.intervals import bootstrap_mean
from manners.ops.probe import choose_strength, fit_probe
from manners.records import Completion, Pair
from manners.rewards.model import Read, RewardModel
from manners.runs import Run, Track, untracked, write_json
from manners.text.chat import Chat

ADAPTER = "reward"


class RewardConfig(Config):
    """Settings of `train reward`."""

    model: str = Field(
        "starter", description="what the reward model starts from: best the fine-tuned model that PPO will start from"
    )
    train_layers: TrainLayers = Field(
        8, description="adapters on the top N layers, or 'all'; PPO shares the trunk where it has the same"
    )
    read: Read = Field(
        "last",
        description="read the answer at its 'last' token, or as the 'mean' over its tokens (better for small models)",
    )
    head: Literal["random", "probe"] = Field(
        "random",
        description="the head begins 'random', or as a linear 'probe' on the frozen features (for noisy judgements)",
    )
    rank: int = Field(16, gt=0, description="LoRA rank")
    alpha: float = Field(32, gt=0, description="LoRA alpha")
    epochs: int = Field(2, gt=0)
    batch: int = Field(8, gt=0, description="prompts, with all their completions, per optimizer step")
    learning_rate: float = Field(2e-4, gt=0, description="peak, for the adapter and the head")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps with rising learning rate")
    weight_decay: float = Field(0.0, ge=0)
    margin: float = Field(0.0, ge=0, description="reward units between neighbouring tiers; 0 = plain −log σ(r_j − r_k)")
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    centring: float = Field(0.01, ge=0, description="weight of (r_j + r_k)²")
    max_prompt_tokens: int = Field(1024, gt=0, description="a longer prompt loses its beginning")
    max_tokens: int = Field(512, gt=0, description="completions are cut to this many tokens")
    micro_tokens: int = Field(4096, gt=0, description="positions with padding per forward pass")
    trust_remote_code: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Group:
    """All pairs of one prompt: tokens of the prompt and of its K completions; (j, k, weight, tiers apart) per pair."""

    prompt_id: str
    category: str
    prompt: list[int]
    completions: list[list[int]]
    pairs: list[tuple[int, int, float, float]]

    @property
    def length(self) -> int:
        return len(self.prompt) + sum(len(c) for c in self.completions)


def group_pairs(pairs: Sequence[Pair], chat: Chat, max_prompt_tokens: int, max_tokens: int) -> list[Group]:
    """Pairs put together by prompt, tokenised; each completion once. Raises MannersError when there are none."""
    if not pairs:
        raise MannersError("there are no pairs to learn from; rankings with ties only, or all bad, give none")
    by_prompt: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        by_prompt[pair.prompt.id].append(pair)
    groups = []
    for prompt_id, members in by_prompt.items():
        prompt = members[0].prompt
        place: dict[str, int] = {}
        completions: list[Completion] = []
        for completion in (c for pair in members for c in (pair.chosen, pair.rejected)):
            if completion.id not in place:
                place[completion.id] = len(completions)
                completions.append(completion)
        tokens, answers = chat.judged(prompt, completions, max_prompt_tokens, max_tokens)
        indices = [(place[p.chosen.id], place[p.rejected.id], p.weight, p.margin) for p in members]
        groups.append(Group(prompt_id, prompt.category, tokens, answers, indices))
    return groups


class _Groups:
    """Groups with their branch states, computed at first use and kept in memory up to `limit` bytes."""

    def __init__(self, trunk: Trunk, groups: Sequence[Group], limit: int = 2 << 30) -> None:
        self.trunk = trunk
        self.groups = groups
        bytes_each = trunk.width * trunk.head_weight.element_size()
        self.keep = sum(g.length for g in groups) * bytes_each <= limit
        self.states: dict[int, Tensor] = {}

    def batch(self, indices: Sequence[int]) -> tuple[Packed, Tensor]:
        packed = pack_rows([(self.groups[i].prompt, self.groups[i].completions) for i in indices]).to(self.trunk.device)
        if not all(i in self.states for i in indices):
            states = self.trunk.states(packed)
            if self.keep:
                for row, i in enumerate(indices):
                    self.states[i] = states[row, : self.groups[i].length].clone()
            return packed, states
        return packed, torch.nn.utils.rnn.pad_sequence([self.states[i] for i in indices], batch_first=True)


def train_reward(
    config: RewardConfig,
    training: Sequence[Pair],
    heldout: Sequence[Pair],
    run: Run,
    trunk: Trunk | None = None,
    track: Track = untracked,
) -> dict[str, Any]:
    """Train on `training`, report on `heldout` (pairs of other prompts), save to RUN/checkpoints/final; gives the evaluation.

    `trunk`: use this one instead of loading `config.model`; it must have adapters on the same layers.
    """
    trunk = trunk or load_trunk(config.model, config.train_layers, trust_remote_code=config.trust_remote_code)
    trunk.adapters.add(ADAPTER, rank=config.rank, alpha=config.alpha, seed=config.seed)
    head = ScalarHead.for_reward(trunk.width, config.seed).to(trunk.device)
    model = RewardModel(trunk, ADAPTER, head, config.read)
    groups = group_pairs(training, model.chat, config.max_prompt_tokens, config.max_tokens)
    cached = _Groups(trunk, groups)
    if config.head == "probe":
        _probe(model, cached, config.micro_tokens, track)
    steps = config.epochs * -(-len(groups) // config.batch)
    optimiser = Optimiser(
        [(trunk.adapters.parameters(ADAPTER) + list(head.parameters()), config.learning_rate)],
        steps=steps, warmup_steps=round(config.warmup * steps), weight_decay=config.weight_decay,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(config.seed)
    start = time.monotonic()
    plan = [
        (epoch, chunk.tolist())
        for epoch in range(config.epochs)
        for chunk in torch.randperm(len(groups), generator=generator).split(config.batch)
    ]
    for step, (epoch, members) in enumerate(track(plan, "reward model")):
        weight_sum = sum(w for i in members for _, _, w, _ in groups[i].pairs)
        loss_sum = right = 0.0
        for part in split_by_tokens(torch.tensor([groups[i].length for i in members]), config.micro_tokens):
            indices = [members[i] for i in part.tolist()]
            packed, states = cached.batch(indices)
            preferred, other, weights, margins = _pairs(model.raw(packed, states), [groups[i] for i in indices])
            loss = pair_loss(preferred, other, margin=config.margin * margins, label_smoothing=config.label_smoothing)
            loss = (weights * (loss + config.centring * centring_loss(preferred, other))).sum() / weight_sum
            optimiser.backward(loss)
            loss_sum += float(loss.detach())
            right += float((weights * (preferred > other)).sum())
        optimiser.step()
        run.log(epoch=epoch, step=step, loss=loss_sum, accuracy=right / weight_sum, learning_rate=config.learning_rate * optimiser.factor,
                seconds=round(time.monotonic() - start, 2))  # fmt: skip
    model.mean, model.std = _moments(model, cached, config.micro_tokens, track)
    model.save(run.checkpoint("final"))
    evaluation = evaluate_reward(model, heldout, config, track) if heldout else {}
    write_json(run.path / "evaluation.json", evaluation)
    return evaluation


def _pairs(rewards: Tensor, groups: Sequence[Group]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """r_j, r_k, weight and tiers apart [N] of all pairs of the batch, from rewards [B, K]."""
    rows = torch.tensor([b for b, g in enumerate(groups) for _ in g.pairs])
    j, k, weight, apart = (torch.tensor([p[i] for g in groups for p in g.pairs]) for i in range(4))
    return rewards[rows, j.long()], rewards[rows, k.long()], weight.to(rewards), apart.to(rewards)


@torch.no_grad()
def _rewards(model: RewardModel, cached: _Groups, micro_tokens: int, track: Track) -> list[Tensor]:
    """Raw rewards [K] of each group's completions."""
    found: dict[int, Tensor] = {}
    parts = split_by_tokens(torch.tensor([g.length for g in cached.groups]), 3 * micro_tokens)
    for part in track(parts, "scoring"):
        packed, states = cached.batch(part.tolist())
        for i, row, ends in zip(part.tolist(), model.raw(packed, states), packed.ends, strict=True):
            found[i] = row[ends >= 0].float().cpu()
    return [found[i] for i in range(len(cached.groups))]


@torch.no_grad()
def _probe(model: RewardModel, cached: _Groups, micro_tokens: int, track: Track) -> None:
    """Set the head to the linear probe on the features of the training pairs; its strength by cross-validation over prompts."""
    rows: list[tuple[Tensor, float, int]] = []
    parts = split_by_tokens(torch.tensor([g.length for g in cached.groups]), 3 * micro_tokens)
    for part in track(parts, "probing"):
        packed, states = cached.batch(part.tolist())
        for i, features in zip(part.tolist(), model.features(packed, states).float().cpu(), strict=True):
            rows += [(features[j] - features[k], weight, i) for j, k, weight, _ in cached.groups[i].pairs]
    differences = torch.stack([row[0] for row in rows])
    weights, clusters = torch.tensor([row[1] for row in rows]), torch.tensor([row[2] for row in rows])
    with torch.enable_grad():
        strength = choose_strength(differences, weights, clusters)
        fitted = fit_probe(differences, weights, strength)
    model.head.linear.weight.copy_(fitted[None])


def _moments(model: RewardModel, cached: _Groups, micro_tokens: int, track: Track) -> tuple[float, float]:
    """Mean and standard deviation of the raw rewards of the training completions: the scale that scores are given in."""
    rewards = torch.cat(_rewards(model, cached, micro_tokens, track))
    return float(rewards.mean()), float(rewards.std().clamp(min=1e-6))


def evaluate_reward(
    model: RewardModel, pairs: Sequence[Pair], config: RewardConfig, track: Track = untracked
) -> dict[str, Any]:
    """Accuracy on held-out pairs with its interval (whole prompts resampled), calibration, the length baseline, by category."""
    groups = group_pairs(pairs, model.chat, config.max_prompt_tokens, config.max_tokens)
    rewards = _rewards(model, _Groups(model.trunk, groups), config.micro_tokens, track)
    rows = [
        (number, float(r[j] - r[k]), len(g.completions[j]) - len(g.completions[k]), g.category)
        for number, (g, r) in enumerate(zip(groups, rewards, strict=True))
        for j, k, _, _ in g.pairs
    ]
    cluster = torch.tensor([row[0] for row in rows])
    difference = torch.tensor([row[1] for row in rows])
    longer = torch.tensor([float(row[2]) for row in rows])
    right = (difference > 0).double()
    lengths = torch.tensor([float(len(c)) for g in groups for c in g.completions])
    accuracy = bootstrap_mean(right, cluster)
    return {
        "accuracy": accuracy.mean,
        "ci": accuracy.ends,
        "n_pairs": len(rows),
        "n_prompts": len(groups),
        **calibration(torch.sigmoid(difference)),
        "length_baseline": float(((longer > 0).double() + 0.5 * (longer == 0).double()).mean()),
        "length_correlation": _correlation(lengths, torch.cat(rewards)),
        "by_category": {
            name: _accuracy([i for i, row in enumerate(rows) if row[3] == name], right, cluster)
            for name in sorted({row[3] for row in rows if row[3]})
        },
    }


def _accuracy(indices: list[int], right: Tensor, cluster: Tensor) -> dict[str, Any]:
    accuracy = bootstrap_mean(right[indices], cluster[indices])
    return {"accuracy": accuracy.mean, "ci": accuracy.ends, "n_pairs": len(indices)}


def _correlation(x: Tensor, y: Tensor) -> float:
    """Pearson's correlation; 0 where one of them does not vary."""
    if len(x) < 2 or float(x.std()) == 0 or float(y.std()) == 0:
        return 0.0
    return float(torch.corrcoef(torch.stack([x.double(), y.double()]))[0, 1])
