"""Switches by hand, which count at once: a route that is off or in shadow whatever its rule says."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Final, NamedTuple

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from dicom_node.ledger.models import Delivery, DeliveryState, Result, Run, Switch
from dicom_node.ledger.part import Part
from dicom_node.ledger.retractions import KIND
from dicom_node.ledger.states import ACTIVE, State
from dicom_node.routing.decision import Action

_ROUTE: Final = "route:"
_PAUSE: Final = "pause:"


class Work(StrEnum):
    """What can be paused as a whole."""

    READING = "reading"
    DELIVERY = "delivery"


class Switched(NamedTuple):
    """A switch that is set."""

    value: str
    at: datetime
    reason: str


class Switches(Part):
    """What is switched by hand."""

    def routes(self) -> dict[str, Switched]:
        """The routes that are off or in shadow by hand, by name."""
        with self._database.read() as session:
            rows = session.scalars(select(Switch).where(Switch.name.startswith(_ROUTE)).order_by(Switch.name)).all()
            return {row.name.removeprefix(_ROUTE): Switched(row.value, row.at, row.reason) for row in rows}

    def under_way(self) -> dict[str, int]:
        """How many runs are under way on each route."""
        with self._database.read() as session:
            query = select(Run.route, func.count()).where(Run.state.in_(ACTIVE), Run.route.is_not(None))
            return {name: count for name, count in session.execute(query.group_by(Run.route)) if name is not None}

    def paused(self) -> dict[Work, Switched]:
        """What is paused, since when and why."""
        with self._database.read() as session:
            rows = session.scalars(select(Switch).where(Switch.name.startswith(_PAUSE)).order_by(Switch.name)).all()
            return {Work(row.name.removeprefix(_PAUSE)): Switched(row.value, row.at, row.reason) for row in rows}

    def pause(self, work: Work, reason: str = "") -> bool:
        """Begin nothing more of a kind of work, for maintenance; whether it was not paused already.

        What is under way ends as usual, images go on being received, and studies go on becoming complete.
        """
        with self._database.write() as session:
            if is_paused(session, work):
                return False
            session.add(Switch(name=_PAUSE + work, value="paused", at=self._clock(), reason=reason))
            return True

    def resume(self, work: Work) -> bool:
        """Let work go on that was paused; whether it was."""
        with self._database.write() as session:
            if not is_paused(session, work):
                return False
            session.execute(delete(Switch).where(Switch.name == _PAUSE + work))
            # Messages that came meanwhile were put aside.
            if work is Work.READING:
                session.execute(update(Run).where(Run.state == State.QUEUED).values(dispatched_at=None))
            else:
                waiting = Delivery.state == DeliveryState.PENDING
                session.execute(update(Delivery).where(waiting).values(dispatched_at=None))
            return True

    def set_route(self, route: str, action: Action, reason: str = "") -> int:
        """Switch a route, and stop what is under way on it.

        Off cancels every run of the route that waits, is read, or is delivered: a worker in mid-reading notices within
        half a second, one in mid-delivery before the next object. Shadow lets readings go on, and stops deliveries.
        Read takes the switch back, so that the rule counts again; what was stopped stays so until it is retried. Notes
        that withdraw results are sent whatever is switched.

        Returns
        -------
        int
            How many runs were stopped.
        """
        with self._database.write() as session:
            session.execute(delete(Switch).where(Switch.name == _ROUTE + route))
            if action is not Action.READ:
                session.add(Switch(name=_ROUTE + route, value=action.value, at=self._clock(), reason=reason))
        # From here on nobody begins anything on it, so that what is found now is all there is.
        return self._stop_runs(route)

    def enforce(self) -> int:
        """Stop what is under way on routes that are switched: what a crash in the middle of `set_route` has left."""
        return sum(self._stop_runs(route) for route in self.routes())

    def _stop_runs(self, route: str) -> int:
        with self._database.write() as session:
            action, why = switched(session, route)
            if action is Action.READ:
                return 0
            states = ACTIVE if action is Action.OFF else {State.DELIVERING}
            notes = select(Delivery.run_id).join(Result, Result.id == Delivery.result_id).where(Result.kind == KIND)
            runs = session.scalars(
                select(Run)
                .where(Run.route == route, Run.state.in_(states), Run.id.not_in(notes))
                .order_by(Run.id)
                .with_for_update()
            ).all()
            for run in runs:
                self._stop(session, run, State.CANCELLED if action is Action.OFF else State.DELIVERED, why, "switch")
            return len(runs)


def is_paused(session: Session, work: Work) -> bool:
    """Whether a person has paused this work."""
    return session.get(Switch, _PAUSE + work) is not None


def switched(session: Session, route: str | None) -> tuple[Action, str]:
    """What a route is switched to by hand, and the words for it; `Action.READ` where it is not."""
    row = session.get(Switch, f"{_ROUTE}{route}")
    action = Action(row.value) if row else Action.READ
    return action, switched_reason(route, action, row.reason if row else "")


def switched_reason(route: str | None, action: Action, reason: str) -> str:
    """Why a run on a switched route goes no further."""
    said = "off" if action is Action.OFF else "to shadow: nothing is sent"
    return f"route {route} was switched {said}{f' ({reason})' if reason else ''}"
