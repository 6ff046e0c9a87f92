"""The overlay picture: boxes at their place, names that can be read, sizes a person can open."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from dicom_node.reading.picture import MAX_HEIGHT, Mark, draw_overlay
from engine.findings import ImageRead
from engine.study import Study, load_studies
from sr_writer.drawing import colour

FIRST = colour(0)


def study_of(
    folder: Path, rows: int, columns: int, count: int = 1, **attributes: object
) -> tuple[Study, list[ImageRead]]:
    folder.mkdir(exist_ok=True)
    dataset: Dataset = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))
    dataset.Rows, dataset.Columns = rows, columns
    dataset.PixelData = np.full((rows, columns), 700, np.int16).tobytes()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    images = []
    for number in range(1, count + 1):
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
        dataset.InstanceNumber = number
        dataset.save_as(folder / f"{number}.dcm")
        images.append(ImageRead(f"1.2.3.{number}", dataset.SeriesInstanceUID, 1, rows, columns))
    (study,), _ = load_studies([folder])
    return study, images


def coloured(picture: np.ndarray) -> tuple[int, int, int, int]:
    """Bounds of what is drawn in the first colour."""
    ys, xs = np.nonzero((picture == FIRST).all(axis=2))
    return int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1


def test_the_box_is_where_it_was_said(tmp_path: Path) -> None:
    study, images = study_of(tmp_path, 400, 500)
    picture = draw_overlay(study, images, [Mark("1.2.3.1", 1, (100.0, 200.0, 400.0, 390.0), "disc")])
    assert picture.size == (500, 400)
    x0, y0, x1, y1 = coloured(np.asarray(picture))
    assert (x0, x1, y1) == (100, 400, 390)
    assert 170 < y0 < 200  # the name stands above the box


def test_large_images_are_reduced_and_small_ones_enlarged(tmp_path: Path) -> None:
    study, images = study_of(tmp_path / "large", 3000, 2000)
    picture = draw_overlay(study, images, [Mark("1.2.3.1", 1, (0.0, 300.0, 1000.0, 1500.0), "breast")])
    assert picture.size == (800, MAX_HEIGHT)
    assert coloured(np.asarray(picture))[2:] == pytest.approx((400, 600), abs=1)
    study, images = study_of(tmp_path / "small", 64, 64)
    assert min(draw_overlay(study, images, []).size) >= 300


def test_pixels_that_are_not_square_are_shown_in_proportion(tmp_path: Path) -> None:
    study, images = study_of(tmp_path, 400, 400, PixelSpacing=[2.0, 1.0])
    picture = draw_overlay(study, images, [Mark("1.2.3.1", 1, (100.0, 100.0, 200.0, 200.0), "disc")])
    assert picture.size == (400, 800)
    assert coloured(np.asarray(picture))[3] == 400


def test_only_images_with_marks_get_a_panel(tmp_path: Path) -> None:
    study, images = study_of(tmp_path, 400, 400, count=5)
    marks = [Mark(f"1.2.3.{n}", 1, (10.0, 50.0, 90.0, 90.0), "ring 0.93") for n in (2, 4)]
    picture = draw_overlay(study, images, marks)
    assert picture.width == 400 * 2 + 6


def test_names_stay_inside_the_picture_and_apart(tmp_path: Path) -> None:
    study, images = study_of(tmp_path, 400, 400)
    box = (380.0, 0.0, 400.0, 400.0)
    picture = draw_overlay(study, images, [Mark("1.2.3.1", 1, box, "a name of some length")] * 3)
    blocks = (np.asarray(picture) == FIRST).all(axis=2)[:, 300:380].any(axis=1)
    assert picture.size == (400, 400)
    assert 3 * 15 < blocks.sum() < 120


def test_nothing_found_and_nothing_read_are_said(tmp_path: Path) -> None:
    study, images = study_of(tmp_path, 400, 400)
    assert draw_overlay(study, images, []).height > 400
    assert draw_overlay(study, [], []).width > 300
