"""The pages of details speak of code, options and tests that are there, and leave no item of the checklist out."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

from manners.config import Config, parse_yaml
from manners.train.dpo import DPOConfig
from manners.train.grpo import GRPOConfig
from manners.train.ilql import ILQLConfig
from manners.train.ppo import PPOConfig
from manners.train.reward import RewardConfig

ROOT = Path(__file__).parents[1]
SOURCES, TESTS, DETAILS = ROOT / "src" / "manners", ROOT / "tests", ROOT / "docs" / "details"
KINDS: dict[str, type[Config]] = {
    "ppo": PPOConfig,
    "grpo": GRPOConfig,
    "dpo": DPOConfig,
    "ilql": ILQLConfig,
    "reward": RewardConfig,
}
ITEMS = [*range(1, 47)]
CODE = re.compile(r"`([\w/]+\.py):([\w.]+)`")
TEST = re.compile(r"`([\w/]+\.py)::(\w+)`")
OPTION = re.compile(r"`(ppo|grpo|dpo|ilql|reward)\.(\w+): ([^`]+)`")
PAIR = re.compile(r"`([\w/]+\.py)` ((?:`[\w.]+`(?:, )?)+)")


@functools.cache
def names_of(file: Path) -> set[str]:
    """What a file defines: functions, classes, constants, and methods as Class.method."""
    found: set[str] = set()

    def walk(body: list[ast.stmt], before: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(before + node.name)
            if isinstance(node, ast.ClassDef):
                walk(node.body, f"{before}{node.name}.")
            if isinstance(node, ast.Assign):
                found.update(before + target.id for target in node.targets if isinstance(target, ast.Name))
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found.add(before + node.target.id)

    walk(ast.parse(file.read_text(encoding="utf-8")).body, "")
    return found


def rows() -> list[list[str]]:
    """The cells of every item: number, detail, ours, option, where, tests, source, elsewhere."""
    lines = (DETAILS / "checklist.md").read_text(encoding="utf-8").splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if re.match(r"\| \d+ \|", line)]


def there(folder: Path, file: str, name: str) -> bool:
    return (folder / file).is_file() and name in names_of(folder / file)


def test_every_item_has_its_row_with_all_its_cells() -> None:
    assert [int(row[0]) for row in rows()] == ITEMS
    for number, *cells in rows():
        assert len(cells) == 7, number
        assert all(cells), number


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_the_code_the_options_and_the_tests_of_an_item_are_there(row: list[str]) -> None:
    where, tests, options = CODE.findall(row[4]), TEST.findall(row[5]), OPTION.findall(row[3])
    assert [name for name in where if not there(SOURCES, *name)] == []
    assert [name for name in tests if not there(TESTS, *name)] == []
    assert len(where) == row[4].count("`") // 2 > 0
    assert len(tests) == row[5].count("`") // 2 > 0
    assert len(options) == row[3].count("`") // 2
    for kind, key, value in options:
        assert KINDS[kind].model_fields[key].default == parse_yaml(value), key


@pytest.mark.parametrize(("page", "many"), [("ppo.md", 30), ("grpo.md", 25), ("ilql.md", 25), ("reward.md", 30)])
def test_what_a_page_of_details_names_is_there(page: str, many: int) -> None:
    text = (DETAILS / page).read_text(encoding="utf-8")
    code = [(file, name) for file, names in PAIR.findall(text) for name in re.findall(r"`([\w.]+)`", names)]
    assert len(code) > many
    assert [name for name in code if not there(SOURCES, *name)] == []
    known = {name for file in TESTS.rglob("test_*.py") for name in names_of(file) if name.startswith("test_")}
    named = set(re.findall(r"`(test_\w+)`", text))
    assert len(named) > many
    assert sorted(named - known) == []


def test_no_setting_of_a_group_method_goes_without_a_word() -> None:
    text = (DETAILS / "grpo.md").read_text(encoding="utf-8")
    told = {name for code in re.findall(r"`([^`]+)`", text) for name in re.findall(r"\w+", code)}
    assert set(GRPOConfig.model_fields) - set(PPOConfig.model_fields) - told == set()


def test_no_setting_of_ilql_goes_without_a_word() -> None:
    text = (DETAILS / "ilql.md").read_text(encoding="utf-8")
    told = {name for code in re.findall(r"`([^`]+)`", text) for name in re.findall(r"\w+", code)}
    elsewhere = {"model", "trust_remote_code"}  # what to train and on what: the tutorial says it
    assert set(ILQLConfig.model_fields) - told - elsewhere == set()


def test_no_setting_of_ppo_goes_without_a_word() -> None:
    text = (DETAILS / "ppo.md").read_text(encoding="utf-8")
    told = {name for code in re.findall(r"`([^`]+)`", text) for name in re.findall(r"\w+", code)}
    elsewhere = {"model", "prompts", "trust_remote_code"}  # what to train and on what: the tutorial says it
    assert set(PPOConfig.model_fields) - told - elsewhere == set()
