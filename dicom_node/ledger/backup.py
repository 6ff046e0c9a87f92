"""Copies of the ledger: one taken while the node runs, and one put back while none does."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from sqlalchemy import URL, make_url

from engine.errors import NodeError

_COMPANIONS: Final = ("", "-wal", "-shm")
"""What SQLite keeps beside a database in WAL mode; one is nothing without the others."""


def back_up(url: str, path: Path) -> None:
    """Write a copy of the ledger as it is at one moment, synced; the node may run.

    Parameters
    ----------
    url : str
        SQLAlchemy URL of the ledger.
    path : Path
        A file that is not there yet: an SQLite database, or an archive of pg_dump.

    Raises
    ------
    NodeError
        If it cannot be made whole; nothing is left at `path` then.
    """
    if path.exists():
        raise NodeError(f"{path} is there already", advice="name another file: a backup is never written over")
    parsed = make_url(url)
    half = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        half.touch(mode=0o600)
        if parsed.get_backend_name() == "sqlite":
            _copy_sqlite(Path(parsed.database or ""), half)
        else:
            _postgresql(["pg_dump", "--format=custom", "--no-owner", f"--file={half}"], parsed)
        with half.open("rb") as written:
            os.fsync(written.fileno())
        half.rename(path)
    finally:
        half.unlink(missing_ok=True)


def restore(url: str, path: Path) -> None:
    """Put a copy in the ledger's place; no node may run. SQLite's old files stay beside it, named ``*.replaced``.

    Raises
    ------
    NodeError
        If the copy is none, or is damaged; the ledger is as it was then.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        replace = ["pg_restore", "--clean", "--if-exists", "--no-owner", "--single-transaction", "--exit-on-error"]
        _postgresql([*replace, str(path)], parsed)
        return
    ledger = Path(parsed.database or "")
    half = ledger.with_name(f".{ledger.name}.{os.getpid()}")
    try:
        half.touch(mode=0o600)
        _copy_sqlite(path, half)
        with half.open("rb") as written:
            os.fsync(written.fileno())
        for suffix in _COMPANIONS:
            old = Path(f"{ledger}{suffix}")
            if old.exists():
                old.rename(f"{ledger}.replaced{suffix}")
        half.rename(ledger)
    finally:
        half.unlink(missing_ok=True)


def _copy_sqlite(source: Path, target: Path) -> None:
    """A whole database in one file, once both are known to be a ledger without damage."""
    try:
        with closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            connection.execute("SELECT version_num FROM alembic_version").fetchone()
            connection.execute("VACUUM INTO ?", (str(target),))
        with closing(sqlite3.connect(target)) as copy:
            ((verdict,),) = copy.execute("PRAGMA integrity_check(1)").fetchall()
    except sqlite3.Error as error:
        raise NodeError(
            f"{source} cannot be copied: {error}", advice="is it a ledger, whole, and is there space?"
        ) from None
    if verdict != "ok":
        raise NodeError(f"{source} is damaged: {verdict}")


def _postgresql(command: Sequence[str], url: URL) -> None:
    """Run one of PostgreSQL's own tools; the password goes by the environment, a command line is seen by all users."""
    tool = shutil.which(command[0])
    if tool is None:
        raise NodeError(f"{command[0]} is not there", advice="apt-get install postgresql-client")
    address = url.set(drivername="postgresql", password=None).render_as_string(hide_password=False)
    environment = os.environ | ({"PGPASSWORD": str(url.password)} if url.password else {})
    words = [tool, f"--dbname={address}", *command[1:]]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 - no shell
    if done.returncode:
        raise NodeError(f"{command[0]} failed: {' '.join(done.stderr.split())[-500:]}")
