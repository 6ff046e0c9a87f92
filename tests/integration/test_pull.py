"""Studies are fetched from a real Orthanc, whichever way it gives them, and queued when they are whole."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
import pytest
from peers import Orthanc, listens, running, running_orthanc, wait_until
from ports import free_port
from pydicom.data import get_testdata_file
from pydicom.uid import RLELossless, generate_uid

from dicom_node.cli import main
from dicom_node.dimse.listener import Listener
from dicom_node.dimse.scu import Peer, find_files, send
from dicom_node.intake.storage import Storage
from dicom_node.ledger import Ledger, State
from dicom_node.settings import Settings, Source
from dicom_node.sources.archive import open_archive
from dicom_node.sources.counts import expected_instances
from dicom_node.sources.priors import prior_of
from dicom_node.sources.pull import pull
from dicom_node.spool import Spool
from engine.errors import NodeError
from engine.plan import load_plans
from engine.priors import Prior, prior_mismatch
from engine.study import load_studies

MOVE_PORT = free_port()
"""Of the node's listener: Orthanc must know it before any test does."""


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """An Orthanc that knows the node as a move destination."""
    with running_orthanc(
        tmp_path_factory.mktemp("orthanc"),
        DicomModalities={"medrega": ["MEDREGA", "127.0.0.1", MOVE_PORT]},
        DicomAlwaysAllowMove=True,
        DicomAlwaysAllowGet=True,
        Plugins=["/usr/share/orthanc/plugins"],
        DicomWeb={"Enable": True, "Root": "/dicom-web/"},
    ) as server:
        yield server


@pytest.fixture
def study(orthanc: Orthanc) -> str:
    """A CT study of four slices in the archive, two of them compressed."""
    uid, series = generate_uid(), generate_uid()
    for number in range(4):
        image = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))
        image.StudyInstanceUID, image.SeriesInstanceUID, image.InstanceNumber = uid, series, number + 1
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        if number > 1:
            image.compress(RLELossless, generate_instance_uid=False)
        buffer = pydicom.filebase.DicomBytesIO()
        image.save_as(buffer)
        orthanc.post("/instances", buffer.getvalue())
    return str(uid)


@dataclass(frozen=True)
class Here:
    """This node: settings, spool, ledger, and a listener."""

    settings: Settings
    storage: Storage
    ledger: Ledger

    def source(self, name: str = "archive") -> Source:
        return self.settings.source(name)

    def files(self, study: str) -> list[pydicom.Dataset]:
        folder = self.storage.spool.root / "studies" / study
        return [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))] if folder.is_dir() else []

    def state(self, study: str) -> State:
        return self.ledger.study(study).runs[-1].state


@pytest.fixture
def here(tmp_path: Path, orthanc: Orthanc) -> Iterator[Here]:
    peer = orthanc.peer
    reached: dict[str, Any] = {"aet": peer.aet, "port": peer.port}
    settings = Settings(
        data={"path": tmp_path / "data", "minimum_free_mib": 0},
        listener={"port": MOVE_PORT},
        sources=(
            {"name": "archive", **reached},
            {"name": "getter", **reached, "retrieve": "get"},
            {"name": "web", "protocol": "dicomweb", "url": f"{orthanc.url}/dicom-web"},
        ),
    )
    ledger = Ledger.open(settings)
    spool = Spool(settings.data.path)
    listener = Listener(settings.listener, spool, ledger)
    listener.start()
    yield Here(settings, Storage(spool, ledger), ledger)
    listener.stop(2)
    ledger.close()


@pytest.mark.parametrize("source", ["archive", "getter", "web"])
def test_a_study_comes_whole_and_waits_no_quiet_time(here: Here, study: str, source: str) -> None:
    seen = []
    found = pull(here.settings, here.source(source), study, here.storage, on_progress=seen.append)
    assert (found.ok, found.completed, found.failed) == (True, 4, 0), found
    assert here.state(study) is State.COMPLETE
    assert seen[-1].completed == 4
    assert seen[-1].total in (4, None)
    assert len(here.files(study)) == 4
    sender = here.source(source).title
    assert {str(one.file_meta.SendingApplicationEntityTitle) for one in here.files(study)} == {sender}


