"""Retention: what is removed, what stays and why; beside everything else, and never on the way of an image."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

import structlog

from dicom_node.ledger import Ledger
from dicom_node.ledger.keeping import Holding, Terms
from dicom_node.process import new_owner
from dicom_node.settings import Settings
from dicom_node.spool import Spool
from engine.errors import NodeError

_LEASE: Final = "retention"
_GIB: Final = 1 << 30

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of what the node keeps of a study.

    Parameters
    ----------
    holding : Holding
    size : int
        Bytes of its images.
    images_go, results_go : str
        Why they are removed, in words; empty where they stay.
    """

    holding: Holding
    size: int
    images_go: str = ""
    results_go: str = ""

    @property
    def stays(self) -> str:
        """Why what is not removed stays, in words."""
        holding = self.holding
        images = "" if self.images_go or not holding.images else holding.images_needed or "not due"
        results = "" if self.results_go or not holding.results else holding.results_needed or "not due"
        if images == results or not (images and results):
            return images or results
        return f"images: {images}; results: {results}"


class Retention:
    """Removes what is due, at intervals; of several nodes on one ledger one at a time.

    Parameters
    ----------
    settings : Settings
    spool : Spool
    ledger : Ledger
    """

    def __init__(self, settings: Settings, spool: Spool, ledger: Ledger) -> None:
        self._settings = settings
        self._spool = spool
        self._ledger = ledger
        self._terms = Terms(
            frozenset(item.name for item in settings.destinations if item.commitment),
            settings.retention.keep_committed,
        )
        self._owner = new_owner()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="retention", daemon=True)

    def plan(self, older_than: timedelta | None = None) -> list[Verdict]:
        """What would be removed now, the study that changed longest ago first.

        Parameters
        ----------
        older_than : timedelta, optional
            Takes the place of both ages of the settings.
        """
        settings, now = self._settings.retention, self._ledger.clock()
        images_age = _days(settings.images_days) if older_than is None else older_than
        results_age = _days(settings.results_days) if older_than is None else older_than
        verdicts = []
        for holding in self._ledger.keeping.kept(self._terms):
            verdict = Verdict(holding, self._spool.size(holding.study_instance_uid) if holding.images else 0)
            age = now - holding.changed_at
            if images_age is not None and age >= images_age and holding.images and not holding.images_needed:
                verdict = replace(verdict, images_go=f"older than {_words(images_age)}")
            if results_age is not None and age >= results_age and holding.results and not holding.results_needed:
                verdict = replace(verdict, results_go=f"older than {_words(results_age)}")
            verdicts.append(verdict)
        kept = sum(verdict.size for verdict in verdicts if not verdict.images_go)
        if settings.images_max_gib is not None:
            excess = kept - int(settings.images_max_gib * _GIB)
            verdicts = _make_room(verdicts, excess, f"more than {settings.images_max_gib:g} GiB are kept")
        if settings.purge_above_percent is not None:
            used, usable = self._spool.space.fullness
            going = sum(verdict.size for verdict in verdicts if verdict.images_go)
            excess = used - going - int(settings.purge_above_percent / 100 * usable)
            verdicts = _make_room(verdicts, excess, f"the disk is fuller than {settings.purge_above_percent:g} %")
        return verdicts

    def purge(self, verdicts: Iterable[Verdict], on_study: Callable[[], None] = lambda: None) -> tuple[int, int]:
        """Remove what is to go, unless something needs it by now; how many images and results were removed."""
        keeping, images, results = self._ledger.keeping, 0, 0
        for verdict in verdicts:
            uid = verdict.holding.study_instance_uid
            if verdict.images_go:
                images += keeping.purge_images(uid, self._terms, verdict.images_go, self._spool.remove)
            if verdict.results_go:
                results += keeping.purge_results(
                    uid, self._terms, verdict.results_go, self._spool.remove, self._spool.remove_readings
                )
            on_study()
        return images, results

    def start(self) -> None:
        """Work in a thread of its own, if the settings say that anything goes by itself."""
        settings = self._settings.retention
        limits = (settings.images_days, settings.results_days, settings.images_max_gib, settings.purge_above_percent)
        if any(limit is not None for limit in limits):
            self._thread.start()

    def stop(self) -> None:
        """End after the study that is being removed."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        interval = self._settings.retention.interval_seconds
        while not self._stopping.wait(interval):
            try:
                if self._ledger.leases.take(_LEASE, self._owner, 2 * interval + 600):
                    self._sweep()
            except NodeError as error:
                log.error("retention not finished", reason=str(error))
            except Exception as error:  # the thread's outermost edge: without it the disk would fill
                log.error("unexpected error in retention", exc_info=error)

    def _sweep(self) -> None:
        due = [verdict for verdict in self.plan() if verdict.images_go or verdict.results_go]
        images = results = 0
        for verdict in due:
            if self._stopping.is_set():
                break
            removed = self.purge([verdict])
            images, results = images + removed[0], results + removed[1]
        if due:
            log.info("purged", studies=len(due), images=images, results=results)
        if self._settings.retention.purge_above_percent is not None:
            used, usable = self._spool.space.fullness
            if used > self._settings.retention.purge_above_percent / 100 * usable:
                log.error("the disk stays fuller than it should: what is left may not be removed", bytes_used=used)


def _make_room(verdicts: Sequence[Verdict], excess: int, why: str) -> list[Verdict]:
    """Have the oldest go until the excess is gone."""
    made = []
    for verdict in verdicts:
        if excess > 0 and verdict.size and not verdict.images_go and not verdict.holding.images_needed:
            excess -= verdict.size
            verdict = replace(verdict, images_go=why)
        made.append(verdict)
    return made


def _days(days: float | None) -> timedelta | None:
    return timedelta(days=days) if days is not None else None


def _words(age: timedelta) -> str:
    seconds = age.total_seconds()
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"
