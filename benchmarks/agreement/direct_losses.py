"""Our direct losses beside TRL's on the same batch of a tiny model: loss, logged rewards, and gradient of every adapter weight.

    python -m venv trl && trl/bin/pip install torch trl peft && PYTHONPATH=src trl/bin/python benchmarks/agreement/direct_losses.py

It takes an environment of its own with TRL in it (seen with 1.16.0); nothing else here needs TRL. TRL makes the batch and computes
with peft on plain Transformers, whole rows and whole logits; ours takes its tokens, packs both answers behind one prompt, branches
below the adapters, and has the closed-form gradient of the frozen head. The last line is one JSON object; the exit code is 1 where
anything differs by more than the tolerance, relative to the largest of its kind.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from torch import Tensor
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from manners.learner.local import POLICY
from manners.models.tiny import tiny_llama, tiny_tokenizer
from manners.models.trunk import Trunk
from manners.rewards.direct import DirectObjective, Material, means
from manners.rewards.groups import Compared, Group, Thumbed

# ours -> what TRL calls it, and its settings
CASES: dict[str, tuple[DirectObjective, dict[str, Any]]] = {
    "dpo": (DirectObjective("dpo", 0.1), {"loss_type": "sigmoid"}),
    "dpo, means over tokens": (DirectObjective("dpo", 2.0, length_normalised=True), {"loss_type": "sigmoid_norm", "beta": 2.0}),
    "robust": (DirectObjective("robust", 0.1, label_smoothing=0.2), {"loss_type": "robust", "label_smoothing": 0.2}),
    "ipo": (DirectObjective("ipo", 0.1, length_normalised=True), {"loss_type": "ipo"}),
    "hinge": (DirectObjective("hinge", 0.1), {"loss_type": "hinge"}),
    "apo_zero": (DirectObjective("apo_zero", 0.1), {"loss_type": "apo_zero"}),
    "apo_down": (DirectObjective("apo_down", 0.1), {"loss_type": "apo_down"}),
    "kto": (DirectObjective("kto", 0.1, desirable_weight=1.5, undesirable_weight=0.5),
            {"loss_type": "kto", "desirable_weight": 1.5, "undesirable_weight": 0.5}),
}  # fmt: skip
PAIRS = {
    "prompt": ["hello", "how are you?", "why?", "a much longer question, to pad"],
    "chosen": ["good day!", "well, thanks; and you?", "no", "short"],
    "rejected": ["no", "go away", "because it is so", "what"],
}
SINGLES = {
    "prompt": [*PAIRS["prompt"], *PAIRS["prompt"][:2]],
    "completion": [*PAIRS["chosen"], *PAIRS["rejected"][:2]],
    "label": [True, True, False, True, False, False],
}
FIELDS = ("input_ids", "attention_mask", "completion_mask")
LOGGED = (
    "rewards/chosen",
    "rewards/rejected",
    "rewards/margins",
    "rewards/accuracies",
    "logps/chosen",
    "logps/rejected",
)
LAYERS, RANK, ALPHA = 2, 4, 8
SEED = 13  # of the adapter: with this one the reference point of kto is above 0, where it counts


def weights_of(trunk: Trunk) -> dict[str, Tensor]:
    """The adapter's weights under the names that a parameter of peft ends in."""
    return {key.removeprefix("base_model.model."): tensor for key, tensor in trunk.adapters.state(POLICY).items()}


def rows_of(batch: dict[str, Tensor], prefix: str = "") -> list[tuple[list[int], list[int]]]:
    """Prompt and answer of every row of a batch."""
    found = []
    for tokens, attended, answered in zip(*(batch[f"{prefix}{name}"].tolist() for name in FIELDS), strict=True):
        length, start = sum(attended), answered.index(1)
        found.append((tokens[:start], tokens[start:length]))
    return found


def material_of(objective: DirectObjective, trunk: Trunk, batch: dict[str, Tensor]) -> Material:
    """The tokens of TRL's batch as groups: chosen answers are its first half; kto has single answers, and others beside them."""
    rows = rows_of(batch)
    if not objective.of_singles:
        count = len(rows) // 2
        pairs = [Compared(0, 1, 1.0, 1.0, 1.0, "")]
        groups = [Group(str(i), "", rows[i][0], [rows[i][1], rows[i + count][1]], pairs, [], []) for i in range(count)]
        return Material(trunk, groups, objective, 4096, 0)
    given = zip(rows, batch["label"].tolist(), strict=True)
    groups = [
        Group(str(i), "", prompt, [answer], [], [], [], [Thumbed(0, bool(up), 1.0)])
        for i, ((prompt, answer), up) in enumerate(given)
    ]
    material = Material(trunk, groups, objective, 4096, 0)
    beside = [
        Group(str(i), "", prompt, [answer], [], [], []) for i, (prompt, answer) in enumerate(rows_of(batch, "KL_"))
    ]
    material.strangers = Material(trunk, beside, DirectObjective("dpo", 0.1), 4096, 0)
    return material


