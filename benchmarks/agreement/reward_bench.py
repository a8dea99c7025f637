"""Our scores of a judge beside those of the package rewardbench on random scores, and its loader on rows as we export them.

    python -m venv rb && rb/bin/pip install --no-deps rewardbench && rb/bin/pip install torch datasets pandas transformers pydantic pyyaml
    sqlalchemy alembic accelerate && PYTHONPATH=src rb/bin/python benchmarks/agreement/reward_bench.py

It takes an environment of its own (seen with rewardbench 0.1.4); nothing else here needs it. Of the package only `utils` is read, where
its formulas are; what it imports for chat templates and model classes is replaced by empty modules. The last line is one JSON object;
the exit code is 1 where anything differs.
"""

from __future__ import annotations

import importlib.util
import json
import random
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas
import torch
from datasets import Dataset

from manners.evaluate.preferences import Kind, Preference, read_preferences
from manners.evaluate.reward_bench import evaluate_judge
from manners.evaluate.scores import Scored
from manners.feedback.exports import rewardbench_row
from manners.models.tiny import tiny_tokenizer
from manners.records import Completion, Message, Pair, Prompt

TOLERANCE = 1e-9
QUESTIONS, ROWS = 40, 300


def their_utils() -> Any:
    found = importlib.util.find_spec("rewardbench")
    assert found, "pip install --no-deps rewardbench"
    assert found.submodule_search_locations, "a package has a folder"
    for name in ("fastchat", "fastchat.conversation", "rewardbench", "rewardbench.models"):
        sys.modules[name] = ModuleType(name)
    sys.modules["fastchat.conversation"].__dict__["Conversation"] = object
    sys.modules["rewardbench.models"].__dict__["REWARD_MODEL_CONFIG"] = {}
    place = Path(found.submodule_search_locations[0]) / "utils.py"
    spec = importlib.util.spec_from_file_location("rewardbench.utils", place)
    assert spec, f"no {place}"
    assert spec.loader, f"no {place}"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def scored(kind: Kind, key: str, subset: str, right: list[float], wrong: list[float]) -> Scored:
    names = tuple(f"r{i}" for i in range(len(right))), tuple(f"w{i}" for i in range(len(wrong)))
    preference = Preference(Prompt.of(f"{subset} {key}"), *names, subset, key, kind)
    return Scored(preference, torch.tensor(right, dtype=torch.double), torch.tensor(wrong, dtype=torch.double))


def ties(utils: Any, draw: random.Random) -> tuple[float, float]:
    rows = []
    for number in range(QUESTIONS):
        for kind in ("ref", "tied"):
            right = [draw.gauss(1.5, 1) for _ in range(1 if kind == "ref" else draw.randint(2, 5))]
            rows.append((f"{kind}:{number}", right, [draw.gauss(0, 0.5) for _ in range(draw.randint(1, 4))]))
    given = Dataset.from_list([{"id": k, "scores": r + w, "num_correct": len(r), "subset": "ties"} for k, r, w in rows])
    ours = evaluate_judge([scored("ties", k, "ties", r, w) for k, r, w in rows])["ties"]["value"]
    return float(utils.process_single_model(given)[1]), ours


def best_of_four(utils: Any, draw: random.Random) -> tuple[float, float]:
    """Scores are whole numbers, so that first places are shared now and then."""
    rows = [(str(i), [float(draw.randint(0, 4))], [float(draw.randint(0, 4)) for _ in range(3)]) for i in range(ROWS)]
    flat = pandas.DataFrame([{"id": k, "text": "", "scores": score} for k, r, w in rows for score in r + w])
    results = utils.reroll_and_score_dataset(Dataset.from_pandas(flat), [4] * ROWS)["results"]
    ours = evaluate_judge([scored("best_of", k, "", r, w) for k, r, w in rows])["best_of"]["value"]
    return sum(results) / ROWS, ours


def sections(utils: Any, draw: random.Random) -> tuple[float, float]:
    """The published sizes of the subsets of one section, and their weights."""
    sizes = {"math-prm": 447, "hep-cpp": 164, "hep-go": 164}
    rows = [scored("pairs", str(i), name, [draw.gauss(0.3, 1)], [draw.gauss(0, 1)])
            for name, size in sizes.items() for i in range(size)]  # fmt: skip
    report = evaluate_judge(rows)
    accuracy = {subset["name"]: subset["value"] for subset in report["subsets"]}
    theirs = utils.calculate_scores_per_section({**sizes, "math-prm": 984}, {"Reasoning": list(sizes)}, accuracy)
    return float(theirs["Reasoning"]), report["pairs"]["sections"]["Reasoning"]["value"]


def loaded(utils: Any) -> bool:
    """Whether its loader makes of an exported file the very texts that we mean."""
    talk = [Message("user", "Hi"), Message("assistant", "Hello!"), Message("user", "Where is Oslo?")]
    prompts = [Prompt.of("Why?"), Prompt(tuple(talk)), Prompt((Message("system", "Be brief."), *talk))]
    pairs = [Pair(p, Completion(p.id, "In Norway."), Completion(p.id, "No idea.")) for p in prompts]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rewardbench.jsonl"
        path.write_text(
            "".join(json.dumps(rewardbench_row(p, i)) + "\n" for i, p in enumerate(pairs)), encoding="utf-8"
        )
        rows = list(utils.load_and_process_dataset(str(path), json=True, tokenizer=tiny_tokenizer()))
        meant = read_preferences(path).preferences
    texts = [
        ["".join(f"<|{m.role}|>{m.content}<|end|>" for m in p.prompt.messages) + f"<|assistant|>{answer}<|end|>"
         for answer in (p.chosen[0], p.rejected[0])]
        for p in meant
    ]  # fmt: skip
    return texts == [[row["text_chosen"], row["text_rejected"]] for row in rows]


def main() -> int:
    utils, draw = their_utils(), random.Random(0)
    report: dict[str, Any] = {}
    for name, compare in (("ties", ties), ("best of four", best_of_four), ("section", sections)):
        theirs, ours = compare(utils, draw)
        report[name] = {"rewardbench": theirs, "ours": ours}
    report["export loads"] = loaded(utils)
    agree = report["export loads"] and all(
        abs(row["rewardbench"] - row["ours"]) < TOLERANCE for row in report.values() if isinstance(row, dict)
    )
    print(json.dumps({**report, "agree": agree}))
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
