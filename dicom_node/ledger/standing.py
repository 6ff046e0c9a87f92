"""Standing: how many runs are in each state, and for how long."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select

from dicom_node.ledger.models import Run
from dicom_node.ledger.part import Part
from dicom_node.ledger.states import ACTIVE, State


@dataclass(frozen=True, slots=True)
class InState:
    """The runs in a state.

    Parameters
    ----------
    state : State
    count : int
    oldest_seconds : float or None
        For how long the one that came into it first is in it, 0 if none is; None for states that nothing follows.
    """

    state: State
    count: int
    oldest_seconds: float | None


class Standing(Part):
    """Where the runs stand, for metrics: each is asked of an index."""

    def runs(self) -> list[InState]:
        """By state, those without a run included."""
        with self._database.read() as session:
            rows = session.execute(select(Run.state, func.count()).group_by(Run.state)).all()
            counts = {row[0]: row[1] for row in rows}
            since = select(Run.state, func.min(Run.changed_at)).where(Run.state.in_(ACTIVE)).group_by(Run.state)
            oldest = {row[0]: row[1] for row in session.execute(since)}
        now = self._clock()
        return [
            InState(
                state,
                counts.get(state, 0),
                max(0.0, (now - oldest.get(state, now)).total_seconds()) if state in ACTIVE else None,
            )
            for state in State
        ]

    def study_of(self, run_id: str) -> str:
        """Study Instance UID of a run."""
        with self._database.read() as session:
            return session.scalars(select(Run.study_instance_uid).where(Run.id == run_id)).one()

    def queues(self) -> dict[str, int]:
        """How many wait to be read, by the name of the engine's queue; that of any engine in any case."""
        query = select(Run.queue, func.count()).where(Run.state == State.QUEUED).group_by(Run.queue)
        with self._database.read() as session:
            return {"": 0} | {row[0]: row[1] for row in session.execute(query)}
