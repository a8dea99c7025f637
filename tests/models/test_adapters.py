from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import KINDS, shake, tiny_model, tiny_tokenizer, tiny_trunk
from torch import Tensor

from manners.errors import MannersError
from manners.models.adapters import compose_adapters, merge_adapter, read_adapter_config, read_tensors
from manners.models.trunk import TrainLayers, Trunk

every_kind = pytest.mark.parametrize("kind", KINDS)


def drawn_tokens(rows: int = 3, width: int = 9) -> Tensor:
    return torch.randint(5, 101, (rows, width), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def logits(model: Any) -> Tensor:
    got: Tensor = model(drawn_tokens()).logits
    return got


def of_base(kind: str = "llama") -> Tensor:
    """What a trunk says that never had an adapter: transformers' own logits up to rounding, since weights may lie in another order."""
    found = logits(tiny_trunk(kind, 2).model)
    close(found, logits(tiny_model(kind)))
    return found


@torch.no_grad()
def trunk_logits(trunk: Trunk) -> Tensor:
    return trunk.hidden(trunk.states(drawn_tokens())) @ trunk.head_weight.T


def close(got: Tensor, wanted: Tensor, atol: float = 2e-5) -> None:
    torch.testing.assert_close(got, wanted, rtol=0, atol=atol)


def taught(kind: str = "llama", train_layers: TrainLayers = 2, rank: int = 2, seed: int = 0) -> Trunk:
    """A trunk with an adapter "policy" that makes a large difference."""
    trunk = tiny_trunk(kind, train_layers)
    trunk.adapters.add("policy", rank=rank, alpha=3, seed=0)
    shake(trunk, "policy", seed)
    return trunk


def saved(folder: Path, kind: str = "llama", train_layers: TrainLayers = 2, rank: int = 2, seed: int = 0) -> Path:
    taught(kind, train_layers, rank, seed).adapters.save("policy", folder, "somewhere/base")
    return folder


@every_kind
def test_a_new_adapter_changes_nothing(kind: str) -> None:
    trunk = tiny_trunk(kind, 2)
    before = trunk_logits(trunk)
    trunk.adapters.add("policy", rank=4, alpha=8, seed=0)
    with trunk.adapters.using("policy"):
        assert torch.equal(trunk_logits(trunk), before)


def test_a_new_adapter_is_drawn_as_in_peft() -> None:
    # Kaiming uniform with a = √5: uniform in ±1/√inputs, that is, standard deviation 1/√(3·inputs); A [rank, inputs]
    trunk = tiny_trunk("llama", "all")
    trunk.adapters.add("policy", rank=64, alpha=8, seed=0)
    layer = trunk.adapters.layers["model.layers.0.mlp.down_proj"]
    a, b = layer.a["policy"], layer.b["policy"]
    assert (a.shape, b.shape) == ((64, 32), (16, 64))
    assert a.std().item() == pytest.approx((3 * 32) ** -0.5, rel=0.05)
    assert 0.95 * 32**-0.5 < a.abs().max().item() <= 32**-0.5
    assert not b.any()
    other = tiny_trunk("llama", "all")
    other.adapters.add("policy", rank=64, alpha=8, seed=1)
    assert not torch.equal(other.adapters.layers["model.layers.0.mlp.down_proj"].a["policy"], a)


@every_kind
def test_using_none_is_the_base_bit_by_bit(kind: str) -> None:
    trunk = taught(kind)
    wanted = of_base(kind)
    with trunk.adapters.using("policy"):
        assert (trunk_logits(trunk) - wanted).abs().max() > 0.05
        with trunk.adapters.using(None):
            assert torch.equal(logits(trunk.model), wanted)
        assert (trunk_logits(trunk) - wanted).abs().max() > 0.05
    assert torch.equal(logits(trunk.model), wanted)


def test_the_adapter_is_off_again_after_an_error() -> None:
    trunk = taught()
    with pytest.raises(ZeroDivisionError), trunk.adapters.using("policy"):
        raise ZeroDivisionError
    assert torch.equal(logits(trunk.model), of_base())


@every_kind
def test_the_adapter_is_the_low_rank_product_added_to_the_weights(kind: str) -> None:
    trunk, model = taught(kind), tiny_model(kind)
    transposed = kind == "gpt2"
    with torch.no_grad():
        for name, layer in trunk.adapters.layers.items():
            change = 3 / 2 * layer.b["policy"] @ layer.a["policy"]
            model.get_submodule(name).weight += change.T if transposed else change
    with trunk.adapters.using("policy"):
        close(trunk_logits(trunk), logits(model))


@every_kind
def test_two_adapters_do_not_touch_each_other(kind: str) -> None:
    trunk = taught(kind)
    with trunk.adapters.using("policy"):
        before = trunk_logits(trunk)
    trunk.adapters.add("reward", rank=3, alpha=3, seed=5)
    shake(trunk, "reward", seed=5)
    with trunk.adapters.using("reward"):
        assert (trunk_logits(trunk) - before).abs().max() > 0.05
    with trunk.adapters.using("policy"):
        assert torch.equal(trunk_logits(trunk), before)


@every_kind
def test_merged_equals_on_and_gives_back_the_very_same_tensors(kind: str) -> None:
    trunk = taught(kind)
    with trunk.adapters.using("policy"):
        wanted = trunk_logits(trunk)
    before = {name: (p, p.detach().clone()) for name, p in trunk.model.named_parameters()}
    with trunk.adapters.merged("policy"):
        close(logits(trunk.model), wanted, atol=1e-5)
    after = dict(trunk.model.named_parameters())
    assert after.keys() == before.keys()
    for name, (parameter, value) in before.items():
        assert after[name] is parameter
        assert torch.equal(parameter, value)


def test_merging_an_adapter_that_is_on_does_not_count_it_twice() -> None:
    trunk = taught()
    with trunk.adapters.using("policy"):
        wanted = trunk_logits(trunk)
        with trunk.adapters.merged("policy"):
            close(logits(trunk.model), wanted, atol=1e-5)
        assert torch.equal(trunk_logits(trunk), wanted)


def test_merging_nothing_is_the_base() -> None:
    trunk = taught()
    with trunk.adapters.using("policy"), trunk.adapters.merged(None):
        assert torch.equal(logits(trunk.model), of_base())


def test_the_base_is_whole_after_an_error_inside_merged() -> None:
    trunk = taught()
    with pytest.raises(ZeroDivisionError), trunk.adapters.merged("policy"):
        raise ZeroDivisionError
    assert torch.equal(logits(trunk.model), of_base())


def test_the_base_is_whole_after_merging_failed_halfway(monkeypatch: pytest.MonkeyPatch) -> None:
    trunk = taught()
    third = list(trunk.adapters.layers.values())[2]

    def out_of_memory(name: str) -> Tensor:
        raise MemoryError(name)

    monkeypatch.setattr(third, "delta", out_of_memory)
    with pytest.raises(MemoryError), trunk.adapters.merged("policy"):
        pass
    assert torch.equal(logits(trunk.model), of_base())


@pytest.mark.parametrize("train_layers", ["all", 1])
@every_kind
def test_peft_reads_what_we_save(kind: str, train_layers: TrainLayers, tmp_path: Path) -> None:
    trunk = taught(kind, train_layers)
    trunk.adapters.save("policy", tmp_path, "somewhere/base")
    model = peft.PeftModel.from_pretrained(tiny_model(kind), str(tmp_path))
    with trunk.adapters.using("policy"):
        close(logits(model), trunk_logits(trunk))
    with model.disable_adapter():
        close(logits(model), logits(tiny_model(kind)))
    assert model.peft_config["default"].base_model_name_or_path == "somewhere/base"


def made_by_peft(folder: Path, kind: str, **settings: Any) -> Tensor:
    """Save an adapter of peft's own making; gives the logits of peft's model."""
    config = peft.LoraConfig(r=2, lora_alpha=3, fan_in_fan_out=kind == "gpt2", task_type="CAUSAL_LM", **settings)
    model = peft.get_peft_model(tiny_model(kind), config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
                assert "lora_" in name or settings.get("bias") == "all"
    model.save_pretrained(str(folder))
    return logits(model.eval())


LEAVES = {
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "gpt_neox": ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"],
}


@pytest.mark.parametrize("named", ["all-linear", "leaves"])
@pytest.mark.parametrize("kind", LEAVES)
def test_we_read_what_peft_saves(kind: str, named: str, tmp_path: Path) -> None:
    wanted = made_by_peft(tmp_path, kind, target_modules=named if named == "all-linear" else LEAVES[kind])
    trunk = tiny_trunk(kind, "all")
    trunk.adapters.load("policy", tmp_path)
    with trunk.adapters.using("policy"):
        close(trunk_logits(trunk), wanted)
    model = tiny_model(kind)
    merge_adapter(model, tmp_path)
    close(logits(model), wanted)


def test_we_read_an_adapter_of_peft_on_the_top_layers(tmp_path: Path) -> None:
    wanted = made_by_peft(tmp_path, "llama", target_modules=LEAVES["llama"], layers_to_transform=[1, 2])
    trunk = tiny_trunk("llama", 2)
    trunk.adapters.load("policy", tmp_path)
    with trunk.adapters.using("policy"):
        close(trunk_logits(trunk), wanted)


@pytest.mark.parametrize(("kind", "leaves"), [("llama", ["q_proj", "v_proj"]), ("gpt2", ["c_attn"])])
def test_an_adapter_of_peft_on_some_kinds_of_layers_merges(kind: str, leaves: list[str], tmp_path: Path) -> None:
    wanted = made_by_peft(tmp_path, kind, target_modules=leaves)
    model = tiny_model(kind)
    merge_adapter(model, tmp_path)
    close(logits(model), wanted)


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj"], "use_rslora": True},
        {"target_modules": ["q_proj"], "use_dora": True},
        {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {"q_proj": 4}},
        {"target_modules": ["q_proj", "v_proj"], "alpha_pattern": {"q_proj": 4}},
        {"target_modules": ["c_attn"], "bias": "all"},
        {"target_modules": ["q_proj"], "lora_bias": True},
        {"target_modules": ["q_proj", "embed_tokens"]},
    ],
    ids=lambda settings: next((k for k in settings if k != "target_modules"), "embedding"),
)
@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_what_is_more_than_low_rank_is_refused_and_not_dropped(settings: dict[str, Any], tmp_path: Path) -> None:
    kind = "gpt2" if settings["target_modules"] == ["c_attn"] else "llama"
    made_by_peft(tmp_path, kind, **settings)
    with pytest.raises(MannersError) as error:
        merge_adapter(tiny_model(kind), tmp_path)
    assert "\n" not in str(error.value)


