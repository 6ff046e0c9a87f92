"""One more process that listens at the node's port: ``python -m dicom_node.dimse.process``, a child of the front.

The kernel gives each connection to one of the processes (``SO_REUSEPORT``). They share the spool, whose places only one
of them can take, and the ledger; sweeper and broker are the front's.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Mapping
from typing import Final

from dicom_node.children import Child, tethered
from dicom_node.commitments import Commitments
from dicom_node.dimse.listener import Listener
from dicom_node.dimse.services import Service
from dicom_node.dimse.ups import UpsEvents
from dicom_node.ledger import Ledger
from dicom_node.logs import set_up_logging
from dicom_node.metrics import process as metrics
from dicom_node.process import StopSignal, give_memory_back
from dicom_node.queue.wake import Bell
from dicom_node.settings import Settings
from dicom_node.spool import Spool

DRAIN_SECONDS: Final = 5


def listener_children(settings: Settings, environment: Mapping[str, str]) -> list[Child]:
    """The processes besides the front itself."""
    command = tethered([sys.executable, "-m", "dicom_node.dimse.process"])
    return [Child(f"listener-{number}", command, environment) for number in range(2, settings.listener.processes + 1)]


def main() -> None:
    """Listen until told to stop."""
    stop = StopSignal()
    settings = Settings()  # from the environment, where the front has put them
    set_up_logging(settings.log)
    metrics.begin(settings)
    ledger = Ledger.open(settings)
    spool = Spool.of(settings)
    commitments = Commitments(settings, spool, ledger)
    services: list[Service] = [commitments]
    if settings.worklists:
        services.append(UpsEvents(ledger.workitems.ask_cancel))
    bell = Bell(settings)
    listener = Listener.of(settings, spool, ledger, services, bell.ring)
    listener.start()
    gc.freeze()  # as the front does
    give_memory_back()
    commitments.start()  # a sender that waits for its report waits on an association of this process
    try:
        stop.wait()
    finally:
        listener.stop(DRAIN_SECONDS)
        commitments.stop()
        bell.close()
        ledger.close()


if __name__ == "__main__":
    main()