@pytest.mark.parametrize("source", ["getter", "web"])
def test_objects_come_as_they_are_stored(here: Here, study: str, source: str) -> None:
    pull(here.settings, here.source(source), study, here.storage)
    syntaxes = sorted(str(one.file_meta.TransferSyntaxUID) for one in here.files(study))
    assert syntaxes.count(RLELossless) == 2, syntaxes


@pytest.mark.parametrize("source", ["archive", "web"])
def test_a_source_says_how_many_images_a_study_has(here: Here, study: str, source: str) -> None:
    assert expected_instances(here.source(source), study) == 4
    assert expected_instances(here.source(source), generate_uid()) is None


def test_what_the_source_does_not_have_is_refused(here: Here) -> None:
    with pytest.raises(NodeError, match="archive has no study"):
        pull(here.settings, here.source(), generate_uid(), here.storage)


def test_an_unknown_move_destination_is_told_with_advice(here: Here, study: str) -> None:
    found = pull(here.settings, here.source(), study, here.storage, entry="NOBODY")
    assert not found.ok
    assert not here.files(study)
    assert "status 0x" in found.reason
    assert "NOBODY among its destinations" in found.advice


def test_a_series_alone_leaves_the_study_open(here: Here, study: str) -> None:
    (series,) = open_archive(here.source(), "MEDREGA").query(
        "SERIES", {"StudyInstanceUID": study}, ["SeriesInstanceUID"]
    )
    found = pull(
        here.settings, here.source("getter"), study, here.storage, series_instance_uids=[series.SeriesInstanceUID]
    )
    assert (found.ok, found.completed) == (True, 4)
    assert here.state(study) is State.RECEIVING


def test_the_command_says_what_came_and_ends_accordingly(
    here: Here, study: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in here.settings.to_environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("dicom_node.logs.set_up_logging", lambda _settings: None)  # it would outlive this test

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["medrega-pacs", *arguments])
        try:
            main()
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0

    assert run("pull", "--study", study, "--from", "archive") == 0
    assert "4 images fetched from archive; the study is COMPLETE" in capsys.readouterr().out
    assert run("pull", "--study", generate_uid(), "--from", "archive") == 1
    assert "archive has no study" in capsys.readouterr().err
    assert run("pull", "--study", "../x", "--from", "archive") == 2
    assert run("pull", "--study", study, "--from", "archive", "--entry", "NOBODY") == 2
    assert "no entry point" in capsys.readouterr().err
    assert run("pull", "--study", study, "--from", "nowhere") == 1
    assert "no source is named 'nowhere'" in capsys.readouterr().err


CHEST = load_plans()["ct-chest"].model_copy(update={"priors": 1})


def kept(orthanc: Orthanc, date: str, **elements: Any) -> str:
    """A chest CT of one patient in the archive; its study's UID."""
    image = chest(date, **elements)
    buffer = pydicom.filebase.DicomBytesIO()
    image.save_as(buffer)
    orthanc.post("/instances", buffer.getvalue())
    return str(image.StudyInstanceUID)


def chest(date: str, **elements: Any) -> pydicom.Dataset:
    image = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))
    image.StudyInstanceUID, image.SeriesInstanceUID = generate_uid(), generate_uid()
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    image.PatientBirthDate, image.PatientSex, image.BodyPartExamined = "19600102", "F", "CHEST"
    image.StudyDate = image.SeriesDate = date
    for keyword, value in elements.items():
        setattr(image, keyword, value)
    return image


