"""Files as the world has them: each is rendered as another implementation does, or refused with its reason."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from engine_files import PYDICOM_FILES, completed
from PIL import Image

from engine.errors import MedregaError, NotAnImageError, NotDicomError, UndecodableError
from engine.imaging import render_frame
from engine.study import load_instance

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

SHARED = Path(__file__).parents[3] / "shared" / "data" / "dicom"

# What pydicom's wheel bundles that is no image of a patient, or none that can be read.
REFUSED: dict[str, type[MedregaError]] = {
    "badVR": NotAnImageError,
    "empty_charset_LEI": NotDicomError,
    "ExplVR_BigEndNoMeta": NotAnImageError,
    "ExplVR_LitEndNoMeta": NotAnImageError,
    "JPEG2000-embedded-sequence-delimiter": UndecodableError,
    "liver_1frame": NotAnImageError,
    "liver_expb_1frame": NotAnImageError,
    "meta_missing_tsyntax": NotDicomError,
    "MR_truncated": UndecodableError,
    "nested_priv_SQ": NotDicomError,
    "no_meta": NotDicomError,
    "no_meta_group_length": NotDicomError,
    "priv_SQ": NotDicomError,
    "reportsi": NotAnImageError,
    "reportsi_with_empty_number_tags": NotAnImageError,
    "rtdose": NotAnImageError,
    "rtdose_1frame": NotAnImageError,
    "rtdose_expb": NotAnImageError,
    "rtdose_expb_1frame": NotAnImageError,
    "rtdose_rle": NotAnImageError,
    "rtdose_rle_1frame": NotAnImageError,
    "rtplan": NotAnImageError,
    "rtplan_truncated": NotAnImageError,
    "rtstruct": NotAnImageError,
    "test-SR": NotAnImageError,
    "UN_sequence": NotDicomError,
    "waveform_ecg": NotAnImageError,
}
# What dcmj2pnm does not read, as it lacks JPEG 2000 and JPEG-LS: mean and deviation, which were seen to be right.
ELSEWHERE: dict[str, tuple[float, float]] = {
    "693_J2KI": (44.3, 81.8),
    "examples_jpeg2k": (34.5, 59.0),
    "GDCMJ2K_TextGBR": (124.4, 36.0),
    "J2K_pixelrep_mismatch": (63.2, 93.2),
    "JPEG2000": (40.4, 19.5),
    "JPEGLSNearLossless_08": (55.6, 80.5),
    "JPEGLSNearLossless_16": (46.7, 79.8),
    "MR_small_jp2klossless": (113.1, 61.0),
    "MR_small_jpeg_ls_lossless": (113.1, 61.0),
    "SC_rgb_gdcm_KY": (127.7, 102.8),
    "SC_rgb_jpeg": (244.0, 0.9),
    "SC_rgb_jls_lossy_line": (128.0, 102.6),
    "SC_rgb_jls_lossy_sample": (128.0, 102.6),
}
FILES = sorted(path.stem for path in PYDICOM_FILES.glob("*.dcm"))


def theirs(path: Path, out: Path, *, window: bool, frame: int) -> np.ndarray | None:
    voi = ["+Wi", "1"] if window else ["+Wm"]
    command = ["/usr/bin/dcmj2pnm", "+op", "-O", "+F", str(frame), *voi, str(path), str(out)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        return None
    return np.asarray(Image.open(out).convert("RGB")).astype(int)


@pytest.mark.parametrize("name", FILES)
def test_file_of_pydicoms_is_rendered_as_by_others_or_refused(tmp_path, name):
    if (refusal := REFUSED.get(name)) is not None:
        with pytest.raises(refusal, match=r"\w+ \w+ \w+"):
            render_frame(load_instance(PYDICOM_FILES / f"{name}.dcm"))
        return
    path = completed(f"{name}.dcm", tmp_path)
    instance = load_instance(path)
    middle = (instance.number_of_frames + 1) // 2
    rgb = render_frame(instance, middle).rgb
    assert rgb.shape == (instance.header.Rows, instance.header.Columns, 3)
    reference = theirs(path, tmp_path / "x.ppm", window="WindowCenter" in instance.header, frame=middle)
    if reference is None:
        assert (rgb.mean(), rgb.std()) == pytest.approx(ELSEWHERE[name], abs=0.1)
    else:
        assert np.abs(reference - rgb).max() <= 2


def test_decompressed_twins_render_alike():
    for packed, plain in [
        ("SC_rgb_jpeg.dcm", "SC_rgb_jpeg_dcmd.dcm"),
        ("SC_jpeg_no_color_transform.dcm", "SC_rgb_jpeg_dcmd.dcm"),
        ("SC_jpeg_no_color_transform_2.dcm", "SC_rgb_jpeg_app14_dcmd.dcm"),
    ]:
        one, other = (render_frame(load_instance(PYDICOM_FILES / name)).rgb for name in (packed, plain))
        assert (one == other).all()


@pytest.mark.skipif(not SHARED.exists(), reason="the folder of real and hostile files is not here")
@pytest.mark.parametrize("folder", ["broken", "charset", "dx", "enh", "fuzz", "ref", "ts", "us", "vl"])
def test_every_real_and_hostile_file_is_rendered_or_refused_with_a_reason(folder):
    for path in sorted((SHARED / folder).iterdir()):
        try:
            instance = load_instance(path)
            rgb = render_frame(instance, (instance.number_of_frames + 1) // 2).rgb
        except MedregaError as error:
            assert len(str(error)) > 10, path  # noqa: PT017
        else:
            assert rgb.shape == (instance.header.Rows, instance.header.Columns, 3)


@pytest.mark.skipif(not SHARED.exists(), reason="the folder of real files is not here")
def test_real_pictures_look_as_they_should():
    chest = render_frame(load_instance(SHARED / "dx" / "dx_chest_canon_mono1_j2kr.dcm")).rgb[..., 0]
    rows, columns = chest.shape
    assert chest[rows // 20 : rows // 4, 9 * columns // 20 : 11 * columns // 20].mean() > 160  # the spine, bright
    assert chest[rows // 3, columns // 4 : columns // 3].mean() < 130  # lung, dark
    head = render_frame(load_instance(SHARED / "ts" / "J2K_pixelrep_mismatch.dcm")).rgb[..., 0]
    assert head[:40, :40].max() == 0
    assert np.median(head[200:300, 200:300]) > 60
