"""Regions as presentation states: outlines and names that a viewer draws over the source images.

Grayscale Softcopy Presentation State for grayscale sources, Color Softcopy Presentation State for the others (PS3.3
A.33.1, A.33.2). Coordinates are in PIXEL units, whose frame is the one of SCOORD (C.10.5.1.2).
"""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import highdicom as hd
import numpy as np
from highdicom.pr import (
    ColorSoftcopyPresentationState,
    GraphicAnnotation,
    GraphicLayer,
    GraphicObject,
    GrayscaleSoftcopyPresentationState,
    SoftcopyVOILUTTransformation,
    TextObject,
)
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from engine.imaging.lut import Lut
from sr_writer.context import Context
from sr_writer.drawing import Place, colour_name, free_place, letter_size
from sr_writer.fonts import font
from sr_writer.geometry import decimals, first_decimal, group_value
from sr_writer.iods import is_multi_frame
from sr_writer.pictures import aspect_of
from sr_writer.region_sr import polyline
from sr_writer.secondary_capture import key_frames, laterality, region_name, warning
from sr_writer.sources import SourceImage
from sr_writer.text import SHORT_TEXT, clean_line
from sr_writer.wording import COMMISSIONING

_GRAY: Final = ("MONOCHROME1", "MONOCHROME2")
_CODE_STRING: Final = 16
_SRGB: Final = "_icc_profiles/sRGB_v4_ICC_preference.icc"
_RATIO: Final = 1000
"""Largest number in a pixel aspect ratio."""
_FUNCTIONS: Final = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
_HOUNSFIELD: Final = (0.0, 2000.0, _FUNCTIONS[0])
"""From air to bone: for a CT image that brings no window of its own."""


@dataclass(frozen=True, slots=True)
class _Frame:
    """A frame with regions, and how a viewer is to show it."""

    image: SourceImage
    number: int

    @property
    def is_gray(self) -> bool:
        return self._photometric in _GRAY

    @property
    def _photometric(self) -> str:
        return str(self.image.header.get("PhotometricInterpretation") or _GRAY[1])

    @property
    def inverted(self) -> bool:
        return "INVERSE" in str(self.image.header.get("PresentationLUTShape")) or self._photometric == _GRAY[0]

    @property
    def rescale(self) -> tuple[Any, ...]:
        """Slope and intercept (PS3.3 C.11.1), empty where the values are what they are."""
        values = [
            self._value("PixelValueTransformationSequence", keyword) for keyword in ("RescaleSlope", "RescaleIntercept")
        ]
        slope, intercept = (decimals(value, 1) for value in values)
        return (*slope, *intercept) if slope and intercept and slope[0] != 0 else ()

    @property
    def window(self) -> tuple[Any, ...]:
        """Center, width and function of the first window (PS3.3 C.11.2.1.2), else of one that shows what is there.

        Without any, a viewer shows the whole range of the stored bits, which leaves a scan that uses few of them gray.
        Empty where the header does not help.
        """
        center, width = (
            first_decimal(self._value("FrameVOILUTSequence", word)) for word in ("WindowCenter", "WindowWidth")
        )
        if center and width and width[0] >= 1:
            function = str(self._value("FrameVOILUTSequence", "VOILUTFunction") or _FUNCTIONS[0])
            return (*center, *width, function if function in _FUNCTIONS else _FUNCTIONS[0])
        low, high = (first_decimal(self.image.header.get(f"{word}ImagePixelValue")) for word in ("Smallest", "Largest"))
        if low and high and low[0] < high[0] and not self.image.header.get("ModalityLUTSequence"):
            slope, intercept = self.rescale or (1.0, 0.0)
            ends = sorted(float(value) * float(slope) + float(intercept) for value in (*low, *high))
            return (*decimals(sum(ends) / 2, 1), *decimals(max(1.0, ends[1] - ends[0]), 1), _FUNCTIONS[0])
        return _HOUNSFIELD if self.image.modality == "CT" and self.rescale else ()

    def lut(self, keyword: str) -> Lut | None:
        """Read the first table of a LUT sequence, None where there is none or it is broken."""
        items = self.image.header.get(keyword)
        try:
            return Lut.from_item(items[0], signed=self.image.header.get("PixelRepresentation") == 1) if items else None
        except (AttributeError, TypeError, ValueError):
            return None

    def _value(self, sequence: str, keyword: str) -> Any:
        return group_value(self.image.header, self.number, sequence, keyword)

    @property
    def group(self) -> tuple[Any, ...]:
        """What the frames of one presentation state share."""
        image = self.image
        whole = image.sop_instance_uid if is_multi_frame(image.known_class_uid) else image.series_instance_uid
        alone = image.sop_instance_uid if self.lut("ModalityLUTSequence") or self.lut("VOILUTSequence") else ""
        aspect = round(aspect_of(image.header, self.number), 3)
        return (whole, alone, image.rows, image.columns, self.is_gray, self.inverted, self.rescale, aspect)


