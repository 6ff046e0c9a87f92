"""Completion: a study is complete when none of its images arrived for the quiet time of its senders."""

from __future__ import annotations

from datetime import datetime

from dicom_node.ledger import Ledger
from dicom_node.ledger.records import OpenRun
from dicom_node.settings import CompletionSettings


def quiet_time(run: OpenRun, settings: CompletionSettings) -> float:
    """Quiet time in seconds of a run: the longest of its senders'."""
    return max((settings.quiet_time(aet) for aet in run.calling_aets), default=settings.quiet_seconds)


def is_complete(run: OpenRun, settings: CompletionSettings, now: datetime) -> bool:
    """Whether a run has been quiet for long enough."""
    return (now - run.last_image_at).total_seconds() >= quiet_time(run, settings)


def close_complete(ledger: Ledger, settings: CompletionSettings, now: datetime) -> list[str]:
    """Close every run that is complete; their ids."""
    closed = []
    for run in ledger.intake.receiving():
        if is_complete(run, settings, now):
            reason = f"no image for {quiet_time(run, settings):g} s"
            if ledger.intake.complete(run.id, run.last_image_at, reason):
                closed.append(run.id)
    return closed
