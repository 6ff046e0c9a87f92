"""Complete runs put into the queue without a node that sweeps."""

from __future__ import annotations

from dicom_node.ledger import Ledger, State
from dicom_node.routing.decision import Decision


def queue_complete(ledger: Ledger) -> list[str]:
    """Put every complete run into the queue on the built-in route; their ids."""
    waiting = [run.id for run in ledger.runs.to_route()]
    return [run_id for run_id in waiting if ledger.runs.route(run_id, Decision()) is State.QUEUED]
