"""From stored answers to blind votes, from votes to scores, and back into training."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from manners.cli.data import make_pairs
from manners.errors import MannersError
from manners.feedback.adjudicate import disputes, screen_of, settle
from manners.feedback.arena import Vote, answers_in, arena, arena_of, models_in, pair_up
from manners.feedback.assign import Desk
from manners.feedback.batch import Batch, BatchSettings
from manners.feedback.bradley_terry import sigmoid
from manners.feedback.exports import submissions
from manners.feedback.materials import Material
from manners.feedback.pairs import read_pairs
from manners.feedback.people import User
from manners.feedback.store import Store
from manners.feedback.submissions import Answer, submit
from manners.feedback.tables import ITEMS
from manners.records import Completion, Prompt

Join = Callable[[str], User]


def answered(number: int, **texts: str) -> tuple[Prompt, list[Completion]]:
    prompt = Prompt.of(f"prompt {number}")
    return prompt, [Completion(prompt.id, text, model=model) for model, text in texts.items()]


@pytest.fixture
def sampled(store: Store) -> Store:
    """Twelve prompts answered by before and after, one by before alone, one by both in the same words, some by a third model."""
    items = [answered(k, before=f"old {k}", after=f"new {k}, and longer") for k in range(12)]
    items += [answered(20, before="alone"), answered(21, before="the same", after=" the same ")]
    items += [answered(k, third=f"third {k}") for k in (0, 1, 2, 30)]
    store.add_completions(items)
    return store


def test_models_meet_on_the_prompts_that_both_answered(sampled: Store) -> None:
    assert models_in(sampled) == [("before", 14), ("after", 13), ("third", 4)]
    made = pair_up(answers_in(sampled, ["before", "after"]), ["before", "after"])
    assert (len(made.materials), made.alike, made.alone) == (12, 1, 1)
    for material in made.materials:
        assert [c.model for c in material.completions] == ["before", "after"]
        assert material.completions[0].text.removeprefix("old ") == material.prompt.text.removeprefix("prompt ")
    three = pair_up(answers_in(sampled, ["before", "after", "third"]), ["before", "after", "third"])
    # Three of the prompts have three answers, and so three pairs.
    assert (len(three.materials), three.alone) == (12 + 2 * 3, 2)


def test_some_of_the_pairs_are_drawn_by_the_seed(sampled: Store) -> None:
    def drawn(seed: int) -> list[str]:
        made = pair_up(answers_in(sampled, ["before", "after"]), ["before", "after"], seed, 5)
        return [material.prompt.text for material in made.materials]

    assert len(drawn(0)) == len(set(drawn(0))) == 5
    assert drawn(0) == drawn(0)
    assert len({tuple(drawn(seed)) for seed in range(6)}) > 3


def test_of_several_answers_of_one_model_one_is_drawn() -> None:
    prompt = Prompt.of("p")
    many = [Completion(prompt.id, f"{model} {k}", model=model) for model in ("a", "b") for k in range(4)]
    found = {pair_up([(prompt, many)], ["a", "b"], seed).materials[0].completions[0].text for seed in range(20)}
    assert len(found) > 1
    # Answers of the two models that come one after the other are put together.
    apart = pair_up([(prompt, many[:4]), (prompt, many[4:])], ["a", "b"], 0)
    assert apart == pair_up([(prompt, many)], ["a", "b"], 0)


@pytest.mark.parametrize("models", [["before"], ["before", "before"], ["before", "nobody"], []])
def test_nobody_meets_themselves_or_nobody(sampled: Store, models: list[str]) -> None:
    with pytest.raises(MannersError, match=r"two models at least|no prompt on which"):
        pair_up(answers_in(sampled, models), models)


@pytest.fixture
def batch(sampled: Store, desk: Desk) -> Batch:
    made = pair_up(answers_in(sampled, ["before", "after"]), ["before", "after"])
    return desk.create(BatchSettings(name="duel", mode="pair", overlap=2), "g", made.materials)


def vote(store: Store, desk: Desk, batch: Batch, user: User, choose: Callable[[int, dict[str, int]], Any]) -> None:
    """Vote on everything; `choose` gets the prompt's number and on which side each model stands."""
    while task_id := desk.next(user.id, batch.id):
        task = desk.task(task_id, user.id)
        side = {completion.model: place for place, completion in enumerate(task.completions)}
        said = choose(int(task.prompt.text.split()[1]), side)
        fields = {"all_bad": True} if said is None else {"tiers": said}
        submit(store, task, Answer(client_key=task_id, **fields))


