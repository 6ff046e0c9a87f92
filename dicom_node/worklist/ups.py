"""A worklist as the performer sees it, whichever protocol it speaks."""

from __future__ import annotations

from typing import Protocol

from pydicom.dataset import Dataset

from dicom_node.dicomweb.ups import WebUps
from dicom_node.dimse.ups import DimseUps
from dicom_node.settings import Worklist
from dicom_node.sources.archive import server_of, web_client


class Ups(Protocol):
    """What a performer asks of a worklist.

    Each raises `UpsError` where the worklist refuses, and another `PeerError` where it cannot be reached.
    """

    def find(self, keys: Dataset) -> list[Dataset]:
        """Workitems that match, with the attributes that the keys name."""

    def get(self, uid: str) -> Dataset:
        """A workitem's attributes, as far as a performer needs them."""

    def change_state(self, uid: str, state: str, transaction_uid: str) -> None:
        """Claim (IN PROGRESS), complete (COMPLETED) or cancel (CANCELED) a workitem."""

    def update(self, uid: str, transaction_uid: str, changes: Dataset) -> None:
        """Change attributes of a claimed workitem."""

    def subscribe(self, uid: str, aet: str) -> None:
        """Ask to be told of requests to cancel, at an AE title of this node."""


def open_ups(worklist: Worklist, calling_aet: str) -> Ups:
    """The worklist of the settings.

    Parameters
    ----------
    worklist : Worklist
    calling_aet : str
        AE title of this node.
    """
    if worklist.protocol == "dimse":
        server_of(worklist, calling_aet)  # wrong settings are told now
        return DimseUps(lambda: server_of(worklist, calling_aet))
    return WebUps(lambda: web_client(worklist))
