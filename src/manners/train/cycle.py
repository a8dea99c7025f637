"""The cycle of every on-policy method, on the three seams.

Phase I completes prompts and carries out experiments (experiment.py). Phase II updates the policy inside the trust region. Then
the step is written down (recording.py), the guards look at it, and now and then held-out prompts tell whether it is the best so
far. Methods differ in where advantages come from and in their objective.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic

from torch import Tensor

from manners.batches import ScoredRollouts
from manners.guards import Alarm, Guards
from manners.learner.local import LocalLearner
from manners.learner.offending import keep_tensors, keep_texts, watching
from manners.learner.optimiser import Optimiser
from manners.learner.progress import Progress, load_progress, save_progress
from manners.learner.randomness import seed_randomness
from manners.ops.kl import adaptive_coefficient
from manners.protocols import BatchT, Evaluated, Learner, Objective, Sampler
from manners.records import Prompt
from manners.runs import Run, Track, untracked
from manners.stopwatch import STILL, Stopwatch
from manners.train.experiment import Judges, carry_out, look_at_heldout, prompt_order
from manners.train.recording import Clock, describe, judged, microscope, sampler_kl
from manners.train.settings import OnPolicyConfig


@dataclass(frozen=True)
class Method(Generic[BatchT]):
    """What tells one on-policy method from another.

    `advantages` makes the batch of Phase II out of the experiments, with importance weights [B, T] for its advantages where
    another engine sampled, and gives numbers for the row of metrics beside it. `opened` names what of the batch, [B, T], an answer
    that is opened token by token shows besides what all methods have. In the first `critic_warmup_steps` steps only the value
    function learns.
    """

    advantages: Callable[[ScoredRollouts, Tensor | None], tuple[BatchT, Mapping[str, float]]]
    objective: Callable[[Evaluated, BatchT], Objective]
    opened: Callable[[BatchT], Mapping[str, Tensor]]
    critic_warmup_steps: int = 0


def set_up_optimiser(config: OnPolicyConfig, learner: LocalLearner, value_learning_rate: float = 0.0) -> None:
    updates = config.steps * config.epochs * config.minibatches
    learner.optimise(
        partial(
            Optimiser, steps=updates, warmup_steps=round(config.warmup * updates), schedule=config.schedule,
            max_grad_norm=config.max_grad_norm, eps=config.adam_eps, eps_placement=config.adam_eps_placement,
        ),
        config.learning_rate, value_learning_rate,
    )  # fmt: skip


def run_cycles(
    config: OnPolicyConfig,
    prompts: Sequence[Prompt],
    heldout: Sequence[Prompt],
    run: Run,
    sampler: Sampler,
    judges: Judges,
    learner: Learner,
    method: Method[BatchT],
    track: Track = untracked,
    state: Path | None = None,
    stopwatch: Stopwatch = STILL,
) -> None:
    """The loop itself, on the three seams. Leaves metrics.jsonl, samples.jsonl, checkpoints/best and checkpoints/final.

    `stopwatch`: the one that sampler and learner were given, for a profile of each step.
    """
    order = prompt_order(len(prompts), config)
    progress = begin(config, run, learner, state)
    guards = Guards(config.guards).replay(run.metrics())
    for step in track([] if progress.stopped else range(progress.step, config.steps), run.kind.upper()):
        clock, beta = Clock(), config.beta * progress.beta_factor
        chosen = [prompts[i] for i in order[step] for _ in range(config.answers)]
        found = carry_out(config, chosen, run, sampler, judges, learner, step, progress, clock, stopwatch)  # Phase I
        with watching(run, step, found.scored), stopwatch.part("advantage"):
            batch, beside = method.advantages(found.scored, found.weights)
            clock.lap("advantage")
        with watching(run, step, found.scored, batch):
            epochs = update(learner, batch, method, config, step, stopwatch)  # Phase II, inside the trust region
        row: dict[str, Any] = {
            "step": step,
            "episodes": (step + 1) * config.batch,
            **judged(found.opinion, found.second),
            "skipped": sum(epoch["skipped"] for epoch in epochs),
            **describe(found.scored, epochs, beta),
            **beside,
        }
        row |= {} if found.weights is None else {"sampler_kl": sampler_kl(found.drawn, found.scored)}
        if row["skipped"]:
            keep_texts(run, step, found.scored)
            keep_tensors(run, step, batch)
        clock.lap("update")
        row |= {"unwatched": guards.unwatched(row)} if step == 0 else {}
        alarms = guards.look(row)
        row["alarms"] = [alarm.to_json() for alarm in alarms]
        with stopwatch.part("record"):
            for logged in microscope(
                found.scored, {**method.opened(batch), "advantage": batch.advantages}, found.opinion, found.second, learner, sampler,
                beta, config.log_rollouts,
            ):  # fmt: skip
                run.sample(step=step, **logged)
        progress.beta_factor = next_beta(progress.beta_factor, row["kl"], config)
        progress.stopped = _reason(row["kl"], step, alarms, progress, config)
        if config.max_seconds is not None and not progress.stopped and run.seconds + clock.total > config.max_seconds:
            progress.stopped = "time"
        if heldout and (progress.stopped or (step + 1) % config.evaluate_every == 0):
            with stopwatch.part("evaluate", whole=True):
                row |= look_at_heldout(config, heldout, sampler, judges, learner, run, step)
                row |= {"best": keep_if_best(config, row, alarms, run, learner, progress)}
            clock.lap("evaluate")
        if any(alarm.action == "roll_back" for alarm in alarms):
            row["rolled_back_to"] = roll_back(run, learner, progress, config)
        row |= {"stopped": progress.stopped} if progress.stopped else {}
        run.log(**row)
        parts = stopwatch.take()
        profile = {"profile_seconds": parts} if parts else {}
        run.time(step=step, seconds=clock.total, phase_seconds=clock.laps, **profile)
        progress.step = step + 1
        # behind a roll back too: what it went back to may be replaced before the next state is due
        if progress.stopped or "rolled_back_to" in row or progress.step % config.save_every == 0:
            save_progress(run, progress, learner)
        if progress.stopped:
            break
    learner.save(run.checkpoint("final"))


def begin(config: OnPolicyConfig, run: Run, learner: Learner, state: Path | None) -> Progress:
    """Where the loop stands: at the state in the folder `state`, or at its beginning, with what a roll back may return to."""
    if state:
        progress = load_progress(state, learner)
        if progress.stopped in ("steps", "time") and progress.step < config.steps:  # there may be more of it now
            progress.stopped = ""
    else:
        seed_randomness(config.seed)
        progress = Progress()
    if progress.step == 0 and any(guard.action == "roll_back" for guard in config.guards):
        learner.save(run.checkpoint("start"))
    return progress


def update(
    learner: Learner,
    batch: BatchT,
    method: Method[BatchT],
    config: OnPolicyConfig,
    step: int,
    stopwatch: Stopwatch = STILL,
) -> list[dict[str, float]]:
    """Phase II: the metrics of each epoch over the batch. Ends early where the policy has gone `approx_kl_limit` away."""
    epochs: list[dict[str, float]] = []
    for number in range(1, config.epochs + 1):
        with stopwatch.part(f"epoch {number}"):
            epochs.append(learner.step(batch, method.objective, only_critic=step < method.critic_warmup_steps))
        if config.approx_kl_limit is not None and epochs[-1].get("approx_kl", 0) > config.approx_kl_limit:
            break
    return epochs


def next_beta(beta: float, kl_per_sequence: float, config: OnPolicyConfig) -> float:
    if config.kl_target_per_sequence is None:
        return beta
    return adaptive_coefficient(
        beta, kl_per_sequence, target_per_sequence=config.kl_target_per_sequence,
        horizon_episodes=config.kl_horizon_episodes, episodes=config.batch,
    )  # fmt: skip


def roll_back(run: Run, learner: Learner, progress: Progress, config: OnPolicyConfig) -> str:
    """Go back to the best checkpoint, or to the start where none was kept yet, with a dearer shift; gives its name."""
    name = "start" if progress.best is None else "best"
    learner.roll_back(run.checkpoint(name))
    progress.roll_backs += 1
    progress.beta_factor *= config.roll_back_beta_factor
    return name


def _reason(kl: float, step: int, alarms: Sequence[Alarm], progress: Progress, config: OnPolicyConfig) -> str:
    """Why the run ends after this step; "" where it goes on."""
    if _over_budget(kl, config):
        return "KL budget"
    for alarm in alarms:
        if alarm.action == "stop" or (alarm.action == "roll_back" and progress.roll_backs >= config.max_roll_backs):
            return f"guard: {alarm.guard}"
    return "steps" if step == config.steps - 1 else ""


def keep_if_best(
    config: OnPolicyConfig,
    row: Mapping[str, Any],
    alarms: Sequence[Alarm],
    run: Run,
    learner: Learner,
    progress: Progress,
) -> bool:
    """Keep checkpoints/best where this look, in `row`, is better than all before it, and say whether it was. A policy over the
    budget, or one that a guard stops, never is. Where the best reaches the target, the run has ended."""
    best = (
        not _over_budget(row["heldout_kl"], config)
        and all(alarm.action == "warn" for alarm in alarms)
        and (progress.best is None or row["heldout_reward"] > progress.best)
    )
    if best:
        progress.best = row["heldout_reward"]
        learner.save(run.checkpoint("best"))
    if config.target_reward is not None and progress.best is not None and progress.best >= config.target_reward:
        progress.stopped = "target reward"
    return best


def _over_budget(kl: float, config: OnPolicyConfig) -> bool:
    return config.kl_budget_per_sequence is not None and kl > config.kl_budget_per_sequence
