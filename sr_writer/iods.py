"""Information object definitions: what the library knows of them, and what it is told where it knows nothing.

It looks attributes up in its own copy of PS3.3, which has neither private nor most retired classes; images of such
classes are all the same received, read and referred to. It is given a secondary capture in their place, and the
references get their own class back when a result is finished.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Final

# Not public, and the only place that says which IODs the library knows; its version is pinned for this.
from highdicom._standard_utils import (
    get_iod_module_map,
    get_module_attribute_map,
    get_sop_class_iod_map,
    is_attribute_in_iod,
)
from pydicom.dataset import Dataset
from pydicom.uid import MultiFrameTrueColorSecondaryCaptureImageStorage, SecondaryCaptureImageStorage

SINGLE_FRAME: Final = str(SecondaryCaptureImageStorage)
MULTI_FRAME: Final = str(MultiFrameTrueColorSecondaryCaptureImageStorage)

_BY_CHOICE: Final = ("sr-document-content", "segmentation-multi-frame-functional-groups")
"""Modules whose tables list every alternative as required: which one is, depends on the item or frame."""


def known_class(sop_class_uid: str, frames: int) -> str:
    """Give the SOP class under which the library is told of an image: its own wherever it is known.

    Parameters
    ----------
    sop_class_uid : str
    frames : int
    """
    if sop_class_uid in get_sop_class_iod_map():
        return sop_class_uid
    return MULTI_FRAME if frames > 1 else SINGLE_FRAME


@cache
def is_multi_frame(sop_class_uid: str) -> bool:
    """Whether a known class's IOD has frames, whatever an instance of it has."""
    return bool(is_attribute_in_iod("NumberOfFrames", sop_class_uid))


def restore_classes(dataset: Dataset, classes: dict[str, str]) -> None:
    """Give every reference the SOP class of the instance that it refers to.

    Parameters
    ----------
    dataset : Dataset
        Changed in place, sequences included.
    classes : dict of str to str
        SOP class UID by SOP instance UID.
    """
    for element in dataset:
        if element.VR != "SQ":
            continue
        for item in element.value:
            sop_class_uid = classes.get(str(item.get("ReferencedSOPInstanceUID") or ""))
            if sop_class_uid is not None and item.get("ReferencedSOPClassUID") != sop_class_uid:
                item.ReferencedSOPClassUID = sop_class_uid
            restore_classes(item, classes)


def missing_attributes(dataset: Dataset) -> Iterator[str]:
    """Name what the mandatory modules of a dataset's IOD require and it lacks (PS3.3 Annex A).

    Type 1 is present with a value, type 2 is present; what is nested is required of every item of its sequence.
    """
    attributes = get_module_attribute_map()
    for module in get_iod_module_map()[get_sop_class_iod_map()[str(dataset.SOPClassUID)]]:
        if module["usage"] != "M" or module["key"] in _BY_CHOICE:
            continue
        for attribute in attributes[module["key"]]:
            keyword, kind = attribute["keyword"], attribute["type"]
            for item in _items(dataset, attribute["path"]) if kind in ("1", "2") else ():
                if keyword not in item or (kind == "1" and item[keyword].is_empty):
                    yield ".".join([*attribute["path"], keyword])


def _items(dataset: Dataset, path: Sequence[str]) -> list[Dataset]:
    level = [dataset]
    for keyword in path:
        level = [item for parent in level for item in parent.get(keyword) or []]
    return level
