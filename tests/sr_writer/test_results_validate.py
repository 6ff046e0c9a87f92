"""What others' readers and validators say of the results, for every kind of source."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom import dcmread
from sr_cases import boxes_on, ct_series, finding, pictures_of, reading, region, sources_of_every_kind

from engine.findings import RunState, StudyReading
from sr_writer import OutputProfile, check_results, dump, kind_of, load_profile, write_results
from sr_writer.slide import slide_polygon
from sr_writer.sources import SourceImage

KINDS = sorted(sources_of_every_kind())
SELECTED = OutputProfile(name="selected", key_objects=True)


@pytest.fixture(scope="module", params=KINDS)
def study(request, tmp_path_factory):
    """Write the results of a reading with overlapping boxes to files; gives reading, sources and paths by kind."""
    sources = sources_of_every_kind()[request.param]
    read = reading(sources, boxes_on(sources))
    results = write_results(read, sources, SELECTED, pictures=pictures_of(sources))
    check_results(results, read, sources)
    return read, sources, _files(results, tmp_path_factory.mktemp("study"))


def test_no_result_has_an_error_and_all_read_as_sr(study, dciodvfy, dsrdump):
    _, (image, *_), paths = study
    drawn = set() if "TotalPixelMatrixRows" in image else {"gsps"}
    assert {"sr", "narrative-en", "narrative-zh", "seg", "sc", "kos", *drawn} <= set(paths)
    for kind, path in paths.items():
        assert dciodvfy(path) == [], kind
        if kind.startswith(("sr", "narrative", "kos")):
            assert ("调试" if kind.endswith("zh") else "commissioning") in dsrdump("+Pl", path)


@pytest.mark.parametrize("state", [RunState.NO_FINDINGS, RunState.UNUSABLE, RunState.NOT_RUN])
@pytest.mark.parametrize("kind", ["mammogram", "enhanced ct", "chinese name"])
def test_results_without_regions_have_no_error(state, kind, tmp_path, dciodvfy, dsrdump):
    sources = sources_of_every_kind()[kind]
    read = reading(sources, state=state, commissioning=False)
    results = write_results(read, sources, OutputProfile(languages=("zh", "en")))
    check_results(results, read, sources)
    for path in _files(results, tmp_path).values():
        assert dciodvfy(path) == []
        dsrdump(path)


def test_dcmqi_reads_the_regions_of_the_sr(study, tmp_path, tid1500reader):
    read, _, paths = study
    tid1500reader("--inputDICOM", paths["sr"], "--outputMetadata", tmp_path / "sr.json")
    measurements = json.loads((tmp_path / "sr.json").read_text(encoding="utf-8"))["Measurements"]
    assert len(measurements) == len(read.regions)
    assert len({group["TrackingUniqueIdentifier"] for group in measurements}) == len(read.regions)
    assert {group["Finding"]["CodeValue"] for group in measurements} == {"76752008", "DISC", "CROSS"}


def test_dcmqi_reads_the_boxes_of_the_seg_to_the_pixel(study, tmp_path, segimage2itkimage):
    read, sources, paths = study
    if "TotalPixelMatrixRows" in sources[0]:
        pytest.skip("dcmqi knows no slide coordinates; highdicom reads these, see test_segmentation")
    seen = []
    for kind in [kind for kind in paths if kind.startswith("seg")]:
        folder = tmp_path / f"{kind}.d"
        folder.mkdir()
        segimage2itkimage(
            "--inputDICOM", paths[kind], "--outputDirectory", folder, "--prefix", "s", "--outputType", "nrrd"
        )
        segments = dcmread(paths[kind]).SegmentSequence
        for number, segment in enumerate(segments, 1):
            slices = _read_nrrd(folder / f"s-{number}.nrrd")
            seen += [(str(segment.TrackingID), _runs(plane)) for plane in slices if plane.any()]
    assert sorted(seen) == sorted((name, _runs(mask)) for (name, *_), mask in _masks(read, sources).items())


def test_highdicom_reads_the_sr_back_coordinate_for_coordinate(study):
    read, sources, paths = study
    _assert_read_back(read, sources, paths["sr"])


@pytest.mark.parametrize("kind", ["ct series", "dx", "enhanced ct", "mammogram", "slide", "ultrasound multi-frame"])
def test_the_numbers_of_ihe_air_are_read_by_all(kind, tmp_path, dciodvfy, dsrdump, tid1500reader):
    sources = sources_of_every_kind()[kind]
    read = reading(sources, boxes_on(sources))
    results = write_results(read, sources, replace(load_profile("ihe-air"), seg=False))
    check_results(results, read, sources)
    path = _files(results, tmp_path)["sr"]
    assert dciodvfy(path) == []
    assert '"Certainty of Finding")="87' in dsrdump("+Pl", path)
    tid1500reader("--inputDICOM", path, "--outputMetadata", tmp_path / "sr.json")
    groups = json.loads((tmp_path / "sr.json").read_text(encoding="utf-8"))["Measurements"]
    certainties = [
        float(item["value"])
        for group in groups
        for item in group["measurementItems"]
        if item["quantity"]["CodeValue"] == "111012"
    ]
    assert certainties == [87.0] * sum(len(found.regions) for found in read.findings if found.certainty)
    _assert_read_back(read, sources, path)


def _assert_read_back(read: StudyReading, sources, path: Path) -> None:
    images = {str(image.SOPInstanceUID): image for image in sources}
    groups = hd.sr.srread(path).content.get_planar_roi_measurement_groups()
    assert len(groups) == len(read.regions)
    for group, expected in zip(groups, read.regions, strict=True):
        if images[expected.sop_instance_uid].Modality == "SM":
            polygon = slide_polygon(expected, SourceImage.from_header(images[expected.sop_instance_uid]))
            assert group.roi.graphic_type.value == "POLYGON"
            assert np.array_equal(group.roi.value, polygon)
            continue
        x0, y0, x1, y1 = map(np.float32, expected.box)
        corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]
        assert group.roi.graphic_type.value == "POLYLINE"
        assert np.array_equal(group.roi.value, np.array(corners))
        image = group.roi.ContentSequence[0].ReferencedSOPSequence[0]
        assert image.ReferencedSOPInstanceUID == expected.sop_instance_uid
        assert int(image.get("ReferencedFrameNumber", 1)) == expected.frame


def test_highdicom_reads_the_seg_back_on_the_right_frames(study):
    read, sources, paths = study
    seen = {}
    for path in [path for kind, path in paths.items() if kind.startswith("seg")]:
        segmentation = hd.seg.segread(path)
        pixels = segmentation.pixel_array.reshape(-1, segmentation.Rows, segmentation.Columns)
        segments = {segment.SegmentNumber: segment for segment in segmentation.SegmentSequence}
        shared = segmentation.SharedFunctionalGroupsSequence[0]
        for plane, group in zip(pixels, segmentation.PerFrameFunctionalGroupsSequence, strict=True):
            source = group.DerivationImageSequence[0].SourceImageSequence[0]
            owner = group if "SegmentIdentificationSequence" in group else shared
            number = owner.SegmentIdentificationSequence[0].ReferencedSegmentNumber
            frame = int(source.get("ReferencedFrameNumber", 1))
            seen[str(segments[number].TrackingID), str(source.ReferencedSOPInstanceUID), frame] = _runs(plane)
    assert seen == {place: _runs(mask) for place, mask in _masks(read, sources).items()}


def test_overlapping_and_separate_segments_read_alike(tmp_path, segimage2itkimage):
    sources = ct_series(3)
    inside = finding("disc", region(sources[0], (10, 10, 20, 20)))
    for name, other in (("apart", (30.0, 30.0, 40.0, 45.0)), ("around", (5.0, 5.0, 60.0, 50.0))):
        read = reading(sources, [inside, finding("breast", region(sources[0], other))])
        paths = _files(write_results(read, sources, OutputProfile()), tmp_path / name)
        assert dcmread(paths["seg"]).SegmentsOverlap == ("YES" if name == "around" else "NO")
        segimage2itkimage(
            "--inputDICOM", paths["seg"], "--outputDirectory", tmp_path / name, "--prefix", "s", "--outputType", "nrrd"
        )
        boxes = [_box(_read_nrrd(tmp_path / name / f"s-{number}.nrrd")[0]) for number in (1, 2)]
        assert boxes == [(10, 10, 20, 20), tuple(map(int, other))]


def _files(results, folder: Path) -> dict[str, Path]:
    folder.mkdir(exist_ok=True)
    paths = {}
    for result in results:
        kind = kind_of(result)
        assert kind not in paths
        paths[kind] = folder / f"{kind}.dcm"
        paths[kind].write_bytes(dump(result))
    return paths


def _masks(read: StudyReading, sources) -> dict[tuple[str, str, int], np.ndarray]:
    """Give what each segment must hold on each frame: the pixels whose centre lies inside a box."""
    sizes = {str(image.SOPInstanceUID): (image.Rows, image.Columns) for image in sources}
    masks: dict[tuple[str, str, int], np.ndarray] = {}
    for number, found in enumerate(read.findings, 1):
        for place in found.regions:
            rows, columns = sizes[place.sop_instance_uid]
            x0, y0, x1, y1 = place.box
            x, y = np.arange(columns) + 0.5, np.arange(rows) + 0.5
            inside = ((y >= y0) & (y < y1))[:, None] & ((x >= x0) & (x < x1))[None, :]
            key = (f"AI {number} {found.concept}", place.sop_instance_uid, place.frame)
            masks[key] = masks.get(key, np.zeros((rows, columns), dtype=bool)) | inside
    return masks


def _runs(plane: np.ndarray) -> tuple[int, ...]:
    """Give a mask in a form that compares well: its size, and where it changes."""
    flat = plane.astype(bool).ravel()
    return (*plane.shape, *np.flatnonzero(np.diff(flat, prepend=False)).tolist())


def _box(plane: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(plane)
    box = int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1
    assert plane.astype(bool).sum() == (box[2] - box[0]) * (box[3] - box[1]), "not a filled box"
    return box


def _read_nrrd(path: Path) -> np.ndarray:
    """Read an NRRD file of one volume: [slices, rows, columns]."""
    head, data = path.read_bytes().split(b"\n\n", 1)
    fields = dict(line.split(": ", 1) for line in head.decode("ascii").splitlines()[1:] if ": " in line)
    columns, rows, slices = map(int, fields["sizes"].split())
    if fields["encoding"] in ("gzip", "gz"):
        data = zlib.decompress(data, 31)
    types = {"short": "h", "unsigned char": "B", "unsigned short": "H", "signed short": "h"}
    kind = types.get(fields["type"], "B")
    assert len(data) == columns * rows * slices * struct.calcsize(kind)
    return np.frombuffer(data, dtype=np.dtype(kind)).reshape(slices, rows, columns)
