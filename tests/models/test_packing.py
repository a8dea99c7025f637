from __future__ import annotations

import torch
from torch import Tensor
from trunks import close, every_trunk, plain_hidden, with_adapter

from manners.batches import TokenBatch, pad_rows
from manners.models.packing import Packed, pack_rows, share_prompts
from manners.models.trunk import TrainLayers

PROMPTS = [[7, 8, 9, 10], [30, 31]]
RESPONSES = [[[11, 12, 13], [14], [11, 15, 16, 17, 18]], [[40, 41], [42, 43, 44]]]


def packed() -> Packed:
    return pack_rows(list(zip(PROMPTS, RESPONSES, strict=True)))


def test_a_packed_row_by_hand() -> None:
    got = pack_rows([([7, 8], [[9], [10, 11]]), ([5], [[6]])])
    assert got.tokens.tolist() == [[7, 8, 9, 10, 11], [5, 6, 0, 0, 0]]
    assert got.positions.tolist() == [[0, 1, 2, 2, 3], [0, 1, 0, 0, 0]]
    assert got.segments.tolist() == [[0, 0, 1, 2, 2], [0, 1, -1, -1, -1]]
    assert got.ends.tolist() == [[2, 4], [1, -1]]
    first, second = got.attention[:, 0].int().tolist()
    assert first == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 0, 1, 0], [1, 1, 0, 1, 1]]
    assert second[:2] == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0]]
    assert all(any(row) for row in second)  # softmax over nothing would be NaN


@every_trunk
def test_packed_rows_equal_separate_rows(kind: str, train_layers: TrainLayers) -> None:
    trunk, rows = with_adapter(kind, train_layers), packed()
    for adapter in (None, "policy"):
        with trunk.adapters.using(adapter), torch.no_grad():
            states = trunk.states(rows)
            together = trunk.hidden(states, rows)
            for row, prompt in enumerate(PROMPTS):
                for k, response in enumerate(RESPONSES[row]):
                    tokens = torch.tensor([[*prompt, *response]])
                    alone_states = trunk.states(tokens)
                    alone = trunk.hidden(alone_states)[0]
                    end = int(rows.ends[row, k])
                    own = [*range(len(prompt)), *range(end - len(response) + 1, end + 1)]
                    close(states[row, own], alone_states[0])
                    close(together[row, own], alone)
                    if adapter is None:
                        close(together[row, own], plain_hidden(kind, tokens)[0])


@every_trunk
def test_padding_of_packed_rows_changes_nothing(kind: str, train_layers: TrainLayers) -> None:
    trunk, rows = with_adapter(kind, train_layers), packed()
    padding = rows.segments < 0
    assert padding.any()
    spoilt = Packed(
        rows.tokens.masked_fill(padding, 77), rows.positions.masked_fill(padding, 5), rows.segments, rows.ends
    )
    with trunk.adapters.using("policy"), torch.no_grad():
        clean, other = (trunk.hidden(trunk.states(r), r) for r in (rows, spoilt))
    assert torch.equal(clean[~padding], other[~padding])
    assert clean.isfinite().all()


def test_an_empty_response_does_not_end_in_another_one() -> None:
    assert pack_rows([([7, 8], [[9], [], [10]])]).ends.tolist() in ([[2, 1, 3]], [[2, -1, 3]])


def test_one_response_does_not_see_another() -> None:
    trunk = with_adapter("llama", 2)
    changed = [[[11, 12, 13], [99], [11, 15, 16, 17, 18]], RESPONSES[1]]
    with trunk.adapters.using("policy"), torch.no_grad():
        before, after = (
            trunk.hidden(trunk.states(rows), rows)[0]
            for rows in (packed(), pack_rows(list(zip(PROMPTS, changed, strict=True))))
        )
    moved = (before - after).abs().amax(-1) > 0
    assert moved.nonzero()[:, 0].tolist() == [7]  # behind a prompt of 4 and a response of 3


# --- batches whose rows have prompts in common ----------------------------------------------------------------------


def batch_of(*rows: tuple[list[int], list[int]]) -> TokenBatch:
    """Padded with 77, which would show if it were taken for a token."""
    tokens = pad_rows([torch.tensor(prompt + response) for prompt, response in rows], 77)
    return TokenBatch(
        tokens, torch.tensor([len(prompt) for prompt, _ in rows]), torch.tensor([len(p) + len(r) for p, r in rows])
    )


A, B = [7, 8, 9, 10], [7, 8]
ROWS = [(A, [11, 12, 13]), (B, [9, 10]), (A, [14]), ([5], [6, 6]), (A, [11, 15, 16, 17, 18]), (B, [])]


def test_shared_prompts_by_hand() -> None:
    shared = share_prompts(batch_of(([7, 8], [9]), ([5], [6, 6]), ([7, 8], [10, 11])))
    assert shared is not None
    assert shared.packed.tokens.tolist() == [[7, 8, 9, 10, 11], [5, 6, 6, 0, 0]]
    assert shared.groups.tolist() == [0, 1, 0]
    assert shared.places.tolist() == [[0, 1, 2, 0], [0, 1, 2, 0], [0, 1, 3, 4]]
    assert shared.rows.tolist() == [[0, 0, 0, 2, 2], [1, 1, 1, 0, 0]]
    assert shared.columns.tolist() == [[0, 1, 2, 2, 3], [0, 1, 2, 0, 0]]


def test_nothing_is_shared_where_one_prompt_only_begins_like_another() -> None:
    assert share_prompts(batch_of((A, [11]), (B, [9, 10]))) is None


def test_every_token_is_found_again_where_it_was_packed() -> None:
    batch = batch_of(*ROWS)
    shared = share_prompts(batch)
    assert shared is not None
    assert len(shared.packed.tokens) == 3
    packed = shared.packed.tokens[shared.groups[:, None], shared.places]
    assert packed[batch.mask].equal(batch.tokens[batch.mask])
    real = shared.packed.segments >= 0
    assert batch.tokens[shared.rows, shared.columns][real].equal(shared.packed.tokens[real])


@every_trunk
def test_predictions_and_gradients_are_those_of_rows_that_stand_alone(kind: str, train_layers: TrainLayers) -> None:
    trunk, batch = with_adapter(kind, train_layers), batch_of(*ROWS)
    weights = torch.randn(len(batch.tokens) * 9, generator=torch.Generator().manual_seed(0))

    def predict(*batches: TokenBatch) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        with trunk.adapters.using("policy"):
            found = [trunk.predict(part, trunk.states(part.tokens)) for part in batches]
        logps, hidden = torch.cat([f.logps for f in found]), torch.cat([f.hidden for f in found])
        loss = (weights[: len(logps)] * logps).sum() + hidden.sum()
        return logps, hidden, torch.autograd.grad(loss, trunk.adapters.parameters("policy"))

    logps, hidden, gradients = predict(batch)
    # an empty answer predicts nothing
    own_logps, own_hidden, wanted = predict(*(batch_of(row) for row in ROWS if row[1]))
    close(logps, own_logps)
    close(hidden, own_hidden)
    for one, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * float(other.abs().max()))
