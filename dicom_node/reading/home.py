"""Where a reading worker finds a run's images and puts what it makes: the front's spool, by folder or over the network.

`dicom_node.spool.Spool` is the one, `dicom_node.dicomweb.front.Front` the other.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from dicom_node.ledger.records import Claim, StoredInstance
from engine.errors import NodeError


class HomeLostError(NodeError):
    """The front cannot be reached for now: the run goes back into the queue, and the attempt does not count."""

    retry = True


class Home(Protocol):
    """What a reader needs of the spool; each raises `NodeError` where it fails."""

    def files(self, claim: Claim, renew: Callable[[], None]) -> AbstractContextManager[dict[Path, StoredInstance]]:
        """The run's images as files of this machine, as long as the block lasts; `renew` is called while it waits."""

    def reading(self, run_id: str) -> str:
        """A stored reading."""

    def store_reading(self, run_id: str, text: str) -> None:
        """Keep a reading, within the block of its run's files."""

    def store_result(self, run_id: str, variant: str, kind: str, content: bytes) -> tuple[str, str]:
        """Keep a result object, within the block of its run's files; its path and SHA-256."""
