"""The counted memory against bytes of real tensors, and the exponent of growth against curves that are known."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest
import torch
from tiny import tiny_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from manners.models.trunk import Trunk


@pytest.fixture(scope="module")
def scripts() -> dict[str, ModuleType]:
    folder = str(Path(__file__).resolve().parents[2] / "benchmarks" / "speed")
    sys.path.insert(0, folder)
    try:
        return {name: importlib.import_module(name) for name in ("memory", "growth")}
    finally:
        sys.path.remove(folder)


def test_every_term_by_hand(scripts: dict[str, ModuleType]) -> None:
    size = scripts["memory"].Size(64, 128, 4, 2, 1, 100, 2, batch=4, prompt=6, response=2, rank=2, micro_tokens=16)
    # a layer: q, o 64², k, v 64·32, three of 64·128, two norms; the embedding is the head; one last norm
    linear = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128
    assert size.weights == 4 * (linear + 128) + 64 * 100 + 64
    found = scripts["memory"].counted(size)
    assert found["weights"] == 4 * size.weights
    # rank 2 on two layers: q, o 128 ends, k, v 96, gate, up, down 192
    assert found["adapters"] == found["gradients"] == 4 * 2 * 2 * (2 * 128 + 2 * 96 + 3 * 192)
    assert found["adam"] == 2 * found["adapters"]
    assert found["states"] == 4 * 8 * 64 * 4
    assert found["logits"] == 2 * 16 * 100 * 4
    assert found["activations"] == 16 * 2 * (7 * 64 + 2 * 128 + 7 * 2) * 4
    assert found["copy"] == 4 * (4 * linear + 64 * 100)
    assert found["cache"] == 4 * 2 * 4 * 4 * 8 * 32
    always = found["weights"] + found["adapters"] + found["adam"] + found["states"]
    assert found["peak"] == always + found["copy"] + found["cache"]
    many = scripts["memory"].counted(replace(size, batch=400, micro_tokens=3200))
    always = many["weights"] + many["adapters"] + many["adam"] + many["states"]
    assert many["peak"] == always + many["gradients"] + many["activations"] + many["logits"]
    assert scripts["memory"].counted(replace(size, base_bits=8))["copy"] == 0
    again = scripts["memory"].counted(replace(size, gradient_checkpointing=True))
    # the inputs of both layers, and one layer at a time
    assert again["activations"] == 16 * (2 * 64 + 7 * 64 + 2 * 128 + 7 * 2) * 4


@pytest.mark.parametrize("bits", ["full", 8, 4])
def test_counted_weights_and_adapters_are_the_bytes_of_a_trunk(scripts: dict[str, ModuleType], bits: object) -> None:
    size = scripts["memory"].Size(64, 128, 3, 2, 1, 100, 2, rank=4, base_bits=bits)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=100, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=2,
            num_key_value_heads=1, tie_word_embeddings=True, bos_token_id=None, eos_token_id=0, pad_token_id=None,
        )
    )  # fmt: skip
    trunk = Trunk(model, tiny_tokenizer(), 2, base_bits=bits)  # type: ignore[arg-type]
    tensors = {id(t): t for t in model.state_dict(keep_vars=True).values()}.values()
    counted = scripts["memory"].counted(size)
    assert counted["weights"] == sum(t.nbytes for t in tensors)
    trunk.adapters.add("policy", rank=4, alpha=8, seed=0)
    assert counted["adapters"] == sum(p.nbytes for p in trunk.adapters.parameters("policy"))


def test_options_save_what_they_are_for(scripts: dict[str, ModuleType]) -> None:
    memory = scripts["memory"]
    for size in memory.SIZES.values():
        plain = memory.counted(size)
        assert memory.counted(replace(size, gradient_checkpointing=True))["activations"] < plain["activations"] / 2
        eight, four = (memory.counted(replace(size, base_bits=bits))["weights"] for bits in (8, 4))
        assert four < eight < plain["weights"]
    sizes = [size.weights / 1e6 for size in memory.SIZES.values()]
    assert sizes == [pytest.approx(million, rel=0.25) for million in memory.SIZES]


def test_the_exponent_of_known_curves(scripts: dict[str, ModuleType]) -> None:
    exponent = scripts["growth"].exponent
    exact = exponent([1, 2, 4, 8], [3, 12, 48, 192])
    assert tuple(exact) == pytest.approx((2, 2, 2), abs=1e-6)
    # logs base 2: x 0, 1, 2; y 0, 1, 3. Slope 3/2, residuals 1/6, −1/3, 1/6, so stderr √(1/6/2) = 0.2887; t(1; 0.975) = 12.706
    noisy = exponent([1, 2, 4], [1, 2, 8])
    assert noisy.k == pytest.approx(1.5)
    assert (noisy.low, noisy.high) == pytest.approx((1.5 - 12.7062 * 0.288675, 1.5 + 12.7062 * 0.288675), rel=1e-4)


def test_work_grows_with_the_batch_and_a_little_more_with_the_answer(scripts: dict[str, ModuleType]) -> None:
    growth = scripts["growth"]
    small = growth.START
    assert growth.operations(replace(small, batch=32)) == pytest.approx(2 * growth.operations(small))
    longer = growth.operations(replace(small, response=1024)) / growth.operations(replace(small, response=512))
    assert 1.9 < longer < 4


def test_a_sweep_and_its_plot(scripts: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    growth = scripts["growth"]
    monkeypatch.setattr(growth, "measured", lambda size: {"seconds": size.batch**2, "peak_mib": 400 + 3 * size.batch})
    found = growth.sweep("batch", growth.SWEEPS["batch"], 400.0)
    assert found["mib"] == [24, 48, 96, 192]
    assert found["exponents"]["seconds"]["k"] == pytest.approx(2)
    assert found["exponents"]["mib"]["k"] == pytest.approx(found["exponents"]["operations"]["k"]) == 1
    assert found["faster_than_work"] == ["seconds"]
    drawn = ElementTree.fromstring(growth.figure("batch", found))
    assert "exponent 2.00" in "".join(drawn.itertext())


def test_an_iteration_runs(scripts: dict[str, ModuleType]) -> None:
    size = next(iter(scripts["memory"].TINY.values()))
    found = scripts["memory"].iteration(replace(size, gradient_checkpointing=True, base_bits=4))
    assert found["seconds"] > 0
    assert found["peak_mib"] > 50
    assert torch.is_grad_enabled()
