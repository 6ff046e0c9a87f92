"""Stored values come out as they were put in: any depth, sign, place of the bits, byte order, codec and fragmenting."""

from __future__ import annotations

import tracemalloc

import imagecodecs
import numpy as np
import pytest
from engine_files import PYDICOM_FILES, completed, image_dataset, store
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended, generate_frames
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    XRayAngiographicImageStorage,
)

from engine.errors import NotAnImageError, UndecodableError
from engine.imaging import Window, check_image, decode_frame, render_frame
from engine.imaging.decoder import Decoder
from engine.study import load_instance

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")


def gray(instance, frame=1, window=None) -> np.ndarray:
    return render_frame(instance, frame, window).rgb[..., 0]


def values_of(stored: int, *, signed: bool, seed: int = 1) -> np.ndarray:
    low, high = (-(2 ** (stored - 1)), 2 ** (stored - 1)) if signed else (0, 2**stored)
    values = np.random.default_rng(seed).integers(low, high, (5, 7))
    values[0, :2] = low, high - 1
    return values.astype(np.int16 if signed else np.uint16)


# --- where the bits are


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(9, 16), st.integers(0, 7), st.booleans(), st.integers(0, 2**16 - 1))
def test_stored_bits_are_found_wherever_they_are_and_the_others_are_ignored(tmp_path, stored, up, signed, junk):
    up = min(up, 16 - stored)
    values = values_of(stored, signed=signed, seed=junk)
    mask = (2**stored - 1) << up
    cells = ((values.astype(np.int64) << up) & mask | junk & ~mask).astype(np.uint16)  # overlays in the other bits
    dataset = image_dataset(cells, BitsStored=stored, HighBit=stored - 1 + up, PixelRepresentation=int(signed))
    decoded = decode_frame(load_instance(store(dataset, tmp_path / "file.dcm")), 1)
    assert (decoded.samples == values).all()
    assert decoded.bits == stored


@pytest.mark.parametrize("signed", [False, True])
def test_stored_bits_are_found_in_a_compressed_frame(tmp_path, signed):
    values = values_of(12, signed=signed)
    cells = (values.astype(np.int64) << 4).astype(np.uint16)
    dataset = image_dataset(cells, BitsStored=12, HighBit=15, PixelRepresentation=int(signed))
    store(dataset, tmp_path / "plain.dcm")
    packed = dcmread(tmp_path / "plain.dcm")
    packed.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    packed.save_as(tmp_path / "file.dcm")
    assert (decode_frame(load_instance(tmp_path / "file.dcm"), 1).samples == values).all()


@pytest.mark.parametrize("high", [3, 16, 200])
def test_high_bit_that_cannot_be_is_ignored(make_instance, high):
    values = values_of(12, signed=False)
    assert (decode_frame(make_instance(values, BitsStored=12, HighBit=high), 1).samples == values).all()


def test_single_bits_are_unpacked_over_frames_that_end_within_a_byte(tmp_path):
    frames = np.random.default_rng(2).integers(0, 2, (3, 3, 5)).astype(np.uint8)
    packed = np.packbits(frames.ravel(), bitorder="little").tobytes()
    dataset = image_dataset(frames, BitsAllocated=1, BitsStored=1, HighBit=0, PixelData=packed + bytes(len(packed) % 2))
    instance = load_instance(store(dataset, tmp_path / "file.dcm"))
    for number, frame in enumerate(frames, 1):
        assert (gray(instance, number) == frame * 255).all()


@pytest.mark.parametrize("keyword", ["FloatPixelData", "DoubleFloatPixelData"])
def test_floating_point_pixels(tmp_path, keyword):
    wide = keyword.startswith("Double")
    values = np.array([[-3.0, 0.0], [np.nan, 5.0], [-2000.0, 1.0]], np.float64 if wide else np.float32)
    dataset = image_dataset(np.zeros(values.shape, np.uint16))
    for gone in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(dataset, gone)
    dataset.BitsAllocated = values.dtype.itemsize * 8
    setattr(dataset, keyword, values.tobytes())
    setattr(dataset, f"{'DoubleFloat' if wide else 'Float'}PixelPaddingValue", -2000.0)
    shown = gray(load_instance(store(dataset, tmp_path / "file.dcm")))
    assert shown.tolist() == [[0, 96], [0, 255], [0, 128]]  # what is no number is as low as the lowest


# --- padding


def test_padding_is_black_in_an_inverted_image_too(make_instance):
    pixels = np.array([[0, 100], [200, 1100]], np.uint16)
    shown = gray(make_instance(pixels, PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=0))
    assert shown.tolist() == [[0, 255], [230, 0]]


def test_padding_range_is_black_whichever_end_is_told_first(make_instance):
    pixels = np.array([[10, 12, 14], [15, 16, 30]], np.uint16)
    shown = gray(make_instance(pixels, PixelPaddingValue=14, PixelPaddingRangeLimit=10), window=Window(0, 2))
    assert shown.tolist() == [[0, 0, 0], [255, 255, 255]]


