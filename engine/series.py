"""Series as a reader chooses among them: what each one is, which are best, and why the others are left out.

A CT or MR study holds many series of the same anatomy. What tells them apart is in their headers, in part only in
words that people and scanners wrote: those are matched loosely, and what is not told is unknown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal, NamedTuple

import numpy as np
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from engine.geometry import Plane, position_of, thickness_of
from engine.plan import SeriesRules, body_part_of, laterality_of, view_of
from engine.study import Instance, Series

__all__ = ["SLICED", "Ranked", "Slice", "Volume", "is_derived", "left_out", "rank_volumes"]

SLICED: Final = ("CT", "MR", "PT")
"""Modalities whose images are slices."""
_SECONDARY_CAPTURE: Final = "1.2.840.10008.5.1.4.1.1.7"
_LOCALIZER: Final = re.compile(r"(?<![a-z])(loc|locali[sz]er|scout|topo(gram)?|surv(iew|ey)|scano(gram)?)\b|定位", re.I)
_DOSE_PAGE: Final = re.compile(r"dose (report|info|page|summary|record)|patient protocol|剂量报告", re.I)
_SCREEN: Final = re.compile(r"SCREEN ?(SAVE|SHOT|CAPTURE)")
_SHARP_FROM: Final = 50  # Siemens' numbers, 10 to 99: B30f and Br40 are soft, B70f and Bl57 sharp

# What a series' own words say, the first that fits; English, German and Chinese as scanners and people write them.
_PHASES: Final = (
    ("plain", r"non[ -]?contrast|without|unenhanced|nativ|plain|pre[ -]?contrast|\bw/?o\b|\bnc\b|平扫"),
    ("arterial", r"arterial|\bart\b|动脉期"),
    ("portal venous", r"portal|\bpvp?\b|门静?脉期"),
    ("delayed", r"delay|\blate\b|equilibrium|nephro|excretory|延迟"),
    ("venous", r"venous|\bven\b|静脉期"),
    ("contrast", r"contrast|post|\+ ?c\b|\bc ?\+|\bce\b|\bkm\b|\bgd\b|增强"),
)
_SEQUENCES: Final = (
    ("ADC", r"\badc|apparent diff"),
    ("DWI", r"dwi|diff|trace|\bb ?(800|1000)\b"),
    ("SWI", r"swi|swan|suscept|t2 ?\*|t2star"),
    ("T1", r"t1.*(flair|tirm)"),
    ("FLAIR", r"flair|dark.?fluid"),
    ("STIR", r"stir|tirm"),
    ("TOF", r"(?<![a-z])tof|angio|\bmra\b"),
    ("T2", r"t2|trufi|fiesta|haste"),
    ("T1", r"t1|mp-?rage|bravo|spgr|vibe|lava"),
    ("PD", r"(?<![a-z])pd(?![a-z])"),
)
# Acquisition Contrast of enhanced MR (PS3.3 C.8.13.4.1).
_CONTRASTS: Final = {
    "DIFFUSION": "DWI",
    "FLUID_ATTENUATED": "FLAIR",
    "PROTON_DENSITY": "PD",
    "STIR": "STIR",
    "T1": "T1",
    "T2": "T2",
    "T2_STAR": "SWI",
    "TOF": "TOF",
}
# Kernels by their makers' names: GE, Philips, Canon (FC30 to 39, 50 to 59, 80 to 89 are for bone and lung).
_SHARP: Final = re.compile(r"LUNG|BONE|EDGE|ULTRA|SHARP|DETAIL2|Y[A-D]|[DEL]|FC[358]\d")
_SOFT: Final = re.compile(r"SOFT|STANDARD|STND|SMOOTH|CHST|BRAIN|U?[ABC]|FC[012467]\d")
_SIEMENS: Final = re.compile(r"[A-Z]{1,2}(\d{2})[A-Z]?")


class Slice(NamedTuple):
    """One slice of a volume: the instance, the frame's number from 1, and where it lies."""

    instance: Instance
    frame: int
    plane: Plane


