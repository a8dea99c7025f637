"""Rankings and soft pairs from a scripted judge: what it likes comes through, its pull of the first place does not."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scripted_judge import ScriptedJudge
from writers import FakeWriter

from manners.constitution.comparisons import Asked
from manners.constitution.constitution import Comparison
from manners.constitution.judge import Question
from manners.constitution.prefer import PreferConfig, Preferred, mixed, prefer
from manners.errors import MannersError
from manners.feedback.importers import read
from manners.feedback.pairs import read_pairs, write_pairs
from manners.records import SPLITS, Completion, Judgement, Pair, Prompt, Ranking
from manners.runs import Run, Track, read_jsonl, untracked

PRINCIPLES = [Comparison(id=f"p{i}", principle=f"Which is better, {i}?", aspects=("helpful",)) for i in range(4)]
PROMPTS = [Prompt.of(f"prompt {i}") for i in range(30)]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def numbered(_: Prompt, seed: int) -> str:
    """An answer that is worth what it says: a number between −2 and 2, drawn by the seed."""
    return f"{(seed % 401) / 100 - 2:.2f}"


def run_at(folder: Path, config: PreferConfig) -> Run:
    path = folder / "run"
    return Run.open(path) if path.exists() else Run.create(path, "prefer", config, {})


def preferred(
    folder: Path, judge: ScriptedJudge, writer: FakeWriter | None = None, retry: bool = False, **fields: Any
) -> Preferred:
    config = PreferConfig(**{"batch": 8} | fields)
    writer = writer or FakeWriter(numbered)
    return prefer(config, PROMPTS, PRINCIPLES, writer, judge, run_at(folder, config), retry=retry)


def test_the_label_is_what_the_judge_says_in_both_orders(tmp_path: Path) -> None:
    found = preferred(tmp_path, ScriptedJudge(float, bias=1.0))
    assert len(found.pairs) == len(found.judgements) == 30
    for pair in found.pairs:
        difference = float(pair.chosen.text) - float(pair.rejected.text)
        assert difference > 0
        expected = (sigmoid(difference + 1) + 1 - sigmoid(-difference + 1)) / 2
        assert pair.probability == pytest.approx(expected)
        assert (pair.weight, pair.judge) == (1.0, "scripted")


def test_a_pull_of_the_first_place_is_undone_by_swapping_and_not_without(tmp_path: Path) -> None:
    both = preferred(tmp_path / "both", ScriptedJudge(float, bias=10.0))
    assert all(float(pair.chosen.text) > float(pair.rejected.text) for pair in both.pairs)
    assert both.summary["flip_rate"]["value"] == 1.0
    assert both.summary["first_wins"]["value"] == 1.0
    single = preferred(tmp_path / "one", ScriptedJudge(float, bias=10.0), swap=False)
    wrong = [float(pair.chosen.text) < float(pair.rejected.text) for pair in single.pairs]
    assert 5 < sum(wrong) < 25
    assert single.summary["flip_rate"] == {"value": None, "ci": [None, None], "n": 0}


def test_a_judge_without_a_pull_does_not_flip(tmp_path: Path) -> None:
    judge = ScriptedJudge(float)
    found = preferred(tmp_path, judge)
    assert found.summary["flip_rate"]["value"] == 0.0
    assert found.summary["first_wins"]["value"] == 0.5
    assert len(judge.asked) == 60
    assert judge.asked[1] == judge.asked[0].swapped


def test_what_it_will_take_is_said_of_both_orders_and_of_what_is_left(tmp_path: Path) -> None:
    config = PreferConfig(batch=8)
    said: list[str] = []

    class Priced(ScriptedJudge):
        def forecast(self, questions: Sequence[Question], track: Track = untracked) -> str:  # noqa: ARG002
            return f"{len(questions)} calls" if questions else ""

    for judge in (Priced(float, fails_at=32), Priced(float), Priced(float)):
        with contextlib.suppress(RuntimeError):
            prefer(config, PROMPTS, PRINCIPLES, FakeWriter(numbered), judge, run_at(tmp_path, config), say=said.append)
    assert said == ["60 calls", "28 calls"]


def test_after_thinking_labels_are_clamped(tmp_path: Path) -> None:
    found = preferred(tmp_path, ScriptedJudge(lambda text: 100 * float(text), thinks=True))
    assert {pair.probability for pair in found.pairs} == {0.6}


def test_rankings_are_written_as_anybody_reads_them(tmp_path: Path) -> None:
    found = preferred(tmp_path, ScriptedJudge(float))
    again = list(read(tmp_path / "run" / "judgements.jsonl"))
    assert again == found.judgements
    ranking = found.judgements[0].ranking
    assert (ranking.source, ranking.judge) == ("ai", "scripted")
    assert ranking.note.startswith("p")


def test_of_several_answers_every_two_are_compared_and_one_ranking_comes_out(tmp_path: Path) -> None:
    found = preferred(tmp_path, ScriptedJudge(float), answers=4)
    for judgement in found.judgements:
        texts = {completion.id: completion.text for completion in judgement.completions}
        order = [float(texts[tier[0]]) for tier in judgement.ranking.tiers]
        assert order == sorted(order, reverse=True)
        own = [pair for pair in found.pairs if pair.ranking_id == judgement.ranking.id]
        assert len(own) == math.comb(len(order), 2)
        assert sum(pair.weight for pair in own) == pytest.approx(1)


def test_equals_are_tied_and_the_same_text_is_not_compared(tmp_path: Path) -> None:
    def says(prompt: Prompt, seed: int) -> str:
        if prompt == PROMPTS[0]:
            return "0.00"
        return "" if prompt == PROMPTS[1] else f"{seed}"

    found = preferred(tmp_path, ScriptedJudge(lambda _: 0.0), FakeWriter(says))
    assert len(found.judgements) == 28
    assert found.summary["too_few_answers"] == 2
    assert all(len(judgement.ranking.tiers) == 1 for judgement in found.judgements)
    assert {pair.probability for pair in found.pairs} == {0.5}


def test_single_failures_are_counted_left_out_and_asked_again_when_told(tmp_path: Path) -> None:
    def says(prompt: Prompt, seed: int) -> str:
        return "???" + str(seed) if prompt in PROMPTS[:5] else numbered(prompt, seed)

    writer = FakeWriter(says)
    found = preferred(tmp_path, ScriptedJudge(float), writer)
    assert len(found.pairs) == 25
    assert found.summary["failures"] == {"no verdict": 5}
    assert found.summary["failure_rate"] == pytest.approx(1 / 6)
    later = ScriptedJudge(float)
    assert preferred(tmp_path, later, writer).pairs == found.pairs
    assert later.asked == []
    preferred(tmp_path, later, writer, retry=True)
    assert len(later.asked) == 10


@pytest.mark.parametrize("fails_at", [0, 7, 16, 33])
def test_a_run_that_was_cut_short_goes_on_without_repeating_a_question(tmp_path: Path, fails_at: int) -> None:
    whole = preferred(tmp_path / "whole", ScriptedJudge(float))
    first, writer = ScriptedJudge(float, fails_at=fails_at), FakeWriter(numbered)
    with pytest.raises(RuntimeError):
        preferred(tmp_path / "cut", first, writer)
    kept = {row["id"] for row in read_jsonl(tmp_path / "cut" / "run" / "comparisons.jsonl")} if fails_at >= 16 else ()
    second = ScriptedJudge(float)
    resumed = preferred(tmp_path / "cut", second, writer)
    assert resumed == whole
    assert len(kept) * 2 + len(second.asked) == 60
    assert len(writer.calls) == 4
    rows = read_jsonl(tmp_path / "cut" / "run" / "comparisons.jsonl")
    assert len({row["id"] for row in rows}) == len(rows) == 30


def test_principles_are_drawn_by_the_prompt_and_the_seed_alone(tmp_path: Path) -> None:
    one, other = Completion("x", "one"), Completion("x", "other")
    drawn = [Asked.draw(prompt, one, other, PRINCIPLES, 0).principle.id for prompt in PROMPTS]
    assert drawn == [Asked.draw(prompt, one, other, PRINCIPLES, 0).principle.id for prompt in PROMPTS]
    assert drawn != [Asked.draw(prompt, one, other, PRINCIPLES, 1).principle.id for prompt in PROMPTS]
    assert set(drawn) == {"p0", "p1", "p2", "p3"}
    found = preferred(tmp_path, ScriptedJudge(float))
    assert sum(found.summary["by_principle"].values()) == 30


def test_nothing_to_compare_stops_with_one_line(tmp_path: Path) -> None:
    with pytest.raises(MannersError, match="not one of 0 comparisons came about"):
        preferred(tmp_path / "same", ScriptedJudge(float), FakeWriter(lambda *_: "same"))
    with pytest.raises(MannersError, match="no verdict 30"):
        preferred(tmp_path / "none", ScriptedJudge(float), FakeWriter(lambda _, seed: f"???{seed}"))


def human(text: str, **fields: Any) -> Judgement:
    prompt = Prompt.of(text, **fields)
    answers = (Completion(prompt.id, "good"), Completion(prompt.id, "bad"))
    return Judgement(prompt, answers, Ranking(prompt.id, ((answers[0].id,), (answers[1].id,)), judge="ann"))


def ai(*prompts: Prompt) -> Preferred:
    pairs = [Pair(p, Completion(p.id, "x"), Completion(p.id, "y"), probability=0.7) for p in prompts]
    return Preferred([], pairs, {})


def test_a_held_out_prompt_is_held_out_whoever_speaks_of_it(tmp_path: Path) -> None:
    machine = ai(
        Prompt.of("Say hello!", split="train"), Prompt.of("Other", split="validation"), Prompt.of("B", split="train")
    )
    people = [human("say   HELLO", split="test"), human("other", split="train"), human("C", split="train")]
    pairs, rankings = mixed(machine, people, seed=0)
    texts = {split: sorted(pair.prompt.text for pair in pairs[split]) for split in SPLITS}
    assert texts == {"train": ["B", "C"], "validation": ["Other", "other"], "test": ["Say hello!", "say   HELLO"]}
    assert [j.prompt.text for j in rankings["test"]] == ["say   HELLO"]
    assert all(pair.prompt.split == split for split in SPLITS for pair in pairs[split])
    write_pairs(tmp_path / "pairs", pairs, rankings)
    back = read_pairs(tmp_path / "pairs" / "test.jsonl")
    assert sorted((pair.probability, pair.judge) for pair in back) == [(0.7, ""), (1.0, "ann")]


@pytest.mark.parametrize("seed", range(5))
def test_prompts_without_a_split_are_drawn_together(seed: int) -> None:
    prompts = [Prompt.of(f"question {i}") for i in range(40)]
    people = [human(f"Question {i}") for i in range(40)]
    pairs, _ = mixed(ai(*prompts), people, seed=seed, validation=0.3, test=0.3)
    normal: Callable[[Pair], str] = lambda pair: pair.prompt.text.lower()  # noqa: E731
    by_split = [{normal(pair) for pair in pairs[split]} for split in SPLITS]
    assert sum(map(len, by_split)) == len(set.union(*by_split)) == 40
    assert all(by_split)
    assert sum(len(pairs[split]) for split in SPLITS) == 80
    assert replace(pairs["train"][0].prompt, split="").id == pairs["train"][0].prompt.id
