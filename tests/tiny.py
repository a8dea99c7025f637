"""Random models that build in milliseconds, with weights large enough that a wrong layer shows, and a tokenizer."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from manners.models.tiny import ALPHABET, CONTEXT, WIDTH, draw_vectors, tiny_llama, tiny_tokenizer
from manners.models.trunk import TrainLayers, Trunk

__all__ = ["ALPHABET", "CONTEXT", "KINDS", "WIDTH", "save_tiny", "shake", "tiny_model", "tiny_tokenizer", "tiny_trunk"]

torch.set_num_threads(1)  # matrices this small only wait for a second thread

KINDS = ("llama", "qwen3", "gemma", "gpt2", "gpt_neox")


def tiny_model(
    kind: str = "llama", layers: int = 3, seed: int = 0, vocabulary: int | None = None, context: int = CONTEXT
) -> Any:
    """A causal language model of one of KINDS, 16 wide.

    Norms and biases are drawn as well: at 1 and 0 they would hide that one was left out.
    """
    size = vocabulary or _vocabulary()
    if kind == "llama":
        return tiny_llama(size, layers=layers, seed=seed, context=context)
    common: dict[str, Any] = {"vocab_size": size, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": None}
    wide = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": layers, "num_attention_heads": 2,
            "max_position_embeddings": context, "initializer_range": 0.3}  # fmt: skip
    grouped = {"num_key_value_heads": 1, "head_dim": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any
        match kind:
            case "qwen3":
                model = Qwen3ForCausalLM(Qwen3Config(**common, **wide, **grouped, tie_word_embeddings=True))
            case "gemma":
                model = GemmaForCausalLM(GemmaConfig(**common, **wide, **grouped))
            case "gpt_neox":
                model = GPTNeoXForCausalLM(GPTNeoXConfig(**common, **wide))
            case "gpt2":
                model = GPT2LMHeadModel(
                    GPT2Config(
                        **common, n_embd=WIDTH, n_layer=layers, n_head=2, n_positions=context, initializer_range=0.3
                    )
                )
            case _:
                raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
        draw_vectors(model)
    return model.eval()


def tiny_trunk(kind: str = "llama", train_layers: TrainLayers = "all", seed: int = 0, layers: int = 3) -> Trunk:
    """A trunk on `tiny_model` with the tiny tokenizer."""
    return Trunk(tiny_model(kind, layers, seed), tiny_tokenizer(), train_layers, name=f"tiny-{kind}")


def save_tiny(folder: Path, kind: str = "llama", seed: int = 0, layers: int = 3) -> Path:
    """Write `tiny_model` and the tiny tokenizer to `folder` as a Hugging Face checkpoint."""
    tiny_model(kind, layers, seed).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def shake(trunk: Trunk, name: str, seed: int = 0, std: float = 0.3) -> None:
    """Draw both halves of the adapter `name`, so that it changes what the trunk says."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trunk.adapters.parameters(name):
            parameter.copy_(std * torch.randn(parameter.shape, generator=generator))


@functools.cache
def _vocabulary() -> int:
    return len(tiny_tokenizer())
