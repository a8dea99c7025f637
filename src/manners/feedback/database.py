"""The database under the store: its address, its schema, its writers, and what it says when something is wrong."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from manners.errors import MannersError
from manners.feedback import chain

BUSY_SECONDS = 60.0
# Any fixed number will do: those who write to one PostgreSQL database wait for each other on it.
_WRITERS_LOCK = 7_239_046_118
# As many as the threads of a server that read at once.
_CONNECTIONS = 48


@dataclass(frozen=True)
class Database:
    """An open database whose schema is that of the code. `place` is how to show its address to people."""

    engine: sa.Engine = field(repr=False)
    place: str
    secret: str = field(default="", repr=False)
    # The threads of one process stand in line here. The database itself would let them wait as well, but SQLite does so by
    # asking again at growing intervals, which is slow and unfair among many.
    _line: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @classmethod
    def open(cls, place: str | Path, create: bool) -> Database:
        url, shown = _address(place)
        if url.get_backend_name() == "sqlite":
            database = cls(_sqlite_engine(_sqlite_file(url, create)), shown)
        else:
            database = cls(_postgresql_engine(url), shown, str(url.password or url.query.get("password") or ""))
        try:
            database._prepare()
        except BaseException:
            database.engine.dispose()
            raise
        return database

    @contextlib.contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A connection within a transaction of the one writer: kept when the block ends well, else nothing of it is."""
        if not self._line.acquire(timeout=BUSY_SECONDS):
            raise MannersError(self._busy())
        try:
            with self.explaining(), self.engine.connect() as connection:
                connection = connection.execution_options(writes=True)
                with connection.begin():
                    yield connection
        finally:
            self._line.release()

    def scrub(self) -> None:
        """Empty the journal that still holds earlier versions of pages. PostgreSQL does the like by itself, in its own time.

        Where somebody reads at this moment the journal is emptied by a later one of the usual checkpoints.
        """
        if self.engine.dialect.name == "sqlite":
            with self.explaining(), contextlib.closing(self.engine.raw_connection()) as connection:
                connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _busy(self) -> str:
        return f"the store {self.place} is busy: another process has been writing for a minute; try again later"

    def _prepare(self) -> None:
        with self.explaining(opening=True):
            scripts = _migration_scripts()
            # Looking first leaves the files of others as they are, and lets a store that is up to date be opened
            # without waiting for whoever is writing to it.
            with self.engine.connect() as connection:
                up_to_date = self._version(connection, scripts) == scripts.get_current_head()
            if self.engine.dialect.name == "sqlite":
                self._use_wal()
            if up_to_date:
                return
            with self.engine.connect() as connection:
                connection = connection.execution_options(writes=True)
                with connection.begin():
                    if self._version(connection, scripts) != scripts.get_current_head():
                        config = _alembic_config()
                        config.attributes["connection"] = connection
                        command.upgrade(config, "head")
                        chain.seal(connection)

    def _version(self, connection: sa.Connection, scripts: ScriptDirectory) -> str | None:
        # The schema and its version are made in one transaction: one look at the tables tells whether both are there.
        tables = sa.inspect(connection).get_table_names()
        if tables and "alembic_version" not in tables:
            raise MannersError(f"{self.place} holds the tables of another program; choose another place for the store")
        version = MigrationContext.configure(connection).get_current_revision() if tables else None
        if version is not None and version not in {script.revision for script in scripts.walk_revisions()}:
            raise MannersError(
                f"{self.place} was written by a newer version of manners (schema {version}); "
                "upgrade with `pip install -U manners`"
            )
        return version

    def _use_wal(self) -> None:
        """Readers and the writer of a SQLite file in WAL mode do not block each other. The mode stays with the file."""
        errors = self.engine.dialect.loaded_dbapi
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                with contextlib.closing(self.engine.raw_connection()) as connection:
                    # Asking for the mode that is already set takes no lock.
                    connection.cursor().execute("PRAGMA journal_mode = WAL")
                return
            except errors.DatabaseError as error:
                # SQLite does not wait on its own here when two processes open a new file at once.
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise MannersError(f"cannot open the store {self.place}: {error}; choose another place") from None
            time.sleep(0.05)

    @contextlib.contextmanager
    def explaining(self, opening: bool = False) -> Iterator[None]:
        """Turn what the database says of its surroundings into one line; defects of our statements pass unchanged."""
        try:
            yield
        except sa.exc.DBAPIError as error:
            if not opening and not isinstance(error, sa.exc.OperationalError | sa.exc.InternalError):
                raise
            reason = " ".join(str(error.orig).split())
            if self.secret:
                reason = reason.replace(self.secret, "***")
            if "not a database" in reason:
                message = f"{self.place} is no store (not a SQLite file); name another file"
            elif "database is locked" in reason or "lock timeout" in reason:
                message = self._busy()
            elif self.engine.dialect.name == "sqlite":
                message = f"cannot use the store {self.place}: {reason}; free some room or choose another place"
            else:
                message = f"cannot use the database {self.place}: {reason}; check the address and that the server runs"
            raise MannersError(message) from None


