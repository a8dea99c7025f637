from __future__ import annotations

import math
import random
import string
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field, ValidationError, model_validator

from manners.config import Config, dump_config, load_config, parse_yaml
from manners.errors import MannersError


class Judge(Config):
    path: str = ""
    scale: float = Field(1.0, gt=0)


class Nest(Config):
    judge: Judge = Judge()
    depth: int = 1


class Toy(Config):
    learning_rate: float = Field(1e-4, gt=0)
    steps: int = Field(10, gt=0)
    layers: int | Literal["all"] = "all"
    name: str = "starter"
    shares: tuple[float, ...] = (0.1, 0.2)
    limit: float | None = None
    fast: bool = True
    judge: Judge = Judge()
    nest: Nest = Nest()

    @model_validator(mode="after")
    def _fits(self) -> Toy:
        if self.name == "nobody":
            raise ValueError("nobody cannot be trained")
        return self


def write(folder: Path, text: str) -> Path:
    path = folder / "toy.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(*args: Any) -> str:
    with pytest.raises(MannersError) as caught:
        load_config(Toy, *args)
    message = str(caught.value)
    assert "\n" not in message, "a message is one line"
    return message


def test_a_section_keeps_the_defaults_it_has_here() -> None:
    class Whole(Config):
        nest: Nest = Nest(judge=Judge(path="here", scale=2), depth=3)
        other: Nest = Nest()

    got = load_config(Whole, None, ["nest.judge.scale=4", "other.depth=2"])
    assert got.nest == Nest(judge=Judge(path="here", scale=4), depth=3)
    assert got.other == Nest(depth=2)
    assert load_config(Whole, None, ["nest.depth=5"]).nest == Nest(judge=Judge(path="here", scale=2), depth=5)
    assert Whole(nest=Nest()).nest == Nest(), "a section given as a config is taken as it is"


# --- numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5), ("1E5", 1e5), ("+1e5", 1e5), ("-3e-4", -3e-4), ("2.5e3", 2500.0), ("2.e3", 2000.0), (".5e1", 5.0),
        ("1_000e1", 1e4), ("0.1", 0.1), (".5", 0.5), ("1.", 1.0), ("-.5", -0.5), (".inf", math.inf), ("-.inf", -math.inf),
    ],
)  # fmt: skip
def test_what_everybody_reads_as_a_number_is_one(text: str, value: float) -> None:
    read = parse_yaml(text)
    assert read == value
    assert type(read) is float


@pytest.mark.parametrize(("text", "value"), [("3", 3), ("-3", -3), ("0", 0), ("1_000", 1000)])
def test_whole_numbers_stay_whole(text: str, value: int) -> None:
    assert parse_yaml(text) == value
    assert type(parse_yaml(text)) is int


@pytest.mark.parametrize(
    "text", ["1e", "e5", "1e5x", "1.2.3", "1-2", "v1.0", "1e5.0", ".", "+", "'1e-5'", '"2"', "1 e5"]
)
def test_what_only_looks_like_a_number_stays_text(text: str) -> None:
    assert type(parse_yaml(text)) is str


def test_a_learning_rate_in_scientific_notation_arrives_as_such(tmp_path: Path) -> None:
    assert load_config(Toy, write(tmp_path, "learning_rate: 1e-5")).learning_rate == 0.00001
    assert load_config(Toy, None, ["learning_rate=3E-4"]).learning_rate == 0.0003


# --- reading --------------------------------------------------------------------------------------------------------


def test_without_file_and_with_an_empty_one_all_is_default(tmp_path: Path) -> None:
    assert load_config(Toy) == Toy()
    assert load_config(Toy, write(tmp_path, "")) == Toy()
    assert load_config(Toy, write(tmp_path, "# nothing but words\n")) == Toy()


