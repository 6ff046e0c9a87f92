"""DICOM files that the engine's tests make for themselves, and those of pydicom's wheel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom.data
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

PYDICOM_FILES = Path(pydicom.data.__file__).parent / "test_files"
"""The files in pydicom's wheel; its own look-up by pattern would also try to download others."""


def image_dataset(pixels: np.ndarray, **elements: Any) -> Dataset:
    """A digital radiograph of these stored values: [rows, columns] or [rows, columns, 3], or with frames in front."""
    color = pixels.ndim >= 3 and pixels.shape[-1] == 3
    shape = pixels.shape[:-1] if color else pixels.shape
    dataset = Dataset()
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID = generate_uid()
    dataset.SeriesInstanceUID = generate_uid()
    dataset.Modality = "DX"
    dataset.PatientName = "ZZTOP^PHI"
    dataset.PatientID = "SECRET-ID"
    dataset.Rows, dataset.Columns = shape[-2:]
    dataset.SamplesPerPixel = 3 if color else 1
    dataset.PhotometricInterpretation = "RGB" if color else "MONOCHROME2"
    if color:
        dataset.PlanarConfiguration = 0
    bits = pixels.dtype.itemsize * 8
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(np.issubdtype(pixels.dtype, np.signedinteger))
    if len(shape) == 3:
        dataset.NumberOfFrames = shape[0]
    dataset.PixelData = pixels.tobytes() + bytes(pixels.nbytes % 2)
    dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def store(dataset: Dataset, path: Path, syntax: UID = ExplicitVRLittleEndian) -> Path:
    """Write a data set as a DICOM file."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", "1.2.3")
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", "1.2.3.4")
    dataset.save_as(path, enforce_file_format=True)
    return path


def completed(name: str, folder: Path) -> Path:
    """One of pydicom's files; a copy with the UIDs that it lacks, as samples of codecs often do."""
    path = PYDICOM_FILES / name
    dataset = dcmread(path)
    missing = {
        k: uid for k, uid in {"SeriesInstanceUID": "1.2.3", "StudyInstanceUID": "1.2"}.items() if k not in dataset
    }
    if not missing:
        return path
    for keyword, uid in missing.items():
        setattr(dataset, keyword, uid)
    dataset.save_as(folder / name)
    return folder / name
