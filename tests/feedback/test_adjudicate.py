"""Disagreements come first, a settled ranking stands in the place of the others, and nothing is lost on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from browsing import materials

from manners.cli.data import make_pairs
from manners.errors import MannersError
from manners.feedback import chain
from manners.feedback.adjudicate import Dispute, Given, disagreement, dispute, disputes, reopen, screen_of, settle
from manners.feedback.assign import Desk
from manners.feedback.batch import Batch, BatchSettings
from manners.feedback.exports import current
from manners.feedback.pairs import read_pairs
from manners.feedback.people import People, User
from manners.feedback.store import Store
from manners.feedback.submissions import Answer, ChangedElsewhereError, submit
from manners.feedback.tables import ITEMS
from manners.records import Judgement, Ranking

Join = Callable[[str], User]
Places = Sequence[Sequence[int]]


def given(*tiers: str, all_bad: bool = False) -> Given:
    return Given("r", "ann", tuple(tuple(tier) for tier in tiers), all_bad, "", {}, (), "", False)


@pytest.mark.parametrize(
    ("one", "other", "much"),
    [
        (given("a", "b"), given("a", "b"), 0),
        (given("a", "b"), given("b", "a"), 1),
        (given("a", "b"), given("ab"), 0.5),
        (given("ab"), given("ab"), 0),
        # Of the three pairs of a, b, c the two with a are the other way round.
        (given("a", "b", "c"), given("b", "c", "a"), 2 / 3),
        # A tie against an order in one of three pairs.
        (given("a", "b", "c"), given("a", "bc"), 0.5 / 3),
        # Only b and c were ranked by both.
        (given("a", "b", "c"), given("c", "b"), 1),
        (given("a", "b"), given("c", "d"), None),
        (given(all_bad=True), given("a", "b"), 1),
        (given("a", "b", all_bad=True), given(all_bad=True), 0),
    ],
)
def test_how_much_two_judges_disagree(one: Given, other: Given, much: float | None) -> None:
    assert disagreement(one, other) == disagreement(other, one) == pytest.approx(much)


def judging(
    store: Store, desk: Desk, batch: Batch, user: User, opinions: dict[str, Places | None], key: str = "", **fields: Any
) -> None:
    """Judge every item by the answers' numbers in its materials; None says that all are bad."""
    while task_id := desk.next(user.id, batch.id):
        task = desk.task(task_id, user.id)
        tiers = opinions[task.prompt.text]
        where = {completion.text.split()[1]: place for place, completion in enumerate(task.completions)}
        places = tuple(tuple(where[str(n)] for n in tier) for tier in tiers or ())
        answer = Answer(client_key=f"{task.id}{key}", tiers=places, all_bad=tiers is None, **fields)
        submit(store, task, answer)


@pytest.fixture
def batch(desk: Desk) -> Batch:
    return desk.create(BatchSettings(name="b", overlap=3), "g", materials(4, 3))


@pytest.fixture
def judged(store: Store, desk: Desk, batch: Batch, join: Join) -> dict[str, User]:
    """Three judges of four items: agreement, one of three against two, one who finds all bad, and ties."""
    same: Places = [[0], [1], [2]]
    opinions: dict[str, dict[str, Places | None]] = {
        "ann": {"prompt 0": same, "prompt 1": same, "prompt 2": same, "prompt 3": same},
        "bob": {"prompt 0": same, "prompt 1": same, "prompt 2": None, "prompt 3": [[0], [1, 2]]},
        "cleo": {"prompt 0": same, "prompt 1": [[2], [1], [0]], "prompt 2": None, "prompt 3": same},
    }
    people = {name: join(name) for name in opinions}
    for name, said in opinions.items():
        judging(store, desk, batch, people[name], said, note=f"{name} thinks so")
    return people


def named(store: Store, found: Dispute) -> str:
    return store.prompt(found.prompt_id).text


