"""Before and after: the reference and the policy answer the same held-out prompts with the same random numbers.

Every gain is paired by prompt and has a 95 % bootstrap interval over prompts. The second judge, which was never optimised
against, shows whether the first was gamed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from manners.batches import Rollouts
from manners.config import Config, load_config
from manners.errors import MannersError
from manners.learner.local import POLICY
from manners.models.load import base_of, checkpoint_folder, load_trunk
from manners.models.trunk import TrainLayers, Trunk
from manners.ops.diversity import distinct_n
from manners.ops.intervals import bootstrap_mean
from manners.protocols import Scorer
from manners.records import Prompt
from manners.rewards.load import ScorerConfig, load_scorer
from manners.runs import Run, Track, untracked, write_json
from manners.sampling.local import LocalSampler
from manners.text.chat import Chat


class EvaluateConfig(Config):
    """Settings of `evaluate`."""

    samples_per_prompt: int = Field(2, gt=0)
    max_tokens: int = Field(48, gt=0, description="longest answer, end-of-turn token included")
    temperature: float = Field(1.0, ge=0)
    batch: int = Field(64, gt=0)
    seed: int = 1


class JudgedRun(Config):
    """What evaluation reads of the config of a run that trained a policy against a judge, whatever the method."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    model: str
    train_layers: TrainLayers
    max_prompt_tokens: int | None = None
    reward: ScorerConfig = ScorerConfig()
    second_judge: ScorerConfig = ScorerConfig()


@dataclass(frozen=True)
class Measured:
    """One set of answers, `samples_per_prompt` per prompt: scores of both judges [N], KL [N] (nats per sequence), and the rollouts."""

    rollouts: Rollouts
    reward: Tensor
    second: Tensor | None
    kl: Tensor


def evaluate_policy(
    config: EvaluateConfig,
    trunk: Trunk,
    adapter: str,
    prompts: Sequence[Prompt],
    reward: Scorer,
    second: Scorer | None,
    track: Track = untracked,
) -> dict[str, Any]:
    """Compare the trunk with `adapter` off (before) and on (after) on `prompts`; gives what RUN/evaluation.json holds."""
    if not prompts:
        raise MannersError("there are no held-out prompts to evaluate on; make the split larger or name another")
    repeated = [p for p in prompts for _ in range(config.samples_per_prompt)]
    before, after = (_measure(config, trunk, name, repeated, reward, second, track) for name in (None, adapter))
    cluster = torch.arange(len(prompts)).repeat_interleave(config.samples_per_prompt)
    categories = [p.category for p in repeated]
    return {
        "prompts": len(prompts),
        "samples_per_prompt": config.samples_per_prompt,
        "temperature": config.temperature,
        "rows": _rows(before, after, cluster),
        "by_category": {
            name: _by_category([i for i, c in enumerate(categories) if c == name], before, after, cluster)
            for name in sorted(set(categories) - {""})
        },
        "samples": [_sample(i, before, after) for i in range(0, len(repeated), config.samples_per_prompt)],
    }


def evaluate_run(
    run: Run, prompts: Sequence[Prompt], config: EvaluateConfig, track: Track = untracked
) -> dict[str, Any]:
    """Evaluate the policy of a PPO run (its best checkpoint, else the final one) by the judges in its config.

    Writes RUN/evaluation.json and gives what it holds. Raises MannersError for a run of another kind or without a checkpoint.
    """
    folder = checkpoint_folder(str(run.path))
    settings = load_config(JudgedRun, run.path / "config.yaml")
    if folder is None or not settings.reward.named:
        raise MannersError(
            f"{run.path} is a run of kind {run.kind!r}; only a policy trained against a judge can be evaluated"
        )
    trunk = load_trunk(base_of(folder), settings.train_layers)
    trunk.adapters.load(POLICY, folder)
    if settings.max_prompt_tokens is not None:
        chat = Chat(trunk.tokenizer, trunk.context)
        prompts = [chat.shortened(prompt, settings.max_prompt_tokens) for prompt in prompts]
    reward = load_scorer(settings.reward, trunk, "reward")
    second = load_scorer(settings.second_judge, trunk, "second judge") if settings.second_judge.named else None
    evaluation = {"policy": folder.name, **evaluate_policy(config, trunk, POLICY, prompts, reward, second, track)}
    write_json(run.path / "evaluation.json", evaluation)
    return evaluation


