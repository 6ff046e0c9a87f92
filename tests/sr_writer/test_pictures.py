"""What is burned in and printed: boxes at their place, words that are there, and nothing of the patient."""

from __future__ import annotations

import re
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pypdf import PdfReader
from sr_cases import boxes_on, ct_series, finding, header, pictures_of, reading, region, sources_of_every_kind

from engine.errors import UndecodableError, WriteError
from engine.findings import Mask, RunState
from sr_writer import OutputProfile, check_results, dump, kind_of, write_results
from sr_writer.drawing import Mark, colour, draw_marks
from sr_writer.fonts import font, wrapped
from sr_writer.pictures import aspect_of
from sr_writer.secondary_capture import MAX_CAPTURES, burned_in_annotation

CR = "1.2.840.10008.5.1.4.1.1.1"
PRINTED = OutputProfile(name="printed", pdf=True, key_objects=True)
SELECTED = OutputProfile(name="selected", seg=False, key_objects=True)
CAPTURED = OutputProfile(name="captured", region_sr=False, narrative_sr=False, seg=False, presentation_state=False)


def results_of(kind, images, findings, profile, **more):
    read = reading(images, findings, **more)
    results = write_results(read, images, profile, pictures=pictures_of(images))
    check_results(results, read, images)
    return [result for result in results if kind_of(result).partition("-")[0] == kind]


def test_boxes_and_outlines_are_drawn_where_they_are():
    bits = "".join("ff" if 2 <= row < 8 else "00" for row in range(10))  # the middle rows of 8 x 10
    marks = [
        Mark((10, 20, 60, 80), "", colour(0)),
        Mark((70, 20, 78, 30), "", colour(1), Mask(70, 20, 8, 10, bits, "a test")),
    ]
    picture = np.asarray(draw_marks(np.zeros((100, 100, 3), np.uint8), marks, aspect=1, limit=(1000, 1000), least=1000))
    ys, xs = np.nonzero((picture == colour(0)).all(axis=2))
    assert (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) == (100, 200, 600, 800)
    assert (picture[220, 720:760] == colour(1)).all()  # the outline's upper edge, within the box
    assert not picture[250, 720:760].any()


@pytest.mark.parametrize(("aspect", "size"), [(2.0, (100, 400)), (0.5, (200, 200)), (1.0, (100, 200))])
def test_pixels_that_are_not_square_are_stretched_and_never_squeezed(aspect, size):
    frame = np.zeros((200, 100, 3), np.uint8)
    assert draw_marks(frame, [], aspect=aspect, limit=(1000, 1000), least=1).size == size


def test_proportions_come_from_any_attribute_that_tells_them():
    assert aspect_of(header(CR, "CR", ImagerPixelSpacing=[0.2, 0.1]), 1) == 2
    assert aspect_of(header(CR, "CR", PixelAspectRatio=["4", "3"]), 1) == pytest.approx(4 / 3)
    for nonsense in (["0", "3"], ["1", "100000"], ["2", "0"]):
        assert aspect_of(header(CR, "CR", PixelAspectRatio=nonsense), 1) == 1


def test_chinese_and_latin_lines_break_where_they_may():
    lines = wrapped("A bright disc，左上部见一高密度圆盘；确信度。", 14, 90)
    assert len(lines) > 2
    assert all(font(14).getlength(line) <= 90 + 14 for line in lines)
    assert not any(line.startswith(tuple("，；。")) for line in lines)
    assert "".join(lines).replace(" ", "") == "Abrightdisc，左上部见一高密度圆盘；确信度。"
    assert wrapped("x" * 50, 14, 60)[0] == "x" * 8


def test_a_picture_has_the_boxes_in_their_colours_and_words_beside_the_frame():
    image = header(CR, "CR", rows=600, columns=800)
    (capture,) = results_of("sc", [image], [finding("disc", region(image, (100, 200, 300, 400)))], CAPTURED)
    picture = capture.pixel_array
    red = np.argwhere((picture == colour(0)).all(axis=2))
    frame = red[:, 0].min()  # the name stands right above the box
    top = next(row for row in range(picture.shape[0]) if (picture[row, :5] == 90).all())
    assert (picture[top : top + 600, 700:] == 90).all()  # nothing covers the frame where nothing was found
    assert (picture[top + 200 : top + 400, 100] == colour(0)).all()
    assert frame < top + 200
    assert capture.SourceImageSequence[0].ReferencedSOPInstanceUID == image.SOPInstanceUID
    assert (capture.Modality, capture.BurnedInAnnotation) == ("OT", "NO")


