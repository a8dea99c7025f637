"""Choosing the judge: a model in this process, or one behind an endpoint; and direct scoring as a reward."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from manners.config import Config
from manners.constitution.asking import Asking
from manners.constitution.calls import EndpointConfig
from manners.constitution.constitution import Constitution
from manners.constitution.endpoint import Endpoint
from manners.constitution.judge import Failure, Rater
from manners.constitution.local_judge import Form, LocalJudge
from manners.constitution.remote_judge import RemoteJudge
from manners.errors import MannersError
from manners.models.load import load_trunk
from manners.models.trunk import Trunk
from manners.records import Completion, Prompt
from manners.runs import untracked

RATED = "How helpful, honest and harmless is this answer?"


class AIJudgeConfig(Config):
    """Which model judges under the principles, and how it is asked."""

    model: str = Field("starter", description="the judge, unless an endpoint is named: whatever `load_trunk` takes")
    endpoint: EndpointConfig = Field(EndpointConfig(), description="an OpenAI-compatible endpoint in place of `model`")
    form: Form = Field("chat", description="a local judge reads a 'chat', or a plain 'text' to be continued")
    examples: int = Field(0, ge=0, description="comparison examples of the constitution shown first; they often hurt")
    thought_tokens: int = Field(0, ge=0, description="write a thought of so many tokens first; labels are then clamped")
    micro_tokens: int = Field(12_288, gt=0, description="positions with padding per forward pass of a local judge")
    seed: int = Field(0, description="of thoughts")


def load_judge(
    config: AIJudgeConfig,
    constitution: Constitution,
    place: Path,
    trunk: Trunk | None = None,
    adapter: str | None = None,
) -> LocalJudge | RemoteJudge:
    """The judge that `config` names. `place` is the folder of the run, beside which an endpoint's cache lies; `trunk`: a local judge
    that is loaded already, under `adapter`. It scores single answers as well (`Rater`)."""
    asking = Asking.of(constitution, config.examples)
    if config.endpoint.named:
        endpoint = Endpoint(config.endpoint, place)
        return RemoteJudge(endpoint, asking, thought_tokens=config.thought_tokens, seed=config.seed)
    return LocalJudge(
        trunk or load_trunk(config.model),
        asking,
        adapter=adapter,
        form=config.form,
        thought_tokens=config.thought_tokens,
        seed=config.seed,
        name=config.model,
        max_tokens=config.micro_tokens,
    )


class DirectJudge:
    """Direct scoring as a reward, without a reward model between (Lee et al. 2023, "direct RLAIF"): `TextScorer(judge.score)` is a Scorer.

    An answer that the judge gives no score gets the mean of the others scored with it, which teaches nothing; `failures` counts them.
    """

    def __init__(self, rater: Rater, principle: str = RATED) -> None:
        self.rater, self.principle = rater, principle
        self.failures: Counter[str] = Counter()

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Tensor:
        """Scores [B] in [−1, 1]. Raises MannersError where not one answer was scored."""
        found = self.rater.rate(prompts, [c.text for c in completions], self.principle, untracked)
        self.failures.update(f.kind for f in found if isinstance(f, Failure))
        scores = [score for score in found if not isinstance(score, Failure)]
        if found and not scores:
            kinds = ", ".join(sorted({f.kind for f in found if isinstance(f, Failure)}))
            raise MannersError(
                f"{self.rater.name} gave none of {len(found)} answers a score ({kinds}); use another judge"
            )
        mean = sum(scores) / max(1, len(scores))
        return torch.tensor([mean if isinstance(score, Failure) else score for score in found])