@every_kind
def test_save_and_load_give_the_same_adapter(kind: str, tmp_path: Path) -> None:
    trunk, other = taught(kind), tiny_trunk(kind, 2)
    trunk.adapters.save("policy", tmp_path, "base")
    other.adapters.load("again", tmp_path)
    with trunk.adapters.using("policy"), other.adapters.using("again"):
        assert torch.equal(trunk_logits(other), trunk_logits(trunk))
    assert (other.adapters.rank["again"], other.adapters.alpha["again"]) == (2, 3)


@every_kind
def test_merging_from_a_file_equals_the_adapter(kind: str, tmp_path: Path) -> None:
    trunk, model = taught(kind), tiny_model(kind)
    trunk.adapters.save("policy", tmp_path, "base")
    merge_adapter(model, tmp_path)
    with trunk.adapters.using("policy"):
        close(logits(model), trunk_logits(trunk))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_composed_adapters_equal_one_after_the_other(kind: str, tmp_path: Path) -> None:
    # different ranks, and the first reaches deeper than the second
    folders = [saved(tmp_path / "a", kind, "all", rank=2, seed=1), saved(tmp_path / "b", kind, 1, rank=3, seed=2)]
    wanted = tiny_model(kind)
    for folder in folders:
        merge_adapter(wanted, folder)
    for order in (folders, folders[::-1]):
        compose_adapters(order, tmp_path / "both", "base")
        model = tiny_model(kind)
        merge_adapter(model, tmp_path / "both")
        close(logits(model), logits(wanted))
        close(logits(peft.PeftModel.from_pretrained(tiny_model(kind), str(tmp_path / "both"))), logits(wanted))
    trunk = tiny_trunk(kind, "all")
    trunk.adapters.load("policy", tmp_path / "both")
    assert trunk.adapters.rank["policy"] == 5
    with trunk.adapters.using("policy"):
        close(trunk_logits(trunk), logits(wanted))
    assert read_adapter_config(tmp_path / "both")["base_model_name_or_path"] == "base"


