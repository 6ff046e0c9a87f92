"""Expectations: how many images a study has, by who knows it, and the studies that have them all."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

from sqlalchemy import distinct, false, func, select
from sqlalchemy.orm import Session

from dicom_node.ledger.models import Expectation, Instance, Run, Sending, Study
from dicom_node.ledger.part import Part
from dicom_node.ledger.records import OpenRun
from dicom_node.ledger.states import GATHERING
from dicom_node.process import owner_is_gone

HEADERS = ""
"""In place of a source's name: the sender's own headers say it."""


class Expectations(Part):
    """What is known of how much is to come."""

    def to_ask(self, calling_aets: Collection[str], settle_seconds: float) -> list[str]:
        """Runs whose source should be asked how many images their study has, by their ids.

        Never asked, or asked before the last image, or only once about this number; at most once in `settle_seconds`
        each, and not where the sender's headers say it.

        Parameters
        ----------
        calling_aets : collection of str
            Senders that a source answers for.
        settle_seconds : float
        """
        if not calling_aets:
            return []
        settle = timedelta(seconds=settle_seconds)
        known = select(Instance.id).where(Instance.run_id == Run.id, Instance.calling_aet.in_(calling_aets)).exists()
        with self._database.read() as session:
            now = self._clock()
            once = Expectation.since == Expectation.asked_at if settle_seconds else false()
            again = (
                (Expectation.source != HEADERS)
                & ((Expectation.asked_at <= now - settle) | (Expectation.asked_at > now))
                & ((Run.last_image_at > Expectation.asked_at) | once)
            )
            query = (
                select(Run.id)
                .outerjoin(Expectation, Expectation.study_instance_uid == Run.study_instance_uid)
                .where(Run.state.in_(GATHERING), Run.gathers, Expectation.asked_at.is_(None) | again, known)
            )
            return list(session.scalars(query))

    def answered(self, study_instance_uid: str, source: str, instances: int | None) -> None:
        """Enter how many images a study has, None where that is not known.

        Parameters
        ----------
        study_instance_uid : str
        source : str
            Name of the source that was asked; `HEADERS` for the sender itself.
        instances : int or None
        """

        def work(session: Session) -> None:
            now, number = self._clock(), instances
            found = session.get(Expectation, study_instance_uid, with_for_update=True)
            if found is None:
                found = Expectation(study_instance_uid=study_instance_uid, source=source, since=now)
                session.add(found)
            elif source == HEADERS == found.source:
                number = max(number or 0, found.instances or 0)  # one of them was made before others
            elif (found.source, found.instances) != (source, number):
                found.since = now
            found.source, found.instances, found.asked_at = source, number, now

        self._again_if_overtaken(work)

    def met(self, settle_seconds: float) -> list[tuple[OpenRun, str]]:
        """Runs whose study has arrived as a whole, each with the proof in words.

        The transfer that ended last was released and none is under way, and the images are exactly as many as is
        known that there are. A source's number counts once it gave it for `settle_seconds`: one that is itself
        receiving has as many as it has handed on at every moment. More images than expected prove nothing.
        """
        settle = timedelta(seconds=settle_seconds)
        with self._database.read() as session:
            rows = session.execute(
                select(Run, Expectation)
                .join(Expectation, Expectation.study_instance_uid == Run.study_instance_uid)
                .join(Study, Study.study_instance_uid == Run.study_instance_uid)
                .join(Sending, Sending.study_instance_uid == Run.study_instance_uid)
                .where(
                    Run.state.in_(GATHERING),
                    Run.gathers,
                    Study.held_at.is_(None),
                    Expectation.instances.is_not(None),
                    Sending.released,
                    Sending.ended_at >= Run.last_image_at,
                )
            ).all()
            found = {}
            for run, expected in rows:
                settled = expected.source == HEADERS or expected.asked_at - expected.since >= settle
                if settled and self._all_released(session, run) and self._arrived(session, run) == expected.instances:
                    who = f"as {expected.source} counts" if expected.source else "as the sender's headers say"
                    told = f"{expected.instances} of {expected.instances} images arrived, {who}"
                    found[run.id] = OpenRun(run.id, run.study_instance_uid, run.last_image_at), told
            return list(found.values())

    def _all_released(self, session: Session, run: Run) -> bool:
        """Whether no transfer is under way, and none was aborted after the last one that was released."""
        rows = session.scalars(select(Sending).where(Sending.study_instance_uid == run.study_instance_uid)).all()
        if any(row.ended_at is None and not owner_is_gone(row.owner) for row in rows):
            return False
        ended = [(row.ended_at, row.released) for row in rows if row.ended_at is not None]
        latest = max(at for at, _ in ended)
        return all(released for at, released in ended if at == latest)

    def _arrived(self, session: Session, run: Run) -> int:
        """How many objects of a run's study there are, those that came twice once."""
        return session.scalars(
            select(func.count(distinct(Instance.sop_instance_uid))).where(
                Instance.study_instance_uid == run.study_instance_uid, Instance.run_id.is_not(None)
            )
        ).one()
