"""The store on a real PostgreSQL, where MANNERS_POSTGRESQL names a server on which databases may be created."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from manners.errors import MannersError
from manners.feedback.store import Added, Store
from manners.records import Completion, Judgement, Prompt, Ranking

SERVER = os.environ.get("MANNERS_POSTGRESQL", "")
pytestmark = [pytest.mark.postgresql, pytest.mark.skipif(not SERVER, reason="MANNERS_POSTGRESQL names no server")]


def judged(text: str, judge: str = "ann", best: int = 0) -> Judgement:
    prompt = Prompt.of(text)
    completions = tuple(Completion(prompt.id, f"answer {k} ü", seed=k, sampling={"temperature": 0.7}) for k in range(3))
    ids = [c.id for c in completions]
    return Judgement(
        prompt, completions, Ranking(prompt.id, ((ids[best],), (ids[best - 1],)), judge=judge, seconds=2.5)
    )


@pytest.fixture
def address() -> Iterator[str]:
    """A new empty database of its own, dropped at the end."""
    url = sa.make_url(SERVER).set(drivername="postgresql+psycopg")
    name = f"manners_{uuid.uuid4().hex[:12]}"
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    yield url.set(drivername="postgresql", database=name).render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")


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
