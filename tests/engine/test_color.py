"""Colours are what was meant, whatever header and codestream say of them: palettes, YBR, component transforms."""

from __future__ import annotations

from io import BytesIO

import imagecodecs
import numpy as np
import pytest
from engine_files import image_dataset, store
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.pixels.processing import apply_color_lut, convert_color_space
from pydicom.uid import (
    ExplicitVRBigEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    UltrasoundImageStorage,
)

from engine.errors import UndecodableError
from engine.imaging import render_frame
from engine.study import load_instance

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

COLORS = [
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (250, 200, 10),
    (30, 60, 220),
    (0, 0, 0),
    (255, 255, 255),
    (90, 90, 90),
]
STRIPES = np.repeat(np.array(COLORS, np.uint8), 8, axis=0)[:, np.newaxis].repeat(64, axis=1)


def ybr(rgb: np.ndarray) -> np.ndarray:
    return convert_color_space(rgb, "RGB", "YBR_FULL")


def shown(tmp_path, dataset, syntax=None) -> np.ndarray:
    dataset.SOPClassUID = UltrasoundImageStorage
    path = tmp_path / "file.dcm"
    return render_frame(load_instance(store(dataset, path, *([syntax] if syntax else [])))).rgb.astype(int)


# --- as stored


@pytest.mark.parametrize("planar", [0, 1])
def test_ybr_full(tmp_path, planar):
    pixels = ybr(STRIPES)
    dataset = image_dataset(pixels, PhotometricInterpretation="YBR_FULL", PlanarConfiguration=planar)
    if planar:
        dataset.PixelData = np.ascontiguousarray(pixels.transpose(2, 0, 1)).tobytes()
    assert np.abs(shown(tmp_path, dataset) - STRIPES).max() <= 2


def subsampled(pixels: np.ndarray) -> bytes:
    """Two luminances, then their one pair of colour differences (PS3.3 C.7.6.3.1.2)."""
    y, b, r = (pixels[..., index].reshape(-1) for index in range(3))
    return np.stack([y[::2], y[1::2], b[::2], r[::2]], axis=1).astype(np.uint8).tobytes()


def test_ybr_full_422(tmp_path):
    dataset = image_dataset(STRIPES, PhotometricInterpretation="YBR_FULL_422", PixelData=subsampled(ybr(STRIPES)))
    assert np.abs(shown(tmp_path, dataset) - STRIPES).max() <= 2


def test_ybr_partial_422(tmp_path):
    # PS3.3 C.7.6.3.1.2 of 2017 and before, as it is printed there
    to_partial = [[0.2568, 0.5041, 0.0979], [-0.1482, -0.2910, 0.4392], [0.4392, -0.3678, -0.0714]]
    partial = np.round(STRIPES @ np.array(to_partial).T + [16, 128, 128])
    dataset = image_dataset(STRIPES, PhotometricInterpretation="YBR_PARTIAL_422", PixelData=subsampled(partial))
    assert np.abs(shown(tmp_path, dataset) - STRIPES).max() <= 3


def test_sixteen_bits_of_colour(tmp_path):
    dataset = image_dataset(STRIPES.astype(np.uint16) << 4, BitsStored=12, HighBit=11)
    assert (shown(tmp_path, dataset) == STRIPES).all()


@pytest.mark.parametrize("told", ["CMYK", "HSV", "MONOCHROME2", "PALETTE COLOR", ""])
def test_three_samples_that_are_no_known_colours_are_refused(make_instance, told):
    instance = make_instance(STRIPES)
    instance.header.PhotometricInterpretation = told or "?"
    with pytest.raises(UndecodableError, match=r"cannot be (rendered|decoded)"):
        render_frame(instance)


# --- the codestream's word against the header's

