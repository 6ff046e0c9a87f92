"""Audits: the ledger's events that the audit trail is told of, each until it has been."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from dicom_node.ledger.deliveries import ATTEMPT
from dicom_node.ledger.keeping import PURGE
from dicom_node.ledger.models import Delivery, DeliveryState, Event, Instance, Result
from dicom_node.ledger.part import Part
from dicom_node.ledger.states import State

_AT_ONCE: Final = 200


@dataclass(frozen=True, slots=True)
class Received:
    """The images of a run that has become complete, by their sender: how many, by SOP class UID."""

    study_instance_uid: str
    calling_aet: str
    instances: dict[str, int]


@dataclass(frozen=True, slots=True)
class Sent:
    """What an attempt to deliver came to.

    Parameters
    ----------
    study_instance_uid, destination : str
    instances : dict of str to int
        What of the run has arrived there by now, by SOP class UID.
    failed : int
        How many results of the run were given up.
    """

    study_instance_uid: str
    destination: str
    instances: dict[str, int]
    failed: int


@dataclass(frozen=True, slots=True)
class Purged:
    """Images or results of a study were removed; `words` say how many and why."""

    study_instance_uid: str
    words: str


class Audits(Part):
    """What is to be audited of what the node does by itself; what people do is audited by who does it for them."""

    def untold(self) -> tuple[list[int], list[Received | Sent | Purged]]:
        """The oldest events that the trail has not had, by id, and what it is to be told of them."""
        told: list[Received | Sent | Purged] = []
        with self._database.read() as session:
            events = session.scalars(select(Event).where(~Event.audited).order_by(Event.id).limit(_AT_ONCE)).all()
            for event in events:
                if event.from_state is State.RECEIVING and event.to_state is State.COMPLETE:
                    told += _received(session, event)
                elif event.kind == ATTEMPT:
                    told += _sent(session, event)
                elif event.kind == PURGE:
                    told.append(Purged(event.study_instance_uid, event.reason))
        return [event.id for event in events], told

    def told(self, ids: Sequence[int]) -> None:
        """The trail has had these."""
        with self._database.write() as session:
            session.execute(update(Event).where(Event.id.in_(ids)).values(audited=True))


def _received(session: Session, event: Event) -> list[Received]:
    by_caller: dict[str, dict[str, int]] = {}
    rows = session.execute(
        select(Instance.calling_aet, Instance.sop_class_uid, func.count())
        .where(Instance.run_id == event.run_id)
        .group_by(Instance.calling_aet, Instance.sop_class_uid)
    )
    for caller, sop_class, count in rows:
        by_caller.setdefault(caller, {})[sop_class] = count
    return [Received(event.study_instance_uid, caller, by_class) for caller, by_class in by_caller.items()]


def _sent(session: Session, event: Event) -> list[Sent]:
    destination = event.reason.partition(":")[0]
    rows = session.execute(
        select(Delivery.state, Result.sop_class_uid, func.count())
        .join(Result, Result.id == Delivery.result_id)
        .where(
            Delivery.run_id == event.run_id,
            Delivery.destination == destination,
            Delivery.state.in_((DeliveryState.DELIVERED, DeliveryState.FAILED)),
        )
        .group_by(Delivery.state, Result.sop_class_uid)
    ).all()
    arrived = {sop_class: count for state, sop_class, count in rows if state is DeliveryState.DELIVERED}
    failed = sum(count for state, _, count in rows if state is DeliveryState.FAILED)
    return [Sent(event.study_instance_uid, destination, arrived, failed)] if rows else []
