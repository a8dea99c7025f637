"""What counts: once per key, the last word of a person, and only what makes sense in the mode."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from browsing import materials

from manners.errors import MannersError
from manners.feedback.assign import Desk, Task
from manners.feedback.batch import BatchSettings, Mode
from manners.feedback.exports import submissions
from manners.feedback.pairs import pairs_of
from manners.feedback.people import User
from manners.feedback.store import Store
from manners.feedback.submissions import Answer, ChangedElsewhereError, history, judgement_of, standing, submit

Join = Callable[[str], User]
KEY = "client-key"


def task_of(desk: Desk, user: User, mode: Mode = "rank", answers: int = 3) -> Task:
    batch = desk.create(BatchSettings(name=mode, mode=mode), "g", materials(1, answers))
    return desk.task(desk.next(user.id, batch.id) or "", user.id)


def said(**fields: Any) -> Answer:
    """An answer under the same key each time."""
    return Answer(**{"client_key": KEY, **fields})


def test_the_same_key_counts_once_even_from_many_threads(desk: Desk, join: Join, store: Store) -> None:
    task = task_of(desk, join("ann"))
    receipts: list[Any] = []
    answer = said(tiers=((0,), (1, 2)))
    threads = [threading.Thread(target=lambda: receipts.append(submit(store, task, answer))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({receipt.submission_id for receipt in receipts}) == 1
    assert sorted(receipt.known for receipt in receipts) == [False] + [True] * 7
    assert store.counts().rankings == len(list(submissions(store))) == 1


def test_two_people_may_use_the_same_key(desk: Desk, join: Join, store: Store) -> None:
    for name in ("ann", "bob"):
        task = task_of(desk, join(name))
        assert not submit(store, task, said(tiers=((0,), (1,)))).known
    assert store.counts().rankings == 2


def test_of_two_windows_the_second_is_told(desk: Desk, join: Join, store: Store) -> None:
    task = task_of(desk, join("ann"))
    first = submit(store, task, said(tiers=((0,), (1,))))
    with pytest.raises(ChangedElsewhereError):
        submit(store, task, said(client_key="another-key", tiers=((1,), (0,))))
    submit(store, task, said(client_key="another-key", tiers=((1,), (0,)), revises=first.submission_id))
    assert (store.counts().rankings, store.counts().current) == (2, 1)


def test_back_to_the_first_opinion_is_a_third_one(desk: Desk, join: Join, store: Store) -> None:
    task = task_of(desk, join("ann"))
    tiers: list[tuple[tuple[int, ...], ...]] = [((0,), (1,)), ((1,), (0,)), ((0,), (1,))]
    revises = ""
    for number, given in enumerate(tiers):
        revises = submit(store, task, said(client_key=f"the-key-{number}", tiers=given, revises=revises)).submission_id
    [current] = store.judgements()
    shown = current.ranking.shown
    assert current.ranking.tiers == ((shown[0],), (shown[1],))
    assert store.counts().rankings == 3


def test_the_same_question_in_two_batches_holds_one_opinion_and_edits_are_another(
    desk: Desk, join: Join, store: Store
) -> None:
    ann = join("ann")
    for number, mode in enumerate(("rank", "pair", "thumbs", "edit")):
        task = task_of(desk, ann, mode, 2)  # type: ignore[arg-type]
        fields = {"thumbs": {0: True, 1: False}, "base": 0, "edited": "better", "tiers": ((0,), (1,))}
        submit(store, task, said(client_key=f"the-key-{number}", **fields))
    assert (store.counts().rankings, store.counts().current) == (4, 2)
    [row] = history(store, ann.id, 1)
    assert row["mode"] == "edit"


def test_ties_partial_rankings_and_all_bad(desk: Desk, join: Join) -> None:
    task = task_of(desk, join("ann"), answers=4)
    ids = [c.id for c in task.completions]
    made = judgement_of(task, said(tiers=((2,), (0, 3))))
    assert made.ranking.tiers == ((ids[2],), (ids[0], ids[3]))
    # Two of six pairs of three named ones; the tie and the answer that was not named give none.
    assert [(p.chosen.id, p.rejected.id) for p in pairs_of(made)] == [(ids[2], ids[0]), (ids[2], ids[3])]
    bad = judgement_of(task, said(all_bad=True))
    assert (bad.ranking.tiers, bad.ranking.all_bad, pairs_of(bad)) == ((), True, [])
    ranked_bad = judgement_of(task, said(all_bad=True, tiers=((0,), (1,))))
    assert (len(ranked_bad.ranking.tiers), pairs_of(ranked_bad)) == (2, [])


@pytest.mark.parametrize(
    ("ratings", "tiers"),
    [
        # Means 3, 4.5, 3.
        (
            {0: {"helpful": 2, "honest": 4}, 1: {"helpful": 4, "honest": 5}, 2: {"helpful": 3, "honest": 3}},
            [[1], [0, 2]],
        ),
        ({0: {"harmless": 1}, 1: {"harmless": 2}, 2: {"harmless": 3}}, [[2], [1], [0]]),
    ],
)
def test_ratings_rank_by_their_mean(desk: Desk, join: Join, ratings: Any, tiers: list[list[int]]) -> None:
    task = task_of(desk, join("ann"), "ratings")
    made = judgement_of(task, said(ratings=ratings))
    places = {c.id: place for place, c in enumerate(task.completions)}
    assert [sorted(places[c] for c in tier) for tier in made.ranking.tiers] == tiers


@pytest.mark.parametrize(
    ("mode", "fields", "reason"),
    [
        ("rank", {}, "nothing is ranked"),
        ("rank", {"tiers": ((0,),)}, "one rank alone"),
        ("rank", {"tiers": ((0,), (0,))}, "one rank"),
        ("rank", {"tiers": ((0,), ())}, "no rank is empty"),
        ("rank", {"tiers": ((0,), (3,))}, "from 0 to 2"),
        ("rank", {"tiers": ((0,), (-1,))}, "from 0 to 2"),
        ("rank", {"tiers": ((0,), (1,)), "flags": {0: ("rude",)}}, "flags are insult"),
        ("rank", {"tiers": ((0,), (1,)), "ratings": {0: {"helpful": 6}}}, "from 1 to 5"),
        ("rank", {"tiers": ((0,), (1,)), "ratings": {7: {"helpful": 5}}}, "from 0 to 2"),
        ("pair", {"tiers": ((0,),)}, "which of the two"),
        ("pair", {"tiers": ((0, 1),), "strength": 2}, "a tie has no strength"),
        ("ratings", {"ratings": {0: {"helpful": 1}}}, "rate every answer"),
        ("ratings", {"ratings": {0: {"helpful": 1}, 1: {"honest": 1}, 2: {"honest": 1}}}, "same criteria"),
        ("thumbs", {"thumbs": {0: True}}, "every answer a thumb"),
        ("edit", {"base": 0}, "write a better one"),
        ("edit", {"edited": "x"}, "choose an answer"),
        ("edit", {"base": 9, "edited": "x"}, "from 0 to"),
    ],
)
def test_answers_that_make_no_sense(desk: Desk, join: Join, store: Store, mode: Mode, fields: Any, reason: str) -> None:
    task = task_of(desk, join("ann"), mode, 2 if mode == "pair" else 3)
    with pytest.raises(MannersError, match=reason):
        submit(store, task, said(**fields))
    assert store.counts().rankings == 0
    assert desk.task(task.id, task.user_id).state == "open"


def test_a_skip_can_become_an_answer_but_an_answer_no_skip(desk: Desk, join: Join, store: Store) -> None:
    task = task_of(desk, join("ann"))
    skip = submit(store, task, said(skip_reason="unclear", client_key="skip-key"))
    assert skip.ranking_id is None
    done = submit(store, task, said(tiers=((0,), (1,)), revises=skip.submission_id))
    assert desk.progress(task.batch.id).judged == 1
    with pytest.raises(MannersError, match="cannot be skipped any more"):
        submit(store, task, said(skip_reason="x", client_key="third-key", revises=done.submission_id))
    assert desk.progress(task.batch.id).judged == 1


def test_everything_that_was_said_is_in_the_log(desk: Desk, join: Join, store: Store) -> None:
    ann = join("ann")
    task = task_of(desk, ann)
    ids = [c.id for c in task.completions]
    submit(
        store,
        task,
        said(
            tiers=((1,), (0,)),
            ratings={1: {"honest": 5}},
            flags={2: ("insult", "false", "insult")},
            active_ms=2500,
            note="n",
        ),
    )
    [row] = submissions(store)
    assert row["display_order"] == ids
    assert row["seed"] == task.seed
    assert row["ratings"] == {ids[1]: {"honest": 5}}
    assert row["flags"] == {ids[2]: ["false", "insult"]}
    assert (row["active_ms"], row["annotator"], row["guideline_id"]) == (2500, ann.id, task.batch.guideline_id)
    assert (row["tiers"], row["note"]) == ([[ids[1]], [ids[0]]], "n")
    assert standing(store, task.batch.id) == [(ann.id, 1, 0, 2.5)]
