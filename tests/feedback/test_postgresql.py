"""The store on a real PostgreSQL, where MANNERS_POSTGRESQL names a server on which databases may be created."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from browsing import CHEAP, Browser, materials, token_in
from crowd import crowd, missing_or_doubled
from postgresql import needs_postgresql, new_database

from manners.errors import MannersError
from manners.feedback.adjudicate import disputes, settle
from manners.feedback.arena import arena
from manners.feedback.assign import Desk
from manners.feedback.batch import BatchSettings
from manners.feedback.chain import audit
from manners.feedback.exports import submissions
from manners.feedback.people import People
from manners.feedback.store import Added, Store
from manners.feedback.submissions import Answer, submit
from manners.feedback.tables import METADATA
from manners.records import Completion, Judgement, Prompt, Ranking
from manners.web import WebSettings, create_app
from manners.web.passwords import Passwords

pytestmark = needs_postgresql


def judged(text: str, judge: str = "ann", best: int = 0) -> Judgement:
    prompt = Prompt.of(text)
    completions = tuple(Completion(prompt.id, f"answer {k} ü", seed=k, sampling={"temperature": 0.7}) for k in range(3))
    ids = [c.id for c in completions]
    return Judgement(
        prompt, completions, Ranking(prompt.id, ((ids[best],), (ids[best - 1],)), judge=judge, seconds=2.5)
    )


@pytest.fixture
def address() -> Iterator[str]:
    with new_database() as url:
        yield url


def test_what_goes_in_comes_out_as_from_sqlite(address: str, tmp_path: Path) -> None:
    given = [judged("one"), judged("two", best=2), judged("one", judge="bob")]
    with Store.open(address) as store, Store.open(tmp_path / "here.db") as here:
        assert store.add(given) == here.add(given) == Added(new=3, known=0)
        assert store.add(given) == Added(new=0, known=3)
        assert list(store.judgements()) == list(here.judgements()) == given
        assert store.content_hash() == here.content_hash()


def test_a_change_of_mind_supersedes_and_the_log_keeps_both(address: str) -> None:
    first = judged("one")
    ids = [c.id for c in first.completions]
    second = replace(
        first, ranking=Ranking(first.prompt.id, ((ids[1],), (ids[0],)), judge="ann", supersedes=first.ranking.id)
    )
    with Store.open(address) as store:
        store.add([first, second])
        assert [j.ranking for j in store.judgements()] == [second.ranking]
        assert [j.ranking for j in store.judgements(current_only=False)] == [first.ranking, second.ranking]


@pytest.mark.parametrize(
    "statement", ["DELETE FROM rankings", "UPDATE rankings SET tiers = '[]'", "DELETE FROM prompts"]
)
def test_the_database_itself_refuses_changes(address: str, statement: str) -> None:
    with Store.open(address) as store:
        store.add([judged("one")])
    engine = sa.create_engine(sa.make_url(address).set(drivername="postgresql+psycopg"), poolclass=sa.NullPool)
    with engine.connect() as connection, pytest.raises(sa.exc.DBAPIError, match="append-only"):
        connection.exec_driver_sql(statement)


def test_writers_at_once_lose_nothing(address: str) -> None:
    def write(number: int) -> None:
        with Store.open(address) as store:
            for k in range(5):
                store.add([judged(f"shared {k}"), judged(f"own {number} {k}")][:: 1 if number % 2 else -1])

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with Store.open(address) as store:
        assert store.counts().rankings == 5 + 4 * 5


def test_a_wrong_password_or_server_is_one_line_without_the_password() -> None:
    with pytest.raises(MannersError) as error:
        Store.open("postgresql://nobody:secret@127.0.0.1:1/none")
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


def test_the_feedback_app_runs_on_it(address: str) -> None:
    seen = crowd(address, annotators=8, seconds=3, think=0.2, kills=1, items=60, least=6)
    assert seen.strange == []
    assert missing_or_doubled(address, seen) == []


@pytest.mark.parametrize("table", ["submissions", "guidelines", "chain"])
def test_the_log_of_the_app_is_append_only_too(address: str, table: str) -> None:
    with Store.open(address) as store:
        batch = Desk(store).create(BatchSettings(name="b"), "g", materials(1))
        ann = People(store).accept(People(store).invite("annotator"), "ann", "hash")
        task = Desk(store).task(Desk(store).next(ann.id, batch.id) or "", ann.id)
        submit(store, task, Answer(client_key="0123456789", tiers=((0,), (1,))))
        with store.reading() as connection:
            assert audit(connection).links == 2
    engine = sa.create_engine(sa.make_url(address).set(drivername="postgresql+psycopg"), poolclass=sa.NullPool)
    with engine.connect() as connection, pytest.raises(sa.exc.DBAPIError, match="append-only"):
        connection.exec_driver_sql(f"DELETE FROM {table}")


def test_people_are_forgotten_and_disputes_settled_on_it(address: str) -> None:
    words = replace(judged("noted"), ranking=replace(judged("noted").ranking, note="a note of somebody else"))
    with Store.open(address) as store:
        people, desk = People(store), Desk(store)
        people.accept(people.invite("admin"), "admin", "hash")
        ann, bob = (people.accept(people.invite("annotator"), name, "hash") for name in ("ann", "bob"))
        mine = replace(words, ranking=replace(words.ranking, judge=ann.id, note="a note of ann"))
        store.add([words, mine])
        batch = desk.create(BatchSettings(name="b", mode="pair", overlap=2), "g", materials(2, 2))
        for user, best in ((ann, "answer 0"), (bob, "answer 1")):
            while task_id := desk.next(user.id, batch.id):
                task = desk.task(task_id, user.id)
                first = next(k for k, c in enumerate(task.completions) if c.text.startswith(best))
                answer = Answer(client_key=task_id, tiers=((first,), (1 - first,)), note=f"a reason of {user.name}")
                submit(store, task, answer)
        [duel] = arena(store, batch.id).duels
        assert (duel.wins, duel.losses) == (2, 2)
        found = disputes(store, batch.id)[0]
        settle(store, found, Answer(client_key="settling-it", tiers=((0,), (1,)), note="why"), bob.id, found.seen)
        counted = [j.ranking.judge for j in store.judgements()]
        assert sorted(counted) == sorted(["ann", ann.id, ann.id, bob.id, f"settled:{bob.id}"])
        people.forget(ann.id, bob.id)
        assert sorted(row["note"] for row in submissions(store)) == ["", "", "a reason of bob", "a reason of bob"]
        assert [j.ranking.note for j in store.judgements() if j.prompt.text == "noted"] == [
            "a note of somebody else",
            "",
        ]
        with store.reading() as connection:
            assert audit(connection).problems == ()
    engine = sa.create_engine(sa.make_url(address).set(drivername="postgresql+psycopg"), poolclass=sa.NullPool)
    notes = ("note = '', tiers = '[]'", "note = '', seconds = 1", "note = 'x'", "note = '', supersedes = 'x'")
    statements = [f"UPDATE rankings SET {change}" for change in notes]
    statements += [f"DELETE FROM {table}" for table in ("settlements", "forgotten", "anchors")]
    for statement in (*statements, "UPDATE remarks SET text = 'x'"):
        with engine.connect() as connection, pytest.raises(sa.exc.DBAPIError, match="append-only"):
            connection.exec_driver_sql(statement)


def test_no_request_breaks_the_app_on_it(address: str) -> None:
    with Store.open(address) as store:
        people = People(store)
        admin = people.accept(people.invite("admin"), "admin", "hash")
        headers = {"authorization": f"Bearer {people.make_token(admin.id, 'test')}"}
        batch = Desk(store).create(BatchSettings(name="b"), "g", materials(2))
        with Browser(create_app(store, WebSettings("http://testserver"), Passwords(CHEAP))) as browser:
            for path in (
                "/api/batches/%00",
                "/api/tasks/%00",
                "/invite/%00",
                f"/exports/pairs.csv?batch={batch.id}%00",
            ):
                assert browser.get(path, headers=headers).status_code in (404, 405)
            task = browser.post(f"/api/batches/{batch.id}/next", headers=headers).json()["task"]["id"]
            for field in ("note", "client_key", "guideline_id", "revises", "skip_reason", "edited"):
                answer = {"client_key": "0123456789", "tiers": [[0], [1]], field: "a\0b\0c\0d\0e"}
                assert browser.post(f"/api/tasks/{task}", json=answer, headers=headers).status_code == 422
            form = {"name": "a\0b", "password": "x", "csrf": token_in(browser.get("/login").text)}
            assert browser.post("/login", data=form).status_code == 400


def test_the_schema_is_the_codes(address: str) -> None:
    with Store.open(address) as store, store.reading() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, METADATA) == []
