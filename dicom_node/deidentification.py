"""De-identification by the Basic Application Level Confidentiality Profile (PS3.15 annex E), for exports to support.

Which attribute identifies is the Standard's table E.1-1, as dicom-anonymizer ships it. Applying it is ours: the library
stops at the first level of a data set, and results point at their images, and quote people, in sequences. Text of
content items and of graphics is taken out as well (Clean Structured Content and Clean Graphics Options, E.3.3, E.3.4).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.metadata import version
from typing import Any, Final

from pydicom import DataElement
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag
from pydicom.uid import (
    UID,
    EnhancedUSVolumeStorage,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameSingleBitSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
)

from dicom_node.intake.identity import is_uid
from engine.errors import NodeError
from engine.study import READ_ERRORS

EDITION: Final = "2026c"
_TABLE: Final = f"dicomanonymizer.dicom_anonymization_databases.dicomfields_{EDITION}"
_OPTIONS: Final = (
    ("113100", "Basic Application Confidentiality Profile"),
    ("113103", "Clean Graphics Option"),
    ("113104", "Clean Structured Content Option"),
)
"""Of CID 7050."""
_REMOVE, _EMPTY, _REPLACE, _MAP = "X", "Z", "D", "U"
_LISTS: Final = {
    "X_TAGS": _REMOVE,
    "Z_TAGS": _EMPTY,
    # Where it depends on the IOD, what every IOD allows.
    "X_Z_TAGS": _EMPTY,
    "D_TAGS": _REPLACE,
    "Z_D_TAGS": _REPLACE,
    "X_D_TAGS": _REPLACE,
    "X_Z_D_TAGS": _REPLACE,
    "U_TAGS": _MAP,
    "X_Z_U_STAR_TAGS": _MAP,
}
_DUMMY: Final = "DEIDENTIFIED"
_DUMMIES: Final = {
    "AS": "000Y",
    "DA": "19000101",
    "DT": "19000101000000",
    "TM": "000000",
    "UR": "http://deidentified.invalid",
    "DS": "0",
    "IS": "0",
    **dict.fromkeys(("FD", "FL", "SL", "SS", "SV", "UL", "US", "UV"), 0),
    **dict.fromkeys(("OB", "OD", "OF", "OL", "OV", "OW"), b"\0\0\0\0\0\0\0\0"),
    **dict.fromkeys(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT"), _DUMMY),
}
_FREE: Final = frozenset({"LT", "ST", "UT", "DA", "DT", "UR"})
"""What the table does not name and is dummied all the same: free text, days, and addresses, which hold UIDs."""
_WORDED: Final = frozenset({"AE", "CS", "LO", "SH", "UC", "PN"})
_META: Final = ("FileMetaInformationVersion", "MediaStorageSOPClassUID", "TransferSyntaxUID")
_STANDARD: Final = "1.2.840.10008."
_URN_CODE: Final = 0x0008_0120
_IDENTIFIERS: Final = ("PatientID", "AccessionNumber", "OtherPatientIDs", "PatientTelephoneNumbers")
_CAPTURES: Final = frozenset(
    {
        SecondaryCaptureImageStorage,
        MultiFrameSingleBitSecondaryCaptureImageStorage,
        MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
        MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
        MultiFrameTrueColorSecondaryCaptureImageStorage,
    }
)
"""Words are drawn into them; into the node's own the model's, who may have read a name in the image."""
_ULTRASOUND: Final = frozenset({UltrasoundImageStorage, UltrasoundMultiFrameImageStorage, EnhancedUSVolumeStorage})
"""Most scanners burn the patient's name in, and few say so."""
_NEEDED: Final = frozenset({0x0070_0082, 0x0070_0083})
"""Presentation Creation Date and Time, which the table removes and their IOD demands (PS3.3 C.11.10)."""
_UNNAMED: Final = dict.fromkeys((0x0010_0033, 0x0010_0034, 0x0010_0035), _REMOVE)
"""Days of birth and death in other calendars, which the table does not name."""


class DeidentificationError(NodeError):
    """An object that cannot be de-identified, and is left out."""


