"""The ledger's clock may jump: it was set by hand, or its machine slept. No study is closed early and no lease lost."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import structlog
from sqlalchemy import select, update

from dicom_node.ledger.database import Database
from dicom_node.ledger.models import (
    ClockZero,
    Commitment,
    CommitmentReport,
    CommitmentState,
    Delivery,
    DeliveryState,
    DestinationHealth,
    Lease,
    Run,
    Workitem,
)
from dicom_node.ledger.part import Clock, Monotonic, Part
from dicom_node.ledger.states import GATHERING, State
from dicom_node.process import this_host

_TOLERANCE: Final = timedelta(seconds=1)
"""Less than that is drift, which is let add up."""
_LONGEST: Final = timedelta(minutes=15)
"""For so long leases and waits last at most, as a rule."""
_ENDS: Final = (
    (select(Lease), "expires_at"),
    (select(Run).where(Run.state == State.QUEUED), "next_attempt_at"),
    (select(Delivery).where(Delivery.state == DeliveryState.PENDING), "next_attempt_at"),
    (select(DestinationHealth), "retry_at"),
    (select(Commitment).where(Commitment.state == CommitmentState.OPEN), "next_attempt_at"),
    (select(CommitmentReport).where(CommitmentReport.state == CommitmentState.OPEN), "next_attempt_at"),
    (select(Workitem), "next_attempt_at"),
)
"""What lasts until a point in time."""

log = structlog.get_logger(__name__)


class Clocks(Part):
    """Compares the ledger's clock with this host's, which never jumps.

    Parameters
    ----------
    database : Database
    clock : callable
    monotonic : callable
        Seconds since some moment of this host's boot.
    """

    def __init__(self, database: Database, clock: Clock, monotonic: Monotonic) -> None:
        super().__init__(database, clock)
        self._monotonic = monotonic

    def steady(self) -> datetime:
        """The time; if it jumped since the last call, once everything that is measured by it has taken note.

        To be called by whoever closes studies and takes work from lost workers, before either.
        """
        now = self._clock()
        zero_at = now - timedelta(seconds=self._monotonic())
        with self._database.read() as session:
            known = session.get(ClockZero, this_host())
            if known is not None and abs(zero_at - known.zero_at) <= _TOLERANCE:
                return now
        with self._database.write() as session:
            known = session.get(ClockZero, this_host(), with_for_update=True)
            if known is None:
                session.add(ClockZero(host=this_host(), zero_at=zero_at))
                return now
            jump, known.zero_at = zero_at - known.zero_at, zero_at
            # Which images came before the jump and which after it cannot be told: quiet times begin anew.
            gathering = select(Run.study_instance_uid).where(Run.state.in_(GATHERING), Run.gathers)
            self._begin_quiet_times(session, session.scalars(gathering).all(), anew=True)
            # A message too many does no harm, one that is taken for fresh until next year does.
            session.execute(update(Run).where(Run.state == State.QUEUED).values(dispatched_at=None))
            for delivery in session.scalars(select(Delivery).where(Delivery.state == DeliveryState.PENDING)):
                delivery.dispatched_at = None
                delivery.created_at += jump  # from which the hours are counted that it may take
            for rows, name in _ENDS:
                for row in session.scalars(rows.with_for_update()):
                    end = getattr(row, name)
                    if end is not None:
                        setattr(row, name, _moved(end, jump, now))
        log.warning(
            "the clock jumped; quiet times begin anew, leases and attempts follow it", seconds=jump.total_seconds()
        )
        return now


def _moved(end: datetime, jump: timedelta, now: datetime) -> datetime:
    """When something ends, by the clock as it is now.

    What somebody entered between the jump and its discovery is by the new clock already: moved as well, a lease would
    last for as long as the jump was, or be lost at once. It is told by what can be.
    """
    moved, latest = end + jump, now + _LONGEST
    # What is over by the new clock may just have been entered as due at once.
    otherwise = end if end <= now else min(moved, latest)
    return next((one for one in (moved, end) if now < one <= latest), otherwise)
