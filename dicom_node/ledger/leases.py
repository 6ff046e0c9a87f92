"""Leases: the right to work on something until a point in time."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import delete

from dicom_node.ledger.database import DatabaseError
from dicom_node.ledger.models import Lease
from dicom_node.ledger.part import Part


class Leases(Part):
    """Leases by key. Work on runs and deliveries takes its own within the transaction that starts it."""

    def take(self, key: str, owner: str, seconds: float) -> bool:
        """Take or renew a lease; False while another living owner holds it."""
        try:
            with self._database.write() as session:
                lease = session.get(Lease, key, with_for_update=True)
                if lease is not None and lease.owner != owner and not self._lease_is_free(lease):
                    return False
                expires = self._clock() + timedelta(seconds=seconds)
                if lease is None:
                    session.add(Lease(key=key, owner=owner, expires_at=expires))
                else:
                    lease.owner, lease.expires_at = owner, expires
        except DatabaseError as error:
            if error.overtaken:
                return False  # another one was quicker
            raise
        return True

    def drop(self, key: str, owner: str) -> None:
        """Give a lease back; nothing happens if it is not this owner's any more."""
        with self._database.write() as session:
            session.execute(delete(Lease).where(Lease.key == key, Lease.owner == owner))
