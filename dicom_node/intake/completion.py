"""Completion: a study is complete when all of its images are known to be there, else when none came for a quiet time.

Evidence closes a study early: the last transfer of it was released, none is under way, and its images are exactly as
many as its source counts or its sender's headers say. Without evidence nothing but the quiet time closes it, which
each image begins anew, and so does each sign of the next one. A study held by hand is closed by neither.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

import structlog

from dicom_node.ledger import Ledger
from dicom_node.ledger.records import OpenRun
from dicom_node.settings import Settings

log = structlog.get_logger(__name__)


def quiet_time(settings: Settings, senders: Iterable[tuple[str, str]]) -> float:
    """Quiet time in seconds of a study: the longest of its senders'.

    A sender's own counts before that of the entry point that it sends to, and that before the one for all.

    Parameters
    ----------
    settings : Settings
    senders : iterable of (str, str)
        Calling and called AE titles.
    """
    completion = settings.completion
    times = []
    for calling_aet, called_aet in senders:
        at_entry = settings.entry(called_aet).quiet_seconds or completion.quiet_seconds
        times.append(completion.per_calling_aet.get(calling_aet, at_entry))
    return max(times, default=completion.quiet_seconds)


def shortest_quiet_time(settings: Settings) -> float:
    """What a study must at least be quiet for, whoever sends it."""
    completion = settings.completion
    entries = [entry.quiet_seconds for entry in settings.entries if entry.quiet_seconds is not None]
    return min([completion.quiet_seconds, *completion.per_calling_aet.values(), *entries])


class Completion:
    """Closes what is complete. What it keeps in memory only spares it to ask twice.

    Parameters
    ----------
    settings : Settings
    ledger : Ledger
    """

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self._settings = settings
        self._ledger = ledger
        self._shortest = timedelta(seconds=shortest_quiet_time(settings))
        self._quiet_times: dict[OpenRun, float] = {}

    def close(self, now: datetime) -> dict[str, str]:
        """Close every run that is complete; why, by their ids."""
        complete = dict(self._ledger.expectations.met(self._settings.completion.settle_seconds))
        quiet = self._ledger.intake.receiving(now - self._shortest)
        self._quiet_times = {run: self._quiet_time(run) for run in quiet}
        for run, seconds in self._quiet_times.items():
            if now - run.last_image_at >= timedelta(seconds=seconds):
                complete.setdefault(run, f"no image for {seconds:g} s")
        closed = {}
        for run, reason in complete.items():
            if self._ledger.intake.complete(run.id, run.last_image_at, reason):
                log.info("study complete", run=run.id, study=run.study_instance_uid, reason=reason)
                closed[run.id] = reason
        return closed

    def _quiet_time(self, run: OpenRun) -> float:
        """That of a run as it was when its last image arrived."""
        if run in self._quiet_times:
            return self._quiet_times[run]
        return quiet_time(self._settings, self._ledger.intake.senders(run.id))