def test_a_file_sets_what_it_names_and_leaves_the_rest(tmp_path: Path) -> None:
    read = load_config(Toy, write(tmp_path, "steps: 3\nlayers: 8\njudge:\n  path: Ärger/runs\nshares: [0.5]\n"))
    assert read == Toy(steps=3, layers=8, judge=Judge(path="Ärger/runs"), shares=(0.5,))


def test_overrides_beat_the_file_and_the_last_one_wins(tmp_path: Path) -> None:
    path = write(tmp_path, "steps: 3\nname: mine\njudge: {path: a, scale: 2}\n")
    read = load_config(Toy, path, ["steps=4", "judge.scale=5", "steps=6"])
    assert (read.steps, read.name, read.judge) == (6, "mine", Judge(path="a", scale=5.0))


@pytest.mark.parametrize(
    ("override", "field", "value"),
    [
        ("steps=7", "steps", 7),
        (" steps =7", "steps", 7),
        ("layers=8", "layers", 8),
        ("layers=all", "layers", "all"),
        ("fast=false", "fast", False),
        ("limit=2", "limit", 2.0),
        ("limit=null", "limit", None),
        ("shares=[0.5, 1e-3]", "shares", (0.5, 0.001)),
        ("name=runs/a=b", "name", "runs/a=b"),
        ("judge={path: x, scale: 2}", "judge", Judge(path="x", scale=2.0)),
        ("judge.path=x", "judge", Judge(path="x")),
        ("nest.judge.scale=1e-2", "nest", Nest(judge=Judge(scale=0.01))),
    ],
)
def test_an_override_has_the_type_of_its_field(override: str, field: str, value: Any) -> None:
    read = getattr(load_config(Toy, None, [override]), field)
    assert read == value
    assert type(read) is type(value)


def test_a_config_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_config(Toy).steps = 3  # type: ignore[misc]


# --- what is refused ------------------------------------------------------------------------------------------------


def test_an_unknown_key_is_told_with_the_nearest_known_one(tmp_path: Path) -> None:
    path = write(tmp_path, "learning_rat: 1e-5")
    assert refusal(path) == f"unknown config key 'learning_rat' in {path}; did you mean 'learning_rate'?"
    assert refusal(None, ["stepps=3"]) == "unknown config key 'stepps'; did you mean 'steps'?"


def test_an_unknown_key_inside_is_compared_with_the_keys_there(tmp_path: Path) -> None:
    assert "'judge.pth'" in refusal(write(tmp_path, "judge: {pth: a}"))
    assert "did you mean 'path'?" in refusal(write(tmp_path, "judge: {pth: a}"))
    assert "did you mean 'scale'?" in refusal(None, ["nest.judge.scael=2"])
    # `steps` is a key outside only: it is not offered in there.
    assert refusal(None, ["judge.steps=2"]) == "unknown config key 'judge.steps'; known keys: path, scale"


def test_an_unknown_key_like_no_other_lists_what_there_is() -> None:
    known = "learning_rate, steps, layers, name, shares, limit, fast, judge, nest"
    assert refusal(None, ["qqq=2"]) == f"unknown config key 'qqq'; known keys: {known}"


def test_a_wrong_value_is_told_with_its_key(tmp_path: Path) -> None:
    assert "'steps'" in refusal(None, ["steps=0"])
    assert "greater than 0" in refusal(None, ["steps=0"])
    assert "(got 'many')" in refusal(None, ["steps=many"])
    assert "fractional part (got 2.5)" in refusal(None, ["steps=2.5"])
    assert "'judge.scale'" in refusal(write(tmp_path, "judge: {scale: -1}"))
    assert "nobody cannot be trained" in refusal(None, ["name=nobody"])
    assert "'learning_rate'" in refusal(None, ["learning_rate=.nan"])


def test_a_wrong_value_of_a_choice_is_told_with_the_key_alone() -> None:
    assert "config key 'layers'" in refusal(None, ["layers=most"])


