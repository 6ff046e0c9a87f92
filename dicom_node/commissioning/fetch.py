"""Fetching a study from an archive into a folder, past the node: what a viewer of the hospital would get."""

from __future__ import annotations

from pathlib import Path
from typing import Final, cast

from pydicom.uid import (
    UID,
    BasicTextSRStorage,
    ColorSoftcopyPresentationStateStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EncapsulatedPDFStorage,
    EnhancedSRStorage,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    ImplicitVRLittleEndian,
    KeyObjectSelectionDocumentStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)
from pynetdicom import build_context, build_role, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelGet  # type: ignore[attr-defined]

from dicom_node.commissioning.cases import CASES
from dicom_node.dicomweb.files import ArrivingFile
from dicom_node.dimse.query import keys
from dicom_node.dimse.scu import PeerError
from dicom_node.dimse.suboperations import Cancel, follow
from dicom_node.intake.file_meta import encode
from dicom_node.intake.storage import IMPLEMENTATION_CLASS_UID
from dicom_node.settings.sources import Source
from dicom_node.sources.archive import server_of, web_client

_MESSAGE: Final = 1
_SYNTAXES: Final = tuple(dict.fromkeys([*(case.syntax for case in CASES), ImplicitVRLittleEndian]))
_RESULTS: Final = (
    ComprehensiveSRStorage,
    Comprehensive3DSRStorage,
    EnhancedSRStorage,
    BasicTextSRStorage,
    SegmentationStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    ColorSoftcopyPresentationStateStorage,
    SecondaryCaptureImageStorage,
    EncapsulatedPDFStorage,
    KeyObjectSelectionDocumentStorage,
)
_LONGEST: Final = 1 << 30
"""Bytes of an object: the cases are small, what the archive holds beside them may not be."""
_ADVICE: Final = "let the archive give by C-GET, or name it as a DICOMweb source: C-MOVE would end at the node itself"


def fetch_study(source: Source, calling_aet: str, study_instance_uid: str, folder: Path) -> list[Path]:
    """Fetch all of a study, by C-GET or WADO-RS.

    Parameters
    ----------
    source : Source
        Whose way of retrieving does not count: by C-MOVE objects would come to the node, not here.
    calling_aet : str
    study_instance_uid : str
    folder : Path

    Raises
    ------
    PeerError
        If it cannot be reached, or does not give the study.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths: dict[str, Path] = {}

    def keep(sop_class: str, sop_instance: str, syntax: str, data_set: bytes) -> None:
        uid = UID(sop_instance)
        if not uid.is_valid:
            raise PeerError(f"{source.name} gives an object whose UID is none", retry=False)
        head = encode(
            sop_class_uid=sop_class,
            sop_instance_uid=uid,
            transfer_syntax_uid=syntax,
            implementation_class_uid=IMPLEMENTATION_CLASS_UID,
            implementation_version="",
            sending_aet=source.title,
            receiving_aet=calling_aet,
        )
        paths[uid] = folder / f"{uid}.dcm"
        paths[uid].write_bytes(head + data_set)

    if source.protocol == "dicomweb":

        def take(file: ArrivingFile) -> None:
            keep(file.sop_class_uid, file.sop_instance_uid, file.transfer_syntax_uid, b"".join(file.data_set))

        with web_client(source) as client:
            client.retrieve(study_instance_uid, take)
        return list(paths.values())

    def store(event: evt.Event) -> int:
        request = cast(C_STORE, event.request)
        content = request.DataSet.getvalue() if request.DataSet is not None else b""
        keep(
            str(request.AffectedSOPClassUID),
            str(request.AffectedSOPInstanceUID),
            str(event.context.transfer_syntax),
            content,
        )
        return 0x0000

    model = StudyRootQueryRetrieveInformationModelGet
    images = dict.fromkeys(str(case.sop_class) for case in CASES)
    contexts = [build_context(uid, syntax) for uid in images for syntax in _SYNTAXES]
    contexts += [build_context(uid, [ExplicitVRLittleEndian, ImplicitVRLittleEndian]) for uid in _RESULTS]
    roles = [build_role(uid, scp_role=True) for uid in dict.fromkeys([*images, *map(str, _RESULTS)])]
    server = server_of(source, calling_aet)
    with server.associate(
        [build_context(model), *contexts], roles=roles, handlers=[(evt.EVT_C_STORE, store)], longest_object=_LONGEST
    ) as link:
        if not any(context.abstract_syntax == model for context in link.accepted_contexts):
            raise PeerError(f"{source.name} does not take C-GET", advice=_ADVICE, retry=False)
        identifier = keys("STUDY", {"StudyInstanceUID": study_instance_uid})
        responses = link.send_c_get(identifier, model, msg_id=_MESSAGE)
        found = follow(server, link, responses, model, _MESSAGE, lambda _: None, Cancel())
    if not found.ok:
        raise PeerError(f"{source.name} does not give the study: {found.reason}", advice=found.advice or _ADVICE)
    return list(paths.values())
