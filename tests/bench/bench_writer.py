"""How long results take to write, and where the time goes: a CT of 300 slices with findings over many of them.

``.venv/bin/python tests/bench/bench_writer.py [--profile]``; not a test, as no machine's time is another's.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.append(str(Path(__file__).parent.parent / "sr_writer"))

from sr_cases import ct_series, finding, reading, region

from engine.findings import StudyReading
from sr_writer import OutputProfile, check_results, write_results
from sr_writer.context import Context
from sr_writer.encoding import dump
from sr_writer.region_sr import write_region_sr
from sr_writer.segmentation import write_segmentations
from sr_writer.sources import Sources

SLICES, SIDE = 300, 512
RUNS = 7
CASES = {
    "5 findings on 119 slices each": (5, 119),
    "20 findings on 10 slices each": (20, 10),
    "20 on 60 each": (20, 60),
}


def case(findings: int, slices: int) -> tuple[StudyReading, list]:
    """Give a reading whose findings lie side by side, and its sources."""
    images = ct_series(SLICES)
    for image in images:
        image.Rows = image.Columns = SIDE
    placed = sorted(images, key=lambda image: int(str(image.SOPInstanceUID).rsplit(".", 1)[1]))
    found = []
    for number in range(findings):
        first = number * (SLICES - slices) // max(1, findings - 1)
        x, y = 20 + number % 5 * 95, 20 + number // 5 * 95
        box = (x + 0.4, y + 0.2, x + 80.6, y + 70.8)
        found.append(finding("mass", *(region(image, box) for image in placed[first : first + slices])))
    return reading(images, found, commissioning=False), images


def ideal(read: StudyReading, path: Path) -> None:
    """The least that there is to do for the pixels: a label map, each segment's mask of it, pack, write."""
    labels = np.zeros((SLICES, SIDE, SIDE), np.uint8)
    number_of = {uid: number for number, uid in enumerate(dict.fromkeys(one.sop_instance_uid for one in read.regions))}
    for label, found in enumerate(read.findings, 1):
        for one in found.regions:
            x0, y0, x1, y1 = map(round, one.box)
            labels[number_of[one.sop_instance_uid], y0:y1, x0:x1] = label
    with path.open("wb") as file:
        for label, found in enumerate(read.findings, 1):
            mask = labels == label
            for one in found.regions:
                file.write(np.packbits(mask[number_of[one.sop_instance_uid]], bitorder="little"))


def timed(call: Callable[[], object], repeats: int) -> float:
    """Give the median of some runs, in seconds of this process: others on the machine do not count."""
    times = []
    for _ in range(repeats):
        begin = time.process_time()
        call()
        times.append(time.process_time() - begin)
    return float(np.median(times))


def rows() -> list[dict[str, Any]]:
    """Give the SEG of five segments on 119 of 300 slices against the least possible, and all results of 20 findings."""
    seg = CASES["5 findings on 119 slices each"]
    read, images = case(*seg)
    ours, least = [], []

    def write() -> None:
        segs = write_segmentations(Context(read, sources, OutputProfile()))
        for number, one in enumerate(segs):
            (Path(folder) / f"seg{number}").write_bytes(dump(one))

    with TemporaryDirectory() as folder:
        sources = Sources.from_headers(images, read.study_instance_uid)
        write()
        for _ in range(RUNS):
            least.append(timed(lambda: ideal(read, Path(folder) / "ideal"), 1))
            ours.append(timed(write, 1))
    read, images = case(*CASES["20 findings on 10 slices each"])
    begin = time.process_time()
    write_results(read, images, OutputProfile())
    whole = time.process_time() - begin
    mine, theirs = float(np.median(ours)), float(np.median(least))
    ratio = float(np.median([a / b for a, b in zip(ours, least, strict=True)]))
    return [
        {
            "row": "SEG 300 x 512 x 512 x 5, against mask + packbits + write",
            "unit": "CPU s",
            "ours": mine,
            "peer": theirs,
            "ratio": ratio,
            "goal": "<= 4",
            "runs": RUNS,
        },
        {
            "row": "all results of a 300-slice CT with 20 findings on 10 slices each",
            "unit": "CPU s",
            "ours": whole,
            "peer": None,
            "ratio": None,
            "goal": None,
            "runs": 1,
        },
    ]


def steps(read: StudyReading, images: list, repeats: int, folder: Path) -> Iterator[tuple[str, float]]:
    """Time each step of a case."""
    profile = OutputProfile()

    def context() -> Context:
        return Context(read, Sources.from_headers(images, read.study_instance_uid), profile)

    yield "least possible for the SEG", timed(lambda: ideal(read, folder / "ideal"), repeats)
    segs = write_segmentations(context())
    yield "SEG", timed(lambda: write_segmentations(context()), repeats)
    yield "SEG to bytes", timed(lambda: [(folder / "seg").write_bytes(dump(seg)) for seg in segs], repeats)
    report = write_region_sr(context())
    yield "region SR", timed(lambda: write_region_sr(context()), repeats)
    yield "region SR to bytes", timed(lambda: dump(report), repeats)
    begin = time.process_time()
    results = write_results(read, images, profile)
    yield "all results", time.process_time() - begin
    yield "the gate", timed(lambda: check_results(results, read, images), 1)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", action="store_true", help="where the time goes, of each case")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    table = Table("step", *CASES, title=f"CPU seconds; {SLICES} slices of {SIDE} x {SIDE}")
    columns = []
    for findings, slices in CASES.values():
        read, images = case(findings, slices)
        with TemporaryDirectory() as folder:
            columns.append(dict(steps(read, images, options.repeats, Path(folder))))
        if options.profile:
            with cProfile.Profile() as profiler:
                write_results(read, images, OutputProfile())
            pstats.Stats(profiler).sort_stats("cumulative").print_stats(35)
    for step in columns[0]:
        table.add_row(step, *(f"{column[step]:.2f}" for column in columns))
    Console().print(table)


if __name__ == "__main__":
    main()
