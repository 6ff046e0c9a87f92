"""What the storage SCP takes: every storage SOP class and every transfer syntax that the libraries know."""

from __future__ import annotations

from functools import cache
from typing import Final

from pydicom.uid import (  # type: ignore[attr-defined]  # UID_dictionary is public by name, not by its stubs
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    UID_dictionary,
)
from pynetdicom import ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, register_uid
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.sop_class import uid_to_service_class

_NO_STORAGE: Final = (
    "1.2.840.10008.1.3.10",  # media storage directory: files only (PS3.10)
    "1.2.840.10008.1.20.",  # storage commitment
    "1.2.840.10008.5.1.1.",  # print
    # Non-patient objects (PS3.4 GG) belong to no study.
    "1.2.840.10008.5.1.4.1.1.200.1",
    "1.2.840.10008.5.1.4.1.1.200.3",
    "1.2.840.10008.5.1.4.1.1.200.7",
    "1.2.840.10008.5.1.4.1.1.201.1",
    "1.2.840.10008.5.1.4.38.1",
    "1.2.840.10008.5.1.4.39.1",
    "1.2.840.10008.5.1.4.43.1",
    "1.2.840.10008.5.1.4.44.1",
    "1.2.840.10008.5.1.4.45.1",
)
_NO_DATA_SET: Final = (
    "1.2.840.10008.1.2.6.",  # MIME and XML wrappings of data sets
    "1.2.840.10008.1.2.7.",  # real-time video (PS3.22)
    "1.2.840.10008.1.20",  # Papyrus
)


PRIOR_MESSAGE: Final = 0x5052
"""Message ID of the C-MOVE that fetches a prior; the peer repeats it with each object (Move Originator Message ID)."""


@cache
def storage_sop_classes() -> tuple[str, ...]:
    """Every storage SOP class of patients' objects, those that the Standard retired included: old devices send them.

    Private SOP classes are refused at negotiation, so that their sender hears it from the one who cannot read them.
    """
    known = {str(context.abstract_syntax) for context in AllStoragePresentationContexts}
    for uid, (name, kind, _info, _retired, keyword) in UID_dictionary.items():
        if uid in known or kind != "SOP Class" or "Storage" not in name or uid.startswith(_NO_STORAGE):
            continue
        if uid_to_service_class(uid) is not StorageServiceClass:
            register_uid(uid, keyword, StorageServiceClass)
        known.add(uid)
    return tuple(sorted(known))


@cache
def transfer_syntaxes() -> tuple[str, ...]:
    """Every transfer syntax of data sets; what cannot be decoded is refused by the reader, with its reason.

    The first of them that a sender proposes is accepted: uncompressed ones, which a sender that proposes others beside
    them can always make without loss, and explicit VR before implicit.
    """
    named = {uid for uid, entry in UID_dictionary.items() if entry[1] == "Transfer Syntax"}
    known = (uid for uid in named | {*ALL_TRANSFER_SYNTAXES} if not uid.startswith(_NO_DATA_SET))
    rank = {str(ExplicitVRLittleEndian): 0, str(ImplicitVRLittleEndian): 1, str(ExplicitVRBigEndian): 3}
    return tuple(sorted(known, key=lambda uid: (rank.get(uid, 2), uid)))
