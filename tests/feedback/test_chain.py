"""The chain notices every change that is made behind the store's back, and forgetting a person is none."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from browsing import materials

from manners.feedback import chain, database
from manners.feedback.assign import Desk
from manners.feedback.batch import BatchSettings
from manners.feedback.people import People, User
from manners.feedback.store import Store
from manners.feedback.submissions import Answer, submit
from manners.records import Completion, Judgement, Prompt, Ranking

Join = Callable[[str], User]


def judged(number: int) -> Judgement:
    prompt = Prompt.of(f"prompt {number}")
    a, b = Completion(prompt.id, "a"), Completion(prompt.id, "b")
    return Judgement(prompt, (a, b), Ranking(prompt.id, ((a.id,), (b.id,)), judge="ann"))


def audited(store: Store, head: str = "") -> chain.Audit:
    with store.reading() as connection:
        return chain.audit(connection, head)


@pytest.fixture
def filled(store: Store, desk: Desk, join: Join) -> Store:
    """Three imported rankings and two that were handed in: seven links."""
    store.add(judged(number) for number in range(3))
    batch = desk.create(BatchSettings(name="b"), "g", materials(2))
    ann = join("ann")
    for number in range(2):
        task = desk.task(desk.next(ann.id, batch.id) or "", ann.id)
        submit(store, task, Answer(client_key=f"the-key-{number}", tiers=((0,), (1,))))
    return store


def test_an_empty_log_is_whole(store: Store) -> None:
    assert audited(store) == chain.Audit(0, "0" * 64, ())


def test_every_ranking_and_submission_is_linked_in_order(filled: Store) -> None:
    result = audited(filled)
    assert (result.links, result.problems) == (7, ())
    with closing(sqlite3.connect(filled.place)) as raw:
        rows = raw.execute("SELECT kind, subject, digest, hash FROM chain ORDER BY sequence").fetchall()
    assert [row[0] for row in rows] == ["ranking"] * 4 + ["submission", "ranking", "submission"]
    # By hand: the SHA-256 of what came before, the kind, the id and the digest, on a line each.
    previous = "0" * 64
    for kind, subject, digest, hashed in rows:
        previous = hashlib.sha256(f"{previous}\n{kind}\n{subject}\n{digest}".encode()).hexdigest()
        assert hashed == previous
    assert result.head == previous


def test_adding_the_same_again_adds_no_link(filled: Store) -> None:
    filled.add([judged(0)])
    assert audited(filled).links == 7


def tamper(place: str, statement: str) -> None:
    """Change the file as somebody would who can write to it and drops the triggers first."""
    with closing(sqlite3.connect(place)) as raw, raw:
        for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            raw.execute(f"DROP TRIGGER {name}")
        assert raw.execute(statement).rowcount >= 1


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE rankings SET note = 'x' WHERE sequence = 2", "row in the log was changed"),
        ("UPDATE rankings SET created_at = '2020' WHERE sequence = 4", "row in the log was changed"),
        ("UPDATE submissions SET seed = seed + 1 WHERE sequence = 1", "row in the log was changed"),
        ("UPDATE completions SET text = 'nicer' WHERE sequence = 1", "completion .* was changed"),
        ("UPDATE prompts SET messages = '[{\"role\": \"user\", \"content\": \"x\"}]' WHERE sequence = 1", "prompt .* was changed"),
        ("UPDATE guidelines SET text = 'x'", "guideline .* was changed"),
        ("DELETE FROM rankings WHERE sequence = 2", "not in its place in the log"),
        ("DELETE FROM submissions WHERE sequence = 2", "not in its place in the log"),
        ("DELETE FROM chain WHERE sequence = 3", "links are missing before it"),
        ("DELETE FROM chain WHERE sequence = 7", "in the log but not in the chain"),
        ("UPDATE chain SET digest = hash WHERE sequence = 3", "does not follow"),
        (
            "INSERT INTO rankings SELECT 99, 'f00d', prompt_id, completions, tiers, source, judge, shown, all_bad, seconds, note, "
            "supersedes, created_at FROM rankings WHERE sequence = 1",
            "in the log but not in the chain",
        ),
    ],
)  # fmt: skip
def test_every_change_is_noticed(filled: Store, statement: str, problem: str) -> None:
    tamper(filled.place, statement)
    result = audited(filled)
    assert not result.whole
    with pytest.raises(ValueError, match=problem):
        raise ValueError("; ".join(result.problems))


def test_a_noted_head_tells_that_the_end_was_cut_off(filled: Store) -> None:
    noted = audited(filled).head
    filled.add([judged(10)])
    assert audited(filled, noted).whole
    tamper(filled.place, "DELETE FROM chain WHERE sequence > 5")
    tamper(filled.place, "DELETE FROM submissions WHERE sequence = 2")
    tamper(filled.place, "DELETE FROM rankings WHERE sequence >= 5")
    assert audited(filled).whole
    assert "its end was cut off" in " ".join(audited(filled, noted).problems)


def test_the_chain_of_a_whole_log_that_was_rewritten_has_another_head(filled: Store) -> None:
    noted = audited(filled).head
    tamper(filled.place, "DELETE FROM chain")
    tamper(filled.place, "UPDATE rankings SET note = 'forged' WHERE sequence = 1")
    filled.add([judged(11)])
    assert audited(filled).whole
    assert not audited(filled, noted).whole


@pytest.mark.parametrize("table", ["chain", "submissions", "guidelines"])
def test_the_database_itself_refuses_changes(filled: Store, table: str) -> None:
    with closing(sqlite3.connect(filled.place)) as raw:
        for statement in (f"DELETE FROM {table}", f"UPDATE {table} SET sequence = sequence + 100"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                raw.execute(statement)


def test_a_forgotten_person_leaves_a_whole_chain_and_no_name(filled: Store, people: People) -> None:
    [ann] = people.everybody()
    before = audited(filled)
    people.accept(people.invite("admin"), "the admin", "hash")
    token = people.start_session(ann.id)
    people.forget(ann.id)
    after = audited(filled, before.head)
    assert (after.links, after.problems) == (before.links + 1, ())
    assert people.session(token) is None
    assert people.credentials("ann") is None
    assert [u.name for u in people.everybody()] == ["", "the admin"]
    assert {j.ranking.judge for j in filled.judgements()} == {"ann", ann.id}
    # The name can be taken again, by somebody else.
    assert people.accept(people.invite("annotator"), "Ann", "hash").id != ann.id


def test_a_store_from_before_the_chain_is_linked_when_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "old.db"
    upgrade = command.upgrade
    with monkeypatch.context() as patched:
        patched.setattr(command, "upgrade", lambda config, _: upgrade(config, "0001"))
        patched.setattr(chain, "seal", lambda _: None)
        with Store.open(place) as old:
            old.add(judged(number) for number in range(3))
    assert database.chain is chain
    with Store.open(place) as store:
        assert audited(store).links == 3
        assert audited(store).whole
        assert store.add([judged(0)]).known == 1