def places(store: Store, found: Dispute, reviewer: str, *tiers: Sequence[int], **fields: Any) -> Answer:
    screen = screen_of(store, found, reviewer)
    where = {completion.text.split()[1]: place for place, completion in enumerate(screen.completions)}
    said = tuple(tuple(where[str(n)] for n in tier) for tier in tiers)
    return Answer(**{"client_key": "the-key-of-it", "tiers": said, "note": "the second one is true", **fields})


def of(store: Store, batch: Batch, text: str) -> Dispute:
    [found] = [d for d in disputes(store, batch.id) if named(store, d) == text]
    return found


def outcome(store: Store, text: str) -> list[tuple[str, list[str]]]:
    """The judge and the order of every ranking of a prompt that counts."""
    found = []
    for judgement in store.judgements():
        if judgement.prompt.text == text:
            words = {c.id: c.text.split()[1] for c in judgement.completions}
            order = ["=".join(words[i] for i in tier) for tier in judgement.ranking.tiers]
            found.append((judgement.ranking.judge, order))
    return found


@pytest.mark.usefixtures("judged")
def test_the_greatest_disagreement_comes_first(store: Store, batch: Batch) -> None:
    found = disputes(store, batch.id)
    assert [named(store, d) for d in found] == ["prompt 1", "prompt 2", "prompt 3", "prompt 0"] or [
        named(store, d) for d in found
    ] == ["prompt 2", "prompt 1", "prompt 3", "prompt 0"]
    much = {named(store, d): d.disagreement for d in found}
    # Of three pairs of judges two disagree wholly, on prompts 1 and 2; on prompt 3 two pairs disagree by half of one of three.
    assert much == pytest.approx({"prompt 1": 2 / 3, "prompt 2": 2 / 3, "prompt 3": 2 / 3 * 0.5 / 3, "prompt 0": 0})
    assert [named(store, d) for d in found if d.some_all_bad] == ["prompt 2"]
    notes = [g.note for g in of(store, batch, "prompt 1").given]
    assert notes == ["ann thinks so", "bob thinks so", "cleo thinks so"]


def test_the_settled_ranking_stands_in_the_place_of_the_others(
    store: Store, batch: Batch, judged: dict[str, User], join: Join, tmp_path: Path
) -> None:
    rita = join("rita")
    before, hashed = store.counts(), store.content_hash()
    found = of(store, batch, "prompt 1")
    done = settle(store, found, places(store, found, rita.id, [1], [0, 2]), rita.id, found.seen)
    assert (done.reviewer, done.reason) == (rita.id, "the second one is true")
    assert [(judge, order[0]) for judge, order in outcome(store, "prompt 1")] == [(f"settled:{rita.id}", "1")]
    assert {judge for judge, _ in outcome(store, "prompt 0")} == {user.id for user in judged.values()}
    # Nothing is gone: three rankings fewer count, and one was added.
    after = store.counts()
    assert (after.rankings, after.current) == (before.rankings + 1, before.current - 3 + 1)
    assert store.content_hash() != hashed
    assert [named(store, d) for d in disputes(store, batch.id)][-1] == "prompt 1"
    assert {j.ranking.judge for j in current(store, batch.id)} == {f"settled:{rita.id}"} | {
        user.id for user in judged.values()
    }
    make_pairs(store, tmp_path, seed=0, validation=0, test=0, source="human", halves=False)
    pairs = [p for p in read_pairs(tmp_path / "train.jsonl") if p.prompt.text == "prompt 1"]
    assert [(p.judge, p.chosen.text) for p in pairs] == [(f"settled:{rita.id}", "answer 1 to 1")] * 2
    assert {p.rejected.text for p in pairs} == {"answer 0 to 1", "answer 2 to 1"}


def test_all_may_be_bad(store: Store, batch: Batch, judged: dict[str, User]) -> None:
    rita = judged["ann"].id
    found = of(store, batch, "prompt 2")
    settle(store, found, places(store, found, rita, all_bad=True), rita, found.seen)
    [counting] = [j for j in store.judgements() if j.prompt.text == "prompt 2"]
    assert (counting.ranking.judge, counting.ranking.all_bad) == (f"settled:{rita}", True)


