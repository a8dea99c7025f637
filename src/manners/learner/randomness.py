"""The state of every generator of random numbers in this process, as files: a reward function may draw from any of them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from manners.models.adapters import read_tensors
from manners.runs import read_json, write_json


def seed_randomness(seed: int) -> None:
    """Seed every generator, so that a run begins alike each time it is begun."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def save_randomness(folder: Path) -> None:
    """Write the states of Python's, NumPy's and PyTorch's generators, of every CUDA device too, into `folder`."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    write_json(
        folder / "random.json",
        {"python": [version, list(numbers), gauss], "numpy": [name, np.asarray(keys).tolist(), position, has_gauss, cached]},
    )  # fmt: skip
    states = {"cpu": torch.get_rng_state()}
    states |= {f"cuda.{number}": state for number, state in enumerate(_cuda_states())}
    save_file(states, folder / "random.safetensors")


def load_randomness(folder: Path) -> None:
    """Set every generator to the state in `folder`."""
    saved: dict[str, Any] = read_json(folder / "random.json")
    version, numbers, gauss = saved["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, position, has_gauss, cached = saved["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    states = read_tensors(folder / "random.safetensors")
    torch.set_rng_state(states["cpu"])
    if "cuda.0" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([states[f"cuda.{number}"] for number in range(len(states) - 1)])


def _cuda_states() -> list[torch.Tensor]:
    return torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
