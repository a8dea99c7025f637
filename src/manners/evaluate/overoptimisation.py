"""The law of over-optimisation, measured: how far a proxy reward can be followed before the true reward falls.

In a made-up world the true ("gold") reward is known. It labels pairs of answers, and some labels are turned round; reward models learn
from them; best-of-n and PPO without a shift penalty optimise one of these, or an ensemble, while the gold reward watches. Gao,
Schulman & Hilton 2022 (arXiv 2210.10760); label noise and ensembles as in Coste et al. 2023 (arXiv 2310.02743). How to read it, and
the numbers: docs/howto/over-optimisation.md.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from manners.batches import Rollouts
from manners.config import Config
from manners.evaluate.laws import Curve, describe
from manners.evaluate.synthetic import GoldReward, draw_prompts, save_decoder
from manners.models.load import load_trunk
from manners.models.trunk import Trunk
from manners.ops.intervals import bootstrap_mean
from manners.ops.scaling_law import BestOfNLaw, PolicyLaw, best_of_n_kl, best_of_n_means
from manners.records import Pair, Prompt
from manners.rewards.combine import mean, uncertainty_weighted, worst_case
from manners.rewards.ensemble import RewardEnsemble
from manners.rewards.load import ScorerConfig, load_scorer
from manners.runs import Run, Track, file_hash, untracked, write_json
from manners.sampling.local import LocalSampler
from manners.train.experiment import Judges
from manners.train.ppo import PPOConfig, train_ppo
from manners.train.reward import RewardConfig, train_reward

Judge = Literal["single", "mean", "worst_case", "uncertainty_weighted"]
JUDGES: tuple[Judge, ...] = ("single", "mean", "worst_case", "uncertainty_weighted")
OPTIMISED: tuple[Judge, ...] = (
    "single",
    "worst_case",
    "uncertainty_weighted",
)  # by PPO, where every judge takes its time
MICRO_TOKENS = 16_384
Width = Annotated[int, Field(gt=0, multiple_of=8)]


@dataclass(frozen=True)
class Setting:
    """What reward models are: how many comparisons they learn from, how wide they are, how many make an ensemble, and how often
    that is made anew."""

    comparisons: int
    width: int
    members: int
    replicates: int

    @property
    def name(self) -> str:
        return f"{self.comparisons}-comparisons-width-{self.width}"


class OveroptimisationConfig(Config):
    """Settings of `evaluate overoptimisation`."""

    qualities: int = Field(6, gt=1, description="of an answer, that the gold reward looks at; one of them is liked")
    reach: float = Field(1.5, gt=0, description="how far out an answer may be in the others, in deviations")
    width: Width = Field(32, description="hidden width of the policy, and of its reward models")

    comparisons: int = Field(300, gt=1, description="labelled pairs that a reward model learns from")
    label_noise: float = Field(0.25, ge=0, lt=0.5, description="share of the labels that are turned round")
    members: int = Field(4, gt=1, description="reward models in an ensemble; they differ by their seeds")
    replicates: int = Field(4, gt=1, description="how often all is drawn and learned anew, which gives the intervals")
    uncertainty_weight: float = Field(
        0.5, ge=0, description="reward units taken off per unit of variance in an ensemble"
    )

    other_comparisons: tuple[int, ...] = Field((100, 1000), description="best-of-n also with so many comparisons")
    other_widths: tuple[Width, ...] = Field((8,), description="best-of-n also with reward models so wide")
    other_members: int = Field(2, gt=1, description="members of those ensembles")
    other_replicates: int = Field(2, gt=1, description="replicates of those")

    heldout_pairs: int = Field(400, gt=1, description="rightly labelled pairs on which reward models are tested")
    prompts: int = Field(24, gt=1, description="held-out prompts on which everything is measured")
    answers: int = Field(2048, gt=1, description="answers to each of them, from which best-of-n chooses")
    largest_n: int = Field(1024, gt=1, description="best-of-n goes up to this in powers of two")

    rank: int = Field(8, gt=0, description="LoRA rank of reward models and policy, on all layers")
    reward_epochs: int = Field(6, gt=0)
    reward_batch: int = Field(32, gt=0, description="comparisons per optimizer step")
    reward_learning_rate: float = Field(1e-2, gt=0)

    max_tokens: int = Field(16, gt=0, description="longest answer, end-of-turn token included")
    steps: int = Field(60, gt=1, description="steps of PPO at most")
    look_every: int = Field(
        3, gt=0, description="steps between looks at the held-out prompts; the first leave the policy alone"
    )
    kl_limit: float = Field(30.0, gt=0, description="nats per sequence: PPO ends beyond it, before all answers are one")
    batch: int = Field(256, gt=1, description="episodes per step")
    learning_rate: float = Field(2e-3, gt=0)
    value_learning_rate: float = Field(1e-2, gt=0)
    look_samples: int = Field(12, gt=0, description="answers per held-out prompt and look")
    seed: int = 0

    @property
    def sizes(self) -> list[int]:
        """1, 2, 4, … up to `largest_n`, and never more than there are answers."""
        return [2**power for power in range(min(self.largest_n, self.answers).bit_length())]

    def reward(self, base: Path, members: int, seed: int) -> RewardConfig:
        """Settings of an ensemble on `base`."""
        return RewardConfig(
            model=str(base), train_layers="all", rank=self.rank, alpha=2 * self.rank, read="mean", members=members,
            epochs=self.reward_epochs, batch=self.reward_batch, learning_rate=self.reward_learning_rate,
            micro_tokens=MICRO_TOKENS, seed=seed,
        )  # fmt: skip

    def ppo(self, base: Path, judge: ScorerConfig, seed: int) -> PPOConfig:
        """Settings of PPO from `base` against `judge`: no shift penalty, no guards, and a policy that stays where
        it is up to the first look, so that this is the one at distance 0."""
        return PPOConfig(
            model=str(base), reward=judge, train_layers="all", rank=self.rank, alpha=2 * self.rank, beta=0, guards=(),
            steps=self.steps, batch=self.batch, epochs=1, max_tokens=self.max_tokens, warmup=0, schedule="constant",
            learning_rate=self.learning_rate, value_learning_rate=self.value_learning_rate, micro_tokens=MICRO_TOKENS,
            evaluate_every=self.look_every, evaluate_prompts=self.prompts, evaluate_samples=self.look_samples, log_rollouts=2,
            critic_warmup_steps=self.look_every, kl_budget_per_sequence=self.kl_limit, save_every=self.steps, seed=seed,
        )  # fmt: skip

    @property
    def settings(self) -> list[Setting]:
        """The main one first, then those of best-of-n alone."""
        main = Setting(self.comparisons, self.width, self.members, self.replicates)
        other = replace(main, members=self.other_members, replicates=self.other_replicates)
        fewer = [replace(other, comparisons=count) for count in self.other_comparisons]
        return [main, *fewer, *(replace(other, width=width) for width in self.other_widths)]


@dataclass(frozen=True)
class World:
    """The policy's base, the gold reward, and the pool of best-of-n: answers to every held-out prompt, with their gold reward [P, N]."""

    base: Path
    gold: GoldReward
    pool: Rollouts
    pool_gold: Tensor


