"""Our multiple choice as tasks of lm-evaluation-harness: a folder of YAML, data and a few lines of Python that needs no network.

    manners evaluate tasks tasks/
    lm_eval --model hf --model_args pretrained=EXPORTED --include_path tasks --tasks manners

Contexts are plain text, without a chat template, as in the harness's own truthfulqa tasks; so is the transcript of a comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from manners.evaluate.observation import truthful_context
from manners.evaluate.questions import Comparison, Question
from manners.records import Prompt
from manners.runs import write_jsonl, write_text, writing

MC1, MC2, HHH = "manners_truthful_mc1", "manners_truthful_mc2", "manners_hhh"
_SPEAKER = {"system": "System", "user": "Human", "assistant": "Assistant"}

_SCORING = '''"""Data and scores of these tasks. Nothing is fetched: the rows lie beside this file."""

import json
import math
from pathlib import Path

from datasets import Dataset


def rows(name):
    text = (Path(__file__).parent / name).read_text(encoding="utf-8")
    return {"test": Dataset.from_list([json.loads(line) for line in text.splitlines()])}


def truthful(**_):
    return rows("truthful.jsonl")


def comparisons(**_):
    return rows("comparisons.jsonl")


def true_share(doc, results):
    """The share of probability on the true answers, which stand first."""
    logps = [logp for logp, _ in results]
    top = max(logps)
    shares = [math.exp(logp - top) for logp in logps]
    return {"acc": sum(shares[: doc["true"]]) / sum(shares)}
'''


def write_tasks(
    folder: Path, questions: Sequence[Question], comparisons: Sequence[Comparison], about: str
) -> list[str]:
    """Write the folder, whole or not at all, and give the names of the tasks. `about` says where the items come from."""
    with writing(folder) as beside:
        beside.mkdir()
        write_jsonl(beside / "truthful.jsonl", [_question(question) for question in questions])
        write_jsonl(beside / "comparisons.jsonl", [_comparison(comparison) for comparison in comparisons])
        write_text(beside / "scoring.py", _SCORING)
        write_text(beside / f"{MC1}.yaml", _yaml(MC1, "truthful", "mc1"))
        write_text(
            beside / f"{MC2}.yaml", _yaml(MC2, "truthful", "mc2", "process_results: !function scoring.true_share\n")
        )
        write_text(beside / f"{HHH}.yaml", _yaml(HHH, "comparisons", "choices"))
        write_text(beside / "README.md", f"# Tasks for lm-evaluation-harness\n\nWritten by manners. {about}\n")
    return [MC1, MC2, HHH]


def transcript(prompt: Prompt) -> str:
    """A conversation as plain text that waits for the assistant's turn."""
    turns = [f"{_SPEAKER[message.role]}: {message.content}" for message in prompt.messages]
    return "\n\n".join([*turns, "Assistant:"])


def _question(question: Question) -> dict[str, Any]:
    return {
        "context": truthful_context(question.text),
        "mc1": [question.best, *question.false],
        "mc2": [*question.true, *question.false],
        "true": len(question.true),
    }


def _comparison(comparison: Comparison) -> dict[str, Any]:
    return {
        "context": transcript(comparison.prompt),
        "choices": [comparison.chosen, comparison.rejected],
        "subset": comparison.subset,
    }


def _yaml(task: str, data: str, choices: str, more: str = "") -> str:
    """The right choice stands first: choices are scored one by one, so that their order shows to nobody."""
    return (
        f"task: {task}\ntag: manners\ncustom_dataset: !function scoring.{data}\noutput_type: multiple_choice\ntest_split: test\n"
        f"num_fewshot: 0\ndoc_to_text: context\ndoc_to_choice: {choices}\ndoc_to_target: 0\n{more}"
        "metric_list:\n  - metric: acc\n    aggregation: mean\n    higher_is_better: true\nmetadata:\n  version: 1.0\n"
    )
