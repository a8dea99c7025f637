from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fakes import FakeSampler
from safetensors.torch import load_file

from manners.batches import PPOBatch, Rollouts
from manners.config import Config
from manners.errors import MannersError
from manners.learner.offending import keep_tensors, keep_texts, watching
from manners.records import Prompt
from manners.runs import Run, read_jsonl


class Toy(Config):
    """Settings of nothing."""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", "toy", Toy(), {})


def rollouts() -> Rollouts:
    return FakeSampler([], finished=False).sample(
        [Prompt.of("a"), Prompt.of("b\nc")], max_tokens=2, temperature=1, seed=0
    )


def batch() -> PPOBatch:
    """With states that are wide, and with tensors that are no copies of their own."""
    columns = torch.arange(8.0).reshape(2, 4)
    lengths = torch.tensor([4, 3])
    return PPOBatch(
        columns.long(), lengths - 2, lengths, torch.zeros(2, 4, 99), columns.T[:4].T, columns, columns, columns, columns
    )


def test_texts_are_kept_as_they_were(run: Run) -> None:
    path = keep_texts(run, 7, rollouts())
    assert path == run.path / "offending" / "step-000007.jsonl"
    assert read_jsonl(path) == [{"prompt": text, "completion": "very well", "finished": True} for text in ("a", "b\nc")]


def test_tensors_are_kept_without_the_states(run: Run) -> None:
    found = load_file(keep_tensors(run, 7, batch()))
    assert set(found) == {
        "tokens", "prompt_lengths", "lengths", "old_logps", "reference_logps", "advantages", "returns", "old_values"
    }  # fmt: skip
    assert found["old_logps"].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert found["lengths"].tolist() == [4, 3]


def fail(run: Run, error: BaseException, with_batch: bool = False) -> None:
    with watching(run, 3, rollouts(), batch() if with_batch else None):
        raise error


def test_an_error_goes_on_as_one_line_that_says_where_the_batch_is(run: Run) -> None:
    with pytest.raises(MannersError, match=r"^step 3: no; the batch is in .*step-000003\.jsonl$"):
        fail(run, MannersError("no"))
    with pytest.raises(MannersError, match=r"^step 3: ValueError: odd; the batch is in ") as caught:
        fail(run, ValueError("odd"))
    assert isinstance(caught.value.__cause__, ValueError)
    assert [p.name for p in (run.path / "offending").iterdir()] == ["step-000003.jsonl"]


def test_where_there_is_a_batch_its_tensors_are_kept_too(run: Run) -> None:
    with pytest.raises(MannersError):
        fail(run, MannersError("no"), with_batch=True)
    assert {p.suffix for p in (run.path / "offending").iterdir()} == {".jsonl", ".safetensors"}


def test_ctrl_c_is_no_error_and_a_block_that_ends_well_leaves_nothing(run: Run) -> None:
    with pytest.raises(KeyboardInterrupt):
        fail(run, KeyboardInterrupt())
    with watching(run, 3, rollouts()):
        pass
    assert not (run.path / "offending").exists()
