"""What a case's results are held against: what was sent, the phantom's truth, the reading, and the patient's space.

Nothing here shares code with the writer. Each check gives its faults in plain words, without values of the patient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from dicom_node.commissioning.phantoms import Phantom
from dicom_node.commissioning.turns import WORDS, turn_between, turned_box
from dicom_node.demo.checks import Truth, pixel_boxes, unmatched
from dicom_node.demo.readback import ReadBack, regions_of_seg, regions_of_sr
from engine.errors import MedregaError
from engine.findings import Language, StudyReading
from sr_writer import kind_of

NEAR: Final = 2.0
"""Pixels that a place may be off."""
_IDENTITY: Final = ("StudyInstanceUID", "PatientID", "PatientName", "AccessionNumber", "StudyDate", "StudyTime")
_ORIENTATION: Final = {
    "ImageOrientationPatient": "the directions of rows and columns in the patient",
    "ImagePositionPatient": "the place in the patient",
    "PatientOrientation": "which sides of the patient lie right and below",
    "PatientPosition": "how the patient lay",
    "Laterality": "the side of the body",
    "ImageLaterality": "the side of the body",
    "PixelSpacing": "the size of the pixels",
    "ImagerPixelSpacing": "the size of the pixels",
    "PhotometricInterpretation": "whether white is high or low",
}
_LANGUAGE: Final = "121049"
"""Language of Content Item and Descendants (DCM)."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at in a case; passed where it has no fault."""

    name: str
    faults: tuple[str, ...] = ()


def check_case(
    phantom: Phantom, at_node: Sequence[Dataset], reading: StudyReading, results: Sequence[Dataset], made: set[str],
    languages: Iterable[Language],
) -> list[Check]:  # fmt: skip
    """Check what came of a phantom study.

    Parameters
    ----------
    phantom : Phantom
    at_node : sequence of Dataset
        Its images as the node got them.
    reading : StudyReading
    results : sequence of Dataset
        As they came back.
    made : set of str
        SOP instance UIDs of the results that went to the destination.
    languages : iterable of Language
        That the results are to have.
    """
    looks: dict[str, Callable[[], list[str]]] = {
        "images unchanged on the way to the node": lambda: images_unchanged(phantom, at_node, "reached the node"),
        "every result came back": lambda: came_back(results, made),
        "right study and patient": lambda: belongs(phantom, results),
        "reading agrees with the phantom": lambda: reading_right(phantom, reading),
        "SR and SEG lie where the reading says": lambda: in_place(reading, results),
        "SEG lies at the same place in the patient": lambda: in_patient(phantom, results),
        "languages": lambda: in_languages(results, languages),
        "encodings": lambda: encoded(results),
    }
    return [Check(name, _faults(look)) for name, look in looks.items()]


def _faults(look: Callable[[], list[str]]) -> tuple[str, ...]:
    try:
        return tuple(look())
    except MedregaError as error:
        return (str(error),)


def images_unchanged(phantom: Phantom, images: Sequence[Dataset], where: str) -> list[str]:
    """Each image is there with the header's geometry and the pixels it was sent with."""
    faults = []
    by_uid = {str(image.SOPInstanceUID): image for image in images}
    for number, sent in enumerate(phantom.images, 1):
        image = by_uid.get(str(sent.SOPInstanceUID))
        if image is None:
            faults.append(f"image {number} never {where}, or with another SOP instance UID")
            continue
        faults += [
            f"image {number} {where} with another {keyword}: {words} is not what was sent"
            for keyword, words in _ORIENTATION.items()
            if not _same(sent.get(keyword), image.get(keyword))
        ]
        before, after = sent.pixel_array, image.pixel_array
        if np.array_equal(before, after):
            continue
        stacked = phantom.case.frames > 1
        turn = turn_between(before[0], after[0]) if stacked and after.ndim == before.ndim else None
        turn = turn if stacked else turn_between(before, after)
        if turn is not None and turn != "none":
            faults.append(f"image {number} {where} {WORDS[turn]}")
        else:
            faults.append(f"image {number} {where} with other pixel values")
    return faults


