"""Studies of each kind that a viewer shows in its own way: images with pixels, and a reading of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from sr_cases import CT, US_MULTI_FRAME, ct_series, enhanced_ct, finding, header, reading, region

from engine.findings import Region, StudyReading
from engine.imaging import render_frame
from engine.phantom import scenes
from engine.phantom.drawing import draw
from engine.phantom.evaluate import mammogram_paths
from engine.phantom.studies import phantom as draw_phantom
from engine.phantom.studies import truth_boxes
from engine.plan import choose_plan
from engine.reader import read_study
from engine.runtime import Rgb, load_runtime
from engine.study import Study, load_studies
from sr_writer import OutputProfile, check_results, kind_of, write_results

PHOTOGRAPH = "1.2.840.10008.5.1.4.1.1.77.1.4"
ROWS, COLUMNS = 512, 400


@dataclass(frozen=True)
class Case:
    """A study, its reading, and what was written for it."""

    study: Study
    reading: StudyReading
    results: Sequence[Dataset]

    def regions(self, sop_instance_uid: str, frame: int) -> list[Region]:
        """The regions on one frame."""
        every = (region for found in self.reading.findings for region in found.regions)
        return [one for one in every if (one.sop_instance_uid, one.frame) == (sop_instance_uid, frame)]

    def results_of(self, kind: str) -> list[Dataset]:
        """The results of a kind, in their order."""
        return [result for result in self.results if kind_of(result) == kind or kind_of(result).startswith(f"{kind}-")]

    def result(self, kind: str) -> Dataset:
        """The one result of a kind."""
        (found,) = self.results_of(kind)
        return found

    def picture(self, sop_instance_uid: str, frame: int) -> Rgb:
        """The frame as the engine sees it."""
        instances = [one for series in self.study.series for one in series.instances]
        (instance,) = [one for one in instances if one.sop_instance_uid == sop_instance_uid]
        return render_frame(instance, frame).rgb


def _written(study: Study, read: StudyReading) -> Case:
    case = Case(study, read, ())
    results = write_results(read, study.headers, OutputProfile(pdf=True), pictures=case.picture)
    check_results(results, read, study.headers)
    return replace(case, results=results)


def _whole_bytes(case: Case) -> bool:
    """Whether the bits of every frame of the segmentations fill bytes, and no padding follows the last."""
    return all(one.Rows * one.Columns % 16 == 0 for one in case.results_of("seg"))


def _read(studies: Iterable[Path], *, whole_bytes: bool, findings: int = 1) -> Case:
    """Read by the commissioning model that ships; the first study, each of one file, in which it finds as much."""
    runtime = load_runtime("onnx", "phantom", threads=1)
    for path in studies:
        (study,), _ = load_studies([path])
        read = read_study(study, choose_plan(study, runtime.identity), runtime)
        if len(read.findings) >= findings and _whole_bytes(case := _written(study, read)) == whole_bytes:
            return case
    raise AssertionError("the commissioning model found too little in all of the studies")


def _phantoms(folder: Path) -> Iterator[Path]:
    """Breast phantoms, one at a time."""
    for number in range(1, 200, 2):
        dataset, _ = draw_phantom(20, number)
        path = folder / f"{number}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        yield path


def phantom(folder: Path) -> Case:
    """A phantom radiograph, read by the model that ships."""
    return _read(_phantoms(folder), whole_bytes=True, findings=2)


def phantom_odd(folder: Path) -> Case:
    """Another, of a size at which the bits of a segmentation's frame do not fill bytes."""
    return _read(_phantoms(folder), whole_bytes=False, findings=2)


def mammogram(_: Path) -> Case:
    """A mammogram of the package of that name, read by the model that ships."""
    return _read(mammogram_paths(), whole_bytes=True)


