"""Sizes in mm from headers: exact for slices of any orientation, spacing and order, and none where none is told."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from engine.findings import Region
from engine.geometry import Spacing, extent_of, position_of, spacing_of

AXIAL = (1, 0, 0, 0, 1, 0)
numbers = st.floats(-500, 500, allow_nan=False)
lengths = st.floats(0.2, 8)


def header(**elements) -> Dataset:
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def ds(values) -> list[str]:
    """Decimal strings as long as the Standard allows (PS3.5 6.2)."""
    return [next(s for digits in range(16, 0, -1) if len(s := f"{value:.{digits}g}") <= 16) for value in values]


def slice_of(position, axes=AXIAL, spacing=(0.5, 0.8), thickness=None) -> Dataset:
    return header(
        ImagePositionPatient=ds(position),
        ImageOrientationPatient=ds(axes),
        PixelSpacing=ds(spacing),
        SliceThickness=None if thickness is None else ds([thickness])[0],
        FrameOfReferenceUID="1.2.3",
    )


@st.composite
def orientations(draw) -> np.ndarray:
    """Any orientation: two orthonormal vectors, oblique as a rule."""
    turned, _ = np.linalg.qr(
        np.array(draw(st.lists(st.floats(-1, 1), min_size=9, max_size=9))).reshape(3, 3) + np.eye(3)
    )
    return turned.T if draw(st.booleans()) else turned.T[::-1]


# --- pixels


@pytest.mark.parametrize(
    ("elements", "spacing"),
    [
        ({}, None),
        ({"PixelSpacing": [0.5, 0.8]}, Spacing(0.5, 0.8, "detector")),
        ({"ImagerPixelSpacing": [0.2, 0.3]}, Spacing(0.2, 0.3, "detector")),
        ({"PixelSpacing": [0.2, 0.2], "ImagerPixelSpacing": [0.2, 0.2]}, Spacing(0.2, 0.2, "detector")),
        ({"PixelSpacing": [0.1, 0.1], "ImagerPixelSpacing": [0.2, 0.2]}, Spacing(0.1, 0.1, "calibrated")),
        (
            {"PixelSpacing": [0.2, 0.2], "PixelSpacingCalibrationType": "FIDUCIAL"},
            Spacing(0.2, 0.2, "calibrated"),
        ),
        ({"PixelSpacing": [0, 0.8]}, None),
        ({"PixelSpacing": [0.5]}, None),
        ({"PixelSpacing": None}, None),
    ],
)
def test_spacing_tells_what_it_is_true_of(elements, spacing):
    assert spacing_of(header(**elements)) == spacing


def test_spacing_of_a_slice_is_that_of_the_patient():
    assert spacing_of(slice_of((0, 0, 0))) == Spacing(0.5, 0.8, "image plane")


def test_ultrasound_is_measured_where_its_regions_agree():
    def region(delta, units=3):
        return header(
            PhysicalUnitsXDirection=units, PhysicalUnitsYDirection=units, PhysicalDeltaX=delta, PhysicalDeltaY=-delta
        )

    assert spacing_of(header(SequenceOfUltrasoundRegions=Sequence([region(0.02), region(0.02)]))) == Spacing(
        0.2, 0.2, "calibrated"
    )
    assert spacing_of(header(SequenceOfUltrasoundRegions=Sequence([region(0.02), region(0.03)]))) is None
    assert spacing_of(header(SequenceOfUltrasoundRegions=Sequence([region(0.02, 4)]))) is None


def test_functional_groups_of_a_frame_come_before_the_shared_ones():
    def place(z):
        return header(PlanePositionSequence=Sequence([header(ImagePositionPatient=[0, 0, z])]))

    measures = Sequence([header(PixelSpacing=[1, 2], SliceThickness=3)])
    orientation = Sequence([header(ImageOrientationPatient=list(AXIAL))])
    enhanced = header(
        SharedFunctionalGroupsSequence=Sequence(
            [header(PixelMeasuresSequence=measures, PlaneOrientationSequence=orientation)]
        ),
        PerFrameFunctionalGroupsSequence=Sequence([place(5), place(9)]),
    )
    assert position_of(enhanced, 2).place == 9
    extent = extent_of([Region("1", 1, (0, 0, 4, 4)), Region("1", 2, (1, 1, 5, 5))], {"1": enhanced})
    assert (extent.columns_mm, extent.rows_mm, extent.depth_mm) == (10, 5, 7)


@pytest.mark.parametrize("axes", [(1, 0, 0, 1, 0, 0), (0, 0, 0, 0, 0, 0), (1, 0, 0, 0.9, 0.1, 0)])
def test_orientation_that_is_none_gives_no_position(axes):
    assert position_of(slice_of((0, 0, 0), axes)) is None


# --- findings


@given(
    axes=orientations(),
    origin=st.tuples(numbers, numbers, numbers),
    spacing=st.tuples(lengths, lengths),
    step=lengths,
    gap=st.floats(0, 5),
    order=st.permutations(range(5)),
    reverse=st.booleans(),
    box=st.tuples(st.floats(0, 90), st.floats(0, 90), st.floats(1, 90), st.floats(1, 90)),
)
def test_extent_is_right_for_any_orientation_spacing_and_order(axes, origin, spacing, step, gap, order, reverse, box):
    right, down = axes[:2]
    normal = np.cross(right, down) * (-1 if reverse else 1)
    x, y, width, height = box
    headers, regions = {}, []
    for place in order:
        uid = f"1.{place}"
        headers[uid] = slice_of(
            np.array(origin) + normal * (step + gap) * place, [*right, *down], spacing, thickness=step
        )
        # Slices grow to the right by one pixel each: their box together is four wider.
        regions.append(Region(uid, 1, (x, y, x + width + place, y + height)))
    extent = extent_of(regions, headers)
    assert extent.basis == "image plane"
    assert extent.columns_mm == pytest.approx((width + 4) * spacing[1], rel=1e-6)
    assert extent.rows_mm == pytest.approx(height * spacing[0], rel=1e-6)
    assert extent.depth_mm == pytest.approx(4 * (step + gap) + step, rel=1e-6)


def test_overlapping_slices_are_not_counted_twice():
    headers = {str(z): slice_of((0, 0, z), thickness=5) for z in range(4)}
    regions = [Region(uid, 1, (0, 0, 10, 10)) for uid in headers]
    assert extent_of(regions, headers).depth_mm == pytest.approx(4)


def test_shift_between_slices_counts():
    headers = {"0": slice_of((0, 0, 0)), "1": slice_of((4, 0, 1))}
    regions = [Region(uid, 1, (0, 0, 10, 10)) for uid in headers]
    assert extent_of(regions, headers).columns_mm == pytest.approx(8 + 4)


def test_projection_has_no_depth():
    extent = extent_of([Region("1", 1, (0, 0, 10, 20))], {"1": header(ImagerPixelSpacing=[0.5, 0.25])})
    assert (extent.columns_mm, extent.rows_mm, extent.depth_mm, extent.basis) == (2.5, 10, None, "detector")


def test_one_slice_tells_no_depth():
    assert extent_of([Region("1", 1, (0, 0, 10, 20))], {"1": slice_of((0, 0, 0), thickness=5)}).depth_mm is None


def test_regions_without_a_common_stack_have_no_extent():
    one, other = Region("1", 1, (0, 0, 10, 10)), Region("2", 1, (0, 0, 10, 10))
    flat = header(ImagerPixelSpacing=[1, 1])
    tilted = slice_of((0, 0, 5), (1, 0, 0, 0, 0, -1))
    elsewhere = slice_of((0, 0, 5))
    elsewhere.FrameOfReferenceUID = "9.9"
    for second in (flat, tilted, elsewhere, slice_of((0, 0, 5), (-1, 0, 0, 0, -1, 0))):
        assert extent_of([one, other], {"1": slice_of((0, 0, 0)), "2": second}) is None
    assert extent_of([one, other], {"1": flat, "2": flat}) is None
    assert extent_of([one], {}) is None
    assert extent_of([], {}) is None
