"""Exports for support: nobody is in them, what belonged together still does, and the objects are as valid as before."""

from __future__ import annotations

import subprocess
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from node_bench import image, name_again, node_settings
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import SecondaryCaptureImageStorage, UltrasoundImageStorage, generate_uid
from study_bench import StudyBench, corners, finding, reading_of
from typer.testing import CliRunner

from dicom_node.cli.app import app
from dicom_node.deidentification import DeidentificationError, Deidentifier
from dicom_node.ledger import Ledger
from dicom_node.reading.results import addressed, store_results
from dicom_node.routing.decision import Decision
from dicom_node.settings import Settings
from dicom_node.spool import Spool
from engine.errors import NodeError
from engine.study import load_studies

MARK = "ZQXVPATIENT"


def with_items(**values: object) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def marked(number: int, study: str, series: str) -> Dataset:
    """An image that names its patient wherever it can: at the top, in sequences, in private and odd places."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values that are none
        dataset = corners(48, 64, study=study, series=series, InstanceNumber=number)
        values = {
            "PatientName": f"{MARK}^ANNA=曌龘^{MARK}",
            "PatientID": f"{MARK}-1",
            "OtherPatientIDs": [f"{MARK}-2", "4711-4712"],
            "PatientBirthDate": "18990131",
            "PatientAddress": f"{MARK} street",
            "PatientComments": f"{MARK} says",
            "AccessionNumber": f"{MARK}-A",
            "StudyDescription": f"{MARK} chest",
            "SeriesDescription": f"{MARK} pa",
            "ReferringPhysicianName": "HOUSEDOCTOR^GREGORY",
            "InstitutionName": f"{MARK} hospital",
            "BodyPartExamined": MARK,
            "Manufacturer": "tests",
            "ManufacturerModelName": f"of {MARK}",
            "SoftwareVersions": "HOUSEDOCTOR edition",
            "DerivationDescription": "seen by a neighbour",
            "ImageComments": f"{MARK} comment",
            "FrameOfReferenceUID": f"{study}.77",
            "BurnedInAnnotation": "NO",
        }
        for keyword, value in values.items():
            setattr(dataset, keyword, value)
        dataset.RequestAttributesSequence = Sequence(
            [with_items(RequestedProcedureDescription=MARK, ScheduledProcedureStepID=MARK)]
        )
        dataset.ReferencedImageSequence = Sequence(
            [with_items(ReferencedSOPClassUID=dataset.SOPClassUID, ReferencedSOPInstanceUID=f"{study}.88")]
        )
        dataset.ProcedureCodeSequence = Sequence(
            [with_items(CodeValue="1", CodingSchemeDesignator="99T", CodeMeaning=f"Chest of {MARK}")]
        )
        staff = with_items(CodeValue="E48213", CodingSchemeDesignator="99T", CodeMeaning="Radiographer 7")
        dataset.OperatorIdentificationSequence = Sequence([with_items(PersonIdentificationCodeSequence=[staff])])
        site = with_items(CodeValue="HOSP-77", CodingSchemeDesignator="99T", CodeMeaning="St Elsewhere")
        dataset.InstitutionCodeSequence = Sequence([site])
        dataset.RetrieveURL = f"https://archive.example/studies/{study}"
        dataset.PatientBirthDateInAlternativeCalendar = "Meiji 32"
        dataset.AnatomicRegionSequence = Sequence(
            [with_items(CodeValue="2", CodingSchemeDesignator="99T", CodeMeaning="Chest")]
        )
        block = dataset.private_block(0x0011, "PRIVATEMAKER", create=True)
        block.add_new(1, "LO", MARK)
        dataset.add_new(0x60003000, "OW", MARK.encode() + b"\0")
        dataset.add_new(0x00080099, "UN", MARK.encode() + b"\0")
        dataset.add_new(0x0040E001, "ST", f"by {MARK}")
        dataset.file_meta.SourceApplicationEntityTitle = MARK
        dataset.preamble = MARK.encode().ljust(128, b"\0")
    return dataset


@pytest.fixture
def settings(tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Of a node whose study of two marked images was read by a model that repeats the name."""
    monkeypatch.setenv("MEDREGA_PACS__LEDGER__URL", f"sqlite:///{tmp_path / 'ledger.sqlite3'}")
    settings = node_settings(tmp_path)
    bench = StudyBench(ledger, Spool.of(settings))
    study, series = str(generate_uid()), str(generate_uid())
    images = [marked(number, study, series) for number in (1, 2)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bench.receive(*images)
        claim = bench.claim()
        said = {"en": f"A disc of {MARK}.", "zh": f"{MARK} 的圆盘。"}
        found = finding(images[0], (8, 16, 12, 20), text=said, names={"en": "Disc", "zh": "圆盘"})
        reading = replace(reading_of(images, found), narrative={"en": f"Findings: {MARK} has a disc.", "zh": "圆盘。"})
        bench.spool.store_reading(claim.run_id, reading.to_json())
        ledger.runs.reading_stored(claim, reading.digest, "phantom", 1)
        with bench.spool.files(claim, lambda: None) as files:
            (loaded,), _ = load_studies(files)
            results, _ = store_results(bench.spool, claim, reading, loaded, addressed(Decision(), settings)[0])
        ledger.runs.results_stored(claim, results, {})
    for name, value in settings.to_environment().items():
        if "LEDGER" not in name:
            monkeypatch.setenv(name, value)
    return settings


def exported(ledger: Ledger, out: Path, *options: str) -> tuple[str, dict[str, Dataset]]:
    """What the command says, and what it wrote by kind."""
    (study,) = ledger.studies()
    done = CliRunner().invoke(app, ["export", study.study_instance_uid, "--out", str(out), *options])
    datasets = [dcmread(path) for path in sorted(out.rglob("*.dcm"))]
    kinds: dict[str, Dataset] = {}
    for dataset in datasets:
        kinds.setdefault(f"{dataset.Modality}{dataset.InstanceNumber if dataset.Modality == 'CR' else ''}", dataset)
    return done.output, kinds


def originals(settings: Settings) -> dict[str, Dataset]:
    return {str(data.SOPInstanceUID): data for data in map(dcmread, settings.data.path.rglob("*.dcm"))}


def uids_in(dataset: Dataset) -> Iterator[str]:
    for element in dataset.iterall():
        if element.VR == "UI" and element.value:
            yield from element.value if isinstance(element.value, list) else [str(element.value)]


def test_nobody_is_found_in_it(settings: Settings, ledger: Ledger, tmp_path: Path) -> None:
    exported(ledger, tmp_path / "out", "--deidentify")
    files = list((tmp_path / "out").rglob("*.dcm"))
    assert len(files) >= 5
    words = [
        MARK,
        "18990131",
        "4711-4712",
        "HOUSEDOCTOR",
        "neighbour",
        "PRIVATEMAKER",
        "20260301",
        "曌",
        "E48213",
        "HOSP-77",
        "St Elsewhere",
        "archive.example",
        "Meiji",
        *originals(settings),
    ]
    for word in words:
        forms = (word.encode(), word.lower().encode(), word.encode("gb18030"), word.encode("utf-16-le"))
        found = [path.name for path in files if any(form in path.read_bytes() for form in forms)]
        assert (word, found) == (word, [])
    assert not any(MARK in str(path) for path in files)
    assert {path.stat().st_mode & 0o077 for path in files} == {0}


@pytest.mark.usefixtures("settings")
def test_what_belonged_together_still_does(ledger: Ledger, tmp_path: Path) -> None:
    _, kinds = exported(ledger, tmp_path / "out", "--deidentify")
    written = [dcmread(path) for path in (tmp_path / "out").rglob("*.dcm")]
    assert {"CR1", "CR2", "SR", "SEG", "PR"} <= set(kinds)
    first = kinds["CR1"]
    assert {data.StudyInstanceUID for data in written} == {first.StudyInstanceUID}
    assert {data.PatientID for data in written} == {first.PatientID}
    assert first.SeriesInstanceUID == kinds["CR2"].SeriesInstanceUID
    assert first.FrameOfReferenceUID == kinds["CR2"].FrameOfReferenceUID
    for kind in ("SR", "SEG", "PR"):
        assert first.SOPInstanceUID in set(uids_in(kinds[kind])), kind
    assert (first.Rows, first.pixel_array.max(), first.pixel_array[17, 9]) == (48, 255, 255)
    codes = [item.ConceptNameCodeSequence[0].CodeMeaning for item in kinds["SR"].ContentSequence]
    assert "Imaging Measurements" in codes or "Findings" in str(codes)
    assert first.AnatomicRegionSequence[0].CodeMeaning == "Chest"
    assert first.Manufacturer == "tests"


def test_it_says_that_and_how_it_was_deidentified(settings: Settings, ledger: Ledger, tmp_path: Path) -> None:
    _, kinds = exported(ledger, tmp_path / "out", "--deidentify")
    for dataset in kinds.values():
        assert dataset.PatientIdentityRemoved == "YES"
        assert dataset.LongitudinalTemporalInformationModified == "REMOVED"
        codes = {(item.CodeValue, item.CodingSchemeDesignator) for item in dataset.DeidentificationMethodCodeSequence}
        assert codes == {("113100", "DCM"), ("113103", "DCM"), ("113104", "DCM")}
        assert not [element.tag for element in dataset.iterall() if element.tag.is_private]
    (trail,) = (settings.data.path / "audit").glob("*.jsonl")
    assert "study-exported" in trail.read_text()


@pytest.mark.usefixtures("settings")
def test_two_exports_have_nothing_in_common(ledger: Ledger, tmp_path: Path) -> None:
    _, one = exported(ledger, tmp_path / "one", "--deidentify")
    _, two = exported(ledger, tmp_path / "two", "--deidentify")
    assert one["CR1"].PatientID != two["CR1"].PatientID
    shared = set(uids_in(one["CR1"])) & set(uids_in(two["CR1"]))
    assert all(uid.startswith("1.2.840.10008.") for uid in shared)


def test_validators_find_no_more_than_in_the_originals(settings: Settings, ledger: Ledger, tmp_path: Path) -> None:
    def errors(paths: list[Path]) -> set[tuple[str, str]]:
        found = set()
        for path in paths:
            done = subprocess.run(["/usr/bin/dciodvfy", str(path)], capture_output=True, check=False)
            lines = (done.stdout + done.stderr).decode("utf-8", "replace").splitlines()
            assert lines
            found |= {(str(dcmread(path).SOPClassUID), line) for line in lines if line.startswith("Error")}
        return found

    exported(ledger, tmp_path / "out", "--deidentify")
    before = errors(list(settings.data.path.rglob("*.dcm")))
    assert errors(list((tmp_path / "out").rglob("*.dcm"))) - before == set()


@pytest.mark.usefixtures("settings")
def test_pixels_that_may_tell_are_left_out_unless_somebody_looked(ledger: Ledger, tmp_path: Path) -> None:
    said, kinds = exported(ledger, tmp_path / "out", "--deidentify")
    assert "left out" in said
    assert "OT" not in kinds  # the secondary captures and the printed report
    said, kinds = exported(ledger, tmp_path / "looked", "--deidentify", "--burned-in")
    assert kinds["OT"].PatientIdentityRemoved == "YES"
    for arguments in (["1.2.999", "--out", "new"], [ledger.studies()[0].study_instance_uid, "--out", str(tmp_path)]):
        done = CliRunner().invoke(app, ["export", *arguments, "--deidentify"])
        assert isinstance(done.exception, NodeError)
    assert not list(tmp_path.glob("new"))


@pytest.mark.parametrize(
    ("elements", "burned_in", "refused"),
    [
        ({"BurnedInAnnotation": "YES"}, False, True),
        ({"BurnedInAnnotation": "YES"}, True, False),
        ({"BurnedInAnnotation": "NO"}, False, False),
        ({"RecognizableVisualFeatures": "YES"}, False, True),
        ({"SOPClassUID": SecondaryCaptureImageStorage, "BurnedInAnnotation": "NO"}, False, True),
        ({"SOPClassUID": UltrasoundImageStorage}, False, True),
        ({"SOPClassUID": UltrasoundImageStorage, "BurnedInAnnotation": "NO"}, False, False),
        ({"EncapsulatedDocument": b"%PDF"}, True, True),
    ],
)
def test_what_is_refused(elements: dict[str, object], burned_in: bool, refused: bool) -> None:
    dataset = image(**elements)
    if refused:
        with pytest.raises(DeidentificationError):
            Deidentifier(burned_in=burned_in).apply(dataset)
    else:
        Deidentifier(burned_in=burned_in).apply(dataset)
        assert dataset.PatientIdentityRemoved == "YES"


@pytest.mark.parametrize(
    "name",
    [
        "CT_small.dcm",
        "MR_small.dcm",
        "reportsi.dcm",
        "rtplan.dcm",
        "JPEG2000.dcm",
        "image_dfl.dcm",
    ],
)
def test_files_of_all_kinds_go_through(name: str, tmp_path: Path) -> None:
    path = get_testdata_file(name)
    assert path is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = dcmread(str(path))
        people = [str(element.value) for element in dataset.iterall() if element.VR == "PN" and element.value]
        deidentifier = Deidentifier(burned_in=True)
        deidentifier.learn(dataset)
        deidentifier.apply(dataset)
        dataset.save_as(tmp_path / "out.dcm", enforce_file_format=True)
        again = dcmread(tmp_path / "out.dcm")
    assert not [element for element in again.iterall() if element.VR == "PN" and str(element.value) in people]


def test_without_the_option_it_is_a_copy_and_the_trail_says_so(
    settings: Settings, ledger: Ledger, tmp_path: Path
) -> None:
    _, kinds = exported(ledger, tmp_path / "out")
    assert kinds["CR1"].PatientID == f"{MARK}-1"
    (trail,) = (settings.data.path / "audit").glob("*.jsonl")
    assert "with what identifies the patient" in trail.read_text()


@pytest.mark.parametrize("options", [(), ("--deidentify",)])
@pytest.mark.parametrize("keyword", ["SeriesInstanceUID", "SOPInstanceUID"])
def test_no_object_says_where_it_is_written(
    settings: Settings, ledger: Ledger, tmp_path: Path, keyword: str, options: tuple[str, ...]
) -> None:
    (tmp_path / "out").mkdir()
    received = next((settings.data.path / "studies").rglob("*.dcm"))
    name_again(received, keyword, "1.2.840.10008./../../outside")
    said, kinds = exported(ledger, tmp_path / "out", *options)
    assert "1 left out: its UIDs are none" in said
    assert kinds
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith("outside")]
