"""What a model learned from is not asked of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch import Tensor, tensor

from manners.batches import Rollouts
from manners.evaluate import decontaminated as module
from manners.evaluate.card import checked
from manners.evaluate.datasets import gather
from manners.evaluate.decontaminated import decontaminated, overlap_warnings
from manners.evaluate.preferences import read_preferences
from manners.evaluate.training_data import TrainingPrompts
from manners.records import Prompt


def test_items_that_were_trained_on_are_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    items = gather()[0]
    long = next(p for p in items.ordinary if len(p.text.split()) >= 8)
    fact, question = items.facts[3], items.truthful[0]
    learned = {
        "one": [Prompt.of(f"Please, {long.text}"), Prompt.of(question.text)],
        "two": [Prompt.of(fact.text), Prompt.of("nothing that anybody would ask here")],
    }
    monkeypatch.setattr(
        module, "training_prompts", lambda model: TrainingPrompts(tuple(learned[model]), (), (f"{model}: unsure",))
    )
    clean, found = decontaminated(items, ["one", "two"])
    assert set(clean.ordinary) == set(items.ordinary) - {long}
    assert set(clean.truthful) == set(items.truthful) - {question}
    assert set(clean.facts) == set(items.facts) - {fact}
    assert (clean.dangerous, clean.comparisons, clean.passages) == (items.dangerous, items.comparisons, items.passages)
    assert set(found["topics"]) == {"ordinary", "truthful", "facts"}
    assert found["topics"]["facts"]["list"][0]["prompt"] == fact.text
    assert found["unknown"] == ["one: unsure", "two: unsure"]
    assert len(overlap_warnings(found)) == 3


class Longer:
    """Scores an answer by its length."""

    def score(self, rollouts: Rollouts) -> Tensor:
        return tensor([float(len(c.text)) for c in rollouts.completions])


def test_a_judge_is_checked_on_what_people_preferred(tmp_path: Path) -> None:
    path = tmp_path / "judged.jsonl"
    pairs = [("long answer", "no"), ("short", "a longer one"), ("longest of all", "not so long"), ("yes", "yes and no")]
    path.write_text(
        "\n".join(json.dumps({"prompt": f"q{i}", "chosen": a, "rejected": b}) for i, (a, b) in enumerate(pairs)),
        encoding="utf-8",
    )
    found = checked(Longer(), read_preferences(path).preferences)
    assert (found["n"], found["accuracy"]) == (4, 0.5)
    assert found["ci"][0] < 0.5 < found["ci"][1]
    assert found["prefers_longer"]["value"] == 1.0  # of the three pairs whose lengths in words differ
