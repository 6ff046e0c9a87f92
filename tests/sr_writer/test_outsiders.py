"""What a tester with nothing but the issue's words found: sources and readings that gave a wrong object, or none."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from pydicom.dataelem import DataElement
from sr_cases import DX, boxes_on, ct_series, finding, header, pictures_of, reading, region, slide
from sr_cases import testdata as header_of

from engine.errors import WriteError
from sr_writer import (
    OutputProfile,
    RejectionReason,
    check_results,
    dump,
    kind_of,
    load_profile,
    write_results,
    write_retraction,
)

BOX = (10.0, 20.0, 30.0, 40.0)
EVERYTHING = OutputProfile(name="everything", measurements="num", pdf=True, key_objects=True)


def valid(read, sources, profile, folder, dciodvfy):
    """Write, check and validate; gives the paths by kind."""
    results = write_results(read, sources, profile, pictures=pictures_of(sources))
    check_results(results, read, sources)
    paths = {kind_of(result): folder / f"{kind_of(result)}.dcm" for result in results}
    for result in results:
        paths[kind_of(result)].write_bytes(dump(result))
        assert dciodvfy(paths[kind_of(result)]) == [], kind_of(result)
    return results, paths


@pytest.mark.parametrize("source", [lambda: header_of("CT_small.dcm"), slide])
def test_a_frame_of_reference_that_is_no_uid_counts_as_none(source, tmp_path, dciodvfy, dsrdump):
    image = source()
    image.FrameOfReferenceUID = "abc"
    results, paths = valid(reading([image], boxes_on([image])), [image], EVERYTHING, tmp_path, dciodvfy)
    assert "SCOORD" in dsrdump("+Pl", paths["sr"])
    assert all("display" in result.ContentDescription for result in results if result.Modality == "SEG")


def test_a_value_under_a_wrong_value_representation_is_corrected_and_half_a_statement_left_out(tmp_path, dciodvfy):
    image = header(DX, "DX")
    image[0x00080020] = DataElement(0x00080020, "LO", "20260102")
    image.PatientIdentityRemoved = "YES"  # and not a word on how
    image[0x00200010] = DataElement(0x00200010, "US", 7)
    image[0x00101030] = DataElement(0x00101030, "SH", "70.5")
    image[0x00100010] = DataElement(0x00100010, "LO", "Doe^Jane")
    results, _ = valid(reading([image], boxes_on([image])), [image], load_profile("ihe-air"), tmp_path, dciodvfy)
    assert "PatientIdentityRemoved" not in results[0]
    assert [results[0][keyword].VR for keyword in ("StudyDate", "PatientWeight", "PatientName")] == ["DA", "DS", "PN"]
    assert results[0].StudyID == "7"
    assert (str(results[0].StudyDate), str(results[0].PatientName)) == ("20260102", "Doe^Jane")


def test_a_patient_id_that_is_a_sequence_is_refused():
    image = header(DX, "DX")
    image[0x00100020] = DataElement(0x00100020, "SQ", [header(DX, "DX")])
    with pytest.raises(WriteError, match="PatientID"):
        write_results(reading([image], boxes_on([image])), [image], OutputProfile())


def test_the_same_instance_under_two_patients_is_refused():
    image = header(DX, "DX")
    other = copy.deepcopy(image)
    other.PatientID = "ID-2"
    with pytest.raises(WriteError, match="different PatientID"):
        write_results(reading([image], boxes_on([image])), [image, other], OutputProfile())


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (40, 1)])
def test_a_single_line_of_pixels_gives_valid_objects(rows, columns, tmp_path, dciodvfy):
    image = header(DX, "DX", rows=rows, columns=columns)
    read = reading([image], [finding("disc", region(image, (0, 0, columns, rows)))])
    _, paths = valid(read, [image], EVERYTHING, tmp_path, dciodvfy)
    assert {"sr", "seg", "sc", "pdf"} <= set(paths)


def test_a_finding_too_long_for_a_page_is_cut_on_it(tmp_path, dciodvfy):
    image = header(DX, "DX")
    words = {"en": "a shadow " * 3000, "zh": "阴影\n" * 3000}
    read = reading([image], [finding("disc", region(image, BOX), text=words, notes=("note",) * 100)])
    _, paths = valid(read, [image], EVERYTHING, tmp_path, dciodvfy)
    assert {"pdf", "pdf-2"} <= set(paths)


def test_what_lies_nowhere_on_an_image_is_said_to_every_destination(tmp_path, dciodvfy, dsrdump, tid1500reader):
    image = header(DX, "DX")
    here, nowhere = finding("disc", region(image, BOX)), finding("Cardiomegaly", text={"en": "Wide heart."})
    both, one = (reading([image], findings, commissioning=False) for findings in ([here, nowhere], [here]))
    _, paths = valid(both, [image], load_profile("ihe-air"), tmp_path, dciodvfy)
    tree = dsrdump("+Pl", paths["sr"])
    assert '"Qualitative Evaluations"' in tree
    assert tree.count("Wide heart") == 1
    tid1500reader("--inputDICOM", paths["sr"], "--outputMetadata", tmp_path / "sr.json")
    assert len(json.loads((tmp_path / "sr.json").read_text(encoding="utf-8"))["Measurements"]) == 1
    _, paths = valid(both, [image], load_profile("viewer"), tmp_path, dciodvfy)
    assert "Wide heart" not in dsrdump("+Pl", paths["sr"])
    assert "Wide heart" in dsrdump("+Pl", paths["narrative-en"])
    pictures = [
        write_results(read, [image], replace(load_profile("minimal"), name="alone"), pictures=pictures_of([image]))[0]
        for read in (both, one)
    ]
    assert pictures[0].Rows > pictures[1].Rows


def test_a_retraction_is_the_same_whatever_order_the_results_came_in():
    images = ct_series(2)
    results = write_results(reading(images, boxes_on(images)), images, OutputProfile(secondary_capture=False))
    when = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
    one, other = (write_retraction(order, RejectionReason.SAFETY, when) for order in (results, results[::-1]))
    assert dump(one) == dump(other)
