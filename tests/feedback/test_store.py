"""The store: what goes in comes out, twice is once, nothing is ever changed, and many may write at once."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from manners.errors import MannersError
from manners.feedback import database, tables
from manners.feedback import store as store_module
from manners.feedback.store import Added, Counts, ImportRecord, Store
from manners.records import Completion, Judgement, Message, Prompt, Ranking


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "judgements.db") as opened:
        yield opened


def judged(text: str = "a prompt", judge: str = "ann", best: int = 0, **prompt: str) -> Judgement:
    asked = Prompt((Message("system", "Be kind."), Message("user", text)), **prompt)  # type: ignore[arg-type]
    completions = tuple(
        Completion(asked.id, f"answer {k} ü\n", model="m", sampling={"temperature": 0.7}, seed=k) for k in range(3)
    )
    ids = [completion.id for completion in completions]
    ranking = Ranking(asked.id, ((ids[best],), (ids[best - 1],)), judge=judge, shown=tuple(ids[::-1]), seconds=2.5)
    return Judgement(asked, completions, ranking)


def revised(judgement: Judgement, **changes: object) -> Judgement:
    ranking = replace(judgement.ranking, supersedes=judgement.ranking.id, **changes)  # type: ignore[arg-type]
    return replace(judgement, ranking=ranking)


def test_what_goes_in_comes_out(store: Store) -> None:
    cut = Completion(Prompt.of("q").id, "cut", finished=False)
    bad = Judgement(Prompt.of("q"), (cut,), Ranking(Prompt.of("q").id, (), source="ai", all_bad=True, note="rude"))
    given = [judged("one", category="c", split="test"), judged("two", best=2), bad]
    assert store.add(given) == Added(new=3, known=0)
    found = list(store.judgements())
    assert found == given
    assert [type(j.ranking.all_bad) for j in found] == [bool] * 3
    assert list(store.prompts()) == [j.prompt for j in given]
    assert store.completions(given[0].prompt.id) == list(given[0].completions)
    assert store.completions("unknown") == []
    assert store.counts() == Counts(prompts=3, completions=7, rankings=3, current=3, imports=0)


def test_the_same_again_is_known(store: Store) -> None:
    given = [judged("one"), judged("two"), judged("one")]
    assert store.add(given) == Added(new=2, known=1)
    before = store.content_hash()
    # The time it took is no part of what was said.
    slower = replace(given[0], ranking=replace(given[0].ranking, seconds=99.0))
    assert store.add([slower, given[1]]) == Added(new=0, known=2)
    assert store.content_hash() == before
    assert [j.ranking.seconds for j in store.judgements()] == [2.5, 2.5]
    assert store.add([judged("one", judge="bob")]) == Added(new=1, known=0)
    assert store.content_hash() != before


def test_a_change_of_mind_leaves_the_old_one_in_the_log(store: Store) -> None:
    first = judged("one")
    other = judged("two")
    second = revised(first, note="looked again")
    third = revised(second, note="and again")
    store.add([first, other, second, third])
    assert list(store.judgements()) == [other, third]
    assert list(store.judgements(current_only=False)) == [first, other, second, third]
    assert store.counts().rankings == 4
    assert store.counts().current == 2
    # Handing in the old opinion once more does not bring it back.
    assert store.add([first]) == Added(new=0, known=1)
    assert list(store.judgements()) == [other, third]


def test_nobody_supersedes_a_ranking_of_another_prompt(store: Store) -> None:
    first, other = judged("one"), judged("two")
    stray = replace(other, ranking=replace(other.ranking, supersedes=first.ranking.id))
    store.add([first, stray])
    assert list(store.judgements()) == [first, stray]


def test_filters_and_pages(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_BATCH", 4)
    given = [judged(f"prompt {k}", judge="ann" if k % 3 else "bob") for k in range(11)]
    ai = replace(given[5], ranking=replace(given[5].ranking, source="ai", judge="model"))
    assert store.add([*given, ai]) == Added(new=12, known=0)
    assert list(store.judgements()) == [*given, ai]
    assert list(store.judgements(source="ai")) == [ai]
    assert list(store.judgements(judge="bob")) == given[::3]
    assert list(store.judgements(prompt_id=given[5].prompt.id)) == [given[5], ai]
    events = list(store.events())
    assert [event.sequence for event in events] == sorted({event.sequence for event in events})
    assert all(event.created_at.endswith("+00:00") for event in events)
    assert [event.judgement for event in store.events(after=events[8].sequence)] == [*given[9:], ai]


def test_an_iterator_keeps_to_what_was_there(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_BATCH", 2)
    given = [judged(f"prompt {k}") for k in range(6)]
    store.add(given)
    found = []
    for judgement in store.judgements():
        found.append(judgement)
        store.add([revised(given[5], note="new"), judged(f"more than {judgement.prompt.text}")])
    assert found == given


def test_add_is_all_or_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_BATCH", 2)

    def breaking() -> Iterator[Judgement]:
        yield from (judged(f"prompt {k}") for k in range(5))
        raise MannersError("the file ends here")

    with pytest.raises(MannersError, match="ends here"):
        store.add(breaking())
    assert store.counts() == Counts(0, 0, 0, 0, 0)


def test_transactions_nest(store: Store) -> None:
    def add_and_fail(text: str) -> None:
        with store.transaction():
            store.add([judged(text)])
            assert [prompt.text for prompt in store.prompts()][-1] == text
            raise KeyError

    with store.transaction():
        store.add([judged("kept")])
        with pytest.raises(KeyError):
            add_and_fail("dropped")
        store.add([judged("kept too")])
    assert [prompt.text for prompt in store.prompts()] == ["kept", "kept too"]
    with pytest.raises(KeyError):
        add_and_fail("gone")
    assert [prompt.text for prompt in store.prompts()] == ["kept", "kept too"]


def test_a_prompt_keeps_its_first_category_and_split(store: Store) -> None:
    before = store.content_hash()
    store.add([judged("p")])
    unsplit = store.content_hash()
    store.add([judged("p", judge="b", split="test"), judged("p", judge="c", category="jokes", split="train")])
    assert [(p.category, p.split) for p in store.prompts()] == [("jokes", "test")]
    assert {j.prompt.split for j in store.judgements()} == {"test"}
    assert len({before, unsplit, store.content_hash()}) == 3


def test_the_hash_does_not_depend_on_the_order_but_on_the_split(tmp_path: Path) -> None:
    given = [judged(f"prompt {k}") for k in range(5)]
    hashes = set()
    for number, order in enumerate((given, given[::-1])):
        with Store.open(tmp_path / f"{number}.db") as store:
            store.add(order)
            hashes.add(store.content_hash())
    assert len(hashes) == 1
    with Store.open(tmp_path / "split.db") as store:
        store.add([judged("prompt 0", split="test"), *given])
        assert store.content_hash() not in hashes


def test_completions_without_judgement(store: Store) -> None:
    judgement = judged("p")
    assert store.add_completions([(judgement.prompt, judgement.completions[:2])]) == Added(new=2, known=0)
    assert store.add([judgement]) == Added(new=1, known=0)
    assert store.add_completions([(judgement.prompt, judgement.completions)]) == Added(new=0, known=3)
    assert store.counts() == Counts(prompts=1, completions=3, rankings=1, current=1, imports=0)
    with pytest.raises(ValueError, match="another prompt"):
        store.add_completions([(Prompt.of("other"), judgement.completions)])


def test_imports_are_remembered(store: Store) -> None:
    record = ImportRecord("0123", "a.jsonl", "hh", {"judge": "ann"}, {"rows": 3})
    assert store.imported("0123") is None
    store.record_import(record)
    store.record_import(replace(record, counts={"rows": 99}))
    assert store.imported("0123") == record
    assert store.counts().imports == 1


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM rankings",
        "UPDATE rankings SET tiers = '[]'",
        "DELETE FROM completions",
        "UPDATE completions SET text = 'better'",
        "DELETE FROM prompts",
        "UPDATE prompts SET messages = '[]'",
        "DELETE FROM imports",
        "UPDATE imports SET counts = '{}'",
    ],
)
def test_the_database_itself_refuses_changes(store: Store, statement: str) -> None:
    store.add([judged()])
    store.record_import(ImportRecord("0123", "a.jsonl", "hh", {}, {}))
    with closing(sqlite3.connect(store.place)) as raw, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        raw.execute(statement)


def test_sqlite_is_set_up_for_many_writers(store: Store) -> None:
    with closing(sqlite3.connect(store.place)) as raw:
        assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    with store._database.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 60_000
        # FULL: a commit is on the disk before it returns.
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2


def test_migrations_make_the_schema_of_the_code(store: Store) -> None:
    with store._database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, tables.METADATA) == []


_WRITER = """
import sys
from manners.feedback.store import Store
from manners.records import Completion, Judgement, Prompt, Ranking
def judged(number, judge):
    prompt = Prompt.of(f"prompt {number}")
    a, b = Completion(prompt.id, "a"), Completion(prompt.id, "b")
    return Judgement(prompt, (a, b), Ranking(prompt.id, ((a.id,), (b.id,)), judge=judge))
