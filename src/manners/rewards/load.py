"""Choosing the judge: a reward model or an ensemble of them, any sequence classifier, our own scorer of toxicity, a Python function,
or a combination of these, told apart once, here."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from manners.batches import Rollouts
from manners.config import Config
from manners.errors import MannersError
from manners.models.trunk import Trunk
from manners.protocols import Scorer
from manners.records import Completion, Prompt
from manners.rewards.classifier import ClassifierScorer, one_line
from manners.rewards.combine import CombinedReward, Part, uncertainty_weighted, worst_case
from manners.rewards.ensemble import RewardEnsemble, is_ensemble
from manners.rewards.model import RewardModel
from manners.rewards.toxicity import Fault, ToxicityScorer

Combine = Literal["mean", "worst_case", "uncertainty_weighted", "weight_average"]


class JudgeConfig(Config):
    """A judge of one thing: exactly one of `model`, `members`, `classifier`, `toxicity` and `function`."""

    model: str = Field("", description="run or checkpoint of a reward model, or of an ensemble of them")
    members: tuple[str, ...] = Field((), description="reward models trained apart that are one ensemble")
    combine: Combine = Field(
        "mean",
        description="what an ensemble says: the mean of its members, the lowest of them, the mean less their variance times"
        " `uncertainty_weight`, or what one model with the mean of their weights says",
    )
    uncertainty_weight: float = Field(
        0.5, ge=0, allow_inf_nan=False, description="reward units taken off per unit of variance among the members"
    )
    classifier: str = Field(
        "", description="path or Hub id of a sequence classifier; its logit of `positive` is the reward"
    )
    positive: str = Field("", description="the classifier's good class, say 'not hate'")
    reads: Literal["completion", "conversation"] = Field("completion", description="what the classifier is shown")
    toxicity: Literal["", Fault] = Field(
        "", description="toxicity, aggression or hate: minus its logit by the offline scorer is the reward"
    )
    function: str = Field(
        "", description="module:function that takes prompts and completions (texts) and gives numbers"
    )

    @model_validator(mode="after")
    def _one(self) -> JudgeConfig:
        if len(self._kinds) > 1:
            raise ValueError(f"name only one of {', '.join(self._kinds)}")
        if self.classifier and not self.positive:
            raise ValueError("a classifier needs `positive`, the name of its good class")
        if self.combine != "mean" and not (self.model or self.members):
            raise ValueError("`combine` is for an ensemble of reward models; name it in `model` or `members`")
        return self

    @property
    def _kinds(self) -> list[str]:
        """The keys that name a judge here."""
        named = {"model": self.model, "members": self.members, "classifier": self.classifier, "toxicity": self.toxicity,
                 "function": self.function}  # fmt: skip
        return [key for key, value in named.items() if value]

    @property
    def named(self) -> bool:
        return bool(self._kinds)

    @property
    def sources(self) -> tuple[str, ...]:
        """Paths or Hub ids of the models that it is made of."""
        return tuple(source for source in (self.model, *self.members, self.classifier) if source)


class PartConfig(JudgeConfig):
    """A judge as a part of a combination."""

    weight: float = Field(1.0, allow_inf_nan=False, description="reward units per unit of this judge's score")
    floor: float | None = Field(
        None,
        allow_inf_nan=False,
        description="in units of its score; set it, and the part earns nothing, but what it is short of the floor costs"
        " `weight` per unit, and the good of the other parts counts the less",
    )

    @model_validator(mode="after")
    def _whole(self) -> PartConfig:
        if not self.named:
            raise ValueError("every part names a judge: model, members, classifier or function")
        if self.floor is not None and self.weight <= 0:
            raise ValueError("the weight of a part with a floor is the price of falling short of it; set it above 0")
        return self


class ScorerConfig(JudgeConfig):
    """Which judge gives the rewards: exactly one of `model`, `members`, `classifier`, `toxicity`, `function` and
    `parts`."""

    parts: tuple[PartConfig, ...] = Field((), description="several judges as one reward, with weights and floors")

    @model_validator(mode="after")
    def _something_to_gain(self) -> ScorerConfig:
        if self.parts and all(part.floor is not None for part in self.parts):
            raise ValueError(
                "every part has a floor, so that nothing can be gained; leave out the floor of what is to be maximised"
            )
        return self

    @property
    def _kinds(self) -> list[str]:
        return [*super()._kinds, *(["parts"] if self.parts else [])]

    @property
    def sources(self) -> tuple[str, ...]:
        """Paths or Hub ids of the models that it is made of, its parts' included."""
        return super().sources + tuple(source for part in self.parts for source in part.sources)


