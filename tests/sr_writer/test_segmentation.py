"""Segmentations: which frames go together, where they are, and what they are said to be."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from io import BytesIO

import highdicom as hd
import numpy as np
import pytest
from highdicom.seg import SegmentDescription
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from sr_cases import (
    DX,
    MR,
    SECONDARY_CAPTURE,
    US_MULTI_FRAME,
    ct_series,
    enhanced_ct,
    finding,
    header,
    reading,
    region,
    slide,
)

from engine.findings import Finding, Mask, Region
from engine.masks import box_slices, pack
from engine.refine import METHOD
from sr_writer import OutputProfile, check_results, write_results
from sr_writer.encoding import dump
from sr_writer.pixels import paint, unpack
from sr_writer.sources import SourceImage

BOX = (10.0, 10.0, 30.0, 40.0)


def written(images, *findings, profile: OutputProfile | None = None, **more) -> list[Dataset]:
    """Write a reading and give its segmentations."""
    read = reading(images, findings, **more)
    results = write_results(read, images, profile or OutputProfile())
    check_results(results, read, images)
    return [result for result in results if result.Modality == "SEG"]


def frames(result: Dataset) -> list[tuple[str, int | None, list[float]]]:
    """Give image, frame number and position of each frame of a segmentation, sorted."""
    found = []
    for group in result.PerFrameFunctionalGroupsSequence:
        source = group.DerivationImageSequence[0].SourceImageSequence[0]
        position = [float(number) for number in group.PlanePositionSequence[0].ImagePositionPatient]
        frame = source.get("ReferencedFrameNumber")
        found.append((str(source.ReferencedSOPInstanceUID), None if frame is None else int(frame), position))
    return sorted(found)


def test_slices_of_a_series_share_one_segmentation_in_the_patients_geometry():
    images = ct_series(6, gap=3.0)
    found = finding("disc", *(region(image, BOX) for image in images[1:4]))
    (result,) = written(images, found)
    assert result.FrameOfReferenceUID == images[0].FrameOfReferenceUID
    shared = result.SharedFunctionalGroupsSequence[0]
    assert shared.PlaneOrientationSequence[0].ImageOrientationPatient == images[0].ImageOrientationPatient
    assert shared.PixelMeasuresSequence[0].PixelSpacing == [0.5, 0.7]
    assert shared.PixelMeasuresSequence[0].SpacingBetweenSlices == pytest.approx(3.0, abs=1e-3)
    positions = {str(image.SOPInstanceUID): list(map(float, image.ImagePositionPatient)) for image in images}
    assert {uid for uid, _, _ in frames(result)} == {str(image.SOPInstanceUID) for image in images[1:4]}
    for uid, frame, position in frames(result):
        assert frame is None
        assert position == pytest.approx(positions[uid])


@pytest.mark.parametrize("gap", [3.0, -3.0])
def test_linked_boxes_are_one_segment_over_their_slices_and_what_lies_between_stays_empty(gap):
    images = sorted(ct_series(9, gap=gap), key=lambda image: image.SOPInstanceUID)  # feet first, head first
    boxes = {number: (10.0 + number, 10.0, 30.0 + number, 40.0) for number in (6, 2, 1, 7, 3)}
    masks = {2: pack(np.tri(30, 20, dtype=np.bool_), 12, 10, "threshold")}
    found = finding("mass", *(region(images[n], box, mask=masks.get(n)) for n, box in boxes.items()))
    other = finding("disc", region(images[0], (60.0, 60.0, 70.0, 70.0)))
    (result,) = written(images, found, other)
    assert [segment.SegmentLabel for segment in result.SegmentSequence] == ["mass / 肿块", "disc / 圆盘"]
    assert len(frames(result)) == 6
    measures = result.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert measures.SpacingBetweenSlices == pytest.approx(3.0, abs=1e-3)
    read = hd.seg.Segmentation.from_dataset(dcmread(BytesIO(dump(result))))
    shown = read.get_pixels_by_source_instance(
        [image.SOPInstanceUID for image in images], segment_numbers=[1], assert_missing_frames_are_empty=True
    )
    for number in range(9):
        expected = np.zeros((96, 80), dtype=np.bool_)
        if number in boxes:
            paint(found.regions[list(boxes).index(number)], SourceImage.from_header(images[number]), expected)
        assert np.array_equal(shown[number, ..., 0], expected), number
    words = result.SegmentSequence[0].SegmentDescription
    assert "Bounding region, not a delineation" in words
    assert "made by: threshold" in words


def test_a_finding_of_two_series_is_a_segment_in_each():
    images = ct_series(6)
    for image in images[3:]:
        image.SeriesInstanceUID += ".2"
    results = written(images, finding("mass", *(region(image, BOX) for image in images)))
    assert [len(frames(result)) for result in results] == [3, 3]
    assert {result.ReferencedSeriesSequence[0].SeriesInstanceUID for result in results} == {
        image.SeriesInstanceUID for image in images
    }
    assert len({segment.TrackingUID for result in results for segment in result.SegmentSequence}) == 1
    assert len({result.FrameOfReferenceUID for result in results}) == 1


def test_echoes_at_one_place_go_to_segmentations_of_their_own():
    first, second = ct_series(2, gap=0.0, sop_class=MR, modality="MR")
    results = written([first, second], finding("disc", region(first, BOX), region(second, BOX)))
    assert [len(frames(result)) for result in results] == [1, 1]


def test_localizer_in_the_series_does_not_share_its_planes():
    images = ct_series(3)
    images[2].ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    results = written(images, finding("disc", *(region(image, BOX) for image in images)))
    assert sorted(len(frames(result)) for result in results) == [1, 2]


def test_frames_of_an_enhanced_image_keep_number_and_place():
    image = enhanced_ct(8)
    (result,) = written([image], finding("disc", *(region(image, BOX, frame=frame) for frame in (7, 2, 3))))
    assert [(frame, position) for _, frame, position in frames(result)] == [
        (2, [0.0, 0.0, 2.0]),
        (3, [0.0, 0.0, 4.0]),
        (7, [0.0, 0.0, 12.0]),
    ]
    assert result.FrameOfReferenceUID == image.FrameOfReferenceUID


def test_several_segments_on_the_same_frames_keep_their_numbers():
    image = enhanced_ct(8)
    found = [finding(name, region(image, BOX, frame=3), region(image, BOX, frame=6)) for name in ("disc", "cross")]
    (result,) = written([image], *found)
    assert [frame for _, frame, _ in frames(result)] == [3, 3, 6, 6]


def enhanced_frames() -> tuple[list[Dataset], list[Finding]]:
    image = enhanced_ct(11)
    image.Rows, image.Columns = 25, 31
    boxes = {"disc": (1.0, 2.0, 20.0, 21.0), "cross": (8.0, 9.0, 30.0, 24.0)}
    return [image], [
        finding(name, *(region(image, box, frame=frame) for frame in range(9, 0, -1))) for name, box in boxes.items()
    ]


def overlapping_slices() -> tuple[list[Dataset], list[Finding]]:
    images = ct_series(7)
    mask = pack(np.random.default_rng(3).random((30, 20)) > 0.6, 5, 7, "test")
    return images, [
        finding("disc", *(region(image, BOX) for image in images[:3])),
        finding("cross", *(region(image, (5.0, 7.0, 25.0, 37.0), mask=mask) for image in images[1:5])),
        finding("mass", region(images[6], BOX), region(images[6], (40.0, 40.0, 50.0, 60.0))),
    ]


def slices_side_by_side() -> tuple[list[Dataset], list[Finding]]:
    images = ct_series(5)
    boxes = {"disc": (0.0, 0.0, 20.0, 20.0), "cross": (20.0, 0.0, 40.0, 20.0)}
    return images, [finding(name, *(region(image, box) for image in images)) for name, box in boxes.items()]


@pytest.mark.parametrize(
    ("case", "overlap"), [(enhanced_frames, "YES"), (overlapping_slices, "YES"), (slices_side_by_side, "NO")]
)
def test_the_segmentation_is_what_the_library_makes_of_all_pixels_at_once(case, overlap):
    images, found = case()
    (result,) = written(images, *found)
    sources = sorted(images, key=lambda image: float(image.get("ImagePositionPatient", [0, 0])[1]))
    count = int(images[0].get("NumberOfFrames", len(images)))
    pixels = np.zeros((count, images[0].Rows, images[0].Columns, len(found)), dtype=np.uint8)
    for number, one in enumerate(found):
        for place in one.regions:
            plane = [source.SOPInstanceUID for source in sources].index(place.sop_instance_uid) + place.frame - 1
            paint(place, SourceImage.from_header(sources[0]), (layer := pixels[plane, ..., number].astype(bool)))
            pixels[plane, ..., number] = layer
    whole = hd.seg.Segmentation(
        source_images=sources,
        pixel_array=pixels,
        segmentation_type="BINARY",
        segment_descriptions=[
            SegmentDescription.from_dataset(description) for description in deepcopy(result.SegmentSequence)
        ],
        series_instance_uid=result.SeriesInstanceUID,
        series_number=1,
        sop_instance_uid=result.SOPInstanceUID,
        instance_number=1,
        manufacturer="test",
        manufacturer_model_name="test",
        software_versions="1",
        device_serial_number="1",
    )
    assert result.SegmentsOverlap == overlap
    for keyword in (
        "Rows",
        "Columns",
        "NumberOfFrames",
        "SegmentsOverlap",
        "PixelData",
        "BitsAllocated",
        "DimensionOrganizationType",
        "SharedFunctionalGroupsSequence",
    ):
        assert result.get(keyword) == whole.get(keyword), keyword
    for one, other in zip(result.PerFrameFunctionalGroupsSequence, whole.PerFrameFunctionalGroupsSequence, strict=True):
        for keyword in ("SegmentIdentificationSequence", "PlanePositionSequence", "DerivationImageSequence"):
            assert [*one[keyword].value] == [*other[keyword].value], keyword
        assert one.FrameContentSequence[0].DimensionIndexValues == other.FrameContentSequence[0].DimensionIndexValues
    (series,) = result.ReferencedSeriesSequence
    covered = {place.sop_instance_uid for one in found for place in one.regions}
    assert {item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence} == covered
    assert {item.ReferencedSOPInstanceUID for item in result.SourceImageSequence} == covered
    read = hd.seg.Segmentation.from_dataset(dcmread(BytesIO(dump(result))))
    for number in range(len(found)):
        shown = (
            read.get_pixels_by_source_frame(
                source_sop_instance_uid=sources[0].SOPInstanceUID,
                source_frame_numbers=list(range(1, count + 1)),
                segment_numbers=[number + 1],
                assert_missing_frames_are_empty=True,
            )
            if "NumberOfFrames" in images[0]
            else read.get_pixels_by_source_instance(
                source_sop_instance_uids=[source.SOPInstanceUID for source in sources],
                segment_numbers=[number + 1],
                assert_missing_frames_are_empty=True,
            )
        )
        assert np.array_equal(shown[..., 0], pixels[..., number])


def odd_cases() -> dict[str, tuple[list[Dataset], list[tuple[int, int]]]]:
    """Give images of 49 x 37 pixels, and the (image, frame) that the two findings lie on."""
    size = {"rows": 49, "columns": 37}
    slices, frames = ct_series(4), enhanced_ct(5)
    for image in (*slices, frames):
        image.Rows, image.Columns = 49, 37
    return {
        "radiograph": ([header(DX, "DX", **size)], [(0, 1)]),
        "slices": (slices, [(1, 1), (2, 1), (3, 1)]),
        "enhanced": ([frames], [(0, 2), (0, 5)]),
        "ultrasound": ([header(US_MULTI_FRAME, "US", NumberOfFrames=4, **size)], [(0, 3), (0, 4)]),
    }


@pytest.mark.parametrize("case", odd_cases())
def test_frames_whose_bits_do_not_fill_bytes_are_each_an_object(case):
    images, places = odd_cases()[case]
    boxes = {"disc": (3.0, 5.0, 30.0, 40.0), "cross": (8.0, 9.0, 20.0, 44.0)}
    found = [
        finding(name, *(region(images[image], box, frame=frame) for image, frame in places))
        for name, box in boxes.items()
    ]
    results = written(images, *found)
    assert len(results) == 2 * len(places)
    seen = set()
    for result in results:
        assert (result.NumberOfFrames, len(result.SegmentSequence)) == (1, 1)
        name = result.SegmentSequence[0].SegmentLabel.split(" ")[0]
        ((uid, frame, _),) = frames(result)
        seen.add((name, uid, frame or 1))
        x0, y0, x1, y1 = map(int, boxes[name])
        expected = np.zeros((49, 37), dtype=np.uint8)
        expected[y0:y1, x0:x1] = 1
        assert np.array_equal(result.pixel_array.reshape(49, 37), expected)
    assert seen == {(name, str(images[image].SOPInstanceUID), frame) for name in boxes for image, frame in places}
    assert len({result.FrameOfReferenceUID for result in results}) == (
        1 if case in ("slices", "enhanced") else 2 * len(places)
    )


@pytest.mark.parametrize(
    ("rows", "columns", "frames", "objects"), [(49, 37, 16, 16), (49, 37, 17, 1), (2, 4, 3, 3), (4, 4, 3, 1)]
)
def test_only_few_frames_that_viewers_misread_are_taken_apart(rows, columns, frames, objects):
    image = enhanced_ct(17)
    image.Rows, image.Columns = rows, columns
    found = finding("disc", *(region(image, (0.0, 0.0, 3.0, 2.0), frame=number + 1) for number in range(frames)))
    assert len(written([image], found)) == objects


def test_orientation_may_stand_in_the_frames_own_group():
    image = enhanced_ct(3)
    shared = image.SharedFunctionalGroupsSequence[0]
    for group in image.PerFrameFunctionalGroupsSequence:
        group.PlaneOrientationSequence = shared.PlaneOrientationSequence
        group.PixelMeasuresSequence = shared.PixelMeasuresSequence
    del shared.PlaneOrientationSequence, shared.PixelMeasuresSequence
    (result,) = written([image], finding("disc", region(image, BOX, frame=2)))
    assert frames(result) == [(str(image.SOPInstanceUID), 2, [0.0, 0.0, 2.0])]


@pytest.mark.parametrize(
    ("attributes", "spacing"),
    [
        ({"PixelSpacing": [0.2, 0.3]}, [0.2, 0.3]),
        ({"ImagerPixelSpacing": [0.15, 0.15]}, [0.15, 0.15]),
        ({"PixelSpacing": [0.0, 0.0]}, [1.0, 1.0]),
        ({}, [1.0, 1.0]),
    ],
)
def test_source_without_frame_of_reference_gets_a_plane_that_says_it_is_a_convention(attributes, spacing):
    image = header(DX, "DX", **attributes)
    (result,) = written([image], finding("disc", region(image, BOX)), commissioning=False)
    assert frames(result) == [(str(image.SOPInstanceUID), None, [0.0, 0.0, 0.0])]
    shared = result.SharedFunctionalGroupsSequence[0]
    assert shared.PlaneOrientationSequence[0].ImageOrientationPatient == [1, 0, 0, 0, 1, 0]
    measures = shared.PixelMeasuresSequence[0]
    assert [float(number) for number in measures.PixelSpacing] == spacing
    assert (float(measures.SliceThickness), float(measures.SpacingBetweenSlices)) == (1.0, 1.0)
    assert result.FrameOfReferenceUID.startswith("2.25.")
    assert "convention" in result.ContentDescription
    assert "not a position of the patient" in result.ImageComments
    assert result.ReferencedSeriesSequence[0].SeriesInstanceUID == image.SeriesInstanceUID


def test_ultrasound_frames_are_kept_apart_by_a_millimetre():
    image = header(US_MULTI_FRAME, "US", NumberOfFrames=9)
    (result,) = written([image], finding("disc", region(image, BOX, frame=8), region(image, BOX, frame=3)))
    assert [frame for _, frame, _ in frames(result)] == [3, 8]
    assert [position for _, _, position in frames(result)] == [[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    assert "DimensionOrganizationType" not in result


def test_profile_can_do_without_made_up_planes():
    image = header(DX, "DX")
    profile = OutputProfile(seg_geometry="patient")
    assert written([image], finding("disc", region(image, BOX)), profile=profile) == []
    images = ct_series(2)
    assert len(written(images, finding("disc", region(images[0], BOX)), profile=profile)) == 1


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0]),
        ("ImageOrientationPatient", [2, 0, 0, 0, 1, 0]),
        ("ImagePositionPatient", [0, 0]),
        ("PixelSpacing", [0.5, -0.5]),
        ("PixelSpacing", None),
        ("FrameOfReferenceUID", ""),
    ],
)
def test_geometry_that_makes_no_sense_is_not_used(keyword, value):
    images = ct_series(2)
    setattr(images[0], keyword, value)
    (result,) = written(images, finding("disc", region(images[0], BOX)))
    assert result.FrameOfReferenceUID.startswith("2.25.")


@pytest.mark.parametrize("sop_class", [SECONDARY_CAPTURE, US_MULTI_FRAME])
def test_several_frames_of_whatever_sop_class_are_found_again(sop_class):
    image = header(sop_class, "US", NumberOfFrames=4)
    results = written([image], finding("disc", region(image, BOX, frame=2), region(image, BOX, frame=4)))
    assert sorted(frame for result in results for _, frame, _ in frames(result)) == [2, 4]


def test_segment_is_described_in_words_and_codes():
    image = header(DX, "DX")
    (result,) = written(
        [image], finding("disc", region(image, BOX)), finding("breast", region(image, (5.0, 5.0, 60.0, 60.0)))
    )
    disc, breast = result.SegmentSequence
    assert (disc.SegmentLabel, breast.SegmentLabel) == ("disc / 圆盘", "breast / 乳房")
    assert disc.SegmentAlgorithmType == "AUTOMATIC"
    assert disc.SegmentedPropertyCategoryCodeSequence[0].CodeMeaning == "Physical object"
    assert breast.SegmentedPropertyCategoryCodeSequence[0].CodeMeaning == "Anatomical Structure"
    assert disc.SegmentedPropertyTypeCodeSequence[0].CodingSchemeDesignator == "99MEDREGA"
    assert disc.AnatomicRegionSequence[0].CodeMeaning == "Phantom"
    assert "Bounding region, not a delineation" in disc.SegmentDescription
    assert "certainty 0.87, uncalibrated" in disc.SegmentDescription
    assert disc.SegmentationAlgorithmIdentificationSequence[0].AlgorithmName == "phantom reader"
    assert disc.RecommendedDisplayCIELabValue != breast.RecommendedDisplayCIELabValue
    assert result.ContentLabel == "AI_COMMISSIONING"
    assert "not for clinical use" in result.ContentDescription


def test_segment_and_group_of_a_single_region_share_their_tracking_uid():
    image = header(DX, "DX")
    results = write_results(reading([image], [finding("disc", region(image, BOX))]), [image], OutputProfile())
    group = results[0].ContentSequence[-1].ContentSequence[0]
    uid = next(item.UID for item in group.ContentSequence if item.ValueType == "UIDREF")
    (segmentation,) = [result for result in results if result.Modality == "SEG"]
    assert segmentation.SegmentSequence[0].TrackingUID == uid


def test_mask_is_written_bit_for_bit_and_says_how_it_was_made():
    rng = np.random.default_rng(5)
    pixels = rng.random((13, 11)) > 0.5
    pixels[0, 0] = True
    bits = np.packbits(pixels, axis=1).tobytes().hex()
    image = header(DX, "DX")
    mask = Mask(7, 9, 11, 13, bits, "threshold above the surroundings")
    (result,) = written([image], finding("disc", region(image, (6.5, 8.5, 20.0, 24.0), mask=mask)))
    expected = np.zeros((96, 80), dtype=np.uint8)
    expected[9:22, 7:18] = pixels
    assert np.array_equal(result.pixel_array.reshape(96, 80), expected)
    assert "threshold above the surroundings" in result.SegmentSequence[0].SegmentDescription
    assert "Bounding region" not in result.SegmentSequence[0].SegmentDescription
    assert "outlines" not in result.ContentDescription  # there it says first what the model is
    (result,) = written(
        [image],
        finding("disc", region(image, (6.5, 8.5, 20.0, 24.0), mask=replace(mask, method=METHOD))),
        commissioning=False,
    )
    assert "方法：亮度相对周围的 Otsu 阈值" in result.SegmentSequence[0].SegmentDescription
    assert result.ContentDescription == "AI: outlines; planes are a display convention, not a position"


def test_box_without_a_pixels_centre_is_in_the_sr_and_not_in_the_seg():
    image = header(DX, "DX")
    small = finding("cross", region(image, (10.6, 10.6, 10.9, 10.9)))
    assert written([image], small) == []
    (result,) = written([image], small, finding("disc", region(image, BOX)))
    assert [segment.SegmentLabel for segment in result.SegmentSequence] == ["disc / 圆盘"]


def test_tiles_of_a_slide_are_where_they_are_on_the_glass(tmp_path, dciodvfy):
    image = slide()
    found = finding(
        "disc", region(image, (10.0, 20.0, 80.0, 96.0), frame=2), region(image, (0.0, 20.0, 30.0, 96.0), frame=3)
    )
    other = finding("cross", region(image, (0.0, 0.0, 12.0, 14.0), frame=5))
    (result,) = written([image], found, other)
    assert result.FrameOfReferenceUID == image.FrameOfReferenceUID
    assert result.ImageOrientationSlide == image.ImageOrientationSlide
    assert "convention" not in result.ContentDescription
    (tmp_path / "seg.dcm").write_bytes(dump(result))
    assert dciodvfy(tmp_path / "seg.dcm") == []
    read = hd.seg.Segmentation.from_dataset(dcmread(tmp_path / "seg.dcm"))
    whole = read.get_total_pixel_matrix()
    expected = np.zeros((190, 230, 2), dtype=np.uint8)
    expected[20:96, 90:190, 0] = 1
    expected[96:110, 80:92, 1] = 1
    assert np.array_equal(whole, expected)
    for group in result.PerFrameFunctionalGroupsSequence:
        place = group.PlanePositionSlideSequence[0]
        column, row = place.ColumnPositionInTotalImagePixelMatrix - 1, place.RowPositionInTotalImagePixelMatrix - 1
        # A quarter turn: columns go down the glass (y), rows across it (x), from (20, 40).
        assert float(place.XOffsetInSlideCoordinateSystem) == pytest.approx(20.0 - row * 0.002)
        assert float(place.YOffsetInSlideCoordinateSystem) == pytest.approx(40.0 - column * 0.001)


EDGES = st.floats(0, 40, allow_nan=False).map(lambda edge: round(edge * 8) / 8) | st.floats(0, 40, allow_nan=False)


@given(xs=st.tuples(EDGES, EDGES), ys=st.tuples(EDGES, EDGES))
def test_a_pixel_is_in_the_box_exactly_if_its_centre_is(xs, ys):
    (x0, x1), (y0, y1) = sorted(xs), sorted(ys)
    if x0 == x1 or y0 == y1:
        return
    image = SourceImage.from_header(header(DX, "DX", rows=40, columns=40))
    plane = np.zeros((40, 40), dtype=np.bool_)
    paint(Region(image.sop_instance_uid, 1, (x0, y0, x1, y1)), image, plane)
    centres = np.arange(40) + 0.5
    inside = ((centres >= y0) & (centres < y1))[:, None] & ((centres >= x0) & (centres < x1))[None, :]
    assert np.array_equal(plane, inside)


@given(edge=st.floats(0, 40, allow_nan=False))
def test_boxes_that_share_an_edge_share_no_pixel_and_leave_none_out(edge):
    if edge in (0, 40):
        return
    left, right = (box_slices(box)[1] for box in ((0, 0, edge, 1), (edge, 0, 40.0, 1)))
    assert (left.start, left.stop, right.stop) == (0, right.start, 40)


@given(rows=st.integers(1, 9), columns=st.integers(1, 20), seed=st.integers(0, 2**32 - 1))
def test_mask_bits_round_trip(rows, columns, seed):
    pixels = np.random.default_rng(seed).random((rows, columns)) > 0.8
    mask = pack(pixels, 30, 40, "test")
    if mask is None:
        assert not pixels.any()
        return
    found = np.zeros((rows, columns), dtype=np.bool_)
    found[mask.y - 40 : mask.y - 40 + mask.rows, mask.x - 30 : mask.x - 30 + mask.columns] = unpack(mask)
    assert np.array_equal(found, pixels)
