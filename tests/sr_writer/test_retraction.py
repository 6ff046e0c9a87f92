"""Withdrawn results: a rejection note that names each of them, by IHE's codes."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from pydicom import dcmread
from sr_cases import boxes_on, charset, header, reading

from engine.errors import WriteError
from sr_writer import OutputProfile, RejectionReason, dump, write_results, write_retraction
from sr_writer.iods import missing_attributes

WHEN = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
TITLES = {"quality": "113001", "safety": "113037"}


@pytest.fixture(scope="module")
def results():
    """Write results of a study with a Chinese name and a time zone."""
    images = [charset("chrX2.dcm")]
    images[0].TimezoneOffsetFromUTC = "+0800"
    return write_results(reading(images, boxes_on(images)), images, OutputProfile(secondary_capture=False))


@pytest.mark.parametrize("reason", RejectionReason)
def test_a_retraction_names_every_result_under_ihes_title(results, reason, tmp_path, dciodvfy, dsrdump):
    note = write_retraction(results, reason, WHEN)
    path = tmp_path / "note.dcm"
    path.write_bytes(dump(note))
    assert dciodvfy(path) == []
    assert not list(missing_attributes(note))
    assert "withdrawn" in dsrdump("+Pl", path)
    note = dcmread(path)
    assert note.ConceptNameCodeSequence[0].CodeValue == TITLES[reason]
    referenced = {
        str(item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
        for item in note.ContentSequence
        if "ReferencedSOPSequence" in item and "ConceptNameCodeSequence" not in item
    }
    evidence = {
        str(item.ReferencedSOPInstanceUID)
        for series in note.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    assert referenced == evidence == {str(result.SOPInstanceUID) for result in results}


def test_a_retraction_belongs_to_its_study_and_says_who_wrote_the_results(results):
    note = write_retraction(results, RejectionReason.QUALITY, WHEN)
    for keyword in ("StudyInstanceUID", "PatientID", "PatientName", "AccessionNumber", "StudyDate", "DeviceUID"):
        assert note[keyword] == results[0][keyword]
    assert note.ContributingEquipmentSequence == results[0].ContributingEquipmentSequence
    assert (str(note.ContentDate), str(note.ContentTime)) == ("20261123", "160000")
    assert note.SeriesDescription.startswith("AI")
    assert note.SeriesInstanceUID not in {result.SeriesInstanceUID for result in results}


def test_the_same_retraction_is_the_same_bytes_and_another_is_another_object(results):
    note = write_retraction(results, RejectionReason.QUALITY, WHEN)
    assert dump(note) == dump(write_retraction(results[::1], RejectionReason.QUALITY, WHEN))
    others = [
        write_retraction(results[:1], RejectionReason.QUALITY, WHEN),
        write_retraction(results, RejectionReason.SAFETY, WHEN),
        write_retraction(results, RejectionReason.QUALITY, WHEN.replace(hour=9)),
    ]
    assert len({str(one.SOPInstanceUID) for one in (note, *others)}) == 4


def test_nothing_and_results_of_two_studies_are_refused(results):
    with pytest.raises(WriteError, match="one study"):
        write_retraction([], RejectionReason.QUALITY, WHEN)
    with pytest.raises(WriteError, match="one study"):
        write_retraction([results[0], header("1.2.840.10008.5.1.4.1.1.7", "OT")], RejectionReason.QUALITY, WHEN)
