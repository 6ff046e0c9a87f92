"""A ledger of a year: the rows of studies that went through a node, many times, under UIDs and times of their own."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Final

from node_bench import Pacs, RunningNode, image, wait_until, written
from sqlalchemy import Connection, Table, text

from dicom_node.dimse.scu import StoredFile, send
from dicom_node.ledger import Ledger
from dicom_node.ledger.models import Base, UtcDateTime
from dicom_node.ledger.states import State

YEAR: Final = 365 * 86_400
KEPT_DAYS: Final = 30
"""Images and results of so many days are in the spool; of what is older retention has left the rows."""
PLAIN, LATE = "2.25.1000", "2.25.1001"
"""Study Instance UIDs of the two that are repeated; to the second one an image came late, and so it has two runs."""
_LATE_EACH: Final = 50
_TABLES: Final = ("study", "run", "instance", "result", "delivery", "event")
_STRIDE: Final = 1000
"""Between the row numbers of two copies."""
_UIDS: Final = ("study_instance_uid", "series_instance_uid", "sop_instance_uid")
_RUNS: Final = ("run_id", "supersedes")


def read_node(folder: Path, pacs: Pacs, **sections: Any) -> RunningNode:
    """A node that has read both studies, stopped."""
    node = RunningNode(folder, pacs, **sections)
    node.start()
    try:
        for study in (PLAIN, LATE):
            paths = [
                written(folder / "sent", image(study, f"{study}.1", SOPInstanceUID=f"{study}.1.{number}"))
                for number in (1, 2)
            ]
            for part in (paths[:1], paths[1:]) if study == LATE else (paths,):
                before = _runs(node, study)
                send([StoredFile.open(path) for path in part], node.peer)
                assert wait_until(lambda study=study, before=before: _runs(node, study) > before)
                assert wait_until(node.is_in(study, State.DELIVERED), 60)
        assert wait_until(lambda: node.ledger.audits.untold() == ([], []))
    finally:
        assert node.process is not None
        node.process.terminate()
        node.process.wait(60)
    return node


def _runs(node: RunningNode, study: str) -> int:
    return sum(study in one.study_instance_uid for one in node.ledger.studies()) and len(node.ledger.study(study).runs)


def fill(ledger: Ledger, count: int, data: Path | None = None) -> None:
    """Repeat the rows of both studies so many times over a year, and in a data folder the files of the last days."""
    with ledger._database.engine.begin() as connection:
        postgresql = connection.dialect.name == "postgresql"
        _number(connection, count)
        for name in _TABLES:
            connection.execute(text(_copy(Base.metadata.tables[name], postgresql=postgresql)))
        _mix(connection)
        _purge(connection)
        if data is not None:
            _link(data, connection)
        connection.execute(text("DROP TABLE copies"))


def _number(connection: Connection, count: int) -> None:
    """A row for each copy: which study, what is put behind its UIDs, in no order, and how many seconds ago it was."""
    connection.execute(
        text("CREATE TABLE copies (number INTEGER PRIMARY KEY, study TEXT, suffix TEXT UNIQUE, age INTEGER)")
    )
    connection.execute(
        text(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count) "
            "INSERT INTO copies SELECT i, CASE WHEN i % :late = 0 THEN :second ELSE :first END, "
            "CAST(10000000 + (i * CAST(7919333 AS BIGINT)) % 89999999 AS TEXT), "
            "600 + CAST(:year * CAST(:count - i AS DOUBLE PRECISION) / :count AS INTEGER) FROM n"
        ),
        {"count": count, "late": _LATE_EACH, "first": PLAIN, "second": LATE, "year": YEAR},
    )


def _copy(table: Table, *, postgresql: bool) -> str:
    """The statement that repeats a table's rows."""
    values = [_value(table, column.name, postgresql=postgresql) for column in table.columns]
    of = {
        "study": "t.study_instance_uid = c.study",
        "run": "t.study_instance_uid = c.study",
        "instance": "t.study_instance_uid = c.study",
        "event": "t.study_instance_uid = c.study",
        "result": "t.run_id IN (SELECT id FROM run WHERE study_instance_uid = c.study)",
        "delivery": "t.run_id IN (SELECT id FROM run WHERE study_instance_uid = c.study)",
    }[table.name]
    columns = ", ".join(column.name for column in table.columns)
    return (
        f"INSERT INTO {table.name} ({columns}) SELECT {', '.join(values)} "  # noqa: S608 - no values of others
        f"FROM copies AS c JOIN {table.name} AS t ON {of} ORDER BY c.number"
    )


