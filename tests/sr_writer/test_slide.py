"""Regions on whole-slide images: SCOORD3D polygons in the slide's millimetres, and only there."""

from __future__ import annotations

import numpy as np
import pytest
from highdicom.spatial import iter_tiled_full_frame_data
from highdicom.sr import srread
from pydicom.dataset import Dataset
from sr_cases import ct_series, finding, header, reading, region, slide

from engine.errors import GateError
from sr_writer import OutputProfile, check_results, dump, write_results
from sr_writer.slide import slide_polygon
from sr_writer.sources import SourceImage

BOX = (10.0, 20.0, 40.0, 30.0)
VIEWER = OutputProfile(secondary_capture=False)


def written(image, frame=1):
    """Write one region."""
    read = reading([image], [finding("mass", region(image, BOX, frame=frame))], commissioning=False)
    results = write_results(read, [image], VIEWER)
    check_results(results, read, [image])
    return results, read


def test_a_region_of_a_tile_is_a_polygon_on_its_slide(tmp_path, dciodvfy, dsrdump, tid1500reader):
    image = slide()
    report = written(image, frame=5)[0][0]
    assert report.SOPClassUID.name == "Comprehensive 3D SR Storage"
    path = tmp_path / "sr.dcm"
    path.write_bytes(dump(report))
    assert dciodvfy(path) == []
    assert "SCOORD3D" in dsrdump(path)
    tid1500reader("--inputDICOM", path, "--outputMetadata", tmp_path / "sr.json")
    (group,) = srread(path).content.get_planar_roi_measurement_groups()
    # Frame 5 is the second tile of the second row: 80 columns and 96 rows in. A quarter turn: columns run down the
    # slide's y by 1 um, rows run down its x by 2 um, from the centre of the first pixel at (20, 40).
    columns, rows = np.array([90, 120, 120, 90, 90]) - 0.5, np.array([116, 116, 126, 126, 116]) - 0.5
    expected = np.stack([20 - rows * 0.002, 40 - columns * 0.001, columns * 0], axis=-1)
    assert group.roi.value == pytest.approx(expected, abs=1e-5)
    assert group.roi.frame_of_reference_uid == image.FrameOfReferenceUID


@pytest.mark.parametrize("frame", [1, 2, 3, 4, 5, 6])
def test_every_tile_begins_where_the_library_says(frame):
    image = slide(
        DimensionOrganizationType="TILED_FULL", TotalPixelMatrixFocalPlanes=1, OpticalPathSequence=[Dataset()]
    )
    *_, x, y, _ = list(iter_tiled_full_frame_data(image))[frame - 1]
    corner = region(image, (0.0, 0.0, 1.0, 1.0), frame=frame)
    first = slide_polygon(corner, SourceImage.from_header(image))[[0, 2]].mean(axis=0)
    assert first[:2] == pytest.approx([x, y], abs=1e-4)


def test_a_sparse_slide_says_where_each_tile_lies():
    image = slide(DimensionOrganizationType="TILED_SPARSE")
    groups = []
    for column, row in ((81, 1), (1, 97), *[(161, 97)] * 4):
        place, group = Dataset(), Dataset()
        place.ColumnPositionInTotalImagePixelMatrix, place.RowPositionInTotalImagePixelMatrix = column, row
        group.PlanePositionSlideSequence = [place]
        groups.append(group)
    image.PerFrameFunctionalGroupsSequence = groups
    full = slide()
    for sparse_frame, full_frame in ((1, 2), (2, 4), (3, 6)):
        places = [
            slide_polygon(region(one, BOX, frame=frame), SourceImage.from_header(one))
            for one, frame in ((image, sparse_frame), (full, full_frame))
        ]
        assert np.array_equal(*places)


@pytest.mark.parametrize(
    "attributes",
    [
        {"FrameOfReferenceUID": None},
        {"TotalPixelMatrixOriginSequence": None},
        {"ImageOrientationSlide": None},
        {"ImageOrientationSlide": [0, 0, 0, 0, 0, 0]},
        {"SharedFunctionalGroupsSequence": None},
        {"DimensionOrganizationType": "TILED_SPARSE"},
        {"TotalPixelMatrixColumns": None},
    ],
)
def test_a_slide_that_does_not_tell_its_place_has_regions_on_its_tiles(attributes):
    report = written(slide(**attributes))[0][0]
    assert report.SOPClassUID.name == "Comprehensive SR Storage"
    assert b"SCOORD3D" not in dump(report)


def test_nothing_but_a_slide_has_polygons_in_space():
    for image in (*ct_series(), header("1.2.840.10008.5.1.4.1.1.77.1.4", "XC")):
        assert slide_polygon(region(image, BOX), SourceImage.from_header(image)) is None


def test_a_polygon_that_is_elsewhere_does_not_pass_the_gate():
    results, read = written(image := slide())
    group = results[0].ContentSequence[-1].ContentSequence[0]
    place = next(item for item in group.ContentSequence if item.ValueType == "SCOORD3D")
    place.GraphicData = [value + 0.01 for value in place.GraphicData]
    with pytest.raises(GateError, match="not where the reading says"):
        check_results(results, read, [image])
    place.ReferencedFrameOfReferenceUID = "1.2.3"
    with pytest.raises(GateError, match="another frame of reference"):
        check_results(results, read, [image])
