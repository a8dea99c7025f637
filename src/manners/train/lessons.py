"""Where a direct method takes what it learns from: answers that were judged before, or its own, judged as it goes.

A lesson is the judged answers of one optimizer step. Both kinds of lessons are learned by the same loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from manners.batches import Rollouts
from manners.learner.local import POLICY
from manners.learner.offending import watching
from manners.models.trunk import Trunk
from manners.ops.diversity import distinct_n, repetition
from manners.protocols import Sampler, Scorer
from manners.records import Prompt
from manners.rewards.direct import DirectObjective, Material, means
from manners.rewards.groups import Compared, Group
from manners.rewards.opinion import ask
from manners.runs import Run
from manners.train.recording import judged

ROUNDS_APART = 100_003  # steps are fewer: no two runs with small seeds sample with the same numbers


@dataclass(frozen=True)
class Lesson:
    """Material, the places of the groups in it that are to be learned, and what is known already for the row of metrics."""

    material: Material
    places: list[int]
    row: dict[str, Any]


class Lessons(Protocol):
    """`count` lessons; the same step always gives the same lesson to the same policy."""

    @property
    def count(self) -> int: ...

    def lesson(self, step: int, run: Run) -> Lesson: ...


class JudgedBefore:
    """Lessons from a fixed set of judged answers: each epoch goes through all groups in a new order."""

    def __init__(self, material: Material, *, epochs: int, batch: int, seed: int) -> None:
        self.material = material
        generator = torch.Generator().manual_seed(seed)
        self.plan = [
            (epoch, chunk.tolist())
            for epoch in range(epochs)
            for chunk in torch.randperm(len(material.groups), generator=generator).split(batch)
        ]

    @property
    def count(self) -> int:
        return len(self.plan)

    def lesson(self, step: int, run: Run) -> Lesson:  # noqa: ARG002 - of the protocol
        epoch, places = self.plan[step]
        return Lesson(self.material, places, {"epoch": epoch})


@dataclass(frozen=True)
class Asking:
    """How the policy is asked: tokens and temperature of its answers, and what one without an end costs, reward units."""

    max_tokens: int
    temperature: float
    missing_eos_penalty: float
    seed: int


class JudgedNow:
    """Lessons from the policy's own answers, two to each prompt, of which a judge prefers one.

    Guo et al. 2024 (arXiv 2402.04792). Two answers with the same score or the same text say nothing and are counted as "tied".
    """

    def __init__(
        self, prompts: Sequence[Prompt], trunk: Trunk, sampler: Sampler, judge: Scorer, second: Scorer | None,
        objective: DirectObjective, asking: Asking, *, steps: int, batch: int, micro_tokens: int,
    ) -> None:  # fmt: skip
        self.trunk, self.sampler, self.judge, self.second = trunk, sampler, judge, second
        self.objective, self.asking, self.micro_tokens, self.batch = objective, asking, micro_tokens, batch
        generator = torch.Generator().manual_seed(asking.seed)
        rounds = -(-steps * batch // len(prompts))
        order = torch.cat([torch.randperm(len(prompts), generator=generator) for _ in range(rounds)])
        self.plan = [[prompts[i] for i in order[n * batch : (n + 1) * batch].tolist()] for n in range(steps)]

    @property
    def count(self) -> int:
        return len(self.plan)

    def lesson(self, step: int, run: Run) -> Lesson:
        asking = self.asking
        asked = [prompt for prompt in self.plan[step] for _ in range(2)]
        rollouts = self.sampler.sample(
            asked, max_tokens=asking.max_tokens, temperature=asking.temperature, seed=asking.seed * ROUNDS_APART + step
        )
        with watching(run, step, rollouts):
            opinion = ask(self.judge, rollouts, "the judge")
            second = ask(self.second, rollouts, "the second judge") if self.second else None
            scores = opinion.scores - asking.missing_eos_penalty * ~rollouts.finished
            groups = compared(rollouts, scores)
            material = Material(
                self.trunk, groups, self.objective, self.micro_tokens, asking.seed,
                temperature=asking.temperature, states=states_of(rollouts, self.trunk),
            )  # fmt: skip
        places = [place for place, group in enumerate(groups) if group.pairs]
        row = {"episodes": 2 * self.batch * (step + 1), **judged(opinion, second), "tied": len(groups) - len(places)}
        return Lesson(material, places, row | self._described(rollouts, material))

    def _described(self, rollouts: Rollouts, material: Material) -> dict[str, Any]:
        row = described(rollouts)
        if material.reference:
            reference = torch.cat(material.reference)
            row["kl"] = float((rollouts.logps.sum(-1).cpu() - reference).mean())
            row["reference_logp"] = float(reference.sum() / rollouts.response_lengths.sum())
        return row


def described(rollouts: Rollouts) -> dict[str, Any]:
    """What the answers are like: tokens per answer, the share that come to an end, and their variety."""
    texts = [completion.text for completion in rollouts.completions]
    return {
        "length": float(rollouts.response_lengths.float().mean()),
        "finished": float(rollouts.finished.float().mean()),
        "distinct_2": distinct_n(texts, 2),
        "repetition": repetition(texts),
    }


def compared(rollouts: Rollouts, scores: Tensor) -> list[Group]:
    """Rows 2n and 2n + 1 of the rollouts, which answer one prompt, as a group whose pair has the higher score first."""
    groups = []
    for first in range(0, len(rollouts), 2):
        start = int(rollouts.prompt_lengths[first])
        rows = [rollouts.tokens[i, : int(rollouts.lengths[i])].tolist() for i in (first, first + 1)]
        answers = [row[start:] for row in rows]
        one, other = float(scores[first]), float(scores[first + 1])
        place = 0 if one > other else 1
        pairs = [] if one == other or answers[0] == answers[1] else [Compared(place, 1 - place, 1.0, 1.0, 1.0, "")]
        prompt = rollouts.prompts[first]
        groups.append(Group(prompt.id, prompt.category, rows[0][:start], answers, pairs, [], []))
    return groups


def states_of(rollouts: Rollouts, trunk: Trunk) -> dict[int, Tensor]:
    """The branch states of the packed rows that `compared` makes, as sampling left them; none where it was done by another trunk."""
    found = {}
    for first in range(0, len(rollouts) if rollouts.trunk is trunk else 0, 2):
        start, ends = int(rollouts.prompt_lengths[first]), rollouts.lengths[first : first + 2].tolist()
        found[first // 2] = torch.cat([rollouts.states[first, : ends[0]], rollouts.states[first + 1, start : ends[1]]])
    return found


@dataclass(frozen=True)
class Held:
    """What is kept apart to look at: judged answers, prompts to answer, or both, and who judges these answers."""

    trunk: Trunk
    material: Material | None
    prompts: Sequence[Prompt]
    sampler: Sampler
    judge: Scorer | None
    second: Scorer | None
    asking: Asking

    def look(self, objective: DirectObjective, run: Run, step: int, log: int) -> dict[str, Any]:
        """Numbers of the policy as it is. Its first `log` answers go to samples.jsonl; the same random numbers every time."""
        row = look_at_judged(self.material, objective) if self.material else {}
        return row | (self._look_at_answers(run, step, log) if self.prompts else {})

    def _look_at_answers(self, run: Run, step: int, log: int) -> dict[str, Any]:
        asking = self.asking
        rollouts = self.sampler.sample(
            self.prompts, max_tokens=asking.max_tokens, temperature=asking.temperature, seed=asking.seed + 7919
        )
        row: dict[str, Any] = {}
        told: dict[str, Tensor] = {}
        with watching(run, step, rollouts):
            for name, judge in (("reward", self.judge), ("second_judge", self.second)):
                if judge is not None:
                    told[name] = ask(judge, rollouts, f"the {name.replace('_', ' ')}").scores
                    row[f"heldout_{name}"] = float(told[name].mean())
        row["heldout_kl"] = float(shift(self.trunk, rollouts, asking.temperature).mean())
        row["heldout_length"] = float(rollouts.response_lengths.float().mean())
        for i, (prompt, completion) in enumerate(zip(rollouts.prompts[:log], rollouts.completions, strict=False)):
            scores = {name: float(scores[i]) for name, scores in told.items()}
            run.sample(step=step, prompt=prompt.text, completion=completion.text, **scores)
        return row


@torch.no_grad()
def shift(trunk: Trunk, rollouts: Rollouts, temperature: float, micro_tokens: int = 12_288) -> Tensor:
    """log π − log π_ref [B] of whole answers that were drawn from π at `temperature`, nats."""
    found = rollouts.logps.sum(-1)
    with trunk.adapters.using(None):
        for index, part in rollouts.micro_batches(micro_tokens):
            reference = trunk.predict(part, part.states, temperature=temperature)
            found[index] -= reference.spread(reference.logps, like=part.tokens).sum(-1)
    return found


@torch.no_grad()
def look_at_judged(material: Material, objective: DirectObjective) -> dict[str, Any]:
    """Loss and implicit rewards of the policy on judged answers that it does not learn from."""
    places = list(range(len(material.groups)))
    point = material.reference_point(places, POLICY)
    loss, sums = 0.0, dict[str, float]()
    for part in material.cached.parts(material.micro_tokens):
        groups = [material.groups[i] for i in part]
        own, found = objective(material.answers(part, POLICY), groups, material.groups, point)
        loss += float(own)
        sums = {name: sums.get(name, 0.0) + value for name, value in found.items()}
    return {"heldout_loss": loss, **{f"heldout_{name}": value for name, value in means(sums).items()}}
