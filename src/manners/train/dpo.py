"""Direct preference optimisation and its family: the policy learns from judged answers by a loss, without a reward model in between.

β·(log π − log π_ref) of an answer is its implicit reward, and the loss is that of a reward model on it. What the reference says of all
answers is computed once, before the first step. Online, the answers are the policy's own and a judge says which of two is the better.
Losses, values and sources: docs/details/direct.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import Field, model_validator

from manners.batches import split_by_tokens
from manners.config import Config
from manners.errors import MannersError
from manners.feedback.thumbs import Thumb
from manners.guards import Guard, Guards
from manners.learner.direct import DirectLearner
from manners.learner.local import POLICY
from manners.learner.optimiser import Optimiser, Schedule
from manners.learner.progress import Progress, load_progress, save_progress
from manners.learner.randomness import seed_randomness
from manners.models.adapters import read_tensors
from manners.models.load import load_trunk
from manners.models.quantised import BaseBits
from manners.models.recompute import GradientCheckpointing
from manners.models.trunk import TrainLayers, Trunk
from manners.ops.intervals import bootstrap_mean
from manners.protocols import Scorer
from manners.records import Pair, Prompt
from manners.rewards.direct import AVERAGED, WITHOUT_REFERENCE, DirectObjective, Loss, Material, means
from manners.rewards.groups import Group, group_pairs, group_thumbs
from manners.rewards.load import ScorerConfig, load_scorer
from manners.runs import Run, Track, untracked, write_json, write_jsonl
from manners.sampling.local import LocalSampler
from manners.text.chat import Chat
from manners.train.lessons import Asking, Held, JudgedBefore, JudgedNow, Lesson, Lessons
from manners.train.recording import Clock

Judged = Sequence[Pair] | Sequence[Thumb]
WITH_MARGIN = ("dpo", "robust", "hinge", "simpo")
GUARDS = (
    Guard(signal="negative_kl", limit=-1, patience=2),
    Guard(signal="distinct_2", limit=0.8, action="stop"),
    Guard(signal="second_judge", limit=1, patience=2),
    Guard(signal="reference_logp", limit=0.5, patience=2),
    Guard(signal="repetition", limit=0.3, patience=2),
    Guard(signal="length", limit=2.5, patience=2),
)


class DPOConfig(Config):
    """Settings of `train dpo`."""

    model: str = Field("starter", description="the policy to start from; it is also the frozen reference")
    train_layers: TrainLayers = Field(8, description="adapters on the top N layers, or 'all'")
    rank: int = Field(16, gt=0, description="LoRA rank")
    alpha: float = Field(32, gt=0, description="LoRA alpha")

    loss: Loss = Field(
        "dpo",
        description="dpo, robust, ipo, hinge, apo_zero and apo_down compare with the reference; simpo and orpo do without it;"
        " kto takes answers one by one",
    )
    beta: float = Field(
        0.1, gt=0, description="reward units per nat: how dearly the distance from the reference is paid"
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="share of the labels taken to be swapped, for dpo and robust"
    )
    margin: float = Field(
        0.0, ge=0, description="reward units by which neighbouring tiers should differ at least, for dpo, robust, hinge, simpo"
    )  # fmt: skip
    gamma: float = Field(0.5, ge=0, description="the margin of simpo, in units of beta times mean log-probability")
    length_normalised: bool | None = Field(
        None, description="means over tokens in place of sums; none: as in the loss's paper (ipo, simpo, orpo: means)"
    )
    sft_weight: float = Field(
        0.0, ge=0, description="of a fine-tuning term on the chosen answer, which keeps it from becoming unlikely"
    )
    desirable_weight: float = Field(1.0, ge=0, description="λ_D of kto")
    undesirable_weight: float = Field(1.0, ge=0, description="λ_U of kto")

    epochs: int = Field(1, gt=0, description="passes over the judged answers")
    batch: int = Field(8, gt=0, description="prompts, with all their judged answers, per optimizer step")
    learning_rate: float = Field(2e-4, gt=0, description="peak")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps with rising learning rate")
    schedule: Schedule = Field("linear", description="of the learning rate after the warm-up")
    adam_eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    max_prompt_tokens: int | None = Field(
        1024, gt=0, description="a longer prompt of a pair loses its beginning, one that is answered its end"
    )
    max_tokens: int = Field(512, gt=0, description="judged answers are cut to this many tokens")
    micro_tokens: int = Field(4096, gt=0, description="positions with padding per forward pass")

    online: bool = Field(
        False, description="learn from the policy's own answers, two to a prompt, of which `reward` prefers one"
    )
    steps: int = Field(20, gt=0, description="optimizer steps of an online run")
    prompts: str = Field(
        "", description="online: a file of prompts, or 'starter' for the built-in ones; \"\" = those of the pairs"
    )
    reward: ScorerConfig = Field(
        ScorerConfig(), description="the judge: online it is optimised, else it only looks at held-out answers"
    )
    second_judge: ScorerConfig = Field(ScorerConfig(), description="a judge that is only watched, never optimised")
    sample_tokens: int = Field(48, gt=0, description="longest answer that is sampled, end-of-turn token included")
    temperature: float = Field(
        1.0, gt=0, description="of sampling; online it divides the logits in all log-probabilities"
    )
    missing_eos_penalty: float = Field(
        0.0, ge=0, description="online, reward units: this is subtracted from the score of an answer that never ends"
    )

    max_seconds: float | None = Field(
        None,
        gt=0,
        description="stop after the step in which the steps have taken this long; what comes of it depends on the machine",
    )
    guards: tuple[Guard, ...] = Field(GUARDS, description="what is watched while an online run samples")
    evaluate_every: int = Field(
        10, gt=0, description="steps between looks at what is held out; the best of them is kept"
    )
    evaluate_prompts: int = Field(
        24, ge=0, description="held-out prompts that are answered per look, where a judge is named"
    )
    log_rollouts: int = Field(6, ge=0, description="answers per look that are kept in samples.jsonl")
    save_every: int = Field(5, gt=0, description="steps between the states that a run can be resumed from")
    gradient_checkpointing: GradientCheckpointing = False
    base_bits: BaseBits = "full"
    trust_remote_code: bool = False
    seed: int = 0

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        if self.label_smoothing and self.loss not in ("dpo", "robust"):
            raise ValueError(f"label_smoothing belongs to the losses dpo and robust, not to {self.loss}; set it to 0")
        if self.margin and self.loss not in WITH_MARGIN:
            raise ValueError(f"margin belongs to the losses {', '.join(WITH_MARGIN)}, not to {self.loss}; set it to 0")
        if self.loss in WITHOUT_REFERENCE and self.length_normalised is False:
            raise ValueError(f"{self.loss} compares means over tokens; leave length_normalised out")
        if any(guard.action == "roll_back" for guard in self.guards):
            raise ValueError("guards of a direct method warn or stop; they do not roll back")
        return self

    @property
    def objective(self) -> DirectObjective:
        averaged = self.loss in AVERAGED if self.length_normalised is None else self.length_normalised
        return DirectObjective(
            self.loss, self.beta, self.label_smoothing, self.margin, self.gamma, self.sft_weight,
            self.desirable_weight, self.undesirable_weight, averaged,
        )  # fmt: skip

    @property
    def sources(self) -> dict[str, Path | str]:
        """What a run is made from beside its data, by name; "" where there is none of that name."""
        found: dict[str, Path | str] = {
            "model": self.model,
            "prompts": self.prompts if self.prompts != "starter" else "",
        }
        for name, judge in (("reward", self.reward), ("second judge", self.second_judge)):
            found |= {f"{name} {number}" if number else name: source for number, source in enumerate(judge.sources)}
        return found


def train_dpo(
    config: DPOConfig,
    judged: Judged,
    heldout: Judged,
    run: Run,
    trunk: Trunk | None = None,
    track: Track = untracked,
    state: Path | None = None,
) -> dict[str, Any]:
    """Learn from `judged`, pairs or (for kto) thumbs; `heldout`, of other prompts, chooses RUN/checkpoints/best; gives its evaluation.

    `state`: the folder that `run.resume()` gave, to go on from.
    """
    if judged and isinstance(judged[0], Thumb) and config.loss != "kto":
        raise MannersError(f"loss {config.loss} learns from pairs, thumbs are for kto; set loss=kto or name pairs")
    trunk = trunk or load_trunk(
        config.model, config.train_layers, trust_remote_code=config.trust_remote_code,
        gradient_checkpointing=config.gradient_checkpointing, base_bits=config.base_bits,
    )  # fmt: skip
    trunk.adapters.add(POLICY, rank=config.rank, alpha=config.alpha, seed=config.seed)
    clock = Clock()
    material = _material(config, trunk, judged, track)
    apart = _material(config, trunk, heldout, track) if heldout else None
    held = _held(config, trunk, apart, _prompts(heldout) if config.reward.named else [], run, *_judges(config, trunk))
    lessons = JudgedBefore(material, epochs=config.epochs, batch=config.batch, seed=config.seed)
    clock.lap("reference")
    direct_loop(config, lessons, held, run, _learner(config, trunk, lessons.count), track, state, clock)
    best = run.checkpoint("best")
    if best.exists():  # what counts is the policy that was kept
        trunk.adapters.load_state(POLICY, read_tensors(best / "adapter_model.safetensors"))
    evaluation = {"preferences": evaluate_preferences(apart)} if apart else {}
    write_json(run.path / "evaluation.json", evaluation)
    return evaluation


def train_online_dpo(
    config: DPOConfig,
    prompts: Sequence[Prompt],
    heldout: Sequence[Prompt],
    run: Run,
    trunk: Trunk | None = None,
    judges: tuple[Scorer, Scorer | None] | None = None,
    track: Track = untracked,
    state: Path | None = None,
) -> Trunk:
    """Learn from the policy's own answers to `prompts`; `heldout` prompts choose RUN/checkpoints/best. Gives the trunk with the policy.

    `judges`: the one that is optimised and the one that only watches, in place of those that the config names.
    """
    if not prompts:
        raise MannersError("there are no prompts to train on")
    trunk = trunk or load_trunk(
        config.model, config.train_layers, trust_remote_code=config.trust_remote_code,
        gradient_checkpointing=config.gradient_checkpointing, base_bits=config.base_bits,
    )  # fmt: skip
    trunk.adapters.add(POLICY, rank=config.rank, alpha=config.alpha, seed=config.seed)
    judge, second = judges or _judges(config, trunk)
    if judge is None:
        raise MannersError("no judge is named: set reward.model, reward.classifier or reward.function")
    held = _held(config, trunk, None, heldout, run, judge, second)
    lessons = JudgedNow(
        _shortened(config, trunk, prompts), trunk, held.sampler, judge, second, config.objective, held.asking, steps=config.steps,
        batch=config.batch, micro_tokens=config.micro_tokens,
    )  # fmt: skip
    direct_loop(config, lessons, held, run, _learner(config, trunk, lessons.count), track, state)
    return trunk


def direct_loop(
    config: DPOConfig,
    lessons: Lessons,
    held: Held,
    run: Run,
    learner: DirectLearner,
    track: Track = untracked,
    state: Path | None = None,
    clock: Clock | None = None,
) -> None:
    """The loop itself. Leaves metrics.jsonl, samples.jsonl, checkpoints/best and checkpoints/final.

    `clock`: one that runs already, so that the first step is charged with what was done before it.
    """
    objective = config.objective
    if state:
        progress = load_progress(state, learner)
        if progress.stopped == "steps" and progress.step < lessons.count:  # there are more of them now
            progress.stopped = ""
    else:
        seed_randomness(config.seed)
        progress = Progress()
    guards = Guards(config.guards).replay(run.metrics())
    for step in track([] if progress.stopped else range(progress.step, lessons.count), objective.loss.upper()):
        clock = clock or Clock()
        lesson = lessons.lesson(step, run)
        if config.online:
            clock.lap("sample")
        row = {"step": step, **lesson.row, **learn(lesson, objective, learner, run, step)}
        clock.lap("update")
        alarms = guards.look(row)
        row["alarms"] = [alarm.to_json() for alarm in alarms]
        stopping = [f"guard: {alarm.guard}" for alarm in alarms if alarm.action == "stop"]
        progress.stopped = stopping[0] if stopping else "steps" if step == lessons.count - 1 else ""
        if config.max_seconds is not None and not progress.stopped and run.seconds + clock.total > config.max_seconds:
            progress.stopped = "time"
        if progress.stopped or (step + 1) % config.evaluate_every == 0:
            row |= held.look(objective, run, step, config.log_rollouts)
            if (found := _merit(row)) is not None:
                row["best"] = not stopping and (progress.best is None or found > progress.best)
            if row.get("best"):
                progress.best = found
                learner.save(run.checkpoint("best"))
            clock.lap("evaluate")
        row |= {"stopped": progress.stopped} if progress.stopped else {}
        run.log(**row)
        run.time(step=step, seconds=clock.total, phase_seconds=clock.laps)
        clock = None
        progress.step = step + 1
        if progress.stopped or progress.step % config.save_every == 0:
            save_progress(run, progress, learner)
        if progress.stopped:
            break
    learner.save(run.checkpoint("final"))


def learn(lesson: Lesson, objective: DirectObjective, learner: DirectLearner, run: Run, step: int) -> dict[str, Any]:
    """One optimizer step on a lesson: its metrics. However it is cut into micro-batches, its loss is divided by the weight of the whole."""
    material, places = lesson.material, lesson.places
    if not places:
        return {"skipped": 0}
    groups = [material.groups[i] for i in places]
    point = material.reference_point(places, POLICY)
    rate = learner.optimiser.rates[0] * learner.optimiser.factor
    total, sums = 0.0, dict[str, float]()
    for part in split_by_tokens(torch.tensor([group.length for group in groups]), material.micro_tokens):
        own = part.tolist()
        answers = material.answers([places[i] for i in own], POLICY)
        loss, found = objective(answers, [groups[i] for i in own], groups, point)
        learner.backward(loss)
        total += float(loss.detach())
        sums = {name: sums.get(name, 0.0) + value for name, value in found.items()}
    norm, skipped = learner.step(total)
    if skipped:
        _keep(run, step, groups, learner.trunk)
    row = {"loss": total, **means(sums), "gradient_norm": norm, "learning_rate": rate, "skipped": int(skipped)}
    return row | ({"kl_estimate": float(point)} if objective.of_singles else {})


def evaluate_preferences(material: Material) -> dict[str, Any]:
    """How often the policy that is on agrees with held-out pairs by its implicit rewards, with an interval over prompts."""
    reference = material.reference or [torch.zeros(len(group.completions)) for group in material.groups]
    right, clusters = [], []
    for place, (group, now, before) in enumerate(
        zip(material.groups, material.logps(POLICY, range(len(material.groups))), reference, strict=True)
    ):
        shifts = now - before
        if not material.reference:
            shifts = shifts / torch.tensor([max(1, len(answer)) for answer in group.completions])
        right += [float(shifts[pair.j] > shifts[pair.k]) for pair in group.pairs]
        clusters += [place] * len(group.pairs)
    counts = {"n_pairs": len(right), "n_prompts": len(material.groups)}
    if not right:
        return counts
    found = bootstrap_mean(torch.tensor(right), torch.tensor(clusters))
    return {"accuracy": found.mean, "ci": found.ends, **counts}


def _merit(row: dict[str, Any]) -> float | None:
    """What a look is compared by: the held-out reward where a judge is asked, else the held-out loss, the lower the better."""
    if "heldout_reward" in row:
        return float(row["heldout_reward"])
    loss = row.get("heldout_loss")
    return None if loss is None or not math.isfinite(loss) else -float(loss)


def _learner(config: DPOConfig, trunk: Trunk, steps: int) -> DirectLearner:
    optimiser = Optimiser(
        [(trunk.adapters.parameters(POLICY), config.learning_rate)], steps=steps, warmup_steps=round(config.warmup * steps),
        schedule=config.schedule, max_grad_norm=config.max_grad_norm, weight_decay=config.weight_decay, eps=config.adam_eps,
    )  # fmt: skip
    return DirectLearner(trunk, optimiser)


def _material(config: DPOConfig, trunk: Trunk, judged: Judged, track: Track) -> Material:
    chat = Chat(trunk.tokenizer, trunk.context)
    limits = (config.max_prompt_tokens or trunk.context, config.max_tokens)
    thumbs = [one for one in judged if isinstance(one, Thumb)]
    pairs = [one for one in judged if isinstance(one, Pair)]
    groups = group_thumbs(thumbs, chat, *limits) if thumbs else group_pairs(pairs, chat, *limits)
    return Material(trunk, groups, config.objective, config.micro_tokens, config.seed, track=track)


def _prompts(judged: Judged) -> list[Prompt]:
    return list({one.prompt.id: one.prompt for one in judged}.values())


def _shortened(config: DPOConfig, trunk: Trunk, prompts: Sequence[Prompt]) -> Sequence[Prompt]:
    """Prompts that are to be answered, each cut as for every on-policy method and for its evaluation."""
    if config.max_prompt_tokens is None:
        return prompts
    chat = Chat(trunk.tokenizer, trunk.context)
    return [chat.shortened(prompt, config.max_prompt_tokens) for prompt in prompts]


def _judges(config: DPOConfig, trunk: Trunk) -> tuple[Scorer | None, Scorer | None]:
    judge = load_scorer(config.reward, trunk, "reward") if config.reward.named else None
    second = load_scorer(config.second_judge, trunk, "second judge") if config.second_judge.named else None
    return judge, second


def _held(
    config: DPOConfig, trunk: Trunk, material: Material | None, prompts: Sequence[Prompt], run: Run,
    judge: Scorer | None, second: Scorer | None,
) -> Held:  # fmt: skip
    sampler = LocalSampler(trunk, POLICY, model_name=str(run.path))
    asking = Asking(config.sample_tokens, config.temperature, config.missing_eos_penalty, config.seed)
    asked = _shortened(config, trunk, prompts[: config.evaluate_prompts])
    return Held(trunk, material, asked, sampler, judge, second, asking)


def _keep(run: Run, step: int, groups: Sequence[Group], trunk: Trunk) -> None:
    """Write the texts of a batch that was skipped to RUN/offending."""
    chat = Chat(trunk.tokenizer, trunk.context)
    rows = ({"prompt": chat.text(g.prompt), "completions": [chat.text(c) for c in g.completions]} for g in groups)
    write_jsonl(run.path / "offending" / f"step-{step:06d}.jsonl", rows)
