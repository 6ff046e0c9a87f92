"""Throughput: how many studies were read, hour by hour, how long they took, and what waits to be read."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from statistics import median
from typing import Final

from sqlalchemy import func, select

from dicom_node.ledger.models import Event, Run
from dicom_node.ledger.part import Part
from dicom_node.ledger.states import State

_MOST: Final = 50_000
"""Events that are looked at: a table of years has no index by time, and its end is what is asked for."""


@dataclass(frozen=True, slots=True)
class Hour:
    """An hour: when it began, how long each reading that ended in it took, and the runs whose reading failed."""

    begin: datetime
    seconds: list[float] = field(default_factory=list)
    failed: list[str | None] = field(default_factory=list)

    @property
    def typical(self) -> float | None:
        """Median of the readings' seconds."""
        return median(self.seconds) if self.seconds else None


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits for an engine, or is read by it; its queue is empty for any engine's."""

    queue: str
    state: State
    count: int
    oldest: datetime


class Throughput(Part):
    """What the engines get done."""

    def hours(self, count: int = 24) -> list[Hour]:
        """The last hours, this one the last."""
        now = self._clock()
        first = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=count - 1)
        hours = [Hour(first + timedelta(hours=number)) for number in range(count)]
        with self._database.read() as session:
            last = session.scalar(select(func.max(Event.id))) or 0
            rows = session.execute(
                select(Event.run_id, Event.at, Event.from_state, Event.to_state)
                .where(Event.id > last - _MOST, Event.at >= first - timedelta(hours=1), Event.kind == "transition")
                .order_by(Event.id)
            ).all()
        began: dict[str | None, datetime] = {}
        for run, at, before, state in rows:
            hour = int((at - first) / timedelta(hours=1))
            if state is State.READING:
                began[run] = at
            elif before is State.READING and run in began and 0 <= hour < count:
                if state is State.WRITING:
                    hours[hour].seconds.append((at - began.pop(run)).total_seconds())
                elif state is State.FAILED:
                    hours[hour].failed.append(run)
        return hours

    def waiting(self) -> list[Waiting]:
        """What is queued or read now, by engine."""
        with self._database.read() as session:
            query = select(Run.queue, Run.state, func.count(), func.min(Run.changed_at))
            rows = session.execute(
                query.where(Run.state.in_((State.QUEUED, State.READING)))
                .group_by(Run.queue, Run.state)
                .order_by(Run.queue, Run.state)
            )
            return [Waiting(*row) for row in rows]
