from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import KINDS, save_tiny, shake, tiny_model, tiny_trunk
from torch import Tensor

from manners.errors import MannersError
from manners.models import load
from manners.models.load import checkpoint_folder, lineage_of, load_trunk
from manners.models.quantised import BaseBits
from manners.models.trunk import Trunk
from manners.runs import write_json

LAST = "model.layers.2.mlp.down_proj.weight"


@torch.no_grad()
def trunk_logits(trunk: Trunk) -> Tensor:
    tokens = torch.randint(5, 101, (2, 7), generator=torch.Generator().manual_seed(0))
    return trunk.hidden(trunk.states(tokens)) @ trunk.head_weight.T


def refuses(model: str | Path, **settings: Any) -> str:
    with pytest.raises(MannersError) as error:
        load_trunk(str(model), **settings)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_comes_back_as_it_was(kind: str, tmp_path: Path) -> None:
    trunk = load_trunk(str(save_tiny(tmp_path, kind, seed=4)), 2, device="cpu")
    torch.testing.assert_close(trunk_logits(trunk), trunk_logits(tiny_trunk(kind, 2, seed=4)), rtol=0, atol=1e-6)
    assert trunk.branch == 1
    assert trunk.name == str(tmp_path)
    assert trunk.fingerprint == tiny_trunk(kind, 2, seed=4).fingerprint
    assert trunk.tokenizer("ab")["input_ids"] == trunk.tokenizer("<|user|>ab")["input_ids"][1:]
    assert not any(p.requires_grad for p in trunk.parameters())
    assert not trunk.model.training


@pytest.mark.parametrize("name", ["nowhere", "./nowhere", "/nowhere/at/all"])
def test_a_model_that_is_not_there(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "does not exist" in refuses(name)


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: Any, **__: Any) -> None:
        raise AssertionError("a test went to the network")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["nobody/nothing", "a/b/c", "nobody/no thing", "nobody/.."])
def test_a_hub_id_without_network_and_a_name_that_is_none(name: str) -> None:
    assert name in refuses(name)