def load_scorer(config: ScorerConfig, trunk: Trunk | None, adapter: str) -> Scorer:
    """The judge that `config` names; reward models go onto `trunk` where there is one and they were trained on the same base, as
    `adapter` or, where there are several, as adapter-0, adapter-1, …"""
    if config.parts:
        return CombinedReward(
            [_part(part, trunk, f"{adapter}-{number}", number) for number, part in enumerate(config.parts)]
        )
    return _judge(config, trunk, adapter)


def _part(config: PartConfig, trunk: Trunk | None, adapter: str, number: int) -> Part:
    named = ", ".join(config.sources) or config.toxicity or config.function
    return Part(f"part {number} of the reward ({named})", _judge(config, trunk, adapter), config.weight, config.floor)


def _judge(config: JudgeConfig, trunk: Trunk | None, adapter: str) -> Scorer:
    if config.members or (config.model and is_ensemble(Path(config.model))):
        return _ensemble(config, trunk, adapter)
    if config.model:
        if config.combine != "mean":
            raise MannersError(
                f"{config.model} is no ensemble, so that combine: {config.combine} says nothing; leave it out"
            )
        return RewardModel.load(Path(config.model), trunk, adapter)
    if config.classifier:
        return TextScorer(ClassifierScorer.load(config.classifier, config.positive, reads=config.reads).score)
    if config.toxicity:
        return TextScorer(ToxicityScorer.load().reward(config.toxicity))
    if config.function:
        return TextScorer(FunctionJudge.load(config.function))
    raise MannersError("no judge is named; set reward.model, reward.classifier or reward.function")


def _ensemble(config: JudgeConfig, trunk: Trunk | None, adapter: str) -> Scorer:
    if config.members:
        ensemble = RewardEnsemble.gather([Path(member) for member in config.members], trunk, adapter)
    else:
        ensemble = RewardEnsemble.load(Path(config.model), trunk, adapter)
    match config.combine:
        case "mean":
            return ensemble
        case "worst_case":
            return RewardEnsemble(ensemble.members, worst_case)
        case "uncertainty_weighted":
            return RewardEnsemble(ensemble.members, partial(uncertainty_weighted, weight=config.uncertainty_weight))
        case "weight_average":
            return ensemble.average(adapter)


class TextScorer:
    """A judge that reads texts: it sees the prompts and completions of the rollouts, never their tokens."""

    def __init__(self, judge: Callable[[Sequence[Prompt], Sequence[Completion]], Tensor]) -> None:
        self.judge = judge

    def score(self, rollouts: Rollouts) -> Tensor:
        """Scores [B]."""
        return self.judge(rollouts.prompts, rollouts.completions).to(rollouts.tokens.device)


class FunctionJudge:
    """A Python function of (prompts, completions), both lists of texts, that gives one number each."""

    def __init__(self, function: Callable[[list[str], list[str]], Sequence[float]], name: str = "function") -> None:
        self.function = function
        self.name = name

    @classmethod
    def load(cls, spec: str) -> FunctionJudge:
        """From "module:function". Raises MannersError where it cannot be imported."""
        module, _, name = spec.partition(":")
        try:
            with _working_folder_importable():
                function = vars(importlib.import_module(module))[name]
        except (ImportError, KeyError, ValueError, TypeError) as error:
            raise MannersError(
                f"reward function {spec!r} cannot be imported ({error}); write it as module:function"
            ) from None
        if not callable(function) or isinstance(function, type):
            raise MannersError(f"{spec!r} is no function; name one of (prompts, completions), both lists of texts")
        return cls(function, spec)

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Tensor:
        """Scores [B]. Raises MannersError when the function raises anything, gives another count, or something that is not a finite
        number."""
        try:
            given = self.function([p.text for p in prompts], [c.text for c in completions])
        except Exception as error:  # somebody else's code: whatever it raises stops the run with a word on where
            raise MannersError(f"reward function {self.name} failed: {_told(error)}") from error
        try:
            scores = torch.tensor([float(x) for x in given])
        except Exception as error:  # a generator runs that code only here
            raise MannersError(
                f"reward function {self.name} gave something that is no list of numbers: {_told(error)}"
            ) from error
        if len(scores) != len(completions):
            raise MannersError(
                f"reward function {self.name} gave {len(scores)} numbers for {len(completions)} completions"
            )
        if not scores.isfinite().all():
            raise MannersError(f"reward function {self.name} gave a number that is not finite")
        return scores


def _told(error: Exception) -> str:
    """Kind and message of an exception on one line, and where outside this file it arose, if it did."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    place = f" ({Path(frames[0].filename).name} line {frames[0].lineno})" if frames else ""
    return f"{type(error).__name__}: {one_line(error)}{place}"


@contextlib.contextmanager
def _working_folder_importable() -> Iterator[None]:
    """Within the block, modules of the current folder can be imported, as `python -m` allows."""
    sys.path.insert(0, os.getcwd())
    try:
        yield
    finally:
        sys.path.remove(os.getcwd())
