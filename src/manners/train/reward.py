"""The reward model: learns from pairs with −log σ(r_j − r_k), the preferred one first, or from whole rankings, ties included.

All completions of one prompt stand in one row and share the prompt; their states below the branch are computed once and serve
every epoch, and every member where an ensemble is trained. Details, values and sources: docs/details/reward.md.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from manners.batches import split_by_tokens
from manners.config import Config
from manners.errors import MannersError
from manners.learner.optimiser import Optimiser, Schedule
from manners.models.heads import ScalarHead
from manners.models.load import load_trunk
from manners.models.quantised import BaseBits
from manners.models.recompute import GradientCheckpointing
from manners.models.trunk import TrainLayers, Trunk
from manners.ops.probe import choose_strength, fit_probe
from manners.records import Judgement, Pair, Prompt
from manners.rewards.ensemble import RewardEnsemble
from manners.rewards.evaluation import evaluate_reward
from manners.rewards.groups import GroupStates, States, group_pairs, raw_rewards
from manners.rewards.model import Read, RewardModel
from manners.rewards.objective import Loss, Objective, Ties, weighted_right
from manners.runs import Run, Track, untracked, write_json
from manners.sampling.local import LocalSampler
from manners.text.chat import Chat

ADAPTER = "reward"
MEMBER_SEEDS_APART = 100_003  # runs are given small seeds: members of two runs shall not meet
SAMPLED_AT_ONCE = 64


class RewardConfig(Config):
    """Settings of `train reward`."""

    model: str = Field(
        "starter", description="what the reward model starts from: best the fine-tuned model that PPO will start from"
    )
    train_layers: TrainLayers = Field(
        8, description="adapters on the top N layers, or 'all'; PPO shares the trunk where it has as many or more"
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
    members: int = Field(1, gt=0, description="an ensemble of so many reward models on one trunk; 1 = a single one")
    bootstrap: bool = Field(False, description="each member learns from prompts of its own, drawn with replacement")

    loss: Loss = Field(
        "pairs",
        description="on every pair; on the whole 'ranking' (Plackett–Luce); or on which answer is the 'best_of' all (softmax)",
    )
    ties: Ties = Field("drop", description="ties are left out, or are data by a likelihood that has room for them")
    margin: float = Field(0.0, ge=0, description="reward units between neighbouring tiers; 0 = plain −log σ(r_j − r_k)")
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    centring: float = Field(0.01, ge=0, description="weight of (r_j + r_k)²")

    epochs: int = Field(2, gt=0)
    batch: int = Field(8, gt=0, description="prompts, with all their completions, per optimizer step")
    learning_rate: float = Field(2e-4, gt=0, description="peak, for the adapter and the head")
    tie_learning_rate: float = Field(0.01, gt=0, description="peak, for the frequency of ties")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps with rising learning rate")
    schedule: Schedule = Field("linear", description="of the learning rate after the warm-up")
    adam_eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0)

    normalise_on: Literal["completions", "samples"] = Field(
        "completions",
        description="scores have mean 0 and deviation 1 on the training completions, or on samples of the reference",
    )
    normalise_samples: int = Field(256, ge=256, description="answers of the reference policy, to training prompts")
    normalise_temperature: float = Field(1.0, gt=0, description="of these samples; best that of PPO")
    normalise_max_tokens: int = Field(48, gt=0, description="of these samples; best that of PPO")

    max_prompt_tokens: int = Field(1024, gt=0, description="a longer prompt loses its beginning")
    max_tokens: int = Field(512, gt=0, description="completions are cut to this many tokens")
    micro_tokens: int = Field(4096, gt=0, description="positions with padding per forward pass")
    gradient_checkpointing: GradientCheckpointing = False
    base_bits: BaseBits = "full"
    trust_remote_code: bool = False
    seed: int = 0

    @model_validator(mode="after")
    def _go_together(self) -> RewardConfig:
        if self.loss == "best_of" and self.ties != "drop":
            raise ValueError("loss best_of looks at the best answer alone; set ties to drop")
        if self.loss == "ranking" and self.ties == "rao_kupper":
            raise ValueError("rao_kupper is a likelihood of pairs; with loss ranking set ties to davidson or drop")
        if self.loss != "pairs" and self.label_smoothing:
            raise ValueError("label_smoothing belongs to loss pairs; set it to 0")
        if self.margin and (self.loss != "pairs" or self.ties != "drop"):
            raise ValueError("margin belongs to loss pairs with ties drop; set it to 0")
        if self.bootstrap and self.members == 1:
            raise ValueError("bootstrap gives every member of an ensemble its own prompts; set members to 2 or more")
        return self

    @property
    def whole_rankings(self) -> bool:
        """Whether the loss reads what pairs do not hold: ties and whole orders."""
        return self.loss != "pairs" or self.ties != "drop"


def train_reward(
    config: RewardConfig,
    training: Sequence[Pair],
    heldout: Sequence[Pair],
    run: Run,
    trunk: Trunk | None = None,
    track: Track = untracked,
    rankings: Sequence[Judgement] = (),
    states: States | None = None,
) -> dict[str, Any]:
    """Train on `training`, report on `heldout` (pairs of other prompts), save to RUN/checkpoints/final; gives the evaluation.

    `trunk`: use this one instead of loading `config.model`; it must have adapters on the same layers. `rankings`: the judgements
    that `training` comes from, where the config asks for ties or whole rankings. `states`: branch states of the same trunk, for the judges
    that are trained on it one after the other; what is missing is added.
    """
    trunk = trunk or load_trunk(
        config.model, config.train_layers, trust_remote_code=config.trust_remote_code,
        gradient_checkpointing=config.gradient_checkpointing, base_bits=config.base_bits,
    )  # fmt: skip
    chat = Chat(trunk.tokenizer, trunk.context)
    told = _told(rankings, config)
    groups = group_pairs(training, chat, config.max_prompt_tokens, config.max_tokens, told)
    cached = GroupStates(trunk, groups, states)
    prompts = {p.id: p for p in (*(pair.prompt for pair in training), *(judgement.prompt for judgement in told))}
    asked = _asked(list(prompts.values()), chat, config) if config.normalise_on == "samples" else []
    members, ties = [], []
    for number in range(config.members):
        member, tie = _train_member(config, cached, number, run, track)
        members.append(member)
        ties.append(tie)
    _normalise(members, cached, asked, config, track)
    if config.members == 1:
        members[0].save(run.checkpoint("final"))
    else:
        RewardEnsemble(members).save(run.checkpoint("final"))
    evaluation = {}
    if heldout:
        evaluation = evaluate_reward(members, heldout, max_prompt_tokens=config.max_prompt_tokens, max_tokens=config.max_tokens,
                                     micro_tokens=config.micro_tokens, states=states, track=track)  # fmt: skip
        if config.ties != "drop":
            count = sum(len(group.ties) for group in groups)
            evaluation["ties"] = {"likelihood": config.ties, "parameters": ties, "n_ties": count}
    write_json(run.path / "evaluation.json", evaluation)
    return evaluation


def _told(rankings: Sequence[Judgement], config: RewardConfig) -> list[Judgement]:
    """The rankings that say something to the loss: without a likelihood for ties, those of two tiers or more."""
    if not config.whole_rankings:
        return []
    tiers = 2 if config.ties == "drop" else 1
    told = [j for j in rankings if len(j.ranking.tiers) >= tiers and not j.ranking.all_bad]
    if not told:
        raise MannersError(
            f"loss {config.loss} with ties {config.ties} learns from whole rankings and was given none that say anything;"
            " name --data that has some, or set loss=pairs and ties=drop"
        )
    return told


def _train_member(
    config: RewardConfig, cached: GroupStates, number: int, run: Run, track: Track
) -> tuple[RewardModel, list[float]]:
    """Train the member `number` of the ensemble, the first one with the seed of the run; gives it with what it learned of ties."""
    trunk, groups, seed = cached.trunk, cached.groups, config.seed + number * MEMBER_SEEDS_APART
    adapter = f"{ADAPTER}-{number}" if number else ADAPTER
    trunk.adapters.add(adapter, rank=config.rank, alpha=config.alpha, seed=seed)
    model = RewardModel(trunk, adapter, ScalarHead.for_reward(trunk.width, seed).to(trunk.device), config.read)
    prompts = _bootstrap(len(groups), seed) if config.bootstrap else list(range(len(groups)))
    if config.head == "probe":
        _probe(model, cached, Counter(prompts), config.micro_tokens, track)
    objective = Objective(groups, loss=config.loss, ties=config.ties, margin=config.margin,
                          label_smoothing=config.label_smoothing, centring=config.centring).to(trunk.device)  # fmt: skip
    steps = config.epochs * -(-len(groups) // config.batch)
    optimiser = _optimiser(config, [*trunk.adapters.parameters(adapter), *model.head.parameters()], objective, steps)
    of = {"member": number} if config.members > 1 else {}
    bar = f"member {number + 1} of {config.members}" if of else "reward model"
    for step, (epoch, batch) in enumerate(track(_plan(config, prompts, seed), bar), number * steps):
        start = time.monotonic()
        whole = [groups[i] for i in batch]
        loss_sum = right = 0.0
        for part in split_by_tokens(torch.tensor([group.length for group in whole]), config.micro_tokens):
            indices = part.tolist()
            packed, states = cached.batch([batch[i] for i in indices])
            rewards = model.raw(packed, states)
            loss = objective(rewards, [whole[i] for i in indices], whole)
            optimiser.backward(loss)
            loss_sum += float(loss.detach())
            right += weighted_right(rewards.detach(), [whole[i] for i in indices])
        optimiser.step()
        weight = sum(pair.weight for group in whole for pair in group.pairs)
        run.log(**of, epoch=epoch, step=step, loss=loss_sum, accuracy=right / weight if weight else None,
                learning_rate=config.learning_rate * optimiser.factor)  # fmt: skip
        run.time(step=step, seconds=round(time.monotonic() - start, 3))
    return model, objective.tie_parameters()


def _plan(config: RewardConfig, prompts: Sequence[int], seed: int) -> list[tuple[int, list[int]]]:
    """The epoch and the prompts of every optimizer step: each epoch goes through all of them in a new order."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (epoch, [prompts[i] for i in chunk.tolist()])
        for epoch in range(config.epochs)
        for chunk in torch.randperm(len(prompts), generator=generator).split(config.batch)
    ]


