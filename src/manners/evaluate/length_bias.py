"""Does a judge like length? How right it is where length helps and where it misleads, and how score and length go together.

Lengths are in words, what stands between white space, since not every judge has a tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from manners.evaluate.by_prompt import estimate, mean_of, numbered
from manners.evaluate.scores import Scored


def words(text: str) -> int:
    return len(text.split())


def length_bias(scored: Sequence[Scored], right: Tensor, clusters: Tensor) -> dict[str, Any]:
    """Length bias on pairs: `right` [N] is 1 where the chosen answer scored higher, `clusters` [N] numbers the prompts.

    wrong_for_the_longer: of the pairs it gets wrong, the share whose wrong answer is the longer one. correlation: Pearson's of
    score and length among the answers to one prompt, over all prompts. Pairs of equal length are left out of all but it.
    """
    difference = torch.tensor([words(s.preference.chosen[0]) - words(s.preference.rejected[0]) for s in scored])
    longer, shorter = difference > 0, difference < 0
    unequal, wrong = longer | shorter, right < 0.5
    likes_longer = torch.where(longer, right, 1 - right)
    return {
        "accuracy_chosen_longer": mean_of(right, clusters, longer),
        "accuracy_chosen_shorter": mean_of(right, clusters, shorter),
        "wrong_for_the_longer": mean_of(shorter.double(), clusters, wrong & unequal),
        "prefers_longer": mean_of(likes_longer, clusters, unequal),
        "people_prefer_longer": mean_of(longer.double(), clusters, unequal),
        "correlation": _correlation(scored),
    }


def _correlation(scored: Sequence[Scored]) -> dict[str, Any]:
    answers: dict[tuple[str, str], tuple[float, float]] = {}
    for one in scored:
        texts, scores = (*one.preference.chosen, *one.preference.rejected), torch.cat([one.chosen, one.rejected])
        for text, score in zip(texts, scores.tolist(), strict=True):
            answers[one.preference.prompt.id, text] = (float(words(text)), score)
    clusters = numbered(prompt for prompt, _ in answers)
    length, score = (
        _centred(torch.tensor(column).double(), clusters) for column in zip(*answers.values(), strict=True)
    )
    products = torch.stack([length * score, length.square(), score.square()], 1)

    def correlation(weights: Tensor) -> Tensor:
        both, one, other = (weights @ products).T
        return both / (one * other).sqrt()

    return estimate(correlation, clusters)


def _centred(values: Tensor, clusters: Tensor) -> Tensor:
    """`values` [N] less their mean within each of `clusters` [N], numbered from 0."""
    count = int(clusters.max()) + 1
    sums = torch.zeros(count, dtype=torch.double).index_add_(0, clusters, values)
    return values - (sums / clusters.bincount(minlength=count))[clusters]
