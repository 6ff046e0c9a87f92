"""Patient and study modules of the results: the source's own, in UTF-8 (PS3.3 C.7.1.1, C.7.2.1, C.7.2.2).

Values are copied as they are. What would make the result invalid is refused where it identifies the patient or the
study, and left empty or out where it does not.
"""

from __future__ import annotations

import re
from typing import Any, Final

from pydicom import config
from pydicom.datadict import dictionary_VM, dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.valuerep import PersonName, validate_value

from engine.errors import WriteError
from sr_writer.text import SHORT_TEXT, clean_line

# Values are judged here. The library's own warnings about them, given when an element is first looked at, quote them.
config.settings.reading_validation_mode = config.IGNORE

IDENTIFYING: Final = ("StudyInstanceUID", "PatientID", "PatientName")
"""Never changed and never left out: a result that differs here would be filed under someone or something else.

An Accession Number that is too long to be one (SH, 16 characters) is left empty, though: cut it would be another
order's, and the study is known by its UID. It then stands in full in the SR's procedure context, see `unfit_accession`.
"""

TYPE_2: Final = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
)
"""Present in every result, empty where the source has no value."""

_TYPE_3: Final = (
    # Patient module
    "IssuerOfPatientID",
    "TypeOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "PatientBirthTime",
    "OtherPatientIDsSequence",
    "OtherPatientNames",
    "EthnicGroup",
    "PatientComments",
    "PatientSpeciesDescription",
    "PatientSpeciesCodeSequence",
    "PatientBreedDescription",
    "PatientBreedCodeSequence",
    "BreedRegistrationSequence",
    "ResponsiblePerson",
    "ResponsiblePersonRole",
    "ResponsibleOrganization",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "QualityControlSubject",
    # General Study module
    "StudyDescription",
    "PhysiciansOfRecord",
    "NameOfPhysiciansReadingStudy",
    "RequestingService",
    "IssuerOfAccessionNumberSequence",
    "ProcedureCodeSequence",
    "ReferencedStudySequence",
    # Patient Study module
    "AdmittingDiagnosesDescription",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "PatientSexNeutered",
    "AdmissionID",
    "ServiceEpisodeID",
    # SOP Common: the zone that the copied dates and times are in
    "TimezoneOffsetFromUTC",
)
_SEQUENCE_KEYS: Final = (
    ("CodeValue", "CodingSchemeDesignator", "CodeMeaning"),
    ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID"),
    ("PatientID", "TypeOfPatientID"),
    ("LocalNamespaceEntityID",),
    ("UniversalEntityID", "UniversalEntityIDType"),
)
"""Items that are complete by one of these are copied; other sequences are left out."""
_CONDITIONAL: Final = {
    # Each is copied only where what its presence demands is there too.
    "DeidentificationMethod": "PatientIdentityRemoved",
    "DeidentificationMethodCodeSequence": "PatientIdentityRemoved",
    "ResponsiblePersonRole": "ResponsiblePerson",
    "PatientBreedCodeSequence": "PatientSpeciesDescription",
}
_SEXES: Final = ("M", "F", "O")
_OFFSET: Final = re.compile(r"[+-](0\d|1[0-4])[0-5]\d")
"""Timezone Offset From UTC (0008,0201): -1200 to +1400."""
_LOST: Final = "\ufffd"
"""Stands in the place of bytes that pydicom could not decode: they are gone, and no result may carry what is left."""


def patient_and_study(header: Dataset) -> Dataset:
    """Copy the patient and study modules of a source header, converted to UTF-8.

    Parameters
    ----------
    header : Dataset
        A source header in whatever character set it declares.

    Returns
    -------
    Dataset
        With every type 2 attribute, and ``SpecificCharacterSet`` ISO_IR 192.

    Raises
    ------
    WriteError
        If an identifying attribute has a value that DICOM does not allow.
    """
    undeclared = not header.get("SpecificCharacterSet")
    modules = Dataset()
    modules.SpecificCharacterSet = "ISO_IR 192"
    for keyword in ("StudyInstanceUID", *TYPE_2, *_TYPE_3):
        element = _usable(header, keyword, undeclared)
        if element is not None:
            modules.add(element)
        elif keyword in TYPE_2:
            setattr(modules, keyword, "")
    for keyword, condition in _CONDITIONAL.items():
        if keyword in modules and not modules.get(condition):
            delattr(modules, keyword)
    if not (modules.get("DeidentificationMethod") or modules.get("DeidentificationMethodCodeSequence")):
        modules.pop("PatientIdentityRemoved", None)  # YES demands to be told how (PS3.3 C.7.1.1)
    if not _OFFSET.fullmatch(str(modules.get("TimezoneOffsetFromUTC") or "")):
        modules.pop("TimezoneOffsetFromUTC", None)
    if modules.PatientSex not in _SEXES:
        modules.PatientSex = ""
    return modules


