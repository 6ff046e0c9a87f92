"""All metrics in Prometheus' text format: the ledger's, asked now, and what the node's processes have counted."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.metadata import version
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from dicom_node.audit.syslog import unsent_bytes
from dicom_node.audit.trail import FOLDER as AUDIT_FOLDER
from dicom_node.ledger import Ledger
from dicom_node.ledger.deliveries import DELIVERIES
from dicom_node.ledger.records import Circuit
from dicom_node.ledger.switches import Work
from dicom_node.metrics.drift import HELD_BACK, LABELS, READINGS, SCANNERS, SCANNERS_WITH
from dicom_node.metrics.process import files_of
from dicom_node.settings import Settings

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_TALLIES: Final = {
    READINGS: ("readings", "Studies read, by the reading's state and its plan.", ("state", "plan")),
    LABELS: ("readings_with_label", "Studies read that have a finding of a label.", ("label",)),
    SCANNERS: ("readings_by_scanner", "Studies read, by the scanner's model name.", ("scanner",)),
    SCANNERS_WITH: ("readings_with_findings_by_scanner", "Of those the ones with a finding.", ("scanner",)),
    HELD_BACK: ("held_back", "What the model said and the grounding gate held back, by reason.", ("reason",)),
    DELIVERIES: ("deliveries", "Attempts to deliver a result, by what they came to.", ("destination", "outcome")),
}


def exposition(settings: Settings, ledger: Ledger) -> bytes:
    """Every metric, as `/metrics` gives it.

    Raises
    ------
    NodeError
        If the ledger cannot be reached.
    """
    registry = CollectorRegistry()
    registry.register(_Node(settings, ledger))
    registry.register(Processes(settings))
    return generate_latest(registry)


class Processes(Collector):
    """What the node's processes have counted, those that are gone included."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def describe(self) -> Iterable[Metric]:
        """Nothing: the library would read all files for it."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """The sums over all processes."""
        files = [str(file) for file in files_of(self._settings)]
        merged: Iterable[Metric] = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
        return merged


class _Node(Collector):
    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self._settings = settings
        self._ledger = ledger

    def describe(self) -> Iterable[Metric]:
        """Nothing: the library would ask the ledger for it."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """What is so now."""
        yield _gauge("build_info", "The node's version, as a label.", ["version"], [([version("medrega-pacs")], 1)])
        yield from self._runs()
        yield from self._destinations()
        paused = self._ledger.switches.paused()
        rows = [([work.value], float(work in paused)) for work in Work]
        yield _gauge("paused", "Whether work is paused by hand.", ["work"], rows)
        yield from self._counted()
        data = self._settings.data.path
        with suppress(OSError):  # a disk that is gone is told by what alerts on missing figures
            yield _gauge("free_bytes", "Free space where the data folder is.", [], [([], shutil.disk_usage(data).free)])
        if self._settings.audit.host is not None:
            waiting = unsent_bytes(data / AUDIT_FOLDER)
            yield _gauge("audit_unsent_bytes", "Audit records the repository has not got.", [], [([], waiting)])

    def _runs(self) -> Iterator[Metric]:
        standing = self._ledger.standing.runs()
        counts = [([str(one.state)], float(one.count)) for one in standing]
        yield _gauge("studies", "Readings of studies, by state.", ["state"], counts)
        ages = [([str(one.state)], one.oldest_seconds) for one in standing if one.oldest_seconds is not None]
        yield _gauge("oldest_seconds", "For how long the one has not moved that stood longest.", ["state"], ages)
        queued = [([queue or "any"], float(count)) for queue, count in self._ledger.standing.queues().items()]
        yield _gauge("queue_depth", "Studies that wait for an engine, by its queue.", ["queue"], queued)

    def _destinations(self) -> Iterator[Metric]:
        records = self._ledger.destinations.all([one.name for one in self._settings.destinations])
        reachable = [([one.name], float(one.circuit is Circuit.CLOSED)) for one in records]
        yield _gauge("destination_up", "Whether a destination answered lately.", ["destination"], reachable)
        paused = [([one.name], float(one.paused_at is not None)) for one in records]
        yield _gauge("destination_paused", "Whether it is held back by hand.", ["destination"], paused)
        waiting = [([one.name], float(one.waiting)) for one in records]
        yield _gauge("deliveries_waiting", "Results that wait for a destination.", ["destination"], waiting)

    def _counted(self) -> Iterator[Metric]:
        counts = self._ledger.tallies.all()
        for tally, (name, words, labels) in _TALLIES.items():
            family = CounterMetricFamily(f"medrega_{name}", words, labels=labels)
            for counted, value in counts.items():
                if counted.name == tally:
                    family.add_metric([counted.first, counted.second][: len(labels)], value)
            yield family


def _gauge(name: str, words: str, labels: list[str], rows: Iterable[tuple[list[str], float]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"medrega_{name}", words, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family
