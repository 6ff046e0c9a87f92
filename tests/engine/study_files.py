"""CT and MR studies that the engine's tests make as real DICOM files: several series of a few small slices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from engine_files import image_dataset, store
from pydicom.uid import CTImageStorage, MRImageStorage, generate_uid

from engine.study import Study, load_studies

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)


class StudyFiles:
    """A study of one patient and date, written series by series.

    Parameters
    ----------
    folder : Path
    **elements
        What is the same in all its images.
    """

    def __init__(self, folder: Path, **elements: Any) -> None:
        self.folder = folder
        self.uids: dict[str, str] = {}
        self._common = {
            "StudyInstanceUID": generate_uid(),
            "FrameOfReferenceUID": generate_uid(),
            "Modality": "CT",
            "SOPClassUID": CTImageStorage,
            "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
            "PixelSpacing": [0.8, 0.8],
            "RescaleIntercept": -1024,
            "RescaleSlope": 1,
            **elements,
        }

    def series(
        self,
        name: str,
        count: int = 12,
        *,
        step: float = 1.0,
        axes: tuple[float, ...] = AXIAL,
        size: int = 8,
        origin: tuple[float, float, float] = (0.0, 0.0, 0.0),
        positions: list[float] | None = None,
        **elements: Any,
    ) -> list[str]:
        """Write a series of slices along their normal; returns their SOP Instance UIDs, in that order."""
        self.uids[name] = series = generate_uid()
        normal = np.cross(axes[:3], axes[3:])
        number = len(self.uids)
        instances = []
        for place in range(count):
            along = positions[place] if positions else place * step
            at = np.array(origin) + normal * along
            dataset = image_dataset(
                np.full((size, size), place % 7 * 100, np.uint16),
                **{
                    **self._common,
                    "SeriesInstanceUID": series,
                    "SeriesNumber": number,
                    "SeriesDescription": name,
                    "SeriesDate": "20260101",
                    "SeriesTime": f"{100000 + number}",
                    "InstanceNumber": place + 1,
                    "ImagePositionPatient": [f"{value:.11g}" for value in at],
                    "ImageOrientationPatient": [f"{value:.11g}" for value in axes],
                    "SliceThickness": step,
                    **elements,
                },
            )
            store(dataset, self.folder / f"{number:02d}-{place:03d}.dcm")
            instances.append(str(dataset.SOPInstanceUID))
        return instances

    def load(self) -> Study:
        """Read the files back."""
        (study,), refused = load_studies([self.folder])
        assert not refused
        return study


MR = {"Modality": "MR", "SOPClassUID": MRImageStorage, "ImageType": ["ORIGINAL", "PRIMARY", "M", "SE"]}
