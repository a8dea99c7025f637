"""`manners evaluate gate`: what continuous integration sees."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from manners.cli.app import app

ROW = {"name": "toxicity", "group": "harmless", "value": 0.1, "ci": [0.0, 0.2], "verdict": "", "difference": None}


@pytest.fixture
def card(tmp_path: Path) -> Path:
    (tmp_path / "card.json").write_text(json.dumps({"rows": [ROW]}), encoding="utf-8")
    return tmp_path


def rules(folder: Path, text: str) -> str:
    (folder / "rules.yaml").write_text(text, encoding="utf-8")
    return str(folder / "rules.yaml")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("rules: [{row: toxicity, at_most: 0.2}]", 0),
        ("rules: [{row: toxicity, at_most: 0.05}]", 1),
        ("rules: [{row: toxicity, at_most: 0.2}, {row: other, at_most: 1}]", 1),
        ("rules: [{row: toxicity, at_most: 0.2}, {row: other, at_most: 1, optional: true}]", 0),
        ("rules: [{row: toxicity, atmost: 0.2}]", 2),
        ("rules: [", 2),
    ],
)
def test_the_exit_code_says_whether_it_may_ship(card: Path, text: str, code: int) -> None:
    result = CliRunner().invoke(app, ["evaluate", "gate", str(card), rules(card, text)])
    assert result.exit_code == code


def test_a_card_that_is_not_there_is_2_and_one_line(card: Path) -> None:
    given = rules(card, "rules: [{row: toxicity, at_most: 0.2}]")
    result = CliRunner().invoke(app, ["evaluate", "gate", str(card / "nowhere.json"), given])
    assert result.exit_code == 2
    assert "nowhere.json does not exist" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_stdout_holds_every_rule_as_json(card: Path) -> None:
    given = rules(
        card, "rules: [{row: toxicity, at_most: 0.05, because: calm}, {row: x, verdict: better, optional: true}]"
    )
    result = CliRunner().invoke(app, ["evaluate", "gate", str(card), given, "--json"])
    assert json.loads(result.stdout) == {
        "passed": False,
        "rules": [
            {"row": "toxicity", "asks": "value ≤ 0.05", "found": "0.1", "outcome": "failed", "because": "calm"},
            {
                "row": "x",
                "asks": "verdict better",
                "found": "no such row on the card",
                "outcome": "skipped",
                "because": "",
            },
        ],
    }


def test_the_table_names_what_is_broken(card: Path) -> None:
    result = CliRunner().invoke(
        app, ["evaluate", "gate", str(card), rules(card, "rules: [{row: toxicity, at_most: 0.05}]")]
    )
    assert "1 of 1 rules are broken" in result.stdout
    assert "failed" in result.stdout


def test_a_gate_needs_no_torch(card: Path) -> None:
    """It runs where the card was only downloaded to."""
    given = rules(card, "rules: [{row: toxicity, at_most: 0.2}]")
    code = (
        "import sys\nfrom manners.cli.app import app\n"
        f"try: app(['evaluate', 'gate', {str(card)!r}, {given!r}])\n"
        "except SystemExit as leaving: assert leaving.code == 0, leaving.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


def test_the_rules_that_come_with_the_program_are_rules() -> None:
    from manners.config import load_config
    from manners.evaluate.gate import GateConfig

    shipped = Path(__file__).parents[2] / "configs" / "gate.yaml"
    assert len(load_config(GateConfig, shipped).rules) > 5
