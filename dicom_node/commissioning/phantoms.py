"""Phantom studies of the cases, with what is in them. The same run's identifier gives the same files.

They are drawn by the generator of the phantoms that the commissioning model was trained on, at a size, depth,
orientation and encoding of the case's own. Patients are marked as tests in name and identifier.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, MRImageStorage

from dicom_node.commissioning.cases import Case, Turn
from dicom_node.commissioning.turns import WORDS, turned, turned_box, turned_orientation
from dicom_node.demo.checks import Truth
from engine.gate import iou
from engine.phantom.drawing import Scene, draw
from engine.phantom.plates import plate
from engine.phantom.studies import truth_boxes

MODALITIES: Final = {
    "1.2.840.10008.5.1.4.1.1.1": "CR",
    "1.2.840.10008.5.1.4.1.1.1.1": "DX",
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.6.1": "US",
    "1.2.840.10008.5.1.4.1.1.3.1": "US",
}
_TURNS: Final[tuple[Turn, ...]] = tuple(WORDS)
_ALIKE: Final = 0.35
"""IoU under which a box and that of the turned scene cannot be taken for each other."""
_SLICE_DISTANCE: Final = 5.0


@dataclass(frozen=True, slots=True)
class Phantom:
    """A study as it is sent.

    Parameters
    ----------
    images : tuple of Dataset
        Headers with pixels, uncompressed, in order.
    files : tuple of Path
        What is sent.
    truth : dict of (str, int) to list of Truth
        By SOP instance UID and frame.
    """

    case: Case
    images: tuple[Dataset, ...]
    files: tuple[Path, ...]
    truth: dict[tuple[str, int], list[Truth]]

    @property
    def study_instance_uid(self) -> str:
        """Study Instance UID."""
        return str(self.images[0].StudyInstanceUID)


def write_phantom(case: Case, run: str, created: datetime, folder: Path) -> Phantom:
    """Draw a case's study into a folder.

    Parameters
    ----------
    case : Case
    run : str
        Identifier of the commissioning run: studies of two runs are different ones.
    created : datetime
        Study date and time.
    folder : Path
    """
    folder.mkdir(parents=True, exist_ok=True)
    images, files = [], []
    truth: dict[tuple[str, int], list[Truth]] = {}
    for number in range(case.images):
        header = _header(case, run, created, number)
        frames = []
        for frame in range(case.frames):
            scene = _scene(case, number * case.frames + frame)
            frames.append(turned(_stored(case, draw(scene, case.rows, case.columns)), case.turn))
            truth[(str(header.SOPInstanceUID), frame + 1)] = [
                Truth(label, turned_box(box, case.rows, case.columns, case.turn))
                for label, box in truth_boxes(scene, case.rows, case.columns)
            ]
        _set_pixels(header, case, np.stack(frames) if case.frames > 1 else frames[0])
        images.append(header)
        path = folder / f"{case.name}-{number + 1}.dcm"
        sent = FileDataset("", header, file_meta=header.file_meta, preamble=b"\0" * 128)
        if case.syntax.is_compressed:
            sent.compress(case.syntax, generate_instance_uid=False)
        elif case.syntax != ExplicitVRLittleEndian:
            sent.file_meta.TransferSyntaxUID = case.syntax
        sent.save_as(path, enforce_file_format=True, implicit_vr=case.syntax.is_implicit_VR, little_endian=True)
        files.append(path)
    return Phantom(case, tuple(images), tuple(files), truth)


def _scene(case: Case, number: int) -> Scene:
    """A plate of which no flip or turn looks like itself, so that one on the way cannot go unseen."""
    rng = np.random.default_rng([case.seed, number])
    aspect = case.columns * case.spacing[1] / (case.rows * case.spacing[0])
    while True:
        scene = plate(rng, aspect)
        boxes = [box for _, box in truth_boxes(scene, 1, 1)]
        if len(boxes) >= 2 and all(
            max(iou(turned_box(boxes[0], 1, 1, turn), box) for box in boxes) < _ALIKE for turn in _TURNS
        ):
            return scene


def _stored(case: Case, grey: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    """Stored values of a picture of grey values from 0 to 1."""
    top = 2**case.bits - 1
    kind: type[np.generic] = np.uint8 if case.bits == 8 else np.uint16
    if case.photometric == "RGB":  # a tint, so that planes that change places are seen
        grey = np.stack([grey, grey * 0.97, grey * 0.94], axis=-1)
    elif case.photometric == "MONOCHROME1":
        grey = np.float32(1) - grey
    if case.sop_class == CTImageStorage:
        grey, top, kind = grey - np.float32(0.5), 2000, np.int16
    stored: npt.NDArray[Any] = np.rint(grey * top).astype(kind)
    return stored


def _set_pixels(header: Dataset, case: Case, pixels: npt.NDArray[Any]) -> None:
    header.Rows, header.Columns = pixels.shape[1:3] if case.frames > 1 else pixels.shape[:2]
    header.SamplesPerPixel = 3 if case.photometric == "RGB" else 1
    header.PhotometricInterpretation = case.photometric
    if case.photometric == "RGB":
        header.PlanarConfiguration = 0
    signed = case.sop_class == CTImageStorage
    header.BitsAllocated = 8 if case.bits == 8 else 16
    header.BitsStored = 16 if signed else case.bits
    header.HighBit = header.BitsStored - 1
    header.PixelRepresentation = int(signed)
    if signed:
        header.RescaleIntercept, header.RescaleSlope, header.RescaleType = "0", "1", "HU"
        header.WindowCenter, header.WindowWidth = "0", "2000"
    elif case.bits != 8:
        header.WindowCenter, header.WindowWidth = str(2 ** (case.bits - 1)), str(2**case.bits)
    content = pixels.tobytes()
    header.PixelData = content + b"\0" * (len(content) % 2)
    header["PixelData"].VR = "OB" if case.bits == 8 else "OW"


def _uid(*parts: object) -> str:
    """A UID under 2.25 (PS3.5 B.2)."""
    digest = hashlib.sha256(repr(("commissioning", *parts)).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def _header(case: Case, run: str, created: datetime, number: int) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = case.sop_class
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header = FileDataset("", Dataset(), file_meta=meta, preamble=b"\0" * 128)
    header.SpecificCharacterSet, header.PatientName = case.names
    header.SOPClassUID = case.sop_class
    header.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = UID(_uid(run, case.name, number))
    header.StudyInstanceUID = _uid(run, case.name, "study")
    header.SeriesInstanceUID = _uid(run, case.name, "series")
    header.PatientID = f"TEST-{run}-{case.name}"
    header.PatientBirthDate, header.PatientSex = "", "O"
    header.StudyDate = header.SeriesDate = header.ContentDate = f"{created:%Y%m%d}"
    header.StudyTime = header.SeriesTime = header.ContentTime = f"{created:%H%M%S}"
    header.AccessionNumber = f"T{hashlib.sha256(header.PatientID.encode()).hexdigest()[:12]}".upper()
    header.ReferringPhysicianName = ""
    header.StudyID = run[:16]
    header.StudyDescription = "TEST: commissioning phantom"
    header.SeriesDescription = case.title
    header.Modality = MODALITIES[case.sop_class]
    header.SeriesNumber, header.InstanceNumber = 1, number + 1
    header.BodyPartExamined = "PHANTOM"
    header.Manufacturer, header.ManufacturerModelName = "QA phantom", "drawn"
    header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"] if case.orientation else ["ORIGINAL", "PRIMARY"]
    header.BurnedInAnnotation = "NO"
    rows, columns = case.spacing
    spacing = [columns, rows] if case.turn in ("quarter", "quarter-back") else [rows, columns]
    if case.orientation:
        _place(header, case, number, run, spacing)
    elif header.Modality == "US":
        header.LossyImageCompression = "00"
        if case.frames > 1:
            header.NumberOfFrames, header.FrameTime = case.frames, "40"
            header.FrameIncrementPointer = 0x00181063
    else:
        header.ImagerPixelSpacing = spacing
        header.PatientOrientation = _PROJECTION[case.turn]
        header.Laterality = ""
        if header.Modality == "DX":
            header.PresentationIntentType = "FOR PRESENTATION"
            header.ImageLaterality, header.PresentationLUTShape = "U", "IDENTITY"
            header.PixelIntensityRelationship, header.PixelIntensityRelationshipSign = "LOG", -1
            header.RescaleIntercept, header.RescaleSlope, header.RescaleType = "0", "1", "US"
    return header


_PROJECTION: Final[dict[Turn, list[str]]] = {
    "none": ["L", "F"],
    "left-right": ["R", "F"],
    "quarter": ["H", "L"],
}
"""Patient Orientation (PS3.3 C.7.6.1.1.1) of a projection that faces the patient, once turned."""


def _place(header: Dataset, case: Case, number: int, run: str, spacing: list[float]) -> None:
    """Where a slice lies (PS3.3 C.7.6.2): turning a picture on its pixels moves nothing in the patient."""
    along, down = np.asarray(case.orientation[:3]), np.asarray(case.orientation[3:])
    normal = np.cross(along, down)
    corner = np.array([-50.0, -60.0, 20.0]) + normal * _SLICE_DISTANCE * number
    turned_cosines, mirror, flip = turned_orientation(case.orientation, case.turn)
    corner = corner + along * case.spacing[1] * (case.columns - 1) * mirror
    corner = corner + down * case.spacing[0] * (case.rows - 1) * flip
    header.PatientPosition = "HFS"
    header.FrameOfReferenceUID, header.PositionReferenceIndicator = _uid(run, case.name, "frame"), ""
    header.ImageOrientationPatient = [f"{value:.6g}" for value in turned_cosines]
    header.ImagePositionPatient = [f"{value:.6f}"[:16] for value in corner]
    header.PixelSpacing, header.SliceThickness = spacing, _SLICE_DISTANCE
    if case.sop_class == CTImageStorage:
        header.KVP = "120"
    if case.sop_class == MRImageStorage:
        header.ScanningSequence, header.SequenceVariant, header.ScanOptions = "SE", "NONE", ""
        header.MRAcquisitionType, header.EchoTime, header.RepetitionTime, header.EchoTrainLength = "2D", 10, 500, 1
