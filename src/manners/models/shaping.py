"""What a policy is sampled from, where that is more than the softmax of its logits, and how a checkpoint says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from manners.models.adapters import read_tensors
from manners.models.heads import QValues
from manners.models.load import checkpoint_folder
from manners.models.trunk import Trunk
from manners.runs import read_json, write_json

# (last hidden states [B, H], logits [B, V]) to the logits [B, V] that are sampled from
Shape = Callable[[Tensor, Tensor], Tensor]
FILE = "q_values.safetensors"


def plain(_hidden: Tensor, logits: Tensor) -> Tensor:
    """The logits as they are."""
    return logits


class QShaping:
    """The policy of ILQL: logits of log π(a|s) + β·(Q(s, a) − V(s)), Q being the lesser of the two targets.

    Snell et al. 2022 (arXiv 2206.11871), section 4.3. V(s) and what normalises π are the same for all tokens, so that logits + β·Q is that
    very distribution. β = 0 is π itself.
    """

    def __init__(self, values: QValues, weight: Tensor, beta: float) -> None:
        self.values, self.weight, self.beta = values, weight, beta

    def __call__(self, hidden: Tensor, logits: Tensor) -> Tensor:
        return logits.float() + self.beta * self.values.target_of_all(hidden, self.weight)


def save_q_values(values: QValues, folder: Path, *, train_layers: int | str, beta: float) -> None:
    """Write the heads and manners.json, which says how the policy is sampled, into the folder of its adapter."""
    save_file({k: v.detach().contiguous().cpu() for k, v in values.state_dict().items()}, folder / FILE)
    facts = {"role": "policy", "train_layers": train_layers, "sampled_by": "q_values", "beta": beta}
    write_json(folder / "manners.json", facts)


def load_q_values(folder: Path, trunk: Trunk) -> QValues:
    """The heads in the folder of a checkpoint, on the device of `trunk`, frozen."""
    values = QValues(trunk.width)
    values.load_state_dict(read_tensors(folder / FILE))
    return values.to(trunk.device).requires_grad_(False)


def is_shaped(model: str) -> bool:
    """Whether `model` is a policy of ours that is sampled from more than its own logits."""
    folder = checkpoint_folder(model)
    return folder is not None and (folder / FILE).exists()


def shape_of(model: str, trunk: Trunk) -> Shape:
    """What `model`, whose adapter is on `trunk` or merged into it, is sampled from."""
    folder = checkpoint_folder(model)
    if folder is None or not (folder / FILE).exists():
        return plain
    return QShaping(load_q_values(folder, trunk), trunk.head_weight, float(read_json(folder / "manners.json")["beta"]))
