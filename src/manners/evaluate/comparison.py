"""Several methods on the same data, from the same policy, with the same budget: which one gains most, and at what distance?

Each method is trained once per seed and then answers the same held-out prompts as the policy that all began with. A method is better only
as far as the second judge sees it too, and a gain is to be read beside the KL that it cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from manners.config import Config
from manners.errors import MannersError
from manners.evaluate.best_of_n import measure_best_of_n
from manners.evaluate.policy import EvaluateConfig, Measured, ask_for, measure
from manners.learner.local import POLICY
from manners.models.load import checkpoint_folder, load_trunk
from manners.models.shaping import shape_of
from manners.models.trunk import TrainLayers, Trunk
from manners.ops.intervals import crossed_mean
from manners.records import Prompt
from manners.rewards.load import ScorerConfig, load_scorer
from manners.runs import Run, Track, read_jsonl, untracked
from manners.sampling.local import LocalSampler

MethodName = Literal["ppo", "grpo", "dpo", "ilql", "best_of_n"]


class Entry(Config):
    """One line of the comparison: a method, its config file, and what is set over it."""

    method: MethodName = Field(description="how it learns; best_of_n learns nothing")
    config: str = Field("", description="YAML file of the method; none: its defaults")
    settings: dict[str, Any] = Field({}, description="over the file")
    n: int = Field(16, gt=1, description="of best_of_n: answers from which the judge chooses")


class CompareConfig(Config):
    """Settings of `compare`."""

    model: str = Field("starter", description="the policy that all begin with")
    train_layers: TrainLayers = Field(
        8, description="of every method; the judges share the trunk where theirs are the same"
    )
    reward: ScorerConfig = Field(ScorerConfig(), description="the judge that is optimised")
    second_judge: ScorerConfig = Field(ScorerConfig(), description="a judge that is only watched")
    seeds: tuple[int, ...] = Field((0,), description="each method is trained once with each of them")
    max_seconds: float | None = Field(
        None, gt=0, description="budget of each training; none: as long as its config says"
    )
    methods: dict[str, Entry] = Field({}, description="what is compared, by the name that it has in the table")
    evaluate: EvaluateConfig = EvaluateConfig()

    @field_validator("seeds")
    @classmethod
    def _once_each(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if not seeds or len(set(seeds)) < len(seeds):
            raise ValueError("name at least one seed, and each once")
        return seeds


@dataclass(frozen=True)
class Outcome:
    """What one training came to on P held-out prompts, as means over the answers to each: gains in reward and by the second judge over
    the policy it began with, KL to it in nats per sequence, length in tokens, whether answers come to an end, all [P]; the seconds it
    took; and the looks at held-out prompts on the way, as {seconds, kl, reward, second_judge}."""

    reward: list[float]
    second_judge: list[float]
    kl: list[float]
    length: list[float]
    finished: list[float]
    seconds: float
    looks: list[dict[str, float]]


class Ground:
    """What all methods have in common: held-out prompts, judges, and what the policy that all begin with makes of the prompts."""

    def __init__(self, config: CompareConfig, prompts: Sequence[Prompt], track: Track = untracked) -> None:
        self.config, self.track = config, track
        self.asked = ask_for(config.evaluate, prompts)
        trunk = load_trunk(config.model, config.train_layers)
        self.before = self._measure(trunk, LocalSampler(trunk, None, batch=config.evaluate.batch))

    def of_run(self, run: Run, seconds: float) -> Outcome:
        """The outcome of a finished run: of its best checkpoint, else its final one."""
        path = str(run.path)
        folder = checkpoint_folder(path)
        if folder is None:
            raise MannersError(f"{path} holds no checkpoint to compare")
        trunk = load_trunk(self.config.model, self.config.train_layers)
        trunk.adapters.load(POLICY, folder)
        sampler = LocalSampler(trunk, POLICY, batch=self.config.evaluate.batch, shape=shape_of(path, trunk))
        return self._outcome(self._measure(trunk, sampler), seconds, looks_of(run))

    def of_best(self, n: int, seed: int, seconds: Callable[[], float]) -> Outcome:
        """The outcome of best-of-n by the judge that the others optimise; other answers to choose from with another seed."""
        trunk = load_trunk(self.config.model, self.config.train_layers)
        sampler = LocalSampler(trunk, None, batch=self.config.evaluate.batch)
        reward, second = self._judges(trunk)
        drawn = self.config.evaluate.model_copy(update={"seed": self.config.evaluate.seed + seed})
        after = measure_best_of_n(drawn, n, sampler, self.asked, reward, second, self.track)
        return self._outcome(after, seconds(), [])

    def _judges(self, trunk: Trunk) -> tuple[Any, Any]:
        second = self.config.second_judge
        return load_scorer(self.config.reward, trunk, "reward"), load_scorer(
            second, trunk, "second judge"
        ) if second.named else None

    def _measure(self, trunk: Trunk, sampler: LocalSampler) -> Measured:
        return measure(self.config.evaluate, sampler, self.asked, *self._judges(trunk), self.track)

    def _outcome(self, after: Measured, seconds: float, looks: list[dict[str, float]]) -> Outcome:
        def each(values: Tensor) -> list[float]:
            return [float(x) for x in values.float().view(-1, self.config.evaluate.samples_per_prompt).mean(1)]

        reward = each(after.reward - self.before.reward)
        second = [] if after.second is None or self.before.second is None else each(after.second - self.before.second)
        return Outcome(reward, second, each(after.kl), each(after.lengths), each(after.finished), seconds, looks)


def looks_of(run: Run) -> list[dict[str, float]]:
    """The run's looks at held-out prompts, with the seconds of training until then."""
    path = run.path / "timings.jsonl"
    seconds = [row["seconds"] for row in read_jsonl(path)] if path.exists() else []
    found = []
    for place, row in enumerate(run.metrics()):
        if "heldout_reward" in row:
            names = {"kl": "heldout_kl", "reward": "heldout_reward", "second_judge": "heldout_second_judge"}
            found.append({"seconds": sum(seconds[: place + 1]), **{k: row[v] for k, v in names.items() if v in row}})
    return found


def summarise(outcomes: Mapping[str, Mapping[int, Outcome]]) -> list[dict[str, Any]]:
    """The table: for each method the means over seeds and prompts, with intervals that allow for both, the best by reward first."""
    rows = []
    for name, by_seed in outcomes.items():
        seeds = list(by_seed.values())
        row: dict[str, Any] = {"method": name, "seeds": list(by_seed), "prompts": len(seeds[0].reward)}
        for quantity in ("reward", "second_judge", "kl", "length", "finished"):
            values = torch.tensor([getattr(outcome, quantity) for outcome in seeds])
            if values.numel():
                found = crossed_mean(values)
                row |= {
                    quantity: found.mean,
                    f"{quantity}_ci": found.ends,
                    f"{quantity}_by_seed": values.mean(1).tolist(),
                }
        row |= {
            "seconds": sum(outcome.seconds for outcome in seeds) / len(seeds),
            "looks": [outcome.looks for outcome in seeds],
        }
        rows.append(row)
    return sorted(rows, key=lambda row: -row["reward"])
