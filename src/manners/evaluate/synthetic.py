"""A made-up world in which the true reward is known: prompts of a few letters, decoders with random weights, and a gold reward.

Everything is drawn from seeds, so that the same settings give the same world.
"""

from __future__ import annotations

import math
import string
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manners.batches import Rollouts
from manners.models.tiny import tiny_tokenizer
from manners.models.trunk import Trunk
from manners.records import Prompt

ALPHABET = string.ascii_lowercase + " "
PROMPT_LETTERS = 4
CONTEXT = 64
MICRO_TOKENS = 65_536


def draw_prompts(count: int, seed: int) -> list[Prompt]:
    """Prompts of four random letters."""
    generator = torch.Generator().manual_seed(seed)
    letters = torch.randint(len(string.ascii_lowercase), (count, PROMPT_LETTERS), generator=generator)
    return [Prompt.of("".join(ALPHABET[i] for i in row)) for row in letters.tolist()]


def random_decoder(width: int, seed: int, *, layers: int = 2) -> Any:
    """A Llama decoder with random weights, `width` (a multiple of 8) wide, for the tokens of `tiny_tokenizer(ALPHABET)`.

    Embeddings are large (deviation 1) beside what the layers add (weights of deviation 0.1): which token it is reaches the top,
    so that a reward model has something to learn from. The output head's deviation √2/√width gives logits of deviation √2,
    that is an entropy of some 2.6 of the log 32 = 3.5 nats there could be.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    size = len(tiny_tokenizer(ALPHABET))
    config = LlamaConfig(
        vocab_size=size, bos_token_id=None, eos_token_id=0, pad_token_id=None, hidden_size=width, intermediate_size=2 * width,
        num_hidden_layers=layers, num_attention_heads=width // 8, num_key_value_heads=width // 8, head_dim=8,
        max_position_embeddings=CONTEXT, initializer_range=0.1, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        model.get_input_embeddings().weight.normal_()
        model.get_output_embeddings().weight.normal_(std=math.sqrt(2 / width))
    return model.eval()


def save_decoder(folder: Path, width: int, seed: int) -> Path:
    """Write `random_decoder` with its tokenizer into `folder` as a Hugging Face checkpoint; gives the folder."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    random_decoder(width, seed).save_pretrained(folder)
    tiny_tokenizer(ALPHABET).save_pretrained(folder)
    return folder


class GoldReward:
    """The true reward of this world: more of one quality is better, as long as the answer is not spoilt by the others.

    Qualities of an answer are random directions in what a random decoder, on average over the answer's tokens, makes of prompt and
    answer. Over the `reference` answers they have mean 0 and deviation 1 and do not correlate. One of them, a random direction
    among them too, is liked; the others are neutral, but the further out an answer lies in them, the less it counts:
    liked·exp(−½·(distance in the neutral ones/reach)²), which is near that of the average answer where they are far out.
    Scores have mean 0 and deviation 1 over the reference answers as well.
    """

    def __init__(self, seed: int, reference: Rollouts, *, qualities: int, reach: float, width: int = 32) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.trunk = Trunk(random_decoder(width, seed), tiny_tokenizer(ALPHABET), name="gold")
        self.directions = torch.randn(width, qualities, generator=generator)
        self.centre = torch.zeros(qualities)
        self.liked = torch.nn.functional.normalize(torch.randn(qualities, generator=generator), dim=0)
        self.reach = reach
        self.mean, self.std = 0.0, 1.0
        self._settle(reference)

    def score(self, rollouts: Rollouts) -> Tensor:
        """Scores [B]."""
        return self.reward(self.qualities(rollouts))

    @torch.no_grad()
    def qualities(self, rollouts: Rollouts) -> Tensor:
        """Qualities [B, Q] of the answers, deviations of the reference."""
        found = torch.zeros(len(rollouts), len(self.centre))
        for index, part in rollouts.micro_batches(MICRO_TOKENS):
            hidden = self.trunk.hidden(self.trunk.states(part))
            mask = part.response_mask.to(hidden.dtype)
            found[index] = (mask[:, None] @ hidden)[:, 0] / mask.sum(-1, keepdim=True) @ self.directions
        return found - self.centre

    def reward(self, qualities: Tensor) -> Tensor:
        """Scores [B] of answers with qualities [B, Q]."""
        liked = qualities @ self.liked
        neutral = (qualities.square().sum(-1) - liked.square()).clamp(min=0)
        return (liked * torch.exp(-0.5 * neutral / self.reach**2) - self.mean) / self.std

    def _settle(self, reference: Rollouts) -> None:
        """Take the units of the qualities, and of the scores, from the reference answers."""
        found = self.qualities(reference).double()
        whitening = torch.linalg.inv(torch.linalg.cholesky(torch.cov(found.T))).T.float()
        self.directions = self.directions @ whitening
        self.centre = found.mean(0).float() @ whitening
        scores = self.score(reference)
        self.mean, self.std = float(scores.mean()), float(scores.std())
