"""The sweeper: closes quiet studies, and finds in the ledger whatever is to be done, a crash's remains included.

It keeps nothing in memory: killed and started again, or started on another machine, it goes on where the ledger stands.
"""

from __future__ import annotations

import threading
from typing import Final

import structlog

from dicom_node.intake.completion import Completion
from dicom_node.ledger import Ledger
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
        self._router = Router(settings, ledger, Spool(settings.data.path))
        self._bell, self._ear = Bell(settings), Ear(settings)
        self._owner = new_owner()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sweeper", daemon=True)
        self._complaint = ""

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
        if not self._ledger.leases.take(_LEASE, self._owner, seconds):
            return
        now = self._ledger.clocks.steady()
        for run_id, reason in self._completion.close(now).items():
            log.info("study complete", run=run_id, reason=reason)
        self._router.route_complete()
        for run_id in self._ledger.runs.reclaim_lost(self._settings.reading.attempts):
            log.warning("run taken from a lost worker", run=run_id)
        self._dispatcher.dispatch_readings()
        self._dispatcher.dispatch_deliveries()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._ear.wait(self._settings.sweeper.interval_seconds)
            try:
                self.sweep()
            except NodeError as error:
                self._complain(error)
            except Exception as error:  # the thread's outermost edge: without a sweeper nothing would go on
                log.error("unexpected error in a sweep", exc_info=error)
            else:
                self._complaint = ""
        self._ear.close()
        self._ledger.leases.drop(_LEASE, self._owner)

    def _complain(self, error: NodeError) -> None:
        """Once for each new reason: a broker that is away for an hour is one line, not thousands."""
        if str(error) != self._complaint:
            self._complaint = str(error)
            level = log.warning if isinstance(error, BrokerError) else log.error
            level("sweep not finished", reason=str(error))
