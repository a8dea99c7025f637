"""The counted floor: operations that must be done for a row, and so the seconds that nothing can beat at the rate of this machine.

A product of an [m, k] by a [k, n] matrix is 2·m·k·n operations. Counted are the linear layers, attention, and the head where its output
is needed; gradients with respect to states (once the forward) where something trainable lies below, and nothing for frozen weights.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from manners.ops.products import times

GIGA = 1e9


@dataclass(frozen=True)
class Shape:
    """What counts of a model: its layers, and the operations per token of one layer and of the head."""

    layers: int
    layer: float
    head: float

    @classmethod
    def of(cls, config: dict[str, int], context: int) -> Shape:
        """From a Llama-like config.json; attention at half of `context` positions on average."""
        width, inner = config["hidden_size"], config["intermediate_size"]
        size = width // config["num_attention_heads"]
        heads, groups = config["num_attention_heads"] * size, config["num_key_value_heads"] * size
        linear = width * (2 * heads + 2 * groups + 3 * inner)
        return cls(config["num_hidden_layers"], 2 * (linear + context * heads), 2 * width * config["vocab_size"])


def rate(repeats: int = 30) -> float:
    """Operations per second of an fp32 product of [1024, 576] by [576, 1536]: the best of `repeats` by torch's BLAS and by oneDNN, on all
    threads."""
    a, b = torch.randn(1024, 576), torch.randn(576, 1536)
    best = float("inf")
    for product in repeats * (torch.matmul, times):
        start = time.perf_counter()
        product(a, b)
        best = min(best, time.perf_counter() - start)
    return 2 * 1024 * 576 * 1536 / best


def generation(shape: Shape, prompt: int, response: int) -> float:
    """Operations to complete a prompt of `prompt` tokens with `response` tokens."""
    return (prompt + response) * shape.layers * shape.layer + response * shape.head


def update(shape: Shape, train_layers: int, tokens: int, response: int, epochs: int) -> float:
    """Operations to learn from a sequence in `epochs` passes over the layers with adapters: forward, and back to their inputs; the head
    forward and back on the response."""
    return epochs * (2 * tokens * train_layers * shape.layer + 2 * response * shape.head)


def on_policy(shape: Shape, train_layers: int, prompt: int, response: int, epochs: int, *, judge: bool) -> float:
    """Operations for one episode: answer, reference, a judge on the same base, and the epochs."""
    tokens = prompt + response
    reference = tokens * train_layers * shape.layer + response * shape.head
    score = tokens * train_layers * shape.layer if judge else 0.0
    return (
        generation(shape, prompt, response) + reference + score + update(shape, train_layers, tokens, response, epochs)
    )


def reward(shape: Shape, train_layers: int, prompt: int, answers: int, epochs: int) -> float:
    """Operations for one pair: below the branch once, prompt shared; above it forward and back in every epoch."""
    tokens = prompt + answers
    return tokens * (shape.layers - train_layers) * shape.layer + 2 * epochs * tokens * train_layers * shape.layer


def direct(shape: Shape, train_layers: int, prompt: int, answers: int) -> float:
    """Operations for one pair in one epoch: as `reward`, with the head on both answers, and the reference."""
    tokens = prompt + answers
    reference = tokens * train_layers * shape.layer + answers * shape.head
    return reward(shape, train_layers, prompt, answers, 1) + 2 * answers * shape.head + reference
