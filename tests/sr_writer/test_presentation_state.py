"""Presentation states: where they draw, on which frames, and that they leave an image's own grays as they are."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from sr_cases import boxes_on, ct_series, finding, header, reading, region, sources_of_every_kind

from dicom_node.demo.readback import regions_of_gsps
from engine.imaging import render_frame
from engine.study import load_instance
from sr_writer import OutputProfile, check_results, dump, write_results
from sr_writer.drawing import colour

PROFILE = OutputProfile(region_sr=False, narrative_sr=True, seg=False, secondary_capture=False)
GRAY, COLOR = "1.2.840.10008.5.1.4.1.1.11.1", "1.2.840.10008.5.1.4.1.1.11.2"


def states(images, findings, profile=PROFILE) -> list[Dataset]:
    """Write the presentation states of a reading."""
    read = reading(images, findings)
    results = write_results(read, images, profile)
    check_results(results, read, images)
    return [result for result in results if result.Modality == "PR"]


@pytest.mark.parametrize(
    "kind", ["ct series", "enhanced ct", "mammogram", "ultrasound multi-frame", "ultrasound palette"]
)
def test_outlines_are_the_regions_coordinate_for_coordinate(kind):
    images = sources_of_every_kind()[kind]
    findings = boxes_on(images)
    drawn = [found for state in states(images, findings) for found in regions_of_gsps(state)]
    wanted = [(each.sop_instance_uid, each.frame, each.box) for one in findings for each in one.regions]
    single = [(uid, frame, tuple(map(np.float32, box))) for uid, frame, box in wanted]
    assert sorted((found.sop_instance_uid, found.frame, found.box) for found in drawn) == sorted(single)


def test_multi_frame_images_are_referred_to_by_frame():
    (image,) = sources_of_every_kind()["enhanced ct"]
    (state,) = states([image], [finding("disc", region(image, (5, 5, 30, 40), frame=4))])
    for annotation in state.GraphicAnnotationSequence:
        assert annotation.ReferencedImageSequence[0].ReferencedFrameNumber == 4


def test_layers_are_named_for_the_model_and_coloured_as_the_segments():
    images = ct_series()
    (state,) = states(images, boxes_on(images))
    warning, *layers = state.GraphicLayerSequence
    assert [layer.GraphicLayer for layer in layers] == ["AI PHANTOM REA 1", "AI PHANTOM REA 2", "AI PHANTOM REA 3"]
    assert layers[0].GraphicLayerDescription == "1 breast / 乳房"
    (segmentation,) = [
        r for r in write_results(reading(images, boxes_on(images)), images, OutputProfile()) if r.Modality == "SEG"
    ]
    assert [layer.GraphicLayerRecommendedDisplayCIELabValue for layer in layers] == [
        segment.RecommendedDisplayCIELabValue for segment in segmentation.SegmentSequence
    ]
    assert colour(0) == ImageColor.getrgb("red")
    words = [text.UnformattedTextValue for item in state.GraphicAnnotationSequence for text in item.TextObjectSequence]
    assert words[0].startswith("AI - not for diagnosis | 人工智能结果")
    assert warning.GraphicLayerOrder == 1


def test_colour_and_gray_and_sizes_do_not_mix():
    gray = [header("1.2.840.10008.5.1.4.1.1.1", "CR", n, rows=60 + n, columns=50) for n in (1, 2)]
    photo = header("1.2.840.10008.5.1.4.1.1.77.1.4", "XC", 3, rows=61, columns=50, PhotometricInterpretation="RGB")
    images = [*gray, photo]
    written = states(images, [finding("disc", *(region(image, (5, 5, 20, 30)) for image in images))])
    assert sorted(str(state.SOPClassUID) for state in written) == [GRAY, GRAY, COLOR]
    assert len({state.SeriesInstanceUID for state in written}) == 1
    assert [state.InstanceNumber for state in written] == [1, 2, 3]
    assert all(len(state.ReferencedSeriesSequence[0].ReferencedImageSequence) == 1 for state in written)


def test_each_image_keeps_its_own_window():
    images = ct_series(3)
    for number, image in enumerate(images):
        image.RescaleSlope, image.RescaleIntercept = "1", "-1024"
        image.WindowCenter, image.WindowWidth = [40, 400], [350 if number == 2 else 400, 2000]
    (state,) = states(images, [finding("disc", *(region(image, (5, 5, 20, 30)) for image in images))])
    assert (state.RescaleSlope, state.RescaleIntercept, state.RescaleType) == (1, -1024, "HU")
    windows = {
        (voi.WindowCenter, voi.WindowWidth): {item.ReferencedSOPInstanceUID for item in voi.ReferencedImageSequence}
        for voi in state.SoftcopyVOILUTSequence
    }
    assert windows == {
        (40, 400): {image.SOPInstanceUID for image in images[:2]},
        (40, 350): {images[2].SOPInstanceUID},
    }


def test_look_up_tables_are_kept_as_they_are(tmp_path, dciodvfy):
    image = header("1.2.840.10008.5.1.4.1.1.1", "CR", rows=60, columns=50, PixelRepresentation=1)
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4, -2, 12], np.array([0, 1000, 3000, 4095], "<u2").tobytes()
    image.VOILUTSequence = Sequence([table])
    (state,) = states([image], [finding("disc", region(image, (5, 5, 20, 30)))])
    path = tmp_path / "state.dcm"
    path.write_bytes(dump(state))
    assert dciodvfy(path) == []
    kept = dcmread(path).SoftcopyVOILUTSequence[0].VOILUTSequence[0]
    assert list(kept.LUTDescriptor) == [4, -2, 16]
    assert np.frombuffer(kept.LUTData, "<u2").tolist() == [0, 16004, 48011, 65535]  # the same shares of the range


@pytest.mark.parametrize(("spacing", "ratio"), [(None, [1, 1]), ([0.6, 0.5], [6, 5]), ([0.25, 1.0], [1, 4])])
def test_pixels_that_are_not_square_are_shown_in_proportion(spacing, ratio):
    image = header("1.2.840.10008.5.1.4.1.1.1", "CR", rows=60, columns=50)
    if spacing:
        image.ImagerPixelSpacing = spacing
    (state,) = states([image], [finding("disc", region(image, (5, 5, 20, 30)))])
    assert state.DisplayedAreaSelectionSequence[0].PresentationPixelAspectRatio == ratio


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_dcmtk_shows_the_grays_that_the_reader_saw(photometric, tmp_path):
    image = dcmread(str(get_testdata_file("CT_small.dcm")))
    image.PhotometricInterpretation = photometric
    image.WindowCenter, image.WindowWidth = 100, 900
    image.save_as(tmp_path / "image.dcm")
    (state,) = states([image], [finding("disc", region(image, (5, 5, 20, 30)))])
    (tmp_path / "state.dcm").write_bytes(dump(state))
    command = ["/usr/bin/dcmp2pgm", "-p", "state.dcm", "image.dcm", "shown.pgm"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    shown = np.asarray(Image.open(tmp_path / "shown.pgm")).astype(int)
    seen = render_frame(load_instance(tmp_path / "image.dcm")).rgb[:, :, 0].astype(int)
    assert seen.std() > 20
    assert np.abs(shown - seen).max() <= 2


@pytest.mark.parametrize("kind", ["ct series", "enhanced ct", "mammogram", "ultrasound multi-frame", "dx"])
def test_dcmtk_finds_no_fault_with_a_presentation_state(kind, tmp_path: Path):
    images = sources_of_every_kind()[kind]
    for number, state in enumerate(states(images, boxes_on(images), OutputProfile(languages=("en",), seg=False))):
        path = tmp_path / f"{number}.dcm"
        # Its pattern of points in time knows no "+", which is the Standard's own (PS3.5 6.2).
        state.ContributingEquipmentSequence[0].ContributionDateTime = "20261122102030"
        path.write_bytes(dump(state))
        done = subprocess.run(["/usr/bin/dcmpschk", str(path)], capture_output=True, timeout=60, check=False)
        output = (done.stdout + done.stderr).decode()
        assert "Test passed" in output, output


def test_a_scan_without_a_window_is_not_left_gray():
    (image,) = sources_of_every_kind()["real ct"]
    (state,) = states([image], [finding("disc", region(image, (5, 5, 20, 30)))])
    assert (state.SoftcopyVOILUTSequence[0].WindowCenter, state.SoftcopyVOILUTSequence[0].WindowWidth) == (0, 2000)
