"""What counts as an opinion: the last word on each question, whatever way it came."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import sqlalchemy as sa
from browsing import CHEAP, materials

from manners.feedback.adjudicate import dispute, settle
from manners.feedback.assign import Desk
from manners.feedback.batch import Batch, BatchSettings
from manners.feedback.materials import Material
from manners.feedback.opinions import Opinion, by_question, read_opinions
from manners.feedback.people import People, User
from manners.feedback.store import Store
from manners.feedback.submissions import Answer, Receipt, submit
from manners.feedback.tables import ASSIGNMENTS, ITEMS
from manners.records import Judgement, Ranking
from manners.web.passwords import Passwords


class Office:
    """A desk at which people answer."""

    def __init__(self, store: Store, desk: Desk, people: People) -> None:
        self.store, self.desk, self._people = store, desk, people
        self._keys: Iterator[str] = (f"key-{n:06}" for n in range(10**6))

    def person(self, name: str) -> User:
        return self._people.accept(self._people.invite("annotator"), name, Passwords(CHEAP).hash("a good password"))

    def answer(self, user: User, batch: Batch, texts: Sequence[str] = (), **more: Any) -> Receipt:
        """Take the next task and rank the answers whose text starts with these, best first."""
        task_id = self.desk.next(user.id, batch.id)
        assert task_id
        return self.again(user, task_id, texts, **more)

    def again(self, user: User, task_id: str, texts: Sequence[str] = (), **more: Any) -> Receipt:
        task = self.desk.task(task_id, user.id)
        places = [next(p for p, c in enumerate(task.completions) if c.text.startswith(text)) for text in texts]
        answer = Answer(client_key=next(self._keys), tiers=tuple((p,) for p in places), **more)
        return submit(self.store, task, answer)


@pytest.fixture
def office(store: Store, desk: Desk, people: People) -> Office:
    return Office(store, desk, people)


def _batch(desk: Desk, items: list[Material], **settings: Any) -> Batch:
    return desk.create(BatchSettings(**{"name": "batch", "gold_share": 0, **settings}), "# Be kind", items)


def test_a_change_of_mind_counts_once_and_a_second_occasion_is_kept_apart(office: Office) -> None:
    ann = office.person("ann")
    first = office.answer(ann, _batch(office.desk, materials(1)), ["answer 0", "answer 1"], active_ms=4000)
    with office.store.reading() as connection:
        task_id = str(connection.scalar(sa.select(ASSIGNMENTS.c.id)))
    office.again(ann, task_id, ["answer 1", "answer 0"], revises=first.submission_id)
    office.answer(ann, _batch(office.desk, materials(1)), ["answer 2", "answer 1"])
    opinions = read_opinions(office.store)
    assert [o.seconds for o in opinions.all] == [4.0, None, None]
    [answers] = [office.store.completions(prompt.id) for prompt in office.store.prompts()]
    texts = {c.id: c.text[:8] for c in answers}
    said = [[texts[answer] for tier in o.tiers for answer in tier] for o in opinions.occasions()]
    assert said == [["answer 1", "answer 0"], ["answer 2", "answer 1"]]
    assert opinions.latest() == opinions.occasions()[1:]
    assert set(opinions.all[0].shown) == set(texts)
    assert opinions.lengths == {c.id: len(c.text) for c in answers}


def test_one_question_in_two_batches_is_one_question(office: Office) -> None:
    ann, bob = office.person("ann"), office.person("bob")
    one, two = (_batch(office.desk, materials(1), name=name) for name in ("one", "two"))
    office.answer(ann, one, ["answer 0", "answer 1"])
    office.answer(bob, two, ["answer 1", "answer 0"])
    assert len(by_question(read_opinions(office.store).latest())) == 1
    assert [o.annotator for o in read_opinions(office.store, two.id).all] == [bob.id]


def test_skips_say_nothing_and_bad_answers_compare_nothing(office: Office) -> None:
    ann = office.person("ann")
    batch = _batch(office.desk, materials(2))
    office.answer(ann, batch, skip_reason="unclear")
    office.answer(ann, batch, all_bad=True)
    [opinion] = read_opinions(office.store).all
    assert (opinion.all_bad, opinion.compares, list(opinion.choices())) == (True, False, [])


def test_what_was_edited_is_no_comparison(office: Office) -> None:
    ann = office.person("ann")
    office.answer(ann, _batch(office.desk, materials(1), mode="edit"), base=0, edited="Much better.", active_ms=9000)
    [opinion] = read_opinions(office.store).all
    assert (opinion.compares, list(opinion.shown), opinion.seconds) == (False, [], 9.0)


def test_known_answers_and_ratings_come_along(office: Office) -> None:
    ann = office.person("ann")
    [known] = materials(1, text="known")
    gold = Material(known.prompt, known.completions, gold=((1,), (0, 2)))
    batch = _batch(office.desk, [*materials(60), gold], mode="ratings", gold_share=0.5)
    found: dict[bool, Opinion] = {}
    while len(found) < 2:
        office.answer(ann, batch, ratings={0: {"helpful": 4}, 1: {"helpful": 2}, 2: {"helpful": 2}})
        found = {o.gold is not None: o for o in read_opinions(office.store).all}
    ids = [c.id for c in known.completions]
    assert found[True].gold == [[ids[1]], [ids[0], ids[2]]]
    assert sorted(given["helpful"] for given in found[False].ratings.values()) == [2, 2, 4]


def _imported(store: Store, judge: str, order: Sequence[int], **more: Any) -> Judgement:
    [material] = materials(1)
    ids = [c.id for c in material.completions]
    ranking = Ranking(material.prompt.id, tuple((ids[p],) for p in order), judge=judge, shown=tuple(ids), **more)
    judgement = Judgement(material.prompt, material.completions, ranking)
    store.add([judgement])
    return judgement


def test_imported_rankings_of_named_people_count_without_their_order_on_the_screen(office: Office) -> None:
    store = office.store
    old = _imported(store, "zoe", [0, 1, 2])
    _imported(store, "zoe", [1, 0, 2], supersedes=old.ranking.id)
    _imported(store, "", [2, 1, 0])
    _imported(store, "model", [2, 1, 0], source="ai")
    ann = office.person("ann")
    batch = _batch(office.desk, materials(1))
    office.answer(ann, batch, ["answer 1", "answer 0", "answer 2"])
    opinions = read_opinions(store)
    mine, zoes = opinions.all
    assert (mine.annotator, zoes.annotator) == (ann.id, "zoe")
    assert mine.question == zoes.question
    assert list(zoes.choices()) == list(mine.choices())
    assert (len(mine.shown), len(zoes.shown)) == (3, 0)
    assert [o.annotator for o in read_opinions(store, batch.id).all] == [ann.id]


def test_a_settlement_is_no_opinion_and_hides_none(office: Office) -> None:
    store, people = office.store, [office.person(name) for name in ("ann", "bob")]
    batch = _batch(office.desk, materials(1), overlap=2)
    office.answer(people[0], batch, ["answer 0", "answer 1"])
    office.answer(people[1], batch, ["answer 1", "answer 0"])
    with store.reading() as connection:
        found = dispute(store, batch.id, str(connection.scalar(sa.select(ITEMS.c.id))))
    said = Answer(client_key="settle-it-now", tiers=((0,), (1,)), note="because")
    settle(store, found, said, office.person("rita").id, found.seen)
    assert [o.annotator for o in read_opinions(store).all] == [user.id for user in people]
