"""`manners evaluate reward`, `overlap` and `tasks` on files of a few lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from manners.cli.app import app
from manners.cli.reward_bench import scorer_named
from manners.config import Config
from manners.errors import MannersError
from manners.records import Completion, Pair, Prompt
from manners.rewards.load import ScorerConfig
from manners.runs import Run, read_json, read_jsonl, write_jsonl


def evaluate(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["evaluate", *arguments])


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [
        {
            "prompt": f"prompt {i}",
            "chosen": "so short",
            "rejected": "much longer than that",
            "subset": "llmbar-natural",
            "id": i,
        }
        for i in range(3)
    ]
    write_jsonl(
        Path("set.jsonl"),
        [*rows, {"prompt": "x", "chosen": "a much longer one", "rejected": "short", "subset": "other"}],
    )
    several = {
        "prompt": "best?",
        "chosen": ["one"],
        "rejected": ["one two", "one two three", "four words in it"],
        "id": "9",
    }
    write_jsonl(Path("several.jsonl"), [several, {"prompt": "broken", "chosen": ["one"]}])


def test_two_judges_on_two_files_in_numbers() -> None:
    judges = ("manners.rewards.rules:brevity", "manners.rewards.rules:distinct_words")
    result = evaluate(
        "reward", *judges, "--data", "set.jsonl", "--data", "several.jsonl", "--json", "--out", "out.json"
    )
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report == read_json(Path("out.json"))
    assert [(d["path"], d["rows"], d["left_out"]) for d in report["data"]] == [
        ("set.jsonl", 4, 0),
        ("several.jsonl", 1, 1),
    ]
    brief, long = report["judges"]
    assert brief["pairs"]["accuracy"]["value"] == 0.75
    assert long["pairs"]["accuracy"]["value"] == 0.25
    assert brief["pairs"]["sections"]["Chat Hard"]["value"] == 1.0
    assert (brief["best_of"]["value"], long["best_of"]["value"]) == (1.0, 0.0)
    assert brief["pairs"]["length"]["prefers_longer"]["value"] == 0.0
    assert long["difference"]["mean"] == pytest.approx(-3 / 5)
    assert "difference" not in brief
    assert "several.jsonl: 1 rows left out; the first, line 2: there is no 'rejected'" in result.stderr


def test_the_table_names_judges_subsets_and_the_difference() -> None:
    result = evaluate("reward", "toxicity", "manners.rewards.rules:brevity", "--data", "set.jsonl")
    assert result.exit_code == 0
    for said in ("toxicity", "accuracy", "section Chat Hard", "llmbar-natural (pairs)", "4 rows, 4 prompts"):
        assert said in result.stdout
    assert "against toxicity" in result.stderr


def test_pairs_of_our_own_are_the_default() -> None:
    prompt = Prompt.of("Hi", category="greetings")
    Path("pairs").mkdir()
    write_jsonl(
        Path("pairs/test.jsonl"), [Pair(prompt, Completion(prompt.id, "a"), Completion(prompt.id, "b c")).to_json()]
    )
    report = json.loads(evaluate("reward", "manners.rewards.rules:brevity", "--json").stdout)
    [judge] = report["judges"]
    assert [(s["name"], s["value"]) for s in judge["subsets"]] == [("greetings", 1.0)]


def test_what_a_word_names() -> None:
    Path("run").mkdir()
    Path("judge.yaml").write_text("classifier: some/classifier\npositive: not hate\n", encoding="utf-8")
    assert scorer_named("hate") == ScorerConfig(toxicity="hate")
    assert scorer_named("run") == ScorerConfig(model="run")
    assert scorer_named("a.b:c") == ScorerConfig(function="a.b:c")
    assert scorer_named("some/classifier#not hate") == ScorerConfig(classifier="some/classifier", positive="not hate")
    assert scorer_named("judge.yaml") == ScorerConfig(classifier="some/classifier", positive="not hate")
    with pytest.raises(MannersError, match="'nowhere' names no judge"):
        scorer_named("nowhere")


class Nothing(Config):
    pass


def test_overlap_follows_a_run_and_a_file() -> None:
    long = "please tell me once again how tall the tallest of all towers is"
    Path("trained.txt").write_text(f"{long}\n", encoding="utf-8")
    Path("asked.txt").write_text(f"Well, {long}?\nWhere is Oslo?\nWhy?\n", encoding="utf-8")
    Path("more.txt").write_text("where is oslo\n", encoding="utf-8")
    Run.create(Path("run"), "sft", Nothing(), {"data": {"path": "../trained.txt", "kind": "file", "hash": ""}})
    result = evaluate("overlap", "asked.txt", "--model", "run", "--training", "more.txt", "--json")
    found = json.loads(result.stdout)
    assert (found["checked"], found["excluded"], found["training_prompts"]) == (3, 2, 2)
    assert [row["prompt"] for row in found["list"]] == [f"Well, {long}?", "Where is Oslo?"]
    assert found["sources"][0]["run"] == "run"
    table = evaluate("overlap", "asked.txt", "--model", "nowhere")
    assert "0 of 3 prompts overlap with 0 training prompts" in table.stderr
    assert "not followed: nowhere" in table.stderr
    assert isinstance(evaluate("overlap", "asked.txt").exception, MannersError)


def test_tasks_are_written_once() -> None:
    result = evaluate("tasks", "tasks", "--json")
    made = json.loads(result.stdout)
    assert made["tasks"] == ["manners_truthful_mc1", "manners_truthful_mc2", "manners_hhh"]
    assert [len(read_jsonl(Path("tasks") / name)) for name in ("truthful.jsonl", "comparisons.jsonl")] == made["items"][
        1:
    ]
    assert "our own (truthful)" in Path("tasks/README.md").read_text(encoding="utf-8")
    assert "exists already" in str(evaluate("tasks", "tasks").exception)
