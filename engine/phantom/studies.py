"""Phantom studies as DICOM (Computed Radiography Image Storage), with their truth.

The studies vary in size, aspect ratio, bit depth, photometric interpretation and window, as a hospital's do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ComputedRadiographyImageStorage, ExplicitVRLittleEndian

from engine.findings import Box
from engine.phantom import scenes
from engine.phantom.drawing import Scene, draw

SMALLEST: Final = 320
LARGEST: Final = 1400


def truth_boxes(scene: Scene, rows: int, columns: int) -> list[tuple[str, Box]]:
    """Label and box of every insert in the SCOORD frame of an image of that size (PS3.3 C.18.6)."""
    size = (columns, rows, columns, rows)
    boxes = [(insert.label, insert.box) for insert in scene.inserts]
    return [(label, (box[0] * size[0], box[1] * size[1], box[2] * size[2], box[3] * size[3])) for label, box in boxes]


def write_phantoms(
    out: Path, count: int = 1, seed: int = 1, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Write `count` studies of one image each, and ``truth.json``.

    Plates and breasts take turns. The same seed gives the same files.

    Parameters
    ----------
    out : Path
        Folder; made if it is not there.
    count, seed : int
    progress : callable, optional
        Called with (studies written, count).

    Returns
    -------
    Path
        ``truth.json``: SOP Instance UID -> list of ``{"label", "box": [x0, y0, x1, y1]}``.
    """
    out.mkdir(parents=True, exist_ok=True)
    truth: dict[str, list[dict[str, object]]] = {}
    for number in range(count):
        dataset, boxes = phantom(seed, number)
        dataset.save_as(out / f"phantom-{seed}-{number:04d}.dcm", enforce_file_format=True)
        truth[dataset.SOPInstanceUID] = [{"label": label, "box": [round(v, 3) for v in box]} for label, box in boxes]
        if progress is not None:
            progress(number + 1, count)
    path = out / "truth.json"
    path.write_text(json.dumps(truth, indent=1) + "\n", encoding="utf-8")
    return path


def phantom(seed: int, number: int) -> tuple[FileDataset, list[tuple[str, Box]]]:
    """Make one phantom image with its truth; plates have even numbers, breasts odd ones."""
    rng = np.random.default_rng([seed, number])
    smaller = int(rng.integers(SMALLEST, 1000))
    if number % 2:
        aspect = float(np.exp(rng.uniform(np.log(0.5), np.log(1.2))))
        scene = scenes.breast(rng, aspect)
    else:
        aspect = float(np.exp(rng.uniform(np.log(0.6), np.log(1.6))))
        scene = scenes.plate(rng, aspect)
    rows, columns = (smaller, round(smaller * aspect)) if aspect >= 1 else (round(smaller / aspect), smaller)
    rows, columns = min(rows, LARGEST), min(columns, LARGEST)
    return dataset_of(scene, rows, columns, rng, seed, number), truth_boxes(scene, rows, columns)


def dataset_of(scene: Scene, rows: int, columns: int, rng: np.random.Generator, seed: int, number: int) -> FileDataset:
    """Draw a scene into a dataset of random bit depth, photometric interpretation and window."""
    bits = int(rng.choice([8, 10, 12, 14, 16]))
    inverted = bool(rng.random() < 0.4)
    grey = draw(scene, rows, columns)
    top = 2**bits - 1
    low, high = (0, top) if rng.random() < 0.5 else (top * rng.uniform(0, 0.2), top * rng.uniform(0.7, 1.0))
    stored = np.rint(low + (1 - grey if inverted else grey) * (high - low))
    dataset = _header(seed, number, scene)
    dataset.Rows, dataset.Columns = rows, columns
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    dataset.BitsAllocated = 8 if bits == 8 else 16
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.PixelRepresentation = 0
    dataset.ImagerPixelSpacing = [0.2, 0.2]
    if rng.random() < 0.6:
        dataset.WindowCenter = f"{(low + high) / 2 + 0.5:.1f}"
        dataset.WindowWidth = f"{high - low + 1:.1f}"
    pixels = stored.astype(np.uint8 if bits == 8 else np.uint16)
    dataset.set_pixel_data(pixels, dataset.PhotometricInterpretation, bits, generate_instance_uid=False)
    return dataset


def _uid(*parts: object) -> str:
    """A UID under 2.25 (PS3.5 B.2), derived so that the same phantom is the same instance."""
    digest = hashlib.sha256(repr(("phantom", *parts)).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def _header(seed: int, number: int, scene: Scene) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = UID(_uid(seed, number, "instance"))
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", Dataset(), file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID = _uid(seed, number, "study")
    dataset.SeriesInstanceUID = _uid(seed, number, "series")
    dataset.PatientName = f"PHANTOM^{scene.kind.upper()}"
    dataset.PatientID = f"PHANTOM-{seed}-{number}"
    dataset.PatientBirthDate = ""
    dataset.PatientSex = "O"
    dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = "20260101"
    dataset.StudyTime = dataset.SeriesTime = dataset.ContentTime = (
        f"{8 + number // 3600 % 12:02d}{number // 60 % 60:02d}{number % 60:02d}"
    )
    dataset.AccessionNumber = f"PH{seed}-{number}"[:16]
    dataset.ReferringPhysicianName = ""
    dataset.StudyID = str(number)
    dataset.StudyDescription = "QA phantom"
    dataset.Modality = "CR"
    dataset.SeriesNumber = dataset.InstanceNumber = 1
    dataset.SeriesDescription = f"{scene.kind} phantom"
    dataset.BodyPartExamined = "BREAST" if scene.kind == "breast" else ""
    dataset.ViewPosition = ""
    dataset.PatientOrientation = ""
    dataset.Laterality = ""
    dataset.Manufacturer = "QA phantom"
    dataset.ManufacturerModelName = "drawn"
    dataset.ImageType = ["DERIVED", "PRIMARY"]
    dataset.BurnedInAnnotation = "NO"
    return dataset
