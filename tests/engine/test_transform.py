"""A box's way to the model and back is exact, for any size of frame."""

from __future__ import annotations

import numpy as np
import pytest
from engine_files import image_dataset, store
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from engine.grammar import SCALE
from engine.imaging import Transform, render_frame
from engine.study import load_instance

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


# --- the whole way: a rectangle in a file, the picture the model sees, and back


def stored(pixels: np.ndarray, kind: str) -> tuple[np.ndarray, dict[str, object]]:
    """The same picture, bright on dark, as other objects store it."""
    if kind == "inverted":
        return 1000 - pixels, {"PhotometricInterpretation": "MONOCHROME1"}
    if kind == "tall pixels":
        return pixels, {"PixelSpacing": [0.8, 0.2]}
    if kind == "wide pixels":
        return pixels, {"PixelAspectRatio": [1, 4]}
    if kind == "a frame of several":
        return np.stack([np.zeros_like(pixels), pixels]), {}
    if kind == "colour":
        return (pixels[..., np.newaxis].repeat(3, axis=2) // 4).astype(np.uint8), {}
    if kind == "turned":
        return pixels, {"PatientOrientation": ["R", "H"], "ImageLaterality": "L"}
    return pixels, {}


KINDS = ["plain", "inverted", "tall pixels", "wide pixels", "a frame of several", "colour", "turned"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(KINDS), st.integers(40, 500), st.integers(40, 500), st.integers(0, 2**32 - 1))
def test_rectangle_comes_back_from_the_models_picture_to_where_it_is_stored(tmp_path, kind, rows, columns, seed):
    random = np.random.default_rng(seed)
    x0, x1 = np.sort(random.choice(columns - 1, 2, replace=False)) + 1
    y0, y1 = np.sort(random.choice(rows - 1, 2, replace=False)) + 1
    x1, y1 = min(columns, max(x1, x0 + columns // 8)), min(rows, max(y1, y0 + rows // 8))
    pixels = np.zeros((rows, columns), np.uint16)
    pixels[y0:y1, x0:x1] = 1000
    written, elements = stored(pixels, kind)
    instance = load_instance(store(image_dataset(written, **elements), tmp_path / "file.dcm"))
    rendered = render_frame(instance, instance.number_of_frames)
    assert ((rendered.rgb[..., 0] > 127) == (pixels > 500)).all()  # in the source grid, whatever the pixels' shape
    size = 448
    seen = np.asarray(Image.fromarray(rendered.rgb).resize((size, size), Image.Resampling.BICUBIC))[..., 0] > 127
    across, down = np.flatnonzero(seen.any(axis=0)), np.flatnonzero(seen.any(axis=1))
    box = (across[0], down[0], across[-1] + 1, down[-1] + 1)
    back = rendered.transform.to_source(tuple(edge / size * SCALE for edge in box))
    # Half a source pixel, and what of a pixel of the model's picture an edge may lie beside it.
    slack = np.array([columns, rows, columns, rows]) / size / 2 + 0.5
    assert (np.abs(np.array(back) - [x0, y0, x1, y1]) <= slack + 1e-9).all()


def test_ten_thousand_boxes_of_the_models_come_back_within_half_a_pixel():
    random = np.random.default_rng(7)
    for rows, columns in random.integers(1, 8000, (100, 2)):
        transform = Transform(int(rows), int(columns))
        low, high = np.sort(random.integers(0, SCALE + 1, (2, 100, 2)), axis=0)
        high = np.maximum(high, low + 1).clip(1, SCALE)
        low = np.minimum(low, high - 1)
        for box in np.concatenate([low, high], axis=1).tolist():
            source = transform.to_source(tuple(box))
            exact = np.array(box) / SCALE * [columns, rows, columns, rows]
            assert np.abs(np.array(source) - exact).max() < 0.5
            assert transform.to_grammar(source) == tuple(box)
