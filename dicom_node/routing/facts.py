"""Facts: what is known of a study when a rule looks at it, and why the rest is not known.

A rule sees attributes by the names of `ATTRIBUTES`. Most of them differ between the images of some studies; these have
two names: the singular is known only where all images that tell it agree, the plural lists every value there is. What
no image tells is not known under either name: it is not an empty word and not an empty list, so that no comparison with
it is true, its opposite neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal, NamedTuple

from dicom_node.routing.decision import Priority
from dicom_node.routing.header import Header, Person

Value = str | int | list[str]
Kind = Literal["text", "list", "number"]
WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_BY_IMAGE: Final = {
    "modality": ("modalities", "Modality (0008,0060)"),
    "body_part": ("body_parts", "Body Part Examined (0018,0015), capital letters and digits alone: CHEST"),
    "view": ("views", "View Position (0018,5101), or that of View Code Sequence: PA, CC, MLO"),
    "laterality": ("lateralities", "Side of the image or series: L, R, B or U"),
    "manufacturer": ("manufacturers", "Manufacturer (0008,0070)"),
    "model": ("models", "Manufacturer's Model Name (0008,1090)"),
    "station": ("stations", "Station Name (0008,1010)"),
}


class Attribute(NamedTuple):
    """One attribute that rules can name."""

    kind: Kind
    meaning: str


ATTRIBUTES: Final[Mapping[str, Attribute]] = {
    "called_aet": Attribute("text", "AE title that the study was sent to"),
    "called_aets": Attribute("list", "The same, where images came by several entry points"),
    "calling_aet": Attribute("text", "AE title of the sender"),
    "calling_aets": Attribute("list", "The same, where several sent images"),
    **{name: Attribute("text", meaning) for name, (_, meaning) in _BY_IMAGE.items()},
    **{plural: Attribute("list", f"Every {name} of the study") for name, (plural, _) in _BY_IMAGE.items()},
    "image_types": Attribute("list", "Every value of Image Type (0008,0008) of every image: ORIGINAL, AXIAL"),
    "series": Attribute("number", "Series that arrived"),
    "images": Attribute("number", "Objects with pixels that arrived; a multi-frame object is one"),
    "unreadable": Attribute("number", "Objects whose header could not be read"),
    "age": Attribute("number", "Patient's age at the study in whole years; 0 for an infant"),
    "sex": Attribute("text", "Patient's Sex (0010,0040): F, M or O"),
    "study_description": Attribute("text", "Study Description (0008,1030)"),
    "series_descriptions": Attribute("list", "Series Description (0008,103E) of every series"),
    "time": Attribute("text", "Time of day when the study was complete, as 18:30"),
    "weekday": Attribute("text", f"Day when the study was complete: {', '.join(WEEKDAYS)}"),
    "priority": Attribute("text", "Priority that the entry point asks for: stat, high, routine or low"),
    "known": Attribute("list", "Names of the attributes that are known"),
}

OF_THE_PATIENT: Final = frozenset({"age", "sex", "study_description", "series_descriptions"})
"""Looked at in the spool when a rule asks, and written down nowhere else."""
OF_THE_HEADERS: Final = OF_THE_PATIENT.union(
    *((singular, plural) for singular, (plural, _) in _BY_IMAGE.items()),
    ("image_types", "series", "images", "unreadable", "known"),
)
"""What is known only once the headers have been read."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a study.

    Parameters
    ----------
    values : dict of str to str, int or list of str
        By the attribute's name.
    missing : dict of str to str
        Why an attribute is not known.
    """

    values: Mapping[str, Value]
    missing: Mapping[str, str] = field(default_factory=dict)


def facts_of(
    headers: Sequence[tuple[str, Header]],
    person: Person,
    *,
    called_aets: Iterable[str],
    calling_aets: Iterable[str],
    asked: Priority | None,
    at: datetime,
) -> Facts:
    """Gather what is known of a study.

    Parameters
    ----------
    headers : sequence of (str, Header)
        Series instance UID and header of every object; none where no rule asks for them.
    person : Person
    called_aets, calling_aets : iterable of str
    asked : Priority or None
        What the entry point asks for.
    at : datetime
        When the study was complete, in the zone whose time of day counts.
    """
    values: dict[str, Value] = {"time": f"{at:%H:%M}", "weekday": WEEKDAYS[at.weekday()]}
    missing: dict[str, str] = {}

    def tell(singular: str, plural: str, found: Iterable[str], nothing: str) -> None:
        distinct = sorted(set(found) - {""})
        if distinct:
            values[plural] = distinct
        else:
            missing[singular] = missing[plural] = nothing
        if len(distinct) == 1:
            values[singular] = distinct[0]
        elif distinct:
            missing[singular] = f"differs within the study: {', '.join(distinct)}; use {plural}"

    tell("called_aet", "called_aets", called_aets, "is not known")
    tell("calling_aet", "calling_aets", calling_aets, "is not known")
    read = [header for _, header in headers if not header.unreadable]
    images = [header for header in read if header.image] or read
    for singular, (plural, _) in _BY_IMAGE.items():
        tell(singular, plural, (getattr(header, singular) for header in images), "stands in no header of the study")
    for name, told in (
        ("image_types", sorted({word for header in images for word in header.image_types})),
        ("age", person.age),
        ("sex", person.sex),
        ("study_description", person.study_description),
        ("series_descriptions", sorted({*person.series_descriptions})),
        ("priority", asked.value if asked else None),
    ):
        if told or told == 0:
            values[name] = told
        else:
            missing[name] = "is not asked for by the entry point" if name == "priority" else "stands in no header"
    values["series"] = len({series for series, _ in headers})
    values["images"] = sum(header.image for header in read)
    values["unreadable"] = len(headers) - len(read)
    values["known"] = sorted({*values, "known"})
    return Facts(values, missing)
