"""The sweeper: closes quiet studies, and finds in the ledger whatever is to be done, a crash's remains included.

It keeps nothing in memory: killed and started again, or started on another machine, it goes on where the ledger stands.
"""

from __future__ import annotations

import threading
import time
from datetime import datetime, timedelta
from typing import Final

import structlog

from dicom_node.audit.follower import Follower
from dicom_node.intake.completion import Completion
from dicom_node.intake.counting import counted_aets
from dicom_node.ledger import Ledger
from dicom_node.ledger.switches import Switched, Work
from dicom_node.process import new_owner
from dicom_node.queue.broker import BrokerError
from dicom_node.queue.dispatch import Dispatcher
from dicom_node.queue.wake import Bell, Ear
from dicom_node.routing.router import Router
from dicom_node.settings import Settings
from dicom_node.spool import Spool
from engine.errors import NodeError

_LEASE: Final = "sweeper"
_SLOWEST_SECONDS: Final = 30
_REST: Final = 3.0
"""Pause after each sweep, as a multiple of the time that it took."""
_ANSWER: Final = timedelta(seconds=5)

log = structlog.get_logger(__name__)


class Sweeper:
    """Sweeps at an interval; of several sweepers on one ledger one works and the others stand by.

    Parameters
    ----------
    settings : Settings
    ledger : Ledger
    dispatcher : Dispatcher

    Raises
    ------
    SettingsError
        If the rules of routing are wrong.
    """

    def __init__(self, settings: Settings, ledger: Ledger, dispatcher: Dispatcher) -> None:
        self._settings = settings
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._completion = Completion(settings, ledger)
        self._follower = Follower(settings, ledger)
        self._router = Router(settings, ledger, Spool(settings.data.path))
        self._bell, self._ear = Bell(settings), Ear(settings)
        self._owner = new_owner()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sweeper", daemon=True)
        self._complaint = ""
        self._counted = counted_aets(settings)
        self._asked: dict[str, datetime] = {}
        self._paused: dict[Work, Switched] = {}

    def start(self) -> None:
        """Sweep in a thread of its own: at the interval, and at once when woken.

        Raises
        ------
        NodeError
            If the ledger cannot be reached.
        """
        self._ledger.intake.begin()
        self._router.start()
        self._thread.start()

    def stop(self) -> None:
        """End after the sweep under way."""
        self._stopping.set()
        self._ear.stop()
        self._bell.ring()
        if self._thread.is_alive():
            self._thread.join()
        self._router.stop()
        self._bell.close()

    def wake(self) -> None:
        """There may be something to be done at once, whichever process sweeps."""
        self._bell.ring()

    def sweep(self) -> None:
        """Do once what is to be done.

        Raises
        ------
        NodeError
            If the ledger or the broker cannot be reached; the next sweep does what this one left.
        """
        seconds = max(3 * self._settings.sweeper.interval_seconds, _SLOWEST_SECONDS)
        now = self._ledger.clocks.steady()  # before the lease, which a jump would lengthen
        if not self._ledger.leases.take(_LEASE, self._owner, seconds):
            return
        self._completion.close(now)
        self._router.route_complete()
        reading = self._settings.reading
        for run_id in self._ledger.runs.reclaim_lost(reading.attempts, reading.first_delay_seconds):
            log.warning("run taken from a lost worker", run=run_id, study=self._ledger.standing.study_of(run_id))
        self._ledger.deliveries.reclaim_lost()
        self._tell_paused()
        self._dispatcher.dispatch_readings()
        self._dispatcher.dispatch_deliveries()
        self._dispatcher.ask_for_counts(self._uncounted(now))
        self._follower.follow()

    def _uncounted(self, now: datetime) -> list[str]:
        """Runs whose source is to be asked, each but once for so long as an answer may take."""
        due = self._ledger.expectations.to_ask(self._counted, self._settings.completion.settle_seconds)
        recent = {run_id: at for run_id, at in self._asked.items() if timedelta(0) <= now - at < _ANSWER}
        self._asked = recent | dict.fromkeys(set(due) - recent.keys(), now)
        return [run_id for run_id in due if run_id not in recent]

    def _tell_paused(self) -> None:
        paused = self._ledger.switches.paused()
        for work in paused.keys() - self._paused.keys():
            log.warning(f"{work} is paused", since=paused[work].at.isoformat(), reason=paused[work].reason)
        for work in self._paused.keys() - paused.keys():
            log.warning(f"{work} goes on")
        self._paused = paused

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._ear.wait(self._settings.sweeper.interval_seconds)
            began = time.monotonic()
            try:
                self.sweep()
            except NodeError as error:
                self._complain(error)
            except Exception as error:  # the thread's outermost edge: without a sweeper nothing would go on
                log.error("unexpected error in a sweep", exc_info=error)
            else:
                self._complaint = ""
            # However often it is woken, the listener beside it keeps most of the processor.
            took = time.monotonic() - began
            self._stopping.wait(min(_REST * took, self._settings.sweeper.interval_seconds))
        self._ear.close()
        try:
            self._ledger.leases.drop(_LEASE, self._owner)
        except NodeError as error:  # it runs out by itself
            self._complain(error)

    def _complain(self, error: NodeError) -> None:
        """Once for each new reason: a broker that is away for an hour is one line, not thousands."""
        if str(error) != self._complaint:
            self._complaint = str(error)
            level = log.warning if isinstance(error, BrokerError) else log.error
            level("sweep not finished", reason=str(error))
