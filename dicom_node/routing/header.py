"""Headers as routing needs them: read once, off the receive path, and no further than the elements that rules name.

What identifies nobody goes into the ledger. Age, sex and descriptions stay in the spool: they are looked at, of one
object a series, when a rule that names them is decided.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Final, Self

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import Tag
from pydicom.uid import UID

from dicom_node.intake.elements import excerpt
from dicom_node.intake.identity import read_elements
from dicom_node.spool import content_of, data_set_offset
from engine.errors import NodeError
from engine.plan import age_of, body_part_of, laterality_of, view_of
from engine.study import READ_ERRORS

_HEADER: Final = (
    "ImageType",
    "Modality",
    "Manufacturer",
    "StationName",
    "ManufacturerModelName",
    "BodyPartExamined",
    "ViewPosition",
    "Laterality",
    "ImageLaterality",
    "NumberOfStudyRelatedInstances",
    "Rows",
    "ViewCodeSequence",
)
_PERSON: Final = (
    "StudyDate",
    "StudyDescription",
    "SeriesDescription",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
)
_HEAD: Final = 1 << 16
_LONGEST: Final = 64
"""Characters of a value that are kept: the longest that its value representation allows (LO, PS3.5 6.2)."""


@dataclass(frozen=True, slots=True)
class Header:
    """What rules can ask of one object, but for what identifies a patient; empty where it does not say.

    Parameters
    ----------
    image : bool
        Whether it has pixels.
    of_study : int
        How many objects its study has, where the sender says so (0020,1208).
    unreadable : str
        Why its header could not be read; nothing else is known then.
    """

    modality: str = ""
    body_part: str = ""
    view: str = ""
    laterality: str = ""
    manufacturer: str = ""
    model: str = ""
    station: str = ""
    image_types: tuple[str, ...] = ()
    image: bool = False
    of_study: int = 0
    unreadable: str = ""

    def to_json(self) -> str:
        """For the ledger: only what is known."""
        return json.dumps({key: value for key, value in asdict(self).items() if value}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """A header as `to_json` gave it, perhaps that of another version."""
        told = {key: value for key, value in json.loads(text).items() if key in cls.__dataclass_fields__}
        return cls(**told | {"image_types": tuple(told.get("image_types", ()))})


@dataclass(frozen=True, slots=True)
class Person:
    """What rules can ask about the patient and in free text; kept nowhere."""

    age: int | None = None
    sex: str = ""
    study_description: str = ""
    series_descriptions: tuple[str, ...] = ()


def read_header(path: Path, transfer_syntax_uid: str) -> Header:
    """Read a header of the spool; one that cannot be read says so."""
    try:
        return header_of(_read(path, transfer_syntax_uid, _HEADER))
    except (*READ_ERRORS, NodeError) as error:
        return Header(unreadable=_why(error))


def header_of(dataset: Dataset) -> Header:
    """What rules can ask of an object."""
    types = dataset.get("ImageType") or []
    return Header(
        modality=_word(dataset.get("Modality")).upper(),
        body_part=body_part_of(dataset)[:_LONGEST],
        view=_word(view_of(dataset)),
        laterality=laterality_of(dataset) or "",
        manufacturer=_word(dataset.get("Manufacturer")),
        model=_word(dataset.get("ManufacturerModelName")),
        station=_word(dataset.get("StationName")),
        image_types=tuple(_word(word) for word in (types if isinstance(types, MultiValue) else [types])),
        image=bool(dataset.get("Rows")),
        of_study=_of_study(dataset),
    )


def _of_study(dataset: Dataset) -> int:
    try:
        return max(0, int(dataset.get("NumberOfStudyRelatedInstances") or 0))
    except READ_ERRORS:
        return 0


def read_person(files: Iterable[tuple[Path, str]]) -> Person:
    """Look at one object of each series, given by path and transfer syntax; what cannot be read tells nothing."""
    found = []
    for path, transfer_syntax_uid in files:
        try:
            found.append(person_of([_read(path, transfer_syntax_uid, _PERSON)]))
        except (*READ_ERRORS, NodeError):
            continue  # the index has told of it
    return _together(found)


def person_of(datasets: Iterable[Dataset]) -> Person:
    """What rules can ask about the patient, from one object of each series."""
    return _together([_one_person(dataset) for dataset in datasets])


def _one_person(dataset: Dataset) -> Person:
    age = age_of(dataset)
    description = _word(dataset.get("SeriesDescription"))
    return Person(
        age=None if age is None else int(age),
        sex=_word(dataset.get("PatientSex")).upper(),
        study_description=_word(dataset.get("StudyDescription")),
        series_descriptions=(description,) if description else (),
    )


def _together(persons: list[Person]) -> Person:
    """What the first series tells counts; the others may be reports of another system that leave it out."""
    return Person(
        age=next((person.age for person in persons if person.age is not None), None),
        sex=next((person.sex for person in persons if person.sex), ""),
        study_description=next((person.study_description for person in persons if person.study_description), ""),
        series_descriptions=tuple(text for person in persons for text in person.series_descriptions),
    )


def _read(path: Path, transfer_syntax_uid: str, keywords: tuple[str, ...]) -> Dataset:
    with content_of(path, data_set_offset(path)) as content:
        # Of the hundreds of elements of a header the parser gets the dozen that are asked for, which halves its work.
        few = excerpt(bytes(content[:_HEAD]), transfer_syntax_uid, _tags(keywords))
        return read_elements(content if few is None else few, UID(transfer_syntax_uid), keywords)


@cache
def _tags(keywords: tuple[str, ...]) -> frozenset[int]:
    character_set = Tag("SpecificCharacterSet")  # texts are decoded by it
    return frozenset({int(character_set), *(int(Tag(keyword)) for keyword in keywords)})


def _word(value: object) -> str:
    # What its character set does not know comes as half a pair, which is no text to anyone else.
    return str(value or "").strip()[:_LONGEST].encode("utf-8", "replace").decode()


def _why(error: BaseException) -> str:
    if isinstance(error, NodeError):
        return str(error)
    what = error.strerror if isinstance(error, OSError) else None
    return f"the file cannot be read ({what or type(error).__name__})"