class Deidentifier:
    """Takes what identifies a patient out of the objects of one export; UIDs get others, the same in all of them.

    Parameters
    ----------
    burned_in : bool
        Take objects whose pixels hold, or may hold, a patient's name: somebody has looked at them.
    """

    def __init__(self, *, burned_in: bool = False) -> None:
        self._burned_in = burned_in
        self._secret = secrets.token_bytes(32)  # kept nowhere: nobody finds the way back
        self._patient = f"DEID-{secrets.token_hex(4)}"
        self._words: set[str] = set()

    def learn(self, dataset: Dataset) -> None:
        """Remember names and numbers of people, so that they are found where they have no place."""
        for element in _elements(dataset):
            if element.VR == "PN" or element.keyword in _IDENTIFIERS:
                for value in element.value if isinstance(element.value, MultiValue) else [element.value or ""]:
                    parts = re.split(r"[\^=\s,]+", str(value)) if element.VR == "PN" else [str(value).strip()]
                    self._words.update(part.casefold() for part in parts if len(part) > 2 or not part.isascii())

    def uid(self, uid: str) -> str:
        """Another UID in place of one (PS3.5 B.2)."""
        digest = hmac.digest(self._secret, uid.encode(), hashlib.sha256)
        return f"2.25.{int.from_bytes(digest[:16])}"

    def apply(self, dataset: Dataset) -> None:
        """De-identify a data set in place; every object of the export was learnt from before.

        Raises
        ------
        DeidentificationError
            If what identifies is, or may be, where this cannot reach: in its pixels, or in a document within it.
        """
        self._refuse(dataset)
        self._clean(dataset)
        meta = dataset.file_meta
        for element in list(meta):
            if element.keyword not in _META:
                del meta[element.tag]
        meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.preamble = b"\0" * 128  # another format's header may stand there (PS3.10 7.1)
        dataset.PatientName, dataset.PatientID = _DUMMY, self._patient
        dataset.PatientIdentityRemoved = "YES"
        dataset.LongitudinalTemporalInformationModified = "REMOVED"
        dataset.DeidentificationMethod = f"PS3.15 {EDITION} E, medrega-pacs {version('medrega-pacs')}"
        dataset.DeidentificationMethodCodeSequence = [_code(*option) for option in _OPTIONS]

    def _refuse(self, dataset: Dataset) -> None:
        if "EncapsulatedDocument" in dataset:
            raise DeidentificationError("a document within it cannot be looked into")
        if self._burned_in:
            return
        burned_in, sop_class = dataset.get("BurnedInAnnotation"), dataset.get("SOPClassUID")
        if "YES" in (burned_in, dataset.get("RecognizableVisualFeatures")):
            raise DeidentificationError("its pixels show who the patient is")
        if sop_class in _CAPTURES or (sop_class in _ULTRASOUND and burned_in != "NO"):
            raise DeidentificationError("its pixels may hold words")

    def _clean(self, dataset: Dataset) -> None:
        for tag in list(dataset.keys()):
            action = _action_of(tag)
            try:
                element = dataset[tag]
            except (*READ_ERRORS, KeyError):
                action = _REMOVE  # what cannot be read cannot be looked at
            if action == _REMOVE or element.VR == "UN":
                del dataset[tag]
            elif action == _EMPTY:
                element.value = [] if element.VR == "SQ" else None
            elif element.VR == "SQ" and action == _REPLACE and element.keyword.endswith("CodeSequence"):
                element.value = [_code(_DUMMY, "Deidentified", "99DEID")]  # of a person or an institution
            elif element.VR == "SQ":
                for item in element.value:
                    self._clean(item)
            elif element.VR == "UI":
                if action is not None or not _names_a_kind(tag):
                    element.value = self._mapped(element.value)
            elif action is not None or self._tells(element) or (element.VR in _FREE and tag != _URN_CODE):
                element.value = _DUMMIES.get(element.VR)

    def _mapped(self, value: Any) -> Any:
        if isinstance(value, MultiValue):
            return [self._mapped(one) for one in value]
        known = not value or (str(value).startswith(_STANDARD) and is_uid(str(value)))
        return value if known else UID(self.uid(str(value)))

    def _tells(self, element: DataElement) -> bool:
        """Whether a short text names one of the people."""
        if element.VR not in _WORDED or element.tag.group == 0x0028 or element.keyword == "SpecificCharacterSet":
            return False
        text = str(element.value).casefold()
        parts = set(re.findall(r"\w+", text))
        return any(word in parts or (len(word) > 4 and word in text) for word in self._words)


@cache
def _table() -> tuple[dict[int, str], list[tuple[int, int, int, int, str]]]:
    """Actions by tag, and those of repeating groups by group, element and their masks."""
    plain: dict[int, str] = dict(_UNNAMED)
    repeating: list[tuple[int, int, int, int, str]] = []
    module = import_module(_TABLE)
    for name, action in _LISTS.items():
        for tag in getattr(module, name):
            if len(tag) == 2:
                number = tag[0] << 16 | tag[1]
                plain[number] = _REPLACE if number in _NEEDED else action
            else:
                repeating.append((*tag, action))
    return plain, repeating


@cache
def _action_of(tag: BaseTag) -> str | None:
    if tag.is_private or tag.element == 0 or tag.group == 0xFFFC:  # lengths of groups, and padding, are as private
        return _REMOVE
    plain, repeating = _table()
    for group, element, group_mask, element_mask, action in repeating:
        if tag.group & group_mask == group & group_mask and tag.element & element_mask == element & element_mask:
            return action
    return plain.get(int(tag))


def _names_a_kind(tag: BaseTag) -> bool:
    """Whether its UIDs name kinds of things, and no thing."""
    return keyword_for_tag(tag).endswith(("ClassUID", "SyntaxUID", "CodingSchemeUID"))


def _elements(dataset: Dataset) -> Iterator[DataElement]:
    """Every element of every level that can be read."""
    for tag in list(dataset.keys()):
        try:
            element = dataset[tag]
        except (*READ_ERRORS, KeyError):
            continue
        if element.VR == "SQ":
            for item in element.value:
                yield from _elements(item)
        else:
            yield element


def _code(value: str, meaning: str, scheme: str = "DCM") -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code
