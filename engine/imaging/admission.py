"""Which objects are images that may be read: judged from the header, before a pixel is decoded."""

from __future__ import annotations

import re
from typing import Final

from pydicom.uid import UID

from engine.errors import NotAnImageError, UndecodableError
from engine.study import Instance, is_own_result

_STORAGE: Final = "1.2.840.10008.5.1.4.1.1."
# SOP classes by the beginning of their UID behind `_STORAGE` (PS3.4 B.5), and what they are to a person.
_NOT_IMAGES: Final = {
    "88.59": "a Key Object Selection",
    "88.67": "a radiation dose report",
    "88.68": "a radiation dose report",
    "88.73": "a radiation dose report",
    "88.76": "a radiation dose report",
    "88": "a structured report",
    "11": "a presentation state",
    "66": "a segmentation, registration or raw data",
    "67": "a real world value mapping",
    "68": "a surface scan",
    "30": "a parametric map",
    "9": "a waveform",
    "104": "an encapsulated document",
    "78": "an ophthalmic measurement",
    "79": "an ophthalmic report",
    "80": "an ophthalmic map",
    "481.2": "a radiotherapy dose",
    "481.3": "a radiotherapy structure set",
    "481": "a radiotherapy object",
}
_IMAGES_AMONG_THEM: Final = ("481.1",)  # RT Image: a portal image of the patient
# Image Type (0008,0008) of the pictures that scanners make of their dose reports; whole values, as a low dose scan is
# an image like others. Where it does not tell, the series' description does.
_DOSE_PICTURE = re.compile(r"DOSE([ _](INFO|REPORT|SCREEN))?|CT_SOM\d+ PROT", re.IGNORECASE)
_DOSE_SERIES = re.compile(
    r"\bdose[ _-]*(info|page|record|report|screen|sheet|summary)|\bpatient[ _]protocol\b|剂量(报告|信息)", re.IGNORECASE
)


def check_image(instance: Instance) -> None:
    """Refuse what is no image of a patient, and what declares more pixels than are decoded.

    Raises
    ------
    NotAnImageError
        If the SOP class holds no image, the object describes none, or it is a picture of a dose report.
    UndecodableError
        If the declared size is not that of an image or exceeds the limit.
    """
    if (kind := _kind(instance)) is not None:
        raise NotAnImageError(f"the object is no image but {kind}")
    header = instance.header
    if header.get("Rows") is None or header.get("Columns") is None or not header.get("PhotometricInterpretation"):
        raise NotAnImageError("the object describes no image (Rows, Columns, PhotometricInterpretation)")
    rows, columns = header.Rows, header.Columns
    if not isinstance(rows, int) or not isinstance(columns, int) or rows < 1 or columns < 1:
        raise UndecodableError("the image's Rows and Columns are no size")
    if rows * columns > (limit := instance.limits.pixels):
        raise UndecodableError(f"the image declares {columns} x {rows} pixels, more than the limit of {limit}")


def _kind(instance: Instance) -> str | None:
    uid = instance.sop_class_uid
    if uid.startswith(_STORAGE):
        tail = uid.removeprefix(_STORAGE)
        if not _under(tail, _IMAGES_AMONG_THEM):
            for beginning, kind in _NOT_IMAGES.items():
                if _under(tail, (beginning,)):
                    return kind
    elif not UID(uid).is_private and "Image" not in UID(uid).name:
        return f"of the kind {UID(uid).name!r}"
    types = instance.header.get("ImageType") or []
    words = [types] if isinstance(types, str) else [str(word) for word in types]
    description = str(instance.header.get("SeriesDescription") or "")
    if is_own_result(instance.header):
        return "a result of this software"
    if any(_DOSE_PICTURE.fullmatch(word.strip()) for word in words) or _DOSE_SERIES.search(description):
        return "a picture of a dose report"
    return None


def _under(tail: str, beginnings: tuple[str, ...]) -> bool:
    return any(tail == beginning or tail.startswith(f"{beginning}.") for beginning in beginnings)
