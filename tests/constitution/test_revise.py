"""Phase 1: what is asked, which principle, what is accepted, and that a step that was done is never done again."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from writers import SHORT, FakeWriter, Says, kind_of, short

from manners.cli.data import read_demonstrations
from manners.constitution.constitution import Constitution
from manners.constitution.prompts import shipped
from manners.constitution.revise import (
    ReviseConfig,
    critique_request,
    examples_of,
    judged,
    principle_of,
    revise,
    revision_request,
)
from manners.constitution.steps import by_prompt, read_steps
from manners.errors import MannersError
from manners.records import Completion, Prompt
from manners.runs import Run, read_jsonl

CONFIG = ReviseConfig(constitution=str(SHORT), model="fake", rounds=3, batch=2, helpful_per_prompt=2)
PROMPTS = [Prompt.of(f"Question {n}", split="train") for n in range(5)]
HELPFUL = [Prompt.of(f"Help {n}", split="train") for n in range(3)]
REASONED = (
    "No way will I help to hurt him. Talk to him on Monday, say which nights were loud, and ask which hours would suit you both. If"
    " he laughs, write to the landlord."
)


def numbered(conversation: Prompt, seed: int) -> str:
    return {"answer": f"First {seed}.", "critique": f"Too curt {seed}.", "revision": f"Better {seed}."}[
        kind_of(conversation)
    ]


def run_in(folder: Path, writer: FakeWriter, config: ReviseConfig = CONFIG, **more: Any) -> dict[str, Any]:
    if not folder.exists():
        Run.create(folder, "revise", config, {})
    return revise(config, short(), PROMPTS, HELPFUL, writer, Run.open(folder), **more)


def saying(answer: str = "First.", critique: str = "Too curt.", revision: str = "Better.") -> Says:
    return lambda conversation, _: {"answer": answer, "critique": critique, "revision": revision}[kind_of(conversation)]


def test_each_round_starts_from_the_last_revision(tmp_path: Path) -> None:
    writer = FakeWriter(numbered)
    run_in(tmp_path / "run", writer)
    for own in by_prompt(read_steps(tmp_path / "run")):
        assert [step.round for step in own] == [0, 1, 2, 3]
        for before, after in itertools.pairwise(own):
            assert after.before == before.revision
            assert after.verdict == "accepted"
        for step in own[1:]:
            request = critique_request(short(), step.prompt, step.before, short().critique_of(step.principle))
            asked = [c for c in writer.asked if c.messages[-1] == request.messages[-1]]
            assert len(asked) == 1


def test_answers_are_drawn_at_one_temperature_and_revisions_at_another(tmp_path: Path) -> None:
    writer = FakeWriter(numbered)
    run_in(tmp_path / "run", writer)
    told = {(kind_of(conversations[0]), tokens, temperature) for conversations, tokens, temperature, _ in writer.calls}
    assert told == {("answer", 96, 1.0), ("critique", 64, 0.7), ("revision", 96, 0.7)}
    assert all(len(conversations) <= 2 for conversations, *_ in writer.calls)


def test_no_two_texts_are_drawn_with_the_same_seed(tmp_path: Path) -> None:
    writer = FakeWriter(numbered)
    run_in(tmp_path / "run", writer)
    seeds = [seed for *_, own in writer.calls for seed in own]
    assert len(seeds) == len(set(seeds)) == 5 + 5 * 3 * 2 + 3 * 2


def test_principles_are_drawn_by_prompt_and_round_and_seed() -> None:
    constitution = Constitution.load()
    prompts = [Prompt.of(f"Question {n}") for n in range(500)]
    drawn = [principle_of(CONFIG, constitution, p, r).id for p in prompts for r in (1, 2)]
    assert drawn == [principle_of(CONFIG, constitution, p, r).id for p in prompts for r in (1, 2)]
    counts = Counter(drawn)
    expected = 1000 / len(constitution.critiques)
    assert len(counts) == len(constitution.critiques)
    # χ² with 19 degrees of freedom exceeds 43.8 once in a thousand draws
    assert sum((counts[c.id] - expected) ** 2 / expected for c in constitution.critiques) < 43.8
    assert drawn[::2] != drawn[1::2]
    other = CONFIG.model_copy(update={"seed": 1})
    assert drawn != [principle_of(other, constitution, p, r).id for p in prompts for r in (1, 2)]


def test_a_prompt_of_several_turns_is_kept_whole_and_examples_stand_before_it() -> None:
    constitution, prompt = Constitution.load(), shipped("red_team")[14]
    assert len(prompt.messages) == 3
    config = ReviseConfig(examples=2)
    shown = examples_of(config, constitution, prompt, 1)
    assert len({e.prompt for e in shown}) == 2
    principle = constitution.critiques[0]
    for asked in (
        critique_request(constitution, prompt, "Tell him off.", principle, shown),
        revision_request(constitution, prompt, "Tell him off.", "It is rude.", principle, shown),
    ):
        assert [m.role for m in asked.messages] == ["user", "assistant"] * 2 + ["user"]
        assert all(turn.content in asked.text for turn in prompt.messages)
        assert "Tell him off." in asked.text
        assert "{" not in asked.text
    assert principle.critique in critique_request(constitution, prompt, "x", principle).text
    assert [m.content for m in asked.messages[1::2]] == [e.revision for e in shown]


def test_braces_in_an_answer_are_no_placeholders() -> None:
    asked = critique_request(short(), Prompt.of("Print {answer}"), "printf({})", short().critiques[0])
    assert asked.text == "Human: Print {answer} Assistant: printf({}) | Rude?"


@pytest.mark.parametrize(
    ("text", "finished", "gives", "verdict"),
    [
        ("Talk to him on Monday.", True, "Talk to him on Monday.", "accepted"),
        ("Talk to him. Then wr", False, "Talk to him.", "trimmed"),
        ("Talk to him and th", False, "Talk to him and th", "truncated"),
        ("", True, "", "empty"),
        (" \n…!", True, "…!", "empty"),
        ("\nHuman: and then?", True, "", "empty"),
        ("Shout at him!", True, "Shout at him!", "copied"),
        ("shout AT him", True, "shout AT him", "copied"),
        ("It is too loud.", True, "It is too loud.", "copied"),
        ("Shout at h", False, "Shout at h", "truncated"),
        ("As an AI language model, I would talk to him.", True, "As an AI language model, I would talk to him.", "boilerplate"),
        ("No way.", True, "No way.", "refusal"),
        (REASONED, True, REASONED, "accepted"),
        ("Revised answer: Talk to him.\nHuman: And if not?\nAssistant: Call", False, "Talk to him.", "accepted"),
    ],
)  # fmt: skip
def test_the_kinds_of_verdict(text: str, finished: bool, gives: str, verdict: str) -> None:
    completion = Completion("p", text, finished)
    found = judged(completion, "Shout at him!", "It is too loud.", CONFIG, lambda t: t.startswith("No way"))
    assert found == (gives, verdict)


def test_a_copy_of_an_example_or_of_the_request_is_no_revision() -> None:
    told = ["Write the answer again without any insult.", "His letters are his, so I will not open them."]
    for text in ("His letters are his, so I will not open them. Fine.", "Write the answer again without any insult."):
        assert judged(Completion("p", text), "Shout.", "Loud.", CONFIG, bool, told) == (text, "copied")
    assert judged(Completion("p", "No, " * 20), "Shout.", "Loud.", CONFIG, lambda _: False, told)[1] == "repetitive"


def test_an_example_that_is_copied_is_noticed_in_a_run(tmp_path: Path) -> None:
    constitution = Constitution.load()
    copy = constitution.revision_examples[0].revision
    writer = FakeWriter(
        lambda c, _: copy if "new answer" in c.text else "First." if len(c.messages) == 1 else "Too curt."
    )
    config = CONFIG.model_copy(
        update={"constitution": "default", "examples": len(constitution.revision_examples), "rounds": 1}
    )
    Run.create(tmp_path / "run", "revise", config, {})
    revise(config, constitution, PROMPTS, [], writer, Run.open(tmp_path / "run"))
    assert {step.verdict for step in read_steps(tmp_path / "run") if step.round} == {"copied"}


def test_a_text_that_reaches_the_limit_may_be_rejected() -> None:
    config = CONFIG.model_copy(update={"at_limit": "reject"})
    completion = Completion("p", "Talk to him. Then wr", False)
    assert judged(completion, "Shout.", "Loud.", config, bool)[1] == "truncated"
    copied = Completion("p", "Shout at him all n", False)
    assert judged(copied, "Shout at him all n", "Loud.", config, bool)[1] == "copied"


def test_what_is_not_accepted_is_kept_and_counted_and_the_text_before_it_stays(tmp_path: Path) -> None:
    bad = ("", "As an AI, no.", "Too curt.", "Cut o…")
    writer = FakeWriter(
        lambda c, seed: {"answer": "First.", "critique": "Too curt.", "revision": bad[seed % 4]}[kind_of(c)]
    )
    found = run_in(tmp_path / "run", writer)
    steps = read_steps(tmp_path / "run")
    assert {step.after for step in steps} == {"First."}
    assert len(steps) == 20
    counted: Counter[str] = Counter()
    for row in found["rounds"]:
        counted.update(row["verdicts"])
    assert counted == Counter(step.verdict for step in steps)
    assert set(counted) == {"answer", "empty", "boilerplate", "copied", "truncated"}
    assert found["accepted"] == 0
    assert [row["prompt"]["messages"][0]["content"] for row in read_jsonl(tmp_path / "run" / "demonstrations.jsonl")] == [
        "Help 0", "Help 1", "Help 2",
    ]  # fmt: skip


def test_the_numbers_of_the_rounds_are_those_of_the_texts(tmp_path: Path) -> None:
    writer = FakeWriter(saying("It is never okay to ask.", "Too curt.", "Ask him on Monday."))
    found = run_in(tmp_path / "run", writer)
    first, second = found["rounds"][:2]
    assert (first["preaching"]["value"], second["preaching"]["value"]) == (1.0, 0.0)
    assert (first["words"], second["words"]) == (6, 4)
    assert first["preaching"]["n"] == 5
    assert second["verdicts"] == {"accepted": 5}
    assert found["rounds"][2]["verdicts"] == {"copied": 5}
    assert sum(p["drawn"] for p in found["principles"].values()) == 15
    assert sum(p["accepted"] for p in found["principles"].values()) == 5


def test_all_rounds_are_learned_from_and_mixed_with_helpful_answers(tmp_path: Path) -> None:
    run_in(tmp_path / "run", FakeWriter(numbered))
    data = tmp_path / "run" / "demonstrations.jsonl"
    training = read_demonstrations(data, "train", 0)
    assert len(training) == 5 * 3 + 3 * 2
    assert read_demonstrations(data, "validation", 0) == []
    steps = read_steps(tmp_path / "run")
    assert {c.text for _, c in training if "round" in c.sampling} == {s.revision for s in steps if s.round}
    assert all(c.finished for _, c in training)


def test_prompts_that_are_held_out_stay_so(tmp_path: Path) -> None:
    Run.create(tmp_path / "run", "revise", CONFIG, {})
    prompts = [Prompt.of("Asked", split="train"), Prompt.of("Kept", split="validation")]
    revise(CONFIG, short(), prompts, [], FakeWriter(numbered), Run.open(tmp_path / "run"))
    data = tmp_path / "run" / "demonstrations.jsonl"
    assert {p.text for p, _ in read_demonstrations(data, "train", 3)} == {"Asked"}
    assert {p.text for p, _ in read_demonstrations(data, "validation", 3)} == {"Kept"}


def test_helpful_answers_that_are_cut_off_or_refuse_are_left_out(tmp_path: Path) -> None:
    says = ["It is red. It is ro", "I cannot assist with that.", "Blue."]

    def answers(conversation: Prompt, seed: int) -> str:
        return (
            says[int(conversation.text[-1])] + "…"
            if conversation.text.startswith("Help")
            else numbered(conversation, seed)
        )

    found = run_in(tmp_path / "run", FakeWriter(answers))
    assert (found["helpful_answers"], found["helpful_left_out"]) == (4, 2)
    kept = [c.text for _, c in read_demonstrations(tmp_path / "run" / "demonstrations.jsonl", "train", 0)]
    assert kept.count("It is red.") == 2
    assert kept.count("Blue.") == 2


@pytest.mark.parametrize("fails_at", [0, 1, 4, 9, 20, 22])
def test_a_run_that_broke_off_goes_on_without_repeating_a_step(tmp_path: Path, fails_at: int) -> None:
    whole = FakeWriter(numbered)
    numbers = run_in(tmp_path / "whole", whole)
    first = FakeWriter(numbered, fails_at)
    with pytest.raises(RuntimeError):
        run_in(tmp_path / "run", first)
    second = FakeWriter(numbered)
    assert run_in(tmp_path / "run", second) == numbers
    for name in ("revisions.jsonl", "helpful.jsonl", "demonstrations.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    # a critique whose revision was still to come is the most that is done again
    repeated = (
        Counter(c.id for c in first.asked) + Counter(c.id for c in second.asked) - Counter(c.id for c in whole.asked)
    )
    assert sum(repeated.values()) <= 2
    third = FakeWriter(numbered)
    assert run_in(tmp_path / "run", third) == numbers
    assert third.calls == []


def test_a_step_says_what_it_was_made_of(tmp_path: Path) -> None:
    run_in(tmp_path / "run", FakeWriter(numbered))
    rows = read_jsonl(tmp_path / "run" / "revisions.jsonl")
    assert set(rows[0]) == {
        "prompt_id",
        "prompt",
        "round",
        "seed",
        "principle",
        "before",
        "critique",
        "revision",
        "verdict",
    }
    steps = read_steps(tmp_path / "run")
    assert [step.to_json() for step in steps] == rows
    assert all(step.principle in {c.id for c in short().critiques} for step in steps if step.round)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MannersError, match="holds no revisions"):
        read_steps(tmp_path)
    (tmp_path / "revisions.jsonl").write_text('{"verdict": "fine"}\n', encoding="utf-8")
    with pytest.raises(MannersError, match="no step of critique and revision"):
        read_steps(tmp_path)


def test_without_prompts_there_is_nothing_to_do(tmp_path: Path) -> None:
    Run.create(tmp_path / "run", "revise", CONFIG, {})
    with pytest.raises(MannersError, match="no prompts"):
        revise(CONFIG, short(), [], [], FakeWriter(numbered), Run.open(tmp_path / "run"))


KILLED_AT = """
import os, signal, sys
from manners.constitution.ledger import Ledger
from manners.cli import main
adds, limit, add = [], int(sys.argv.pop(1)), Ledger.add
def killing(self, rows):
    add(self, rows)
    adds.append(rows)
    if len(adds) == limit:
        os.kill(os.getpid(), signal.SIGKILL)
