"""The ledger's database: connections, transactions, its clock, and migrations that several nodes may start at once."""

from __future__ import annotations

import fcntl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from dicom_node.ledger.models import KeyMark
from dicom_node.ledger.rekeying import check_key, rekey
from dicom_node.ledger.sealing import LedgerKey, use_key
from engine.errors import NodeError, SettingsError

if TYPE_CHECKING:
    from alembic.config import Config

BUSY_SECONDS: Final = 30
"""How long a writer waits for another one."""
_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_MIGRATION_LOCK: Final = 0x4D45_4452  # any number of our own, for PostgreSQL's advisory locks
_OVERTAKEN: Final = ("40001", "40P01")
"""SQLSTATE of a transaction that had to give way to another one: serialization failure, deadlock."""
_STATEMENTS: Final = 48
"""That a connection to SQLite keeps prepared, some 12 KB each: those of every sweep, and few of the many that differ in
how many ids they name."""
_POSTGRESQL: Final = {
    "application_name": "medrega-pacs",
    "connect_timeout": "5",
    # A host that is cut off notices within seconds; the system's own limits are a quarter of an hour and two hours.
    "tcp_user_timeout": "15000",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
}
_POSTGRESQL_SESSION: Final = {
    # The server's side of the same: rows that a lost host had locked are free again.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "idle_in_transaction_session_timeout": "30s",
    "lock_timeout": f"{BUSY_SECONDS}s",
}
_OTHERS: Final = text(
    "SELECT count(*) FROM pg_stat_activity WHERE application_name = :application AND datname = current_database() "
    "AND pid <> pg_backend_pid()"
).bindparams(application=_POSTGRESQL["application_name"])
"""Connections of the node's other processes."""
_CLOCK_SECONDS: Final = 60
"""How long a look at the database's clock is good for; the clocks of two hosts drift by a few ms in that time."""


class DatabaseError(NodeError):
    """The ledger's database failed; what was asked of it did not happen.

    Attributes
    ----------
    overtaken : bool
        Whether another process entered the same row at the same moment, so that asking again succeeds.
    of_the_rows : bool
        Whether it is about the rows that were to be written; other ones can be.
    """

    retry = True

    def __init__(self, kind: str, *, overtaken: bool = False, of_the_rows: bool = False) -> None:
        super().__init__(f"the ledger's database failed ({kind})")
        self.overtaken = overtaken
        self.of_the_rows = overtaken or of_the_rows