def unfit_accession(header: Dataset) -> str:
    """Give a source's Accession Number as plain text where the attribute cannot carry it, else nothing."""
    undeclared = not header.get("SpecificCharacterSet")
    element = header.get(tag_for_keyword("AccessionNumber") or 0)
    if element is None or _usable(header, "AccessionNumber", undeclared) is not None:
        return ""
    try:
        value = utf8(element, undeclared=undeclared)
    except ValueError:  # bytes that no character set spells
        return ""
    return clean_line("/".join(map(str, value)) if isinstance(value, list) else str(value or ""), SHORT_TEXT)


def utf8(element: DataElement, *, undeclared: bool) -> Any:
    """Give an element's value so that it is written in UTF-8, person names with all their component groups.

    Parameters
    ----------
    element : DataElement
        Decoded by pydicom with the character set of its dataset.
    undeclared : bool
        The dataset declares no character set. Bytes beyond ASCII are then UTF-8 if they can be, else Latin-1.
    """
    value = element.value
    if isinstance(value, MultiValue | list):
        return [_utf8_value(item, element.VR, undeclared) for item in value]
    return _utf8_value(value, element.VR, undeclared)


def _utf8_value(value: Any, vr: str, undeclared: bool) -> Any:
    if isinstance(value, str | PersonName) and _LOST in str(value):
        raise ValueError("bytes that the declared character set does not have")
    if isinstance(value, PersonName):
        return PersonName(_repair(str(value), undeclared), encodings=["utf_8"], validation_mode=config.RAISE)
    if isinstance(value, str) and vr in {"LO", "SH", "ST", "LT", "UT", "UC", "PN"}:
        return _repair(value, undeclared)
    return value


def _repair(words: str, undeclared: bool) -> str:
    """Undo the Latin-1 that pydicom assumes where nothing is declared, if the bytes were UTF-8."""
    if undeclared and not words.isascii():
        try:
            return words.encode("latin-1").decode("utf-8")
        except UnicodeError:
            return words
    return words


def _usable(header: Dataset, keyword: str, undeclared: bool) -> DataElement | None:
    """Read one attribute; None if it is absent, empty, or not identifying and not valid."""
    tag = tag_for_keyword(keyword)
    if tag is None or tag not in header:
        return None
    try:
        element, vr = header[tag], dictionary_VR(tag)
        if (element.VR == "SQ") != (vr == "SQ"):
            raise ValueError("a sequence where there is none, or none where there is one")
        if vr == "SQ":
            return _complete_sequence(element, undeclared)
        if vr != element.VR:  # a device's mistake, which is not repeated; the value may be fine
            element = DataElement(tag, vr, _words(element))
        value = utf8(element, undeclared=undeclared)
        if isinstance(value, list) and dictionary_VM(tag) == "1":
            raise ValueError("more than one value")
        for item in value if isinstance(value, list) else [value]:
            validate_value(vr, item if isinstance(item, bytes) else str(item), config.RAISE)
            if isinstance(item, str) and any(ord(character) < 0x20 for character in item):
                raise ValueError("control character")
    except (ValueError, TypeError, AttributeError, KeyError, NotImplementedError, OverflowError) as error:
        if keyword in IDENTIFYING:
            raise WriteError(
                f"the source images' {keyword} has a value that DICOM does not allow",
                advice=f"Correct {keyword} at its source and send the study again; results must carry it unchanged.",
            ) from error
        return None
    if value is None or value == "" or value == []:
        return None
    return DataElement(tag, vr, value)


def _words(element: DataElement) -> str | list[str]:
    """Give a value as it would be spelled, whatever it was taken for."""
    if element.VM > 1:
        return [str(item) for item in element.value]
    if isinstance(element.value, bytes):
        raise ValueError("bytes of no known meaning")
    return "" if element.value is None else str(element.value)


def _complete_sequence(element: DataElement, undeclared: bool) -> DataElement | None:
    items = []
    for item in element.value:
        keys = next((keys for keys in _SEQUENCE_KEYS if all(item.get(key) for key in keys)), None)
        if keys is None:
            return None
        copy = Dataset()
        for key in keys:
            part = _usable(item, key, undeclared)
            if part is None:
                return None
            copy.add(part)
        items.append(copy)
    return DataElement(element.tag, "SQ", items) if items else None
