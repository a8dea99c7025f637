"""From weights back to prompts, through runs that were made from runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from manners.config import Config
from manners.errors import MannersError
from manners.evaluate.training_data import prompts_in_file, training_prompts
from manners.feedback.pairs import write_pairs
from manners.records import Completion, Pair, Prompt
from manners.runs import Run, file_hash


class Nothing(Config):
    prompts: str = ""


def pair(text: str) -> Pair:
    prompt = Prompt.of(text)
    return Pair(prompt, Completion(prompt.id, "yes"), Completion(prompt.id, "no"))


def pairs_in(folder: Path, *texts: str) -> dict[str, str]:
    write_pairs(folder, {"train": [pair(text) for text in texts], "test": [pair(f"test of {folder.name}")]})
    return {"path": f"../{folder.name}", "kind": "pairs", "hash": file_hash(folder / "manifest.json")}


def run_in(folder: Path, kind: str, made_from: dict[str, Any], **settings: str) -> dict[str, str]:
    Run.create(folder, kind, Nothing(**settings), made_from)
    return {"path": f"../{folder.name}", "kind": kind, "hash": "0"}


def texts_of(model: Path) -> set[str]:
    return {prompt.text for prompt in training_prompts(str(model)).prompts}


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """A policy on a fine-tuned model, with two judges, each trained on pairs of its own."""
    base = {"path": "starter", "kind": "model", "hash": ""}
    sft = run_in(tmp_path / "sft", "sft", {"data": pairs_in(tmp_path / "a", "one", "two"), "model": base})
    reward = run_in(tmp_path / "reward", "reward", {"data": pairs_in(tmp_path / "b", "two", "three"), "model": sft})
    second = run_in(tmp_path / "second", "reward", {"data": pairs_in(tmp_path / "c", "four"), "model": sft})
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "five"}\n', encoding="utf-8")
    prompts = {"path": "../prompts.jsonl", "kind": "file", "hash": file_hash(tmp_path / "prompts.jsonl")}
    sources = {"model": sft, "reward": reward, "second judge": second, "prompts": prompts}
    run_in(tmp_path / "ppo", "ppo", sources)
    return tmp_path / "ppo"


def test_all_that_was_learned_from_is_followed_and_the_watching_judge_is_not(policy: Path) -> None:
    found = training_prompts(str(policy))
    assert {prompt.text for prompt in found.prompts} == {"one", "two", "three", "five"}
    assert len(found.prompts) == 4
    assert {source.path.name: source.prompts for source in found.sources} == {"prompts.jsonl": 1, "a": 2, "b": 2}
    assert {source.path.name: Path(source.run).name for source in found.sources} == {
        "prompts.jsonl": "ppo", "a": "sft", "b": "reward"
    }  # fmt: skip
    assert not any(source.changed for source in found.sources)
    assert found.unknown == ("starter: no run of ours; what it was trained on is not recorded",)


def test_a_checkpoint_stands_for_its_run(policy: Path) -> None:
    (policy / "checkpoints" / "best").mkdir(parents=True)
    assert texts_of(policy / "checkpoints" / "best") == texts_of(policy)


def test_what_has_changed_since_is_said(policy: Path) -> None:
    with (policy.parent / "prompts.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"prompt": "six"}\n')
    changed = {source.path.name for source in training_prompts(str(policy)).sources if source.changed}
    assert changed == {"prompts.jsonl"}


def test_what_is_gone_is_said(policy: Path) -> None:
    (policy.parent / "prompts.jsonl").unlink()
    (policy.parent / "a" / "train.jsonl").unlink()
    found = training_prompts(str(policy))
    assert {prompt.text for prompt in found.prompts} == {"two", "three"}
    assert sum("not on this machine" in sentence for sentence in found.unknown) == 1
    assert sum("holds no train.jsonl" in sentence for sentence in found.unknown) == 1


def test_the_built_in_prompts_are_known_by_their_word(tmp_path: Path) -> None:
    run_in(tmp_path / "ppo", "ppo", {}, prompts="starter")
    found = training_prompts(str(tmp_path / "ppo"))
    assert len(found.prompts) > 100
    assert found.sources[0].path.name == "judgements.jsonl"


def test_runs_that_name_each_other_end(tmp_path: Path) -> None:
    run_in(tmp_path / "a", "sft", {"model": {"path": "../b", "kind": "sft", "hash": "0"}})
    run_in(tmp_path / "b", "sft", {"model": {"path": "../a", "kind": "sft", "hash": "0"}})
    assert training_prompts(str(tmp_path / "a")).prompts == ()


def test_prompts_are_read_from_every_layout_that_training_takes(tmp_path: Path) -> None:
    lines = tmp_path / "prompts.txt"
    lines.write_text("one\n\n two \n", encoding="utf-8")
    assert [p.text for p in prompts_in_file(lines)] == ["one", "two"]
    rows: list[dict[str, Any]] = [
        {"prompt": "a"}, {"prompt": [{"role": "user", "content": "b"}], "completion": "x"}, Prompt.of("c").to_json(),
        pair("d").to_json(), {"text": "e", "label": "hate"}, {"nothing": 1}, {"prompt": 3},
    ]  # fmt: skip
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert [p.text for p in prompts_in_file(path)] == ["a", "b", "c", "d", "e"]
    path.write_text('{"nothing": 1}\n', encoding="utf-8")
    with pytest.raises(MannersError, match="holds no prompts"):
        prompts_in_file(path)
