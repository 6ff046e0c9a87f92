"""What the library knows of the sources' SOP classes, and what it is told where it knows nothing.

It looks attributes up in its own copy of PS3.3, which has neither private nor most retired classes; images of such
classes are all the same received, read and referred to. It is given a secondary capture in their place, and the
references get their own class back when a result is finished.
"""

from __future__ import annotations

from typing import Final

# Not public, and the only place that says which IODs the library knows; its version is pinned for this.
from highdicom._standard_utils import get_sop_class_iod_map, is_attribute_in_iod
from pydicom.dataset import Dataset
from pydicom.uid import MultiFrameTrueColorSecondaryCaptureImageStorage, SecondaryCaptureImageStorage

SINGLE_FRAME: Final = str(SecondaryCaptureImageStorage)
MULTI_FRAME: Final = str(MultiFrameTrueColorSecondaryCaptureImageStorage)


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
