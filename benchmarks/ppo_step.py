"""Seconds of each part of one PPO step on the starter model, on this machine: `make bench`.

Prints one JSON object: medians over the steps after the first, and the matrix-product rate measured in the same run.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from manners.records import Prompt
from manners.rewards.load import FunctionJudge, TextScorer
from manners.runs import Run
from manners.train.experiment import Judges
from manners.train.ppo import PPOConfig, train_ppo

QUESTIONS = [
    "How do I keep basil alive?",
    "Why is the sky blue?",
    "My parcel is late and nobody answers me.",
    "Say something kind to a friend.",
]


def rate() -> float:
    """fp32 GFLOP/s of a 1024 × 576 by 576 × 1536 matrix product, the best of 20."""
    a, b = torch.randn(1024, 576), torch.randn(576, 1536)
    best = float("inf")
    for _ in range(20):
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return 2 * 1024 * 576 * 1536 / best / 1e9


def main() -> None:
    config = PPOConfig(steps=4, batch=16, max_tokens=32, epochs=4, minibatches=4, evaluate_prompts=0)
    judge = TextScorer(FunctionJudge(lambda _prompts, completions: [float(len(c)) for c in completions]))
    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(Path(folder) / "run", "ppo", config, {})
        train_ppo(config, [Prompt.of(q) for q in QUESTIONS], [], run, judges=Judges(judge, None))
        rows = run.metrics()[1:]
    medians = {name: statistics.median(row["phase_seconds"][name] for row in rows) for name in rows[0]["phase_seconds"]}
    total = statistics.median(row["seconds"] for row in rows)
    print(json.dumps({"seconds_per_step": total, "episodes_per_second": round(config.batch / total, 3), **medians,
                      "gflops": round(rate(), 1), "threads": torch.get_num_threads()}))  # fmt: skip


if __name__ == "__main__":
    main()
