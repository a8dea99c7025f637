"""Forgetting a person deletes their words from the file itself, keeps the chain whole, and hides no tampering."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from browsing import FakeClock, materials

from manners.errors import MannersError
from manners.feedback import chain
from manners.feedback.assign import Desk
from manners.feedback.batch import BatchSettings, Mode
from manners.feedback.exports import EXPORTS, submissions
from manners.feedback.people import People, User
from manners.feedback.personal import data_of
from manners.feedback.store import Store
from manners.feedback.submissions import Answer, submit
from manners.feedback.tables import ANCHORS, FORGOTTEN, REMARKS
from manners.records import Completion, Judgement, Prompt, Ranking

Join = Callable[[str], User]
WORDS = "I grew up in Zwiesel, and nobody there talks like that"


def audited(store: Store, head: str = "") -> chain.Audit:
    with store.reading() as connection:
        return chain.audit(connection, head)


def judge(store: Store, desk: Desk, user: User, mode: Mode = "rank", **fields: Any) -> None:
    batch = desk.create(BatchSettings(name=mode, mode=mode), "g", materials(1, 2, text=f"{mode} of {user.id}"))
    task = desk.task(desk.next(user.id, batch.id) or "", user.id)
    submit(store, task, Answer(**{"client_key": f"key-of-{mode}", "tiers": ((0,), (1,)), "note": WORDS, **fields}))


@pytest.fixture
def ann(store: Store, desk: Desk, people: People, join: Join) -> User:
    """Somebody who gave a reason, skipped with words of her own, wrote an answer, left a draft and makes programs judge."""
    people.accept(people.invite("admin"), "the admin", "hash")
    ann = join("Ann Zwiebel")
    judge(store, desk, ann)
    judge(store, desk, ann, "pair", skip_reason=f"skipped: {WORDS}", note="")
    judge(store, desk, ann, "edit", base=0, edited="the answer that ann wrote", tiers=())
    batch = desk.create(BatchSettings(name="draft"), "g", materials(1, 2, text="draft"))
    desk.save_draft(desk.next(ann.id, batch.id) or "", ann.id, {"note": f"drafted: {WORDS}"})
    people.start_session(ann.id)
    people.make_token(ann.id, "ann's own program")
    people.invite("annotator", "Ann Zwiebel from work", seconds=-1)
    return ann


def bytes_of(store: Store) -> bytes:
    """All that lies on the disk: the database and its journals."""
    place = Path(store.place)
    return b"".join(path.read_bytes() for path in place.parent.glob(f"{place.name}*"))


def test_not_a_word_is_left_in_the_file_and_the_chain_is_whole(store: Store, people: People, ann: User) -> None:
    before = audited(store)
    judged = list(store.judgements())
    assert before.whole
    for text in (b"Zwiesel", b"Ann Zwiebel", b"ann's own program"):
        assert text in bytes_of(store)
    people.forget(ann.id, "the-admin-s-id")
    for text in (b"Zwiesel", b"Zwiebel", b"ann's own program"):
        assert text not in bytes_of(store)
    after = audited(store, before.head)
    assert (after.problems, after.links) == ((), before.links + 1)
    # What she judged is what it was, ids and all; the answer that she wrote is an answer like others.
    assert list(store.judgements()) == judged
    assert [row["note"] for row in submissions(store)] == ["", "", ""]
    assert [row["skip_reason"] for row in submissions(store)] == ["", "other", ""]
    assert b"the answer that ann wrote" in bytes_of(store)
    with store.reading() as connection:
        assert [(row.id, row.by) for row in connection.execute(sa.select(FORGOTTEN))] == [(ann.id, "the-admin-s-id")]


def test_the_words_of_others_stay(store: Store, people: People, ann: User, desk: Desk, join: Join) -> None:
    bob = join("bob")
    judge(store, desk, bob, note="bob's own words")
    people.forget(ann.id)
    assert [row["note"] for row in submissions(store) if row["annotator"] == bob.id] == ["bob's own words"]
    assert audited(store).whole


@pytest.mark.usefixtures("ann")
def test_words_are_in_no_file_to_train_on(store: Store) -> None:
    for name, export in EXPORTS.items():
        text = "".join(export.lines(store, ""))
        assert ("Zwiesel" in text) is (name == "submissions.jsonl"), name


def tamper(store: Store, statement: str) -> None:
    with closing(sqlite3.connect(store.place)) as raw, raw:
        for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            raw.execute(f"DROP TRIGGER {name}")
        assert raw.execute(statement).rowcount >= 1


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE remarks SET text = 'I agree with the admin'", "the remark of submission .* was changed"),
        ("UPDATE remarks SET salt = 'f00d'", "the remark of submission .* was changed"),
        ("DELETE FROM remarks", "gone, and its author was not forgotten"),
        ("UPDATE submissions SET commitment = NULL WHERE commitment IS NOT NULL", "row in the log was changed"),
        (
            "INSERT INTO remarks (id, author, salt, text, created_at) "
            "SELECT id, annotator, 'ab', 'put into her mouth', '2026' FROM submissions WHERE commitment IS NULL",
            "the remark of submission .* was changed",
        ),
    ],
)
@pytest.mark.usefixtures("ann")
def test_whoever_touches_a_remark_is_found_out(
    store: Store, desk: Desk, join: Join, statement: str, problem: str
) -> None:
    judge(store, desk, join("bob"), note="")
    assert audited(store).whole
    tamper(store, statement)
    with pytest.raises(ValueError, match=problem):
        raise ValueError("; ".join(audited(store).problems))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE rankings SET tiers = '[]', all_bad = 1 WHERE sequence = 1",
        "UPDATE submissions SET strength = 4 WHERE sequence = 1",
        "UPDATE submissions SET commitment = digest FROM (SELECT digest FROM chain LIMIT 1) WHERE sequence = 1",
        "DELETE FROM forgotten",
        "UPDATE forgotten SET by = 'somebody else'",
    ],
)
def test_forgetting_hides_no_tampering(store: Store, people: People, ann: User, statement: str) -> None:
    people.forget(ann.id)
    assert audited(store).whole
    tamper(store, statement)
    assert not audited(store).whole


@pytest.mark.usefixtures("ann")
def test_the_database_keeps_remarks_as_they_are(store: Store) -> None:
    with closing(sqlite3.connect(store.place)) as raw:
        for statement in (
            "UPDATE remarks SET text = 'x'",
            "UPDATE forgotten SET by = 'x'",
            "DELETE FROM forgotten",
            "UPDATE rankings SET note = 'x'",
            "UPDATE rankings SET note = '', judge = 'x'",
            "UPDATE rankings SET note = '', seconds = 1",
            "UPDATE rankings SET note = '', tiers = '[]'",
        ):
            raw.execute("INSERT INTO forgotten (id, by, created_at) VALUES ('f', 'b', '2026')")
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                raw.execute(statement)
            raw.rollback()


# Rankings that hold a note themselves: imported ones, and those from before there were remarks.


def noted(judge: str, number: int = 0, **fields: Any) -> Judgement:
    prompt = Prompt.of(f"noted {number}")
    a, b = Completion(prompt.id, "a"), Completion(prompt.id, "b")
    return Judgement(
        prompt, (a, b), Ranking(prompt.id, ((a.id,), (b.id,)), judge=judge, **{"note": WORDS, "seconds": 2.5, **fields})
    )


def by_hand(row: dict[str, Any]) -> str:
    return hashlib.sha256(
        json.dumps(row, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()  # fmt: skip


# All columns that a submission had before there were remarks; it skips.
OLD_SUBMISSION: dict[str, Any] = {
    **dict.fromkeys(("assignment_id", "item_id", "batch_id", "question", "guideline_id"), "x"),
    "annotator": "ann", "mode": "rank", "repeat": False, "seed": 7, "display_order": ["a", "b"], "strength": None, "ratings": {},
    "flags": {}, "skip_reason": "unclear", "started_at": "2026", "active_ms": 5, "client_key": "k", "created_at": "2026",
}  # fmt: skip


def old_store(place: Path, monkeypatch: pytest.MonkeyPatch, *judgements: Judgement) -> None:
    """A store as version 0.1.0 left it: schema 2, and a chain over rows that hold their notes, and over one submission."""
    upgrade = command.upgrade
    with monkeypatch.context() as patched:
        patched.setattr(command, "upgrade", lambda config, _: upgrade(config, "0002"))
        patched.setattr(chain, "seal", lambda _: None)
        with Store.open(place) as old:
            old.add(judgements)
    with closing(sqlite3.connect(place)) as raw, raw:
        raw.row_factory = sqlite3.Row
        previous = "0" * 64
        for sequence, row in enumerate(raw.execute("SELECT * FROM rankings ORDER BY sequence").fetchall(), 1):
            values = dict(row)
            values |= {name: json.loads(values[name]) for name in ("completions", "tiers", "shown")}
            digest = by_hand({**values, "all_bad": bool(values["all_bad"])})
            previous = hashlib.sha256(f"{previous}\nranking\n{row['id']}\n{digest}".encode()).hexdigest()
            raw.execute(
                "INSERT INTO chain VALUES (?, 'ranking', ?, ?, ?, ?)",
                (sequence, row["sequence"], row["id"], digest, previous),
            )
        submission = {"sequence": 1, "id": "an old one", "ranking_id": None, **OLD_SUBMISSION}
        raw.execute(
            f"INSERT INTO submissions ({', '.join(submission)}) VALUES ({', '.join('?' * len(submission))})",
            [json.dumps(v) if isinstance(v, list | dict) else v for v in submission.values()],
        )
        digest = by_hand(submission)
        previous = hashlib.sha256(f"{previous}\nsubmission\nan old one\n{digest}".encode()).hexdigest()
        raw.execute(
            "INSERT INTO chain VALUES (?, 'submission', 1, 'an old one', ?, ?)", (len(judgements) + 1, digest, previous)
        )


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: FakeClock) -> Any:
    place = tmp_path / "old.db"
    old_store(place, monkeypatch, noted("ann"), noted("bob", 1), noted("ann", 2, note=""))
    with Store.open(place) as store:
        people = People(store, clock)
        people.accept(people.invite("admin"), "the admin", "hash")
        ann = people.accept(people.invite("annotator"), "ann zwiebel", "hash")
        # The pseudonym under which the old rows were made.
        with store.transaction() as connection:
            connection.execute(sa.text("UPDATE users SET id = 'ann' WHERE id = :id"), {"id": ann.id})
        yield store, people


def test_old_rows_verify_after_the_upgrade_and_after_forgetting(old: tuple[Store, People]) -> None:
    store, people = old
    before = audited(store)
    # Three rankings, a submission, and an anchor for each of the two rankings with a note.
    assert (before.links, before.problems) == (6, ())
    people.forget("ann")
    assert audited(store, before.head).problems == ()
    assert [j.ranking.note for j in store.judgements()] == ["", WORDS, ""]
    with store.reading() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(ANCHORS)) == 2


@pytest.mark.parametrize(
    "statement",
    [
        # Another opinion, with the note gone as if by forgetting.
        "UPDATE rankings SET tiers = '[]', all_bad = 1, note = '' WHERE sequence = 1",
        "UPDATE rankings SET tiers = '[]', all_bad = 1, note = '' WHERE sequence = 2",
        "UPDATE rankings SET tiers = '[]', all_bad = 1 WHERE sequence = 3",
        # A note that disappears although nobody forgot its author.
        "UPDATE rankings SET note = '' WHERE sequence = 2",
        "UPDATE rankings SET note = 'x' WHERE sequence = 1",
        "UPDATE anchors SET digest = 'x'",
        "DELETE FROM anchors",
    ],
)
@pytest.mark.parametrize("forgotten", [False, True])
def test_tampering_with_old_rows_is_still_found(old: tuple[Store, People], statement: str, forgotten: bool) -> None:
    store, people = old
    if forgotten:
        people.forget("ann")
    assert audited(store).whole
    tamper(store, statement)
    assert not audited(store).whole


def test_an_anchor_that_comes_after_the_forgetting_counts_for_nothing(old: tuple[Store, People]) -> None:
    store, people = old
    people.forget("ann")
    tamper(store, "UPDATE rankings SET tiers = '[]', all_bad = 1 WHERE sequence = 3")
    with closing(sqlite3.connect(store.place)) as raw:
        raw.row_factory = sqlite3.Row
        row = dict(raw.execute("SELECT * FROM rankings WHERE sequence = 3").fetchone())
    row |= {name: json.loads(row[name]) for name in ("completions", "tiers", "shown")} | {"all_bad": True}
    with store.transaction() as connection:
        connection.execute(ANCHORS.insert().values(id=row["id"], digest=by_hand(row), created_at="2026"))
    [problem] = audited(store).problems
    assert "row in the log was changed" in problem


def test_imported_notes_of_a_person_go_too(store: Store, people: People, ann: User) -> None:
    given = noted(ann.id, 7)
    assert store.add([given, noted("somebody else", 8)]).new == 2
    people.forget(ann.id)
    assert audited(store).whole
    assert b"Zwiebel" not in bytes_of(store)
    assert sorted(j.ranking.note for j in store.judgements() if j.prompt.text.startswith("noted")) == ["", WORDS]
    # The same file once more brings nothing back.
    assert store.add([given]).new == 0
    assert {j.ranking.note for j in store.judgements(judge=ann.id)} == {""}


def test_what_is_held_about_a_person(store: Store, people: People, ann: User, desk: Desk, join: Join) -> None:
    judge(store, desk, join("bob"), note="of bob")
    people.invite("annotator", "a link of hers", by=ann.id)
    store.add([noted(ann.id, 9, note="an imported note")])
    data = json.loads(json.dumps(data_of(store, ann.id)))
    assert data["account"]["name"] == "Ann Zwiebel"
    assert [row["note"] for row in data["submissions"]] == [WORDS, f"skipped: {WORDS}", WORDS]
    assert [row["content"]["note"] for row in data["drafts"]] == [f"drafted: {WORDS}"]
    assert [row["text"] for row in data["answers_written"]] == ["the answer that ann wrote"]
    assert [row["name"] for row in data["tokens"]] == ["ann's own program"]
    assert [row["note"] for row in data["links_made"]] == ["a link of hers"]
    assert [row["note"] for row in data["other_rankings"]] == ["an imported note"]
    assert (len(data["sessions"]), len(data["assignments"])) == (1, 4)
    text = json.dumps(data)
    assert "of bob" not in text
    # No key to any door.
    for secret in ("hash", "csrf", "password", "salt"):
        assert secret not in text
    people.forget(ann.id)
    data = data_of(store, ann.id)
    assert (data["account"]["name"], data["sessions"], data["tokens"], data["drafts"]) == (None, [], [], [])
    assert (len(data["submissions"]), len(data["forgotten"])) == (3, 1)
    with pytest.raises(MannersError, match="no such person"):
        data_of(store, "nobody")


def test_people_are_found_by_name_and_by_pseudonym(people: People, ann: User) -> None:
    assert people.find(" ann  ZWIEBEL ").id == people.find(ann.id).id == ann.id
    people.forget(ann.id)
    assert people.find(ann.id) == replace(ann, name="", active=False)
    for nobody in ("Ann Zwiebel", ""):
        with pytest.raises(MannersError, match="nobody called"):
            people.find(nobody)


def test_a_remark_is_bound_with_a_salt_of_its_own(store: Store, desk: Desk, join: Join) -> None:
    for name in ("ann", "bob"):
        judge(store, desk, join(name), note="good")
    with store.reading() as connection:
        rows = connection.execute(sa.select(REMARKS.c.salt, REMARKS.c.text)).all()
    bound = [row["commitment"] for row in submissions(store)]
    assert bound == [hashlib.sha256(f"{salt}\ngood".encode()).hexdigest() for salt, _ in rows]
    assert len(set(bound)) == 2
    assert all(len(bytes.fromhex(salt)) == 32 for salt, _ in rows)
