"""The configs that come along load, name every key, and are those of the demo."""

from __future__ import annotations

from pathlib import Path

import pytest

from manners.cli.demo import DemoConfig
from manners.config import Config, load_config, parse_yaml
from manners.train.classifier import ClassifierConfig
from manners.train.ppo import PPOConfig
from manners.train.reward import RewardConfig
from manners.train.sft import SFTConfig

FOLDER = Path(__file__).parent.parent / "configs"
KINDS: dict[str, type[Config]] = {
    "sft": SFTConfig,
    "reward": RewardConfig,
    "ppo": PPOConfig,
    "classifier": ClassifierConfig,
}


@pytest.mark.parametrize("name", KINDS)
def test_every_key_is_there(name: str) -> None:
    path = FOLDER / f"{name}.yaml"
    assert set(parse_yaml(path.read_text(encoding="utf-8"))) == set(KINDS[name].model_fields)
    load_config(KINDS[name], path)


@pytest.mark.parametrize("name", ["sft", "reward", "ppo"])
def test_values_are_those_of_the_demo(name: str) -> None:
    assert load_config(KINDS[name], FOLDER / f"{name}.yaml") == getattr(DemoConfig(), name)


def test_no_config_lies_there_unchecked() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(KINDS)