@pytest.mark.parametrize("source", ["archive", "getter", "web"])
def test_the_newest_prior_of_the_same_patient_and_region_is_set_aside(
    here: Here, orthanc: Orthanc, tmp_path: Path, source: str
) -> None:
    patient = f"P-{source}"
    kept(orthanc, "20240101", PatientID=patient)
    newest = kept(orthanc, "20250101", PatientID=patient)
    kept(orthanc, "20250301", PatientID=patient, PatientBirthDate="19900101")  # another one, by the same ID
    kept(orthanc, "20250401", PatientID=f"{patient}X")  # the same name
    kept(orthanc, "20250501", PatientID=patient, BodyPartExamined="HEAD")
    kept(orthanc, "20250601", PatientID=patient, Modality="MR")
    kept(orthanc, "20270101", PatientID=patient)
    path = tmp_path / "current.dcm"
    chest("20260101", PatientID=patient).save_as(path)
    ((study,), _) = load_studies([path])
    sources = [one.model_copy(update={"priors": one.name == source}) for one in here.settings.sources]
    settings = here.settings.model_copy(update={"sources": tuple(sources)})

    with prior_of(settings, here.ledger, here.storage.spool, study, CHEST, lambda: None) as prior:
        assert prior.reason == ""
        assert prior.study is not None
        assert prior.study.study_instance_uid == newest
        assert prior_mismatch(prior.study, study, CHEST) is None
        assert here.ledger.studies() == []
        assert list(here.storage.spool.instances()) == []
    assert here.storage.spool.priors(newest) == []
    dump = "\n".join(sqlite3.connect(here.settings.data.path / "ledger.sqlite3").iterdump())
    assert patient not in dump
    assert "19600102" not in dump


def test_without_a_prior_the_reason_is_told(here: Here, tmp_path: Path) -> None:
    path = tmp_path / "current.dcm"
    chest("20260101", PatientID="P-nobody").save_as(path)
    ((study,), _) = load_studies([path])
    with prior_of(here.settings, here.ledger, here.storage.spool, study, CHEST, lambda: None) as prior:
        assert prior == Prior(None, "no source of priors is set")
    asked = here.settings.model_copy(update={"sources": (here.source().model_copy(update={"priors": True}),)})
    with prior_of(asked, here.ledger, here.storage.spool, study, CHEST, lambda: None) as prior:
        assert prior.study is None
        assert prior.reason == "the source has no earlier study that is known to be of the same patient"
    chest("20260101", PatientID="P*").save_as(path)
    ((study,), _) = load_studies([path])
    with prior_of(asked, here.ledger, here.storage.spool, study, CHEST, lambda: None) as prior:
        assert prior.reason == "the study's Patient ID cannot be asked for"


def test_dcmtk_gives_by_move_and_by_get(here: Here, tmp_path: Path) -> None:
    port = free_port()
    folder = tmp_path / "dcmqrscp"
    folder.mkdir()
    config = tmp_path / "dcmqrscp.cfg"
    config.write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
        f"HostTable BEGIN\nmedrega = (MEDREGA, 127.0.0.1, {MOVE_PORT})\nHostTable END\n"
        "VendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\nDCMQR {folder} RW (200, 1024mb) ANY\nAETable END\n",
        encoding="ascii",
    )
    images = [chest("20250101", StudyInstanceUID=generate_uid()) for _ in range(2)]
    for image in images:
        image.save_as(tmp_path / f"{image.SOPInstanceUID}.dcm")
    reached = {"aet": "DCMQR", "port": port}
    with running(["/usr/bin/dcmqrscp", "-c", str(config), "-x="], tmp_path / "dcmqrscp.log") as process:
        wait_until(lambda: listens(port), "dcmqrscp to listen", process)
        files, _ = find_files(sorted(tmp_path.glob("*.dcm")))
        assert all(result.ok for result in send(files, Peer("DCMQR", "127.0.0.1", port)))
        for image, way in zip(images, ("move", "get"), strict=True):
            source = Source(name=way, **reached, retrieve=way)
            study = str(image.StudyInstanceUID)
            assert expected_instances(source, study) == 1
            found = pull(here.settings, source, study, here.storage)
            assert (found.ok, found.completed, here.state(study)) == (True, 1, State.COMPLETE), (way, found)
