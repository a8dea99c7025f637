"""What both phases were worth: the same held-out prompts answered by the model before, after phase 1 and after PPO."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from manners.cli.revising import refuses_fully
from manners.cli.talk import say, track
from manners.config import Config
from manners.constitution.constitution import Constitution
from manners.constitution.judges import AIJudgeConfig, DirectJudge, load_judge
from manners.constitution.measures import HARMLESS, Yardsticks, compared, told
from manners.constitution.steps import read_steps
from manners.records import Completion, Prompt
from manners.rewards.model import RewardModel
from manners.rewards.toxicity import ToxicityScorer
from manners.runs import Run, read_json, write_jsonl
from manners.sampling.local import LocalSampler

ANSWERS = "answers.jsonl"


class MeasureConfig(Config):
    """How held-out prompts are answered in the end."""

    max_tokens: int = Field(64, gt=0, description="longest answer, end-of-turn token included")
    temperature: float = Field(0.7, ge=0)
    batch: int = Field(64, gt=0)


@dataclass(frozen=True)
class Tested:
    """Prompts that nothing learned from: red-team ones and helpful ones."""

    red_team: Sequence[Prompt]
    helpful: Sequence[Prompt]


def measure(
    config: MeasureConfig,
    model: str,
    tested: Tested,
    run: Run,
    judge: AIJudgeConfig,
    constitution: Constitution,
    seed: int,
) -> dict[str, Any]:
    """Numbers with intervals at each stage and by revision round; the answers stand in RUN/answers.jsonl."""
    yardsticks = load_yardsticks(judge, constitution, run.path)
    red: dict[str, dict[str, Tensor]] = {}
    helpful: dict[str, dict[str, Tensor]] = {}
    rows: list[dict[str, Any]] = []
    models = {"before": model, "after_sl": str(run.path / "sft"), "after_rl": str(run.path / "ppo")}
    for stage, name in models.items():
        answers = _answers(config, name, [*tested.red_team, *tested.helpful], seed)
        own, others = answers[: len(tested.red_team)], answers[len(tested.red_team) :]
        red[stage] = yardsticks.red_team(tested.red_team, own)
        helpful[stage] = yardsticks.helpfulness(tested.helpful, others)
        rows += _rows(stage, tested.red_team, own, red[stage]) + _rows(stage, tested.helpful, others, helpful[stage])
    write_jsonl(run.path / ANSWERS, rows)
    prefer = read_json(run.path / "prefer" / "evaluation.json")
    return {
        "measures": compared(red) + compared(helpful),
        "by_round": by_round(run.path / "revise", yardsticks),
        "judge": prefer.get("quality") or prefer,
        "preference_model": read_json(preference)
        if (preference := run.path / "preference" / "evaluation.json").exists()
        else None,
        "helpfulness_model": read_json(run.path / "helpfulness" / "evaluation.json"),
    }


def load_yardsticks(judge: AIJudgeConfig, constitution: Constitution, run: Path) -> Yardsticks:
    """The AI judge, the toxicity scorer, the reward model of helpfulness in RUN/helpfulness, and the detector of refusals."""
    rater = DirectJudge(load_judge(judge, constitution, run), HARMLESS)
    helpfulness = RewardModel.load(run / "helpfulness")
    scorer = ToxicityScorer.load()

    def not_toxic(_: Sequence[Prompt], answers: Sequence[Completion]) -> Tensor:
        return 1 - scorer.probabilities([answer.text for answer in answers])[:, 0]

    return Yardsticks(rater.score, not_toxic, helpfulness.score_texts, refuses_fully)


def by_round(revise: Path, yardsticks: Yardsticks) -> list[dict[str, Any]]:
    """Every measure of the text that stands after each round, on the prompts that were revised; the first answer is round 0."""
    steps = read_steps(revise)
    found = []
    for number in sorted({step.round for step in steps}):
        here = [step for step in steps if step.round == number]
        prompts = [step.prompt for step in here]
        texts = [Completion(step.prompt.id, step.after) for step in here]
        values = yardsticks.red_team(prompts, texts) | yardsticks.helpfulness(prompts, texts)
        found.append({"round": number, **{name: told(own) for name, own in values.items()}})
    return found


def _answers(config: MeasureConfig, model: str, prompts: Sequence[Prompt], seed: int) -> tuple[Completion, ...]:
    sampler = LocalSampler.of(model, batch=config.batch, say=say)
    with torch.no_grad():
        rollouts = sampler.sample(
            prompts, max_tokens=config.max_tokens, temperature=config.temperature, seed=seed + 1, track=track
        )
    return rollouts.completions


def _rows(
    stage: str, prompts: Sequence[Prompt], answers: Sequence[Completion], values: dict[str, Tensor]
) -> list[dict[str, Any]]:
    return [
        {"stage": stage, "prompt": prompt.to_json(), "answer": answer.text,
         "scores": {name: round(float(own[i]), 4) for name, own in values.items()}}
        for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
    ]  # fmt: skip
