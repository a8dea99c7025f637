"""`manners constitution prefer` and `judge` as a user calls them: a local model, an endpoint, a kill in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from fake_endpoint import Answer, Body, FakeEndpoint, chat, serving, soft
from writers import SHORT

from manners import cli
from manners.feedback.importers import read
from manners.feedback.pairs import read_pairs
from manners.records import Judgement
from manners.runs import read_json, read_jsonl

KEY = "sk-very-secret-0123456789"
ANSWERED = 57  # calls before the kill: all 48 answers, and some comparisons
HUMAN = [{"prompt": f"say {i}", "completions": ["kind", "go"], "ranking": [0, 1] if i else [1, 0]} for i in range(20)]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with prompts, judgements by people and the key in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JUDGE_KEY", KEY)
    (tmp_path / "prompts.txt").write_text("".join(f"hello {i}\n" for i in range(24)), encoding="utf-8")
    (tmp_path / "human.jsonl").write_text("".join(json.dumps(row) + "\n" for row in HUMAN), encoding="utf-8")
    return tmp_path


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Run `manners constitution`, or `manners train`, in this process; gives its exit code."""
    first = [] if words[0] == "train" else ["constitution"]
    monkeypatch.setattr(sys, "argv", ["manners", *first, *words])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def at(fake: FakeEndpoint, **more: Any) -> list[str]:
    """Options that let the endpoint write and judge."""
    where = {"base_url": fake.url, "model": "big", "key_variable": "JUDGE_KEY", "concurrency": 2, "first_wait": 0.01}
    named = {f"{place}.{key}": value for place in ("writer", "judge.endpoint") for key, value in where.items()}
    every = {"constitution": SHORT, "batch": 4, **named, **more}
    return [part for key, value in every.items() for part in ("--set", f"{key}={value}")]


def polite(body: Body, _: int) -> Answer:
    """Writes "kind" or "go", and finds "kind" better wherever it stands, with a pull of the first place."""
    text = body["messages"][-1]["content"]
    if "(A) " not in text:
        return chat("kind" if body["seed"] % 2 else "go")
    a, b = text.split("(A) ")[1].split(" (B) ")
    return soft(-1.0 + 1.5 * a.startswith("kind") - 0.6, -1.0 + 1.5 * b.startswith("kind") - 1.5)


