"""Entries of the image library: the images that hold regions, described as far as they can be (PS3.16 TID 1600)."""

from __future__ import annotations

from typing import Any, Final

from pydicom.dataset import Dataset

from sr_writer.geometry import decimals
from sr_writer.sources import SourceImage

_CROSS_SECTIONAL: Final = {
    # TID 1604; the number of values of each
    "PixelSpacing": 2,
    "SliceThickness": 1,
    "ImagePositionPatient": 3,
    "ImageOrientationPatient": 6,
}
_CROSS_SECTIONAL_MODALITIES: Final = ("CT", "MR", "PT")


def library_entry(image: SourceImage) -> Dataset:
    """Make the stand-in of an image from which the library's entry is written.

    The descriptors of a modality are all there or none is: an entry without them is valid, and half of one is not.
    """
    attributes: dict[str, Any] = {}
    frame_of_reference = image.header.get("FrameOfReferenceUID")
    if frame_of_reference:
        attributes["FrameOfReferenceUID"] = str(frame_of_reference)
    values = {keyword: decimals(image.header.get(keyword), count) for keyword, count in _CROSS_SECTIONAL.items()}
    described = image.modality in _CROSS_SECTIONAL_MODALITIES and all(values.values())
    if described:
        attributes.update({key: list(numbers) if len(numbers) > 1 else numbers[0] for key, numbers in values.items()})
    else:
        attributes["Modality"] = ""
    return image.stand_in(**attributes)
