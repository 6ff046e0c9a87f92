"""UPS-RS (PS3.18 11): a pull performer's services by HTTP."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from pydicom.dataset import Dataset

from dicom_node.dicomweb.client import Client
from dicom_node.dimse.scu import PeerError
from dicom_node.dimse.ups import UpsError
from engine.study import READ_ERRORS

_STATUS: Final[Mapping[int, tuple[int, str]]] = {
    400: (0x0110, "it takes the request for wrong"),
    401: (0x0124, "it does not let this user in"),
    403: (0x0124, "it does not allow this"),
    404: (0xC307, "it has no such workitem"),
    409: (0xC300, "the request does not fit the workitem's state, or the transaction UID is not its own"),
    410: (0xC307, "the workitem is gone"),
}
"""HTTP status to that of the DIMSE service, which `UpsError` tells conflicts by, and words."""


class WebUps:
    """A worklist by UPS-RS; see `dicom_node.worklist.ups.Ups`.

    Parameters
    ----------
    connect : callable
        Makes a client, which holds its connection no longer than one exchange, as an association does.
    """

    def __init__(self, connect: Callable[[], Client]) -> None:
        self._connect = connect

    def find(self, keys: Dataset) -> list[Dataset]:
        """Workitems that match (PS3.18 11.9)."""
        query = {element.keyword: str(element.value) for element in keys if element.value}
        wanted = [element.keyword for element in keys if not element.value]
        parameters = [*query.items(), *(("includefield", keyword) for keyword in wanted)]
        answer = self._ask("GET", "/workitems", parameters)
        return [_data_set(item) for item in answer] if isinstance(answer, list) else []

    def get(self, uid: str) -> Dataset:
        """A workitem's attributes (11.5)."""
        answer = self._ask("GET", f"/workitems/{uid}")
        return _data_set(answer[0] if isinstance(answer, list) and answer else answer)

    def change_state(self, uid: str, state: str, transaction_uid: str) -> None:
        """IN PROGRESS, COMPLETED or CANCELED (11.7)."""
        information = Dataset()
        information.TransactionUID = transaction_uid
        information.ProcedureStepState = state
        self._ask("PUT", f"/workitems/{uid}/state", content=information)

    def update(self, uid: str, transaction_uid: str, changes: Dataset) -> None:
        """Change a claimed workitem's attributes (11.6)."""
        modified = Dataset()
        modified.update(changes)
        modified.TransactionUID = transaction_uid
        self._ask("POST", f"/workitems/{uid}", [("transaction-uid", transaction_uid)], modified)

    def subscribe(self, uid: str, aet: str) -> None:
        """Events of UPS-RS come by a WebSocket (11.10), which this node does not hold: it looks for itself."""

    def _ask(
        self, method: str, path: str, query: Sequence[tuple[str, str]] = (), content: Dataset | None = None
    ) -> Any:
        body = content.to_json_dict() if content is not None else None
        with self._connect() as client:
            status, answer = client.exchange(method, path, query=query, body=body)
            if status == 400 and body is not None:  # servers differ in whether a single data set stands in a list
                status, answer = client.exchange(method, path, query=query, body=[body])
        if 200 <= status < 300:
            return answer
        code, words = _STATUS.get(status, (0x0110, "it failed to process the request"))
        passes = status >= 500 or status in (408, 425, 429)
        raise UpsError(f"HTTP status {status} of {client}: {words}", status=code, retry=passes)


def _data_set(item: Any) -> Dataset:
    try:
        return Dataset.from_json(item)
    except (*READ_ERRORS, KeyError) as error:
        raise PeerError(f"a worklist answered what cannot be read ({type(error).__name__})") from None
