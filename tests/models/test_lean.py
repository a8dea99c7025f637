"""Lean layers against the layers of transformers on the same weights: states, log-probabilities, gradients, and decoding with a cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import shake, tiny_model, tiny_tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM, MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM
from transformers.cache_utils import Cache

from manners.models.lean import rotated
from manners.models.packing import Packed, pack_rows
from manners.models.trunk import TrainLayers, Trunk
from manners.records import Prompt
from manners.sampling.local import LocalSampler, _block, _draw, _Row

FAMILIES = ("llama", "mistral", "qwen2")
every_trunk = pytest.mark.parametrize(("family", "train_layers"), [(f, n) for f in FAMILIES for n in (2, "all")])
TOKENS = torch.randint(5, 101, (3, 9), generator=torch.Generator().manual_seed(0))
PACKED = pack_rows([([5, 6, 7], [[8, 9], [10, 11, 12]]), ([13], [[14] * 4])])


def model_of(family: str) -> Any:
    """Four query heads on two of keys and values; norms and biases drawn, so that one left out would show."""
    if family == "llama":
        return tiny_model("llama")
    sizes: dict[str, Any] = {
        "vocab_size": 101, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.3, "bos_token_id": None,
        "eos_token_id": 0, "pad_token_id": None,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        if family == "qwen2":
            model: Any = Qwen2ForCausalLM(Qwen2Config(**sizes))
        else:
            model = MistralForCausalLM(MistralConfig(**sizes, sliding_window=None))
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                torch.nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, 0.3)
    return model


def both(family: str, train_layers: TrainLayers, *, gradient_checkpointing: bool = False) -> tuple[Trunk, Trunk]:
    """The same model with the same two adapters, by transformers and lean."""
    found = []
    for lean in (False, True):
        trunk = Trunk(model_of(family), tiny_tokenizer(), train_layers, lean=lean,
                      gradient_checkpointing=gradient_checkpointing)  # fmt: skip
        for seed, name in enumerate(("policy", "other")):
            trunk.adapters.add(name, rank=2 + seed, alpha=3, seed=seed)
            shake(trunk, name, seed)
        found.append(trunk)
    assert not found[0]._lean
    assert len(found[1]._lean) == 3
    return found[0], found[1]


def close(got: Tensor, wanted: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance * float(wanted.detach().abs().max()))


def real(packed: Packed | None) -> Tensor:
    """Where there is a token."""
    return torch.ones(TOKENS.shape, dtype=torch.bool) if packed is None else packed.segments >= 0


@every_trunk
@pytest.mark.parametrize("packed", [None, PACKED], ids=["rows", "packed"])
@pytest.mark.parametrize("name", [None, "policy", "other"])
def test_states_are_those_of_transformers(
    family: str, train_layers: TrainLayers, packed: Packed | None, name: str | None
) -> None:
    found = []
    for trunk in both(family, train_layers):
        states = trunk.states(packed or TOKENS)
        with torch.no_grad(), trunk.adapters.using(name):
            found.append((states, trunk.hidden(states, packed)))
    for got, wanted in zip(found[1], found[0], strict=True):
        close(got[real(packed)], wanted[real(packed)])


@every_trunk
@pytest.mark.parametrize("packed", [None, PACKED], ids=["rows", "packed"])
@pytest.mark.parametrize("again", [False, True], ids=["", "checkpointing"])
def test_gradients_are_those_of_transformers(
    family: str, train_layers: TrainLayers, packed: Packed | None, again: bool
) -> None:
    gradients = []
    for trunk in both(family, train_layers, gradient_checkpointing=again):
        with trunk.adapters.using("policy"):
            hidden = trunk.hidden(trunk.states(packed or TOKENS), packed)
        weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(3))
        (hidden * weights)[real(packed)].sum().backward()
        gradients.append([p.grad for p in trunk.adapters.parameters("policy")])
    for got, wanted in zip(gradients[1], gradients[0], strict=True):
        assert wanted is not None
        assert got is not None
        assert wanted.abs().max() > 0
        close(got, wanted, 3e-5)


@every_trunk
@pytest.mark.parametrize("name", [None, "policy"])
def test_decoding_with_a_cache_is_that_of_transformers(
    family: str, train_layers: TrainLayers, name: str | None
) -> None:
    padding = torch.tensor([0, 2, 1])
    steps = torch.arange(9)
    found = []
    for trunk in both(family, train_layers):
        cache, rows = Cache(layers=[_Row(9) for _ in trunk.layers]), []
        with torch.inference_mode(), trunk.merged(name):
            for new in (slice(0, 6), slice(6, 7), slice(7, 9)):
                seen = (steps[None, None, : new.stop] <= steps[None, new, None]) & (
                    steps[None, None, : new.stop] >= padding[:, None, None]
                )
                seen = seen | (steps[None, None, : new.stop] == steps[None, new, None])
                positions = (steps[None, new] - padding[:, None]).clamp(min=0)
                rows.append(trunk.forward_cached(TOKENS[:, new], seen[:, None], positions, cache))
        found.append([torch.cat([row[i] for row in rows], 1) for i in range(2)])
    real = steps >= padding[:, None]
    for got, wanted in zip(found[1], found[0], strict=True):
        close(got[real], wanted[real])


def test_the_base_is_the_same_before_and_after_and_the_adapter_counts_once() -> None:
    plain, lean = both("llama", 2)
    assert plain.fingerprint == lean.fingerprint
    for name, wanted in plain.model.state_dict().items():
        assert torch.equal(lean.model.state_dict()[name], wanted)
    with lean.merged("policy"), lean.adapters.using("policy"):
        close(lean.hidden(lean.states(TOKENS)), _hidden(plain, "policy"))
    close(lean.hidden(lean.states(TOKENS)), _hidden(plain, None))


def _hidden(trunk: Trunk, name: str | None) -> Tensor:
    with trunk.adapters.using(name):
        return trunk.hidden(trunk.states(TOKENS))


def test_samples_and_their_log_probabilities_are_those_of_the_plain_path() -> None:
    prompts = [Prompt.of(text) for text in ("a", "b c d", "hello there")]
    plain, lean = (
        LocalSampler(trunk, "policy").sample(prompts, max_tokens=12, temperature=0.8, seed=4)
        for trunk in both("llama", 2)
    )
    assert torch.equal(plain.tokens, lean.tokens)
    close(lean.logps, plain.logps, 1e-4)
    close(lean.states, plain.states, 1e-4)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="nothing tells here which files are mapped")
@pytest.mark.parametrize("family", FAMILIES)
def test_the_checkpoint_is_let_go_of(family: str, tmp_path: Path) -> None:
    model_of(family).save_pretrained(tmp_path)
    stored = str(tmp_path / "model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert stored in Path("/proc/self/maps").read_text()
    trunk = Trunk(model, tiny_tokenizer(), 2)
    assert stored not in Path("/proc/self/maps").read_text()
    close(_hidden(trunk, None), _hidden(Trunk(model_of(family), tiny_tokenizer(), 2, lean=False), None))


def test_other_models_go_through_transformers() -> None:
    for kind in ("qwen3", "gemma", "gpt2", "gpt_neox"):
        assert not Trunk(tiny_model(kind), tiny_tokenizer(), 2)._lean
    assert not Trunk(tiny_model("llama").bfloat16(), tiny_tokenizer(), 2)._lean


def test_a_quarter_turn_by_hand() -> None:
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 1, 4)
    turned = rotated(x, torch.zeros(1, 1, 1, 4), torch.ones(1, 1, 1, 4))
    assert turned.flatten().tolist() == [-3.0, -4.0, 1.0, 2.0]


@pytest.mark.parametrize("count", [7, 101, 1024, 49_152])
def test_a_draw_by_blocks_is_the_draw_from_the_whole_distribution(count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, count, generator=generator) * 3
    uniform = torch.rand(50, generator=generator)
    tokens, logps = _draw(logits, 0.7, uniform)
    whole = torch.log_softmax(logits.double() / 0.7, -1)
    ends = whole.exp().cumsum(-1)
    wanted = (ends < uniform[:, None].double()).sum(-1).clamp(max=count - 1)
    assert torch.equal(tokens, wanted)
    close(logps.double(), whole.gather(-1, wanted[:, None])[:, 0])
    assert count % _block(count) == 0
