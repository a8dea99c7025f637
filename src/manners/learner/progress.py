"""What a loop carries from step to step. With the learner's state and the random numbers it is all that a resumed run needs.

The state is written at the end of a step, whole or not at all, beside the one before it. A run that was killed within a step goes
on from that step's beginning and does the same again, since everything random in a step comes from the state.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from manners.learner.randomness import load_randomness, save_randomness
from manners.ops.moments import Moments
from manners.runs import Run, read_json, write_json


@dataclass
class Progress:
    """`step`: the next one. `beta_factor`: β is that of the settings times this. `best`: the held-out reward of checkpoints/best.
    `stopped`: why the run ended, "" while it goes on."""

    step: int = 0
    beta_factor: float = 1.0
    best: float | None = None
    roll_backs: int = 0
    scores: Moments = field(default_factory=Moments)
    stopped: str = ""


class Restorable(Protocol):
    """A learner that can write its whole state into a folder and take it up again."""

    def save_state(self, folder: Path) -> None: ...

    def load_state(self, folder: Path) -> None: ...


def save_progress(run: Run, progress: Progress, learner: Restorable) -> None:
    """Write the state after `progress.step` steps into the run."""
    with run.state(progress.step) as folder:
        learner.save_state(folder)
        save_randomness(folder)
        write_json(folder / "progress.json", asdict(progress))


def load_progress(folder: Path, learner: Restorable) -> Progress:
    """Bring `learner` and all random numbers to the state in `folder`, and give the loop's own part of it."""
    learner.load_state(folder)
    load_randomness(folder)
    saved = read_json(folder / "progress.json")
    return Progress(**{**saved, "scores": Moments(**saved["scores"])})
