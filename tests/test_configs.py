"""The configs that come along load, name every key, and are those of the demo."""

from __future__ import annotations

from pathlib import Path

import pytest

from manners.cli.constitutional import ConstitutionConfig
from manners.cli.demo import DemoConfig
from manners.config import Config, load_config, parse_yaml
from manners.evaluate.comparison import CompareConfig
from manners.evaluate.overoptimisation import OveroptimisationConfig
from manners.train.classifier import ClassifierConfig
from manners.train.dpo import DPOConfig
from manners.train.grpo import GRPOConfig
from manners.train.ilql import ILQLConfig
from manners.train.ppo import PPOConfig
from manners.train.reward import RewardConfig
from manners.train.sft import SFTConfig

FOLDER = Path(__file__).parent.parent / "configs"
COMPLETE: dict[str, type[Config]] = {
    "sft": SFTConfig,
    "reward": RewardConfig,
    "ppo": PPOConfig,
    "grpo": GRPOConfig,
    "dpo": DPOConfig,
    "ilql": ILQLConfig,
    "classifier": ClassifierConfig,
    "overoptimisation": OveroptimisationConfig,
    "compare": CompareConfig,
    "constitution": ConstitutionConfig,
}
VARIANTS: dict[str, type[Config]] = {
    "tiny_ppo": PPOConfig,
    "hacking": PPOConfig,
    "noisy_reward": RewardConfig,
}
FILES = sorted(
    path for path in FOLDER.glob("*.yaml") if path.stem != "gate"
)  # rules without a number, read by the gate's own test


@pytest.mark.parametrize("name", COMPLETE)
def test_every_key_is_there(name: str) -> None:
    assert set(parse_yaml((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))) == set(COMPLETE[name].model_fields)


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_every_config_loads_for_its_method_and_its_values_are_taken(path: Path) -> None:
    written = parse_yaml(path.read_text(encoding="utf-8"))
    kind = (COMPLETE | VARIANTS)[path.stem]  # a new file needs a line above
    loaded = load_config(kind, path).model_dump(mode="json")
    numbers = {key: value for key, value in written.items() if isinstance(value, int | float | str)}
    assert numbers
    assert {key: loaded[key] for key in numbers} == numbers


@pytest.mark.parametrize("name", ["sft", "reward", "ppo"])
def test_values_are_those_of_the_demo(name: str) -> None:
    assert load_config(COMPLETE[name], FOLDER / f"{name}.yaml") == getattr(DemoConfig(), name)