class Database:
    """SQLite in WAL mode, or PostgreSQL.

    Parameters
    ----------
    url : str
        SQLAlchemy URL.
    key : LedgerKey, optional
        Of the sealed columns; they stand in the clear without.

    Raises
    ------
    SettingsError
        If the URL names no database that can be used; the message never holds the URL, which may have a password.
    """

    def __init__(self, url: str, key: LedgerKey | None = None) -> None:
        try:
            parsed = make_url(url)
            arguments: dict[str, Any] = {"connect_args": {"cached_statements": _STATEMENTS}}
            if parsed.get_backend_name() == "postgresql":
                session = " ".join(f"-c {name}={value}" for name, value in _POSTGRESQL_SESSION.items())
                defaults = _POSTGRESQL | {"options": session}
                given = {name: value for name, value in defaults.items() if name not in parsed.query}
                arguments = {"connect_args": given, "pool_pre_ping": True}
            self.engine: Engine = create_engine(parsed, **arguments)
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
            raise SettingsError(
                f"ledger.url cannot be used ({type(error).__name__})",
                advice="postgresql+psycopg://user@host/database (pip install 'medrega-pacs[postgresql]'), "
                "or sqlite:////absolute/path.sqlite3",
            ) from None
        self._key = key
        if key is not None:
            use_key(self.engine.dialect, key)
        self._file: Path | None = None
        if parsed.get_backend_name() == "sqlite":
            if not parsed.database or parsed.database == ":memory:":
                raise SettingsError("ledger.url names an SQLite database without a file; several processes share it")
            self._file = Path(parsed.database)
            event.listen(self.engine, "connect", _prepare_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
        self._unsynced = self.engine.execution_options(unsynced=True)
        self._looked = 0.0
        self._ahead: timedelta | None = None
        self._clock_lock = threading.Lock()

    def clock(self) -> datetime:
        """The time by which everyone on this database goes, in UTC: a server's own, this machine's for a file.

        Leases, quiet times and attempts are compared between hosts, whose clocks may differ by minutes.

        Raises
        ------
        NodeError
            If the server was never reached.
        """
        if self._file is not None:
            return datetime.now(UTC)
        with self._clock_lock:
            now = time.monotonic()
            if self._ahead is None or now - self._looked > _CLOCK_SECONDS:
                try:
                    self._look_at_the_clock()
                except DatabaseError:
                    if self._ahead is None:
                        raise
            assert self._ahead is not None  # noqa: S101 - looked at above
            return datetime.fromtimestamp(time.monotonic(), UTC) + self._ahead

    def _look_at_the_clock(self) -> None:
        with self.read() as session:
            before = time.monotonic()
            theirs: datetime = session.execute(text("SELECT clock_timestamp()")).scalar_one()
            self._looked = time.monotonic()
        ours = datetime.fromtimestamp((before + self._looked) / 2, UTC)
        self._ahead = theirs.astimezone(UTC) - ours

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A session in one transaction, committed at the end of the block.

        Raises
        ------
        NodeError
            If the database fails; its own message may quote values and is left out.
        """
        with self._translated(), Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def write_unsynced(self) -> Iterator[Connection]:
        """A connection in one transaction that, in SQLite, a power cut may take until the next one of `write` is made.

        A server syncs each: its power is not this machine's.

        Raises
        ------
        NodeError
            If the database fails.
        """
        with self._translated(), self._unsynced.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that only reads."""
        engine = self.engine.execution_options(read_only=True)
        with self._translated(), Session(engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (DBAPIError, PoolTimeoutError) as error:
            cause = getattr(error, "orig", None) or error
            overtaken = isinstance(error, IntegrityError) or getattr(cause, "sqlstate", None) in _OVERTAKEN
            of_the_rows = isinstance(error, DataError)
            raise DatabaseError(type(cause).__name__, overtaken=overtaken, of_the_rows=of_the_rows) from None

    def revision(self) -> str | None:
        """Of which version the tables are, as a migration's number; None while there are none."""
        with self._translated(), self.engine.connect() as connection:
            return revision_of(connection)

    def migrate(self) -> None:
        """Bring the tables up to this version; safe when several processes start at once.

        Raises
        ------
        NodeError
            If a newer version of the node has made them; nothing is changed.
        """
        with self._translated(), self._one_at_a_time():
            if self._file is not None:
                with self.engine.connect() as connection:
                    driver = connection.connection.driver_connection
                    assert driver is not None  # noqa: S101 - a checked-out connection has one
                    driver.execute("PRAGMA journal_mode = WAL")
                self._file.chmod(0o600)
            with self.engine.begin() as connection:
                if self._file is None:
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
                found = revision_of(connection)
                if found is not None and found not in revisions():
                    raise NodeError(
                        f"the ledger is of a newer version of the node: its tables are at {found}, "
                        f"and this version knows them up to {revisions()[-1]}",
                        advice=f"run the newer version, or with it `medrega-pacs ledger downgrade {revisions()[-1]}`",
                    )
                if found != revisions()[-1]:
                    upgrade(connection)
                check_key(connection, self._key, claim=True)

    @property
    def encrypted(self) -> bool:
        """Whether sealed columns hold cipher text: they can be asked for whole values alone."""
        return self._key is not None

    def check_key(self) -> None:
        """Make sure that the tables, where there are any, are used with their key.

        Raises
        ------
        NodeError
            If it is another one, or only one of the two says that there is one.
        """
        with self._translated(), self.engine.begin() as connection:
            if inspect(connection).has_table(KeyMark.__tablename__):
                check_key(connection, self._key)

    def rekey(self, old: LedgerKey | None, on_table: Callable[[str, int, int], object]) -> None:
        """Encrypt what stands under an old key, or in the clear, with this database's, or not at all; no node may run.

        Raises
        ------
        NodeError
            If the old key is not the one, or a process of a node is connected; nothing is changed then.
        """
        self.refuse_while_in_use()
        with self._translated(), self._one_at_a_time():
            with self.engine.begin() as connection:
                upgrade(connection)
                rekey(connection, old, self._key, on_table)
            # So that nothing of before is left in free pages, or in the file beside.
            with closing(self.engine.raw_connection()) as pooled:
                driver: Any = pooled.driver_connection
                if self._file is None:
                    driver.autocommit = True
                    driver.execute("VACUUM FULL")
                else:
                    driver.execute("VACUUM")
                    driver.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                pooled.invalidate()

    def downgrade(self, revision: str) -> None:
        """Take the tables back to an older version's; what only newer ones know is lost. No node may run.

        Raises
        ------
        NodeError
            If there is no such revision, the tables are older than it, or a process of a node is connected.
        """
        self.refuse_while_in_use()
        if self.encrypted:
            raise NodeError(
                "older versions cannot read an encrypted ledger",
                advice="take ledger.key_file out, then `medrega-pacs ledger rekey --old-key FILE`",
            )
        found = self.revision() or ""
        if revision not in revisions() or revision > found:
            raise NodeError(
                f"the ledger cannot be taken back to {revision}",
                advice=f"it is at {found or 'nothing'}; known are {revisions()[0]} to {revisions()[-1]}",
            )
        with self._translated(), self._one_at_a_time(), self.engine.begin() as connection:
            from alembic import command

            command.downgrade(_alembic(connection), revision)

    def refuse_while_in_use(self) -> None:
        """Refuse what takes a stopped node, on whichever host it runs; for a file, the data folder's lock says it.

        Raises
        ------
        NodeError
            If another process of a node is connected to the server.
        """
        if self._file is None:
            with self.read() as session:
                if session.execute(_OTHERS).scalar_one():
                    raise NodeError(
                        "a node is connected to the ledger's database", advice="stop it on every host first"
                    )

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        if self._file is None:
            yield
            return
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with Path(f"{self._file}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()


def with_password(url: str, password: str) -> str:
    """A database's URL with a password in it."""
    return make_url(url).set(password=password).render_as_string(hide_password=False)


def revisions() -> list[str]:
    """The versions of the tables that this version of the node knows, the oldest first."""
    return sorted(file.name.partition("_")[0] for file in (_MIGRATIONS / "versions").glob("[0-9]*.py"))


def revision_of(connection: Connection) -> str | None:
    """Of which version the tables are; None while there are none."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Bring the tables up to a version."""
    from alembic import command  # 11 MB that few starts need

    command.upgrade(_alembic(connection), revision)


def _alembic(connection: Connection) -> Config:
    """Alembic's configuration with the migrations inside this package."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions are begun by `_begin_sqlite`, not by the driver's guess
    connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_sqlite(connection: Connection) -> None:
    # A writer takes its lock at once: one that reads first and upgrades later can be refused without waiting.
    options = connection.get_execution_options()
    if not options.get("read_only"):
        # FULL: a transition that was told to someone survives a power cut.
        connection.exec_driver_sql(f"PRAGMA synchronous = {'NORMAL' if options.get('unsynced') else 'FULL'}")
    connection.exec_driver_sql("BEGIN" if options.get("read_only") else "BEGIN IMMEDIATE")
