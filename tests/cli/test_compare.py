"""`manners compare` on a model of random weights, from the config file to the table and the plot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from toy_judgements import toy_pairs
from typer.testing import CliRunner

from manners.cli.app import app
from manners.config import parse_yaml
from manners.feedback.pairs import write_pairs
from manners.runs import read_json

JUDGES = """
def vowels(prompts, completions):
    return [sum(letter in "aeiou" for letter in text) / 10 for text in completions]

def brief(prompts, completions):
    return [-len(text) / 10 for text in completions]
"""
CONFIG = """
model: tiny-random
train_layers: 2
reward: {function: "made_up_judges:vowels"}
second_judge: {function: "made_up_judges:brief"}
seeds: [0, 1]
methods:
  ppo: {method: ppo, settings: {steps: 2, batch: 8, max_tokens: 6, evaluate_every: 1, evaluate_prompts: 2, learning_rate: 0.1}}
  preferences: {method: dpo, settings: {batch: 4, sample_tokens: 6, evaluate_prompts: 2}}
  best of 4: {method: best_of_n, n: 4}
evaluate: {samples_per_prompt: 2, max_tokens: 6}
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "made_up_judges.py").write_text(JUDGES)
    (tmp_path / "compare.yaml").write_text(CONFIG)
    splits = {"train": toy_pairs(8, 1), "validation": toy_pairs(3, 2), "test": toy_pairs(4, 3)}
    write_pairs(tmp_path / "pairs", splits, {"train": [], "validation": [], "test": []})
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def compare(*sets: str) -> dict[str, Any]:
    more = [word for one in sets for word in ("--set", one)]
    said = CliRunner().invoke(app, ["compare", "compare.yaml", "--run", "compared", *more])
    assert said.exit_code == 0, said.output
    return dict(json.loads(said.stdout.splitlines()[-1]))


def test_each_method_is_trained_with_each_seed_and_measured_on_the_same_prompts(place: Path) -> None:
    said = compare()
    assert set(said["methods"]) == {"ppo", "preferences", "best of 4"}
    rows = {row["method"]: row for row in read_json(place / "compared" / "comparison.json")}
    for name, row in rows.items():
        assert (row["seeds"], row["prompts"]) == ([0, 1], 4)
        outcomes = [read_json(place / "compared" / name / str(seed) / "outcome.json") for seed in (0, 1)]
        gains = [outcome["reward"] for outcome in outcomes]
        assert row["reward"] == pytest.approx(sum(map(sum, gains)) / 8)
        assert row["reward_ci"][0] <= row["reward"] <= row["reward_ci"][1]
    for seed in (0, 1):
        written = parse_yaml((place / "compared" / "ppo" / str(seed) / "run" / "config.yaml").read_text())
        assert written["seed"] == seed
    # the best of four by a judge is better by that judge than one, and its KL is that of the formula
    assert rows["best of 4"]["reward"] > 0
    assert rows["best of 4"]["kl"] == pytest.approx(0.636, abs=0.001)
    assert [len(looks) for looks in rows["ppo"]["looks"]] == [2, 2]
    assert rows["ppo"]["looks"][0][0]["seconds"] < rows["ppo"]["looks"][0][1]["seconds"]
    plot = ElementTree.parse(place / "compared" / "comparison.svg").getroot()
    assert {"ppo", "preferences", "best of 4"} <= {text.strip() for text in plot.itertext()}


def test_what_is_done_is_not_done_again(place: Path) -> None:
    compare("methods={best of 4: {method: best_of_n, n: 4}}")
    path = place / "compared" / "best of 4" / "0" / "outcome.json"
    path.write_text(path.read_text().replace('"seconds": ', '"seconds": 1000'))
    said = compare("methods={best of 4: {method: best_of_n, n: 4}}")
    assert said["methods"]["best of 4"]["seconds"] > 500


@pytest.mark.usefixtures("place")
def test_other_settings_in_the_same_folder_are_refused() -> None:
    compare("methods={best of 4: {method: best_of_n, n: 4}}")
    other = ["compare", "compare.yaml", "--run", "compared", "--set", "methods={best: {method: best_of_n, n: 8}}"]
    said = CliRunner().invoke(app, other)
    assert said.exit_code == 1
    assert "was started otherwise" in str(said.exception)


def test_a_setting_of_the_method_stands_over_what_is_held_equal(place: Path) -> None:
    compare(
        "seeds=[0]", "methods={p: {method: ppo, settings: {steps: 1, batch: 8, max_tokens: 3, evaluate_prompts: 0}}}"
    )
    written = parse_yaml((place / "compared" / "p" / "0" / "run" / "config.yaml").read_text())
    assert (written["model"], written["max_tokens"], written["steps"]) == ("tiny-random", 3, 1)
    assert written["second_judge"]["function"] == "made_up_judges:brief"


@pytest.mark.usefixtures("place")
def test_without_methods_it_says_where_to_find_some() -> None:
    said = CliRunner().invoke(app, ["compare", "--run", "compared", "--set", "model=tiny-random"])
    assert said.exit_code == 1
    assert "configs/compare.yaml" in str(said.exception)
