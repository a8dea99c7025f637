"""A tiny decoder with random weights, and a tokenizer of single characters: PPO in seconds, without a download.

It says nothing that can be read. It is there to watch a run, to try a config, and to prove that a resumed run is the same run.
"""

from __future__ import annotations

import string
from typing import Any

import torch

END = "<|end|>"
ALPHABET = string.printable[:95] + "\n"  # letters, digits, punctuation, space; a token for each
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
WIDTH, CONTEXT = 16, 256


def tiny_tokenizer(alphabet: str = ALPHABET, *, template: str | None = TEMPLATE) -> Any:
    """One token for each character of `alphabet` and for each chat mark; decoding gives back the very same text.

    The end-of-turn token is `<|end|>` (id 0); there is no padding token.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    marks = [END, "<|system|>", "<|user|>", "<|assistant|>", "<|unknown|>"]
    vocabulary = {token: number for number, token in enumerate([*marks, *alphabet])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unknown|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, unk_token="<|unknown|>", additional_special_tokens=marks[1:4]
    )
    fast.chat_template = template
    return fast


def tiny_llama(vocabulary: int, *, layers: int = 3, seed: int = 0, context: int = CONTEXT) -> Any:
    """A Llama decoder, WIDTH wide. Its weights are large enough that a wrong layer shows; norms are drawn as well: at 1 they
    would hide that one was left out."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary, bos_token_id=None, eos_token_id=0, pad_token_id=None, hidden_size=WIDTH, intermediate_size=32,
        num_hidden_layers=layers, num_attention_heads=2, max_position_embeddings=context, initializer_range=0.3,
        num_key_value_heads=1, head_dim=8,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        draw_vectors(model)
    return model.eval()


@torch.no_grad()
def draw_vectors(model: torch.nn.Module) -> None:
    """Add noise to every parameter that is a vector: norms and biases begin at 1 and 0."""
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.add_(0.3 * torch.randn_like(parameter))
