"""Options that save memory change nothing else: whole runs on the tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import save_tiny, shake
from transformers import AutoModelForCausalLM

from manners.models import load
from manners.models.export import export_merged
from manners.models.load import load_trunk
from manners.models.quantised import Bits
from manners.records import Completion, Pair, Prompt
from manners.runs import Run
from manners.train.dpo import DPOConfig, train_dpo
from manners.train.ppo import PPOConfig, train_ppo
from manners.train.sft import SFTConfig, train_sft

torch.set_num_threads(1)

PROMPTS = [Prompt.of(text) for text in ("Hello", "What is a cat?", "Name a colour", "Why?")]
PAIRS = [Pair(p, Completion(p.id, "yes " * n), Completion(p.id, "no")) for n, p in enumerate(PROMPTS, 1)]


def ppo(folder: Path, **settings: Any) -> Run:
    config = PPOConfig(
        model="tiny-random", train_layers=2, steps=2, batch=8, max_tokens=6, epochs=1, minibatches=2, evaluate_prompts=0,
        log_rollouts=0, guards=(), learning_rate=1e-2, reward={"function": "manners.rewards.rules:distinct_words"}, **settings,
    )  # fmt: skip
    run = Run.create(folder, "ppo", config, {})
    train_ppo(config, PROMPTS, [], run)
    return run


@pytest.mark.parametrize("bits", [8, 4])
def test_ppo_on_a_rounded_base_begins_at_ratio_1_and_learns(bits: Bits, tmp_path: Path) -> None:
    run = ppo(tmp_path / "run", base_bits=bits)
    rows = run.metrics()
    assert [row["first_ratio"] for row in rows] == [pytest.approx(1, abs=1e-4)] * 2
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-4)  # the reference is the rounded base as well
    saved = load_file(run.checkpoint("final") / "adapter_model.safetensors")
    assert any(bool(tensor.any()) for name, tensor in saved.items() if "lora_B" in name)


def test_ppo_with_layers_computed_again_is_the_same_run(tmp_path: Path) -> None:
    weights = [
        load_file(
            ppo(tmp_path / str(again), gradient_checkpointing=again).checkpoint("final") / "adapter_model.safetensors"
        )
        for again in (False, True)
    ]
    for name, plain in weights[0].items():
        torch.testing.assert_close(weights[1][name], plain, rtol=1e-3, atol=2e-4)  # Adam makes much of little gradients


def test_direct_methods_hand_both_options_on(tmp_path: Path) -> None:
    found = {}
    for again in (False, True):
        config = DPOConfig(
            model="tiny-random", train_layers=2, batch=2, gradient_checkpointing=again, base_bits=8, evaluate_prompts=0
        )
        run = Run.create(tmp_path / str(again), "dpo", config, {})
        train_dpo(config, PAIRS, PAIRS[:1], run)
        found[again] = [row["loss"] for row in run.metrics() if "loss" in row]
    assert len(found[False]) == 2
    assert found[True] == pytest.approx(found[False], rel=1e-4)


def test_what_was_learned_on_a_rounded_base_is_exported_on_the_whole_weights(tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base")
    config = SFTConfig(model=str(base), train_layers=2, base_bits=4, batch=2, learning_rate=1e-2)
    run = Run.create(tmp_path / "run", "sft", config, {})
    train_sft(config, [(p, Completion(p.id, "yes")) for p in PROMPTS], [], run)
    export_merged(str(run.path), tmp_path / "out")
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    plain = load_trunk(str(base), 2, device="cpu")
    plain.adapters.load("policy", run.checkpoint("final"))
    changed = 0
    for name, layer in plain.adapters.layers.items():
        wanted = layer.base.weight + layer.delta("policy")
        torch.testing.assert_close(exported[f"{name}.weight"], wanted)
        changed += not torch.equal(wanted, layer.base.weight)
    assert changed == len(plain.adapters.layers)
    below = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(exported[below], load_file(base / "model.safetensors")[below])


def test_a_chain_is_merged_before_it_is_rounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def packed(*_: Any) -> dict[str, Any]:
        raise AssertionError("nothing can be merged into what bitsandbytes packed")

    base = save_tiny(tmp_path / "base")
    first = load_trunk(str(base), 2, device="cpu")
    first.adapters.add("policy", rank=2, alpha=4, seed=0)
    shake(first, "policy")
    first.adapters.save("policy", tmp_path / "first", str(base))
    monkeypatch.setattr(load, "bitsandbytes_settings", packed)
    whole, rounded = (load_trunk(str(tmp_path / "first"), 2, device="cpu", base_bits=bits) for bits in ("full", 8))
    for name, layer in rounded.adapters.layers.items():
        wanted = whole.adapters.layers[name].base.weight
        scale = wanted.abs().amax(1, keepdim=True) / 127
        assert ((layer.base.weight - wanted).abs() <= scale / 2 * (1 + 1e-5)).all()
    assert (rounded.base_bits, whole.base_bits) == (8, "full")