def test_padding_of_signed_pixels_may_be_written_as_unsigned(make_instance):
    pixels = np.array([[-2000, 0], [500, 1000]], np.int16)
    instance = make_instance(pixels)
    instance.header.add_new("PixelPaddingValue", "US", 2**16 - 2000)
    assert gray(instance).tolist() == [[0, 0], [128, 255]]


def test_padding_that_no_pixel_can_have_pads_nothing(make_instance):
    assert gray(make_instance(np.array([[0, 255]], np.uint8), PixelPaddingValue=65535)).tolist() == [[0, 255]]


# --- the grayscale pipeline over functional groups


def groups(*items: dict[str, dict[str, object]]) -> Sequence:
    made = []
    for item in items:
        group = Dataset()
        for macro, elements in item.items():
            inner = Dataset()
            for keyword, value in elements.items():
                setattr(inner, keyword, value)
            setattr(group, macro, Sequence([inner]))
        made.append(group)
    return Sequence(made)


def test_rescale_and_window_are_each_frames_own_or_shared(make_instance):
    frames = np.stack([np.array([[0, 50], [100, 200]], np.uint16)] * 2)
    own = groups(
        {"PixelValueTransformationSequence": {"RescaleSlope": 1, "RescaleIntercept": 0}},
        {"PixelValueTransformationSequence": {"RescaleSlope": 2, "RescaleIntercept": -100}},
    )
    shared = groups(
        {"FrameVOILUTSequence": {"WindowCenter": 100, "WindowWidth": 200, "VOILUTFunction": "LINEAR_EXACT"}}
    )
    instance = make_instance(frames, PerFrameFunctionalGroupsSequence=own, SharedFunctionalGroupsSequence=shared)
    assert gray(instance, 1).tolist() == [[0, 64], [128, 255]]
    assert gray(instance, 2).tolist() == [[0, 0], [128, 255]]


def test_frames_own_look_up_table(make_instance):
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [2, 0, 8])
    table.add_new("LUTData", "US", [200, 10])
    own = groups({"FrameVOILUTSequence": {"VOILUTSequence": Sequence([table])}})
    instance = make_instance(np.array([[0, 1]], np.uint16)[np.newaxis], PerFrameFunctionalGroupsSequence=own)
    assert gray(instance).tolist() == [[200, 10]]


def test_spacing_of_a_functional_group_tells_the_aspect(make_instance):
    shared = groups({"PixelMeasuresSequence": {"PixelSpacing": [0.9, 0.3]}})
    instance = make_instance(np.zeros((2, 4, 4), np.uint16), SharedFunctionalGroupsSequence=shared)
    assert render_frame(instance).aspect == pytest.approx(3.0)


def test_intercept_without_a_slope_still_counts(make_instance):
    instance = make_instance(np.array([[0, 1024]], np.uint16), RescaleIntercept=-1024)
    assert gray(instance, window=Window(0, 1)).tolist() == [[0, 255]]


def test_table_back_to_xray_intensities_is_not_for_display(make_instance):
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [3, 0, 16])
    table.add_new("LUTData", "US", [9, 5, 1])
    elements = {
        "ModalityLUTSequence": Sequence([table]),
        "SOPClassUID": XRayAngiographicImageStorage,
        "PixelIntensityRelationship": "LOG",
    }
    pixels = np.array([[0, 1, 2]], np.uint8)
    assert gray(make_instance(pixels, Modality="XA", **elements)).tolist() == [[0, 128, 255]]
    assert gray(make_instance(pixels, Modality="DX", **elements)).tolist() == [[255, 128, 0]]


# --- codecs, against others


def lossless(values: np.ndarray, syntax: str) -> bytes:
    if syntax == JPEGLosslessSV1:
        return bytes(imagecodecs.ljpeg_encode(values, bitspersample=12))
    if syntax == JPEGLSLossless:
        return bytes(imagecodecs.jpegls_encode(values))
    if syntax == JPEG2000Lossless:
        return bytes(imagecodecs.jpeg2k_encode(values, level=0, codecformat=0))
    return bytes(imagecodecs.htj2k_encode(values, reversible=True))


LOSSLESS = [JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless, HTJ2KLosslessRPCL]


@pytest.mark.parametrize("syntax", LOSSLESS)
@pytest.mark.parametrize("table", ["offsets", "no offsets", "extended offsets"])
def test_lossless_frames_come_out_exactly_however_they_lie_in_fragments(tmp_path, syntax, table):
    frames = np.random.default_rng(3).integers(0, 4096, (3, 32, 32)).astype(np.uint16)
    frames[:, 0, 0] = 4095
    encoded = [lossless(frame, syntax) for frame in frames]
    dataset = image_dataset(frames, BitsStored=12, HighBit=11)
    if table == "extended offsets":
        dataset.PixelData, lengths, ends = encapsulate_extended(encoded)
        dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = lengths, ends
    else:
        pieces = 3 if table == "offsets" else 1
        dataset.PixelData = encapsulate(encoded, fragments_per_frame=pieces, has_bot=table == "offsets")
    instance = load_instance(store(dataset, tmp_path / "file.dcm", syntax))
    for number in (3, 1, 2):
        assert (decode_frame(instance, number).samples == frames[number - 1]).all()


