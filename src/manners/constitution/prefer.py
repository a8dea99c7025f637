"""Phase 2, feedback from a model: answers to prompts, compared under the principles, become rankings and soft pairs.

The rankings are those of people, with source "ai". A pair carries the label as its `probability`, the likelier answer first, and
`train reward` learns from it with cross-entropy on the soft label (Bai et al. 2022, arXiv 2212.08073).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from pydantic import Field

from manners.constitution.calls import EndpointConfig
from manners.constitution.comparisons import Asked, Compared, Comparisons, compare
from manners.constitution.constitution import Comparison
from manners.constitution.judge import Judge
from manners.constitution.judges import AIJudgeConfig
from manners.constitution.ledger import Ledger
from manners.constitution.prompts import normalised
from manners.constitution.quality import QualityConfig, habits
from manners.constitution.writer import Writer, drawn
from manners.errors import MannersError
from manners.feedback.answers import Answered
from manners.feedback.pairs import pairs_of, split_of
from manners.records import SPLITS, Completion, Judgement, Pair, Prompt, Ranking, Split
from manners.runs import Run, Track, untracked, write_jsonl

ANSWERS, COMPARISONS, JUDGEMENTS = "answers.jsonl", "comparisons.jsonl", "judgements.jsonl"


class PreferConfig(QualityConfig):
    """Settings of `constitution prefer`."""

    constitution: str = Field("default", description="a constitution file, or 'default'")
    prompts: str = Field("red_team", description="a file of prompts, or 'red_team' or 'helpful' of the package")
    model: str = Field(
        "starter", description="what writes the answers: best the model of phase 1, which PPO starts from"
    )
    writer: EndpointConfig = Field(
        EndpointConfig(), description="an endpoint that writes the answers in place of `model`"
    )
    answers: int = Field(2, ge=2, le=16, description="answers to each prompt; every two of them are compared")
    max_tokens: int = Field(64, gt=0, description="of an answer")
    temperature: float = Field(1.0, gt=0)
    judge: AIJudgeConfig = Field(AIJudgeConfig(), description="who compares them")
    swap: bool = Field(
        True, description="ask in both orders and average; otherwise the judge's bias for a place stays in"
    )
    check_on: str = Field("starter", description="comparisons by people that the judge is checked on first, or 'none'")
    check: int = Field(64, gt=0, description="how many of them, drawn by prompt")
    mix: str = Field("", description="judgements that the pairs are mixed with, say of helpfulness by people")
    batch: int = Field(64, gt=0, description="prompts, or comparisons, between two entries in the files of the run")
    validation: float = Field(0.1, ge=0, lt=1, description="share of the prompts without a split of their own")
    test: float = Field(0.1, ge=0, lt=1, description="likewise")
    seed: int = 0


@dataclass(frozen=True)
class Preferred:
    """What came of it: a ranking for each prompt, soft pairs, and numbers."""

    judgements: list[Judgement]
    pairs: list[Pair]
    summary: dict[str, Any]


def prefer(
    config: PreferConfig,
    prompts: Sequence[Prompt],
    principles: Sequence[Comparison],
    writer: Writer,
    judge: Judge,
    run: Run,
    *,
    retry: bool = False,
    say: Callable[[str], None] = lambda _: None,
    track: Track = untracked,
) -> Preferred:
    """Answer `prompts`, compare the answers under `principles`, and write RUN/judgements.jsonl.

    Answers and comparisons go to RUN/answers.jsonl and RUN/comparisons.jsonl as they come; what is there is not done again, but
    with `retry` what failed is. Raises MannersError where no comparison came about.
    """
    answered = _answers(config, prompts, writer, Ledger(run.path / ANSWERS), retry, track)
    asked = [
        Asked.draw(prompt, first, second, principles, config.seed)
        for prompt, answers in ((one.prompt, _different(one.completions)) for one in answered)
        for first, second in combinations(answers, 2)
    ]
    found = compare(
        judge,
        asked,
        Ledger(run.path / COMPARISONS),
        swap=config.swap,
        batch=config.batch,
        retry=retry,
        say=say,
        track=track,
    )
    if not found.compared:
        kinds = (
            ", ".join(f"{kind} {count}" for kind, count in found.failures.most_common()) or "no two answers differed"
        )
        raise MannersError(
            f"not one of {len(asked)} comparisons came about ({kinds}); use another judge or another writer"
        )
    judgements, pairs = _rankings(answered, found.compared, judge.name)
    write_jsonl(run.path / JUDGEMENTS, (judgement.to_json() for judgement in judgements))
    return Preferred(judgements, pairs, _summary(answered, found, judge.name))


def mixed(
    ai: Preferred, human: Iterable[Judgement], seed: int, validation: float = 0.1, test: float = 0.1
) -> tuple[dict[Split, list[Pair]], dict[Split, list[Judgement]]]:
    """Pairs and rankings of both by split, for `feedback.pairs.write_pairs`, with nothing known of a held-out prompt in another split.

    A prompt that both speak of, be it in other letter case or layout, stands in the split that is held out most: test before
    validation before train.
    """
    people = list(human)
    prompts = [j.prompt for j in (*ai.judgements, *people)] + [pair.prompt for pair in ai.pairs]
    place: dict[str, Split] = {}
    for prompt in prompts:
        text, split = normalised(prompt), split_of(prompt, seed, validation, test)
        place[text] = max(place.get(text, "train"), split, key=SPLITS.index)
    pairs: dict[Split, list[Pair]] = {split: [] for split in SPLITS}
    rankings: dict[Split, list[Judgement]] = {split: [] for split in SPLITS}
    for pair in (*ai.pairs, *(pair for judgement in people for pair in pairs_of(judgement))):
        split = place[normalised(pair.prompt)]
        pairs[split].append(replace(pair, prompt=replace(pair.prompt, split=split)))
    for judgement in (*ai.judgements, *people):
        split = place[normalised(judgement.prompt)]
        rankings[split].append(replace(judgement, prompt=replace(judgement.prompt, split=split)))
    return pairs, rankings


def _answers(
    config: PreferConfig, prompts: Sequence[Prompt], writer: Writer, ledger: Ledger, retry: bool, track: Track
) -> list[Answered]:
    """Every prompt, once, with its answers."""
    done = {one.prompt.id: one for one in map(Answered.from_json, ledger.rows())}
    each_once = {prompt.id: prompt for prompt in prompts}
    waiting = [
        prompt
        for prompt_id, prompt in each_once.items()
        if prompt_id not in done or (retry and any(not c.text for c in done[prompt_id].completions))
    ]
    parts = [waiting[start : start + config.batch] for start in range(0, len(waiting), config.batch)]
    k = config.answers
    for part in track(parts, "answering"):
        asked = [prompt for prompt in part for _ in range(k)]
        seeds = [drawn("answer", config.seed, prompt.id, i) % 2**31 for prompt in part for i in range(k)]
        written = writer.complete(asked, config.max_tokens, config.temperature, seeds)
        made = [Answered(prompt, tuple(written[i * k : (i + 1) * k])) for i, prompt in enumerate(part)]
        ledger.add([one.to_json() for one in made])
        done |= {one.prompt.id: one for one in made}
    return [done[prompt_id] for prompt_id in each_once]


def _different(answers: Sequence[Completion]) -> list[Completion]:
    """The answers that say something, each text once."""
    return list({answer.text: answer for answer in reversed(answers) if answer.text.strip()}.values())[::-1]


def _rankings(
    answered: Sequence[Answered], compared: Sequence[Compared], judge: str
) -> tuple[list[Judgement], list[Pair]]:
    """A ranking for each prompt with a comparison, by the mean probability with which an answer beats the others; and a pair for
    each comparison."""
    by_prompt: dict[str, list[Compared]] = defaultdict(list)
    for found in compared:
        by_prompt[found.asked.prompt.id].append(found)
    judgements, pairs = [], []
    for one in answered:
        if own := by_prompt[one.prompt.id]:
            judgement = _judgement(one.prompt, _different(one.completions), own, judge)
            judgements.append(judgement)
            pairs += [_pair(found, judgement, len(own)) for found in own]
    return judgements, pairs


def _judgement(prompt: Prompt, answers: Sequence[Completion], own: Sequence[Compared], judge: str) -> Judgement:
    wins: dict[str, list[float]] = defaultdict(list)
    for found in own:
        wins[found.asked.first.id].append(found.probability)
        wins[found.asked.second.id].append(1 - found.probability)
    scores = {
        answer.id: round(math.fsum(wins[answer.id]) / len(wins[answer.id]), 9) for answer in answers if wins[answer.id]
    }
    tiers = tuple(tuple(i for i in scores if scores[i] == score) for score in sorted({*scores.values()}, reverse=True))
    note = "; ".join(f"{found.asked.principle.id} {found.probability:.3f}" for found in own)
    shown = tuple(answer.id for answer in answers)
    return Judgement(prompt, tuple(answers), Ranking(prompt.id, tiers, "ai", judge, shown, note=note))


def _pair(found: Compared, judgement: Judgement, count: int) -> Pair:
    """The soft pair of one of `count` comparisons of a prompt, which weigh 1 together."""
    asked, ranking = found.asked, judgement.ranking
    pair = Pair(asked.prompt, asked.first, asked.second, 1 / count, 1.0, ranking.id, ranking.judge,
                max(found.probability, 1 - found.probability))  # fmt: skip
    return pair if found.probability >= 0.5 else pair.swap()


def _summary(answered: Sequence[Answered], found: Comparisons, judge: str) -> dict[str, Any]:
    return {
        "judge": judge,
        "n_prompts": len(answered),
        "n_comparisons": len(found.compared),
        "too_few_answers": sum(len(_different(one.completions)) < 2 for one in answered),
        **habits(found.compared),
        "failures": dict(found.failures),
        "failure_rate": found.failure_rate,
        "by_principle": dict(Counter(c.asked.principle.id for c in found.compared).most_common()),
    }
