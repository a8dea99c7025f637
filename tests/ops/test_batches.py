from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from torch import Tensor

from manners.batches import Rollouts, TokenBatch, pad_rows, split_by_tokens
from manners.records import Completion, Prompt

PROMPTS, LENGTHS = [2, 1, 4, 3, 1, 2], [5, 9, 6, 3, 4, 9]  # the fourth row has no response


def rollouts() -> Rollouts:
    """Six rows; every entry of every tensor names its row, and padding is a real-looking token."""
    count, width = len(LENGTHS), 9
    row = torch.arange(count)[:, None].expand(count, width)
    prompts = tuple(Prompt.of(f"question {i}") for i in range(count))
    return Rollouts(
        tokens=row * 100 + torch.arange(width),
        prompt_lengths=torch.tensor(PROMPTS),
        lengths=torch.tensor(LENGTHS),
        logps=-row.float(),
        finished=torch.tensor([i % 2 == 0 for i in range(count)]),
        states=row[..., None].expand(count, width, 3).float(),
        prompts=prompts,
        completions=tuple(Completion(p.id, f"answer {i}") for i, p in enumerate(prompts)),
        trunk=None,
    )


def test_masks_come_from_lengths_alone() -> None:
    batch = TokenBatch(torch.zeros(3, 5, dtype=torch.long), torch.tensor([2, 1, 3]), torch.tensor([5, 2, 3]))
    assert batch.mask.int().tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]
    assert batch.response_mask.int().tolist() == [[0, 0, 1, 1, 1], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert batch.response_lengths.tolist() == [3, 1, 0]
    assert batch.response_mask.sum(1).tolist() == batch.response_lengths.tolist()
    assert len(batch) == 3


def test_rows_takes_the_same_rows_of_every_field_and_trims_the_padding() -> None:
    whole = rollouts()
    part = whole.rows(torch.tensor([4, 0]))
    assert part.tokens.tolist() == [[400, 401, 402, 403, 404], [0, 1, 2, 3, 4]]
    assert part.lengths.tolist() == [4, 5]
    assert part.prompt_lengths.tolist() == [1, 2]
    assert part.finished.tolist() == [True, True]
    assert part.logps.tolist() == [[-4.0] * 5, [0.0] * 5]
    assert part.states.shape == (2, 5, 3)
    assert part.states[:, 0, 0].tolist() == [4, 0]
    assert part.prompts == (whole.prompts[4], whole.prompts[0])
    assert part.completions == (whole.completions[4], whole.completions[0])
    assert isinstance(part, Rollouts)
    assert whole.tokens.shape == (6, 9)


def test_trimming_takes_padding_only() -> None:
    whole = rollouts()
    for index in ([0], [3, 4], [1, 2], [5]):
        part = whole.rows(torch.tensor(index))
        assert part.tokens[part.mask].tolist() == whole.tokens[index][whole.mask[index]].tolist()
        assert part.tokens[part.response_mask].tolist() == whole.tokens[index][whole.response_mask[index]].tolist()
        assert part.tokens.shape[1] == max(LENGTHS[i] for i in index)


def test_states_of_no_width_stay_of_no_width() -> None:
    whole = rollouts()
    bare = Rollouts(**{f.name: getattr(whole, f.name) for f in fields(whole)} | {"states": torch.zeros(6, 9, 0)})
    assert bare.rows(torch.tensor([0, 4])).states.shape == (2, 5, 0)


@pytest.mark.parametrize("limit", [1, 9, 12, 20, 1000])
def test_micro_batches_keep_every_row_once(limit: int) -> None:
    whole = rollouts()
    parts = list(whole.micro_batches(limit))
    assert sorted(i for index, _ in parts for i in index.tolist()) == list(range(6))
    for index, part in parts:
        assert part.tokens[:, 0].tolist() == (100 * index).tolist()
        assert part.tokens.numel() <= limit or len(part) == 1
    if limit == 1000:
        assert len(parts) == 1
    if limit == 1:
        assert len(parts) == 6


@pytest.mark.parametrize("seed", range(5))
def test_split_by_tokens_bounds_every_rectangle_and_wastes_no_group(seed: int) -> None:
    lengths = torch.randint(1, 60, (100,), generator=torch.Generator().manual_seed(seed))
    limit = 128
    groups = split_by_tokens(lengths, limit)
    assert sorted(torch.cat(groups).tolist()) == list(range(100))
    sizes = [(len(group), int(lengths[group].max())) for group in groups]
    assert all(count * longest <= limit for count, longest in sizes)
    # longest first, and another row would not have fitted into any group but the last
    assert [longest for _, longest in sizes] == sorted((longest for _, longest in sizes), reverse=True)
    assert all((count + 1) * longest > limit for count, longest in sizes[:-1])


def test_split_by_tokens_by_hand() -> None:
    def groups(lengths: list[int], limit: int) -> list[list[int]]:
        return [group.tolist() for group in split_by_tokens(torch.tensor(lengths), limit)]

    assert groups([3, 7, 2, 7], 14) == [[1, 3], [0, 2]]
    assert groups([3, 70, 2], 8) == [[1], [0, 2]]  # too long for the limit: alone
    assert groups([4, 4, 4], 8) == [[0, 1], [2]]
    assert groups([], 8) == []


def test_pad_rows() -> None:
    assert pad_rows([torch.tensor([1, 2, 3]), torch.tensor([4])], 9).tolist() == [[1, 2, 3], [4, 9, 9]]
    deep: Tensor = pad_rows([torch.ones(1, 2), torch.ones(3, 2)])
    assert deep.shape == (2, 3, 2)
    assert deep.sum(-1).tolist() == [[2, 0, 0], [2, 2, 2]]
