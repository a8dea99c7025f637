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
from manners.models.shaping import Shape, plain, shape_of
from manners.models.trunk import TrainLayers, Trunk
from manners.ops.diversity import distinct_n
from manners.ops.intervals import bootstrap_mean
from manners.protocols import Scorer
from manners.records import Completion, Prompt
from manners.rewards.load import ScorerConfig, load_scorer
from manners.runs import Run, Track, read_json, untracked, write_json
from manners.sampling.local import LocalSampler
from manners.text.chat import Chat

OPTIMISED = "the judge that was optimised"


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
    online: bool = True

    @property
    def judge_of(self) -> str:
        """What the judge was to the policy; a direct method asks it only online."""
        return OPTIMISED if self.online else "a judge that training never asked"


@dataclass(frozen=True)
class Measured:
    """N answers, `samples_per_prompt` to each prompt: their lengths [N] in tokens, whether they come to an end [N] bool, the scores of
    both judges [N], and the KL [N] of what they were drawn from to the reference, nats per sequence."""

    prompts: tuple[Prompt, ...]
    completions: tuple[Completion, ...]
    lengths: Tensor
    finished: Tensor
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
    shape: Shape = plain,
    judge_of: str = OPTIMISED,
) -> dict[str, Any]:
    """Compare the trunk with `adapter` off (before) and on, sampled as `shape` says (after), on `prompts`; gives what
    RUN/evaluation.json holds. `judge_of`: what the judge `reward` was to the policy."""
    asked = ask_for(config, prompts)
    before, after = (
        measure(config, LocalSampler(trunk, name, batch=config.batch, shape=own), asked, reward, second, track)
        for name, own in ((None, plain), (adapter, shape))
    )
    return compare(config, before, after, judge_of)


def ask_for(config: EvaluateConfig, prompts: Sequence[Prompt]) -> list[Prompt]:
    """Each prompt as often as it is to be answered. Raises MannersError where there is none."""
    if not prompts:
        raise MannersError("there are no held-out prompts to evaluate on; make the split larger or name another")
    return [p for p in prompts for _ in range(config.samples_per_prompt)]


def compare(config: EvaluateConfig, before: Measured, after: Measured, judge_of: str = OPTIMISED) -> dict[str, Any]:
    """What RUN/evaluation.json holds: the gain of `after` over `before`, answers to the same prompts in the same order."""
    count = len(before.prompts) // config.samples_per_prompt
    cluster = torch.arange(count).repeat_interleave(config.samples_per_prompt)
    categories = [p.category for p in before.prompts]
    return {
        "prompts": count,
        "samples_per_prompt": config.samples_per_prompt,
        "temperature": config.temperature,
        "rows": _rows(before, after, cluster, judge_of),
        "by_category": {
            name: _by_category([i for i, c in enumerate(categories) if c == name], before, after, cluster)
            for name in sorted(set(categories) - {""})
        },
        "samples": [_sample(i, before, after) for i in range(0, len(before.prompts), config.samples_per_prompt)],
    }


def evaluate_run(
    run: Run, prompts: Sequence[Prompt], config: EvaluateConfig, track: Track = untracked, trunk: Trunk | None = None
) -> dict[str, Any]:
    """Evaluate the policy of a run (its best checkpoint, else the final one) by the judges in its config, on `trunk` where there is
    one: the base that it was trained on.

    Writes RUN/evaluation.json and gives what it holds. Raises MannersError for a run of another kind or without a checkpoint.
    """
    folder = checkpoint_folder(str(run.path))
    settings = load_config(JudgedRun, run.path / "config.yaml")
    if folder is None or not settings.reward.named:
        raise MannersError(
            f"{run.path} is a run of kind {run.kind!r}; only a policy trained against a judge can be evaluated"
        )
    trunk = trunk or load_trunk(base_of(folder), settings.train_layers)
    trunk.adapters.load(POLICY, folder)
    if settings.max_prompt_tokens is not None:
        chat = Chat(trunk.tokenizer, trunk.context)
        prompts = [chat.shortened(prompt, settings.max_prompt_tokens) for prompt in prompts]
    reward = load_scorer(settings.reward, trunk, "reward")
    second = load_scorer(settings.second_judge, trunk, "second judge") if settings.second_judge.named else None
    shape = shape_of(str(run.path), trunk)
    found = evaluate_policy(config, trunk, POLICY, prompts, reward, second, track, shape, settings.judge_of)
    evaluation = {"policy": folder.name, **found, **_kept(run)}
    write_json(run.path / "evaluation.json", evaluation)
    return evaluation


