"""The commissioning phantoms are drawn so that what is done to them on the way can be told, and it is told."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from dicom_node.commissioning.cases import CASES, Case, Turn, chosen
from dicom_node.commissioning.checks import images_unchanged
from dicom_node.commissioning.phantoms import Phantom, write_phantom
from dicom_node.commissioning.turns import WORDS, turn_between, turned, turned_box, turned_orientation
from engine.errors import SettingsError

WHEN = datetime(2026, 1, 1, 12, tzinfo=UTC)


def phantom(case: Case, folder: Path) -> Phantom:
    return write_phantom(case, "0badcafe", WHEN, folder)


@pytest.mark.parametrize("case", [case for case in CASES if case.syntax.is_compressed or case.frames > 1])
def test_what_is_sent_is_what_was_drawn(case: Case, tmp_path: Path) -> None:
    drawn = phantom(case, tmp_path)
    files = [dcmread(path) for path in drawn.files]
    assert {file.file_meta.TransferSyntaxUID for file in files} == {case.syntax}
    assert images_unchanged(drawn, files, "was written") == []
    assert str(files[0].PatientID).startswith("TEST-")


@pytest.mark.parametrize("turn", WORDS)
def test_each_flip_and_turn_is_named(turn: Turn, tmp_path: Path) -> None:
    (case,) = chosen(("us-multiframe",))
    drawn = phantom(case, tmp_path)
    image = dcmread(drawn.files[0])
    frames = np.stack([turned(frame, turn) for frame in image.pixel_array])
    image.Rows, image.Columns = frames.shape[1:]
    image.PixelData = frames.tobytes()
    assert images_unchanged(drawn, [image], "came") == [f"image 1 came {WORDS[turn]}"]


def test_other_changes_are_named(tmp_path: Path) -> None:
    (case,) = chosen(("ct-flipped",))
    drawn = phantom(case, tmp_path)
    image = dcmread(drawn.files[0])
    image.PixelData = bytes(len(image.PixelData))
    image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    orientation, pixels = images_unchanged(drawn, [image], "came")
    assert "ImageOrientationPatient" in orientation
    assert pixels == "image 1 came with other pixel values"
    assert images_unchanged(drawn, [], "came") == ["image 1 never came, or with another SOP instance UID"]


@pytest.mark.parametrize("turn", ["none", *WORDS])
def test_boxes_and_orientations_turn_with_the_pixels(turn: Turn) -> None:
    image = np.zeros((6, 9), np.uint8)
    image[1:3, 2:6] = 1
    after = turned(image, turn)
    rows, columns = np.nonzero(after)
    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert turned_box((2, 1, 6, 3), 6, 9, turn) == box
    image[0, 0] = 2  # no two turns are alike any more
    assert turn_between(image, turned(image, turn)) == turn
    # The marked pixel stays at its place in the patient, wherever the corner of the turned image lies.
    cosines, far_along, far_down = turned_orientation((1, 0, 0, 0, 1, 0), turn)
    corner = np.array([8 * far_along, 5 * far_down, 0])
    ((row,), (column,)) = np.nonzero(turned(image, turn) == 2)
    assert list(corner + np.array(cosines[:3]) * column + np.array(cosines[3:]) * row) == [0, 0, 0]


def test_an_unknown_case_is_refused_with_those_there_are() -> None:
    with pytest.raises(SettingsError, match="no case pet") as refused:
        chosen(("pet",))
    assert "us-multiframe" in refused.value.advice
