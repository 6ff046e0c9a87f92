"""Which objects come out of a reading, and that the same ones come out again."""

from __future__ import annotations

import copy
import logging
import random
import uuid
from datetime import UTC, datetime, timedelta, timezone

import pytest
from pydicom.uid import UID
from sr_cases import (
    boxes_on,
    ct_series,
    finding,
    header,
    mammogram,
    pictures_of,
    reading,
    region,
    sources_of_every_kind,
)

from engine.errors import WriteError
from engine.findings import NotRead, RunState
from sr_writer import (
    WRITER_VERSION,
    OutputProfile,
    PredecessorRef,
    check_results,
    dump,
    kind_of,
    load_profile,
    write_results,
)

DX = "1.2.840.10008.5.1.4.1.1.1.1"


def uids_in(dataset):
    """Every UID value in a dataset, at any depth."""
    found = []
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                found += uids_in(item)
        elif element.VR == "UI":
            found += [str(value) for value in ([element.value] if isinstance(element.value, str) else element.value)]
    return found


EN = OutputProfile(languages=("en",))


@pytest.mark.parametrize("kind", sorted(sources_of_every_kind()))
def test_same_reading_headers_and_profile_give_the_same_bytes(kind, monkeypatch):
    sources = sources_of_every_kind()[kind]
    read = reading(sources, boxes_on(sources))
    first = [dump(result) for result in write_results(read, sources, OutputProfile())]
    random.seed(1)
    monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=1))
    second = [dump(result) for result in write_results(copy.deepcopy(read), sources, OutputProfile())]
    assert first == second


def test_order_of_the_headers_does_not_matter():
    sources = ct_series()
    read = reading(sources, boxes_on(sources))
    expected = [dump(result) for result in write_results(read, sources, OutputProfile())]
    assert [dump(result) for result in write_results(read, sources[::-1], OutputProfile())] == expected


@pytest.mark.parametrize("kind", ["ct series", "dx", "enhanced ct", "ultrasound multi-frame"])
def test_every_uid_is_a_source_s_a_standard_one_or_derived(kind):
    sources = sources_of_every_kind()[kind]
    known = {uid for source in sources for uid in uids_in(source)}
    for result in write_results(reading(sources, boxes_on(sources)), sources, OutputProfile()):
        for uid in uids_in(result) + uids_in(result.file_meta):
            assert uid in known or uid.startswith("2.25.") or UID(uid).name != uid, uid


def test_no_two_objects_share_a_uid_across_readings_profiles_and_languages():
    sources = ct_series()
    readings = [reading(sources, boxes_on(sources)), reading(sources, boxes_on(sources)[:2])]
    profiles = [
        OutputProfile(secondary_capture=False),
        OutputProfile(name="other"),
        load_profile("ihe-air"),
        OutputProfile(languages=("en",)),
        OutputProfile(languages=("zh", "en")),
    ]
    results = [result for read in readings for profile in profiles for result in write_results(read, sources, profile)]
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        assert len({result[keyword].value for result in results}) == len(results)


def test_superseding_results_are_other_objects_and_name_their_predecessors():
    sources = ct_series()
    read = reading(sources, boxes_on(sources))
    old = write_results(read, sources, OutputProfile())
    references = [
        PredecessorRef(result.StudyInstanceUID, result.SeriesInstanceUID, result.SOPClassUID, result.SOPInstanceUID)
        for result in old
    ]
    new = write_results(read, sources, OutputProfile(), predecessors=references)
    check_results(new, read, sources)
    assert not {result.SOPInstanceUID for result in old} & {result.SOPInstanceUID for result in new}
    named = {
        item.ReferencedSOPInstanceUID
        for study in new[0].PredecessorDocumentsSequence
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    assert named == {result.SOPInstanceUID for result in old if result.Modality == "SR"}
    assert all("PredecessorDocumentsSequence" not in result for result in new if result.Modality == "SEG")


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        (OutputProfile(), ["sr", "narrative-en", "narrative-zh", "seg", "gsps"]),
        (OutputProfile(languages=("zh",)), ["sr", "narrative-zh", "seg", "gsps"]),
        (OutputProfile(seg=False, narrative_sr=False), ["sr", "gsps"]),
        (OutputProfile(region_sr=False, seg=False, presentation_state=False), ["sr", "narrative-zh"]),
        (OutputProfile(seg=False, narrative_sr=False, presentation_state=False, key_objects=True), ["sr", "kos"]),
    ],
)
def test_profile_chooses_the_kinds(profile, expected):
    sources = ct_series()
    results = write_results(reading(sources, boxes_on(sources)), sources, profile)
    assert [kind_of(result) for result in results] == expected


