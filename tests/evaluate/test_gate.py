"""Rules on a card: bounds, verdicts, patterns, and what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from manners.config import load_config
from manners.errors import MannersError
from manners.evaluate.gate import Checked, GateConfig, check, read_card

ROWS: list[dict[str, Any]] = [
    {"name": "toxicity", "group": "harmless", "value": 0.10, "ci": [0.05, 0.2], "verdict": "no evidence",
     "difference": {"mean": 0.01, "ci": [-0.02, 0.04]}},
    {"name": "safe_compliance", "group": "helpful", "value": 0.9, "ci": [0.8, 0.95], "verdict": "worse",
     "difference": {"mean": -0.03, "ci": [-0.05, -0.01]}},
    {"name": "kl", "group": "side_effects", "value": 4.0, "ci": [None, None], "verdict": "changed", "difference": None},
    {"name": "mc1", "group": "honest", "value": None, "ci": [None, None], "verdict": "better",
     "difference": {"mean": None, "ci": [None, None]}},
]  # fmt: skip


def outcome(**rule: Any) -> Checked:
    [found] = check(GateConfig.model_validate({"rules": [rule]}), ROWS)
    return found


@pytest.mark.parametrize(
    ("of", "found"),
    [
        ("value", 0.10),
        ("low", 0.05),
        ("high", 0.2),
        ("difference", 0.01),
        ("difference_low", -0.02),
        ("difference_high", 0.04),
    ],
)
def test_every_number_of_a_row_can_be_bounded_from_either_side(of: str, found: float) -> None:
    for bounds, passes in (
        ({"at_most": found}, True), ({"at_most": found - 1e-6}, False), ({"at_least": found}, True),
        ({"at_least": found + 1e-6}, False), ({"at_least": found - 1, "at_most": found + 1}, True),
        ({"at_least": found + 1, "at_most": found + 2}, False),
    ):  # fmt: skip
        told = outcome(row="toxicity", of=of, **bounds)
        assert (told.outcome, told.ok) == (("passed", True) if passes else ("failed", False))
        assert float(told.found) == found


def test_verdicts() -> None:
    for name, not_worse, better in (
        ("toxicity", True, False), ("safe_compliance", False, False), ("mc1", True, True), ("kl", True, False)
    ):  # fmt: skip
        assert outcome(row=name, verdict="not worse").ok is not_worse
        assert outcome(row=name, verdict="better").ok is better


def test_what_the_card_does_not_have_is_broken_unless_it_is_optional() -> None:
    for rule in (
        {"row": "nowhere", "at_most": 1.0},
        {"row": "kl", "of": "difference", "at_most": 1.0},
        {"row": "kl", "of": "low", "at_most": 1.0},
        {"row": "mc1", "of": "value", "at_most": 1.0},
        {"row": "mc1", "of": "difference", "at_most": 1.0},
    ):
        told = outcome(**rule)
        assert (told.outcome, told.ok) == ("missing", False)
        told = outcome(**rule, optional=True)
        assert (told.outcome, told.ok) == ("skipped", True)


def test_a_card_without_a_base_has_no_verdicts() -> None:
    rows = [{**ROWS[0], "verdict": "", "difference": None}]
    gate = GateConfig.model_validate({"rules": [{"row": "toxicity", "verdict": "not worse"}]})
    assert check(gate, rows)[0].outcome == "missing"


def test_a_pattern_names_every_row_that_fits_and_a_group_narrows_it() -> None:
    def rows(**rule: Any) -> list[str]:
        return [c.row for c in check(GateConfig.model_validate({"rules": [{**rule, "verdict": "not worse"}]}), ROWS)]

    assert rows(row="*") == ["toxicity", "safe_compliance", "kl", "mc1"]
    assert rows(row="*c*") == ["toxicity", "safe_compliance", "mc1"]
    assert rows(row="*", group="harmless") == ["toxicity"]
    assert rows(row="toxicity", group="helpful") == ["toxicity"]  # said to be missing, under the rule's own name
    assert not outcome(row="toxicity", group="helpful", verdict="not worse").ok


def test_rules_say_what_they_ask() -> None:
    assert (
        outcome(row="toxicity", of="difference_high", at_least=-1, at_most=0.02).asks
        == "difference high ≥ -1 and ≤ 0.02"
    )
    assert outcome(row="toxicity", verdict="better", because="so").asks == "verdict better"
    assert outcome(row="toxicity", verdict="better", because="so").because == "so"


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ([], "rules"),
        ([{"row": "a"}], "bounds .at_least, at_most. or a verdict"),
        ([{"row": "a", "at_most": 1, "verdict": "better"}], "one of the two"),
        ([{"row": "a", "at_least": 2, "at_most": 1}], "at_least 2.0 lies above at_most 1.0"),
        ([{"row": "a", "atmost": 1}], "at_most"),
        ([{"row": "a", "of": "mean", "at_most": 1}], "of"),
        ([{"row": "a", "at_most": float("nan")}], "at_most"),
    ],
)
def test_rules_that_say_nothing_are_refused(tmp_path: Path, rules: list[dict[str, Any]], told: str) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.dump({"rules": rules}), encoding="utf-8")
    with pytest.raises(MannersError, match=told):
        load_config(GateConfig, tmp_path / "rules.yaml")


def test_a_card_is_read_from_its_file_or_its_folder_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text(json.dumps({"rows": ROWS}), encoding="utf-8")
    assert read_card(tmp_path) == read_card(tmp_path / "card.json") == {"rows": ROWS}
    for other in ("[]", '{"rows": 3}', '{"rows": [{"value": 1}]}'):
        (tmp_path / "other.json").write_text(other, encoding="utf-8")
        with pytest.raises(MannersError, match="is no behaviour card"):
            read_card(tmp_path / "other.json")