def _address(place: str | Path) -> tuple[sa.URL, str]:
    """The address as SQLAlchemy wants it, and how to show it to people: without user, password and query."""
    if isinstance(place, Path) or "://" not in place:
        path = str(place)
        if path in ("", ":memory:"):
            raise MannersError("a store outlives the program; name a file for it")
        return sa.URL.create("sqlite", database=path), path
    try:
        url = sa.make_url(place)
    except (sa.exc.ArgumentError, ValueError):
        # The reason may quote a part of the password.
        raise MannersError(
            "the store's address cannot be read; it looks like postgresql://user:password@host:5432/database, "
            "with special characters in the password written as %XX"
        ) from None
    match url.drivername:
        case "sqlite" | "sqlite+pysqlite":
            if url.database in (None, "", ":memory:"):
                raise MannersError("a store outlives the program; name a file: sqlite:///judgements.db")
            return url, str(url.database)
        case "postgresql" | "postgres" | "postgresql+psycopg":
            port = f":{url.port}" if url.port else ""
            shown = f"postgresql://{url.host or ''}{port}/{url.database or ''}"
            return url.set(drivername="postgresql+psycopg"), shown
        case other:
            raise MannersError(f"a store lives in SQLite (a path) or PostgreSQL (postgresql://...), not in {other!r}")


def _sqlite_file(url: sa.URL, create: bool) -> sa.URL:
    path = Path(str(url.database))
    if path.is_dir():
        raise MannersError(f"{path} is a directory; name a file for the store")
    if not path.exists():
        if not create:
            raise MannersError(f"there is no store at {path}; make one with `manners import` or `manners serve`")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MannersError(
                f"cannot make the folder {path.parent}: {error.strerror}; choose another place"
            ) from None
    return url


def _sqlite_engine(url: sa.URL) -> sa.Engine:
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_SECONDS}, pool_size=8, max_overflow=_CONNECTIONS - 8)

    @sa.event.listens_for(engine, "connect")
    def connected(connection: Any, _: object) -> None:
        # The driver's own idea of when a transaction begins is switched off; `begun` says it instead.
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys = ON")
        # What was acknowledged outlives a power cut: every commit reaches the disk before it returns.
        connection.execute("PRAGMA synchronous = FULL")
        # What is deleted is overwritten, too: it may be somebody's personal data.
        connection.execute("PRAGMA secure_delete = ON")

    @sa.event.listens_for(engine, "begin")
    def begun(connection: sa.Connection) -> None:
        # A writer asks for the lock at once: one that read first and then wants to write could not wait for another
        # writer.
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _postgresql_engine(url: sa.URL) -> sa.Engine:
    try:
        engine = sa.create_engine(url, pool_pre_ping=True, pool_size=8, max_overflow=_CONNECTIONS - 8)
    except ModuleNotFoundError:
        raise MannersError('PostgreSQL needs its driver: pip install "manners[postgres]"') from None

    @sa.event.listens_for(engine, "begin")
    def begun(connection: sa.Connection) -> None:
        # One writer at a time, as in SQLite: two that add the same prompts in different orders would block each other
        # for good, and places in the log would become visible out of their order.
        if connection.get_execution_options().get("writes", False):
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{BUSY_SECONDS}s'")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITERS_LOCK})")

    return engine


def _alembic_config() -> AlembicConfig:
    config = AlembicConfig()
    folder = str(Path(__file__).with_name("migrations"))
    config.set_main_option("script_location", folder.replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _migration_scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_alembic_config())