HEADERS = ["RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"]


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, HTJ2KLossless])
@pytest.mark.parametrize("told", HEADERS)
def test_colour_transform_of_jpeg_2000_is_taken_back_once(tmp_path, told, syntax):
    if syntax == HTJ2KLossless:
        encoded = imagecodecs.htj2k_encode(STRIPES, reversible=True)
    else:
        encoded = imagecodecs.jpeg2k_encode(STRIPES, level=0, mct=True, codecformat=0)
    dataset = image_dataset(STRIPES, PhotometricInterpretation=told, PixelData=encapsulate([bytes(encoded)]))
    assert (shown(tmp_path, dataset, syntax) == STRIPES).all()


@pytest.mark.parametrize("told", HEADERS)
def test_jpeg_2000_without_a_transform_is_what_the_header_says(tmp_path, told):
    pixels = ybr(STRIPES) if told.startswith("YBR_FULL") else STRIPES
    encoded = imagecodecs.jpeg2k_encode(pixels, level=0, mct=False, codecformat=0)
    dataset = image_dataset(STRIPES, PhotometricInterpretation=told, PixelData=encapsulate([bytes(encoded)]))
    assert np.abs(shown(tmp_path, dataset, JPEG2000Lossless) - STRIPES).max() <= 2


@pytest.mark.parametrize("told", ["RGB", "YBR_FULL", "YBR_FULL_422"])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_jfif_is_ybr_whatever_the_header_says(tmp_path, told, subsampling):
    buffer = BytesIO()
    Image.fromarray(STRIPES).save(buffer, "jpeg", quality=95, subsampling=subsampling)
    dataset = image_dataset(STRIPES, PhotometricInterpretation=told, PixelData=encapsulate([buffer.getvalue()]))
    inside = shown(tmp_path, dataset, JPEGBaseline8Bit)[4::8, 8:-8]
    assert np.abs(inside - STRIPES[4::8, 8:-8]).max() <= 8  # what a lossy encoding leaves


@pytest.mark.parametrize("told", ["RGB", "YBR_FULL", "YBR_FULL_422"])
def test_jpeg_of_rgb_with_adobes_marker_is_rgb_whatever_the_header_says(tmp_path, told):
    encoded = imagecodecs.jpeg8_encode(STRIPES, level=95, colorspace="RGB", outcolorspace="RGB")
    dataset = image_dataset(STRIPES, PhotometricInterpretation=told, PixelData=encapsulate([bytes(encoded)]))
    assert np.abs(shown(tmp_path, dataset, JPEGBaseline8Bit)[4::8] - STRIPES[4::8]).max() <= 8


@pytest.mark.parametrize("told", ["RGB", "YBR_FULL"])
def test_jpeg_ls_is_what_the_header_says(tmp_path, told):
    pixels = ybr(STRIPES) if told == "YBR_FULL" else STRIPES
    encoded = bytes(imagecodecs.jpegls_encode(pixels))
    dataset = image_dataset(STRIPES, PhotometricInterpretation=told, PixelData=encapsulate([encoded]))
    assert np.abs(shown(tmp_path, dataset, JPEGLSLossless) - STRIPES).max() <= 2


# --- palettes


def palette(bits: int, tables, *, first: int = 0, count: int | None = None, segmented: bool = False, order: str = "<"):
    elements = {}
    for color, table in zip(("Red", "Green", "Blue"), tables, strict=True):
        data = np.array(table, f"{order}u2" if bits == 16 else "u1").tobytes()
        data += bytes(len(data) % 2)
        if order == ">" and bits == 8:
            data = np.frombuffer(data, np.uint8).reshape(-1, 2)[:, ::-1].tobytes()
        prefix = f"{color}PaletteColorLookupTable"
        elements[f"{prefix}Descriptor"] = [len(table) if count is None else count, first, bits]
        elements[f"Segmented{prefix}Data" if segmented else f"{prefix}Data"] = data
    return elements


def indexed(pixels, **elements):
    return image_dataset(np.array(pixels), PhotometricInterpretation="PALETTE COLOR", **elements)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [8, 16])