def test_an_empty_folder_and_a_folder_without_weights(tmp_path: Path) -> None:
    refuses(tmp_path)
    save_tiny(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    refuses(tmp_path / "model")


def test_a_folder_without_tokenizer(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path)
    refuses(tmp_path)


def test_pickled_weights_are_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny(tmp_path)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()

    def opened(*_: Any, **__: Any) -> None:
        raise AssertionError("unpickled")

    monkeypatch.setattr(torch, "load", opened)
    assert "safetensors" in refuses(tmp_path)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state[LAST]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    message = refuses(tmp_path)
    assert "1 weights are missing" in message
    assert LAST in message


def test_a_decoder_without_a_language_model_head_is_refused(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["lm_head.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert "lm_head.weight" in refuses(tmp_path)


def test_weights_of_another_architecture(tmp_path: Path) -> None:
    save_tiny(tmp_path / "llama")
    save_tiny(tmp_path / "gpt2", "gpt2")
    (tmp_path / "llama" / "config.json").write_bytes((tmp_path / "gpt2" / "config.json").read_bytes())
    assert "missing" in refuses(tmp_path / "llama")


def test_weights_of_another_width(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    write_json(tmp_path / "config.json", {**config, "intermediate_size": 48})
    refuses(tmp_path)


def test_a_model_that_is_no_causal_language_model(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    write_json(tmp_path / "config.json", {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]})
    refuses(tmp_path)
    write_json(tmp_path / "config.json", {"model_type": "never-heard-of"})
    refuses(tmp_path)


@pytest.mark.parametrize("keep", [0, 20, 3_000])
def test_a_download_that_broke_off(keep: int, tmp_path: Path) -> None:
    save_tiny(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    refuses(tmp_path)


def test_a_broken_config(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "lla')
    refuses(tmp_path)


def test_a_broken_tokenizer(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0", "mod')
    refuses(tmp_path)


def test_train_layers_out_of_range(tmp_path: Path) -> None:
    assert "between 1 and 3" in refuses(save_tiny(tmp_path), train_layers=9)


def taught(base: str, folder: Path, seed: int, **settings: Any) -> Trunk:
    """Train (that is, draw) an adapter on `base` and save it to `folder`; gives the trunk with the adapter "policy"."""
    trunk = load_trunk(base, device="cpu", **settings)
    trunk.adapters.add("policy", rank=2, alpha=3, seed=0)
    shake(trunk, "policy", seed)
    trunk.adapters.save("policy", folder, base)
    return trunk


def test_a_chain_of_adapters_is_merged_in_order(tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base")
    first, run = tmp_path / "first", tmp_path / "run"
    below = taught(str(base), first, seed=1, train_layers=2)
    top = taught(str(first), run / "checkpoints" / "final", seed=2, train_layers=1)
    write_json(run / "lineage.json", {"kind": "ppo"})

    assert lineage_of(str(base)) == (str(base), [])
    assert lineage_of(str(first)) == (str(base), [first])
    assert lineage_of(str(run)) == (str(base), [first, run / "checkpoints" / "final"])

    with below.adapters.using("policy"):
        wanted = trunk_logits(below)
    torch.testing.assert_close(trunk_logits(load_trunk(str(first), device="cpu")), wanted, rtol=0, atol=2e-5)
    with top.adapters.using("policy"):
        wanted = trunk_logits(top)
    loaded = load_trunk(str(run), device="cpu")
    torch.testing.assert_close(trunk_logits(loaded), wanted, rtol=0, atol=2e-5)
    assert loaded.fingerprint != load_trunk(str(base), device="cpu").fingerprint
    assert (trunk_logits(loaded) - trunk_logits(load_trunk(str(first), device="cpu"))).abs().max() > 0.05


def test_a_tree_of_runs_can_be_moved_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_tiny(Path("work/base"))
    trunk = taught("work/base", Path("work/run/checkpoints/final"), seed=1)
    with trunk.adapters.using("policy"):
        wanted = trunk_logits(trunk)
    Path("work").rename("elsewhere")
    monkeypatch.chdir("elsewhere/run")
    loaded = load_trunk(str(tmp_path / "elsewhere" / "run" / "checkpoints" / "final"), device="cpu")
    torch.testing.assert_close(trunk_logits(loaded), wanted, rtol=0, atol=2e-5)


def test_runs_may_lie_behind_a_link_to_another_disk(tmp_path: Path) -> None:
    (tmp_path / "disk" / "deep" / "runs").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "runs").symlink_to(tmp_path / "disk" / "deep" / "runs")
    base = save_tiny(tmp_path / "base")
    folder = tmp_path / "here" / "runs" / "run"
    taught(str(base), folder, seed=1)
    found, adapters = lineage_of(str(folder))
    assert Path(found).resolve() == base.resolve()
    assert adapters == [folder]


def test_a_base_that_is_no_folder_keeps_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "starter").mkdir()  # a folder of the same name is not meant
    tiny = tiny_trunk("llama")
    tiny.adapters.add("policy", rank=2, alpha=3, seed=0)
    for name in ("starter", "owner/name"):
        tiny.adapters.save("policy", tmp_path / "adapter", name)
        assert lineage_of(str(tmp_path / "adapter")) == (name, [tmp_path / "adapter"])


def adapter(folder: Path, base: str = "somewhere/base") -> Path:
    write_json(folder / "adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": base})
    return folder


def test_a_run_is_its_best_checkpoint_or_else_its_final_one(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_json(run / "lineage.json", {"kind": "ppo"})
    with pytest.raises(MannersError, match="no checkpoint"):
        checkpoint_folder(str(run))
    final = adapter(run / "checkpoints" / "final")
    assert checkpoint_folder(str(run)) == final
    best = adapter(run / "checkpoints" / "best")
    assert checkpoint_folder(str(run)) == best
    assert checkpoint_folder(str(final)) == final


def test_other_models_are_no_checkpoint_of_ours(tmp_path: Path) -> None:
    for model in ("starter", "owner/name", str(tmp_path), str(tmp_path / "nowhere")):
        assert checkpoint_folder(model) is None
        assert lineage_of(model) == (model, [])


def test_a_chain_that_bites_its_own_tail_is_an_error(tmp_path: Path) -> None:
    adapter(tmp_path / "a", str(tmp_path / "b"))
    adapter(tmp_path / "b", str(tmp_path / "a"))
    with pytest.raises(MannersError, match="does not end") as error:
        lineage_of(str(tmp_path / "a"))
    assert "\n" not in str(error.value)


def test_an_adapter_whose_base_is_gone_or_unnamed(tmp_path: Path) -> None:
    assert "does not exist" in refuses(adapter(tmp_path / "a", str(tmp_path / "gone")))
    write_json(tmp_path / "b" / "adapter_config.json", {"peft_type": "LORA"})
    refuses(tmp_path / "b")


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    taught(str(save_tiny(tmp_path / "llama")), folder, seed=1)
    config = json.loads((folder / "adapter_config.json").read_text())
    base = str(save_tiny(tmp_path / "gpt2", "gpt2"))
    write_json(folder / "adapter_config.json", {**config, "base_model_name_or_path": base})
    assert "does not fit" in refuses(folder)


CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")


def with_bitsandbytes(monkeypatch: pytest.MonkeyPatch, installed: bool) -> None:
    monkeypatch.setattr(load.importlib.util, "find_spec", lambda _: object() if installed else None)
    monkeypatch.setattr(load, "pick_dtype", lambda _: torch.bfloat16)


@pytest.mark.parametrize(("bits", "device", "installed"), [("full", CUDA, True), (8, CPU, True), (4, CUDA, False)])
def test_the_trunk_rounds_the_base_itself_unless_bitsandbytes_can(
    bits: BaseBits, device: torch.device, installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_bitsandbytes(monkeypatch, installed)
    assert load.bitsandbytes_settings(bits, device) == {}


def test_bitsandbytes_is_asked_for_as_many_bits_as_were_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with_bitsandbytes(monkeypatch, True)
    eight, four = (load.bitsandbytes_settings(bits, CUDA) for bits in (8, 4))
    assert eight["device_map"] == four["device_map"] == {"": CUDA}
    assert (eight["quantization_config"].load_in_8bit, eight["quantization_config"].load_in_4bit) == (True, False)
    config = four["quantization_config"]
    assert (config.load_in_8bit, config.load_in_4bit) == (False, True)
    assert (config.bnb_4bit_quant_type, config.bnb_4bit_compute_dtype) == ("nf4", torch.bfloat16)


@pytest.mark.parametrize("computes", [True, False])
def test_device_and_number_type_are_what_the_machine_does_well(computes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: computes and not including_emulation
    )
    assert load.pick_device().type == "cuda"
    assert load.pick_dtype(CUDA) == (torch.bfloat16 if computes else torch.float32)
    assert load.pick_dtype(CPU) == torch.float32
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert load.pick_device() == CPU


def test_attention_of_rows_without_a_pack_is_causal_without_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    # only such a call may be served by a flash kernel
    trunk = load_trunk("tiny-random", 2)
    assert trunk.model.config._attn_implementation == "sdpa"
    asked: list[tuple[Tensor | None, bool]] = []
    real: Any = torch.nn.functional.scaled_dot_product_attention

    def watched(*args: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, **kwargs: Any) -> Tensor:
        asked.append((attn_mask, is_causal))
        return real(*args, attn_mask=attn_mask, is_causal=is_causal, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    trunk.hidden(torch.randn(2, 5, trunk.width))
    assert asked == [(None, True)] * 2