@pytest.mark.parametrize(
    ("languages", "expected"), [(("en", "zh"), ["sr", "narrative-zh"]), (("zh", "en"), ["sr", "narrative-en"])]
)
@pytest.mark.parametrize("state", [RunState.NO_FINDINGS, RunState.UNUSABLE, RunState.NOT_RUN])
def test_reading_without_regions_is_text_and_never_an_empty_measurement_report(languages, expected, state):
    sources = ct_series()
    results = write_results(reading(sources, state=state), sources, OutputProfile(languages=languages))
    assert [kind_of(result) for result in results] == expected
    assert {result.ConceptNameCodeSequence[0].CodeValue for result in results} == {"18748-4"}
    assert results[0].SOPClassUID.name == "Enhanced SR Storage"


def test_finding_without_region_goes_into_the_text():
    sources = ct_series()
    read = reading(sources, [finding("edema", text={"en": "Edema of both lungs."})], commissioning=False)
    results = write_results(read, sources, OutputProfile(languages=("en",)))
    assert [kind_of(result) for result in results] == ["sr"]
    assert b"Edema of both lungs" in dump(results[0])


def test_no_narrative_is_written_where_there_is_nothing_to_say_and_no_size_to_tell():
    sources = [header(DX, "DX")]
    read = reading(sources, boxes_on(sources), narrative={"zh": "影像诊断：圆盘。"})
    kinds = [kind_of(result) for result in write_results(read, sources, OutputProfile())]
    assert kinds == ["sr", "narrative-zh", "seg", "gsps"]
    sources = ct_series()
    kinds = [kind_of(one) for one in write_results(reading(sources, boxes_on(sources), narrative={}), sources, EN)]
    assert kinds == ["sr", "narrative-en", "seg", "gsps"]


def test_partial_reading_says_so_in_every_language_and_is_not_complete():
    sources = ct_series()
    not_read = (NotRead(f"{sources[0].StudyInstanceUID}.7", None, "its pixels cannot be decoded"),)
    read = reading(sources, boxes_on(sources), narrative={}, partial=True, not_read=not_read)
    results = {kind_of(result): result for result in write_results(read, sources, OutputProfile())}
    assert results["sr"].CompletionFlag == "PARTIAL"
    assert b"its pixels cannot be decoded (1)" in dump(results["narrative-en"])
    assert "未阅读：its pixels cannot be decoded（1）".encode() in dump(results["narrative-zh"])


def test_every_object_says_what_it_is_and_who_made_it():
    sources = ct_series()
    read = reading(sources, boxes_on(sources))
    every = OutputProfile(name="every", pdf=True, key_objects=True)
    results = write_results(read, sources, every, pictures=pictures_of(sources))
    assert {kind_of(result).partition("-")[0] for result in results} == {
        *("sr", "narrative", "seg", "gsps", "sc", "pdf", "kos")
    }
    descriptions = {str(result.ContributingEquipmentSequence[0].ContributionDescription) for result in results}
    assert len(descriptions) == 1
    for words in (
        f"reading {read.digest}",
        f"weights sha256 {read.model.weights_digest}",
        f"prompts {read.prompts_version}",
        "decoding greedy=True, max_new_tokens=400",
        f"written by medrega-pacs {WRITER_VERSION}",
    ):
        assert words in descriptions.copy().pop()
    for result in results:
        equipment = result.ContributingEquipmentSequence[0]
        purpose = equipment.PurposeOfReferenceCodeSequence[0]
        assert (purpose.CodeValue, purpose.CodingSchemeDesignator) == ("109102", "DCM")
        assert equipment.Manufacturer == result.Manufacturer == "medrega-pacs"
        assert equipment.ManufacturerModelName == result.ManufacturerModelName == "phantom reader"
        assert list(equipment.SoftwareVersions) == list(result.SoftwareVersions)
        assert equipment.DeviceUID == result.DeviceUID
        assert result.ContentQualification == "RESEARCH"
        assert result.SeriesDescription.startswith("AI")
        assert result.SpecificCharacterSet == "ISO_IR 192"
        assert result.get("VerificationFlag", "UNVERIFIED") == "UNVERIFIED"
        assert result.get("PreliminaryFlag", "PRELIMINARY") == "PRELIMINARY"
        schemes = {item.CodingSchemeDesignator for item in result.CodingSchemeIdentificationSequence}
        assert "99MEDREGA" in schemes
        assert ("ab" * 32).encode() in dump(result)