@dataclass(frozen=True)
class Volume:
    """A series of parallel slices.

    Parameters
    ----------
    series : Series
    slices : tuple of Slice
        In the order of their places along the normal (PS3.3 C.7.6.2.1.1), whatever order they were acquired in.
    """

    series: Series
    slices: tuple[Slice, ...]

    @classmethod
    def of(cls, series: Series, images: Iterable[Instance]) -> Volume | None:
        """Make a volume of a series' images; None where they are no slices, or not parallel."""
        slices: list[Slice] = []
        for image in images:
            for frame in range(1, image.number_of_frames + 1):
                plane = position_of(image.header, frame)
                if plane is None or (slices and not plane.parallel(slices[0].plane)):
                    return None
                slices.append(Slice(image, frame, plane))
        return cls(series, tuple(sorted(slices, key=lambda one: one.plane.place))) if slices else None

    @property
    def header(self) -> Dataset:
        """The header of one of its images; what tells series apart is the same in all of them."""
        return self.slices[0].instance.header

    @cached_property
    def places(self) -> tuple[Slice, ...]:
        """One slice a place: a series that passes through the body several times counts once, its first pass."""
        kept: list[Slice] = []
        for one in self.slices:
            if not kept or one.plane.place - kept[-1].plane.place > 1e-3:
                kept.append(one)
        return tuple(kept)

    @property
    def coverage_mm(self) -> float:
        """From the first slice to the last."""
        return self.slices[-1].plane.place - self.slices[0].plane.place

    def beside(self, other: Volume) -> bool:
        """Whether both are of one frame of reference, have the same orientation, and share no place."""
        one, two = self.slices[0].plane, other.slices[0].plane
        same = self.header.get("FrameOfReferenceUID") == other.header.get("FrameOfReferenceUID")
        low, high = two.place, other.slices[-1].plane.place
        return same and one.parallel(two) and (self.slices[-1].plane.place < low or one.place > high)

    @property
    def thickness_mm(self) -> float | None:
        """Slice thickness."""
        return thickness_of(self.header, self.slices[0].frame)

    @property
    def orientation(self) -> str:
        """``axial``, ``coronal`` or ``sagittal``, whichever the slices are nearest to."""
        return ("sagittal", "coronal", "axial")[int(np.argmax(np.abs(self.slices[0].plane.normal)))]

    @cached_property
    def kernel(self) -> Literal["soft", "sharp"] | None:
        """What kind of convolution kernel made the slices, by its maker's name."""
        name = next(iter(_words(self.header, "ConvolutionKernel")), "")
        if number := _SIEMENS.match(name):
            return "sharp" if int(number[1]) >= _SHARP_FROM else "soft"
        if _SHARP.match(name):
            return "sharp"
        return "soft" if _SOFT.match(name) else None

    @cached_property
    def phase(self) -> str | None:
        """The contrast phase: ``plain``, ``arterial``, ``portal venous``, ``venous``, ``delayed``, or ``contrast``."""
        said = _first(_PHASES, _said(self.header, "SeriesDescription"))
        return said or ("contrast" if self.header.get("ContrastBolusAgent") else None)

    @cached_property
    def sequence(self) -> str | None:
        """The MR sequence: ``T1``, ``T1 contrast``, ``T2``, ``FLAIR``, ``STIR``, ``PD``, ``DWI``, ``ADC``, ..."""
        if self.series.modality != "MR":
            return None
        told = _CONTRASTS.get(str(self.header.get("AcquisitionContrast") or ""))
        name = told or _first(_SEQUENCES, _said(self.header, "SeriesDescription", "ProtocolName", "SequenceName"))
        name = name or _by_times(self.header)
        return "T1 contrast" if name == "T1" and self.phase not in (None, "plain") else name

    @property
    def kind(self) -> tuple[str | None, ...]:
        """What distinguishes volumes that do not stand for one another: a tomosynthesis has a view and a side too."""
        shown = (body_part_of(self.header), laterality_of(self.header), view_of(self.header))
        return self.series.modality, *shown, self.phase, self.sequence

    @property
    def time(self) -> tuple[str, ...]:
        """When it was made; of two of a kind the newest counts."""
        keys = ("SeriesDate", "SeriesTime", "AcquisitionDate", "AcquisitionTime")
        number = str(self.header.get("SeriesNumber") or 0)
        return (*(re.sub(r"[^0-9.]", "", _said(self.header, key)) for key in keys), number.zfill(12))

    def __str__(self) -> str:
        thickness = f"{self.thickness_mm:g} mm" if self.thickness_mm else ""
        kernel = f"{self.kernel} kernel" if self.kernel else ""
        parts = (self.orientation, thickness, kernel, self.phase or "", self.sequence or "")
        return ", ".join([part for part in parts if part] + [f"{len(self.slices)} slices"])


