"""Arrivals: new instances as the receive path enters them, many in one transaction and few statements each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any, Final

from sqlalchemy import Connection, Table, bindparam, case, insert, update
from sqlalchemy.orm import Session

from dicom_node.ledger.database import Database
from dicom_node.ledger.intake import Intake
from dicom_node.ledger.models import Instance, Run
from dicom_node.ledger.part import Clock
from dicom_node.ledger.records import ReceivedInstance

_RUN: Final[Table] = Run.__table__  # type: ignore[assignment]
_NOW: Final = bindparam("now", type_=_RUN.c.last_image_at.type)
_ADVANCE: Final = (
    update(_RUN)
    .where(_RUN.c.id == bindparam("run"), _RUN.c.gathers)
    .values(last_image_at=case((_RUN.c.last_image_at < _NOW, _NOW), else_=_RUN.c.last_image_at))
)
_FIELDS: Final = tuple(field.name for field in fields(ReceivedInstance))
_COLUMNS: Final = (*_FIELDS, "run_id", "received_at")
_TABLE: Final[Table] = Instance.__table__  # type: ignore[assignment]
_ENTER: Final = insert(_TABLE).values({name: bindparam(name) for name in _COLUMNS}).inline()
_values_of: Final = attrgetter(*_FIELDS)
_KNOWN_RUNS: Final = 1000


class Arrivals(Intake):
    """What arrives in numbers."""

    def __init__(self, database: Database, clock: Clock) -> None:
        super().__init__(database, clock)
        self._runs: dict[str, str] = {}
        """The run that each study's last image joined: a guess, which the database confirms or not."""

    def enter(self, instances: Sequence[ReceivedInstance]) -> None:
        """Enter new instances, whose files are in place; they join runs as with `Intake.record`.

        In SQLite the transaction is not synced by itself. A power cut that takes it takes nothing that was promised:
        the files are there, and adoption enters them before the node listens again.

        Raises
        ------
        NodeError
            If the ledger fails, or one of them has an entry already; then none is entered.
        """
        with self._database.write_unsynced() as connection:
            # In order, so that two processes that enter images of the same studies cannot lock each other out.
            studies = sorted({one.study_instance_uid for one in instances})
            runs = {study: self._join(connection, study) for study in studies}
            self._insert(connection, [(*_values_of(one), runs[one.study_instance_uid]) for one in instances])
        if len(self._runs) > _KNOWN_RUNS:
            self._runs.clear()
        self._runs.update(runs)

    def _insert(self, connection: Connection, rows: Sequence[tuple[str, ...]]) -> None:
        """By the driver's own parameters: the library's way with them takes longer than the database does."""
        dialect = connection.dialect
        compiled = _ENTER.compile(dialect=dialect)
        changes = {
            name: change
            for name in _COLUMNS
            if (change := _TABLE.c[name].type.dialect_impl(dialect).bind_processor(dialect)) is not None
        }
        now = self._clock()
        named: list[dict[str, Any]] = [dict(zip(_COLUMNS, (*row, now), strict=True)) for row in rows]
        for row in named:
            row.update((name, change(row[name])) for name, change in changes.items())
        order = compiled.positiontup  # None where the driver's parameters have names
        values: Any = named if order is None else [tuple(row[name] for name in order) for row in named]
        connection.exec_driver_sql(str(compiled), values)

    def _join(self, connection: Connection, study_instance_uid: str) -> str:
        run = self._runs.get(study_instance_uid)
        if run is not None and connection.execute(_ADVANCE, {"run": run, "now": self._clock()}).rowcount == 1:
            return run
        with Session(connection, expire_on_commit=False) as session:
            run = self._receiving_run(session, study_instance_uid).id
            session.flush()
        return run