def _kept(run: Run) -> dict[str, Any]:
    """What training itself found out on held-out preferences, and an evaluation of answers leaves as it is."""
    path = run.path / "evaluation.json"
    before = read_json(path) if path.exists() else {}
    return {"preferences": before["preferences"]} if "preferences" in before else {}


def measure(
    config: EvaluateConfig,
    sampler: LocalSampler,
    prompts: Sequence[Prompt],
    reward: Scorer,
    second: Scorer | None,
    track: Track = untracked,
) -> Measured:
    """An answer to each of `prompts`, and all that is said of it."""
    rollouts = sampler.sample(
        prompts, max_tokens=config.max_tokens, temperature=config.temperature, seed=config.seed, track=track
    )
    kl = shift(sampler, rollouts, config)
    return described(rollouts, reward.score(rollouts), second.score(rollouts) if second else None, kl)


def described(rollouts: Rollouts, reward: Tensor, second: Tensor | None, kl: Tensor) -> Measured:
    """The rollouts without their tokens and states, on the CPU."""
    return Measured(
        rollouts.prompts, rollouts.completions, rollouts.response_lengths.cpu(), rollouts.finished.cpu(), reward.cpu(),
        None if second is None else second.cpu(), kl,
    )  # fmt: skip


def shift(sampler: LocalSampler, rollouts: Rollouts, config: EvaluateConfig) -> Tensor:
    """log π − log π_ref [N] of whole answers, nats, on the CPU; 0 where the sampler draws from the reference itself."""
    found = torch.zeros(len(rollouts))
    if sampler.adapter is None and sampler.shape is plain:
        return found
    heat = config.temperature or 1.0
    for index, part in rollouts.micro_batches(12_288):
        # what a plain policy said is taken again, so that one that is the reference has shifted by exactly 0
        own = part.logps if sampler.shape is not plain else _logps(sampler.trunk, sampler.adapter, part, heat)
        found[index] = (own - _logps(sampler.trunk, None, part, heat)).sum(-1).cpu()
    return found


@torch.no_grad()
def _logps(trunk: Trunk, adapter: str | None, part: Rollouts, temperature: float) -> Tensor:
    """Log-probabilities [b, T] of the responses at `temperature`, 0 elsewhere."""
    with trunk.adapters.using(adapter):
        found = trunk.predict(part, part.states, temperature=temperature)
    return found.spread(found.logps, like=part.tokens)


def _rows(before: Measured, after: Measured, cluster: Tensor, judge_of: str) -> list[dict[str, Any]]:
    def row(name: str, label: str, unit: str, better: str, of: Callable[[Measured], Tensor]) -> dict[str, Any]:
        old, new = of(before).float().cpu(), of(after).float().cpu()
        gain = bootstrap_mean(new - old, cluster)
        return {"name": name, "label": label, "unit": unit, "better": better, "before": float(old.mean()), "after": float(new.mean()),
                "gain": gain.mean, "ci": gain.ends, "n": int(cluster.max()) + 1}  # fmt: skip

    rows = [row("reward", f"Reward ({judge_of})", "", "higher", lambda m: m.reward)]
    if before.second is not None:
        rows.append(row("second_judge", "Second judge (never optimised)", "", "higher", _second))
    return [
        *rows,
        row("kl", "KL to the reference", "nats per sequence", "neither", lambda m: m.kl),
        row("length", "Length", "tokens", "neither", lambda m: m.lengths),
        row("finished", "Answers that come to an end", "share", "higher", lambda m: m.finished),
        row("distinct_2", "Distinct word pairs within an answer", "share", "higher", _distinct),
    ]


def _second(measured: Measured) -> Tensor:
    assert measured.second is not None, "asked for only where there is a second judge"
    return measured.second


def _distinct(measured: Measured) -> Tensor:
    return torch.tensor([distinct_n([c.text], 2) for c in measured.completions])


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
    prompt = before.prompts[i]
    row = {"prompt": prompt.text, "category": prompt.category, "before": before.completions[i].text,
           "after": after.completions[i].text, "reward_before": float(before.reward[i]),
           "reward_after": float(after.reward[i]), "kl": float(after.kl[i])}  # fmt: skip
    if before.second is not None and after.second is not None:
        row |= {"second_before": float(before.second[i]), "second_after": float(after.second[i])}
    return row
