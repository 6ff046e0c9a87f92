"""Entries that follow the promise: a sender hears Success once its object is in place, and the ledger a moment later.

What is promised is the file: whole, synced, in its final place. Until its entry is made it keeps a second name under
``incoming/``, so that after a crash of this process another one finds exactly what was not entered
(`dicom_node.intake.adoption`). Nobody who sends waits for the ledger, and a transaction takes along what came in a
fifth of a second: more of them take the interpreter away from those who receive.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import Final

import structlog

from dicom_node.ledger import Ledger
from dicom_node.ledger.database import DatabaseError
from dicom_node.ledger.records import ReceivedInstance
from engine.errors import NodeError

_GATHER_SECONDS: Final = 0.2
"""What a release, a query, or a report does not wait for: they flush."""
_AGAIN_SECONDS: Final = 0.5
_MOST: Final = 2000
"""Entries that may wait; senders wait for the ledger once there are as many."""

log = structlog.get_logger(__name__)

_Entry = tuple[ReceivedInstance, str]


class Promised:
    """Entries to be made, in the order in which they came; used by several threads.

    Parameters
    ----------
    ledger : Ledger
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._waiting: list[_Entry] = []
        self._list = threading.Lock()
        self._transaction = threading.Lock()
        self._failing = False
        self._come = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="entries", daemon=True)

    def start(self) -> None:
        """Make entries soon after they were added, from a thread of its own."""
        self._thread.start()

    def make_room(self) -> None:
        """To be called before something is promised.

        Raises
        ------
        NodeError
            If the ledger fails.
        """
        if self._failing or len(self._waiting) >= _MOST:
            self.flush()

    def add(self, instance: ReceivedInstance, incoming: str) -> None:
        """Have an instance entered soon, and its name under ``incoming/`` removed after that."""
        with self._list:
            self._waiting.append((instance, incoming))
        if not self._come.is_set():
            self._come.set()
        if self._stopped.is_set():
            self._try()

    def flush(self) -> None:
        """Enter all that was promised before this call.

        Raises
        ------
        NodeError
            If the ledger fails; they go on waiting, and are entered when it is back.
        """
        with self._transaction:
            with self._list:
                entries, self._waiting = self._waiting, []
            if not entries:
                return
            try:
                self._enter(entries)
            except BaseException:  # whatever it is: nothing of it may be forgotten
                self._failing = True
                with self._list:
                    self._waiting[:0] = entries
                raise
            self._failing = False

    def _enter(self, entries: list[_Entry]) -> None:
        """Enter them, and take from the list what was dealt with."""
        try:
            self._ledger.arrivals.enter([instance for instance, _ in entries])
        except DatabaseError as error:
            if not error.of_the_rows:
                raise
            self._one_by_one(entries)
        else:
            for _, incoming in entries:
                _forget(incoming)

    def _one_by_one(self, entries: list[_Entry]) -> None:
        """One of them is at fault, or entered already."""
        while entries:
            instance, incoming = entries[0]
            try:
                self._ledger.intake.record(instance)
                _forget(incoming)
            except DatabaseError as error:
                if not error.of_the_rows:
                    raise
                # Its name under incoming/ stays: the next start tries again.
                uid = instance.sop_instance_uid
                log.error("object in place and not entered", sop_instance_uid=uid, reason=str(error))
            del entries[0]

    def stop(self) -> None:
        """Enter what waits; what cannot be is entered after the next start."""
        self._stopped.set()
        self._come.set()
        if self._thread.is_alive():
            self._thread.join()
        self._try()

    def _try(self) -> bool:
        try:
            self.flush()
        except NodeError as error:
            log.error("received objects wait for the ledger", objects=len(self._waiting), reason=str(error))
            return False
        except Exception as error:  # the outermost edge of entering: no sender is there any more to be told
            log.error("unexpected error while entering received objects", exc_info=error)
            return False
        return True

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._come.wait()
            self._stopped.wait(_GATHER_SECONDS)
            self._come.clear()
            if not self._try():
                self._stopped.wait(_AGAIN_SECONDS)
                self._come.set()


def _forget(incoming: str) -> None:
    with suppress(OSError):  # it would be looked at once more after the next start
        os.unlink(incoming)