def test_device_uid_changes_with_the_model():
    sources = ct_series()
    uids = {
        write_results(reading(sources, boxes_on(sources), weights=weights), sources, OutputProfile())[0].DeviceUID
        for weights in ("ab" * 32, "cd" * 32)
    }
    assert len(uids) == 2


@pytest.mark.parametrize("languages", [("en", "zh"), ("en",), ("zh",)])
def test_commissioning_results_say_in_every_object_and_language_that_they_are_not_clinical(languages):
    words = {"en": b"ot for clinical use", "zh": "不可用于临床".encode()}
    sources = ct_series()
    for found in (boxes_on(sources), []):
        results = write_results(reading(sources, found), sources, OutputProfile(languages=languages))
        for result in results:
            kind = kind_of(result)
            spoken = [kind[-2:]] if kind.startswith("narrative") else languages
            spoken = languages[:1] if kind == "sr" and not found else spoken
            for language in spoken:
                assert words[language] in dump(result), (kind, language)
            title = result.SeriesDescription
            assert all(("clinical" if language == "en" else "临床") in title for language in spoken)
    assert b"clinical use" not in b"".join(
        dump(result)
        for result in write_results(reading(sources, boxes_on(sources), commissioning=False), sources, OutputProfile())
    )


def test_content_time_is_the_readings_in_the_zone_of_the_study():
    sources = ct_series()
    results = write_results(reading(sources, boxes_on(sources)), sources, OutputProfile(presentation_state=False))
    assert {(str(result.ContentDate), str(result.ContentTime)) for result in results} == {("20261122", "102030.123456")}
    for source in sources:
        source.TimezoneOffsetFromUTC = "+0800"
    results = write_results(reading(sources, boxes_on(sources)), sources, OutputProfile(presentation_state=False))
    assert {(str(result.ContentDate), str(result.ContentTime)) for result in results} == {("20261122", "182030.123456")}
    assert {result.TimezoneOffsetFromUTC for result in results} == {"+0800"}
    contributed = {str(result.ContributingEquipmentSequence[0].ContributionDateTime) for result in results}
    assert contributed == {"20261122102030.123456+0000"}  # the same moment, with its own zone
    far = datetime(2026, 11, 22, 3, tzinfo=timezone(timedelta(hours=9)))
    assert far.astimezone(UTC).day == 21
    results = write_results(
        reading(sources, boxes_on(sources), created=far), sources, OutputProfile(presentation_state=False)
    )
    assert str(results[0].ContentDate) == "20261122"


def test_patient_data_is_in_no_log(caplog):
    caplog.set_level(logging.DEBUG)
    image = header(DX, "DX", PatientName="ZZTOP PHI", PatientID="ZZTOP-7", AccessionNumber="ZZTOP-8")
    read = reading([image], boxes_on([image]))
    check_results(write_results(read, [image], OutputProfile()), read, [image])
    assert "ZZTOP" not in caplog.text


def test_kind_of_another_object_is_refused():
    with pytest.raises(WriteError, match="not a result"):
        kind_of(mammogram())


def test_findings_on_several_radiographs_make_a_segmentation_each():
    images = [header(DX, "DX", number, rows=60 + number, columns=50) for number in (1, 2, 3)]
    read = reading(images, [finding("disc", *(region(image, (5, 5, 20, 30)) for image in images))])
    results = write_results(read, images, OutputProfile(narrative_sr=False))
    check_results(results, read, images)
    assert [kind_of(result) for result in results] == ["sr", "seg", "seg-2", "seg-3", "gsps", "gsps-2", "gsps-3"]
    frames = {result.FrameOfReferenceUID for result in results[1:4]}
    assert len(frames) == 3
    assert all(frame.startswith("2.25.") for frame in frames)
