"""Tallies: counts that only grow, entered in the transaction that makes them true."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.orm import Session

from dicom_node.ledger.models import Tally
from dicom_node.ledger.part import Part

OTHER: Final = "other"
_MOST: Final = 100
"""Labels of one tally: what comes from headers and models is not to fill a metrics server, nor the ledger."""


class Counted(NamedTuple):
    """What is counted; labels that are not needed are empty."""

    name: str
    first: str = ""
    second: str = ""


class Tallies(Part):
    """The counts."""

    def all(self) -> dict[Counted, int]:
        """Every count."""
        with self._database.read() as session:
            rows = session.execute(select(Tally.name, Tally.first, Tally.second, Tally.value))
            return {Counted(name, first, second): value for name, first, second, value in rows}


def count(session: Session, counts: Mapping[Counted, int]) -> None:
    """Add to counts; sorted, so that two processes cannot lock each other out."""
    insert = sqlite_insert if session.get_bind().dialect.name == "sqlite" else postgresql_insert
    for counted, number in sorted(counts.items()):
        name, first, second = _bounded(session, counted)
        statement = insert(Tally).values(name=name, first=first, second=second, value=number)
        key = [Tally.name, Tally.first, Tally.second]
        session.execute(
            statement.on_conflict_do_update(index_elements=key, set_={"value": Tally.value + statement.excluded.value})
        )


def _bounded(session: Session, counted: Counted) -> Counted:
    """The count itself, or the one of all others once a tally has as many labels as it may have."""
    if session.get(Tally, tuple(counted)) is not None:
        return counted
    known = session.scalar(select(func.count()).select_from(Tally).where(Tally.name == counted.name)) or 0
    return counted if known < _MOST else Counted(counted.name, OTHER, counted.second)