def test_what_is_said_later_waits_for_the_reviewer(
    store: Store, desk: Desk, batch: Batch, judged: dict[str, User], join: Join
) -> None:
    rita = join("rita")
    found = of(store, batch, "prompt 1")
    settle(store, found, places(store, found, rita.id, [1], [0], [2]), rita.id, found.seen)
    # The same question in another batch, by somebody new and by somebody who changes their mind.
    again = desk.create(BatchSettings(name="again", overlap=3), "g", materials(2, 3))
    for user in (join("dora"), judged["cleo"]):
        judging(store, desk, again, user, {"prompt 0": [[0], [1], [2]], "prompt 1": [[0], [1], [2]]}, "again")
    assert [order for _, order in outcome(store, "prompt 1")] == [["1", "0", "2"]]
    late = of(store, batch, "prompt 1")
    assert (late.late, len(late.given)) == (2, 4)
    # Both batches know of it.
    assert of(store, again, "prompt 1").settled
    assert f"settled:{rita.id}" in {j.ranking.judge for j in current(store, again.id)}
    later = settle(
        store, late, places(store, late, rita.id, [0], [1], [2], client_key="another-key"), rita.id, late.seen
    )
    assert [order for _, order in outcome(store, "prompt 1")] == [["0", "1", "2"]]
    assert (of(store, batch, "prompt 1").late, later.reviewer) == (0, rita.id)


def test_opened_again_the_judges_count_once_more(store: Store, batch: Batch, judged: dict[str, User]) -> None:
    rita = judged["ann"].id
    found = of(store, batch, "prompt 1")
    before = outcome(store, "prompt 1")
    with pytest.raises(MannersError, match="not settled"):
        reopen(store, found, places(store, found, rita), rita, found.seen)
    answer = places(store, found, rita, [1], [0])
    settle(store, found, answer, rita, found.seen)
    hashed, settled = store.content_hash(), of(store, batch, "prompt 1")
    reopen(
        store, settled, Answer(client_key="reopening", note="the guideline says otherwise"), rita, settled.seen
    )  # fmt: skip
    assert outcome(store, "prompt 1") == before
    assert store.content_hash() != hashed
    reopened = of(store, batch, "prompt 1")
    assert (reopened.settled, reopened.settlement and reopened.settlement.reason) == (
        False,
        "the guideline says otherwise",
    )
    # The very same decision once more, after all.
    settle(store, reopened, answer.model_copy(update={"client_key": "once-more"}), rita, reopened.seen)
    assert [judge for judge, _ in outcome(store, "prompt 1")] == [f"settled:{rita}"]


def test_twice_is_once_and_nobody_decides_on_what_they_did_not_see(
    store: Store, batch: Batch, judged: dict[str, User], join: Join
) -> None:
    found, ann, rita = of(store, batch, "prompt 1"), judged["ann"].id, join("rita").id
    first = settle(store, found, places(store, found, rita, [1], [0]), rita, found.seen)
    assert settle(store, found, places(store, found, rita, [1], [0]), rita, found.seen) == first
    with pytest.raises(ChangedElsewhereError, match="in the meantime"):
        settle(store, found, places(store, found, ann, [2], [0]), ann, found.seen)
    assert [order for _, order in outcome(store, "prompt 1")] == [["1", "0"]]


@pytest.mark.usefixtures("judged")
def test_every_reviewer_has_an_order_of_their_own(store: Store, batch: Batch) -> None:
    found = of(store, batch, "prompt 1")
    orders = {tuple(c.id for c in screen_of(store, found, f"reviewer {n}").completions) for n in range(12)}
    # Twelve of six orders: fewer than three different ones has a chance below one in 100 000.
    assert len(orders) >= 3
    assert screen_of(store, found, "rita") == screen_of(store, found, "rita")
    assert all(sorted(order) == sorted(found.answers) for order in orders)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"note": "  "}, "say why"),
        ({"tiers": ()}, "nothing is ranked"),
        ({"tiers": ((0,),)}, "one rank alone"),
        ({"tiers": ((0,), (7,))}, "from 0 to 2"),
        ({"tiers": ((0,), (0,))}, "one rank"),
    ],
)
@pytest.mark.usefixtures("judged")
def test_a_decision_is_whole_or_none(store: Store, batch: Batch, fields: dict[str, Any], reason: str) -> None:
    found = of(store, batch, "prompt 1")
    before = store.counts()
    with pytest.raises(MannersError, match=reason):
        settle(store, found, places(store, found, "rita", [0], [1], **fields), "rita", found.seen)
    assert store.counts() == before


