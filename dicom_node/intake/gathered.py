"""Ledger entries of several associations in one transaction: whoever waits is taken along."""

from __future__ import annotations

import threading

from dicom_node.ledger import Ledger
from dicom_node.ledger.records import ReceivedInstance
from engine.errors import NodeError


class _Entry:
    __slots__ = ("done", "error", "instance")

    def __init__(self, instance: ReceivedInstance) -> None:
        self.instance = instance
        self.done = False
        self.error: NodeError | None = NodeError("the instance was not entered")


class Gathered:
    """Enters instances; called from several threads, each of which returns when its own is entered.

    Nobody waits for others to come: one thread's transaction runs, those that come meanwhile share the next one.

    Parameters
    ----------
    ledger : Ledger
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._waiting: list[_Entry] = []
        self._list = threading.Lock()
        self._transaction = threading.Lock()

    def enter(self, instance: ReceivedInstance) -> None:
        """Enter an instance.

        Raises
        ------
        NodeError
            If the ledger fails.
        """
        entry = _Entry(instance)
        with self._list:
            self._waiting.append(entry)
        with self._transaction:
            if not entry.done:
                with self._list:
                    entries, self._waiting = self._waiting, []
                self._enter_all(entries)
        if entry.error is not None:
            raise entry.error

    def _enter_all(self, entries: list[_Entry]) -> None:
        try:
            self._ledger.arrivals.enter([entry.instance for entry in entries])
            for entry in entries:
                entry.error = None
        except NodeError:  # one of them may be at fault, or entered already
            for entry in entries:
                try:
                    self._ledger.intake.record(entry.instance)
                    entry.error = None
                except NodeError as error:
                    entry.error = error
        finally:
            for entry in entries:
                entry.done = True
