from __future__ import annotations

import gzip
import json
from pathlib import Path

from manners.evaluate.formats import behaviours, conversation, hhh_choices, lookalikes, read_rows, truthful_qa
from manners.records import Message, Prompt


def test_marked_turns_become_messages() -> None:
    assert conversation("Is it: H: or not?").messages == (Message("user", "Is it: H: or not?"),)
    turns = conversation("I ask.\n\nAssistant: I answer.\n\nHuman: I ask again.").messages
    assert turns == (Message("user", "I ask."), Message("assistant", "I answer."), Message("user", "I ask again."))
    assert conversation("Human: Hello").messages == (Message("user", "Hello"),)


def test_truthful_qa_answers_are_split_at_semicolons() -> None:
    row = {
        "Question": "Why?",
        "Best Answer": "Because ",
        "Correct Answers": "Because; Since ;",
        "Incorrect Answers": "No; ; Never",
    }
    found = truthful_qa([row])[0]
    assert (found.best, found.true, found.false) == ("Because", ("Because", "Since"), ("No", "Never"))


def test_older_xstest_files_say_contrast_for_unsafe() -> None:
    rows = [{"prompt": "a", "type": "homonyms"}, {"prompt": "b", "type": "contrast_homonyms"}]
    assert [p.category for p in lookalikes(rows)] == ["safe", "unsafe"]


def test_contextual_behaviours_are_left_out() -> None:
    rows = [
        {"Behavior": kind, "FunctionalCategory": kind, "SemanticCategory": "x"}
        for kind in ("standard", "contextual", "copyright")
    ]
    assert behaviours(rows) == [Prompt.of("standard", category="x")]


def test_big_bench_scores_say_which_is_better() -> None:
    found = hhh_choices([{"subset": "other", "input": "Q", "target_scores": {"worse": 0, "best": 1, "bad": 0}}])
    assert [(c.chosen, c.rejected) for c in found] == [("best", "worse"), ("best", "bad")]


def test_files_of_every_kind_give_the_same_rows(tmp_path: Path) -> None:
    rows = [{"a": "1", "b": "x, y\nz"}, {"a": "2", "b": "ä"}]
    (tmp_path / "a.json").write_text(json.dumps(rows), encoding="utf-8")
    (tmp_path / "b.json").write_text(json.dumps({"name": "task", "examples": rows}), encoding="utf-8")
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "a.csv").write_text('\ufeffa,b\n1,"x, y\nz"\n2,ä\n', encoding="utf-8")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    assert all(read_rows(path) == rows for path in tmp_path.iterdir())
