"""`manners agree` and pairs that weigh as much as their judge is believed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from planted import planted
from typer.testing import CliRunner

from manners.cli.app import app
from manners.feedback.assign import Desk
from manners.feedback.batch import BatchSettings
from manners.feedback.materials import Material
from manners.feedback.pairs import read_pairs
from manners.feedback.people import People
from manners.feedback.store import Store
from manners.records import Completion, Judgement, Prompt, Ranking

Call = Callable[..., str]


@pytest.fixture
def crowd(store: Store) -> Store:
    """A store into which the rankings of planted annotators were imported."""
    opinions = planted(questions=60, overlap=6)
    judgements = []
    for opinion in opinions.all:
        prompt = Prompt.of(opinion.question)
        answers = {
            name: Completion(prompt.id, f"{name} {'x' * opinions.lengths[name]}") for name in sorted(opinion.shown)
        }
        tiers = tuple(tuple(answers[name].id for name in tier) for tier in opinion.tiers)
        judgements.append(
            Judgement(prompt, tuple(answers.values()), Ranking(prompt.id, tiers, judge=opinion.annotator))
        )
    store.add(judgements)
    return store


@pytest.fixture
def call(store: Store) -> Call:
    """Runs a command on the store; gives what it prints, where it ends as it should."""

    def call(*words: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, [*words, "--db", store.place], env={"COLUMNS": "80"})
        assert done.exit_code == code, done.output
        return str(done.exception) if code else done.stdout

    return call


def test_the_report_in_words(crowd: Store, call: Call) -> None:
    said = call("agree")
    assert f"{crowd.place}: 360 judgements of 60 questions, 60 of them by two people or more" in said
    assert "Krippendorff's α of choices: People agree more than by chance" in said
    assert "Place on the screen: Not defined" in said
    assert "adversary: takes the other side than others in" in said
    assert "copy: where one of the two is alone" in said
    assert "(with good0)" in said
    # Eighty columns are enough: no word of a table is cut.
    assert "…" not in said


@pytest.mark.usefixtures("crowd")
def test_the_report_as_json(call: Call) -> None:
    report = json.loads(call("agree", "--json"))
    assert (report["batch"], report["judgements"]) == (None, 360)
    assert {measure["key"] for measure in report["measures"]} == {"pairs_alpha", "pairs_same", "tau_b", "w"}
    kinds = {standing["id"]: [r["kind"] for r in standing["remarks"]] for standing in report["annotators"]}
    assert kinds["adversary"] == ["contrary"]
    assert kinds["good1"] == []


def test_one_batch_by_name_and_names_of_people(store: Store, desk: Desk, people: People, call: Call) -> None:
    prompt = Prompt.of("Where is Oslo?")
    answers = tuple(Completion(prompt.id, text) for text in ("No idea.", "In Norway."))
    batch = desk.create(BatchSettings(name="Capitals"), "# Be kind", [Material(prompt, answers)])
    ann = people.accept(people.invite("annotator"), "Ann Lee", "no hash")
    ranking = Ranking(prompt.id, ((answers[1].id,), (answers[0].id,)), judge=ann.id)
    store.add([Judgement(prompt, answers, ranking)])
    assert "Ann Lee" in call("agree")
    assert f"{store.place}, Capitals: 0 judgements" in call("agree", "--batch", "Capitals")
    assert json.loads(call("agree", "--batch", batch.id, "--json"))["batch"] == batch.id
    assert "there is no batch 'Rivers'" in call("agree", "--batch", "Rivers", code=1)


def _weights(folder: Path) -> dict[str, set[float]]:
    found: dict[str, set[float]] = {}
    for name in ("train", "validation", "test"):
        for pair in read_pairs(folder / f"{name}.jsonl"):
            found.setdefault(pair.judge, set()).add(round(pair.weight, 9))
    return found


@pytest.mark.usefixtures("crowd")
def test_pairs_weigh_as_much_as_their_judge_is_believed(call: Call, tmp_path: Path) -> None:
    report: dict[str, Any] = json.loads(call("agree", "--json"))
    believed = {standing["id"]: standing["reliability"] for standing in report["annotators"]}
    call("pairs", "--out", str(tmp_path / "plain"))
    call("pairs", "--out", str(tmp_path / "weighed"), "--weights", "dawid-skene", "--halves")
    assert set(_weights(tmp_path / "plain")) == set(believed)
    found = _weights(tmp_path / "weighed")
    assert "adversary" not in found
    for who, weights in found.items():
        assert sorted(weights) == [pytest.approx(believed[who] / 3)]
    assert "adversary" not in {pair.judge for pair in read_pairs(tmp_path / "weighed" / "first" / "train.jsonl")}
    manifest = json.loads((tmp_path / "weighed" / "manifest.json").read_text())
    assert manifest["made_from"]["weights"] == {"by": "dawid-skene", "reliabilities": pytest.approx(believed)}
    assert "weights" not in json.loads((tmp_path / "plain" / "manifest.json").read_text())["made_from"]


def test_weights_that_cannot_be_told_are_refused(store: Store, call: Call, tmp_path: Path) -> None:
    prompt = Prompt.of("Where is Oslo?")
    answers = tuple(Completion(prompt.id, text) for text in ("No idea.", "In Norway."))
    store.add([Judgement(prompt, answers, Ranking(prompt.id, tuple((c.id,) for c in answers), judge="ann"))])
    out = str(tmp_path / "pairs")
    assert "fewer than three annotators" in call("pairs", "--out", out, "--weights", "dawid-skene", code=1)
    assert "--weights must be one of dawid-skene" in call("pairs", "--out", out, "--weights", "votes", code=1)
