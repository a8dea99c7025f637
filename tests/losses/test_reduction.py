from __future__ import annotations

import pytest
import torch

from manners.losses.reduction import Shares, constant_length, sequence_mean, token_mean

LENGTHS = torch.tensor([1, 4, 3])


def shares(found: Shares) -> list[float]:
    """By how much one token of each row counts."""
    return (found.weights / found.denominator).tolist()


def test_shares_by_hand() -> None:
    assert shares(token_mean(LENGTHS)) == pytest.approx([1 / 8] * 3)
    assert shares(sequence_mean(LENGTHS)) == pytest.approx([1 / 3, 1 / 12, 1 / 9])
    assert shares(constant_length(LENGTHS, max_tokens=5)) == pytest.approx([1 / 15] * 3)


@pytest.mark.parametrize("reduction", [token_mean, sequence_mean])
def test_a_loss_of_one_everywhere_is_one(reduction: type) -> None:
    found = reduction(LENGTHS)
    assert float((found.weights * LENGTHS).sum() / found.denominator) == pytest.approx(1)


def test_with_full_length_everywhere_all_three_are_the_same() -> None:
    full = torch.full((4,), 6)
    expected = [1 / 24] * 4
    for found in (token_mean(full), sequence_mean(full), constant_length(full, max_tokens=6)):
        assert shares(found) == pytest.approx(expected)


def test_a_longer_answer_makes_its_tokens_cheaper_only_where_each_answer_is_its_own_mean() -> None:
    longer = torch.tensor([1, 8, 3])
    assert shares(sequence_mean(longer))[1] == pytest.approx(shares(sequence_mean(LENGTHS))[1] / 2)
    assert shares(constant_length(longer, max_tokens=9)) == shares(constant_length(LENGTHS, max_tokens=9))
    a, b = shares(token_mean(longer)), shares(token_mean(LENGTHS))
    assert a[0] / b[0] == pytest.approx(a[1] / b[1])


def test_an_empty_answer_has_no_infinite_weight() -> None:
    assert sequence_mean(torch.tensor([0, 2])).weights.isfinite().all()
