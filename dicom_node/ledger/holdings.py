"""Holdings: the instances that are in the spool, as DICOMweb asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, func, select

from dicom_node.ledger.models import Instance, Lease, Run
from dicom_node.ledger.part import Part, run_key
from dicom_node.ledger.states import LEASED


@dataclass(frozen=True, slots=True)
class Held:
    """An instance in the spool; `path` is relative to the data folder."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    path: str


@dataclass(frozen=True, slots=True)
class Selection:
    """Which instances are meant; an empty UID means any."""

    study_instance_uid: str = ""
    series_instance_uid: str = ""
    sop_instance_uid: str = ""
    sop_class_uid: str = ""

    def _conditions(self) -> list[ColumnElement[bool]]:
        # Other content under a known UID is kept apart (no run), and what was purged is not there any more.
        conditions: list[ColumnElement[bool]] = [Instance.run_id.is_not(None), Instance.purged_at.is_(None)]
        for column, value in (
            (Instance.study_instance_uid, self.study_instance_uid),
            (Instance.series_instance_uid, self.series_instance_uid),
            (Instance.sop_instance_uid, self.sop_instance_uid),
            (Instance.sop_class_uid, self.sop_class_uid),
        ):
            if value:
                conditions.append(column == value)
        return conditions


class Holdings(Part):
    """What the spool holds."""

    def instances(self, selection: Selection, *, limit: int | None = None, offset: int = 0) -> list[Held]:
        """Instances, in the order of their arrival."""
        query = select(Instance).where(*selection._conditions()).order_by(Instance.id).limit(limit).offset(offset)
        with self._database.read() as session:
            return [_held(row) for row in session.scalars(query)]

    def series(self, selection: Selection, *, limit: int | None = None, offset: int = 0) -> list[tuple[Held, int]]:
        """The first instance of each series, and how many it has."""
        return self._first_of_each(
            [Instance.study_instance_uid, Instance.series_instance_uid], selection, limit, offset
        )

    def studies(self, selection: Selection, *, limit: int | None = None, offset: int = 0) -> list[tuple[Held, int]]:
        """The first instance of each study, and how many it has."""
        return self._first_of_each([Instance.study_instance_uid], selection, limit, offset)

    def is_worked_on(self, run_id: str, owner: str) -> bool:
        """Whether this owner reads the run."""
        with self._database.read() as session:
            lease = session.get(Lease, run_key(run_id))
            run = session.get(Run, run_id)
            return lease is not None and lease.owner == owner and run is not None and run.state in LEASED

    def _first_of_each(
        self, group: Sequence[object], selection: Selection, limit: int | None, offset: int
    ) -> list[tuple[Held, int]]:
        groups = (
            select(func.min(Instance.id).label("first"), func.count().label("count"))
            .where(*selection._conditions())
            .group_by(*group)  # type: ignore[arg-type]  # columns, whatever they hold
            .order_by(func.min(Instance.id))
            .limit(limit)
            .offset(offset)
            .subquery()
        )
        query = select(Instance, groups.c.count).join(groups, Instance.id == groups.c.first).order_by(Instance.id)
        with self._database.read() as session:
            return [(_held(row), int(count)) for row, count in session.execute(query)]


def _held(row: Instance) -> Held:
    return Held(
        row.study_instance_uid,
        row.series_instance_uid,
        row.sop_instance_uid,
        row.sop_class_uid,
        row.transfer_syntax_uid,
        row.path,
    )