@dataclass(frozen=True)
class Proxies:
    """An ensemble in the run at `path`: how often its members are right on held-out pairs, and their scores [P, N, M] of the pool."""

    path: Path
    setting: Setting
    replicate: int
    accuracies: list[float]
    opinions: Tensor


def measure_overoptimisation(config: OveroptimisationConfig, run: Run, track: Track = untracked) -> dict[str, Any]:
    """The whole experiment. Leaves RUN/bases, RUN/proxies, RUN/ppo and RUN/overoptimisation.json, and gives what that holds."""
    world = build_world(config, run.path, track)
    plan = [(setting, replicate) for setting in config.settings for replicate in range(setting.replicates)]
    proxies = [train_proxies(config, world, *each, run.path) for each in track(plan, "reward models")]
    by_setting = [[p for p in proxies if p.setting == setting] for setting in config.settings]
    races = [(judge, each) for judge in OPTIMISED for each in by_setting[0]]
    curves = [optimise(config, world, *race, run.path) for race in track(races, "PPO")]
    learned = {judge: [c for c, (name, _) in zip(curves, races, strict=True) if name == judge] for judge in OPTIMISED}
    result = {
        "best_of_n": [
            _about(each) | {"judges": describe(choose(config, world, each), BestOfNLaw, "single")}
            for each in by_setting
        ],
        "ppo": {"judges": describe(learned, PolicyLaw, "single")},
    }
    write_json(run.path / "overoptimisation.json", result)
    return result


