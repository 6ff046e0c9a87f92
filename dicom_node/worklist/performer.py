"""The pull performer (PS3.4 CC.1.1, IHE AIW-I): claims workitems, fetches their studies, and tells how they ended.

What it knows stands in the ledger, and each step may happen twice: killed and started again it goes on where it stood.
A transaction UID is kept before the claim that uses it is sent, so that a claim whose answer was lost is still ours.
"""

from __future__ import annotations

import threading
import time
from typing import Final

import structlog
from pydicom.uid import generate_uid

from dicom_node.dimse.ups import UpsError
from dicom_node.intake.identity import is_uid
from dicom_node.intake.storage import Storage
from dicom_node.ledger import Ledger
from dicom_node.process import new_owner
from dicom_node.settings import Settings, Worklist
from dicom_node.spool import Spool
from dicom_node.worklist.performance import Performance
from dicom_node.worklist.ups import open_ups
from dicom_node.worklist.workitem import is_ready, plan_of, priority_of, search_keys
from engine.errors import NodeError, SettingsError
from engine.plan import load_plans

_TICK_SECONDS: Final = 1.0
_LEASE_SECONDS: Final = 120.0

log = structlog.get_logger(__name__)


class Performer:
    """Works on one worklist, in a thread of its own; of several nodes on one ledger one works, the others stand by.

    Parameters
    ----------
    settings : Settings
    worklist : Worklist
    spool : Spool
    ledger : Ledger

    Raises
    ------
    SettingsError, PlanError
        If the settings name a plan that does not exist, or a server that cannot be used.
    """

    def __init__(self, settings: Settings, worklist: Worklist, spool: Spool, ledger: Ledger) -> None:
        check_plans(settings, worklist)
        self._worklist = worklist
        self._ledger = ledger
        self._items = ledger.workitems
        self._ups = open_ups(worklist, settings.listener.aet)
        self._performance = Performance(settings, worklist, self._ups, Storage(spool, ledger), self._lease)
        self._owner = new_owner()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"worklist-{worklist.name}", daemon=True)
        self._looked = -float("inf")
        self._leased = -float("inf")
        self._complaint = ""

    def start(self) -> None:
        """Work in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """End after the step under way; a retrieval is broken off, and begun again by whoever goes on."""
        self._stopping.set()
        self._performance.stop()
        if self._thread.is_alive():
            self._thread.join()

    def step(self) -> None:
        """Do once what is to be done.

        Raises
        ------
        NodeError
            If the ledger or the worklist cannot be reached; the next step does what this one left.
        """
        if not self._lease():
            return
        look = time.monotonic() - self._looked >= self._worklist.poll_seconds
        if look:
            self._looked = time.monotonic()
        complaint: NodeError | None = None
        for item in self._items.open(self._worklist.name):
            try:
                self._performance.advance(item, look=look)
            except UpsError as error:  # this one waits; the others go on
                complaint = error
        if look:
            self._claim_new()
        if complaint is not None:
            raise complaint

    def _lease(self) -> bool:
        """Keep, or try to get, the right to work on this worklist."""
        if time.monotonic() - self._leased < _LEASE_SECONDS / 4:
            return True
        key = f"worklist:{self._worklist.name}"
        if not self._ledger.leases.take(key, self._owner, _LEASE_SECONDS):
            return False
        self._leased = time.monotonic()
        return True

    def _claim_new(self) -> None:
        """Claim what the worklist offers, the most urgent first."""
        room = self._worklist.claims - len(self._items.open(self._worklist.name))
        if room <= 0:
            return
        offered = {
            str(found.get("SOPInstanceUID") or ""): found
            for found in self._ups.find(search_keys(self._worklist))
            if is_ready(found) and plan_of(found, self._worklist.plans) is not None
        }
        new = set(filter(is_uid, offered)) - self._items.known(offered)
        for uid in sorted(new, key=lambda uid: (priority_of(offered[uid]).rank, uid))[:room]:
            # A 2.25 UID (PS3.5 B.2) of 122 random bits: who did not hear it cannot change the workitem.
            transaction_uid = str(generate_uid(prefix=None))
            self._items.intend(uid, self._worklist.name, transaction_uid, priority_of(offered[uid]))
        for item in self._items.open(self._worklist.name):
            if item.sop_instance_uid in new:
                self._performance.claim(item)

    def _run(self) -> None:
        while not self._stopping.wait(_TICK_SECONDS):
            try:
                self.step()
            except NodeError as error:
                if str(error) != self._complaint:  # once for each new reason
                    self._complaint = str(error)
                    log.warning("worklist not worked on", worklist=self._worklist.name, reason=error.explained)
            except Exception as error:  # the thread's outermost edge: without it no workitem would go on
                log.error("unexpected error in a worklist", worklist=self._worklist.name, exc_info=error)
            else:
                self._complaint = ""
        try:
            self._ledger.leases.drop(f"worklist:{self._worklist.name}", self._owner)
        except NodeError as error:
            log.warning("lease not given back", reason=str(error))


def check_plans(settings: Settings, worklist: Worklist) -> None:
    """Whether each plan that a worklist names exists.

    Raises
    ------
    SettingsError
        If one does not.
    """
    wanted = {name for name in worklist.plans.values() if name}
    unknown = wanted - set(load_plans(settings.engine.plans)) if wanted else set()
    if unknown:
        raise SettingsError(
            f"worklist {worklist.name}: there is no plan {', '.join(sorted(unknown))}", advice="see plan list"
        )