def write_presentation_states(context: Context) -> list[Dataset]:
    """Write the regions of a reading, one presentation state for the images of a series that can share one.

    Parameters
    ----------
    context : Context

    Returns
    -------
    list of Dataset
        Images of other sizes, other modality LUTs or other series, and each multi-frame image, have one of their own.
        Tiled images have none: their pixels are those of a whole slide.

    Raises
    ------
    WriteError
        If a region does not lie on its image.
    """
    groups: dict[tuple[Any, ...], list[_Frame]] = {}
    for image, number in key_frames(context):
        # A displayed area needs two corners that differ (PS3.3 C.10.4), and a single line has none.
        if "TotalPixelMatrixRows" not in image.header and min(image.rows, image.columns) > 1:
            frame = _Frame(image, number)
            groups.setdefault(frame.group, []).append(frame)
    return [_state(context, frames, index) for index, frames in enumerate(groups.values())]


def _state(context: Context, frames: Sequence[_Frame], index: int) -> Dataset:
    stand_ins = {frame.image.sop_instance_uid: _stand_in(frame) for frame in frames}
    layers, annotations = _graphics(context, frames, stand_ins)
    common = context.common("gsps", index, context.profile.languages, "marks")
    # This IOD has a date of its own (PS3.3 C.11.10).
    created = common.pop("content_date"), common.pop("content_time")
    is_commissioning = context.reading.model.commissioning
    arguments: dict[str, Any] = {
        "referenced_images": list(stand_ins.values()),
        "content_label": "AI_COMMISSIONING" if is_commissioning else "AI_FINDINGS",
        "content_description": COMMISSIONING["en"] if is_commissioning else "AI findings, not verified",
        "graphic_annotations": annotations,
        "graphic_layers": layers,
        **common,
    }
    result: Dataset
    if frames[0].is_gray:
        result = GrayscaleSoftcopyPresentationState(**arguments, **_grayscale(frames, stand_ins))
    else:
        profile = frames[0].image.header.get("ICCProfile")
        is_profile = isinstance(profile, bytes) and profile[36:40] == b"acsp"  # its signature (ICC.1, 7.2.10)
        result = ColorSoftcopyPresentationState(
            **arguments, icc_profile=profile if is_profile else pkgutil.get_data("highdicom", _SRGB)
        )
    result.Laterality = laterality(frames[0].image.header)
    result.PresentationCreationDate, result.PresentationCreationTime = created
    ratio = Fraction(aspect_of(frames[0].image.header, frames[0].number)).limit_denominator(_RATIO)
    result.DisplayedAreaSelectionSequence[0].PresentationPixelAspectRatio = [ratio.numerator, ratio.denominator]
    return context.finish(result)


def _stand_in(frame: _Frame) -> Dataset:
    attributes: dict[str, Any] = {"SamplesPerPixel": 1 if frame.is_gray else 3}
    if is_multi_frame(frame.image.known_class_uid):
        # The library looks for the values that it is given here too.
        attributes |= {
            "NumberOfFrames": frame.image.frames,
            "SharedFunctionalGroupsSequence": [Dataset()],
            "PerFrameFunctionalGroupsSequence": [],
        }
    return frame.image.stand_in(**attributes)


def _graphics(
    context: Context, frames: Sequence[_Frame], stand_ins: dict[str, Dataset]
) -> tuple[list[GraphicLayer], list[GraphicAnnotation]]:
    """Make a layer for the warning and one a finding, all named for the model, and what lies on them."""
    findings = context.reading.findings
    numbers = {(frame.image.sop_instance_uid, frame.number) for frame in frames}
    here = [
        index
        for index, finding in enumerate(findings)
        if any((region.sop_instance_uid, region.frame) in numbers for region in finding.regions)
    ]
    above = GraphicLayer(_layer_name(context, ""), 1, description=context.identity.name)
    layers = {
        index: GraphicLayer(
            _layer_name(context, f" {index + 1}"),
            order,
            description=region_name(context, index, context.profile.languages),
            display_color=hd.color.CIELabColor.from_string(colour_name(index)),
        )
        for order, index in enumerate(here, 2)
    }
    annotations = []
    for frame in frames:
        image, stand_in = frame.image, stand_ins[frame.image.sop_instance_uid]
        number = frame.number if is_multi_frame(image.known_class_uid) and image.frames > 1 else None
        size = (image.columns, image.rows)
        letters = letter_size(size)
        taken: list[Place] = [(0.0, max(0.0, image.rows - letters * 1.5), float(image.columns), float(image.rows))]
        notice = TextObject(
            clean_line(warning(context, context.profile.languages), SHORT_TEXT),
            units="PIXEL",
            bounding_box=taken[0],
            text_justification="LEFT",
        )
        annotations.append(GraphicAnnotation([stand_in], above, number, text_objects=[notice]))
        for index, layer in layers.items():
            outlines, names = [], []
            for place, region in enumerate(findings[index].regions):
                if (region.sop_instance_uid, region.frame) != (image.sop_instance_uid, frame.number):
                    continue
                points = polyline(region, image)
                outlines.append(
                    GraphicObject(
                        "POLYLINE",
                        points,
                        units="PIXEL",
                        tracking_id=context.tracking_identifier(findings[index], index + 1),
                        tracking_uid=context.uids.tracking_uid(index + 1, place),
                    )
                )
                name = region_name(context, index, context.profile.languages)
                text = (0.0, 0.0, min(font(letters).getlength(name), image.columns - 6.0), letters * 1.2)
                taken.append(_inside(free_place(text, region.box, size, taken), size))
                names.append(TextObject(name, units="PIXEL", bounding_box=taken[-1], text_justification="LEFT"))
            if outlines:
                annotations.append(GraphicAnnotation([stand_in], layer, number, None, outlines, names))
    return [above, *layers.values()], annotations


