"""Every kind of result is taken by archives, and starts no reading when it comes back."""

from __future__ import annotations

from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AllStoragePresentationContexts
from pynetdicom.dsutils import encode

from dicom_node.dimse.sop_classes import storage_sop_classes
from dicom_node.intake.identity import identify
from engine.errors import NotAnImageError
from engine.findings import Finding, ModelIdentity, Region, RunState, StudyReading
from engine.imaging import render_frame
from engine.study import load_instance
from sr_writer import OutputProfile, dump, kind_of, write_results

PROFILE = OutputProfile(name="everything", languages=("en",), pdf=True, key_objects=True)


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """Write a reading as everything that can be written; gives the files by kind."""
    source = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))
    names = {"en": "disc", "zh": "圆盘"}
    disc = Finding(
        "disc", "disc", names, names, 0.9, (Region(str(source.SOPInstanceUID), 1, (10.0, 10.0, 60.0, 60.0)),)
    )  # type: ignore[arg-type]
    reading = StudyReading(
        study_instance_uid=str(source.StudyInstanceUID),
        state=RunState.FINDINGS,
        narrative={"en": "Findings."},
        findings=(disc,),
        model=ModelIdentity("phantom reader", "1", "medrega-pacs", "ab" * 32, "scripted", "1", commissioning=True),
        decoding={"greedy": True},
        plan="phantom",
        prompts_version="1",
        prompts=(),
        images=(),
        not_read=(),
        held_back=(),
        created=datetime(2026, 1, 1, tzinfo=UTC),
    )
    return {kind_of(result): dump(result) for result in write_results(reading, [source], PROFILE)}


def test_every_kind_is_known_again_and_negotiated(files: dict[str, bytes]) -> None:
    assert set(files) == {"sr", "narrative-en", "seg", "gsps", "sc", "pdf", "kos"}
    common = {str(context.abstract_syntax) for context in AllStoragePresentationContexts}
    for kind, content in files.items():
        result = pydicom.dcmread(BytesIO(content))
        assert result.SOPClassUID in common & set(storage_sop_classes()), kind
        encoded = encode(result, is_implicit_vr=False, is_little_endian=True)
        assert encoded is not None
        assert identify(encoded, ExplicitVRLittleEndian).own, kind


def test_no_result_is_read_as_an_image(files: dict[str, bytes], tmp_path: Path) -> None:
    for kind, content in files.items():
        (tmp_path / kind).write_bytes(content)
        with pytest.raises(NotAnImageError):
            render_frame(load_instance(tmp_path / kind))
