"""The learner of direct methods: a policy adapter on the trunk and its optimizer. No value function, no sampler."""

from __future__ import annotations

import math
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from manners.errors import MannersError
from manners.learner.local import POLICY
from manners.learner.optimiser import Optimiser
from manners.models.adapters import read_tensors
from manners.models.trunk import Trunk
from manners.runs import read_json, write_json, writing


class DirectLearner:
    """Changes the adapter "policy" of `trunk` along the gradient of whatever losses it is given. The reference is the adapter off."""

    def __init__(self, trunk: Trunk, optimiser: Optimiser) -> None:
        self.trunk = trunk
        self.optimiser = optimiser

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of one micro-batch."""
        self.optimiser.backward(loss)

    def step(self, loss: float) -> tuple[float, bool]:
        """Update by the gradients added up, whose `loss` it was; gives the norm before clipping and whether the step was skipped.

        It is where loss or norm is not finite. Raises MannersError the third time in a row.
        """
        if not math.isfinite(loss):
            self.optimiser.skip()
            return math.nan, True
        norm = self.optimiser.step()
        return norm, not math.isfinite(norm)

    def save(self, path: Path) -> None:
        """Write adapter (peft's format) and manners.json into the folder `path`, all or nothing.

        Raises MannersError when a weight is not finite: such a checkpoint is never written.
        """
        if not all(p.isfinite().all() for p in self.trunk.adapters.parameters(POLICY)):
            raise MannersError(f"a weight of the policy is not a finite number; {path} is not written")
        with writing(path) as beside:
            beside.mkdir()
            self.trunk.adapters.save(POLICY, beside, base=self.trunk.name)
            write_json(beside / "manners.json", {"role": "policy", "train_layers": self.trunk.train_layers})

    def save_state(self, folder: Path) -> None:
        """Write all that a run needs to go on to the bit into `folder`: weights, Adam's moments and counts."""
        moments, counts = self.optimiser.state()
        tensors = {f"adam.{key}": tensor for key, tensor in moments.items()}
        for key, tensor in self.trunk.adapters.state(POLICY).items():
            tensors[f"{POLICY}.{key}"] = tensor.cpu().contiguous()
        save_file(dict(sorted(tensors.items())), folder / "learner.safetensors")
        write_json(folder / "learner.json", counts)

    def load_state(self, folder: Path) -> None:
        tensors = read_tensors(folder / "learner.safetensors")

        def of(part: str) -> dict[str, Tensor]:
            return {k.removeprefix(f"{part}."): v for k, v in tensors.items() if k.startswith(f"{part}.")}

        self.trunk.adapters.load_state(POLICY, of(POLICY))
        self.optimiser.load_state(of("adam"), read_json(folder / "learner.json"))
