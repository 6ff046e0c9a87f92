"""Counting: how many images a study has at its source, asked when the study arrives and again while it goes on to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

import structlog

from dicom_node.ledger import Ledger
from dicom_node.settings import Settings
from dicom_node.settings.sources import Source
from dicom_node.sources.counts import expected_instances
from engine.errors import NodeError

_LONGEST_SECONDS: Final = 10.0
"""For an answer; a study whose source takes longer goes by its quiet time."""
_REST_SECONDS: Final = 30
"""How long a source that did not answer is left alone."""

log = structlog.get_logger(__name__)


def counted_aets(settings: Settings) -> frozenset[str]:
    """Calling AE titles whose studies some source knows all of."""
    named = {aet for source in settings.sources for aet in source.calling_aets}
    return frozenset(named | {source.aet for source in settings.sources if source.aet is not None})


class Counting:
    """Asks sources; one for a process, called from several threads.

    Parameters
    ----------
    settings : Settings
    ledger : Ledger
    on_answer : callable
        Called after each answer that may complete a study.
    """

    def __init__(self, settings: Settings, ledger: Ledger, on_answer: Callable[[], None]) -> None:
        self._settings = settings
        self._ledger = ledger
        self._on_answer = on_answer
        self._lock = threading.Lock()
        self._waiting: dict[str, set[str]] = {source.name: set() for source in settings.sources}
        self._asking: set[str] = set()
        self._rests_until = dict.fromkeys(self._waiting, 0.0)

    def count(self, run_id: str) -> None:
        """Ask the source of a run's study; whoever asks it already does so for this one too."""
        study = self._ledger.intake.gathering(run_id)
        source = self._source(run_id)
        if study is None or source is None or time.monotonic() < self._rests_until[source.name]:
            return
        with self._lock:
            self._waiting[source.name].add(study)
            if source.name in self._asking:
                return
            self._asking.add(source.name)
        try:
            self._ask_for_all(source)
        except BaseException as error:
            with self._lock:  # those that are left are sent for again
                self._waiting[source.name].clear()
                self._asking.discard(source.name)
            if not isinstance(error, NodeError):
                raise
            # What it said before still counts.
            self._rests_until[source.name] = time.monotonic() + _REST_SECONDS
            log.warning("a source does not say how many images a study has", source=source.name, reason=str(error))

    def _ask_for_all(self, source: Source) -> None:
        while True:
            with self._lock:
                if not self._waiting[source.name]:
                    self._asking.discard(source.name)
                    return
                study = self._waiting[source.name].pop()
            instances = self._ask(source, study)
            self._ledger.expectations.answered(study, source.name, instances)
            if instances is not None:
                self._on_answer()

    def _source(self, run_id: str) -> Source | None:
        senders = [calling for calling, _ in self._ledger.intake.senders(run_id)]
        return next((item for item in self._settings.sources if any(map(item.answers_for, senders))), None)

    def _ask(self, source: Source, study: str) -> int | None:
        hurried = source.model_copy(
            update={
                "association_timeout_seconds": min(source.association_timeout_seconds, _LONGEST_SECONDS),
                "timeout_seconds": min(source.timeout_seconds, _LONGEST_SECONDS),
            }
        )
        return expected_instances(hurried, study, self._settings.listener.aet)
