"""`manners constitution` from the command line: files, prompts, and everything in one go on a tiny model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from tiny import tiny_model, tiny_tokenizer
from typer.testing import CliRunner
from writers import SHORT

from manners.cli import constitutional
from manners.cli.app import app
from manners.cli.revising import prompts_of
from manners.constitution.constitution import Constitution
from manners.constitution.judges import AIJudgeConfig, DirectJudge, load_judge
from manners.constitution.prompts import normalised
from manners.constitution.revise import ReviseConfig
from manners.constitution.steps import read_steps
from manners.errors import MannersError
from manners.feedback.pairs import read_pairs
from manners.feedback.store import Store
from manners.records import Completion, Judgement, Prompt, Ranking
from manners.runs import Run, read_json, read_jsonl, write_jsonl

SMALL = ["--set", "model=tiny-random", "--set", f"constitution={SHORT}", "--set", "rounds=1", "--set", "max_tokens=6",
         "--set", "critique_tokens=4", "--set", "helpful=''"]  # fmt: skip


def manners(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_principles_can_be_read_and_checked() -> None:
    shown = json.loads(manners("constitution", "show", "--json"))
    checked = json.loads(manners("constitution", "check", "default", "--json"))
    assert shown["hash"] == checked["hash"]
    assert checked["critiques"] == len(shown["critiques"]) >= 16
    said = manners("constitution", "check", str(SHORT))
    assert "3 critiques, 2 comparisons, 1 revision examples, 1 comparison examples; nothing is wrong" in said
    assert "revenge" in manners("constitution", "show")


def test_a_broken_file_is_an_error_of_one_line() -> None:
    Path("mine.yaml").write_text(SHORT.read_text(encoding="utf-8").replace("untrue", "rude"), encoding="utf-8")
    with pytest.raises(MannersError, match=r"constitution mine\.yaml: critiques has the id 'rude' twice"):
        manners("constitution", "check", "mine.yaml")


def test_from_a_file_of_prompts_to_demonstrations() -> None:
    Path("prompts.txt").write_text("Why?\nHow?\n", encoding="utf-8")
    told = json.loads(manners("constitution", "revise", "--run", "run", "--prompts", "prompts.txt", "--json", *SMALL))
    assert told["prompts"] == 2
    assert told["revisions"] == 2
    lineage = read_json(Path("run/lineage.json"))["made_from"]
    assert lineage["constitution"]["hash"] == json.loads(manners("constitution", "check", str(SHORT), "--json"))["hash"]
    assert lineage["prompts"]["hash"]
    assert "round" in manners("constitution", "revise", "--run", "other", "--prompts", "prompts.txt", *SMALL)


def test_what_resumes_must_be_what_began() -> None:
    Path("prompts.txt").write_text("Why?\nHow?\n", encoding="utf-8")
    manners("constitution", "revise", "--run", "run", "--prompts", "prompts.txt", "--json", *SMALL)
    before = Path("run/revisions.jsonl").read_bytes()
    manners("constitution", "revise", "--resume", "run", "--json")
    assert Path("run/revisions.jsonl").read_bytes() == before
    with pytest.raises(MannersError, match="rounds: 1 → 2"):
        manners("constitution", "revise", "--resume", "run", "--set", "rounds=2")


def test_prompts_come_from_a_store_and_by_category() -> None:
    prompt, other = Prompt.of("Why?", category="why", split="train"), Prompt.of("How?", category="how", split="train")
    with Store.open("manners.db") as store:
        store.add_completions([(p, [Completion(p.id, "So."), Completion(p.id, "Thus.")]) for p in (prompt, other)])
    command = ("constitution", "revise", "--run", "run", "--db", "manners.db", "--category", "why", "--json", *SMALL)
    assert json.loads(manners(*command))["prompts"] == 1
    assert read_steps(Path("run"))[0].prompt.id == prompt.id
    assert read_json(Path("run/lineage.json"))["made_from"]["prompts"]["hash"]


def test_nothing_is_learned_from_a_test_prompt() -> None:
    rows = [Prompt.of("Kept?", split="test"), Prompt.of("kept", split="train"), Prompt.of("Asked?", split="train")]
    write_jsonl(Path("red.jsonl"), (row.to_json() for row in rows))
    write_jsonl(
        Path("help.jsonl"),
        (p.to_json() for p in [Prompt.of("ASKED", split="train"), Prompt.of("Salt?", split="train")]),
    )
    asked, helpful = prompts_of(ReviseConfig(prompts="red.jsonl", helpful="help.jsonl"))
    assert [p.text for p in asked] == ["Asked?"]
    assert [p.text for p in helpful] == ["Salt?"]
    asked, helpful = prompts_of(ReviseConfig())
    assert (len(asked), len(helpful)) == (64, 44)


def test_prompts_that_the_model_writes_are_kept_and_revised() -> None:
    roomy_model()
    Path("prompts.txt").write_text("Why?\nHow?\n", encoding="utf-8")
    command = ["constitution", "revise", "--run", "run", "--prompts", "prompts.txt", "--written", "2", "--json", *SMALL]
    made = json.loads(manners(*command, "--set", "model=model"))
    written = read_jsonl(Path("run/written.jsonl"))
    assert written
    assert {row["category"] for row in written} == {"written"}
    assert made["prompts"] == 2 + len(written)
    assert json.loads(manners("constitution", "revise", "--resume", "run", "--json"))["prompts"] == made["prompts"]


def roomy_model() -> None:
    """A tiny model with room for whole conversations in the folder `model`."""
    tiny_model(context=2048).save_pretrained("model")
    tiny_tokenizer().save_pretrained("model")


def settings() -> Path:
    """A folder with a tiny model of a long context, prompts, judgements, and the settings of a run of everything."""
    roomy_model()
    splits = ["train"] * 6 + ["test"] * 4
    for name, word in (("red", "Why"), ("help", "How")):
        write_jsonl(Path(f"{name}.jsonl"), (Prompt.of(f"{word} {i}?", split=s).to_json() for i, s in enumerate(splits)))  # type: ignore[arg-type]
    rows = []
    for i in range(30):
        prompt = Prompt.of(f"Ask {i}?", category="everyday")
        good, bad = Completion(prompt.id, f"Yes {i}."), Completion(prompt.id, "No.")
        rows.append(
            Judgement(prompt, (good, bad), Ranking(prompt.id, ((good.id,), (bad.id,)), "human", "ana")).to_json()
        )
    write_jsonl(Path("people.jsonl"), rows)
    layers = {"train_layers": 2}
    path = Path("tiny.yaml")
    path.write_text(yaml.safe_dump({
        "model": "model", "constitution": str(SHORT), "red_team": "red.jsonl", "helpful": "help.jsonl", "judgements": "people.jsonl",
        "revise": {"rounds": 2, "max_tokens": 60, "critique_tokens": 6, "helpful_per_prompt": 4}, "sft": layers,
        "prefer": {"max_tokens": 8, "check": 8, "check_on": "people.jsonl", "allow_weak_judge": True,
                   "judge": {"model": "model", "form": "text"}},
        "preference": layers, "helpfulness": layers,
        "ppo": {**layers, "steps": 2, "batch": 8, "max_tokens": 8, "evaluate_prompts": 0}, "measure": {"max_tokens": 8},
    }), encoding="utf-8")  # fmt: skip
    return path


REQUIRED = ("judge_agreement", "flip_rate", "harmless_before", "harmless_after_sl", "harmless_after_rl", "helpful_before",
            "helpful_after_rl", "boilerplate_rate")  # fmt: skip


def test_everything_in_one_go_and_on_from_where_it_broke_off(monkeypatch: pytest.MonkeyPatch) -> None:
    path = settings()
    with monkeypatch.context() as broken:
        broken.setattr(
            constitutional, "train_ppo", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("the power is gone"))
        )
        with pytest.raises(RuntimeError):
            manners("constitution", "run", str(path), "--run", "run")
    done = {name: Path("run", name, "status.json").read_bytes() for name in ("revise", "sft", "prefer", "preference")}
    line = json.loads(manners("constitution", "run", "--resume", "run").splitlines()[-1])
    assert done == {name: Path("run", name, "status.json").read_bytes() for name in done}
    for name in REQUIRED:
        low, high = line[name]["ci"]
        assert low <= line[name]["value"] <= high
        assert line[name]["n"] >= 4
    assert {name: Run.open(Path("run") / name).status["status"] for name in ("ppo", "helpfulness", ".")} == {
        "ppo": "finished", "helpfulness": "finished", ".": "finished"
    }  # fmt: skip
    again = json.loads(manners("constitution", "run", "--resume", "run").splitlines()[-1])
    assert {name: again[name] for name in REQUIRED} == {name: line[name] for name in REQUIRED}
    _nothing_leaks()
    _the_report_shows_each_phase()


def test_the_judge_s_own_ratings_can_be_the_reward() -> None:
    line = json.loads(
        manners("constitution", "run", str(settings()), "--run", "run", "--set", "rewarded_by=rating").splitlines()[-1]
    )
    assert set(REQUIRED) <= set(line)
    assert not Path("run/preference").exists()
    assert "reward" not in read_json(Path("run/ppo/lineage.json"))["made_from"]
    judge = DirectJudge(
        load_judge(AIJudgeConfig(model="model", form="text"), Constitution.load(str(SHORT)), Path("run"))
    )
    answers = [row for row in read_jsonl(Path("run/ppo/samples.jsonl")) if row["step"] == 0]
    rated = judge.score(
        [Prompt.of(row["prompt"]) for row in answers], [Completion("", row["completion"]) for row in answers]
    )
    assert [row["reward"] for row in answers] == pytest.approx(rated.tolist(), abs=1e-4)
    assert len(set(rated.tolist())) > 1
    assert all(-1 < score < 1 for score in rated.tolist())


def _nothing_leaks() -> None:
    answers = read_jsonl(Path("run/answers.jsonl"))
    measured = {normalised(Prompt.from_json(row["prompt"])) for row in answers}
    assert len(measured) == 8
    assert {row["stage"] for row in answers} == {"before", "after_sl", "after_rl"}
    learned = [Prompt.from_json(row["prompt"]) for row in read_jsonl(Path("run/revise/demonstrations.jsonl"))]
    learned += [pair.prompt for pair in read_pairs(Path("run/prefer/pairs/train.jsonl"))]
    learned += [step.prompt for step in read_steps(Path("run/revise"))]
    learned += [
        Prompt.from_json(row)
        for name in ("red_team", "helpful")
        for row in read_jsonl(Path(f"run/prompts/{name}.jsonl"))
    ]
    assert measured.isdisjoint(map(normalised, learned))
    first = {pair.prompt.id for pair in read_pairs(Path("run/prefer/pairs/train.jsonl"))}
    second = {pair.prompt.id for pair in read_pairs(Path("run/prompts/second_half/train.jsonl"))}
    assert first.isdisjoint(second)
    assert any(pair.probability < 1 for pair in read_pairs(Path("run/prefer/pairs/train.jsonl")))


def _the_report_shows_each_phase() -> None:
    page = Path("run/report.html").read_text(encoding="utf-8")
    for name in ("worth", "by-round", "rounds", "principles", "ai-judge", "models", "curves", "answers", "steps"):
        assert f'id="{name}"' in page
    assert "<h2>What it was worth</h2>" in page
    for step in read_steps(Path("run/revise")):
        assert step.principle in page or step.round == 0


def test_a_run_wants_prompts_to_measure_on() -> None:
    path = settings()
    shutil.copy("red.jsonl", "all.jsonl")
    write_jsonl(Path("all.jsonl"), ({**row, "split": "train"} for row in read_jsonl(Path("red.jsonl"))))
    with pytest.raises(MannersError, match="too few prompts"):
        manners("constitution", "run", str(path), "--run", "run", "--set", "red_team=all.jsonl")
