"""Who made the result: the same values in every object, wherever an object has a place for them.

Contributing Equipment (PS3.3 C.12.1), General Equipment (C.7.5.1), Algorithm Identification (PS3.3 10.16, PS3.16
TID 4019), the device observer (TID 1004).
"""

from __future__ import annotations

from typing import Final

import highdicom as hd
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import (
    AlgorithmIdentification,
    DeviceObserverIdentifyingAttributes,
    ObserverContext,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import UID

from engine.findings import StudyReading
from sr_writer.text import SHORT_TEXT, clean_line, clean_text
from sr_writer.uids import WRITER_VERSION, derive_uid

PRIVATE_SCHEME: Final = "99MEDREGA"
SOFTWARE: Final = f"medrega-pacs {WRITER_VERSION}"
IMPLEMENTATION_CLASS_UID: Final = UID(derive_uid("medrega-pacs", "implementation class"))
IMPLEMENTATION_VERSION_NAME: Final = clean_line(f"MEDREGA_{WRITER_VERSION}", 16)
_UNKNOWN: Final = "unknown"


class Identity:
    """The model of one reading, as results name it.

    Parameters
    ----------
    reading : StudyReading
    """

    def __init__(self, reading: StudyReading) -> None:
        model = reading.model
        self.reading_digest = reading.digest
        self.name = clean_line(model.name) or _UNKNOWN
        self.version = clean_line(model.version) or _UNKNOWN
        self.manufacturer = clean_line(model.manufacturer) or _UNKNOWN
        self.serial_number = clean_line(model.weights_digest) or _UNKNOWN
        self.software_versions = [self.version, SOFTWARE]
        self.device_uid = derive_uid(
            "device",
            model.manufacturer,
            model.name,
            model.version,
            model.weights_digest,
            model.runtime,
            model.engine_build,
        )
        settings = ", ".join(f"{key}={value}" for key, value in sorted(reading.decoding.items()))
        # One item: it stands in every region's group, and readers show the first of several only.
        self.parameters = clean_text(
            f"reading {self.reading_digest}, written by {SOFTWARE}; weights sha256 {model.weights_digest}; "
            f"runtime {model.runtime}, build {model.engine_build}; "
            f"plan {reading.plan}, prompts {reading.prompts_version}; decoding {settings or 'as the runtime has it'}"
        )
        self._created = reading.created

    def contributing_equipment(self) -> hd.ContributingEquipment:
        """Make the item of Contributing Equipment Sequence, purpose (109102, DCM, "Processing Equipment")."""
        item = hd.ContributingEquipment(
            manufacturer=self.manufacturer,
            purpose_of_reference=codes.DCM.ProcessingEquipment,
            manufacturer_model_name=self.name,
            software_versions=self.software_versions,
            device_serial_number=self.serial_number,
            contribution_datetime=self._created,
            contribution_description=clean_text(f"AI reading of the source images; {self.parameters}", SHORT_TEXT),
        )
        item.DeviceUID = UID(self.device_uid)
        return item

    def equip(self, result: Dataset) -> None:
        """Set the General Equipment module and the file's implementation to ours."""
        result.Manufacturer = self.manufacturer
        result.ManufacturerModelName = self.name
        result.SoftwareVersions = self.software_versions
        result.DeviceSerialNumber = self.serial_number
        result.DeviceUID = UID(self.device_uid)
        result.ContributingEquipmentSequence = [self.contributing_equipment()]
        result.file_meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
        result.file_meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME

    def algorithm(self) -> AlgorithmIdentification:
        """Make TID 4019 for a content tree."""
        return AlgorithmIdentification(
            name=self.name,
            version=self.version,
            manufacturer=self.manufacturer,
            parameters=[self.parameters],
            family=codes.DCM.ArtificialIntelligence,
        )

    def algorithm_sequence(self) -> hd.AlgorithmIdentificationSequence:
        """Make the Algorithm Identification Macro (PS3.3 10.16) for a segment."""
        return hd.AlgorithmIdentificationSequence(
            name=self.name,
            family=codes.DCM.ArtificialIntelligence,
            version=self.version,
            source=self.manufacturer,
            parameters={"provenance": self.parameters},
        )

    def observer(self) -> ObserverContext:
        """Make the model a device observer (TID 1002, TID 1004)."""
        return ObserverContext(
            observer_type=codes.DCM.Device,
            observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
                uid=self.device_uid,
                name=self.name,
                manufacturer_name=self.manufacturer,
                model_name=self.name,
                serial_number=self.serial_number,
            ),
        )


def coding_schemes() -> list[CodingSchemeIdentificationItem]:
    """Declare the project's private coding scheme (Coding Scheme Identification Sequence, PS3.3 C.12.1.1.1)."""
    return [
        CodingSchemeIdentificationItem(
            designator=PRIVATE_SCHEME,
            name="Labels of medrega-pacs without an exact code elsewhere",
            responsible_organization="medrega-pacs",
        )
    ]