def test_frames_in_several_fragments_without_offsets_are_told_apart(tmp_path):
    dataset = dcmread(PYDICOM_FILES / "JPGExtended.dcm")
    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    one = decode_frame(load_instance(PYDICOM_FILES / "JPGExtended.dcm"), 1).samples
    dataset.PixelData = encapsulate([frame] * 3, fragments_per_frame=4, has_bot=False)
    dataset.NumberOfFrames = 3
    dataset.save_as(tmp_path / "file.dcm")
    assert (decode_frame(load_instance(tmp_path / "file.dcm"), 2).samples == one).all()


@pytest.mark.parametrize(
    "name", ["693_J2KI.dcm", "JPEG2000.dcm", "MR_small_jp2klossless.dcm", "J2K_pixelrep_mismatch.dcm"]
)
def test_jpeg_2000_samples_equal_another_decoders(name):
    path = PYDICOM_FILES / name
    dataset = dcmread(path)
    theirs = imagecodecs.jpeg2k_decode(next(generate_frames(dataset.PixelData, number_of_frames=1))).astype(np.int64)
    ours = decode_frame(load_instance(path), 1).samples
    turn = 2**dataset.BitsStored
    assert ((ours - theirs) % turn == 0).all()  # a codestream's sign may be another one than the header's
    low = -turn // 2 if dataset.PixelRepresentation else 0
    assert low <= ours.min() <= ours.max() < low + turn


@pytest.mark.parametrize(
    "name", ["JPEGLSNearLossless_08.dcm", "JPEGLSNearLossless_16.dcm", "SC_rgb_jls_lossy_line.dcm"]
)
def test_jpeg_ls_samples_equal_another_decoders(name, tmp_path):
    path = completed(name, tmp_path)
    theirs = imagecodecs.jpegls_decode(next(generate_frames(dcmread(path).PixelData, number_of_frames=1)))
    assert (decode_frame(load_instance(path), 1).samples == theirs).all()


def test_deflated_multi_frame_object(tmp_path):
    frames = np.random.default_rng(4).integers(0, 256, (4, 8, 8)).astype(np.uint8)
    instance = load_instance(store(image_dataset(frames), tmp_path / "file.dcm", DeflatedExplicitVRLittleEndian))
    assert (decode_frame(instance, 3).samples == frames[2]).all()


@pytest.mark.parametrize(
    ("syntax", "words"),
    [
        ("1.2.840.10008.1.2.4.102", "no decoder for MPEG-4"),
        ("1.2.840.10008.1.2.4.93", "no decoder for JPEG 2000 Part 2"),
        ("1.2.840.10008.1.2.4.9999", "no decoder for 1.2.840.10008.1.2.4.9999"),
    ],
)
def test_transfer_syntax_that_nobody_decodes_is_refused_by_its_name(tmp_path, syntax, words):
    instance = load_instance(store(image_dataset(np.zeros((4, 4), np.uint8)), tmp_path / "file.dcm"))
    instance.header.file_meta.TransferSyntaxUID = UID(syntax)
    with pytest.raises(UndecodableError, match=words):
        decode_frame(instance, 1)


# --- one frame at a time


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_one_frame_of_a_hundred_is_decoded_alone(tmp_path, monkeypatch, syntax):
    frames = np.zeros((100, 128, 128), np.uint8)
    frames[:, 0, 0] = 255
    frames[:, 5, 5] = range(100)
    dataset = image_dataset(frames)
    store(dataset, tmp_path / "plain.dcm")
    if syntax == RLELossless:
        dataset = dcmread(tmp_path / "plain.dcm")
        dataset.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
        dataset.save_as(tmp_path / "file.dcm")
    else:
        dataset.PixelData = encapsulate([lossless(frame, syntax) for frame in frames])
        store(dataset, tmp_path / "file.dcm", syntax)
    instance = load_instance(tmp_path / "file.dcm")
    decoded = []
    original = Decoder.decode
    monkeypatch.setattr(
        Decoder, "decode", lambda self, frame, *told: decoded.append(len(frame)) or original(self, frame, *told)
    )
    tracemalloc.start()
    shown = [gray(instance, number)[5, 5] for number in (60, 99)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert shown == [59, 98]
    assert len(decoded) == 2
    assert sum(decoded) < len(dataset.PixelData) / 10
    assert peak < frames.nbytes  # and that is with the picture in RGB


# --- pictures that are not the patient's


@pytest.mark.parametrize("words", ["Dose Report", "Patient Protocol", "XR DOSE SUMMARY", "剂量报告"])
def test_picture_of_a_dose_report_is_told_by_its_series(make_instance, words):
    with pytest.raises(NotAnImageError, match="dose report"):
        check_image(
            make_instance(np.zeros((2, 2), np.uint8), SeriesDescription=words, SpecificCharacterSet="ISO_IR 192")
        )


@pytest.mark.parametrize("words", ["Low dose chest", "Lung low-dose 1.0", "Dosed"])
def test_scan_of_a_low_dose_is_no_dose_report(make_instance, words):
    check_image(make_instance(np.zeros((2, 2), np.uint8), SeriesDescription=words))
