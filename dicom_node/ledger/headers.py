"""Headers: what routing needs of each instance, entered in batches after it was received."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy import select, update

from dicom_node.ledger.models import Instance, Run
from dicom_node.ledger.part import Part
from dicom_node.ledger.runs import up_to
from dicom_node.ledger.states import State


class Unread(NamedTuple):
    """An instance whose header has not been read; `path` is relative to the data folder."""

    id: int
    path: str
    transfer_syntax_uid: str
    sop_instance_uid: str
    study_instance_uid: str


class Indexed(NamedTuple):
    """An instance and its header, as `dicom_node.routing.header.Header` in JSON."""

    series_instance_uid: str
    header: str
    path: str
    transfer_syntax_uid: str


class Headers(Part):
    """What is known of instances."""

    def unread(self, limit: int, run_id: str | None = None) -> list[Unread]:
        """Instances whose headers are to be read, the oldest first: those of a run, or of every study that a run still
        receives or that waits for a decision."""
        open_studies = select(Run.study_instance_uid).where(Run.state.in_((State.RECEIVING, State.COMPLETE)))
        if run_id is not None:
            open_studies = open_studies.where(Run.id == run_id)
        with self._database.read() as session:
            rows = session.execute(
                select(
                    Instance.id,
                    Instance.path,
                    Instance.transfer_syntax_uid,
                    Instance.sop_instance_uid,
                    Instance.study_instance_uid,
                )
                .where(
                    Instance.header.is_(None),
                    Instance.run_id.is_not(None),
                    Instance.study_instance_uid.in_(open_studies),
                )
                .order_by(Instance.id)
                .limit(limit)
            )
            return [Unread(*row) for row in rows]

    def enter(self, headers: Mapping[int, str]) -> None:
        """Enter headers by the instances' ids, in one transaction."""
        if headers:
            with self._database.write() as session:
                session.execute(update(Instance), [{"id": key, "header": text} for key, text in headers.items()])

    def of_run(self, run_id: str) -> list[Indexed]:
        """Everything that a run is made of and whose header has been read, in the order in which it arrived."""
        with self._database.read() as session:
            run = session.get_one(Run, run_id)
            rows = session.execute(
                select(Instance.series_instance_uid, Instance.header, Instance.path, Instance.transfer_syntax_uid)
                .where(Instance.run_id.in_(up_to(run)), Instance.header.is_not(None))
                .order_by(Instance.id)
            )
            return [Indexed(series, header or "{}", path, syntax) for series, header, path, syntax in rows]
