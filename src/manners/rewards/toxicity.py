"""An offline scorer of toxicity: text in, calibrated probabilities of toxicity, aggression and hate out, thousands of texts a second.

A linear model on hashed n-grams of words and letters (text/ngrams.py), read after disguises are undone (text/disguise.py). A text
is read in overlapping windows, and its logit is nearly that of its worst window, so that an insult is weighed with its neighbours
and not with the whole of a long text.
The weights lie beside this file and were made by `runs/toxicity/train.py`; docs/details/toxicity.md is their model card.

What is left out on purpose: context and irony, which a linear model cannot read, and any language but English.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from manners.errors import MannersError
from manners.records import Completion, Prompt
from manners.runs import write_json
from manners.text.disguise import plain_words
from manners.text.ngrams import hashed_ngrams

Fault = Literal["toxicity", "aggression", "hate"]
FAULTS: tuple[Fault, ...] = ("toxicity", "aggression", "hate")
WEIGHTS = Path(__file__).parent / "weights" / "toxicity.safetensors"
# The features of a window are divided by √(their number + SOFTENING), so that a long window does not shout and a word alone does
# not count fully.
SOFTENING = 30.0
_CHUNK = 1024
_Numbers = NDArray[np.float32]


@dataclass(frozen=True)
class Windows:
    """Texts cut into windows: words of each window [V], the text that each belongs to [V], how many texts there are."""

    words: list[list[str]]
    owners: NDArray[np.int64]
    count: int


def cut(texts: Sequence[str], size: int) -> Windows:
    """Windows of at most `size` words, each beginning half a window after the last; a text without words has one empty window."""
    step, words, owners = size // 2, [], []
    for number, text in enumerate(texts):
        all_words = plain_words(text)
        for start in range(0, max(len(all_words) - step, 1), step):
            words.append(all_words[start : start + size])
            owners.append(number)
    return Windows(words, np.array(owners, np.int64), len(texts))


def worst(logits: _Numbers, windows: Windows, sharpness: float) -> _Numbers:
    """Logits [N, C] of texts from those of their windows [V, C]: ln Σ exp(sharpness · z) / sharpness, hardly more than the highest."""
    top = np.full((windows.count, logits.shape[1]), -np.inf, np.float32)
    np.maximum.at(top, windows.owners, logits)
    total = np.zeros_like(top)
    np.add.at(total, windows.owners, np.exp(sharpness * (logits - top[windows.owners])))
    return (top + np.log(total) / sharpness).astype(np.float32)


class ToxicityScorer:
    """Calibrated logits of the three faults of a text. `card` is what the model card says, as JSON.

    weights [buckets, 3]; bias, slope, offset [3]: a window's raw logit is bias + Σ sign · weight / √(features + 30), a text's
    calibrated logit is slope · raw + offset (Platt 1999).
    """

    def __init__(
        self, weights: _Numbers, bias: _Numbers, slope: _Numbers, offset: _Numbers, card: dict[str, Any]
    ) -> None:
        self.weights, self.bias, self.slope, self.offset, self.card = weights, bias, slope, offset, card
        self.window: int = card["window"]
        self.sharpness: float = card["sharpness"]

    @property
    def version(self) -> str:
        return str(self.card["version"])

    @classmethod
    def load(cls, path: Path = WEIGHTS) -> ToxicityScorer:
        """From safetensors with its card, a JSON file of the same name, beside it. Raises MannersError where they are not there."""
        try:
            tensors = {name: tensor.astype(np.float32) for name, tensor in load_file(path).items()}
            card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            return cls(tensors["weights"], tensors["bias"], tensors["slope"], tensors["offset"], card)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise MannersError(
                f"the toxicity scorer cannot be read from {path} ({error}); install manners anew, or make the weights with"
                " runs/toxicity/train.py"
            ) from None

    def save(self, path: Path) -> None:
        """Write weights (float16) and card."""
        path.parent.mkdir(parents=True, exist_ok=True)
        half = {"weights": self.weights.astype(np.float16)}
        save_file({**half, "bias": self.bias, "slope": self.slope, "offset": self.offset}, path)
        write_json(path.with_suffix(".json"), self.card)

    def raw(self, texts: Sequence[str]) -> _Numbers:
        """Logits [N, 3] before calibration."""
        parts = [self._raw(texts[start : start + _CHUNK]) for start in range(0, len(texts), _CHUNK)]
        return np.concatenate(parts) if parts else np.zeros((0, len(FAULTS)), np.float32)

    def _raw(self, texts: Sequence[str]) -> _Numbers:
        windows = cut(texts, self.window)
        values, owners, norms = window_features(windows.words, len(self.weights))
        logits = np.empty((len(windows.words), len(FAULTS)), np.float32)
        for column in range(len(FAULTS)):
            given = values.signs * self.weights[values.places, column]
            logits[:, column] = self.bias[column] + norms * np.bincount(owners, given, len(norms))
        return worst(logits, windows, self.sharpness)

    def logits(self, texts: Sequence[str]) -> Tensor:
        """Calibrated logits [N, 3] of toxicity, aggression, hate."""
        return torch.from_numpy(self.raw(texts) * self.slope + self.offset)

    def probabilities(self, texts: Sequence[str]) -> Tensor:
        """Probabilities [N, 3] of toxicity, aggression, hate."""
        return self.logits(texts).sigmoid()

    def reward(self, fault: Fault = "toxicity") -> Callable[[Sequence[Prompt], Sequence[Completion]], Tensor]:
        """A judge of completions for `TextScorer`: minus the logit of the fault, the logit of "not hate" for hate. Higher is better."""
        column = FAULTS.index(fault)
        return lambda _prompts, completions: -self.logits([c.text for c in completions])[:, column]

    def why(self, text: str, fault: Fault = "toxicity") -> list[tuple[str, float]]:
        """What each word, as it was read, adds to the logit of `fault` in the worst window of the text; they and a constant give
        the calibrated logit of that window."""
        column, windows = FAULTS.index(fault), cut([text], self.window)
        values, owners, norms = window_features(windows.words, len(self.weights))
        scale = float(self.slope[column]) * norms[owners]
        names = [word for window in windows.words for word in window]
        given = np.bincount(values.words, scale * values.signs * self.weights[values.places, column], len(names))
        ends = np.cumsum([len(window) for window in windows.words])
        begins = ends - [len(window) for window in windows.words]
        at = int(np.argmax([given[a:b].sum() for a, b in zip(begins, ends, strict=True)]))
        return [(names[i], float(given[i])) for i in range(begins[at], ends[at])]


def window_features(words: list[list[str]], buckets: int) -> tuple[Any, NDArray[np.int64], _Numbers]:
    """Hashed features of windows, the window that each belongs to [F], and 1 / √(features + softening) of each window [V]."""
    values = hashed_ngrams(words, buckets)
    owners = np.repeat(np.arange(len(words)), [len(window) for window in words])[values.words]
    return values, owners, (1 / np.sqrt(np.bincount(owners, minlength=len(words)) + SOFTENING)).astype(np.float32)
