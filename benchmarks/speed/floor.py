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
    """What counts of a model: its layers, and the operations per token of one layer, of the keys and values in it, and of the head."""

    layers: int
    layer: float
    keys: float
    head: float

    @classmethod
    def of(cls, config: dict[str, int], context: int) -> Shape:
        """From a Llama-like config.json; attention at half of `context` positions on average."""
        width, inner = config["hidden_size"], config["intermediate_size"]
        size = width // config["num_attention_heads"]
        heads, groups = config["num_attention_heads"] * size, config["num_key_value_heads"] * size
        linear = width * (2 * heads + 2 * groups + 3 * inner)
        return cls(
            config["num_hidden_layers"], 2 * (linear + context * heads), 4 * width * groups, 2 * width * config["vocab_size"]
        )  # fmt: skip

    def through(self, layers: int, tokens: float, read: float) -> float:
        """Operations to take `tokens` through the top `layers`, of which `read` are read: of the others the last layer needs keys and
        values."""
        return layers * tokens * self.layer - (tokens - read) * (self.layer - self.keys)


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


def generation(shape: Shape, prompt: float, response: float) -> float:
    """Operations to complete a prompt of `prompt` tokens with `response` tokens."""
    return shape.through(shape.layers, prompt + response, response) + response * shape.head


def update(shape: Shape, train_layers: int, tokens: float, response: float, epochs: int) -> float:
    """Operations to learn from a sequence in `epochs` passes over the layers with adapters: forward, and back to their inputs; the head
    forward and back on the response."""
    return 2 * epochs * (shape.through(train_layers, tokens, response) + response * shape.head)


def on_policy(shape: Shape, train_layers: int, prompt: float, response: float, epochs: int, *, judge: bool) -> float:
    """Operations for one episode: answer, reference, a judge on the same base that reads the last token, and the epochs."""
    tokens = prompt + response
    reference = shape.through(train_layers, tokens, response) + response * shape.head
    score = shape.through(train_layers, tokens, 1) if judge else 0.0
    return (
        generation(shape, prompt, response) + reference + score + update(shape, train_layers, tokens, response, epochs)
    )


def reward(shape: Shape, train_layers: int, prompt: float, answers: float, epochs: int) -> float:
    """Operations for one pair: below the branch once, prompt shared; above it forward and back in every epoch."""
    tokens = prompt + answers
    below = tokens * (shape.layers - train_layers) * shape.layer
    return below + 2 * epochs * shape.through(train_layers, tokens, answers)


def direct(shape: Shape, train_layers: int, prompt: float, answers: float) -> float:
    """Operations for one pair in one epoch: as `reward`, with the head on both answers, and the reference."""
    reference = shape.through(train_layers, prompt + answers, answers) + answers * shape.head
    return reward(shape, train_layers, prompt, answers, 1) + 2 * answers * shape.head + reference