def test_rankings_from_elsewhere_are_left_alone(store: Store, batch: Batch, judged: dict[str, User]) -> None:
    found = of(store, batch, "prompt 1")
    known = {c.id: c for c in store.completions(found.prompt_id)}
    ids = list(found.answers)
    ranking = Ranking(found.prompt_id, ((ids[2],), (ids[0],)), source="ai", judge="a model")
    store.add([Judgement(store.prompt(found.prompt_id), tuple(known[i] for i in ids), ranking)])
    rita = judged["ann"].id
    settle(store, found, places(store, found, rita, [1], [0]), rita, found.seen)
    assert {judge for judge, _ in outcome(store, "prompt 1")} == {"a model", f"settled:{rita}"}


@pytest.mark.usefixtures("judged")
@pytest.mark.parametrize("before", [False, True])
def test_an_iterator_keeps_to_the_decisions_there_were(
    store: Store, batch: Batch, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    """Whether a question is settled for the first time in the middle, or otherwise than before."""
    monkeypatch.setattr("manners.feedback.store._BATCH", 1)
    if before:
        found = of(store, batch, "prompt 1")
        settle(store, found, places(store, found, "rita", [2], [0], client_key="the-first-one"), "rita", found.seen)
    expected = list(store.judgements())
    found, read = of(store, batch, "prompt 1"), []
    for number, judgement in enumerate(store.judgements()):
        read.append(judgement)
        if number == 0:
            settle(store, found, places(store, found, "rita", [1], [0]), "rita", found.seen)
    assert read == expected
    assert list(store.judgements()) != expected


def test_edits_are_not_in_dispute(store: Store, desk: Desk, join: Join) -> None:
    batch = desk.create(BatchSettings(name="m", mode="edit", overlap=2), "g", materials(1, 2))
    for name in ("ann", "bob"):
        user = join(name)
        task_id = desk.next(user.id, batch.id) or ""
        submit(store, desk.task(task_id, user.id), Answer(client_key=task_id, base=0, edited=f"by {name}"))
    assert store.counts().current == 2
    assert disputes(store, batch.id) == []


@pytest.mark.usefixtures("judged")
def test_known_answers_are_not_in_dispute(store: Store, batch: Batch) -> None:
    found = of(store, batch, "prompt 1")
    with store.transaction() as connection:
        connection.execute(ITEMS.update().where(ITEMS.c.id == found.item_id).values(arm="gold"))
    assert sorted(named(store, d) for d in disputes(store, batch.id)) == ["prompt 0", "prompt 2", "prompt 3"]


def test_every_decision_is_in_the_chain_and_survives_the_forgetting_of_its_reviewer(
    store: Store, batch: Batch, judged: dict[str, User], people: People
) -> None:
    people.accept(people.invite("admin"), "the admin", "hash")
    rita = judged["ann"].id
    with store.reading() as connection:
        links = chain.audit(connection).links
    found = of(store, batch, "prompt 1")
    settle(store, found, places(store, found, rita, [1], [0]), rita, found.seen)
    before = outcome(store, "prompt 1")
    with store.reading() as connection:
        # The ranking and the decision.
        assert chain.audit(connection) == chain.Audit(links + 2, chain.audit(connection).head, ())
    people.forget(rita)
    with store.reading() as connection:
        assert chain.audit(connection).whole
    assert outcome(store, "prompt 1") == before
    settled = of(store, batch, "prompt 1")
    assert (settled.settlement and settled.settlement.reason, next(g.note for g in settled.given)) == ("", "")
    assert dispute(store, batch.id, found.item_id) == settled
    with pytest.raises(MannersError, match="nobody has judged"):
        dispute(store, batch.id, "no-such-item")
