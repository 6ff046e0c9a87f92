"""A box's way to the model and back is exact, for any size of frame."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.grammar import SCALE
from engine.imaging import Transform

SIZES = st.integers(1, 65535)


@st.composite
def ordered(draw: st.DrawFn, top: st.SearchStrategy[int]) -> tuple[int, int]:
    low, high = sorted((draw(top), draw(top)))
    return (low, high) if low < high else (max(0, low - 1), max(1, high))


COORDINATES = ordered(st.integers(0, SCALE))


@settings(max_examples=200, deadline=None)
@given(SIZES, SIZES, st.integers(0, 2**32 - 1))
def test_source_boxes_come_back_within_half_a_pixel(rows, columns, seed):
    transform = Transform(rows, columns)
    boxes = np.random.default_rng(seed).random((50, 4)) * [columns, rows, columns, rows]  # 10 000 in all
    back = np.array([transform.to_source(transform.to_model(tuple(box))) for box in boxes])
    assert np.abs(back - boxes).max() < 0.5
    assert np.allclose(back, boxes, rtol=1e-12, atol=1e-9)


@settings(max_examples=500, deadline=None)
@given(SIZES, SIZES, COORDINATES, COORDINATES)
def test_models_box_comes_back_exactly(rows, columns, x, y):
    transform = Transform(rows, columns)
    box = (x[0], y[0], x[1], y[1])
    source = transform.to_source(box)
    assert transform.contains(source)
    assert transform.to_grammar(source) == box


@settings(max_examples=200, deadline=None)
@given(SIZES, SIZES, st.tuples(*[st.floats(-1e6, 1e6)] * 4))
def test_any_box_is_spelt_within_the_scale(rows, columns, box):
    x0, y0, x1, y1 = Transform(rows, columns).to_grammar(box)
    assert 0 <= x0 < x1 <= SCALE
    assert 0 <= y0 < y1 <= SCALE


def test_corners_are_the_outer_corners_of_the_frame():
    transform = Transform(rows=300, columns=400)
    assert transform.to_source((0, 0, SCALE, SCALE)) == (0, 0, 400, 300)
    assert transform.to_source((0, 0, 333, 111)) == pytest.approx((0, 0, 400 / 3, 100 / 3))


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (-1, 5)])
def test_frame_without_pixels_is_refused(size):
    with pytest.raises(ValueError, match="at least one"):
        Transform(*size)
