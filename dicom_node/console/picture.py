"""Pictures: the images of a study as they lie in the spool, in their order, and a frame of one rendered as PNG.

Nothing of them is kept: a picture is made when it is asked for. What is remembered of a file are three numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Final

from PIL import Image
from pydicom.uid import UID

from dicom_node.intake.identity import RefusedError, read_elements
from dicom_node.ledger import Ledger
from dicom_node.ledger.holdings import Held, Selection
from dicom_node.spool import Spool, SpoolError, content_of, data_set_offset
from engine.errors import NodeError
from engine.imaging import Window, render_frame
from engine.limits import Limits
from engine.study import Instance, load_instance

_ORDER: Final = ("SeriesNumber", "InstanceNumber", "NumberOfFrames", "Rows")


@dataclass(frozen=True, slots=True)
class StudyImage:
    """An image of a study in the spool.

    Parameters
    ----------
    number : int
        Its place in the study, from 1: by Series Number, series and Instance Number.
    sop_instance_uid : str
    path : Path
    frames : int
    limits : Limits
        What reading it may cost.
    """

    number: int
    sop_instance_uid: str
    path: Path
    frames: int
    limits: Limits

    def load(self) -> Instance:
        """Its header.

        Raises
        ------
        NotDicomError
            If it cannot be read.
        """
        return load_instance(self.path, self.limits)


def images_of(ledger: Ledger, spool: Spool, study_instance_uid: str) -> list[StudyImage]:
    """The images of a study that the spool has; reports, presentation states and the like are none."""
    found = []
    for held in ledger.holdings.instances(Selection(study_instance_uid)):
        path = spool.path(held.path)
        try:
            series, instance, frames = _numbers(path, held.transfer_syntax_uid)
        except (OSError, ValueError, SpoolError, RefusedError):  # purged meanwhile, or broken
            continue
        if frames:
            found.append(((series, held.series_instance_uid, instance, held.sop_instance_uid), held, path, frames))
    found.sort(key=lambda one: one[0])
    return [
        StudyImage(number, held.sop_instance_uid, path, frames, spool.limits.of_reading)
        for number, (_, held, path, frames) in enumerate(found, 1)
    ]


def image_of(ledger: Ledger, spool: Spool, study_instance_uid: str, sop_instance_uid: str) -> Instance:
    """One image of a study.

    Raises
    ------
    NodeError
        If the spool does not have it.
    NotDicomError
        If it cannot be read.
    """
    held: list[Held] = ledger.holdings.instances(Selection(study_instance_uid, "", sop_instance_uid), limit=1)
    if not held:
        raise NodeError("the image is not in the spool, or no more")
    return load_instance(spool.path(held[0].path), spool.limits.of_reading)


def png(instance: Instance, frame: int, window: Window | None = None) -> bytes:
    """Render a frame in its own pixel grid; gray where the image is.

    Raises
    ------
    ImageError
        If it is no image, cannot be decoded, or exceeds a limit.
    """
    rgb = render_frame(instance, frame, window).rgb
    gray = str(instance.header.get("PhotometricInterpretation") or "").startswith("MONOCHROME")
    content = BytesIO()
    # Fast before small: it is looked at once, and goes over the network of a house.
    Image.fromarray(rgb[:, :, 0] if gray else rgb).save(content, "PNG", compress_level=1)
    return content.getvalue()


@lru_cache(maxsize=20_000)
def _numbers(path: Path, transfer_syntax_uid: str) -> tuple[int, int, int]:
    """Series Number, Instance Number and Number of Frames, 0 where there are none. Files in the spool never change."""
    with content_of(path, data_set_offset(path)) as content:
        told = read_elements(content, UID(transfer_syntax_uid), _ORDER)
    series, instance, frames = (_integer(told.get(keyword)) for keyword in _ORDER[:3])
    return series, instance, max(1, frames) if told.get("Rows") else 0


def _integer(value: object) -> int:
    try:
        return int(value or 0)  # type: ignore[call-overload, no-any-return]
    except (TypeError, ValueError):
        return 0
