"""Output profiles: which objects a destination gets, and in which languages."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from engine.errors import WriteError
from engine.findings import LANGUAGES, Language


@dataclass(frozen=True, slots=True)
class OutputProfile:
    """What goes to a destination.

    Parameters
    ----------
    name : str
    languages : tuple of Language
        At least one; the first is the language of what exists only once.
    region_sr : bool
        Write the regions as Comprehensive SR (PS3.16 TID 1500, TID 1410).
    narrative_sr : bool
        Write the report text of a reading that has regions as Enhanced SR (TID 2000), one a language. A reading
        without regions is always written this way.
    seg : bool
        Write the regions as BINARY segmentations.
    seg_without_frame_of_reference : bool
        Also for sources that have no frame of reference (radiographs, ultrasound, visible light). Viewers then need a
        geometry, which is a display convention and says so.
    cornerstone_tracking : bool
        Tracking identifiers that OHIF up to 3.11 hydrates, instead of words for people.

    Raises
    ------
    WriteError
        If there is no language, one twice or one unknown.
    """

    name: str = "viewer"
    languages: tuple[Language, ...] = ("en", "zh")
    region_sr: bool = True
    narrative_sr: bool = True
    seg: bool = True
    seg_without_frame_of_reference: bool = True
    cornerstone_tracking: bool = False

    def __post_init__(self) -> None:
        if not self.languages or len(set(self.languages)) != len(self.languages):
            raise WriteError("an output profile needs one or more languages, each once")
        unknown = [language for language in self.languages if language not in LANGUAGES]
        if unknown:
            raise WriteError(f"an output profile names an unknown language; known are {', '.join(LANGUAGES)}")

    @property
    def fingerprint(self) -> str:
        """Every setting as one canonical string; part of the results' UIDs."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class PredecessorRef:
    """A result that the new ones supersede (Predecessor Documents Sequence, PS3.3 C.17.2).

    Parameters
    ----------
    study_instance_uid, series_instance_uid, sop_class_uid, sop_instance_uid : str
    """

    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str
