from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from manners.errors import MannersError
from manners.feedback.pairs import split_of
from manners.feedback.thumbs import Thumb, read_thumbs, split_thumbs
from manners.records import Completion, Message, Prompt


def written(folder: Path, *rows: Any) -> Path:
    path = folder / "thumbs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_texts_and_messages_are_both_read(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hello"}]
    path = written(
        tmp_path,
        {"prompt": "hello", "completion": "hi", "label": True},
        {"prompt": turns, "completion": [{"role": "assistant", "content": "go"}], "label": False},
    )
    plain, whole = Prompt.of("hello"), Prompt((Message("system", "Be kind."), Message("user", "hello")))
    assert read_thumbs(path) == [
        Thumb(plain, Completion(plain.id, "hi"), True), Thumb(whole, Completion(whole.id, "go"), False)
    ]  # fmt: skip


def test_ratings_above_the_threshold_are_up(tmp_path: Path) -> None:
    path = written(tmp_path, *({"prompt": "hello", "completion": str(r), "rating": r} for r in (1, 3, 3.5, 5)))
    assert [thumb.up for thumb in read_thumbs(path, threshold=3)] == [False, False, True, True]
    with pytest.raises(MannersError, match=r"row 1 .*need a threshold"):
        read_thumbs(path)


@pytest.mark.parametrize(
    "row",
    [
        {"completion": "hi", "label": True},
        {"prompt": "hello", "label": True},
        {"prompt": "hello", "completion": "hi"},
        {"prompt": "hello", "completion": "hi", "label": "yes"},
        {"prompt": "hello", "completion": 3, "label": True},
        {"prompt": "hello", "completion": [], "label": True},
        {"prompt": [{"role": "nobody", "content": "hello"}], "completion": "hi", "label": True},
        {"prompt": "hello", "completion": "hi", "rating": "five"},
        {"prompt": "hello", "completion": "hi", "rating": True},
    ],
)
def test_a_row_that_is_no_thumb_is_named(tmp_path: Path, row: dict[str, Any]) -> None:
    good = {"prompt": "hello", "completion": "hi", "label": True}
    with pytest.raises(MannersError, match=r"row 2 of .*thumbs\.jsonl is no thumb"):
        read_thumbs(written(tmp_path, good, row), threshold=3)


def test_an_empty_or_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MannersError, match="no thumbs"):
        read_thumbs(written(tmp_path))
    with pytest.raises(MannersError):
        read_thumbs(tmp_path / "nowhere.jsonl")


def test_thumbs_are_split_by_prompt_as_everything_is() -> None:
    prompts = [Prompt.of(f"hello {i}") for i in range(200)]
    thumbs = [Thumb(p, Completion(p.id, text), text == "hi") for p in prompts for text in ("hi", "go")]
    training, held = split_thumbs(thumbs, seed=0)
    assert not {t.prompt.id for t in training} & {t.prompt.id for t in held}
    assert len(training) + len(held) == 400
    assert {t.prompt.id for t in held} == {p.id for p in prompts if split_of(p, 0, 0.1, 0) == "validation"}
    own = [Thumb(Prompt.of("asked last", split="test"), Completion("", "hi"), True)]
    assert split_thumbs(own, seed=0) == ([], [])
