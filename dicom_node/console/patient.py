"""Patient and study as a header names them, for the eyes of who has signed in: read when asked for, kept nowhere."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

from pydicom.dataset import Dataset
from pydicom.uid import UID

from dicom_node.intake.identity import read_elements
from dicom_node.spool import Spool, content_of, data_set_offset
from engine.errors import NodeError
from engine.study import READ_ERRORS

_DATE: Final = re.compile(r"(\d{4})\.?(\d\d)\.?(\d\d)")


@dataclass(frozen=True, slots=True)
class Patient:
    """Who was examined, and what; empty where the header does not say.

    Parameters
    ----------
    names : tuple of str
        The name in each of its writings: alphabetic, ideographic, phonetic (PS3.5 6.2.1.1).
    patient_id, birth_date, sex, study_date, accession_number, description : str
    """

    names: tuple[str, ...] = ()
    patient_id: str = ""
    birth_date: str = ""
    sex: str = ""
    study_date: str = ""
    accession_number: str = ""
    description: str = ""

    @property
    def words(self) -> str:
        """What a person looks for it by, in lower case."""
        parts = *self.names, self.patient_id, self.accession_number, self.description, self.study_date
        return "\n".join(parts).lower()

    @classmethod
    def of(cls, header: Dataset) -> Self:
        """As a header says."""
        writings = (_words(group).replace("^", " ") for group in str(header.get("PatientName") or "").split("="))
        return cls(
            names=tuple(" ".join(name.split()) for name in writings if name.strip()),
            patient_id=_words(header.get("PatientID")),
            birth_date=_date(header.get("PatientBirthDate")),
            sex=_words(header.get("PatientSex")),
            study_date=_date(header.get("StudyDate")),
            accession_number=_words(header.get("AccessionNumber")),
            description=_words(header.get("StudyDescription")),
        )


_KEYWORDS: Final = (
    "SpecificCharacterSet",
    "StudyDate",
    "AccessionNumber",
    "StudyDescription",
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
)


def patient_of(spool: Spool, place: tuple[str, str] | None) -> Patient:
    """What an object of the spool says, given by path and transfer syntax; nothing where it is gone or broken."""
    if place is None:
        return Patient()
    path = spool.path(place[0])
    try:
        with content_of(path, data_set_offset(path)) as content:
            return Patient.of(read_elements(content, UID(place[1]), _KEYWORDS))
    except (*READ_ERRORS, NodeError):
        return Patient()


def _words(value: object) -> str:
    # What its character set does not know comes as half a pair, which no page can be written with.
    return str(value or "").strip().encode("utf-8", "replace").decode()


def _date(value: object) -> str:
    text = _words(value)
    return "-".join(match.groups()) if (match := _DATE.fullmatch(text)) else text
