from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from manners.cli.data import made_from
from manners.cli.resume import reopen, source_of
from manners.config import Config, load_config
from manners.errors import MannersError
from manners.runs import Run, read_json


class Inner(Config):
    weight: float = 0.5


class Toy(Config):
    steps: int = 3
    beta: float = 0.05
    inner: Inner = Inner()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run made from a file of pairs and from a model, with a state after two of its steps."""
    (tmp_path / "pairs").write_text("first", encoding="utf-8")
    run = Run.create(tmp_path / "run", "toy", Toy(), sources(tmp_path))
    for step in range(3):
        run.log(step=step)
    with run.state(2) as folder:
        (folder / "weights").write_text("2", encoding="utf-8")
    run.mark("failed", error="power")
    return run


def sources(folder: Path, **others: str) -> dict[str, Any]:
    return made_from(folder / "run", **{"pairs": folder / "pairs", "model": "starter"} | others)


def test_the_same_settings_and_sources_go_on_from_the_last_state(tmp_path: Path, run: Run) -> None:
    before = (run.path / "lineage.json").read_bytes()
    again, state = reopen(run.path, "toy", Toy(), sources(tmp_path), accept_changes=False)
    assert state == run.path / "resume" / "00000002"
    assert [row["step"] for row in again.metrics()] == [0, 1]
    assert again.status["status"] == "running"
    assert (run.path / "lineage.json").read_bytes() == before


def refusal(run: Run, settings: Config, made: dict[str, Any]) -> str:
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    with pytest.raises(MannersError) as caught:
        reopen(run.path, "toy", settings, made, accept_changes=False)
    assert {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()} == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_changed_settings_are_named_with_both_values_and_refused(tmp_path: Path, run: Run) -> None:
    told = refusal(run, Toy(beta=0.1, inner=Inner(weight=2)), sources(tmp_path))
    assert "(beta: 0.05 → 0.1; inner.weight: 0.5 → 2.0)" in told
    assert "--accept-changes" in told


def test_a_changed_source_is_named_with_both_hashes_and_refused(tmp_path: Path, run: Run) -> None:
    before = sources(tmp_path)["pairs"]["hash"]
    (tmp_path / "pairs").write_text("second", encoding="utf-8")
    now = sources(tmp_path)["pairs"]["hash"]
    assert before != now
    assert f"(pairs: content {before} → {now})" in refusal(run, Toy(), sources(tmp_path))


def test_a_source_that_is_new_or_gone_is_named(tmp_path: Path, run: Run) -> None:
    (tmp_path / "judge").write_text("judge", encoding="utf-8")
    found = sources(tmp_path, reward=str(tmp_path / "judge"))
    assert f"(reward: content nothing → {found['reward']['hash']})" in refusal(run, Toy(), found)
    gone = {"model": sources(tmp_path)["model"]}
    assert f"(pairs: content {sources(tmp_path)['pairs']['hash']} → nothing)" in refusal(run, Toy(), gone)


def test_an_accepted_change_goes_on_and_is_written_into_the_lineage(tmp_path: Path, run: Run) -> None:
    (tmp_path / "pairs").write_text("second", encoding="utf-8")
    made = sources(tmp_path)
    again, state = reopen(run.path, "toy", Toy(steps=9), made, accept_changes=True)
    assert state is not None
    assert load_config(Toy, run.path / "config.yaml") == Toy(steps=9)
    lineage = read_json(run.path / "lineage.json")
    assert (lineage["kind"], lineage["made_from"]) == ("toy", made)
    (change,) = lineage["changes"]
    assert change["before_step"] == 2
    assert change["differences"][0] == "steps: 3 → 9"
    assert change["differences"][1].startswith("pairs: content ")
    # accepted once, it is the run's own; the next change comes behind it
    reopen(run.path, "toy", Toy(steps=9), made, accept_changes=False)
    reopen(run.path, "toy", Toy(steps=10), made, accept_changes=True)
    assert [c["differences"][0] for c in read_json(run.path / "lineage.json")["changes"]] == [
        "steps: 3 → 9",
        "steps: 9 → 10",
    ]
    assert again.kind == "toy"


def test_a_run_of_another_kind_and_a_folder_without_a_run_are_told(tmp_path: Path, run: Run) -> None:
    with pytest.raises(MannersError, match="is a run of kind 'toy', not 'ppo'"):
        reopen(run.path, "ppo", Toy(), {}, accept_changes=True)
    with pytest.raises(MannersError, match="is not a run directory"):
        reopen(tmp_path, "toy", Toy(), {}, accept_changes=True)


def test_a_source_lies_where_the_lineage_says(tmp_path: Path, run: Run) -> None:
    found = source_of(run.path, "pairs")
    assert found is not None
    assert found.resolve() == (tmp_path / "pairs").resolve()
    assert source_of(run.path, "reward") is None
