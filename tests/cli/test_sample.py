"""From a model to the ranking screen: `manners sample --batch`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from manners.cli.app import app
from manners.errors import MannersError
from manners.feedback.assign import Desk
from manners.feedback.store import Store


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("one\ntwo\n\nthree\n", encoding="utf-8")


def sample(*more: str) -> str:
    arguments = ["sample", "tiny-random", "prompts.txt", "--max-tokens", "6", "--temperature", "1", *more]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_one_step_from_a_model_to_a_batch_and_one_more_to_a_ranking() -> None:
    assert sample("--k", "3", "--batch", "First") == "batch 'First': 3 prompts; next, manners serve or manners rank\n"
    done = CliRunner().invoke(app, ["rank", "--as", "Ana", "--json"], input="b>a=c\n\n", catch_exceptions=False)
    assert json.loads(done.stdout)["answers"] == 1
    with Store.open("manners.db") as store:
        [judgement] = store.judgements()
        assert {c.model for c in judgement.completions} == {"tiny-random"}
        assert [len(tier) for tier in judgement.ranking.tiers] == [1, 2]
        assert Desk(store).progress(Desk(store).batches()[0].id).wanted == 3


def test_the_answers_go_where_they_are_wanted() -> None:
    said = sample("--k", "2", "--batch", "Pairs", "--mode", "pair", "--db", "other.db", "--out", "answers.jsonl")
    assert "'Pairs'" in said
    rows = [json.loads(line) for line in Path("answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [len(row["completions"]) for row in rows] == [2, 2, 2]
    assert not Path("manners.db").exists()
    with Store.open("other.db", create=False) as store:
        assert [b.settings.mode for b in Desk(store).batches()] == ["pair"]
        assert store.counts().completions == 6


def test_answers_that_are_all_the_same_are_one() -> None:
    greedy = [
        "sample",
        "tiny-random",
        "prompts.txt",
        "--k",
        "2",
        "--max-tokens",
        "3",
        "--temperature",
        "0",
        "--batch",
        "Same",
    ]
    with pytest.raises(MannersError, match="higher temperature"):
        CliRunner().invoke(app, greedy, catch_exceptions=False)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--mode", "pair"], "mode pair takes items with 2"),
        (["--k", "1"], "takes items with 2 to 9"),
        (["--mode", "no"], "--mode must be"),
    ],
)
def test_a_batch_that_cannot_be_is_refused_before_the_model_is_loaded(more: list[str], words: str) -> None:
    with pytest.raises(MannersError, match=words):
        CliRunner().invoke(
            app, ["sample", "no-such-model", "prompts.txt", "--batch", "b", *more], catch_exceptions=False
        )
    assert not Path("manners.db").exists()