def test_composing_one_adapter_is_that_adapter(tmp_path: Path) -> None:
    compose_adapters([saved(tmp_path / "a")], tmp_path / "same", "base")
    model, wanted = tiny_model("llama"), tiny_model("llama")
    merge_adapter(model, tmp_path / "same")
    merge_adapter(wanted, tmp_path / "a")
    close(logits(model), logits(wanted))


def refuses(action: Any, *arguments: Any) -> str:
    with pytest.raises(MannersError) as error:
        action(*arguments)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 400
    return message


def test_an_adapter_of_another_model_is_an_error_of_one_line(tmp_path: Path) -> None:
    folder = saved(tmp_path, "llama", 2)
    for other in (tiny_trunk("gpt2", 2), tiny_trunk("llama", 1), tiny_trunk("llama", "all")):
        assert "does not fit" in refuses(other.adapters.load, "policy", folder)
    narrow = Trunk(tiny_model("llama", layers=2), tiny_tokenizer(), "all")
    assert "does not fit" in refuses(narrow.adapters.load, "policy", folder)
    assert "does not fit" in refuses(merge_adapter, tiny_model("gpt2"), folder)
    assert "does not fit" in refuses(merge_adapter, tiny_model("llama", layers=2), folder)
    assert "does not fit" in refuses(merge_adapter, tiny_model("qwen3"), saved(tmp_path / "gpt", "gpt2"))