def summary(result: Mapping[str, Any]) -> dict[str, Any]:
    """The fitted numbers in short, for the main setting and PPO, and what they say of the law.

    A peak of None is one that is never reached.
    """
    methods = {"best_of_n": result["best_of_n"][0]["judges"], "ppo": result["ppo"]["judges"]}
    laws = [judge[what] for judges in methods.values() for judge in judges.values() for what in ("gold", "proxy")]
    return {
        **{name: {judge: _short(found) for judge, found in judges.items()} for name, judges in methods.items()},
        "lowest_r2": round(min(law["r2"] for law in laws), 4),
        "gold_peaks_first": all(
            _or_never(judge["gold"]["peak"]) < _or_never(judge["proxy"]["peak"])
            for judges in methods.values()
            for judge in judges.values()
        ),
    }


def build_world(config: OveroptimisationConfig, folder: Path, track: Track = untracked) -> World:
    """Save the bases, draw the gold reward, and fill the pool."""
    for width in {setting.width for setting in config.settings}:
        save_decoder(_base(folder, width), width, seed=config.seed + width)
    base = _base(folder, config.width)
    usual = answer(config, base, draw_prompts(2000, config.seed + 1), config.seed + 1)
    gold = GoldReward(config.seed, usual, qualities=config.qualities, reach=config.reach)
    asked = [p for p in draw_prompts(config.prompts, config.seed + 2) for _ in range(config.answers)]
    pool = answer(config, base, asked, config.seed + 2, track)
    return World(base, gold, pool, gold.score(pool).view(config.prompts, config.answers))


def answer(
    config: OveroptimisationConfig, base: Path, prompts: Sequence[Prompt], seed: int, track: Track = untracked
) -> Rollouts:
    """An answer of the policy to start from to each prompt, sampled as PPO does."""
    sampler = LocalSampler(load_trunk(str(base)), None, batch=1024)
    return sampler.sample(prompts, max_tokens=config.max_tokens, temperature=1.0, seed=seed, track=track)


def label(config: OveroptimisationConfig, world: World, count: int, noise: float, seed: int) -> list[Pair]:
    """`count` comparisons of two answers to a prompt each: the one with more gold reward is preferred, but for a share `noise` of
    the labels, which is turned round. Two answers that are the same give no pair."""
    prompts = draw_prompts(count, seed)
    rollouts = answer(config, world.base, [p for p in prompts for _ in range(2)], seed)
    first_is_better = world.gold.score(rollouts).view(count, 2).diff()[:, 0] < 0
    turned = torch.rand(count, generator=torch.Generator().manual_seed(seed)) < noise
    pairs = []
    for i, first in enumerate((first_is_better ^ turned).tolist()):
        one, other = rollouts.completions[2 * i : 2 * i + 2]
        if one.id != other.id:
            pairs.append(Pair(prompts[i], *((one, other) if first else (other, one))))
    return pairs


def train_proxies(
    config: OveroptimisationConfig, world: World, setting: Setting, replicate: int, folder: Path
) -> Proxies:
    """Train an ensemble on labels of its own, and let it score the pool."""
    path = folder / "proxies" / setting.name / str(replicate)
    base = _base(folder, setting.width)
    seed = config.seed + 1000 * (replicate + 1)
    settings = config.reward(base, setting.members, seed)
    run = Run.create(path, "reward", settings, {"model": _source(base, path)})
    trunk = load_trunk(str(base), settings.train_layers)
    with run.guard():
        training = label(config, world, setting.comparisons, config.label_noise, seed)
        evaluation = train_reward(
            settings, training, label(config, world, config.heldout_pairs, 0, config.seed + 3), run, trunk
        )
    ensemble = RewardEnsemble.load(path, trunk, "proxy")
    opinions = ensemble.opinions(_read_by(trunk, world.pool)).view(*world.pool_gold.shape, -1)
    return Proxies(path, setting, replicate, [m["accuracy"] for m in evaluation["members"]], opinions)