def came_back(results: Sequence[Dataset], made: set[str]) -> list[str]:
    """What was delivered is there, and nothing else that claims to be of this node."""
    came = {str(result.SOPInstanceUID) for result in results}
    faults = [f"{len(made - came)} of the {len(made)} results did not come back"] if made - came else []
    if came - made:
        faults.append(f"{len(came - made)} objects came back that were not sent for this study")
    return faults if made else [*faults, "no result was sent"]


def belongs(phantom: Phantom, results: Sequence[Dataset]) -> list[str]:
    """Each result names the study and the patient of its images."""
    source = phantom.images[0]
    return [
        f"{kind_of(result)}: its {keyword} is not that of the images"
        for result in results
        for keyword in _IDENTITY
        if str(result.get(keyword) or "") != str(source.get(keyword) or "")
    ]


def reading_right(phantom: Phantom, reading: StudyReading) -> list[str]:
    """Each thing in a frame that was read is found once, at IoU 0.5 and by its name, and nothing else is."""
    if not reading.model.commissioning:
        return [
            f"it was read by {reading.model.name}, which does not know phantoms: "
            'set [engine] model = "phantom" while commissioning'
        ]
    faults = [] if reading.images else ["no image of it was read"]
    for image in reading.images:
        key = (image.sop_instance_uid, image.frame)
        things = phantom.truth.get(key)
        if things is None:
            faults.append("an image was read that was not sent")
            continue
        found = [
            (finding.label, region.box)
            for finding in reading.findings
            for region in finding.regions
            if (region.sop_instance_uid, region.frame) == key
        ]
        here = unmatched(things, found)
        for turn, words in WORDS.items():
            as_if = [Truth(one.label, turned_box(one.box, image.rows, image.columns, turn)) for one in things]
            if here and found and not unmatched(as_if, found):
                here = [f"the findings lie where they would be if the image were {words}"]
        faults += here
    return faults


def in_place(reading: StudyReading, results: Sequence[Dataset]) -> list[str]:
    """The SR's outlines and the segments lie on the reading's boxes, on the right frame of the right image."""
    wanted = {
        "sr": [ReadBack(region.sop_instance_uid, region.frame, region.box, "") for region in reading.regions],
        "seg": pixel_boxes(reading),
    }
    readers = {"sr": regions_of_sr, "seg": regions_of_seg}
    faults = []
    for kind, reader in readers.items():
        here = [result for result in results if kind_of(result).partition("-")[0] == kind]
        missing = list(wanted[kind])
        if not here:
            faults += [f"no {kind.upper()} came back, and there are regions"] * bool(missing and kind == "sr")
            continue
        astray = 0
        for item in (region for result in here for region in reader(result)):
            match = next((other for other in missing if _near(item, other)), None)
            if match is None:
                astray += 1
            else:
                missing.remove(match)
        if missing or astray:
            faults.append(
                f"{kind.upper()}: {len(missing)} of {len(wanted[kind])} regions are not within {NEAR:g} pixels of the "
                f"reading's, or not on its image and frame"
            )
    return faults


