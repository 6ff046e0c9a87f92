"""What the study page is made of: images in their order, pictures, marks, the timeline."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from node_bench import image, node_settings
from PIL import Image
from pydicom.uid import generate_uid
from study_bench import StudyBench, corners, finding, reading_of

from dicom_node.console.marks import outline
from dicom_node.console.patient import Patient
from dicom_node.console.picture import image_of, images_of, png
from dicom_node.console.study_view import Asked, StudyView
from dicom_node.ledger import DeliveryState, Ledger, State
from dicom_node.ledger.records import Outcome
from dicom_node.spool import Spool
from engine.errors import NodeError
from engine.imaging import Window
from engine.masks import pack


@pytest.fixture
def bench(tmp_path: Path, ledger: Ledger) -> StudyBench:
    return StudyBench(ledger, Spool.of(node_settings(tmp_path)))


def view(bench: StudyBench, study: str, asked: Asked | None = None) -> StudyView:
    return StudyView.of(bench.ledger, bench.spool, study, asked or Asked(), "en")


def test_images_stand_in_the_order_of_their_numbers_however_they_arrived(bench: StudyBench) -> None:
    study, series = generate_uid(), generate_uid()
    slices = [image(study, series, SeriesNumber=2, InstanceNumber=n) for n in (3, 1, 2)]
    scout = image(study, SeriesNumber=1)
    report = image(study, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33", Rows=None, Columns=None, PixelData=None)
    bench.receive(*slices, report, scout)
    found = [one.sop_instance_uid for one in images_of(bench.ledger, bench.spool, study)]
    assert found == [scout.SOPInstanceUID, *(slices[n].SOPInstanceUID for n in (1, 2, 0))]


def test_a_picture_has_the_images_own_pixels_and_the_window_that_is_asked_for(bench: StudyBench) -> None:
    dataset = image(PhotometricInterpretation="MONOCHROME1")
    study = bench.receive(dataset)
    instance = image_of(bench.ledger, bench.spool, study, dataset.SOPInstanceUID)
    own, windowed = (np.asarray(Image.open(BytesIO(png(instance, 1, w)))) for w in (None, Window(128, 2)))
    stored = np.frombuffer(dataset.PixelData, np.uint8).reshape(48, 64)
    assert (own == 255 - stored).all()
    assert (windowed == np.where(stored >= 128, 0, 255)).all()
    with pytest.raises(NodeError, match="not in the spool"):
        image_of(bench.ledger, bench.spool, study, "1.2.3")


def test_the_first_finding_is_shown_and_frames_lead_from_image_to_image(bench: StudyBench) -> None:
    study, series = generate_uid(), generate_uid()
    first = image(study, series, InstanceNumber=1)
    video = image(study, series, InstanceNumber=2, NumberOfFrames=2, PixelData=bytes(2 * 48 * 64))
    last = image(study, series, InstanceNumber=3, PixelSpacing=[2, 1])
    bench.receive(last, video, first)
    found = finding(video, (8, 16, 12, 20), frame=2)
    bench.read(reading_of([first, video, last], found))
    seen = view(bench, study)
    assert seen.shown is not None
    assert (seen.shown.image.number, seen.shown.frame) == (2, 2)
    assert (seen.shown.before, seen.shown.after) == ((2, 1), (3, 1))
    (mark,) = seen.shown.marks
    assert (mark.name, mark.box, mark.width, mark.height) == ("Disc", (8, 16, 12, 20), 4, 4)
    assert [(place.image, place.frame, place.several) for place in seen.places(found)] == [(2, 2, True)]
    beyond = view(bench, study, Asked(99, 99)).shown
    assert beyond is not None
    assert (beyond.image.number, beyond.frame, beyond.after, beyond.before) == (3, 1, None, (2, 2))
    assert (beyond.aspect, beyond.height, beyond.marks) == (2, 96, [])


def test_an_image_that_is_none_says_why_and_the_others_are_there(bench: StudyBench) -> None:
    study = generate_uid()
    bench.receive(image(study, SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4"), image(study, SeriesNumber=2))
    seen = view(bench, study)
    assert seen.shown is not None
    assert "a segmentation" in seen.shown.problem
    assert seen.shown.after == (2, 1)


def test_stages_have_their_times_and_what_may_be_done_goes_by_the_state(bench: StudyBench) -> None:
    dataset = corners(32, 32)
    study = bench.receive(dataset)
    seen = view(bench, study)
    assert (seen.is_live, seen.can_cancel, seen.can_retry, seen.can_reread) == (True, True, False, False)
    claim = bench.read(reading_of([dataset], finding(dataset, (8, 16, 12, 20))), ["pacs"])
    (due,) = bench.ledger.deliveries.claim(claim.run_id, "pacs", "elsewhere:1:1", 60)
    later = Outcome(due.id, DeliveryState.PENDING, None, "no answer", bench.ledger.clock())
    bench.ledger.deliveries.finish(claim.run_id, "pacs", "elsewhere:1:1", [later])
    (due,) = bench.ledger.deliveries.claim(claim.run_id, "pacs", "elsewhere:1:1", 60)
    sent = Outcome(due.id, DeliveryState.DELIVERED, 0, "")
    bench.ledger.deliveries.finish(claim.run_id, "pacs", "elsewhere:1:1", [sent])
    seen = view(bench, study)
    assert (seen.is_live, seen.can_cancel, seen.can_retry, seen.can_reread) == (False, False, False, True)
    assert seen.can_retract
    steps = [step for step in seen.timeline if step.to_state is not None]
    assert [step.to_state for step in steps][-3:] == [State.WRITING, State.DELIVERING, State.DELIVERED]
    assert [step.lasted is not None for step in steps] == [True] * (len(steps) - 1) + [False]
    (shipment,) = seen.shipments
    assert (shipment.run, shipment.destination, shipment.items[0].attempts) == (1, "pacs", 2)
    assert [event.reason for event in shipment.attempts] == [
        "pacs: 1 pending: no answer",
        "pacs: 1 delivered",
    ]


def test_a_reading_that_is_gone_says_so(bench: StudyBench) -> None:
    dataset = corners(32, 32)
    study = bench.receive(dataset)
    claim = bench.read(reading_of([dataset]))
    bench.spool.remove_readings([claim.run_id])
    seen = view(bench, study)
    assert (seen.reading, seen.problem) == (None, "The reading is not in the spool, or no more.")
    with pytest.raises(NodeError, match="no image of the study"):
        view(bench, "1.2.3")


def test_a_mask_is_drawn_along_its_edge() -> None:
    mask = pack(np.array([[0, 1, 1], [0, 0, 1]], bool), 10, 20, "by hand")
    assert mask is not None
    assert outline(mask) == "M11 20H13M11 21H12M12 22H13M11 20V21M12 21V22M13 20V22"


def test_a_patient_has_every_writing_of_the_name() -> None:
    header = image(patient="Yamada^Tarou=山田^太郎=やまだ^たろう", PatientBirthDate="19700131", PatientSex="M")
    patient = Patient.of(header)
    assert patient.names == ("Yamada Tarou", "山田 太郎", "やまだ たろう")
    assert (patient.birth_date, patient.sex, patient.patient_id) == ("1970-01-31", "M", "P1")
    header.PatientName = "half a \udce4 pair"
    assert Patient.of(header).names == ("half a ? pair",)
    assert Patient.of(image(PatientName=None)).names == ()
