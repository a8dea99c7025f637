"""Judgements made up for tests of reward models, and a reward model before its first step."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from tiny import tiny_trunk

from manners.models.heads import ScalarHead
from manners.records import Completion, Judgement, Pair, Prompt, Ranking
from manners.rewards.model import RewardModel

WORDS = ["sit", "bat", "ran", "dog", "ink", "cow"]


def toy_pairs(count: int, seed: int) -> list[Pair]:
    """Answers with the word "please" in them win over answers with the word "never"."""
    draw, pairs = random.Random(seed), []
    for i in range(count):
        prompt = Prompt.of(f"say {draw.choice(WORDS)} {seed} {i}", category=["odd", "even"][i % 2])
        answers = []
        for word in ("please", "never"):
            words = [draw.choice(WORDS)]
            words.insert(draw.randint(0, 1), word)
            answers.append(Completion(prompt.id, " ".join(words)))
        pairs.append(Pair(prompt, answers[0], answers[1]))
    return pairs


def ranked(prompt: Prompt, texts: Sequence[str], judge: str = "") -> list[Pair]:
    """The C(K, 2) pairs of a ranking, best text first."""
    answers = [Completion(prompt.id, text) for text in texts]
    weight = 2 / (len(texts) * (len(texts) - 1))
    return [Pair(prompt, answers[i], answers[j], weight, float(j - i), judge=judge)
            for i in range(len(texts)) for j in range(i + 1, len(texts))]  # fmt: skip


def judged(prompt: Prompt, tiers: Sequence[Sequence[str]], **fields: Any) -> Judgement:
    """A ranking of texts, best tier first."""
    completions = {text: Completion(prompt.id, text) for tier in tiers for text in tier}
    named = tuple(tuple(completions[text].id for text in tier) for tier in tiers)
    return Judgement(prompt, tuple(completions.values()), Ranking(prompt.id, named, **fields))


def fresh_model(read: Any = "last", layers: Any = 2, seed: int = 0, adapter: str = "reward") -> RewardModel:
    """A reward model before its first step, as `train_reward` begins with."""
    trunk = tiny_trunk(train_layers=layers)
    trunk.adapters.add(adapter, rank=8, alpha=16, seed=seed)
    return RewardModel(trunk, adapter, ScalarHead.for_reward(trunk.width, seed), read)


def rewards_of(model: RewardModel, prompt: Prompt, texts: Sequence[str]) -> list[float]:
    """Scores of texts as answers to one prompt."""
    found: list[float] = model.score_texts([prompt] * len(texts), [Completion(prompt.id, t) for t in texts]).tolist()
    return found