def in_patient(phantom: Phantom, results: Sequence[Dataset]) -> list[str]:
    """The segmentation's own geometry puts each segment where the sent image's does (PS3.3 C.7.6.2.1.1)."""
    if not phantom.case.orientation:
        return []
    sources = {str(image.SOPInstanceUID): image for image in phantom.images}
    faults = []
    for result in results:
        if kind_of(result).partition("-")[0] != "seg":
            continue
        if result.FrameOfReferenceUID != phantom.images[0].FrameOfReferenceUID:
            faults.append("SEG: it is in another frame of reference than the images")
        shared = result.SharedFunctionalGroupsSequence[0]
        pixels = result.pixel_array.reshape(-1, result.Rows, result.Columns)
        for groups, frame in zip(result.PerFrameFunctionalGroupsSequence, pixels, strict=True):
            rows, columns = np.nonzero(frame)
            derived = groups.get("DerivationImageSequence") or shared.get("DerivationImageSequence")
            source = sources.get(str(derived[0].SourceImageSequence[0].ReferencedSOPInstanceUID))
            if source is None or not len(rows):
                faults.append("SEG: a frame is empty or belongs to no image that was sent")
                continue

            own = _in_patient(
                _group("PlanePositionSequence", groups, shared).ImagePositionPatient,
                _group("PlaneOrientationSequence", groups, shared).ImageOrientationPatient,
                _group("PixelMeasuresSequence", groups, shared).PixelSpacing,
                rows.mean(),
                columns.mean(),
            )
            theirs = _in_patient(
                source.ImagePositionPatient,
                source.ImageOrientationPatient,
                source.PixelSpacing,
                rows.mean(),
                columns.mean(),
            )
            off = float(np.linalg.norm(own - theirs))
            if off > NEAR * min(map(float, source.PixelSpacing)):
                faults.append(f"SEG: a segment lies {off:.1f} mm away in the patient from where the image has it")
    return faults


def in_languages(results: Sequence[Dataset], languages: Iterable[Language]) -> list[str]:
    """There is a structured report in each language; Chinese ones hold Chinese characters."""
    said: dict[str, str] = {}
    for result in results:
        for item in _tree(result):
            if _concept(item) == _LANGUAGE:
                code = str(item.ConceptCodeSequence[0].CodeValue)[:2]
                said[code] = said.get(code, "") + _words(result)
    faults = [f"no report came back in the language {language}" for language in languages if language not in said]
    if "zh" in said and not any("\u4e00" <= letter <= "\u9fff" for letter in said["zh"]):
        faults.append("the Chinese report holds no Chinese character")
    return faults


def encoded(results: Sequence[Dataset]) -> list[str]:
    """Each text can be decoded by the object's own Specific Character Set (PS3.5 6.1.2)."""
    faults = []
    for result in results:
        words = _words(result)
        if "\ufffd" in words or "\ufffd" in str(result.PatientName):
            faults.append(f"{kind_of(result)}: a text cannot be decoded")
        if not words.isascii() and not result.get("SpecificCharacterSet"):
            faults.append(f"{kind_of(result)}: it holds more than ASCII and names no character set")
    return faults


def _group(name: str, *groups: Dataset) -> Dataset:
    """A functional group: of the frame, or of all."""
    item: Dataset = next(found[name] for found in groups if name in found)[0]
    return item


def _in_patient(
    position: Iterable[float], orientation: Iterable[float], spacing: Iterable[float], row: float, column: float
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """PS3.3 equation C.7.6.2.1-1."""
    cosines = [float(value) for value in orientation]
    between_rows, between_columns = (float(value) for value in spacing)
    corner = np.array([float(value) for value in position])
    return corner + np.array(cosines[:3]) * between_columns * column + np.array(cosines[3:]) * between_rows * row


def _same(sent: object, came: object) -> bool:
    """Equal as numbers, where they are; a missing value is as good as an empty one."""
    if isinstance(sent, (MultiValue, list)) and isinstance(came, (MultiValue, list)):
        return len(sent) == len(came) and all(map(_same, sent, came))
    try:
        return abs(float(sent) - float(came)) < 1e-4  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return str(sent or "") == str(came or "")


def _near(a: ReadBack, b: ReadBack) -> bool:
    off = max(abs(left - right) for left, right in zip(a.box, b.box, strict=True))
    return off <= NEAR and (a.sop_instance_uid, a.frame) == (b.sop_instance_uid, b.frame)


def _tree(item: Dataset) -> Iterable[Dataset]:
    for child in item.get("ContentSequence", []):
        yield child
        yield from _tree(child)


def _concept(item: Dataset) -> str:
    names = item.get("ConceptNameCodeSequence")
    return str(names[0].get("CodeValue", "")) if names else ""


def _words(result: Dataset) -> str:
    return " ".join(str(item.TextValue) for item in _tree(result) if item.ValueType == "TEXT")