def test_an_endpoint_writes_and_judges(workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    with serving(polite) as fake:
        options = [*at(fake), "--prompts", "prompts.txt", "--check-on", "human.jsonl", "--mix", "human.jsonl"]
        assert call(monkeypatch, "prefer", "--run", "runs/p", *options, "--json") == 0
        numbers = json.loads(capsys.readouterr().out)
        paid = fake.calls
        assert call(monkeypatch, "prefer", "--run", "runs/again", *options) == 0
        assert fake.calls == paid  # the answers of the first run are beside both
    assert numbers["quality"]["agreement"]["value"] == pytest.approx(19 / 20)
    assert numbers["flip_rate"]["value"] == 0.0
    judgements = [row for row in read(workplace / "runs/p/judgements.jsonl") if isinstance(row, Judgement)]
    assert len(judgements) == numbers["n_comparisons"] > 0
    pairs = [
        p for split in ("train", "validation", "test") for p in read_pairs(workplace / f"runs/p/pairs/{split}.jsonl")
    ]
    machine = [p for p in pairs if p.judge == "big"]
    assert len(machine) == len(judgements)
    assert {p.chosen.text for p in machine} == {"kind"}
    assert len(pairs) - len(machine) == 20
    assert set(fake.keys) == {f"Bearer {KEY}"}
    for path in workplace.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes()
    assert read_json(workplace / "runs/p/lineage.json")["made_from"]["constitution"]["kind"] == "constitution"


def test_a_run_killed_in_the_middle_repeats_no_call(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = threading.Event()

    def answer(body: Body, number: int) -> Answer:
        if number >= ANSWERED:
            dead.wait(60)
        return polite(body, number)

    with serving(answer) as fake:
        options = [*at(fake), "--set", "check_on=none", "--prompts", "prompts.txt"]
        code = "from manners.cli import main; main()"
        process = subprocess.Popen(
            [sys.executable, "-c", code, "constitution", "prefer", "--run", "runs/p", *options],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while fake.calls < ANSWERED + 2 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        dead.set()
        kept = {row["key"] for row in whole_rows(workplace / "runs/endpoint-cache.jsonl")}
        assert fake.calls == ANSWERED + 2
        assert ANSWERED - 2 <= len(kept) <= ANSWERED  # an answer may have come and not been written down yet
        assert call(monkeypatch, "prefer", "--resume", "runs/p", *options) == 0
        asked = [json.dumps(body, sort_keys=True) for body in fake.bodies]
        assert len(asked) - len(set(asked)) == ANSWERED + 2 - len(kept)  # those that were on their way when it died
        assert len(read_jsonl(workplace / "runs/p/answers.jsonl")) == 24
        rows = read_jsonl(workplace / "runs/p/comparisons.jsonl")
        assert len({row["id"] for row in rows}) == len(rows) > 0
        done = fake.calls
        assert call(monkeypatch, "prefer", "--resume", "runs/p", *options) == 0
        assert fake.calls == done


def whole_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def test_a_judge_below_chance_is_refused_and_the_run_says_failed(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def rude(body: Body, number: int) -> Answer:
        answer = polite(body, number)
        return answer if "seed" in body else soft(*reversed([t["logprob"] for t in tops(answer)]))

    with serving(rude) as fake:
        options = [*at(fake), "--prompts", "prompts.txt", "--check-on", "human.jsonl"]
        assert call(monkeypatch, "prefer", "--run", "runs/p", *options) == 1
        said = capsys.readouterr().err
        assert "big is no teacher: it agrees with people in 0.050 of 20 comparisons" in " ".join(said.split())
        assert read_json(workplace / "runs/p/status.json")["status"] == "failed"
        allowed = [*options, "--set", "allow_weak_judge=true"]
        assert call(monkeypatch, "prefer", "--run", "runs/q", *allowed) == 0
    assert "a weak judge teaches" in capsys.readouterr().err


def tops(answer: Answer) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = answer.body["choices"][0]["logprobs"]["content"][1]["top_logprobs"]
    return found


def test_a_tiny_model_writes_and_judges(workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    sets = {"model": "tiny-random", "judge.model": "tiny-random", "constitution": SHORT, "max_tokens": 6, "answers": 3,
            "check_on": "none"}  # fmt: skip
    options = [part for key, value in sets.items() for part in ("--set", f"{key}={value}")]
    assert call(monkeypatch, "prefer", "--run", "runs/p", "--prompts", "prompts.txt", *options) == 0
    assert "next: manners train reward --data runs/p/pairs" in " ".join(capsys.readouterr().out.split())
    rows = read_jsonl(workplace / "runs/p/comparisons.jsonl")
    assert 60 < len(rows) <= 72  # a few answers are the same or empty
    assert all(0 < row["probability"] < 1 for row in rows)
    trained = ["train", "reward", "--data", "runs/p/pairs", "--run", "runs/r", "--set", "model=tiny-random",
               "--set", "train_layers=1", "--set", "rank=2", "--set", "epochs=1"]  # fmt: skip
    assert call(monkeypatch, *trained) == 0
    assert read_json(workplace / "runs/r/status.json")["status"] == "finished"


def test_how_good_a_judge_is(workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    with serving(polite) as fake:
        options = [o for o in at(fake) if "writer" not in o]
        options = [part for o in options if o != "--set" for part in ("--set", o)]
        words = ["judge", "--data", "human.jsonl", "--run", "runs/j", *options]
        assert call(monkeypatch, *words, "--json") == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["agreement"]["value"], found["agreement"]["n"]) == (pytest.approx(0.95), 20)
        assert set(found["by_principle"]) <= {"kinder", "truer"}
        before = fake.calls
        assert call(monkeypatch, *words, "--resume", "runs/j") == 0
        assert fake.calls == before
    out = " ".join(capsys.readouterr().out.split())
    assert "big on 20 comparisons, 20 prompts" in out
    assert "agrees with people │ 0.950" in out
    assert read_json(workplace / "runs/j/evaluation.json") == {k: v for k, v in found.items() if k != "run"}


def test_a_server_that_is_down_is_one_line(workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    with serving(polite) as fake:
        options = at(fake, **{"writer.attempts": 2})
    assert (
        call(monkeypatch, "prefer", "--run", "runs/p", "--prompts", "prompts.txt", *options, "--set", "check_on=none")
        == 1
    )
    said = capsys.readouterr().err
    assert f"error: nobody answers at {fake.url}" in said
    assert "Traceback" not in said
    assert not (workplace / "runs/p/answers.jsonl").exists()