def test_nothing_of_the_patient_is_burned_in():
    image, other = header(CR, "CR", rows=300, columns=300), header(CR, "CR", rows=300, columns=300)
    other.PatientName, other.PatientBirthDate, other.AccessionNumber = "Roe^Richard", "19500505", "ACC-2"
    profile = replace(PRINTED, languages=("en",), seg=False)
    contents = []
    for one in (image, other):
        read = reading([one], [finding("disc", region(one, (100, 100, 200, 200)))])
        results = {
            kind_of(result): result for result in write_results(read, [one], profile, pictures=pictures_of([one]))
        }
        contents.append((results["sc"].PixelData, results["pdf"].EncapsulatedDocument))
    assert contents[0] == contents[1]


@pytest.mark.parametrize(
    ("modality", "told", "expected"),
    [("CT", None, "NO"), ("US", None, None), ("US", "NO", "NO"), ("CT", "YES", "YES"), ("OT", "?", None)],
)
def test_burned_in_annotation_is_what_the_source_tells(modality, told, expected):
    assert burned_in_annotation(header(CR, modality, **({"BurnedInAnnotation": told} if told else {}))) == expected


def test_lossy_sources_give_pictures_that_say_so():
    image = header(CR, "CR", rows=64, columns=64, LossyImageCompression="01", LossyImageCompressionRatio="9.5")
    (capture,) = results_of("sc", [image], [finding("disc", region(image, (10, 10, 20, 20)))], CAPTURED)
    assert (capture.LossyImageCompression, capture.LossyImageCompressionRatio) == ("01", 9.5)


def test_key_frames_are_capped_and_share_a_series():
    images = ct_series(MAX_CAPTURES + 3)
    found = [finding("disc", *(region(image, (10, 10, 40, 40)) for image in images))]
    captures = results_of("sc", images, found, replace(CAPTURED, languages=("en",)))
    assert [capture.InstanceNumber for capture in captures] == list(range(1, MAX_CAPTURES + 1))
    assert len({capture.SeriesInstanceUID for capture in captures}) == 1
    assert len({capture.SOPInstanceUID for capture in captures}) == MAX_CAPTURES


@pytest.mark.parametrize("state", [RunState.NO_FINDINGS, RunState.NOT_RUN])
def test_a_destination_of_pictures_alone_hears_that_nothing_was_found(state):
    (capture,) = results_of("sc", ct_series(2), [], CAPTURED, state=state)
    assert capture.pixel_array.shape[0] > 512
    sources = [header("1.2.840.10008.5.1.4.1.1.11.1", "PR", rows=0, columns=0)]  # nothing that could be rendered
    read = replace(reading(sources, state=state), images=())
    assert [kind_of(result) for result in write_results(read, sources, CAPTURED)] == ["sc"]


def test_frames_that_cannot_be_rendered_are_left_out():
    images = ct_series(2)

    def one_of_them(uid, _frame):
        if uid == images[0].SOPInstanceUID:
            raise UndecodableError("a codestream that breaks off")
        return pictures_of(images)(uid, 1)

    read = reading(images, [finding("disc", *(region(image, (10, 10, 40, 40)) for image in images))])
    kinds = [kind_of(result) for result in write_results(read, images, PRINTED, pictures=one_of_them)]
    assert kinds.count("sc") == 1
    assert "sc-2" not in kinds
    assert {"pdf", "pdf-2", "kos"} <= set(kinds)
    with pytest.raises(WriteError, match="leaves no result"):
        write_results(read, images, CAPTURED)  # headers alone: there is nothing to show


def test_sources_with_pixels_are_rendered_without_being_asked():
    image = dcmread(str(get_testdata_file("CT_small.dcm")))
    read = reading([image], [finding("disc", region(image, (10, 10, 40, 40)))])
    (capture,) = [result for result in write_results(read, [image], CAPTURED) if kind_of(result) == "sc"]
    assert capture.pixel_array[60:500].std() > 20


def text_of(document) -> str:
    """Read the words of an encapsulated PDF.

    The reader misplaces blanks and zeros, as it does not read the font's own widths; they are left out.
    """
    content = BytesIO(document.EncapsulatedDocument[: document.EncapsulatedDocumentLength])
    return "".join(re.sub(r"[\s\0]+", "", page.extract_text()) for page in PdfReader(content).pages)


