"""A real PostgreSQL for tests: the server that MANNERS_POSTGRESQL names, on which databases may be made and dropped."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

SERVER = os.environ.get("MANNERS_POSTGRESQL", "")
needs_postgresql = [
    pytest.mark.postgresql,
    pytest.mark.skipif(not SERVER, reason="MANNERS_POSTGRESQL names no server"),
]


@contextlib.contextmanager
def new_database() -> Iterator[str]:
    """The address of an empty database of its own, dropped at the end."""
    url = sa.make_url(SERVER).set(drivername="postgresql+psycopg")
    name = f"manners_{uuid.uuid4().hex[:12]}"
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    yield url.set(drivername="postgresql", database=name).render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