def _bootstrap(count: int, seed: int) -> list[int]:
    """`count` of `count` prompts drawn with replacement (Efron & Tibshirani 1993; Breiman 1996): some twice, a third of them never."""
    return torch.randint(count, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def _optimiser(config: RewardConfig, weights: list[nn.Parameter], objective: Objective, steps: int) -> Optimiser:
    rates = [(weights, config.learning_rate)]
    if config.ties != "drop":
        rates.append(([objective.log_ties], config.tie_learning_rate))
    return Optimiser(
        rates,
        steps=steps,
        warmup_steps=round(config.warmup * steps),
        schedule=config.schedule,
        eps=config.adam_eps,
        weight_decay=config.weight_decay,
    )


@torch.no_grad()
def _probe(
    model: RewardModel, cached: GroupStates, prompts: Mapping[int, int], micro_tokens: int, track: Track
) -> None:
    """Set the head to the linear probe on the features of the pairs; its strength by cross-validation over prompts.

    `prompts` says how often each group counts; the others do not.
    """
    rows: list[tuple[Tensor, float, int]] = []
    for part in track(cached.parts(micro_tokens), "probing"):
        packed, states = cached.batch(part)
        for i, features in zip(part, model.features(packed, states).float().cpu(), strict=True):
            pairs = cached.groups[i].pairs if prompts.get(i) else []
            rows += [(features[pair.j] - features[pair.k], pair.weight * prompts[i], i) for pair in pairs]
    if not rows:
        raise MannersError("head probe learns from pairs and there are none; set head to random")
    differences = torch.stack([row[0] for row in rows])
    weights, clusters = torch.tensor([row[1] for row in rows]), torch.tensor([row[2] for row in rows])
    with torch.enable_grad():
        strength = choose_strength(differences, weights, clusters)
        fitted = fit_probe(differences, weights, strength)
    model.head.linear.weight.copy_(fitted[None])


def _normalise(
    members: Sequence[RewardModel], cached: GroupStates, asked: Sequence[Prompt], config: RewardConfig, track: Track
) -> None:
    """Set the scale that scores are given in: mean 0 and deviation 1 over samples, or over the training completions."""
    if asked:
        found = _scores_of_samples(members, asked, config, track)
    else:
        found = [torch.cat(raw_rewards(member, cached, config.micro_tokens, track)) for member in members]
    for member, rewards in zip(members, found, strict=True):
        member.mean, member.std = float(rewards.mean()), float(rewards.std().clamp(min=1e-6))


def _asked(prompts: Sequence[Prompt], chat: Chat, config: RewardConfig) -> list[Prompt]:
    """The prompts to sample answers to: training prompts in a seeded order, again from the beginning where they are too few.

    One that leaves no room for an answer is left out. Raises MannersError where all are.
    """
    fitting = [prompt for prompt in prompts if _fits(chat, prompt, config.normalise_max_tokens)]
    if not fitting:
        raise MannersError(
            f"no training prompt leaves room for normalise_max_tokens {config.normalise_max_tokens}; lower it"
        )
    order = torch.randperm(len(fitting), generator=torch.Generator().manual_seed(config.seed)).tolist()
    return [fitting[order[i % len(fitting)]] for i in range(config.normalise_samples)]


def _fits(chat: Chat, prompt: Prompt, room: int) -> bool:
    with contextlib.suppress(MannersError):
        return bool(chat.prompt(prompt, room=room))
    return False


def _scores_of_samples(
    members: Sequence[RewardModel], asked: Sequence[Prompt], config: RewardConfig, track: Track
) -> list[Tensor]:
    """Raw rewards [N] by each member of an answer of the reference policy, the bare base, to each of N prompts."""
    sampler = LocalSampler(members[0].trunk, None, batch=SAMPLED_AT_ONCE)
    scores: list[list[Tensor]] = [[] for _ in members]
    for start in track(range(0, len(asked), SAMPLED_AT_ONCE), "sampling the reference"):
        rollouts = sampler.sample(
            asked[start : start + SAMPLED_AT_ONCE],
            max_tokens=config.normalise_max_tokens,
            temperature=config.normalise_temperature,
            seed=config.seed + start,
        )
        for own, member in zip(scores, members, strict=True):
            own.append(member.score(rollouts, 3 * config.micro_tokens).float().cpu())
    return [torch.cat(own) for own in scores]
