"""Preference sets in the layouts in which they are published."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from manners.errors import MannersError
from manners.evaluate.preferences import Preference, preferences_of, read_preferences
from manners.records import Completion, Message, Pair, Prompt

HI = [{"role": "user", "content": "Hi"}]
TALK = [*HI, {"role": "assistant", "content": "Hello!"}, {"role": "user", "content": "Where is Oslo?"}]


def read(folder: Path, *rows: dict[str, Any]) -> list[Preference]:
    path = folder / "set.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return list(read_preferences(path).preferences)


def say(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def test_rewardbench_has_texts_a_subset_and_an_id(tmp_path: Path) -> None:
    row = {"prompt": "Where is Oslo?", "chosen": "In Norway.", "chosen_model": "m", "rejected": "No idea.",
           "rejected_model": "n", "subset": "alpacaeval-easy", "id": 7}  # fmt: skip
    [found] = read(tmp_path, row)
    assert found == Preference(
        Prompt.of("Where is Oslo?"), ("In Norway.",), ("No idea.",), "alpacaeval-easy", "7", "pairs"
    )


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Where is Oslo?", "chosen": [*TALK, say("In Norway.")], "rejected": [*TALK, say("No idea.")]},
        {"chosen": [*TALK, say("In Norway.")], "rejected": [*TALK, say("No idea.")]},
        {"prompt": TALK, "chosen": [say("In Norway.")], "rejected": [say("No idea.")]},
        {"prompt": TALK, "chosen": "In Norway.", "rejected": "No idea."},
        {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: Where is Oslo?\n\nAssistant: In Norway.",
         "rejected": "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: Where is Oslo?\n\nAssistant: No idea."},
    ],
)  # fmt: skip
def test_messages_and_transcripts_are_the_same_pair(tmp_path: Path, row: dict[str, Any]) -> None:
    [found] = read(tmp_path, row)
    assert [(m.role, m.content) for m in found.prompt.messages] == [(m["role"], m["content"]) for m in TALK]
    assert (found.chosen, found.rejected, found.kind) == (("In Norway.",), ("No idea.",), "pairs")


def test_pairs_of_our_own_have_their_category_as_the_subset(tmp_path: Path) -> None:
    prompt = Prompt((Message("user", "Where is Oslo?"),), category="places")
    pair = Pair(prompt, Completion(prompt.id, " In Norway."), Completion(prompt.id, "No idea."))
    [found] = read(tmp_path, pair.to_json())
    assert found == Preference(prompt, (" In Norway.",), ("No idea.",), "places", "1", "pairs")
    assert preferences_of([pair])[0].chosen == found.chosen
    assert preferences_of([pair])[0].subset == "places"


def test_lists_of_texts_ask_for_the_best_of_several(tmp_path: Path) -> None:
    row = {"id": 12, "prompt": "Where is Oslo?", "chosen": ["In Norway."], "rejected": ["No idea.", "In Sweden.", "Here."],
           "num_correct": 1, "num_incorrect": 3, "total_completions": 4, "subset": "Factuality"}  # fmt: skip
    [found] = read(tmp_path, row)
    assert (found.kind, found.subset, len(found.chosen), len(found.rejected)) == ("best_of", "Factuality", 1, 3)


def test_rows_about_ties_are_told_by_their_id(tmp_path: Path) -> None:
    rows = [{"id": f"{kind}:3", "prompt": "A prime?", "chosen": right, "rejected": ["4"], "subset": "Ties"}
            for kind, right in (("ref", ["2"]), ("tied", ["2", "3"]))]  # fmt: skip
    ref, tied = read(tmp_path, *rows)
    assert (ref.kind, tied.kind) == ("ties", "ties")
    assert (ref.ties_id, tied.ties_id) == (("ref", 3), ("tied", 3))


def test_three_styles_of_each_in_a_domain_are_crossed(tmp_path: Path) -> None:
    row = {"id": 1, "prompt": "Hi", "chosen": ["a", "a b", "- a\n- b"], "rejected": ["c", "c d", "- c\n- d"]}
    [with_domain] = read(tmp_path, {**row, "domain": "chat"})
    [without] = read(tmp_path, row)
    assert (with_domain.kind, with_domain.subset) == ("styles", "chat")
    assert without.kind == "best_of"


def test_a_row_that_is_none_is_left_out_with_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    rows = [{"prompt": "Hi", "chosen": "a", "rejected": "b"}, {"prompt": "Hi", "chosen": "a"},
            {"prompt": "Hi", "chosen": "a", "rejected": "a"}, {"prompt": "Hi", "chosen": ["a"], "rejected": [3]},
            {"prompt": "", "chosen": ["a"], "rejected": ["b"]}]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "no json\n", encoding="utf-8")
    found = read_preferences(path)
    assert len(found.preferences) == 1
    reasons = {reject.line: reject.reason for reject in found.left_out}
    assert set(reasons) == {2, 3, 4, 5, 6}
    assert "there is no 'rejected'" in reasons[2]
    assert "the same" in reasons[3]


def test_a_file_without_any_says_what_a_row_needs(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text('{"question": "Hi"}\n', encoding="utf-8")
    with pytest.raises(MannersError, match=r"line 1: there is no 'chosen'.*a row needs prompt, chosen and rejected"):
        read_preferences(path)
    with pytest.raises(MannersError, match="does not exist"):
        read_preferences(tmp_path / "nowhere.jsonl")


@pytest.mark.data
@pytest.mark.skipif("MANNERS_DATA" not in os.environ, reason="MANNERS_DATA is not set")
def test_people_s_own_comparisons_are_read_whole() -> None:
    """The derived rows, and the transcripts of the test set as they were published."""
    data = Path(os.environ["MANNERS_DATA"])
    for name, rows in (("hh_helpful_test_human.jsonl", 1574), ("hh_harmless_test_human.jsonl", 1664)):
        found = read_preferences(data / "derived" / name)
        assert len(found.preferences) + len(found.left_out) == rows
        assert len(found.left_out) < 10
    raw = read_preferences(data / "hh_rlhf" / "harmless-base_test.jsonl.gz")
    assert len(raw.preferences) + len(raw.left_out) == 1863
    assert all(p.kind == "pairs" and p.prompt.messages[-1].role == "user" for p in raw.preferences)
