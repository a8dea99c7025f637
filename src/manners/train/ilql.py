"""Implicit language Q-learning (ILQL): a policy from answers that are there already, with what they earned. Nothing is tried out.

Two Q heads learn by temporal differences what comes of each token, a value head what comes of a text if only the better of the tokens
seen there are taken; tokens never seen are held down; the policy itself learns to say what is in the data. It is sampled from
log π + β·(Q − V). Snell et al. 2022 (arXiv 2206.11871). Details, values and sources: docs/details/ilql.md.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from manners.batches import pad_rows, split_by_tokens
from manners.config import Config
from manners.feedback.answers import Answered, read_answers, together
from manners.learner.local import POLICY
from manners.learner.offending import watching
from manners.learner.offline import QLearner, Seen
from manners.learner.optimiser import Optimiser, Schedule
from manners.learner.progress import Progress, load_progress, save_progress
from manners.learner.randomness import seed_randomness
from manners.losses.ilql import advantage_weights, conservative_loss, expectile_loss, td_loss
from manners.models.load import load_trunk
from manners.models.quantised import BaseBits
from manners.models.recompute import GradientCheckpointing
from manners.models.trunk import TrainLayers, Trunk
from manners.ops.advantages import gae
from manners.ops.kl import k1
from manners.protocols import Objective, Scorer
from manners.records import Prompt
from manners.rewards.episodes import centred, judged_by, rewards_of_tokens, tokenised
from manners.rewards.groups import GroupStates
from manners.rewards.load import ScorerConfig, load_scorer
from manners.rewards.opinion import ask
from manners.runs import Run, Track, untracked, write_jsonl
from manners.sampling.local import LocalSampler
from manners.text.chat import Chat
from manners.train.recording import Clock

ANSWERS = "answers.jsonl"  # in the run's folder: what it learns from, with rewards
SAMPLED_AT_ONCE = 64
ROUNDS_APART = 1_000_003  # runs with small seeds never sample with the same numbers


class ILQLConfig(Config):
    """Settings of `train ilql`."""

    model: str = Field("starter", description="the policy to start from; it is also the frozen reference")
    reward: ScorerConfig = Field(
        ScorerConfig(), description="the judge that says what answers earned; without one, the judgements do"
    )
    second_judge: ScorerConfig = Field(ScorerConfig(), description="a judge that is only watched, never optimised")
    own_answers: int = Field(
        0, ge=0, description="answers of the model itself to each training prompt, put to the data; needs a judge"
    )
    judged_answers: bool = Field(True, description="learn from the answers in the data; false: from its own alone")
    centre_rewards: bool = Field(
        False, description="take off every reward what the answers to its prompt earned on average"
    )
    train_layers: TrainLayers = Field(8, description="adapters on the top N layers, or 'all'")
    rank: int = Field(16, gt=0, description="LoRA rank")
    alpha: float = Field(32, gt=0, description="LoRA alpha")

    gamma: float = Field(0.99, ge=0, le=1, description="discount per token")
    tau: float = Field(0.7, gt=0, lt=1, description="expectile of the value loss: 0.5 = mean, towards 1 = best")
    lam: float = Field(
        0.0, ge=0, le=1, description="of the TD targets: 0 looks a token ahead, 1 at what the answer really earned"
    )
    conservative_weight: float = Field(0.1, ge=0, description="of holding down tokens that the data never tried")
    cloning_weight: float = Field(1.0, ge=0, description="of the policy's log-likelihood of the data")
    cloning_beta: float = Field(0.0, ge=0, description="per reward unit: better tokens are cloned more; 0 = all alike")
    cloning_advantage: Literal["q", "target"] = Field(
        "q",
        description="what is better: a higher Q than V, or a TD target (with lam 1 what the answer really earned) above V",
    )
    cloning_cap: float = Field(20.0, gt=0, description="largest weight of a token in the cloning term")
    value_weight: float = Field(1.0, ge=0, description="of the value loss")
    target_every: int = Field(1, gt=0, description="optimizer steps between two moves of the targets")
    target_rate: float = Field(0.005, gt=0, le=1, description="how far they move to the Q heads; 1 = all the way")
    beta: float = Field(
        1.0, ge=0, description="of sampling, per reward unit: log π + beta·(Q − V); 0 = the policy alone"
    )

    epochs: int = Field(2, gt=0)
    batch: int = Field(16, gt=0, description="prompts, with all their answers, per optimizer step")
    learning_rate: float = Field(3e-4, gt=0, description="peak, policy adapter")
    head_learning_rate: float = Field(1e-3, gt=0, description="peak, Q heads and value head")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the optimizer steps with rising learning rate")
    schedule: Schedule = Field("linear", description="of the learning rates after the warm-up")
    adam_eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)

    max_prompt_tokens: int = Field(1024, gt=0, description="a longer prompt loses its beginning")
    max_answer_tokens: int = Field(512, gt=0, description="answers in the data are cut to this many tokens")
    micro_tokens: int = Field(4096, gt=0, description="positions with padding per forward pass")

    max_tokens: int = Field(48, gt=0, description="longest answer that is sampled, end-of-turn token included")
    temperature: float = Field(1.0, gt=0, description="of sampling")
    evaluate_every: int = Field(20, gt=0, description="optimizer steps between looks at the held-out prompts")
    evaluate_prompts: int = Field(
        32, ge=0, description="held-out prompts per look; where a judge is named the best look is kept; 0 = never look"
    )
    evaluate_samples: int = Field(1, gt=0, description="answers per held-out prompt and look")
    max_seconds: float | None = Field(
        None,
        gt=0,
        description="stop after the step in which the steps have taken this long; what comes of it depends on the machine",
    )
    log_rollouts: int = Field(6, ge=0, description="answers per look that samples.jsonl keeps")
    save_every: int = Field(10, gt=0, description="optimizer steps between states that a run can be resumed from")
    gradient_checkpointing: GradientCheckpointing = False
    base_bits: BaseBits = "full"
    trust_remote_code: bool = False
    seed: int = 0

    @model_validator(mode="after")
    def _own_answers_are_judged(self) -> ILQLConfig:
        if self.own_answers and not self.reward.named:
            raise ValueError(
                "nobody has judged the model's own answers; name a judge, reward.model, or set own_answers to 0"
            )
        if not (self.own_answers or self.judged_answers):
            raise ValueError("there is nothing to learn from; set own_answers, or judged_answers to true")
        return self

    @property
    def sources(self) -> dict[str, Path | str]:
        """What a run is made from beside its data, by name."""
        found: dict[str, Path | str] = {"model": self.model}
        for name, judge in (("reward", self.reward), ("second judge", self.second_judge)):
            found |= {f"{name} {number}" if number else name: source for number, source in enumerate(judge.sources)}
        return found


@dataclass(frozen=True)
class Data:
    """Episodes as tokens with their branch states, and the rewards [r] of each token of each answer."""

    cached: GroupStates
    rewards: list[list[Tensor]]

    def rewards_of(self, indices: Sequence[int], seen: Seen) -> Tensor:
        """Rewards [A, L] of the groups `indices`, laid out as `seen`."""
        most = len(seen.mask) // len(indices)
        rows = [rewards + [torch.zeros(0)] * (most - len(rewards)) for rewards in (self.rewards[i] for i in indices)]
        return pad_rows([row for group in rows for row in group]).to(seen.values)


@dataclass(frozen=True)
class Scorers:
    """Who says what an answer is worth: the judge whose scores are learned, and the one that only watches. Either may be missing."""

    reward: Scorer | None
    second: Scorer | None


def train_ilql(
    config: ILQLConfig,
    answered: Sequence[Answered],
    heldout: Sequence[Prompt],
    run: Run,
    trunk: Trunk | None = None,
    scorers: Scorers | None = None,
    track: Track = untracked,
    state: Path | None = None,
) -> Trunk:
    """Learn from `answered`; `heldout` prompts choose RUN/checkpoints/best. Gives the trunk with the adapter "policy" on it.

    What is learned from, with its rewards, is left in RUN/answers.jsonl.

    `scorers`: these in place of those that the config names. `state`: the folder that `run.resume()` gave, to go on from.
    """
    trunk = trunk or load_trunk(
        config.model, config.train_layers, trust_remote_code=config.trust_remote_code,
        gradient_checkpointing=config.gradient_checkpointing, base_bits=config.base_bits,
    )  # fmt: skip
    scorers = scorers or _scorers(config, trunk)
    clock = Clock()
    chat = Chat(trunk.tokenizer, trunk.context)
    learner = make_learner(config, trunk)
    if state:
        known = read_answers(run.path / ANSWERS)  # a judge that was asked again might say something else
    else:
        seed_randomness(config.seed)
        own = own_answers(config, [one.prompt for one in together(answered)], trunk, track)
        known = together([*(answered if config.judged_answers else []), *own])
    groups = tokenised(known, chat, config.max_prompt_tokens, config.max_answer_tokens)
    cached = GroupStates(trunk, groups)
    if not state:
        if scorers.reward is not None:
            known = judged_by(scorers.reward, known, cached, chat, config.micro_tokens, track)
        write_jsonl(run.path / ANSWERS, (one.to_json() for one in known))
    rewards = rewards_of_tokens(known, groups, chat)
    data = Data(cached, centred(rewards) if config.centre_rewards else rewards)
    sampler = LocalSampler(trunk, POLICY, model_name=str(run.path), shape=learner.shape)
    ilql_loop(config, data, heldout[: config.evaluate_prompts], run, sampler, scorers, learner, track, state, clock)
    return trunk


def _scorers(config: ILQLConfig, trunk: Trunk) -> Scorers:
    named = (("reward", config.reward), ("second judge", config.second_judge))
    reward, second = (load_scorer(judge, trunk, name) if judge.named else None for name, judge in named)
    return Scorers(reward, second)


def make_learner(config: ILQLConfig, trunk: Trunk) -> QLearner:
    return QLearner(trunk, rank=config.rank, alpha=config.alpha, beta=config.beta, micro_tokens=config.micro_tokens,
                    seed=config.seed)  # fmt: skip


def own_answers(config: ILQLConfig, prompts: Sequence[Prompt], trunk: Trunk, track: Track) -> list[Answered]:
    """`own_answers` answers of the model itself, as it is before training, to each prompt; nobody has judged them yet."""
    sampler = LocalSampler(trunk, None)
    asked = [prompt for prompt in prompts for _ in range(config.own_answers)]
    found: list[Answered] = []
    for number, start in enumerate(track(range(0, len(asked), SAMPLED_AT_ONCE), "sampling the model")):
        rollouts = sampler.sample(
            asked[start : start + SAMPLED_AT_ONCE],
            max_tokens=config.max_tokens,
            temperature=config.temperature,
            seed=config.seed * ROUNDS_APART + number,
        )
        found += [Answered(p, (c,)) for p, c in zip(rollouts.prompts, rollouts.completions, strict=True)]
    return found


def ilql_loop(
    config: ILQLConfig,
    data: Data,
    heldout: Sequence[Prompt],
    run: Run,
    sampler: LocalSampler,
    scorers: Scorers,
    learner: QLearner,
    track: Track = untracked,
    state: Path | None = None,
    begun: Clock | None = None,
) -> None:
    """The loop itself. Leaves metrics.jsonl, samples.jsonl, checkpoints/final and, where there are held-out prompts, checkpoints/best."""
    order = plan(len(data.cached.groups), config)
    optimise(config, learner, len(order))
    progress = load_progress(state, learner) if state else Progress()
    if progress.stopped == "steps" and progress.step < len(order):  # there are more of them now
        progress.stopped = ""
    for step in track([] if progress.stopped else range(progress.step, len(order)), "ILQL"):
        clock, begun = begun or Clock(), None  # the first step is charged with all that went before it
        epoch, indices = order[step]
        row: dict[str, Any] = {"step": step, "epoch": epoch, **update(config, data, indices, learner)}
        if (step + 1) % config.target_every == 0:
            learner.q_values.sync(config.target_rate)
        clock.lap("update")
        progress.step, progress.stopped = step + 1, _reason(config, run, clock, step + 1 == len(order))
        if heldout and (progress.stopped or progress.step % config.evaluate_every == 0):
            row |= look_at_heldout(config, heldout, sampler, scorers, learner, run, step)
            row |= keep_if_best(row, run, learner, progress)
            clock.lap("evaluate")
        row |= {"stopped": progress.stopped} if progress.stopped else {}
        run.log(**row)
        run.time(step=step, seconds=clock.total, phase_seconds=clock.laps)
        if progress.stopped or progress.step % config.save_every == 0:
            save_progress(run, progress, learner)
        if progress.stopped:
            break
    learner.save(run.checkpoint("final"))


def _reason(config: ILQLConfig, run: Run, clock: Clock, through: bool) -> str:
    """Why the run ends after this step; "" where it goes on."""
    if config.max_seconds is not None and run.seconds + clock.total > config.max_seconds:
        return "time"
    return "steps" if through else ""


def plan(count: int, config: ILQLConfig) -> list[tuple[int, list[int]]]:
    """The epoch and the prompts of every optimizer step: each epoch goes through all of them in a new order."""
    generator = torch.Generator().manual_seed(config.seed)
    return [
        (epoch, chunk.tolist())
        for epoch in range(config.epochs)
        for chunk in torch.randperm(count, generator=generator).split(config.batch)
    ]


def optimise(config: ILQLConfig, learner: QLearner, steps: int) -> None:
    learner.optimise(
        partial(
            Optimiser, steps=steps, warmup_steps=round(config.warmup * steps), schedule=config.schedule,
            max_grad_norm=config.max_grad_norm, eps=config.adam_eps, weight_decay=config.weight_decay,
        ),
        config.learning_rate, config.head_learning_rate,
    )  # fmt: skip


def update(config: ILQLConfig, data: Data, indices: Sequence[int], learner: QLearner) -> dict[str, Any]:
    """One optimizer step on all answers of the prompts `indices`; gives means per answer token."""
    groups = [data.cached.groups[i] for i in indices]
    tokens = sum(len(answer) for group in groups for answer in group.completions)
    sums: dict[str, float] = defaultdict(float)
    for places in split_by_tokens(torch.tensor([group.length for group in groups]), config.micro_tokens):
        part = [indices[place] for place in places.tolist()]
        seen = learner.see(*data.cached.batch(part), partitions=config.conservative_weight > 0)
        found = ilql_objective(seen, data.rewards_of(part, seen), config)
        loss = torch.where(seen.mask, found.total, 0).sum()
        learner.backward(loss / tokens)
        sums["loss"] += float(loss.detach())
        for name, values in {**found.parts, **found.statistics}.items():
            sums[name] += float(torch.where(seen.mask, values.detach(), 0).sum())
    norm, skipped = learner.step(sums["loss"])
    return {name: total / tokens for name, total in sums.items()} | {"gradient_norm": norm, "skipped": int(skipped)}


def ilql_objective(seen: Seen, rewards: Tensor, config: ILQLConfig) -> Objective:
    """TD loss of both Q + value_weight · value loss + conservative_weight · that of both Q + cloning_weight · cloning, per token.

    rewards [A, L]. The value behind the last token is 0: the answer is over.
    """
    targets = gae(rewards, seen.values.detach(), seen.mask, gamma=config.gamma, lam=config.lam).returns
    td = td_loss(seen.q, targets[None]).sum(0)
    value = expectile_loss(seen.values, seen.targets, tau=config.tau)
    conservative = conservative_loss(seen.q, seen.partitions).sum(0)
    better = seen.targets if config.cloning_advantage == "q" else targets
    weights = advantage_weights(seen.values, better, beta=config.cloning_beta, cap=config.cloning_cap)
    cloning = -weights * seen.logps
    total = td + config.value_weight * value + config.cloning_weight * cloning
    parts = {"td_loss": td, "value_loss": value, "cloning_loss": cloning}
    if config.conservative_weight:
        parts["conservative_loss"] = conservative
        total = total + config.conservative_weight * conservative
    statistics = {
        "q": seen.q.mean(0),
        "value": seen.values,
        "advantage": seen.targets - seen.values,
        "logp": seen.logps,
    }
    return Objective(total, parts, statistics)


def look_at_heldout(
    config: ILQLConfig,
    prompts: Sequence[Prompt],
    sampler: LocalSampler,
    scorers: Scorers,
    learner: QLearner,
    run: Run,
    step: int,
) -> dict[str, float]:
    """KL of the policy, as it is sampled, to the reference, and what the judges say of it; the same random numbers every time."""
    asked = [prompt for prompt in prompts for _ in range(config.evaluate_samples)]
    rollouts = sampler.sample(
        asked, max_tokens=config.max_tokens, temperature=config.temperature, seed=config.seed + 7919
    )
    row: dict[str, float] = {}
    told: dict[str, list[float]] = {}
    with watching(run, step, rollouts):
        reference = learner.logprobs(rollouts, "reference", config.temperature)
        row["heldout_kl"] = float(k1(rollouts.logps, reference).sum(-1).mean())
        for name, judge in (("reward", scorers.reward), ("second_judge", scorers.second)):
            if judge is not None:
                scores = ask(judge, rollouts, f"the {name.replace('_', ' ')}").scores
                row[f"heldout_{name}"], told[name] = float(scores.mean()), scores.tolist()
    for i, (prompt, completion) in enumerate(zip(asked[: config.log_rollouts], rollouts.completions, strict=False)):
        run.sample(step=step, prompt=prompt.text, completion=completion.text, **{k: v[i] for k, v in told.items()})
    return row


def keep_if_best(row: dict[str, Any], run: Run, learner: QLearner, progress: Progress) -> dict[str, bool]:
    """Keep checkpoints/best where the held-out reward in `row` is above all before it; says whether it was, if anybody judged."""
    if "heldout_reward" not in row:
        return {}
    best = progress.best is None or row["heldout_reward"] > progress.best
    if best:
        progress.best = row["heldout_reward"]
        learner.save(run.checkpoint("best"))
    return {"best": best}
