"""Published evaluation sets, read as they are published: CSV, JSON or JSONL rows in, items out.

A reader takes rows as the file or the Hub gives them, and raises KeyError or ValueError for rows of another shape.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from manners.errors import MannersError
from manners.evaluate.questions import SAFE, UNSAFE, Comparison, Fact, Question
from manners.records import Message, Prompt

Row = dict[str, Any]
_TURN = re.compile(r"(?:\A|\n+)\s*(Human|Assistant|H|A):[ \t]*")
_ASKED = ("###The instruction to evaluate:\n", "\n\n###Response to evaluate:\n", "\n\n###Score Rubrics:")
PROVOKING = 0.5  # the toxicity from which RealToxicityPrompts calls a prompt toxic


def read_rows(path: Path) -> list[Row]:
    """Rows of a .csv, .json (a list, or an object with "examples") or .jsonl file, gzipped or not. Raises MannersError."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = raw.decode("utf-8-sig")
        match path.name.removesuffix(".gz").rpartition(".")[2]:
            case "csv":
                return list(csv.DictReader(io.StringIO(text, newline="")))
            case "jsonl":
                return [json.loads(line) for line in text.splitlines() if line.strip()]
            case _:
                whole = json.loads(text)
                return list(whole["examples"] if isinstance(whole, dict) else whole)
    except OSError as error:
        raise MannersError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, KeyError, csv.Error, EOFError) as error:
        raise MannersError(f"{path} is no CSV, JSON or JSONL file of rows ({error}); fetch it again") from None


def prompts(rows: Sequence[Row]) -> list[Prompt]:
    """Our own lines: `prompt`, and perhaps `category`."""
    return [Prompt.of(row["prompt"], category=row.get("category", "")) for row in rows]


def lookalikes(rows: Sequence[Row]) -> list[Prompt]:
    """Our own lines, and XSTest (Röttger et al. 2023): `prompt` and `label`, which is safe or unsafe.

    Earlier files of XSTest have a `type` instead, which begins with "contrast" for unsafe prompts.
    """
    found = []
    for row in rows:
        label = row.get("label") or (UNSAFE if row["type"].startswith("contrast") else SAFE)
        if label not in (SAFE, UNSAFE):
            raise ValueError(f"label must be safe or unsafe, not {label!r}")
        found.append(Prompt.of(row["prompt"], category=label))
    return found


def questions(rows: Sequence[Row]) -> list[Question]:
    """Our own lines: `question`, `best`, `true`, `false`."""
    return [Question(row["question"], row["best"], tuple(row["true"]), tuple(row["false"])) for row in rows]


def truthful_qa(rows: Sequence[Row]) -> list[Question]:
    """TruthfulQA (Lin et al. 2021), the CSV file: answers are separated by semicolons."""
    return [
        Question(row["Question"], row["Best Answer"].strip(), _answers(row["Correct Answers"]), _answers(row["Incorrect Answers"]))
        for row in rows
    ]  # fmt: skip


def truthful_qa_choices(rows: Sequence[Row]) -> list[Question]:
    """TruthfulQA as the Hub has it for multiple choice: `question`, `mc1_targets`, `mc2_targets`, each with choices and labels."""
    found = []
    for row in rows:
        one, two = row["mc1_targets"], row["mc2_targets"]
        by_label = {label: tuple(c for c, own in zip(two["choices"], two["labels"], strict=True) if own == label)
                    for label in (1, 0)}  # fmt: skip
        found.append(Question(row["question"], one["choices"][one["labels"].index(1)], by_label[1], by_label[0]))
    return found


def comparisons(rows: Sequence[Row]) -> list[Comparison]:
    """Our own lines: `subset`, `prompt`, `chosen`, `rejected`."""
    return [Comparison(row["subset"], conversation(row["prompt"]), row["chosen"], row["rejected"]) for row in rows]


def hhh_choices(rows: Sequence[Row]) -> list[Comparison]:
    """The HHH comparisons (Askell et al. 2021) as BIG-bench and the Hub have them: `input`, and targets with their labels; `subset`."""
    found = []
    for row in rows:
        scores = row["target_scores"] if "target_scores" in row else dict(
            zip(row["targets"]["choices"], row["targets"]["labels"], strict=True)
        )  # fmt: skip
        best = max(scores, key=scores.__getitem__)
        asked = conversation(row["input"])
        found += [Comparison(row["subset"], asked, best, other) for other in scores if other != best]
    return found


def hhh_rubric(rows: Sequence[Row]) -> list[Comparison]:
    """The HHH comparisons inside a judge's rubric: `source`, `chosen_instruction`, `rejected_instruction`."""
    found = []
    for row in rows:
        asked, chosen = _unwrapped(row["chosen_instruction"])
        _, rejected = _unwrapped(row["rejected_instruction"])
        found.append(Comparison(row["source"], conversation(asked), chosen, rejected))
    return found


def behaviours(rows: Sequence[Row]) -> list[Prompt]:
    """HarmBench (Mazeika et al. 2024): its plain behaviours; those with a context or about copyright are left out."""
    kept = [row for row in rows if row["FunctionalCategory"] == "standard"]
    return [Prompt.of(row["Behavior"], category=row["SemanticCategory"]) for row in kept]


def goals(rows: Sequence[Row]) -> list[Prompt]:
    """AdvBench (Zou et al. 2023): `goal`, or `prompt` on the Hub."""
    return [Prompt.of(row["goal"] if "goal" in row else row["prompt"]) for row in rows]


def toxic_prompts(rows: Sequence[Row]) -> list[Prompt]:
    """RealToxicityPrompts (Gehman et al. 2020): the prompts of a toxicity of 0.5 and more."""
    kept = [row["prompt"] for row in rows if (row["prompt"]["toxicity"] or 0) >= PROVOKING]
    return [Prompt.of(prompt["text"]) for prompt in kept if prompt["text"].strip()]


def first_turns(rows: Sequence[Row]) -> list[Prompt]:
    """MT-Bench (Zheng et al. 2023): the first turn of each question."""
    return [Prompt.of(row["turns"][0], category=row.get("category", "")) for row in rows]


def passages(rows: Sequence[Row]) -> list[str]:
    """Our own lines: `text`."""
    return [row["text"] for row in rows]


def facts(rows: Sequence[Row]) -> list[Fact]:
    """Our own lines: `text`, `answer`, `wrong`."""
    return [Fact(row["text"], row["answer"], tuple(row["wrong"])) for row in rows]


def conversation(text: str) -> Prompt:
    """A prompt from text in which turns may be marked by Human: and Assistant: at the beginning of a line."""
    parts = _TURN.split(text)
    turns = [("Human", parts[0]), *zip(parts[1::2], parts[2::2], strict=True)]
    messages = [
        Message("user" if who.startswith("H") else "assistant", said.strip()) for who, said in turns if said.strip()
    ]
    return Prompt(tuple(messages))


def _answers(cell: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in cell.split(";") if part.strip())


def _unwrapped(rubric: str) -> tuple[str, str]:
    """Instruction and response within the rubric."""
    before, found, rest = rubric.partition(_ASKED[0])
    asked, answered, rest = rest.partition(_ASKED[1])
    if not (before and found and answered):
        raise ValueError("a rubric does not show what was asked and answered")
    return asked, rest.partition(_ASKED[2])[0]
