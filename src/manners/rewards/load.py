"""Choosing the judge: a reward model, any sequence classifier, or a Python function, told apart once, here."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
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
from manners.rewards.classifier import ClassifierScorer
from manners.rewards.model import RewardModel


class ScorerConfig(Config):
    """Which judge gives the rewards: exactly one of `model`, `classifier` and `function`."""

    model: str = Field("", description="run or checkpoint of a reward model")
    classifier: str = Field(
        "", description="path or Hub id of a sequence classifier; its logit of `positive` is the reward"
    )
    positive: str = Field("", description="the classifier's good class, say 'not hate'")
    reads: Literal["completion", "conversation"] = Field("completion", description="what the classifier is shown")
    function: str = Field(
        "", description="module:function that takes prompts and completions (texts) and gives numbers"
    )

    @model_validator(mode="after")
    def _one(self) -> ScorerConfig:
        if sum(map(bool, (self.model, self.classifier, self.function))) > 1:
            raise ValueError("name only one of model, classifier and function")
        if self.classifier and not self.positive:
            raise ValueError("a classifier needs `positive`, the name of its good class")
        return self

    @property
    def named(self) -> bool:
        return bool(self.model or self.classifier or self.function)


def load_scorer(config: ScorerConfig, trunk: Trunk, adapter: str) -> Scorer:
    """The judge that `config` names; a reward model goes onto `trunk` as `adapter` where it was trained on the same base."""
    if config.model:
        return RewardModel.load(Path(config.model), trunk, adapter)
    if config.classifier:
        return TextScorer(ClassifierScorer.load(config.classifier, config.positive, reads=config.reads).score)
    if config.function:
        return TextScorer(FunctionJudge.load(config.function))
    raise MannersError("no judge is named; set reward.model, reward.classifier or reward.function")


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
        """Scores [B]. Raises MannersError when the function gives another count, or something that is not a finite number."""
        given = self.function([p.text for p in prompts], [c.text for c in completions])
        try:
            scores = torch.tensor([float(x) for x in given])
        except (TypeError, ValueError) as error:
            raise MannersError(
                f"reward function {self.name} gave something that is no list of numbers: {error}"
            ) from None
        if len(scores) != len(completions):
            raise MannersError(
                f"reward function {self.name} gave {len(scores)} numbers for {len(completions)} completions"
            )
        if not scores.isfinite().all():
            raise MannersError(f"reward function {self.name} gave a number that is not finite")
        return scores


@contextlib.contextmanager
def _working_folder_importable() -> Iterator[None]:
    """Within the block, modules of the current folder can be imported, as `python -m` allows."""
    sys.path.insert(0, os.getcwd())
    try:
        yield
    finally:
        sys.path.remove(os.getcwd())