def test_palette_of_an_odd_number_of_entries_in_either_byte_order(tmp_path, bits, order):
    tables = [[1, 2, 255], [4, 5, 6], [7, 8, 9]]
    wide = [[entry << 8 for entry in table] for table in tables] if bits == 16 else tables
    dataset = indexed(np.array([[0, 1], [2, 9]], np.uint8), **palette(bits, wide, order=order))
    if order == ">":
        store(dataset, tmp_path / "file.dcm", ExplicitVRBigEndian)
        rgb = render_frame(load_instance(tmp_path / "file.dcm")).rgb
    else:
        rgb = shown(tmp_path, dataset)
    assert rgb.tolist() == [[[1, 4, 7], [2, 5, 8]], [[255, 6, 9], [255, 6, 9]]]


def test_palette_of_eight_bits_for_sixteen_bit_pixels(tmp_path):
    tables = [[index % 251 for index in range(1000)], [7] * 1000, [9] * 1000]
    pixels = np.array([[0, 300], [999, 5000]], np.uint16)
    assert shown(tmp_path, indexed(pixels, **palette(8, tables)))[..., 0].tolist() == [[0, 49], [246, 246]]


def test_palette_of_signed_pixels(tmp_path):
    tables = [[10 << 8, 20 << 8, 30 << 8]] * 3
    dataset = indexed(np.array([[-5, -1], [0, 1]], np.int16), **palette(16, tables, first=-1))
    assert shown(tmp_path, dataset)[..., 0].tolist() == [[10, 10], [20, 30]]


def test_palette_that_says_sixteen_bits_and_fills_eight(tmp_path):
    tables = [[0, 128, 255]] * 3
    dataset = indexed(np.array([[0, 1, 2]], np.uint8), **palette(16, tables))
    assert shown(tmp_path, dataset)[..., 0].tolist() == [[0, 128, 255]]


def test_segmented_palette_equals_anothers_expansion(tmp_path):
    # PS3.3 C.7.9.2: a discrete segment of 4, a linear one to 60000 over 100, one down to 256 over 152
    tables = [[0, 4, 0, 1 << 8, 2 << 8, 9 << 8, 1, 100, 60000, 1, 152, 256]] * 3
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    dataset = indexed(pixels, **palette(16, tables, count=256, segmented=True))
    rgb = shown(tmp_path, dataset)
    assert (rgb == apply_color_lut(pixels, dataset) >> 8).all()
    assert rgb[0, :4, 0].tolist() == [0, 1, 2, 9]


@pytest.mark.parametrize("bits", [8, 16])
def test_indirect_segment_repeats_earlier_ones(tmp_path, bits):
    unit = 1 if bits == 8 else 256
    copied = [0, 2, 5 * unit, 6 * unit, 1, 2, 10 * unit]  # two entries, then on to 10
    offset = [0, 0, 0, 0] if bits == 8 else [0, 0]
    tables = [[*copied, 2, 2, *offset]] * 3
    dataset = indexed(np.arange(8, dtype=np.uint8).reshape(1, 8), **palette(bits, tables, count=8, segmented=True))
    assert shown(tmp_path, dataset)[0, :, 0].tolist() == [5, 6, 8, 10] * 2


@pytest.mark.parametrize(
    "table",
    [
        [0, 2, 1, 2],  # ends early
        [1, 2, 9, 0, 2, 1, 2],  # nothing to start a line from
        [7, 2, 9, 0],  # no known type
        [0, 1, 5, 2, 60000, 0, 0],  # itself, over and over
        [0, 1, 5, 2, 1, 9, 9],  # from nowhere
        [],
    ],
)
def test_segments_that_are_none_are_refused(make_instance, table):
    elements = palette(16, [table] * 3, count=4, segmented=True)
    with pytest.raises(UndecodableError, match="cannot be rendered"):
        render_frame(make_instance(np.zeros((2, 2), np.uint8), PhotometricInterpretation="PALETTE COLOR", **elements))


def test_palette_that_is_not_there_is_refused(make_instance):
    with pytest.raises(UndecodableError, match="cannot be rendered"):
        render_frame(make_instance(np.zeros((2, 2), np.uint8), PhotometricInterpretation="PALETTE COLOR"))