def ann_votes(number: int, side: dict[str, int]) -> Any:
    """After wins 0 to 6, before 7 and 8, 9 is a tie, 10 and 11 are both bad."""
    if number >= 10:
        return None
    winner, loser = (side["after"], side["before"]) if number < 7 else (side["before"], side["after"])
    return ((winner, loser),) if number == 9 else ((winner,), (loser,))


def bob_votes(number: int, side: dict[str, int]) -> Any:
    return ((side["before"],), (side["after"],)) if number < 3 else ann_votes(number, side)


@pytest.fixture
def voted(store: Store, desk: Desk, batch: Batch, join: Join) -> Store:
    vote(store, desk, batch, join("ann"), ann_votes)
    vote(store, desk, batch, join("bob"), bob_votes)
    return store


def test_votes_are_counted_whatever_side_an_answer_stood_on(voted: Store, batch: Batch) -> None:
    report = arena(voted, batch.id)
    assert (report.votes, report.prompts, report.judges) == (24, 12, 2)
    [duel] = report.duels
    # Ann 7 : 2, Bob 4 : 5, and of each one tie and two times both bad.
    assert (duel.first, duel.wins, duel.losses, duel.ties, duel.both_bad) == ("after", 11, 7, 2, 4)
    assert duel.rate.value == pytest.approx((11 + 3) / 24)
    assert (report.both_bad.value, report.ties.value) == (pytest.approx(4 / 24), pytest.approx(2 / 24))
    after, before = report.standings
    assert (after.model, before.model) == ("after", "before")
    assert after.score.value is not None
    assert before.score.value is not None
    assert after.score.value - before.score.value == pytest.approx(400 * math.log10(14 / 10))
    assert after.score.value + before.score.value == pytest.approx(2000)
    assert after.mean_length == pytest.approx((10 * 17 + 2 * 18) / 12)
    assert report.sentences[0].startswith("after is preferred to before in 58 % of comparisons (95 % interval ")
    assert report.sentences[0].endswith("no evidence that either is better, since the interval holds 50 %.")
    assert arena(voted) == report


def test_the_votes_are_rankings_and_flow_back_into_training(voted: Store, tmp_path: Path) -> None:
    make_pairs(voted, tmp_path, seed=0, validation=0, test=0, source="human", halves=False)
    pairs = read_pairs(tmp_path / "train.jsonl")
    assert sorted(p.chosen.model for p in pairs) == ["after"] * 11 + ["before"] * 7


def test_a_change_of_mind_replaces_the_vote(voted: Store, desk: Desk, join: Join) -> None:
    again = desk.create(
        BatchSettings(name="again", mode="pair"),
        "g",
        pair_up(answers_in(voted, ["before", "after"]), ["before", "after"]).materials,
    )
    cleo = join("cleo")
    vote(voted, desk, again, cleo, ann_votes)
    task = desk.task(_first_task(voted, cleo), cleo.id)
    known = {c.model: place for place, c in enumerate(task.completions)}
    latest = _submission_of(voted, task.id)
    submit(
        voted, task, Answer(client_key="changed-mind", tiers=((known["before"],), (known["after"],)), revises=latest)
    )
    [duel] = arena(voted, again.id).duels
    assert duel.rate.n == 12
    won = int(ann_votes(int(task.prompt.text.split()[1]), known) == ((known["after"],), (known["before"],)))
    assert duel.wins == 7 - won


def _first_task(store: Store, user: User) -> str:
    return str(next(row["assignment_id"] for row in submissions(store) if row["annotator"] == user.id))


def _submission_of(store: Store, task_id: str) -> str:
    return str(next(row["id"] for row in submissions(store) if row["assignment_id"] == task_id))


def test_a_settlement_is_no_vote(voted: Store, batch: Batch, join: Join) -> None:
    before = arena(voted, batch.id)
    found = disputes(voted, batch.id)[0]
    assert found.disagreement == 1
    rita = join("rita").id
    order = screen_of(voted, found, rita).completions
    answer = Answer(client_key="settling-it", tiers=((0,), (1,)), note="clear")
    settle(voted, found, answer, rita, found.seen)
    assert len(order) == 2
    assert arena(voted, batch.id) == before


def test_votes_that_compare_no_two_named_models_are_left_out(store: Store, desk: Desk, join: Join) -> None:
    prompt = Prompt.of("prompt 0")
    pairs = [[("a", "x"), ("a", "y")], [("", "x"), ("b", "y")]]
    materials = [Material(prompt, tuple(Completion(prompt.id, text, model=m) for m, text in pair)) for pair in pairs]
    batch = desk.create(BatchSettings(name="b", mode="pair"), "g", materials)
    ann = join("ann")
    while task_id := desk.next(ann.id, batch.id):
        submit(store, desk.task(task_id, ann.id), Answer(client_key=task_id, tiers=((0,), (1,))))
    report = arena(store, batch.id)
    assert (report.votes, report.left_out) == (0, {"one and the same model": 1, "a model without a name": 1})
    assert report.sentences == ("There are no votes yet.",)
    assert report.both_bad.undefined == "there are no votes yet"