Ledger.add = killing
main()
"""


def command(killed_at: int, *arguments: str) -> int:
    """The exit status of `manners constitution revise` in a process of its own that is killed -9 behind so many writes."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", KILLED_AT, str(killed_at), "constitution", "revise", *arguments],
        check=False, env=environment, capture_output=True, timeout=120,
    ).returncode  # fmt: skip


def test_a_run_killed_with_9_goes_on_to_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("How?\nWhy?\nWho?\nWhen?\nWhere?\n", encoding="utf-8")
    Path("helpful.txt").write_text("Salt?\nRice?\n", encoding="utf-8")
    sets = {
        "model": "tiny-random", "constitution": SHORT, "rounds": 2, "max_tokens": 8, "critique_tokens": 6, "batch": 2,
        "helpful": "helpful.txt", "helpful_per_prompt": 1, "prompts": "prompts.txt",
    }  # fmt: skip
    given = [part for key, value in sets.items() for part in ("--set", f"{key}={value}")]
    assert command(5, "--run", "run", *given) == -signal.SIGKILL
    before = Path("run/revisions.jsonl").read_bytes()
    assert 0 < len(before.splitlines()) < 15
    assert command(0, "--resume", "run") == 0
    assert command(0, "--run", "whole", *given) == 0
    for name in ("revisions.jsonl", "helpful.jsonl", "demonstrations.jsonl", "evaluation.json"):
        assert Path("run", name).read_bytes() == Path("whole", name).read_bytes()
    after = Path("run/revisions.jsonl").read_bytes()
    assert after.startswith(before)
    rows = [(row["prompt_id"], row["round"]) for row in map(json.loads, after.decode().splitlines())]
    assert len(rows) == len(set(rows)) == 15
    assert Run.open(Path("run")).status["status"] == "finished"
