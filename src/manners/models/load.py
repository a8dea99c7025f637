"""Loading: any Hugging Face decoder by path or id, the starter by name, or a policy of ours (its base with the adapters merged)."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from manners.errors import MannersError
from manners.models.adapters import merge_adapter, read_adapter_config
from manners.models.quantised import BaseBits
from manners.models.starter import starter
from manners.models.tiny import tiny_llama, tiny_tokenizer
from manners.models.trunk import TrainLayers, Trunk


def load_trunk(
    model: str,
    train_layers: TrainLayers = "all",
    *,
    device: str = "auto",
    trust_remote_code: bool = False,
    gradient_checkpointing: bool = False,
    base_bits: BaseBits = "full",
    say: Callable[[str], None] = lambda _: None,
) -> Trunk:
    """The model as a frozen trunk with room for adapters on its top `train_layers` layers.

    `model`: "starter", "tiny-random" (random weights, see models/tiny.py), a folder with a Hugging Face checkpoint, a run or
    checkpoint of ours (its adapters are merged into the base), or a Hub id. Weights are read from safetensors only. `base_bits` 8
    or 4 rounds the base, with what was merged into it. Raises MannersError for whatever cannot be loaded.
    """
    base, adapters = lineage_of(model)
    place = pick_device() if device == "auto" else torch.device(device)
    how = {} if adapters else bitsandbytes_settings(base_bits, place)  # nothing can be merged into its weights
    loaded, tokenizer = _load_plain(base, place, trust_remote_code, how, say)
    for folder in adapters:
        merge_adapter(loaded, folder)
    return Trunk(
        loaded, tokenizer, train_layers, model, gradient_checkpointing=gradient_checkpointing, base_bits=base_bits
    )


def lineage_of(model: str) -> tuple[str, list[Path]]:
    """The plain base model at the bottom of `model`, and the policy adapters on it, in the order they were trained."""
    adapters: list[Path] = []
    while (folder := checkpoint_folder(model)) is not None:
        adapters.insert(0, folder)
        model = base_of(folder)
        if len(adapters) > 16:
            raise MannersError(f"{folder}: the chain of base models does not end")
    return model, adapters


def base_of(folder: Path) -> str:
    """The base model of the adapter in `folder`: a folder relative to it, or whatever name was written there."""
    base = read_adapter_config(folder).get("base_model_name_or_path")
    if not base:
        raise MannersError(f"the adapter in {folder} does not name its base model (base_model_name_or_path)")
    beside = folder.resolve() / str(base)
    return str(beside.resolve()) if beside.is_dir() else str(base)


def checkpoint_folder(model: str) -> Path | None:
    """The adapter folder that `model` names: a run (its best, else its final checkpoint) or a checkpoint; None for other models."""
    path = Path(model)
    if (path / "adapter_config.json").exists():
        return path
    if (path / "lineage.json").exists():
        for name in ("best", "final"):
            if (path / "checkpoints" / name / "adapter_config.json").exists():
                return path / "checkpoints" / name
        raise MannersError(f"run {path} has no checkpoint to load; let it finish, or name another run")
    return None


def _load_plain(
    base: str, place: torch.device, trust_remote_code: bool, how: dict[str, Any], say: Callable[[str], None]
) -> tuple[Any, Any]:
    """Model and tokenizer of a checkpoint, on `place`; `how`: more that `from_pretrained` is told."""
    if base == "tiny-random":
        tokenizer = tiny_tokenizer()
        return tiny_llama(len(tokenizer)), tokenizer
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    source = str(starter(say)) if base == "starter" else base
    if ("/" not in source or source.startswith((".", "/"))) and not Path(source).is_dir():
        raise MannersError(
            f"model {source!r} does not exist; give a folder, a Hub id such as owner/name, 'starter' or 'tiny-random'"
        )
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
        model, report = AutoModelForCausalLM.from_pretrained(
            source, config=config, dtype=pick_dtype(place), use_safetensors=True, trust_remote_code=trust_remote_code,
            output_loading_info=True, **how,
        )  # fmt: skip
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise MannersError(f"model {source!r} cannot be loaded: {' '.join(str(error).split())[:300]}") from None
    if report["missing_keys"]:
        raise MannersError(
            f"model {source!r} is not a whole causal language model: {len(report['missing_keys'])} weights are missing,"
            f" among them {sorted(report['missing_keys'])[0]}; use a checkpoint of this architecture"
        )
    return model if how else model.to(place), tokenizer


def pick_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def pick_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the accelerator computes in it, else float32: on most CPUs bfloat16 is hundreds of times slower."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float32


def bitsandbytes_settings(bits: BaseBits, device: torch.device) -> dict[str, Any]:
    """What `from_pretrained` is told so that bitsandbytes holds the base in `bits` bits on a CUDA device, where it is installed; else
    nothing: the trunk rounds the base itself."""
    if bits == "full" or device.type != "cuda" or importlib.util.find_spec("bitsandbytes") is None:
        return {}
    from transformers import BitsAndBytesConfig

    if bits == 8:
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:  # NF4: Dettmers et al. 2023 (arXiv 2305.14314)
        config = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=pick_dtype(device)
        )
    return {"quantization_config": config, "device_map": {"": device}}