def test_known_answers_measure_the_judge_and_not_the_models(voted: Store, batch: Batch) -> None:
    with voted.transaction() as connection:
        connection.execute(ITEMS.update().where(ITEMS.c.place == 0).values(arm="gold"))
    assert (arena(voted, batch.id).votes, arena(voted, batch.id).prompts) == (22, 11)


# Votes made by hand.


def made(*won: float, lengths: Sequence[tuple[int, int]] = ((100, 50),), bad: bool = False) -> list[Vote]:
    return [
        Vote(f"p{k}", "ann", ("a", "b"), lengths[k % len(lengths)], value, bad and value == 0.5)
        for k, value in enumerate(won)
    ]


def test_both_bad_counts_as_a_tie_and_is_shown_beside_it() -> None:
    ties, bad = arena_of(made(1, 1, 0, 0.5, 0.5)), arena_of(made(1, 1, 0, 0.5, 0.5, bad=True))
    assert ties.standings[0].score == bad.standings[0].score
    assert (ties.both_bad.value, bad.both_bad.value) == (0, pytest.approx(0.4))
    assert (ties.ties.value, bad.ties.value) == (pytest.approx(0.4), 0)


@pytest.mark.parametrize(
    ("votes", "reason", "sentence"),
    [
        (made(*[1.0] * 9), "one side won every vote", "a won 9 of 9 votes against b, and lost 0."),
        ([*made(1), Vote("p0", "bob", ("a", "b"), (1, 2), 0, False)], "on one prompt", "a won 1 of 2"),
        (
            [*made(1, 0), Vote("q", "ann", ("c", "d"), (1, 2), 1, False)],
            "never compared",
            "c won 1 of 1 votes against d, and lost 0.",
        ),
    ],
)
def test_it_says_why_there_are_no_scores(votes: list[Vote], reason: str, sentence: str) -> None:
    report = arena_of(votes)
    assert all(reason in s.score.undefined and s.score.value is None for s in report.standings)
    assert reason in report.sentences[0]
    assert any(sentence in said for said in report.sentences[1:])


def test_a_lead_without_doubt_is_evidence() -> None:
    report = arena_of(made(*[1.0] * 80, *[0.0] * 20, lengths=((100, 50), (50, 100), (70, 90), (95, 60))))
    assert report.sentences[0].startswith("a is preferred to b in 80 % of comparisons")
    assert report.sentences[0].endswith("evidence that a is the better one.")
    assert "no evidence" not in report.sentences[0]


def test_at_equal_length_a_lead_by_length_is_gone() -> None:
    """The answers of model `long` are longer, and the only thing that voters like is length."""
    draws = random.Random(4)
    votes = []
    for k in range(600):
        lengths = (draws.randint(200, 800), draws.randint(100, 600))
        relative = (lengths[0] - lengths[1]) / sum(lengths)
        votes.append(
            Vote(f"p{k}", "ann", ("long", "short"), lengths, float(draws.random() < sigmoid(4 * relative)), False)
        )
    report = arena_of(votes)
    plain, equal = report.sentences
    assert plain.startswith("long is preferred")
    assert plain.endswith(": evidence that long is the better one.")
    assert equal.startswith("At equal length it would be")
    assert "no evidence" in equal
    first, second = report.standings
    assert first.score.value is not None
    assert first.score.value > second.score.value > 900 if second.score.value else False
    assert first.at_equal_length.low is not None
    assert first.at_equal_length.low < 1000 < (first.at_equal_length.high or 0)
    # γ in units of the root mean square of the relative difference.
    unit = math.sqrt(sum(((a - b) / (a + b)) ** 2 for a, b in (v.lengths for v in votes)) / len(votes))
    assert report.longer.low is not None
    assert report.longer.low < sigmoid(4 * unit) < (report.longer.high or 0)


def test_where_length_says_nothing_new_it_says_so() -> None:
    same = arena_of(made(1, 0, 1, lengths=((10, 10),)))
    assert same.standings[0].at_equal_length.undefined == "both answers are equally long in every vote"
    assert same.sentences[-1] == "Nothing can be said about equal length: both answers are equally long in every vote."
    fixed = arena_of(made(1, 0, 1, lengths=((20, 10),)))
    assert "the difference in length cannot be told from the models" in fixed.sentences[-1]