def _drawn(
    folder: Path, name: str, images: Sequence[Dataset], places: Sequence[tuple[int, int]], *, colour: bool = False
) -> Case:
    """Draw a plate of its own into every frame; a reading that finds the inserts of the frames in `places`."""
    folder.mkdir(exist_ok=True)
    truths: dict[tuple[int, int], list[tuple[str, tuple[float, float, float, float]]]] = {}
    for position, image in enumerate(images):
        image.StudyInstanceUID = f"2.25.{int.from_bytes(name.encode()[:12], 'big')}"
        image.SeriesInstanceUID = f"{image.StudyInstanceUID}.1"
        image.SOPInstanceUID = f"{image.StudyInstanceUID}.1.{position + 1}"
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        image.InstanceNumber, image.SeriesNumber = position + 1, 1
        image.PatientID, image.PatientName = f"VIEWER-{name}".upper(), "Phantom^Viewer"
        image.Rows, image.Columns, image.SamplesPerPixel = ROWS, COLUMNS, 1
        image.PhotometricInterpretation, image.PixelRepresentation = "MONOCHROME2", 0
        image.BitsAllocated = image.BitsStored = 8
        image.HighBit, image.WindowCenter, image.WindowWidth = 7, 128, 256
        frames = []
        for frame in range(1, int(image.get("NumberOfFrames", 1)) + 1):
            rng = np.random.default_rng([position, frame])
            scene = scenes.plate(rng, COLUMNS / ROWS)
            while len(scene.inserts) < 2:
                scene = scenes.plate(rng, COLUMNS / ROWS)
            truths[position, frame] = truth_boxes(scene, ROWS, COLUMNS)
            frames.append((draw(scene, ROWS, COLUMNS) * 255).astype(np.uint8))
        pixels = np.stack(frames)
        if colour:
            del image.WindowCenter, image.WindowWidth
            image.SamplesPerPixel, image.PhotometricInterpretation, image.PlanarConfiguration = 3, "RGB", 0
            pixels = np.stack([pixels, pixels // 2 + 60, 200 - pixels // 3], axis=-1)
        image.PixelData = pixels.tobytes()
        image["PixelData"].VR = "OB"
        image.save_as(folder / f"{position}.dcm", enforce_file_format=True)
    (study,), broken = load_studies([folder])
    assert not broken
    findings = [
        finding(label, region(images[position], box, frame=frame))
        for position, frame in places
        for label, box in truths[position, frame]
    ]
    return _written(study, reading(images, findings))


def _ct(spacing: list[float]) -> list[Dataset]:
    images = ct_series(5, sop_class=CT)
    for position, image in enumerate(images):
        image.ImageOrientationPatient, image.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 3.0 * position]
        image.PixelSpacing = spacing
    return images


def ct(folder: Path) -> Case:
    """Slices with a frame of reference, findings on the third."""
    return _drawn(folder, "ct", _ct([0.7, 0.7]), [(2, 1)])


def ct_not_square(folder: Path) -> Case:
    """The same with pixels that are not square."""
    return _drawn(folder, "ct-not-square", _ct([0.5, 0.7]), [(2, 1)])


def ultrasound(folder: Path) -> Case:
    """A multi-frame object without a frame of reference, findings on frame 3 of 4."""
    image = header(US_MULTI_FRAME, "US", NumberOfFrames=4, FrameTime=40)
    return _drawn(folder, "us", [image], [(0, 3)])


def enhanced(folder: Path) -> Case:
    """A multi-frame object with functional groups, findings on frame 4 of 6."""
    image = enhanced_ct(6)
    image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL", "NONE"]
    return _drawn(folder, "enhanced-ct", [image], [(0, 4)])


def photograph(folder: Path) -> Case:
    """A colour image of visible light."""
    return _drawn(folder, "photograph", [header(PHOTOGRAPH, "XC")], [(0, 1)], colour=True)


CASES: dict[str, Callable[[Path], Case]] = {
    "phantom": phantom,
    "phantom-odd": phantom_odd,
    "mammogram": mammogram,
    "ct": ct,
    "ct-not-square": ct_not_square,
    "ultrasound": ultrasound,
    "enhanced-ct": enhanced,
    "photograph": photograph,
}
