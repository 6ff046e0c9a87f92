"""The index of headers: a thread of the front that reads what has arrived, off the receive path and in batches.

It keeps nothing in memory. What a crash left unread is what the ledger says is unread; and what is still unread when a
study is complete is read by whoever decides on it.
"""

from __future__ import annotations

import threading
from typing import Final

import structlog

from dicom_node.ledger import Ledger
from dicom_node.ledger.expectations import HEADERS
from dicom_node.routing.header import read_header
from dicom_node.spool import Spool
from engine.errors import NodeError

_BATCH: Final = 64
_INTERVAL_SECONDS: Final = 0.5

log = structlog.get_logger(__name__)


class Index:
    """Reads headers of the spool into the ledger.

    Parameters
    ----------
    ledger : Ledger
    spool : Spool
    """

    def __init__(self, ledger: Ledger, spool: Spool) -> None:
        self._ledger = ledger
        self._spool = spool
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="index", daemon=True)

    def start(self) -> None:
        """Read in a thread of its own whatever arrives."""
        self._thread.start()

    def stop(self) -> None:
        """End after the batch under way."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def read(self, run_id: str | None = None) -> int:
        """Read a batch of headers: of a run, or of whatever waits; how many.

        One that cannot be read is told, and holds nothing up.

        Raises
        ------
        NodeError
            If the ledger cannot be reached.
        """
        headers = {}
        counts: dict[str, int] = {}
        for item in self._ledger.headers.unread(_BATCH, run_id):
            header = read_header(self._spool.path(item.path), item.transfer_syntax_uid)
            if header.unreadable:
                log.warning(
                    "header not read; rules know nothing of this object",
                    sop_instance_uid=item.sop_instance_uid,
                    reason=header.unreadable,
                )
            headers[item.id] = header.to_json()
            counts[item.study_instance_uid] = max(header.of_study, counts.get(item.study_instance_uid, 0))
        self._ledger.headers.enter(headers)
        for study_instance_uid, instances in counts.items():
            if instances:
                self._ledger.expectations.answered(study_instance_uid, HEADERS, instances)
        return len(headers)

    def _run(self) -> None:
        while not self._stopping.wait(_INTERVAL_SECONDS):
            try:
                while self.read() and not self._stopping.is_set():
                    pass
            except NodeError as error:
                log.warning("headers not read; they are read when their study is complete", reason=str(error))
            except Exception as error:  # the thread's outermost edge; the sweep reads what it leaves
                log.error("unexpected error in the index", exc_info=error)
