"""What each frame of a segmentation says of itself: the bytes that the library wrote when it was given every plane."""

from __future__ import annotations

import hashlib

import pytest
from pydicom.dataset import Dataset
from sr_cases import boxes_on, ct_series, enhanced_ct, finding, reading, region, slide, sources_of_every_kind

from engine.findings import Finding
from sr_writer import OutputProfile, check_results, dump, write_results

OF_FRAMES = (
    "SourceImageSequence",
    "ReferencedSeriesSequence",
    "DimensionOrganizationType",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "SegmentsOverlap",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "PixelData",
)
# The first 16 digits of SHA-256, from when the library was given every plane of the stand-in.
WRITTEN = {
    "ct series": "4ce98b2e4a15a070",
    "mr series": "57d0df53be5249e7",
    "dx": "bcd7e15104fcedcf",
    "mammogram": "f078cda1e1eb987f",
    "ultrasound multi-frame": "243f35fad190e953",
    "ultrasound palette": "617376ce6c81d69f",
    "enhanced ct": "70263c0a9630332c",
    "slide": "0249f1b20c530042",
    "mr without frame of reference": "8ed9ac9609a5c071",
    "real ct": "f0d7b5cc912f73aa",
    "real mr": "2a239a1206cb1b13",
    "without_spacing": "11679ccb49d67580",
    "whole_volume": "58354376e4175a92",
    "every_second_slice": "834d6566c5c188d2",
    "tiles": "04609faa5c831132",
    "backwards": "61da8985e18527a9",
}


def without_spacing() -> tuple[list[Dataset], list[Finding]]:
    """One segment on three slices of a series whose own slices are not equally far apart."""
    images = ct_series(7)
    for image in images:
        image.ImagePositionPatient = [value + (value > 8) for value in image.ImagePositionPatient]
    placed = sorted(images, key=lambda image: float(image.ImagePositionPatient[1]))
    return images, [finding("mass", *(region(image, (4.0, 5.0, 30.0, 40.0)) for image in placed[:3]))]


def whole_volume() -> tuple[list[Dataset], list[Finding]]:
    images = ct_series(9, 1.23456)
    return images, [finding("mass", *(region(image, (4.0, 5.0, 30.0, 40.0)) for image in images))]


def every_second_slice() -> tuple[list[Dataset], list[Finding]]:
    images = ct_series(9, 0.1)
    boxes = {"disc": (1.0, 2.0, 30.0, 40.0), "cross": (20.0, 30.0, 60.0, 70.0)}
    return images, [
        finding(name, *(region(image, box) for image in images[start::2]))
        for start, (name, box) in enumerate(boxes.items())
    ]


def tiles() -> tuple[list[Dataset], list[Finding]]:
    image = slide()
    return [image], [
        finding(name, *(region(image, (1.0, 2.0, 30.0, 40.0), frame=frame) for frame in frames))
        for name, frames in {"disc": (6, 2, 3), "cross": (3, 5)}.items()
    ]


def backwards() -> tuple[list[Dataset], list[Finding]]:
    image = enhanced_ct(7)
    for number, group in enumerate(image.PerFrameFunctionalGroupsSequence):
        group.PlanePositionSequence[0].ImagePositionPatient = [0, 0, -2.0 * number]
    return [image], [finding("disc", *(region(image, (1.0, 2.0, 30.0, 40.0), frame=frame) for frame in (2, 4, 3)))]


def cases() -> dict[str, tuple[list[Dataset], list[Finding]]]:
    kinds = sources_of_every_kind()
    made = (without_spacing, whole_volume, every_second_slice, tiles, backwards)
    return {one.__name__: one() for one in made} | {
        name: (images, boxes_on(images)) for name, images in kinds.items() if name in WRITTEN
    }


def digest(images: list[Dataset], found: list[Finding]) -> str:
    read = reading(images, found)
    results = write_results(read, images, OutputProfile())
    check_results(results, read, images)
    kept = hashlib.sha256()
    for result in results:
        if result.Modality != "SEG":
            continue
        part = Dataset()
        part.file_meta = result.file_meta
        for keyword in OF_FRAMES:
            if keyword in result:
                part[keyword] = result[keyword]
        part.BitsAllocated = 1
        encoded = dump(part)
        kept.update(encoded[132 + 12 + int.from_bytes(encoded[140:144], "little") :])  # behind the file's own group
    return kept.hexdigest()[:16]


@pytest.fixture(scope="module")
def known() -> dict[str, tuple[list[Dataset], list[Finding]]]:
    return cases()


@pytest.mark.parametrize("name", WRITTEN)
def test_frames_are_the_bytes_that_the_library_wrote_of_every_plane(known, name):
    assert digest(*known[name]) == WRITTEN[name]


def test_slices_side_by_side_share_a_segmentation():
    first, second = ct_series(2, gap=0.0)
    second.ImagePositionPatient = [
        place + 5 * along
        for place, along in zip(first.ImagePositionPatient, first.ImageOrientationPatient[:3], strict=True)
    ]
    images, found = (
        [first, second],
        [finding("disc", *(region(image, (1.0, 2.0, 30.0, 40.0)) for image in (first, second)))],
    )
    read = reading(images, found)
    results = write_results(read, images, OutputProfile())
    check_results(results, read, images)
    (seg,) = (result for result in results if result.Modality == "SEG")
    groups = seg.PerFrameFunctionalGroupsSequence
    assert [group.FrameContentSequence[0].DimensionIndexValues for group in groups] == [[1, 1], [1, 2]]
    assert "DimensionOrganizationType" not in seg
