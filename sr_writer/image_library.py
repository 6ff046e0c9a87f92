"""Entries of the image library: the images that hold regions, described as far as they can be (PS3.16 TID 1600)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from sr_writer.geometry import decimals
from sr_writer.iods import SINGLE_FRAME
from sr_writer.sources import SourceImage, Sources

_MODALITIES: Final[dict[str, Code]] = {
    code.value: code for code in (getattr(codes.cid29, name) for name in codes.cid29.dir())
}

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
    if image.frame_of_reference_uid:
        attributes["FrameOfReferenceUID"] = image.frame_of_reference_uid
    values = {keyword: decimals(image.header.get(keyword), count) for keyword, count in _CROSS_SECTIONAL.items()}
    described = image.modality in _CROSS_SECTIONAL_MODALITIES and all(values.values())
    if described:
        attributes.update({key: list(numbers) if len(numbers) > 1 else numbers[0] for key, numbers in values.items()})
    else:
        attributes["Modality"] = ""
    # The library codes the modality by SOP class, and knows it for some; `name_modalities` says what it is.
    return image.stand_in(SOPClassUID=SINGLE_FRAME, **attributes)


def name_modalities(report: Dataset, sources: Sources) -> None:
    """Code each library entry's modality as its header has it (PS3.16 CID 29): a mammogram may be a secondary capture.

    Parameters
    ----------
    report : Dataset
        The root of a measurement report; changed in place.
    sources : Sources
    """
    for entry in _entries(report):
        image = sources.image(str(entry.ReferencedSOPSequence[0].ReferencedSOPInstanceUID))
        for item in entry.ContentSequence:
            if item.name == codes.DCM.Modality and image.modality in _MODALITIES:
                item.ConceptCodeSequence = [CodedConcept.from_code(_MODALITIES[image.modality])]


def _entries(item: Dataset) -> Iterator[Dataset]:
    for child in item.get("ContentSequence") or []:
        if child.name == codes.DCM.ImageLibrary or child.name == codes.DCM.ImageLibraryGroup:
            yield from _entries(child)
        elif child.ValueType == "IMAGE":
            yield child