def test_the_pdf_has_searchable_words_in_its_language_and_pictures():
    images = ct_series()
    english, chinese = results_of("pdf", images, boxes_on(images), PRINTED)
    words = text_of(english)
    for expected in (
        "AI-notfordiagnosis",
        "certainty0.87,uncalibrated",
        "Abrightdisc",
        "phantomreader1.2",
        "Impression",
    ):
        assert expected in words
    assert "圆盘" not in words
    words = text_of(chinese)
    for expected in (
        "人工智能结果，不作为诊断依据",
        "调试模型",
        "左上部见一高密度圆盘",
        "影像结论：圆盘",
        "确信度0.87（未校准）",
    ):
        assert expected in words
    reader = PdfReader(BytesIO(chinese.EncapsulatedDocument))
    pictures = [Image.open(BytesIO(image.data)) for page in reader.pages for image in page.images]
    assert len(pictures) == 2
    assert reader.metadata.title == chinese.DocumentTitle == "人工智能影像阅读报告"
    assert chinese.BurnedInAnnotation == "NO"


def test_a_pdf_of_nothing_says_what_that_means():
    images = ct_series(2)
    english, _ = results_of("pdf", images, [], PRINTED, state=RunState.UNUSABLE, commissioning=False)
    assert "Thisdoesnotsaythatthereisnothingtofind" in text_of(english)
    assert "commissioning" not in text_of(english)


def test_key_objects_point_at_the_frames_with_findings():
    (image,) = sources_of_every_kind()["enhanced ct"]
    found = [finding("disc", region(image, (5, 5, 30, 40), frame=4), region(image, (5, 5, 30, 40), frame=2))]
    (selection,) = results_of("kos", [image], found, SELECTED)
    assert selection.ConceptNameCodeSequence[0].CodeValue == "113000"
    references = [item.ReferencedSOPSequence[0] for item in selection.ContentSequence if item.ValueType == "IMAGE"]
    assert [(item.ReferencedSOPInstanceUID, item.ReferencedFrameNumber) for item in references] == [
        (image.SOPInstanceUID, [4, 2])
    ]


def test_the_same_reading_gives_the_same_bytes_and_another_profile_other_uids():
    images = ct_series(3)
    read = reading(images, boxes_on(images))

    def written(profile):
        return [dump(result) for result in write_results(read, images, profile, pictures=pictures_of(images))]

    english = replace(PRINTED, languages=("en",))
    first = written(english)
    assert first == written(english)
    uids = [
        {dcmread(BytesIO(content), stop_before_pixels=True).SOPInstanceUID for content in contents}
        for contents in (
            first,
            written(replace(CAPTURED, languages=("en",))),
            written(replace(CAPTURED, sc_style="boxes")),
        )
    ]
    assert not (uids[0] & uids[1] | uids[1] & uids[2] | uids[0] & uids[2])


@pytest.mark.parametrize("words", ["a\\b\x00\x1b" + "长" * 300, " \t"])
def test_hostile_words_make_valid_objects(words, tmp_path, dciodvfy):
    image = header(CR, "CR", rows=64, columns=64)
    found = finding("disc", region(image, (0, 0, 64, 64)), names={"en": words, "zh": words}, text={"en": words})
    read = reading([image], [found], narrative={"en": words * 20, "zh": words})
    for result in write_results(read, [image], PRINTED, pictures=pictures_of([image])):
        path = tmp_path / f"{kind_of(result)}.dcm"
        path.write_bytes(dump(result))
        assert dciodvfy(path) == [], kind_of(result)


@pytest.mark.parametrize("kind", ["mammogram", "enhanced ct", "ultrasound palette"])
def test_a_pdf_is_a_valid_object(kind, tmp_path, dciodvfy):
    images = sources_of_every_kind()[kind]
    (document,) = results_of("pdf", images, boxes_on(images), replace(PRINTED, languages=("zh",), seg=False))
    (tmp_path / "pdf.dcm").write_bytes(dump(document))
    assert dciodvfy(tmp_path / "pdf.dcm") == []
    # Of a screen's picture, and of a film's, nobody knows what stands in it.
    assert document.BurnedInAnnotation == ("NO" if kind == "enhanced ct" else "YES")
    assert document.EncapsulatedDocument.startswith(b"%PDF-")
