"""`manners evaluate MODEL`, from the command line to the folder it leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from manners.cli.app import app
from manners.runs import Run, read_json

SMALL = ("--set", "max_prompts=3", "--set", "max_questions=4", "--set", "max_tokens=4", "--set", "samples=2")


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def evaluate(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["evaluate", *arguments])


def last(result: Result) -> dict[str, Any]:
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    told: dict[str, Any] = json.loads(result.stdout.strip().splitlines()[-1])
    return told


def test_one_command_leaves_a_card_in_three_forms() -> None:
    result = evaluate("tiny-random", "--against", "tiny-random", *SMALL, "--set", "judge.toxicity=hate")
    told = last(result)
    assert len(result.stdout.strip().splitlines()) == 1
    assert (told["run"], told["card"]) == ("runs/card-tiny-random", "runs/card-tiny-random/card.html")
    assert set(told["verdicts"].values()) == {"no evidence", "unchanged"}
    run = Run.open(Path("runs/card-tiny-random"))
    assert (run.kind, run.status["status"]) == ("card", "finished")
    saved = read_json(run.path / "card.json")
    assert (saved["model"], saved["against"], saved["settings"]["max_prompts"]) == ("tiny-random", "tiny-random", 3)
    page = (run.path / "card.html").read_text(encoding="utf-8")
    assert "http" not in page.replace('http-equiv="Content-Security-Policy"', "").replace("http://www.w3.org", "")
    assert (run.path / "card.md").read_text(encoding="utf-8").startswith("# Behaviour card: tiny-random")
    assert "HARMLESS" in result.stderr
    assert "Preferred to the base" in result.stderr
    assert "without second_judge" in result.stderr


def test_json_gives_the_card_itself_and_a_card_is_not_overwritten() -> None:
    told = last(evaluate("tiny-random", "--json", "--out", "here", *SMALL))
    assert told == read_json(Path("here/card.json"))
    assert "is not empty" in str(evaluate("tiny-random", "--out", "here", *SMALL).exception)
    assert last(evaluate("tiny-random", "--json", "--out", "here", "--replace", *SMALL)) == told


def test_sets_of_a_folder_are_used_and_named() -> None:
    Path("sets").mkdir()
    Path("sets/facts.jsonl").write_text('{"text": "A", "answer": "b", "wrong": ["c"]}\n', encoding="utf-8")
    told = last(evaluate("tiny-random", "--json", "--datasets", "sets", *SMALL))
    row = next(row for row in told["rows"] if row["name"] == "facts")
    assert (row["n"], row["data"]["name"], row["data"]["shipped"]) == (1, "facts.jsonl", False)
    assert "did you mean 'judge'" in str(evaluate("tiny-random", "--set", "juge.toxicity=hate").exception)


@pytest.mark.parametrize(("at_most", "code"), [(1, 0), (-1, 1)])
def test_a_gate_decides_the_exit_code(at_most: float, code: int) -> None:
    Path("rules.yaml").write_text(f"rules:\n- row: echo\n  of: value\n  at_most: {at_most}\n", encoding="utf-8")
    result = evaluate("tiny-random", "--gate", "rules.yaml", *SMALL)
    assert result.exit_code == code, result.output
    assert Path("runs/card-tiny-random/card.html").exists()