class Ranked(NamedTuple):
    """A volume with what becomes of it, and why."""

    volume: Volume
    read: bool
    reason: str


def left_out(instance: Instance, rules: SeriesRules) -> str | None:
    """Say why the rules leave an image out, whatever else there is; None if they do not."""
    header = instance.header
    types = _words(header, "ImageType")
    said = _said(header, "SeriesDescription") if instance.modality in SLICED else ""
    captured = instance.sop_class_uid.startswith(_SECONDARY_CAPTURE) and instance.modality in SLICED
    if "dose page" in rules.leave_out and _DOSE_PAGE.search(said):
        return "a picture of a dose report"
    if "localizer" in rules.leave_out and ("LOCALIZER" in types or _LOCALIZER.search(said)):
        return "a localizer"
    if "slide label" in rules.leave_out and {"LABEL", "OVERVIEW"}.intersection(types):
        return "a picture of the slide's label or of the whole slide"
    if "screenshot" in rules.leave_out and (captured or any(_SCREEN.search(word) for word in types)):
        return "a picture of a screen"
    return None


def is_derived(instance: Instance) -> bool:
    """Whether an image was computed from others: a reformat, a projection, a map (PS3.3 C.7.6.1.1.2).

    Diffusion traces are what there is of a diffusion scan, and lossy compression alone makes no other image.
    """
    types = _words(instance.header, "ImageType")
    if "SECONDARY" in types[1:2]:
        return True
    lossy = str(instance.header.get("LossyImageCompression") or "") == "01"
    return "DERIVED" in types[:1] and "TRACEW" not in types and not lossy


def rank_volumes(volumes: Sequence[Volume], rules: SeriesRules) -> list[Ranked]:
    """Choose the best volume of each kind, and of the kinds those that the rules prefer; the chosen ones come first.

    Volumes of one kind that lie beside one another, as the stations of a spine do, are both chosen.
    """
    kinds: dict[object, list[Volume]] = {}
    for volume in volumes:
        kinds.setdefault(volume.kind, []).append(volume)
    criteria = _criteria(volumes, rules)
    best: list[Volume] = []
    others: list[Ranked] = []
    for alike in kinds.values():
        chosen: list[Volume] = []
        for volume in sorted(alike, key=lambda volume: [c.score(volume) for c in criteria]):
            first = next((known for known in chosen if not volume.beside(known)), None)
            if first is None:
                chosen.append(volume)
                continue
            worse = next((c for c in criteria if c.score(volume) > c.score(first)), None)
            why = worse.words(volume) if worse else "it is another one of the same kind"
            others.append(Ranked(volume, False, f"{volume}: another series of its kind was read, as {why}"))
        best += chosen
    best.sort(key=lambda volume: [_preference(volume, rules), *(c.score(volume) for c in criteria)])
    preferred = " or ".join((*rules.phase, *rules.sequence)) or "the ones read"
    for place, volume in enumerate(best):
        if place < rules.volumes:
            others.insert(place, Ranked(volume, True, f"{volume}: {_praise(kinds[volume.kind])}"))
        else:
            why = f"the plan reads {rules.volumes} of a study's volumes and prefers {preferred}"
            others.append(Ranked(volume, False, f"{volume}: {why}"))
    return others