def test_a_missing_file_is_told_by_name(tmp_path: Path) -> None:
    path = tmp_path / "nowhere.yaml"
    assert refusal(path) == f"config file {path} does not exist"


def test_a_directory_in_place_of_a_file_is_told(tmp_path: Path) -> None:
    assert str(tmp_path) in refusal(tmp_path)


@pytest.mark.parametrize("text", ["a: b: c", "[1, 2", "name: @x", "name: !!python/object/apply:os.getcwd []", "a: 'b"])
def test_what_is_not_yaml_is_told_with_the_file(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    assert refusal(path).startswith(f"config file {path} is not YAML: ")


def test_bytes_that_are_no_text_are_told(tmp_path: Path) -> None:
    path = tmp_path / "toy.yaml"
    path.write_bytes(b"name: \xff\xfe\x00")
    assert refusal(path).startswith(f"config file {path} is not YAML: ")


@pytest.mark.parametrize(("text", "kind"), [("- a\n- b", "list"), ("hello", "str"), ("3", "int")])
def test_a_file_without_keys_is_told(tmp_path: Path, text: str, kind: str) -> None:
    path = write(tmp_path, text)
    assert refusal(path) == f"config file {path} must hold keys and values, not {kind}"


@pytest.mark.parametrize("override", ["steps", "=3", ""])
def test_an_override_without_key_or_value_is_told(override: str) -> None:
    assert refusal(None, [override]) == f"--set takes key=value, not {override!r}"


@pytest.mark.parametrize("override", ["steps=[1,", "name=@x", "name='x", "name=a: b: c"])
def test_an_override_that_is_not_yaml_is_told(override: str) -> None:
    assert override in refusal(None, [override])


def test_no_keys_go_under_a_plain_value(tmp_path: Path) -> None:
    path = write(tmp_path, "steps: 3")
    assert refusal(path, ["steps.inner=1"]) == "--set steps.inner=1: steps holds a value, not further keys"
    assert refusal(None, ["judge.path=a", "judge.path.b=c"]).startswith("--set judge.path.b=c: path holds a value")


# --- writing --------------------------------------------------------------------------------------------------------


def test_every_default_is_written_out(tmp_path: Path) -> None:
    written = parse_yaml(dump_config(Toy(steps=3)))
    assert list(written) == ["learning_rate", "steps", "layers", "name", "shares", "limit", "fast", "judge", "nest"]
    assert written["judge"] == {"path": "", "scale": 1.0}
    assert (written["steps"], written["limit"], written["shares"]) == (3, None, [0.1, 0.2])
    assert load_config(Toy, write(tmp_path, dump_config(Toy(steps=3)))) == Toy(steps=3)


@pytest.mark.parametrize("seed", range(30))
def test_what_is_written_reads_back_the_same(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)

    def text() -> str:
        return "".join(draw.choices(string.printable + "äß世界🙂", k=draw.randint(0, 12)))

    config = Toy(
        learning_rate=10 ** draw.uniform(-12, 12), steps=draw.randint(1, 10**9), layers=draw.choice(["all", 1, 30]),
        name=text(), shares=tuple(draw.random() for _ in range(draw.randint(0, 3))), limit=draw.choice([None, 0.0, 1e-30]),
        fast=draw.random() < 0.5, judge=Judge(path=text(), scale=draw.random() + 1e-9),
        nest=Nest(judge=Judge(path=text()), depth=-draw.randint(0, 5)),
    )  # fmt: skip
    assert load_config(Toy, write(tmp_path, dump_config(config))) == config


@pytest.mark.parametrize(
    "name",
    ["1e5", "1e-5", "1.5e3", "1.", ".5", "3", "yes", "null", "~", "", "a: b", "# x", " x ", "12:30", "'", "2026-01-01"],
)
def test_text_that_looks_like_something_else_reads_back_as_text(tmp_path: Path, name: str) -> None:
    config = Toy(name=name)
    assert load_config(Toy, write(tmp_path, dump_config(config))) == config