def _value(table: Table, column: str, *, postgresql: bool) -> str:
    """What a copy has in a column."""
    if isinstance(table.columns[column].type, UtcDateTime):
        if postgresql:
            return f"t.{column} - c.age * interval '1 second'"
        return f"strftime('%Y-%m-%d %H:%M:%f000', t.{column}, '-' || c.age || ' seconds')"
    if column in _UIDS:
        return f"t.{column} || '.' || c.suffix"
    if column in _RUNS or (table.name, column) == ("run", "id"):
        return f"substr(t.{column}, 1, 24) || c.suffix"
    if column in ("id", "result_id"):
        return f"t.{column} + c.number * {_STRIDE}"
    if column == "path" and table.name == "instance":
        return "'studies/' || c.study || '.' || c.suffix || '/' || t.sop_instance_uid || '.' || c.suffix || '.dcm'"
    if column == "path":
        return "replace(t.path, t.run_id, substr(t.run_id, 1, 24) || c.suffix)"
    return f"t.{column}"


def _mix(connection: Connection) -> None:
    """Not all went well: of a hundred three failed, three were ignored, one was cancelled; the last ones are held."""
    for state, condition, reason in (
        ("FAILED", "number % 100 BETWEEN 10 AND 12", "not delivered to pacs: 0xA900"),
        ("IGNORED", "number % 100 BETWEEN 20 AND 22", "no plan reads it"),
        ("CANCELLED", "number % 100 = 30", "cancelled on request"),
        ("QUEUED", "number > (SELECT max(number) FROM copies) - 20 AND number % 10 < 5", ""),
    ):
        these = f"IN (SELECT study || '.' || suffix FROM copies WHERE {condition})"  # noqa: S608
        latest = "number = (SELECT max(number) FROM run AS o WHERE o.study_instance_uid = run.study_instance_uid)"
        connection.execute(
            text(f"UPDATE run SET state = :state, reason = :reason WHERE study_instance_uid {these} AND {latest}"),  # noqa: S608
            {"state": state, "reason": reason},
        )
        runs = f"run_id IN (SELECT id FROM run WHERE study_instance_uid {these} AND {latest})"  # noqa: S608
        if state == "FAILED":
            connection.execute(text(f"UPDATE delivery SET state = 'FAILED', reason = :r WHERE {runs}"), {"r": reason})  # noqa: S608
        else:
            connection.execute(text(f"DELETE FROM delivery WHERE {runs}"))  # noqa: S608
            connection.execute(text(f"DELETE FROM result WHERE {runs}"))  # noqa: S608
        if state == "QUEUED":
            connection.execute(text(f"UPDATE study SET held_at = created_at WHERE study_instance_uid {these}"))  # noqa: S608


def _purge(connection: Connection) -> None:
    """What retention leaves of what is older than the days that it keeps."""
    old = f"IN (SELECT study || '.' || suffix FROM copies WHERE age >= {KEPT_DAYS * 86_400})"  # noqa: S608
    runs = f"(SELECT id FROM run WHERE study_instance_uid {old} AND state <> 'FAILED')"  # noqa: S608
    connection.execute(text(f"UPDATE instance SET purged_at = received_at WHERE run_id IN {runs}"))  # noqa: S608
    connection.execute(text(f"UPDATE result SET purged_at = created_at WHERE run_id IN {runs}"))  # noqa: S608


def _link(data: Path, connection: Connection) -> None:
    """The files of what is kept, as further names of the first ones'."""
    firsts = {
        id_[:24]: id_ for (id_,) in connection.execute(text("SELECT id FROM run")) if (data / "results" / id_).exists()
    }
    images = connection.execute(text("SELECT path FROM instance WHERE purged_at IS NULL")).scalars().all()
    results = connection.execute(text("SELECT run_id, path FROM result WHERE purged_at IS NULL")).all()
    names = [(path, re.sub(r"\.[0-9]{8}(?=/|\.dcm)", "", path)) for path in images]
    names += [(path, path.replace(run, firsts[run[:24]])) for run, path in results]
    for name, first in names:
        if name != first:
            (data / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.link(data / first, data / name)