class _Criterion(NamedTuple):
    """What makes one volume better than another; the lower score is the better one."""

    score: Callable[[Volume], float]
    words: Callable[[Volume], str]


def _criteria(volumes: Sequence[Volume], rules: SeriesRules) -> list[_Criterion]:
    found: list[_Criterion] = []
    if rules.orientation:
        found.append(
            _Criterion(
                lambda v: v.orientation != rules.orientation,
                lambda v: f"this one is {v.orientation} and the plan prefers {rules.orientation}",
            )
        )
    if rules.kernel:
        found.append(
            _Criterion(
                lambda v: 1 if v.kernel is None else 2 * (v.kernel != rules.kernel),
                lambda v: f"the kernel of this one is {v.kernel or 'unknown'} and the plan prefers {rules.kernel}",
            )
        )
    if rules.thickness_mm:
        low, high = rules.thickness_mm
        found.append(
            _Criterion(
                lambda v: 1e3 if v.thickness_mm is None else max(low - v.thickness_mm, v.thickness_mm - high, 0.0),
                lambda _: f"the plan prefers slices of {low:g} to {high:g} mm",
            )
        )
    longest = max((v.coverage_mm for v in volumes), default=0.0)
    found.append(
        _Criterion(
            lambda v: 0.0 if v.coverage_mm >= 0.9 * longest else 1 - v.coverage_mm / longest,
            lambda v: f"this one covers {v.coverage_mm:.0f} mm only",
        )
    )
    newest = sorted((v.time for v in volumes), reverse=True)
    found.append(_Criterion(lambda v: newest.index(v.time), lambda _: "this one is older"))
    return found


def _preference(volume: Volume, rules: SeriesRules) -> tuple[int, int]:
    """How far down the rules' lists a volume's phase and sequence stand; one that is not told stands at the end."""

    def rank(wanted: tuple[str, ...], told: str | None) -> int:
        if not wanted:
            return 0
        return wanted.index(told) if told in wanted else len(wanted) + (told is not None)

    return rank(rules.phase, volume.phase), rank(rules.sequence, volume.sequence)


def _praise(alike: Sequence[Volume]) -> str:
    return f"the best of {len(alike)} of its kind" if len(alike) > 1 else "the only one of its kind"


def _by_times(header: Dataset) -> str | None:
    """A spin echo sequence by its times in ms: long TR and TE weigh by T2, short ones by T1; a long TI nulls fluid."""
    try:
        repetition, echo = float(header.RepetitionTime), float(header.EchoTime)
        inversion = float(header.get("InversionTime") or 0)
    except (AttributeError, TypeError, ValueError):
        return None
    if "SE" not in str(header.get("ScanningSequence") or ""):
        return None
    if inversion > 1500:
        return "FLAIR"
    if repetition > 1500:
        return "T2" if echo > 60 else "PD"
    return "T1" if echo < 30 else None


def _words(header: Dataset, keyword: str) -> list[str]:
    value = header.get(keyword) or []
    return [str(word).strip().upper() for word in (value if isinstance(value, list | MultiValue) else [value])]


def _first(patterns: Iterable[tuple[str, str]], said: str) -> str | None:
    return next((name for name, pattern in patterns if re.search(pattern, said, re.IGNORECASE)), None)


def _said(header: Dataset, *keywords: str) -> str:
    # Underscores join words in scanners' names, and count as letters to a pattern.
    return " / ".join(str(header.get(keyword) or "") for keyword in keywords).replace("_", " ")
