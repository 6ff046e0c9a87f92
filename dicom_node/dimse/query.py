"""Query SCU (PS3.4 C.4.1): C-FIND in the study root model, and how many instances a study has."""

from __future__ import annotations

import math
import ssl
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset
from pynetdicom import build_context, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind  # type: ignore[attr-defined]

from dicom_node.dimse.guard import LONGEST
from dicom_node.dimse.scu import Peer, PeerError, Timeouts, associate
from engine.study import READ_ERRORS

FIND_STATUS: Final[Mapping[int, str]] = {
    0x0122: "it does not take this SOP class",
    0xA700: "it is out of resources",
    0xA900: "the identifier does not match the SOP class",
    0xFE00: "the query was cancelled",
}
"""PS3.4 table C.4-1; 0xCxxx, unable to process, stands for itself."""
_PENDING: Final = (0xFF00, 0xFF01)
_MESSAGE: Final = 1


class QueryError(PeerError):
    """A peer does not answer a query, or refuses it."""


@dataclass(frozen=True, slots=True)
class Server:
    """A peer that is asked, and how."""

    peer: Peer
    calling_aet: str
    timeouts: Timeouts
    tls: ssl.SSLContext | None = None

    def associate(
        self,
        contexts: Sequence[PresentationContext],
        *,
        roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
        handlers: Sequence[evt.EventHandlerType] = (),
        longest_object: int = LONGEST,
    ) -> AbstractContextManager[Association]:
        """An association with it; see `dicom_node.dimse.scu.associate`."""
        return associate(
            self.peer,
            contexts,
            self.calling_aet,
            self.timeouts,
            roles=roles,
            handlers=handlers,
            tls=self.tls,
            longest_object=longest_object,
        )


def find(
    server: Server,
    identifier: Dataset,
    model: str = StudyRootQueryRetrieveInformationModelFind,
    *,
    limit: int = 10_000,
) -> list[Dataset]:
    """Query a peer by C-FIND.

    Parameters
    ----------
    server : Server
    identifier : Dataset
        Keys (PS3.4 C.4.1.1.3); of the study root it carries Query/Retrieve Level.
    model : str
        SOP class UID of the information model.
    limit : int
        After so many matches the rest is cancelled (C-CANCEL), and what came is returned.

    Raises
    ------
    QueryError
        If it refuses, gives up, or breaks off.
    PeerError
        If no association comes about.
    """
    matches: list[Dataset] = []
    until = math.inf
    with server.associate([build_context(model)]) as association:
        try:
            for status, match in association.send_c_find(identifier, model, msg_id=_MESSAGE):
                if "Status" not in status:
                    raise QueryError(f"{server.peer} broke off or did not answer a query in time")
                code = int(status.Status)
                if code not in _PENDING:
                    if code not in (0x0000, 0xFE00):
                        raise QueryError(_refusal(server.peer, code), retry=code == 0xA700)
                    break
                if match is None:
                    raise QueryError(f"{server.peer} answers a query with what cannot be decoded", retry=False)
                if time.monotonic() > until:
                    raise QueryError(f"{server.peer} does not end a query that was cancelled", retry=False)
                if len(matches) < limit:
                    matches.append(match)
                    if len(matches) == limit:
                        association.send_c_cancel(_MESSAGE, query_model=model)
                        until = time.monotonic() + server.timeouts.dimse
        except (*READ_ERRORS, RuntimeError) as error:  # the library's, where a peer breaks off within a message
            if isinstance(error, PeerError):
                raise
            raise QueryError(f"{server.peer} broke off a query ({type(error).__name__})") from None
    return matches


def _refusal(peer: Peer, code: int) -> str:
    return f"{peer} answered a query with status 0x{code:04X}, {FIND_STATUS.get(code, 'unable to process it')}"


def keys(level: str, values: Mapping[str, str], wanted: Sequence[str] = ()) -> Dataset:
    """An identifier: keys that are to match, and keys that are to be returned."""
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level
    if any(not value.isascii() for value in values.values()):
        identifier.SpecificCharacterSet = "ISO_IR 192"
    for keyword in wanted:
        setattr(identifier, keyword, None)
    for keyword, value in values.items():
        setattr(identifier, keyword, value)
    return identifier
