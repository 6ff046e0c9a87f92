"""Sizes and certainties of findings: from geometry and the model's own numbers, never from its words.

As NUM within a Planar ROI group (PS3.16 TID 1410, TID 1419), and as a sentence for the narrative. A size is that of the
bounding box along the image's edges; what it is true of stands beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from highdicom.sr import CodedConcept, Measurement
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from engine.findings import Finding, Language, Region
from engine.geometry import Basis, Extent, extent_of
from sr_writer.context import Context
from sr_writer.identity import PRIVATE_SCHEME
from sr_writer.slide import slide_polygon
from sr_writer.sources import SourceImage
from sr_writer.text import clean_line
from sr_writer.wording import finding_name

_METHODS: Final[dict[Basis, Code]] = {
    "image plane": Code("BOX-PLANE", PRIVATE_SCHEME, "Bounding box in the plane of the image"),
    "calibrated": Code("BOX-CALIBRATED", PRIVATE_SCHEME, "Bounding box by the image's calibration"),
    "detector": Code("BOX-DETECTOR", PRIVATE_SCHEME, "Bounding box at the detector, magnified"),
}
_UNCALIBRATED: Final = Code("PROB-UNCAL", PRIVATE_SCHEME, "Probability of the answer, uncalibrated")
_CALIBRATED: Final = Code("PROB-CAL", PRIVATE_SCHEME, "Probability of the answer, calibrated")
_SIZE: Final[dict[Language, str]] = {"en": "bounding box {size} mm", "zh": "外接矩形 {size} 毫米"}
_SIZE_OF_ALL: Final[dict[Language, str]] = {
    "en": "bounding box of its {regions} regions {size} mm",
    "zh": "{regions} 个区域的外接矩形 {size} 毫米",
}
_TRUE_OF: Final[dict[Language, dict[Basis, str]]] = {
    "en": {
        "image plane": "in the plane of the image",
        "calibrated": "by the image's calibration",
        "detector": "at the detector; a projection, magnified by an unknown amount, not the size in the patient",
    },
    "zh": {
        "image plane": "影像平面内",
        "calibrated": "按影像校准",
        "detector": "探测器平面；投影影像，放大率未知，并非患者体内实际大小",
    },
}
_DEPTH: Final[dict[Language, str]] = {"en": "the last across slices", "zh": "末项为跨层方向"}
_COUNT: Final[dict[Language, str]] = {
    "en": "Counted: {counts}; {regions} region(s) on {images} image frame(s).",
    "zh": "计数：{counts}；{images} 帧影像上共 {regions} 个区域。",
}


def extent(context: Context, finding: Finding) -> Extent | None:
    """Measure a finding over all its regions; None where no geometry tells it."""
    return _extent(finding.regions, context.sources.by_uid)


def measurements(finding: Finding, region: Region, image: SourceImage, similar: int) -> list[Measurement]:
    """Give the numbers of one region's group.

    Parameters
    ----------
    finding : Finding
    region : Region
        One of the finding's.
    image : SourceImage
        The image that it lies on.
    similar : int
        Findings of the same concept in the reading.

    Returns
    -------
    list of Measurement
        Width and height in mm where the image's spacing is known (CID 7470), certainty in percent, count.
    """
    result = []
    size = _extent([region], {image.sop_instance_uid: image})
    if size is not None:
        method = CodedConcept.from_code(_METHODS[size.basis])
        result += [
            Measurement(name=name, value=float(f"{value:.3g}"), unit=codes.UCUM.Millimeter, method=method)
            for name, value in ((codes.SCT.Width, size.columns_mm), (codes.DCM.Height, size.rows_mm))
        ]
    if finding.certainty is not None:
        method = CodedConcept.from_code(_CALIBRATED if finding.calibrated else _UNCALIBRATED)
        value = round(100 * finding.certainty, 1)
        result.append(
            Measurement(name=codes.DCM.CertaintyOfFinding, value=value, unit=codes.UCUM.Percent, method=method)
        )
    result.append(Measurement(name=codes.DCM.NumberOfSimilarFindings, value=similar, unit=codes.UCUM.NoUnits))
    return result


def _extent(regions: Sequence[Region], images: Mapping[str, SourceImage]) -> Extent | None:
    """Measure regions; on a slide the plane is the object's own, and nothing magnifies it."""
    size = extent_of(regions, {uid: image.header for uid, image in images.items()})
    if size is None or slide_polygon(regions[0], images[regions[0].sop_instance_uid]) is None:
        return size
    return replace(size, basis="image plane")


def size_words(context: Context, finding: Finding, language: Language) -> str:
    """Say a finding's size and what it is true of; empty where no geometry tells it."""
    size = extent(context, finding)
    if size is None:
        return ""
    edges = [edge for edge in (size.columns_mm, size.rows_mm, size.depth_mm) if edge is not None]
    words = [_TRUE_OF[language][size.basis]]
    if size.depth_mm is not None:
        words.append(_DEPTH[language])
    if size.basis == "calibrated":
        header = context.sources.image(finding.regions[0].sop_instance_uid).header
        told = (header.get("PixelSpacingCalibrationType"), header.get("PixelSpacingCalibrationDescription"))
        words += [clean_line(str(word)) for word in told if word]
    joint, stop = ("，", "（{}）") if language == "zh" else (", ", " ({})")
    numbers = " x ".join(f"{edge:.0f}" if edge >= 10 else f"{edge:.2g}" for edge in edges)
    sentence = (_SIZE if len(finding.regions) == 1 else _SIZE_OF_ALL)[language]
    return sentence.format(size=numbers, regions=len(finding.regions)) + stop.format(joint.join(words))


def count_words(context: Context, language: Language) -> str:
    """Say how many findings of each name there are; empty where there is none."""
    reading = context.reading
    if not reading.findings:
        return ""
    names = Counter(finding_name(finding, language) for finding in reading.findings)
    places = {(region.sop_instance_uid, region.frame) for region in reading.regions}
    return _COUNT[language].format(
        counts=", ".join(f"{name} {count}" for name, count in names.items()),
        regions=len(reading.regions),
        images=len(places),
    )
