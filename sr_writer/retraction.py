"""Results withdrawn: a rejection note as in IHE Imaging Object Change Management (Key Object Selection, PS3.3 A.35.4).

An archive that knows the profile hides or removes what the note names; any other keeps a document that says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Final

from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from highdicom.sr import DeviceObserverIdentifyingAttributes, ObserverContext
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import UID
from pydicom.valuerep import DA, TM

from engine.errors import WriteError
from sr_writer.context import SERIES, SERIES_NUMBER, local_time
from sr_writer.identity import coding_schemes
from sr_writer.patient import patient_and_study
from sr_writer.sources import SourceImage
from sr_writer.uids import WRITER_VERSION, derive_uid


class RejectionReason(StrEnum):
    """Why results are withdrawn."""

    QUALITY = "quality"
    """They are of no use; an archive may go on showing them to those who ask for them."""
    SAFETY = "safety"
    """They could harm, as when they are under the wrong patient; an archive no longer gives them out."""


_TITLES: Final[dict[RejectionReason, Code]] = {
    # PS3.16 CID 7010; IHE RAD TF-3 4.66
    RejectionReason.QUALITY: codes.DCM.RejectedForQualityReasons,
    RejectionReason.SAFETY: codes.DCM.RejectedForPatientSafetyReasons,
}
_EQUIPMENT: Final = (
    "Manufacturer",
    "ManufacturerModelName",
    "SoftwareVersions",
    "DeviceSerialNumber",
    "DeviceUID",
    "ContributingEquipmentSequence",
)
_DESCRIPTION: Final = "AI results withdrawn: do not use."


def write_retraction(results: Sequence[Dataset], reason: RejectionReason, created: datetime) -> Dataset:
    """Write the note that withdraws results.

    A pure function: the same arguments give the same bytes.

    Parameters
    ----------
    results : sequence of Dataset
        What is withdrawn, as it was delivered; of one study.
    reason : RejectionReason
    created : datetime
        When it is withdrawn, timezone aware.

    Returns
    -------
    Dataset
        A Key Object Selection Document of the same study, in a series of its own.

    Raises
    ------
    WriteError
        If there is nothing to withdraw, or the results are of several studies.
    """
    if len({str(result.get("StudyInstanceUID")) for result in results}) != 1:
        raise WriteError("a retraction needs results of one study")
    results = sorted(results, key=lambda result: str(result.SOPInstanceUID))  # whatever order they came in
    first = results[0]
    uids = [str(result.SOPInstanceUID) for result in results]
    names = (WRITER_VERSION, "retraction", reason.value, created.isoformat(), *uids)
    patient = patient_and_study(first)
    when = local_time(created, patient)
    evidence = [SourceImage.from_header(result).stand_in() for result in results]
    content = KeyObjectSelection(
        document_title=_TITLES[reason],
        referenced_objects=evidence,
        observer_device_context=ObserverContext(
            observer_type=codes.DCM.Device,
            observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
                uid=UID(str(first.DeviceUID)),
                name=str(first.ManufacturerModelName),
                manufacturer_name=str(first.Manufacturer),
                model_name=str(first.ManufacturerModelName),
                serial_number=str(first.DeviceSerialNumber),
            ),
        ),
        description=_DESCRIPTION,
    )
    note = KeyObjectSelectionDocument(
        evidence=evidence,
        content=content,
        series_instance_uid=derive_uid(*names, "series"),
        series_number=SERIES_NUMBER + SERIES["retraction"],
        sop_instance_uid=derive_uid(*names, "instance"),
        instance_number=1,
        manufacturer=str(first.Manufacturer),
        series_description="AI results withdrawn",
        coding_schemes=coding_schemes(),
        content_date=when.date(),
        content_time=when.time(),
        series_date=when.date(),
        series_time=when.time(),
        specific_character_set="ISO_IR 192",
    )
    for item in note.ContentSequence:
        if "ReferencedSOPSequence" in item:
            del item.ConceptNameCodeSequence  # the library names the reference "Source"; TID 2010 has no name there
    note.update(patient)
    for keyword in _EQUIPMENT:
        note[keyword] = first[keyword]
    note.InstanceCreationDate, note.InstanceCreationTime = DA(when.date()), TM(when.time())
    note.file_meta.ImplementationClassUID = first.file_meta.ImplementationClassUID
    note.file_meta.ImplementationVersionName = first.file_meta.ImplementationVersionName
    return note