def choose(config: OveroptimisationConfig, world: World, proxies: Sequence[Proxies]) -> dict[Judge, list[Curve]]:
    """Best-of-n by every judge, a curve for each replicate; that of "single" is the mean over the members."""

    def best_of_n(scores: Tensor) -> Curve:
        distances = torch.tensor([math.sqrt(best_of_n_kl(n)) for n in config.sizes])
        gold, proxy = (best_of_n_means(scores, v, config.sizes).mean(0) for v in (world.pool_gold, scores))
        return Curve(distances, gold - gold[0], proxy - proxy[0])

    curves: dict[Judge, list[Curve]] = {judge: [] for judge in JUDGES}
    for each in proxies:
        singles = [best_of_n(scores) for scores in each.opinions.unbind(-1)]
        for judge in JUDGES:
            if judge == "single":
                gold, proxy = (
                    torch.stack(rewards).mean(0) for rewards in zip(*((c.gold, c.proxy) for c in singles), strict=True)
                )
                curves[judge].append(Curve(singles[0].distances, gold, proxy))
            else:
                curves[judge].append(best_of_n(_combined(config, judge, each.opinions)))
    return curves


def optimise(config: OveroptimisationConfig, world: World, judge: Judge, proxies: Proxies, folder: Path) -> Curve:
    """PPO against the judge, the gold reward watching on the held-out prompts; "single" is the first member."""
    path = folder / "ppo" / judge / str(proxies.replicate)
    settings = config.ppo(world.base, _named(config, judge, proxies.path), config.seed + proxies.replicate)
    run = Run.create(path, "ppo", settings, {"model": _source(world.base, path), "reward": _source(proxies.path, path)})
    trunk = load_trunk(str(world.base), settings.train_layers)
    judges = Judges(load_scorer(settings.reward, trunk, "reward"), world.gold)
    heldout = list(world.pool.prompts[:: config.answers])
    with run.guard():
        train_ppo(settings, draw_prompts(512, config.seed + 4), heldout, run, trunk, judges)
    looks = [row for row in run.metrics() if "heldout_kl" in row]
    kl, gold, proxy = (
        torch.tensor([row[key] for row in looks]) for key in ("heldout_kl", "heldout_second_judge", "heldout_reward")
    )
    return Curve(kl.clamp(min=0).sqrt(), gold - gold[0], proxy - proxy[0])


def _combined(config: OveroptimisationConfig, judge: Judge, opinions: Tensor) -> Tensor:
    """What the judge makes of its members' opinions [..., M]."""
    match judge:
        case "single":
            return opinions[..., 0]
        case "mean":
            return mean(opinions)
        case "worst_case":
            return worst_case(opinions)
        case "uncertainty_weighted":
            return uncertainty_weighted(opinions, weight=config.uncertainty_weight)


def _named(config: OveroptimisationConfig, judge: Judge, proxies: Path) -> ScorerConfig:
    """The same judge for PPO's own config."""
    if judge == "single":
        return ScorerConfig(model=str(proxies / "checkpoints" / "final" / "members" / "0"))
    return ScorerConfig(model=str(proxies), combine=judge, uncertainty_weight=config.uncertainty_weight)


def _read_by(trunk: Trunk, rollouts: Rollouts) -> Rollouts:
    """The rollouts as if `trunk` had sampled them: all bases of a world have one tokenizer, so that nothing is tokenised again."""
    return replace(rollouts, states=trunk.states(rollouts), trunk=trunk)


def _about(proxies: Sequence[Proxies]) -> dict[str, Any]:
    setting = proxies[0].setting
    accuracy = bootstrap_mean(torch.tensor([sum(p.accuracies) / len(p.accuracies) for p in proxies]))
    return {
        "comparisons": setting.comparisons,
        "width": setting.width,
        "accuracy": accuracy.mean,
        "accuracy_ci": accuracy.ends,
    }


def _short(judge: Mapping[str, Any]) -> dict[str, Any]:
    names = ("alpha", "beta", "r2", "peak", "height")
    return {what: {name: _rounded(judge[what][name]) for name in names} for what in ("gold", "proxy")}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _or_never(peak: float | None) -> float:
    return math.inf if peak is None else peak


def _base(folder: Path, width: int) -> Path:
    return folder / "bases" / str(width)


def _source(made_from: Path, run: Path) -> dict[str, str]:
    return {"path": os.path.relpath(made_from, run), "hash": file_hash(made_from), "kind": "model"}
