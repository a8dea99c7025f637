"""ILQL, best-of-n and fine-tuning on its winners in a made-up world whose true reward is known; a minute on one core.

    python benchmarks/offline_world.py

One JSON object per line: the gain over the policy that all begin with, on prompts that none has seen. docs/details/ilql.md has the table.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from manners.evaluate.best_of_n import best_of_n, evaluate_best_of_n
from manners.evaluate.policy import EvaluateConfig, evaluate_policy
from manners.evaluate.synthetic import GoldReward, draw_prompts, save_decoder
from manners.feedback.answers import Answered
from manners.models.load import load_trunk
from manners.models.shaping import QShaping, load_q_values
from manners.runs import Run
from manners.sampling.local import LocalSampler
from manners.train.ilql import ILQLConfig, Scorers, train_ilql
from manners.train.sft import SFTConfig, train_sft

WIDTH, TOKENS, BATCH = 32, 16, 512
SETTINGS: dict[str, Any] = {
    "train_layers": "all", "rank": 8, "alpha": 16, "epochs": 4, "batch": 10, "learning_rate": 3e-3, "head_learning_rate": 4e-2,
    "gamma": 1.0, "lam": 1.0, "target_rate": 0.2, "micro_tokens": 32_768, "save_every": 1000,
}  # fmt: skip
VARIANTS: tuple[dict[str, Any], ...] = (
    {},
    {"lam": 0.0, "gamma": 0.99},
    {"cloning_beta": 2.0, "cloning_cap": 10.0},
    {"conservative_weight": 0.0},
    {"tau": 0.9},
)


class World:
    """The base, its gold reward, prompts to learn from and others to measure on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = str(save_decoder(folder / "base", WIDTH, seed=1))
        self.sampler = LocalSampler(load_trunk(self.base), None, batch=BATCH)
        usual = self.sampler.sample(draw_prompts(1000, 1), max_tokens=TOKENS, temperature=1.0, seed=1)
        self.gold = GoldReward(0, usual, qualities=6, reach=1.5)
        self.asked, self.held = draw_prompts(200, 3), draw_prompts(100, 2)
        self.evaluate = EvaluateConfig(samples_per_prompt=2, max_tokens=TOKENS, temperature=1.0, seed=1, batch=BATCH)

    def answered(self) -> list[Answered]:
        """Eight answers to each prompt, and what they are worth."""
        prompts = [prompt for prompt in self.asked for _ in range(8)]
        rollouts = self.sampler.sample(prompts, max_tokens=TOKENS, temperature=1.0, seed=7)
        scores = self.gold.score(rollouts).tolist()
        return [Answered(p, (c,), (s,)) for p, c, s in zip(prompts, rollouts.completions, scores, strict=True)]

    def choose(self, n: int) -> None:
        tell({"method": f"best of {n}"}, evaluate_best_of_n(self.evaluate, n, self.sampler, self.held, self.gold, None))

    def imitate(self, n: int) -> None:
        winners = best_of_n(self.sampler, self.gold, self.asked, n, max_tokens=TOKENS, temperature=1.0, seed=5)
        config = SFTConfig(model=self.base, epochs=10, learning_rate=1e-2, rank=8, alpha=16)
        trunk, run = load_trunk(self.base), Run.create(self.folder / "sft", "sft", config, {})
        train_sft(config, [(winner.prompt, winner.completion) for winner in winners], [], run, trunk)
        found = evaluate_policy(self.evaluate, trunk, "policy", self.held, self.gold, None)
        tell({"method": f"fine-tuning on the best of {n}"}, found)

    def learn(self, name: str, fields: Mapping[str, Any], data: list[Answered]) -> None:
        config = ILQLConfig(**{"model": self.base, **SETTINGS, **fields})
        trunk, run = load_trunk(self.base), Run.create(self.folder / name, "ilql", config, {})
        train_ilql(config, data, [], run, trunk, Scorers(None, None))
        values = load_q_values(run.checkpoint("final"), trunk)
        for beta in (0, 1, 3, 10):
            shape = QShaping(values, trunk.head_weight, beta)
            found = evaluate_policy(self.evaluate, trunk, "policy", self.held, self.gold, None, shape=shape)
            tell({"method": "ilql", **fields, "beta": beta}, found)


def tell(what: Mapping[str, Any], evaluation: Mapping[str, Any]) -> None:
    rows = {row["name"]: row for row in evaluation["rows"]}
    ci = [round(end, 3) for end in rows["reward"]["ci"]]
    print(json.dumps({**what, "gain": round(rows["reward"]["gain"], 3), "ci": ci, "kl": round(rows["kl"]["after"], 2)}))


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        for n in (4, 16):
            world.choose(n)
        world.imitate(8)
        data = world.answered()
        for number, fields in enumerate(VARIANTS):
            world.learn(f"ilql-{number}", fields, data)


if __name__ == "__main__":
    main()