def _inside(place: Place, size: tuple[int, int]) -> Place:
    """Cut a place to the image, of which it keeps at least a pixel."""
    left, top = min(place[0], size[0] - 1.0), min(place[1], size[1] - 1.0)
    return left, top, max(left + 1.0, min(place[2], size[0])), max(top + 1.0, min(place[3], size[1]))


def _layer_name(context: Context, suffix: str) -> str:
    model = re.sub("[^A-Z0-9 ]+", " ", context.identity.name.upper()).strip()
    return f"AI {model}"[: _CODE_STRING - len(suffix)].rstrip() + suffix


def _grayscale(frames: Sequence[_Frame], stand_ins: dict[str, Dataset]) -> dict[str, Any]:
    """Give the transformations that the images have of their own.

    A presentation state replaces them all (PS3.4 N.2): one that left them out would show other grays.
    """
    first = frames[0]
    arguments: dict[str, Any] = {
        "presentation_lut_transformation": hd.PresentationLUTTransformation(
            presentation_lut_shape="INVERSE" if first.inverted else "IDENTITY"
        )
    }
    if (table := first.lut("ModalityLUTSequence")) is not None:
        lut = hd.ModalityLUT("US", max(table.first, 0), table.entries)
        _begin(lut, table.first)
        arguments["modality_lut_transformation"] = hd.ModalityLUTTransformation(modality_lut=lut)
    elif first.rescale:
        slope, intercept = first.rescale
        arguments["modality_lut_transformation"] = hd.ModalityLUTTransformation(intercept, slope, _rescale_type(first))
    if (table := first.lut("VOILUTSequence")) is not None:
        # What counts is the share of its own range (PS3.4 N.2), so that a table of 12 bits can be one of 16.
        entries = np.round(table.entries * ((2**16 - 1) / (2**table.bits - 1))).astype(np.uint16)
        voi = hd.VOILUT(max(table.first, 0), entries)
        _begin(voi, table.first)
        arguments["voi_lut_transformations"] = [SoftcopyVOILUTTransformation(voi_luts=[voi])]
    elif windows := list(_windows(frames, stand_ins)):
        arguments["voi_lut_transformations"] = windows
    return arguments


def _windows(frames: Sequence[_Frame], stand_ins: dict[str, Dataset]) -> Iterator[SoftcopyVOILUTTransformation]:
    """Give each window with the images or frames that it is for; without them where it is for all."""
    of_window: dict[tuple[Any, ...], list[_Frame]] = {}
    for frame in frames:
        of_window.setdefault(frame.window, []).append(frame)
    for window, its_frames in of_window.items():
        if not window:
            continue
        references = None
        if len(of_window) > 1:
            images = {frame.image.sop_instance_uid: stand_ins[frame.image.sop_instance_uid] for frame in its_frames}
            numbers = [frame.number for frame in its_frames] if its_frames[0].image.frames > 1 else None
            references = hd.content.ReferencedImageSequence(list(images.values()), numbers)
        yield SoftcopyVOILUTTransformation(window[0], window[1], None, window[2], referenced_images=references)


def _begin(item: Dataset, first: int) -> None:
    """Give a table a negative first value, which the library does not know."""
    if first < 0:
        count, _, bits = item.LUTDescriptor
        item.add(DataElement(0x00283002, "SS", [count, first, bits]))


def _rescale_type(frame: _Frame) -> str:
    told = clean_line(
        str(group_value(frame.image.header, frame.number, "PixelValueTransformationSequence", "RescaleType") or "")
    )
    return told or ("HU" if frame.image.modality == "CT" else "US")
