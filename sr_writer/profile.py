"""Output profiles: which objects a destination gets, of which kind, and in which languages.

Those that ship are TOML files in ``sr_writer/profiles``; a site writes its own in the same keys.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from dataclasses import asdict, dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from engine.errors import SettingsError, WriteError
from engine.findings import LANGUAGES, Language

SrClass = Literal["comprehensive", "comprehensive-3d"]
Measurements = Literal["none", "num"]
Tracking = Literal["words", "cornerstone"]
CaptureStyle = Literal["labelled", "boxes"]
SegGeometry = Literal["display", "patient"]

DEFAULT: Final = "viewer"
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


@dataclass(frozen=True, slots=True)
class OutputProfile:
    """What goes to a destination; the defaults are the profile ``viewer``.

    Parameters
    ----------
    name : str
        Lower case letters, digits and hyphens.
    languages : tuple of Language
        At least one; the first is the language of what exists only once.
    region_sr : bool
        Write the regions as SR (PS3.16 TID 1500, TID 1410).
    sr_class : {"comprehensive", "comprehensive-3d"}
        SOP class of the region SR; that of slide microscopy is always Comprehensive 3D.
    measurements : {"none", "num"}
        Sizes and certainties as NUM in the region SR's groups. Viewers fail to draw such groups.
    tracking : {"words", "cornerstone"}
        Tracking identifiers for people, or those that OHIF up to 3.11 wants.
    narrative_sr : bool
        Write the report text of a reading that has regions as Enhanced SR (TID 2000), one a language. A reading
        without regions is always written this way where SR is written at all.
    seg : bool
        Write the regions as BINARY segmentations.
    seg_geometry : {"display", "patient"}
        For sources without a frame of reference (radiographs, ultrasound, visible light): "display" writes a geometry
        that is a display convention and says so, "patient" writes no segmentation of them.
    presentation_state : bool
        Write the regions as presentation states, over the source images.
    secondary_capture : bool
        Write pictures of the images with regions, boxes burned in.
    sc_style : {"labelled", "boxes"}
        With the findings' names beside the boxes, or the boxes alone.
    pdf : bool
        Write the report as an encapsulated PDF, one a language.
    key_objects : bool
        Write a selection of the images that have findings.

    Raises
    ------
    WriteError
        If the name cannot be one, there is no language, one twice or one unknown, or nothing would be written.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    name: str = DEFAULT
    languages: tuple[Language, ...] = LANGUAGES
    region_sr: bool = True
    sr_class: SrClass = "comprehensive"
    measurements: Measurements = "none"
    tracking: Tracking = "words"
    narrative_sr: bool = True
    seg: bool = True
    seg_geometry: SegGeometry = "display"
    presentation_state: bool = True
    secondary_capture: bool = True
    sc_style: CaptureStyle = "labelled"
    pdf: bool = False
    key_objects: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise WriteError("a profile's name is lower case letters, digits and hyphens, at most 40")
        if not self.languages or len(set(self.languages)) != len(self.languages):
            raise WriteError("an output profile needs one or more languages, each once")
        unknown = [language for language in self.languages if language not in LANGUAGES]
        if unknown:
            raise WriteError(f"an output profile names an unknown language; known are {', '.join(LANGUAGES)}")
        if not (self.writes_sr or self.secondary_capture or self.pdf):
            raise WriteError(
                "an output profile needs region_sr, narrative_sr, secondary_capture or pdf: "
                "a reading without regions would leave no result"
            )

    @property
    def writes_sr(self) -> bool:
        """Whether the destination takes SR at all."""
        return self.region_sr or self.narrative_sr

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


def shipped_profiles() -> list[str]:
    """Names of the profiles that ship."""
    folder = files("sr_writer").joinpath("profiles")
    return sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml"))


def load_profile(name: str = DEFAULT) -> OutputProfile:
    """Read a profile.

    Parameters
    ----------
    name : str
        One that ships, or the path of a TOML file (with a folder or the ending ``.toml``).

    Raises
    ------
    SettingsError
        If there is no such profile, or it is wrong; the message names the file and its line and column, or the key.
    """
    if name in shipped_profiles():
        text = files("sr_writer").joinpath("profiles", f"{name}.toml").read_text(encoding="utf-8")
        return _parse(text, name, f"the profile {name}")
    path = Path(name)
    if path.suffix != ".toml" and path.name == name:
        raise SettingsError(f"there is no output profile {name}", advice=_nearest(name, shipped_profiles()))
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SettingsError(f"the output profile {path} cannot be read: {why}") from None
    profile = _parse(text, path.stem, str(path))
    if profile.name in shipped_profiles():
        raise SettingsError(f"{path}: name: {profile.name} is the name of a profile that ships; take another")
    return profile


def _parse(text: str, name: str, origin: str) -> OutputProfile:
    try:
        content: dict[str, Any] = {"name": name, **tomllib.loads(text)}
        return TypeAdapter(OutputProfile).validate_json(json.dumps(content, default=str))
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{origin} is not TOML: {error}") from None
    except WriteError as error:
        raise SettingsError(f"{origin}: {error}") from None
    except ValidationError as error:
        known = [field.name for field in fields(OutputProfile)]
        item = error.errors(include_input=False, include_url=False)[0]
        key = str(item["loc"][0])
        if key not in known:
            raise SettingsError(f"{origin}: unknown key {key}", advice=_nearest(key, known)) from None
        raise SettingsError(f"{origin}: {key}: {item['msg']}") from None


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
