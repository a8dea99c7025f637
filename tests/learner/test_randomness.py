from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from manners.learner.randomness import load_randomness, save_randomness, seed_randomness


def draw() -> list[Any]:
    """A few numbers of every generator; an odd count of normal ones, of which two are made at a time."""
    return [
        random.random(), random.gauss(0, 1), random.randrange(10**9), *np.random.random(3).tolist(), float(np.random.normal()),
        *torch.rand(3).tolist(), float(torch.randn(())),
    ]  # fmt: skip


def test_a_loaded_state_draws_what_would_have_come(tmp_path: Path) -> None:
    draw()
    save_randomness(tmp_path)
    expected = [draw(), draw()]
    seed_randomness(99)
    draw()
    load_randomness(tmp_path)
    assert [draw(), draw()] == expected


def test_saving_draws_nothing(tmp_path: Path) -> None:
    seed_randomness(3)
    expected = draw()
    seed_randomness(3)
    save_randomness(tmp_path)
    assert draw() == expected


def test_a_seed_gives_the_same_numbers_of_every_generator_and_another_seed_others() -> None:
    drawn = []
    for seed in (5, 5, 6):
        seed_randomness(seed)
        drawn.append(draw())
    assert drawn[0] == drawn[1]
    assert all(x != y for x, y in zip(drawn[0], drawn[2], strict=True))
