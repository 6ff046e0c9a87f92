"""Storage commitment as the node does it: what is due in either role is found in the ledger, and worked off."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

import structlog
from pynetdicom import AE, evt

from dicom_node.dimse.commitment import SOP_CLASS
from dicom_node.dimse.commitment_scp import CommitmentScp
from dicom_node.dimse.commitment_scu import CommitmentScu
from dicom_node.ledger import Ledger
from dicom_node.settings import Settings
from dicom_node.spool import Spool
from engine.errors import NodeError

_INTERVAL_SECONDS: Final = 0.5
_AT_ONCE: Final = 4

log = structlog.get_logger(__name__)


class Commitments:
    """Storage commitment with senders and destinations, beside the listener of one process.

    Parameters
    ----------
    settings : Settings
    spool : Spool
    ledger : Ledger
    """

    def __init__(self, settings: Settings, spool: Spool, ledger: Ledger) -> None:
        self._scp = CommitmentScp(settings, spool, ledger)
        self._scu = CommitmentScu(settings, ledger)
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="commitment")
        self._busy: set[str | tuple[str, str]] = set()
        self._complaint = ""
        self._thread = threading.Thread(target=self._run, name="commitments", daemon=True)

    @property
    def sop_classes(self) -> Collection[str]:
        """That of the Push Model."""
        return (SOP_CLASS,)

    def equip(self, entity: AE) -> list[evt.EventHandlerType]:
        """Have a listener take requests and reports; returns its handlers."""
        return [*self._scp.equip(entity), *self._scu.equip(entity)]

    def start(self) -> None:
        """Work in threads of its own."""
        self._thread.start()

    def stop(self) -> None:
        """End; what is under way is left to the peers' timeouts, and to the ledger."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _run(self) -> None:
        while not self._stopping.wait(_INTERVAL_SECONDS):
            try:
                for transaction_uid in self._scp.due():
                    self._begin(transaction_uid, partial(self._scp.report, transaction_uid))
                for shipment in self._scu.due():
                    self._begin(shipment, partial(self._scu.request, *shipment))
            except NodeError as error:
                self._complain(error)
            except Exception as error:  # the thread's outermost edge: without it nobody would be told or asked any more
                log.error("unexpected error in commitments", exc_info=error)
            else:
                self._complaint = ""

    def _begin(self, key: str | tuple[str, str], work: Callable[[], None]) -> None:
        if key in self._busy:
            return

        def run() -> None:
            try:
                work()
            except NodeError as error:
                log.warning("commitment put off", reason=str(error))  # the ledger failed, and has it for later
            except Exception as error:  # the thread's outermost edge: nobody else would hear of it
                log.error("unexpected error", exc_info=error)
            finally:
                self._busy.discard(key)

        self._busy.add(key)
        self._pool.submit(run)

    def _complain(self, error: NodeError) -> None:
        """Once for each new reason: a ledger that is away for an hour is one line, not thousands."""
        if str(error) != self._complaint:
            self._complaint = str(error)
            log.error("commitments not looked at", reason=str(error))
