from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from trunks import close, with_adapter

from manners.batches import TokenBatch
from manners.models.lean import Product
from manners.models.packing import Packed, pack_rows
from manners.models.prefixes import Prefixes
from manners.models.trunk import TrainLayers

# 77 stands where there is no token, and would show if it were taken for one
ROWS = TokenBatch(
    torch.tensor([[1, 2, 3, 77], [1, 2, 4, 5], [9, 77, 77, 77], [1, 2, 3, 77]]),
    torch.tensor([2, 2, 1, 2]),
    torch.tensor([3, 4, 1, 3]),
)
PACKED = pack_rows([([1, 2], [[3], [], [4, 5]]), ([1, 2, 3], [[6], [6, 7]]), ([1], [[]])])


def test_right_padded_rows_by_hand() -> None:
    got = Prefixes.of(ROWS)
    assert got.numbers.tolist() == [[0, 1, 2, 0], [0, 1, 3, 4], [5, 0, 0, 0], [0, 1, 2, 0]]
    assert got.places.tolist() == [0, 1, 2, 6, 7, 8]
    assert got.paths.tolist() == got.numbers.tolist()
    assert got.seats.tolist() == [0, 1, 2, 6, 7, 8]


def test_packed_rows_by_hand() -> None:
    assert PACKED.tokens.tolist() == [[1, 2, 3, 4, 5, 0], [1, 2, 3, 6, 6, 7], [1, 0, 0, 0, 0, 0]]
    got = Prefixes.of(PACKED)
    # 0: 1, 1: 1 2, 2: 1 2 3, 3: 1 2 4, 4: 1 2 4 5, 5: 1 2 3 6, 6: 1 2 3 6 7
    assert got.paths.tolist() == [[0, 1, 2, 0, 0], [0, 1, 3, 4, 0], [0, 1, 2, 5, 0], [0, 1, 2, 5, 6], [0, 0, 0, 0, 0]]
    assert got.numbers.tolist() == [[0, 1, 2, 3, 4, 0], [0, 1, 2, 5, 5, 6], [0, 0, 0, 0, 0, 0]]
    assert got.places.tolist() == [0, 1, 2, 3, 4, 9, 11]
    assert got.seats.tolist() == [0, 1, 2, 7, 8, 13, 19]


def test_left_padded_rows_by_hand() -> None:
    got = Prefixes.of_left_padded(torch.tensor([[77, 1, 2], [1, 2, 3], [77, 77, 2]]), torch.tensor([1, 0, 2]))
    assert got.numbers.tolist() == [[0, 0, 1], [0, 1, 2], [0, 0, 3]]
    assert got.paths.tolist() == got.numbers.tolist()
    assert got.places.tolist() == [1, 2, 5, 8]
    assert got.seats.tolist() == [1, 2, 5, 8]


def test_the_same_tokens_behind_others_are_another_prefix() -> None:
    got = Prefixes.of(torch.tensor([[1, 2], [2, 2], [1, 2]]))
    assert got.numbers.tolist() == [[0, 1], [2, 3], [0, 1]]


@pytest.mark.parametrize("batch", [ROWS, PACKED], ids=["rows", "packed"])
def test_every_token_is_found_again(batch: TokenBatch | Packed) -> None:
    got = Prefixes.of(batch)
    real = batch.mask if isinstance(batch, TokenBatch) else batch.segments >= 0
    ends = batch.tokens.flatten()[got.places]
    assert torch.equal(ends[got.numbers][real], batch.tokens[real])
    assert torch.equal(got.paths.flatten()[got.seats], torch.arange(len(got.places)))


# --- on lean layers ---------------------------------------------------------------------------------------------------

BEGIN_ALIKE = TokenBatch(
    torch.tensor([[7, 8, 9, 10, 11, 12, 0], [7, 8, 9, 20, 0, 0, 0], [7, 8, 9, 10, 11, 13, 14], [30, 8, 9, 10, 11, 12, 0]]),
    torch.tensor([4, 3, 5, 2]),
    torch.tensor([6, 4, 7, 6]),
)  # fmt: skip
ALSO_PACKED = pack_rows([([7, 8, 9], [[10, 11], [20], [10, 12]]), ([7, 8], [[9, 10], [31]]), ([30], [[8, 9]])])


@pytest.mark.parametrize("train_layers", ["all", 1, 2])
@pytest.mark.parametrize("batch", [BEGIN_ALIKE, ALSO_PACKED], ids=["rows", "packed"])
def test_states_and_gradients_are_those_of_rows_that_stand_alone(
    train_layers: TrainLayers, batch: TokenBatch | Packed
) -> None:
    trunk = with_adapter("llama", train_layers)
    rows, columns = batch.response_mask.nonzero(as_tuple=True)
    weights = torch.randn(len(rows), trunk.width, generator=torch.Generator().manual_seed(0))

    def learned(hidden: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return hidden, torch.autograd.grad((weights * hidden).sum(), trunk.adapters.parameters("policy"))

    whole = batch if isinstance(batch, Packed) else batch.tokens
    with trunk.adapters.using("policy"):
        together, gradients = learned(trunk.hidden_at(batch, trunk.states(whole), rows, columns))
        alone, wanted = learned(torch.stack([_alone(trunk, batch, at) for at in zip(rows, columns, strict=True)]))
    close(together, alone)
    for one, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * float(other.abs().max()))


def _alone(trunk: Any, batch: TokenBatch | Packed, at: tuple[Tensor, Tensor]) -> Tensor:
    """The final state at one token of the batch, of nothing but what stands before it."""
    row, column = at
    before = torch.arange(int(column) + 1)
    if isinstance(batch, Packed):
        segments = batch.segments[row, before]
        before = before[(segments == 0) | (segments == segments[-1])]
    hidden: Tensor = trunk.hidden(trunk.states(batch.tokens[row, before][None]))[0, -1]
    return hidden


def test_products_see_each_prefix_once_and_the_last_layer_goes_on_with_what_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trunk = with_adapter("llama", 2)
    seen: list[int] = []
    plain = Product.__call__

    def counting(self: Product, x: Tensor, *more: Any, **named: Any) -> Tensor:
        seen.append(len(x))
        return plain(self, x, *more, **named)

    monkeypatch.setattr(Product, "__call__", counting)
    states = trunk.states(BEGIN_ALIKE.tokens)
    seen.clear()
    last = (torch.arange(4), BEGIN_ALIKE.lengths - 1)
    with torch.no_grad():
        trunk.hidden_at(BEGIN_ALIKE, states, *last)
    distinct = 6 + 1 + 2 + 6
    assert seen == [distinct] * 4 + [distinct, 4, 4, 4]
