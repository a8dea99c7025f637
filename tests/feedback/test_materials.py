"""Rows that become items of a batch, and why others do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from browsing import materials

from manners.feedback.assign import Desk
from manners.feedback.batch import BatchSettings
from manners.feedback.importers.rows import BadRowError, Reject
from manners.feedback.materials import Material, material_of, read_materials, starter_materials, unjudged
from manners.feedback.store import Store
from manners.records import Message


def test_what_a_person_writes_and_what_sample_writes(tmp_path: Path) -> None:
    made = materials(1)[0]
    sampled = {"prompt": made.prompt.to_json(), "completions": [c.to_json() for c in made.completions]}
    rows = [
        {
            "prompt": " Where is Oslo? ",
            "completions": ["No idea.", " In Norway. "],
            "gold": [[1], [0]],
            "priority": 0.5,
        },
        {
            "prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
            "completions": [{"text": "x", "model": "m"}, "y"],
        },
        sampled,
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "broken\n", encoding="utf-8")
    first, second, third, broken = read_materials(path)
    assert isinstance(first, Material)
    assert (first.prompt.text, [c.text for c in first.completions]) == ("Where is Oslo?", ["No idea.", "In Norway."])
    assert (first.gold, first.priority) == (((1,), (0,)), 0.5)
    assert isinstance(second, Material)
    assert second.prompt.messages == (Message("system", "s"), Message("user", "u"))
    assert [c.model for c in second.completions] == ["m", ""]
    assert third == made
    assert isinstance(broken, Reject)
    assert broken.line == 4


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"prompt": None}, "no 'prompt'"),
        ({"prompt": " "}, "the prompt is empty"),
        ({"prompt": 3}, "must be a list"),
        ({"prompt": {"messages": [{"role": "assistant", "content": "x"}]}}, "last turn"),
        ({"prompt": "x" * 50_001}, "50001 characters"),
        ({"completions": []}, "0 answers"),
        ({"completions": ["a"] * 2}, "there twice"),
        ({"completions": [str(k) for k in range(10)]}, "10 answers"),
        ({"completions": ["a", ""]}, "answer 1 is empty"),
        ({"completions": ["a", 1]}, "answer 1 must be text"),
        ({"completions": ["a", {"text": "b", "model": 1}]}, "model that is int"),
        ({"completions": ["a", "x" * 50_001]}, "50001 characters"),
        ({"gold": [[0], [5]]}, "from 0 to 1"),
        ({"gold": [[0]]}, "two tiers"),
        ({"gold": [[0], [0]]}, "once at most"),
        ({"gold": [[True], [0]]}, "from 0 to 1"),
        ({"priority": "high"}, "priority must be a number"),
    ],
)
def test_why_a_row_is_none(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRowError, match=reason):
        material_of({"prompt": "p", "completions": ["a", "b"], **change})


def test_what_sample_left_in_the_store_waits_until_it_is_in_a_batch(store: Store, desk: Desk) -> None:
    made = [*materials(2), *materials(1, 1, "alone"), *materials(1, 10, "many")]
    store.add_completions((m.prompt, m.completions) for m in made)
    assert list(unjudged(store)) == made[:2]
    desk.create(BatchSettings(name="b"), "g", made[:1])
    assert list(unjudged(store)) == made[1:2]


def test_the_starter_comes_along_whole() -> None:
    starter = starter_materials()
    assert len(starter) >= 300
    assert all(isinstance(m, Material) and len(m.completions) == 4 for m in starter)
