"""Log-probabilities of continuations against the plain model, one sequence at a time."""

from __future__ import annotations

import torch
from tests.tiny import tiny_trunk

from manners.models.likelihood import continuation_logprobs


def _plainly(trunk: object, context: list[int], continuation: list[int]) -> float:
    """By the whole model, from logits over the whole vocabulary."""
    ids = torch.tensor([context + continuation])
    with torch.no_grad():
        logps = trunk.model(ids).logits.log_softmax(-1)[0]  # type: ignore[attr-defined]
    return sum(float(logps[len(context) + i - 1, token]) for i, token in enumerate(continuation))


def test_each_continuation_is_as_likely_as_the_whole_model_finds_it_alone() -> None:
    trunk = tiny_trunk(train_layers=2)
    rows = [([5, 6, 7], [[8], [9, 10], [11, 12, 13]]), ([4], [[3, 2], [6]]), ([9] * 12, [[1], [2], [3], [4]])]
    found = continuation_logprobs(trunk, None, rows)
    assert [len(f) for f in found] == [3, 2, 4]
    for (context, continuations), logps in zip(rows, found, strict=True):
        expected = torch.tensor([_plainly(trunk, context, c) for c in continuations])
        torch.testing.assert_close(logps, expected, atol=1e-5, rtol=1e-5)


def test_how_rows_are_batched_changes_nothing() -> None:
    trunk = tiny_trunk(train_layers=2)
    rows = [([5 + i % 3] * (1 + i), [[8, 9], [7]]) for i in range(7)]
    whole, alone = (continuation_logprobs(trunk, None, rows, max_tokens=n) for n in (10_000, 1))
    for one, other in zip(whole, alone, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_no_rows_give_nothing() -> None:
    assert continuation_logprobs(tiny_trunk(), None, []) == []