def _measure(
    config: EvaluateConfig,
    trunk: Trunk,
    adapter: str | None,
    prompts: Sequence[Prompt],
    reward: Scorer,
    second: Scorer | None,
    track: Track,
) -> Measured:
    sampler = LocalSampler(trunk, adapter, batch=config.batch)
    rollouts = sampler.sample(
        prompts, max_tokens=config.max_tokens, temperature=config.temperature, seed=config.seed, track=track
    )
    kl = torch.zeros(len(rollouts))
    if adapter is not None:
        for index, part in rollouts.micro_batches(12_288):
            heat = config.temperature or 1.0
            difference = _logps(trunk, adapter, part, heat) - _logps(trunk, None, part, heat)
            kl[index] = difference.sum(-1).cpu()
    return Measured(rollouts, reward.score(rollouts).cpu(), second.score(rollouts).cpu() if second else None, kl)


@torch.no_grad()
def _logps(trunk: Trunk, adapter: str | None, part: Rollouts, temperature: float) -> Tensor:
    """Log-probabilities [b, T] of the responses at `temperature`, 0 elsewhere."""
    with trunk.adapters.using(adapter):
        found = trunk.predict(part, part.states, temperature=temperature)
    return found.spread(found.logps, like=part.tokens)


def _rows(before: Measured, after: Measured, cluster: Tensor) -> list[dict[str, Any]]:
    def row(name: str, label: str, unit: str, better: str, of: Callable[[Measured], Tensor]) -> dict[str, Any]:
        old, new = of(before).float().cpu(), of(after).float().cpu()
        gain = bootstrap_mean(new - old, cluster)
        return {"name": name, "label": label, "unit": unit, "better": better, "before": float(old.mean()), "after": float(new.mean()),
                "gain": gain.mean, "ci": gain.ends, "n": int(cluster.max()) + 1}  # fmt: skip

    rows = [row("reward", "Reward (the judge that was optimised)", "", "higher", lambda m: m.reward)]
    if before.second is not None:
        rows.append(row("second_judge", "Second judge (never optimised)", "", "higher", _second))
    return [
        *rows,
        row("kl", "KL to the reference", "nats per sequence", "neither", lambda m: m.kl),
        row("length", "Length", "tokens", "neither", lambda m: m.rollouts.response_lengths),
        row("finished", "Answers that come to an end", "share", "higher", lambda m: m.rollouts.finished),
        row("distinct_2", "Distinct word pairs within an answer", "share", "higher", _distinct),
    ]


def _second(measured: Measured) -> Tensor:
    assert measured.second is not None, "asked for only where there is a second judge"
    return measured.second


def _distinct(measured: Measured) -> Tensor:
    return torch.tensor([distinct_n([c.text], 2) for c in measured.rollouts.completions])


def _by_category(indices: list[int], before: Measured, after: Measured, cluster: Tensor) -> dict[str, Any]:
    def gain(old: Tensor, new: Tensor) -> tuple[float, list[float | None]]:
        found = bootstrap_mean((new - old)[indices].cpu(), cluster[indices])
        return found.mean, found.ends

    reward_gain, ci = gain(before.reward, after.reward)
    row: dict[str, Any] = {"n": len(cluster[indices].unique()), "reward_gain": reward_gain, "ci": ci}
    if before.second is not None and after.second is not None:
        row["second_judge_gain"], row["second_judge_ci"] = gain(before.second, after.second)
    return row


def _sample(i: int, before: Measured, after: Measured) -> dict[str, Any]:
    prompt = before.rollouts.prompts[i]
    row = {"prompt": prompt.text, "category": prompt.category, "before": before.rollouts.completions[i].text,
           "after": after.rollouts.completions[i].text, "reward_before": float(before.reward[i]),
           "reward_after": float(after.reward[i]), "kl": float(after.kl[i])}  # fmt: skip
    if before.second is not None and after.second is not None:
        row |= {"second_before": float(before.second[i]), "second_after": float(after.second[i])}
    return row
