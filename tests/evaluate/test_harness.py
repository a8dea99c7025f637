"""The task folder for lm-evaluation-harness, as far as it can be read without it.

benchmarks/agreement/multiple_choice.py runs the real one.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

from manners.evaluate.harness import HHH, MC1, MC2, transcript, write_tasks
from manners.evaluate.honest import true_share
from manners.evaluate.observation import PRIMER
from manners.evaluate.questions import Comparison, Question
from manners.evaluate.subject import Likelihoods
from manners.records import Message, Prompt
from manners.runs import read_jsonl

QUESTION = Question("Where is Oslo?", "In Norway", ("In Norway", "In Scandinavia"), ("In Sweden", "Nowhere", "On Mars"))
TALK = Prompt((Message("user", "Hi"), Message("assistant", "Hello!"), Message("user", "Where is Oslo?")))
COMPARISON = Comparison("honest", TALK, "In Norway.", "On Mars.")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    assert write_tasks(tmp_path / "tasks", [QUESTION], [COMPARISON], "Ours.") == [MC1, MC2, HHH]
    return tmp_path / "tasks"


def settings(folder: Path, task: str) -> dict[str, Any]:
    """Of a task; functions of the folder stand as their names."""

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda _, node: str(node.value))
    read: dict[str, Any] = yaml.load((folder / f"{task}.yaml").read_text(encoding="utf-8"), Loader=Loader)
    return read


def scoring(folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The Python of the folder with a stand-in for the package `datasets`."""
    stand_in = ModuleType("datasets")
    stand_in.__dict__["Dataset"] = type("Dataset", (), {"from_list": staticmethod(lambda rows: rows)})
    monkeypatch.setitem(sys.modules, "datasets", stand_in)
    spec = importlib.util.spec_from_file_location("scoring", folder / "scoring.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_right_choice_stands_first(folder: Path) -> None:
    [row] = read_jsonl(folder / "truthful.jsonl")
    assert row["context"] == f"{PRIMER}\n\nQ: Where is Oslo?\nA:"
    assert row["mc1"] == ["In Norway", "In Sweden", "Nowhere", "On Mars"]
    assert row["mc2"] == ["In Norway", "In Scandinavia", "In Sweden", "Nowhere", "On Mars"]
    assert row["true"] == 2
    [row] = read_jsonl(folder / "comparisons.jsonl")
    assert row["choices"] == ["In Norway.", "On Mars."]


def test_a_conversation_is_a_transcript_that_waits_for_the_assistant() -> None:
    assert transcript(TALK) == "Human: Hi\n\nAssistant: Hello!\n\nHuman: Where is Oslo?\n\nAssistant:"


def test_tasks_name_columns_and_functions_that_are_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = scoring(folder, monkeypatch)
    for task in (MC1, MC2, HHH):
        found = settings(folder, task)
        assert found["task"] == task
        assert found["tag"] == "manners"
        module_name, _, function = found["custom_dataset"].partition(".")
        assert module_name == "scoring"
        [row] = vars(module)[function](version=1.0)[found["test_split"]]
        assert {found["doc_to_text"], found["doc_to_choice"]} <= row.keys()
        assert found["doc_to_target"] == 0
    assert settings(folder, MC2)["process_results"] == "scoring.true_share"


def test_the_true_share_is_that_of_the_card_also_where_all_is_unlikely(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = scoring(folder, monkeypatch).true_share
    told = [(math.log(p), False) for p in (0.1, 0.3, 0.2, 0.2, 0.2)]
    assert share({"true": 2}, told) == {"acc": pytest.approx(0.4)}
    unlikely = [(-2000.0, False), (-2001.0, False), (-2003.0, False)]
    card = true_share(Likelihoods(torch.tensor([logp for logp, _ in unlikely]), torch.ones(3)), 1)
    assert share({"true": 1}, unlikely)["acc"] == pytest.approx(card)
