"""The three seams of a loop, a few lines each: what they give is set in advance, and every call is written down. And PPO on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from manners.batches import Rollouts
from manners.protocols import BatchT, Evaluated, Objective
from manners.records import Completion, Prompt
from manners.runs import Run, read_jsonl, writing
from manners.train.experiment import Judges
from manners.train.ppo import PPOConfig, ppo_loop

PROMPT, LOGP = 3, -1.0
PROMPTS = [Prompt.of(f"train {i}") for i in range(6)]
HELDOUT = [Prompt.of(f"held out {i}") for i in range(3)]


class FakeSampler:
    """Answers every prompt with two words and two tokens of log-probability −1 behind a prompt of three."""

    def __init__(self, calls: list[str], finished: bool = True) -> None:
        self.calls, self.finished = calls, finished
        self.asked: list[tuple[tuple[Prompt, ...], int]] = []

    def sample(self, prompts: Sequence[Prompt], *, max_tokens: int, temperature: float, seed: int) -> Rollouts:  # noqa: ARG002
        self.calls.append("sample")
        self.asked.append((tuple(prompts), seed))
        count = len(prompts)
        tokens = torch.arange(PROMPT + 2).repeat(count, 1)
        logps = torch.where(torch.arange(PROMPT + 2) >= PROMPT, LOGP, 0.0).repeat(count, 1)
        lengths = torch.full((count,), PROMPT)
        return Rollouts(
            tokens, lengths, lengths + 2, logps, torch.full((count,), self.finished), torch.zeros(count, PROMPT + 2, 0),
            tuple(prompts), tuple(Completion(p.id, "very well") for p in prompts), None,
        )  # fmt: skip

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        return [f"<{token}>" for token in tokens]


class FakeScorer:
    """Gives every row of the n-th call the n-th of `scores`, and the last of them from then on."""

    def __init__(self, calls: list[str], scores: Iterable[float], name: str = "score") -> None:
        self.calls, self.scores, self.name = calls, list(scores), name

    def score(self, rollouts: Rollouts) -> Tensor:
        self.calls.append(self.name)
        return torch.full((len(rollouts),), 1.0 * self.scores.pop(0) if len(self.scores) > 1 else self.scores[0])


class FakeLearner:
    """Learns nothing. In the n-th call for the reference's log-probabilities it lies the n-th of `kls` (nats per sequence) below
    the policy, which is always the one that sampled."""

    def __init__(self, calls: list[str], kls: Iterable[float] = (0.0,)) -> None:
        self.calls, self.kls = calls, list(kls)
        self.batches: list[Any] = []

    def logprobs(self, rollouts: Rollouts, who: Literal["policy", "reference"]) -> Tensor:
        self.calls.append(f"logprobs of the {who}")
        if who == "policy":
            return rollouts.logps
        kl = self.kls.pop(0) if len(self.kls) > 1 else self.kls[0]
        return torch.where(rollouts.response_mask, rollouts.logps - kl / 2, 0)

    def values(self, rollouts: Rollouts) -> Tensor:
        self.calls.append("values")
        return torch.zeros_like(rollouts.logps)

    def step(
        self, batch: BatchT, objective: Callable[[Evaluated, BatchT], Objective], *, only_critic: bool = False
    ) -> dict[str, float]:
        self.calls.append("step of the critic" if only_critic else "step")
        self.batches.append(batch)
        mask = batch.response_mask
        result = objective(Evaluated(batch.old_logps, mask.float(), torch.zeros_like(batch.old_logps)), batch)
        means = {name: float(x[mask].float().mean()) for name, x in {**result.parts, **result.statistics}.items()}
        first = {f"first_{name}": means[name] for name in result.statistics}
        return {**means, **first, "gradient_norm": 1.0, "skipped": 0.0}

    def save(self, path: Path) -> None:
        """Leaves the number of epochs so far, by which a checkpoint is known."""
        self.calls.append(f"save {path.name}")
        with writing(path) as beside:
            beside.mkdir()
            (beside / "epochs").write_text(str(len(self.batches)))

    def roll_back(self, path: Path) -> None:
        self.calls.append(f"roll back to {path.name}")

    def save_state(self, folder: Path) -> None:
        self.calls.append("save the state")
        (folder / "epochs").write_text(str(len(self.batches)))

    def load_state(self, folder: Path) -> None:
        self.calls.append(f"load the state of {folder.name}")


class Stage:
    """A loop on fakes: what was called, what was written."""

    def __init__(
        self, folder: Path, scores: list[float], kls: list[float], second: list[float] | None = None, **fields: Any
    ) -> None:
        self.config = PPOConfig(**{"batch": 2, "steps": 4, "epochs": 2, "evaluate_every": 2} | fields)
        self.calls: list[str] = []
        self.sampler, self.learner = FakeSampler(self.calls), FakeLearner(self.calls, kls)
        self.judges = Judges(
            FakeScorer(self.calls, scores), FakeScorer(self.calls, second, "second") if second else None
        )
        self.run = Run.create(folder / "run", "ppo", self.config, {})

    def play(self, heldout: list[Prompt] = HELDOUT) -> list[dict[str, Any]]:
        ppo_loop(self.config, PROMPTS, heldout, self.run, self.sampler, self.judges, self.learner)
        return self.run.metrics()

    def timings(self) -> list[dict[str, Any]]:
        return read_jsonl(self.run.path / "timings.jsonl")

    def epochs_of(self, name: str) -> int:
        return int((self.run.checkpoint(name) / "epochs").read_text())