def test_an_adapter_of_another_width_is_an_error_of_one_line(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    state = load_file(folder / "adapter_model.safetensors")
    save_file({k: v[..., :-1].contiguous() for k, v in state.items()}, folder / "adapter_model.safetensors")
    assert "does not fit" in refuses(tiny_trunk("llama", 2).adapters.load, "policy", folder)
    assert "does not fit" in refuses(merge_adapter, tiny_model("llama"), folder)


def test_half_an_adapter_is_an_error_of_one_line(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    state = load_file(folder / "adapter_model.safetensors")
    del state["base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"]
    save_file(state, folder / "adapter_model.safetensors")
    assert "does not fit" in refuses(tiny_trunk("llama", 2).adapters.load, "policy", folder)
    assert "does not fit" in refuses(merge_adapter, tiny_model("llama"), folder)


def test_broken_files_are_errors_of_one_line(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    weights = folder / "adapter_model.safetensors"
    whole = weights.read_bytes()
    for broken in (b"", b"garbage that is long enough to be a header", whole[: len(whole) // 2], whole[:-1]):
        weights.write_bytes(broken)
        assert "safetensors" in refuses(read_tensors, weights)
        refuses(merge_adapter, tiny_model("llama"), folder)
    weights.unlink()
    assert "does not exist" in refuses(tiny_trunk("llama", 2).adapters.load, "policy", folder)


def test_a_folder_without_an_adapter_and_other_kinds_of_adapters(tmp_path: Path) -> None:
    assert "adapter_config.json" in refuses(read_adapter_config, tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3"}))
    assert "IA3" in refuses(read_adapter_config, tmp_path)


def test_a_broken_adapter_config_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LO')
    assert "adapter_config.json" in refuses(read_adapter_config, tmp_path)


def test_a_dropped_adapter_is_gone_and_its_name_is_free() -> None:
    trunk = taught("llama")
    trunk.adapters.add("other", rank=2, alpha=1, seed=3)
    weights = sum(p.numel() for p in trunk.parameters())
    own = sum(p.numel() for p in trunk.adapters.parameters("other"))
    trunk.adapters.drop("other")
    assert "other" not in trunk.adapters.rank
    assert sum(p.numel() for p in trunk.parameters()) == weights - own
    trunk.adapters.add("other", rank=4, alpha=1, seed=3)
    assert trunk.adapters.parameters("other")[0].shape[0] == 4
    assert trunk.adapters.parameters("policy")


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_gradients_through_an_adapter_are_those_of_the_plain_formula(kind: str) -> None:
    layer = next(iter(taught(kind).adapters.layers.values()))
    layer.active = "policy"
    x, out = torch.randn(2, 3, layer.inputs, requires_grad=True), torch.randn(2, 3, layer.outputs)
    a, b = layer.a["policy"], layer.b["policy"]
    weight = layer.base.weight.T if layer.transposed else layer.base.weight
    plain = torch.nn.functional.linear(x, weight, layer.base.bias) + layer.scale["policy"] * (x @ a.T) @ b.T
    wanted = torch.autograd.grad((plain * out).sum(), (x, a, b))
    found = torch.autograd.grad((layer(x) * out).sum(), (x, a, b))
    close(layer(x), plain)
    for got, want in zip(found, wanted, strict=True):
        close(got, want, atol=1e-4)