with Store.open(sys.argv[1]) as store:
    new = sum(store.add([judged(number, sys.argv[2]), judged(number, "both")]).new for number in range(60))
    print(new)
"""


def test_two_processes_create_and_write_one_store(tmp_path: Path) -> None:
    place = tmp_path / "new.db"
    processes = [
        subprocess.Popen([sys.executable, "-c", _WRITER, str(place), judge], stdout=subprocess.PIPE, text=True)
        for judge in ("ann", "bob")
    ]
    new = [int(process.communicate(timeout=60)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum(new) == 180
    with Store.open(place, create=False) as store:
        assert store.counts() == Counts(prompts=60, completions=120, rankings=180, current=180, imports=0)
        judges = [j.ranking.judge for j in store.judgements()]
        assert [judges.count(judge) for judge in ("ann", "bob", "both")] == [60, 60, 60]


def test_threads_share_one_store(store: Store) -> None:
    threads = [
        threading.Thread(target=lambda judge=judge: [store.add([judged(f"p{k}", judge)]) for k in range(15)])
        for judge in ("a", "b", "c")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.counts().rankings == 45


def test_a_writer_waits_and_readers_do_not(store: Store) -> None:
    started, waited = threading.Event(), []

    def second() -> None:
        started.set()
        waited.append(store.add([judged("second")]))

    thread = threading.Thread(target=second)
    with store.transaction():
        store.add([judged("first")])
        thread.start()
        started.wait()
        with Store.open(store.place) as reader:
            assert reader.counts().rankings == 0
        thread.join(0.2)
        assert waited == []
    thread.join()
    assert waited == [Added(1, 0)]
    assert store.counts().rankings == 2


def test_busy_for_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    with Store.open(tmp_path / "s.db") as one, Store.open(tmp_path / "s.db") as two:
        with one.transaction(), pytest.raises(MannersError, match="busy"):
            two.add([judged()])
        assert two.add([judged()]) == Added(1, 0)


def test_a_newer_database_is_refused(store: Store) -> None:
    with closing(sqlite3.connect(store.place)) as raw, raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(MannersError, match=r"newer version of manners \(schema 9999\)") as caught:
        Store.open(store.place)
    assert "\n" not in str(caught.value)


def test_places_that_are_no_store(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "other.db")) as raw, raw:
        raw.execute("CREATE TABLE accounts (id INTEGER)")
    (tmp_path / "text.db").write_text("this is no database, it is a longer piece of text\n" * 40)
    for place, reason in (
        (tmp_path / "other.db", "tables of another program"),
        (tmp_path / "text.db", "not a SQLite file"),
        (tmp_path, "is a directory"),
        (tmp_path / "text.db" / "x.db", "cannot make the folder"),
        (":memory:", "outlives the program"),
        ("sqlite://", "outlives the program"),
        ("mysql://user:geheim@host/db", "not in 'mysql'"),
    ):
        with pytest.raises(MannersError, match=reason):
            Store.open(place)
    with pytest.raises(MannersError, match="there is no store at"):
        Store.open(tmp_path / "missing.db", create=False)
    assert not (tmp_path / "missing.db").exists()
    with closing(sqlite3.connect(tmp_path / "other.db")) as raw:
        assert raw.execute("SELECT name FROM sqlite_master").fetchall() == [("accounts",)]
        assert raw.execute("PRAGMA journal_mode").fetchone() == ("delete",)


@pytest.mark.parametrize("name", ["plain.db", "new/folder/s.db", "100% new?/s.db"])
def test_paths_of_all_kinds(tmp_path: Path, name: str) -> None:
    with Store.open(tmp_path / name) as store:
        store.add([judged()])
    assert (tmp_path / name).is_file()
    with Store.open(str(tmp_path / name), create=False) as store:
        assert store.counts().rankings == 1


def test_a_sqlite_url_is_the_file(tmp_path: Path) -> None:
    with Store.open(f"sqlite:///{tmp_path}/s.db") as store:
        store.add([judged()])
    with Store.open(tmp_path / "s.db", create=False) as store:
        assert store.counts().rankings == 1


def test_postgresql_without_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MannersError, match=r'pip install "manners\[postgres\]"'):
        Store.open("postgresql://user:geheim@localhost/db")


@pytest.mark.parametrize(
    "address", ["postgresql://user:geheim@localhost:port/db", "postgresql://user:x@geheim:5@localhost/db"]
)
def test_an_address_that_cannot_be_read_is_not_quoted(address: str) -> None:
    with pytest.raises(MannersError, match="cannot be read") as caught:
        Store.open(address)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    ["postgres://user:ge%40heim@127.0.0.1:9/db", "postgresql+psycopg://127.0.0.1:9/db?user=u&password=ge%40heim"],
)
def test_a_database_that_quotes_the_password_is_not_repeated(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(_: sa.URL) -> sa.Engine:
        engine = sa.create_engine(f"sqlite:///{tmp_path}/s.db")

        @sa.event.listens_for(engine, "engine_connect")
        def connected(_connection: sa.Connection) -> None:
            words = {"password": "ge@heim"}
            raise sa.exc.OperationalError("SELECT 1", None, Exception(f"no server\nfor {words}"))

        return engine

    monkeypatch.setattr(database, "_postgresql_engine", refusing)
    with pytest.raises(MannersError, match=r"no server for \{'password': '\*\*\*'\}") as caught:
        Store.open(address)
    assert "postgresql://127.0.0.1:9/db" in str(caught.value)
    assert "ge@heim" not in repr(database.Database(sa.create_engine("sqlite://"), "db", "ge@heim"))
    assert caught.value.__suppress_context__


def test_no_torch_on_the_feedback_side() -> None:
    code = (
        "import importlib, pkgutil, sys, manners.feedback as feedback\n"
        "names = [m.name for m in pkgutil.walk_packages(feedback.__path__, 'manners.feedback.')]\n"
        "for name in names: importlib.import_module(name)\n"
        "print(sorted({'torch', 'numpy', 'transformers', 'datasets', 'psycopg'} & set(sys.modules)), len(names))\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded, _, count = out.strip().rpartition(" ")
    assert "torch" not in loaded
    assert int(count) >= 9