def ours(
    objective: DirectObjective, trunk: Trunk, batch: dict[str, Tensor]
) -> tuple[float, dict[str, float], list[Tensor]]:
    """Loss, metrics and gradients."""
    material = material_of(objective, trunk, batch)
    places = range(len(material.groups))
    for parameter in trunk.adapters.parameters(POLICY):
        parameter.grad = None
    point = material.reference_point(places, POLICY)
    loss, sums = objective(material.answers(places, POLICY), material.groups, material.groups, point)
    loss.backward()
    gradients = [p.grad for p in trunk.adapters.parameters(POLICY) if p.grad is not None]
    return float(loss.detach()), means(sums) | ({"kl": float(point)} if objective.of_singles else {}), gradients


def trls(
    settings: dict[str, Any], trunk: Trunk, folder: str, kto: bool
) -> tuple[float, dict[str, float], list[Tensor], dict[str, Tensor]]:
    """Loss, logged metrics, gradients in the order of ours, and the batch."""
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = "<|unknown|>"
    rows = SINGLES if kto else PAIRS
    config = (KTOConfig if kto else DPOConfig)(
        output_dir=folder, **{"beta": 0.1} | settings, per_device_train_batch_size=len(rows["prompt"]), report_to=[], use_cpu=True,
        bf16=False, gradient_checkpointing=False, disable_dropout=True, max_length=None,
    )  # fmt: skip
    lora = LoraConfig(
        r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, task_type="CAUSAL_LM", target_modules=sorted(trunk.adapters.layers)
    )
    trainer = (KTOTrainer if kto else DPOTrainer)(
        tiny_llama(len(tokenizer)),
        args=config,
        train_dataset=Dataset.from_dict(rows),
        processing_class=tokenizer,
        peft_config=lora,
    )
    given = weights_of(trunk)
    named = {
        name.replace(".default", "").removeprefix("base_model.model."): p
        for name, p in trainer.model.named_parameters()
    }
    with torch.no_grad():
        for name, tensor in given.items():
            named[name].copy_(tensor)
    batch = trainer.data_collator(list(trainer.train_dataset))
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, dict(batch))
    loss.backward()
    metrics = {name: sum(values) / len(values) for name, values in trainer._metrics["train"].items() if values}
    return float(loss.detach()), metrics, [named[name].grad for name in given], batch


def largest(one: list[Tensor], other: list[Tensor]) -> float:
    """The largest difference, relative to the largest value."""
    scale = max(float(tensor.abs().max()) for tensor in other)
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True)) / scale


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tolerance", type=float, default=1e-5)
    tolerance = parser.parse_args().tolerance
    found, agree = {}, True
    for name, (objective, settings) in CASES.items():
        trunk = Trunk(tiny_llama(len(tiny_tokenizer())), tiny_tokenizer(), LAYERS, name="tiny")
        trunk.adapters.add(POLICY, rank=RANK, alpha=ALPHA, seed=0)
        generator = torch.Generator().manual_seed(SEED)
        with torch.no_grad():
            for parameter in trunk.adapters.parameters(POLICY):
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        with tempfile.TemporaryDirectory() as folder:
            loss, metrics, gradients, batch = trls(settings, trunk, folder, objective.of_singles)
        own_loss, own_metrics, own_gradients = ours(objective, trunk, batch)
        differences = {
            "loss": abs(own_loss - loss) / max(1.0, abs(loss)),
            "gradient": largest(own_gradients, gradients),
        }
        differences |= {
            key: abs(own_metrics[key] - metrics[key]) / max(1.0, abs(metrics[key]))
            for key in (*LOGGED, "kl")
            if key in own_metrics
        }
        agree &= all(value <= tolerance for value in differences.values())
        print(
            f"{name}: loss {own_loss:.7f} and {loss:.7f}; largest difference {max(differences.values()):.1e}",
            file=sys.stderr,
        )
        found[name] = differences
    print(json.dumps({"agree": agree, "tolerance": tolerance, "differences": found}))
    sys.exit(not agree)


if __name__ == "__main__":
    main()
