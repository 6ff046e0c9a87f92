"""What the demo holds a study's results against: the source, the reading, the phantom's truth, and each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset

from dicom_node.demo.readback import ReadBack, iou, pixel_box, regions_of_gsps, regions_of_seg, regions_of_sr
from engine.findings import Box, StudyReading
from sr_writer import kind_of

MIN_IOU: Final = 0.5
_TOLERANCE: Final = 0.01  # SCOORD is single precision (VR FL)
_IDENTITY: Final = ("StudyInstanceUID", "PatientID", "AccessionNumber", "StudyDate")


@dataclass(frozen=True, slots=True)
class Truth:
    """What is in a phantom image: a name and its box."""

    label: str
    box: Box


def check_study(
    source: Dataset,
    reading: StudyReading,
    results: Sequence[Dataset],
    truth: Mapping[str, Sequence[Truth]] | None = None,
) -> list[str]:
    """Check what came back for a study.

    Parameters
    ----------
    source : Dataset
        Header of one of its images.
    reading : StudyReading
        What the node read.
    results : sequence of Dataset
        What the PACS received.
    truth : mapping of str to sequence of Truth, optional
        By SOP instance UID, where the study is a phantom.

    Returns
    -------
    list of str
        What is wrong, without values of the patient; empty when all holds.
    """
    by_kind = {kind_of(result): result for result in results}
    faults = [
        f"{kind}: {keyword} is not the source's"
        for kind, result in by_kind.items()
        for keyword in _IDENTITY
        if (result.get(keyword) or "") != (source.get(keyword) or "")
    ]
    if "sr" not in by_kind:
        return [*faults, "no SR came back"]
    wanted = [ReadBack(item.sop_instance_uid, item.frame, item.box, "") for item in reading.regions]
    in_sr = regions_of_sr(by_kind["sr"])
    faults += _compare("SR", wanted, in_sr)
    for kind, name in (("seg", "SEG"), ("gsps", "presentation state"), ("sc", "secondary capture")):
        if (kind in by_kind) != bool(wanted):
            faults.append(f"a {name} came back without a region" if kind in by_kind else f"no {name} came back")
    if "seg" in by_kind:
        faults += _compare("SEG", pixel_boxes(reading), _regions_of(by_kind, "seg", regions_of_seg))
    if "gsps" in by_kind:
        faults += _compare("presentation state", wanted, _regions_of(by_kind, "gsps", regions_of_gsps))
    if truth is not None:
        faults += check_truth(reading, truth)
    return faults


def check_truth(reading: StudyReading, truth: Mapping[str, Sequence[Truth]]) -> list[str]:
    """Check a phantom's reading against its truth: each thing found once, at IoU 0.5, by its name, and nothing else."""
    return [
        fault
        for uid, things in truth.items()
        for fault in unmatched(
            things,
            [
                (finding.label, region.box)
                for finding in reading.findings
                for region in finding.regions
                if region.sop_instance_uid == uid
            ],
        )
    ]


def unmatched(things: Iterable[Truth], boxes: Iterable[tuple[str, Box]]) -> list[str]:
    """Hold the names and boxes found in an image against what is in it."""
    faults = []
    found = [(label.casefold(), box) for label, box in boxes]
    for thing in things:
        overlaps = [(iou(thing.box, item[1]), item) for item in found]
        best, item = max(overlaps, key=lambda pair: pair[0], default=(0.0, None))
        if item is None or best < MIN_IOU:
            faults.append(f"the {thing.label} was not found (best IoU {best:.2f})")
            continue
        found.remove(item)
        if item[0] != thing.label.casefold():
            faults.append(f"the {thing.label} was named {item[0]}")
    return [*faults, *(f"a {name} was found where none is" for name, _ in found)]


def pixel_boxes(reading: StudyReading) -> list[ReadBack]:
    """What the segments cover: a finding is one segment, so its regions on one frame share a bounding box."""
    boxes = []
    for finding in reading.findings:
        on_frame: dict[tuple[str, int], list[Box]] = {}
        for region in finding.regions:
            on_frame.setdefault((region.sop_instance_uid, region.frame), []).append(pixel_box(region.box))
        for (uid, frame), parts in on_frame.items():
            x0, y0, x1, y1 = zip(*parts, strict=True)
            boxes.append(ReadBack(uid, frame, (min(x0), min(y0), max(x1), max(y1)), finding.label))
    return boxes


def _regions_of(by_kind: Mapping[str, Dataset], kind: str, read: Callable[[Dataset], list[ReadBack]]) -> list[ReadBack]:
    """What all objects of a kind hold: there may be several."""
    results = [result for name, result in by_kind.items() if name.partition("-")[0] == kind]
    return [region for result in results for region in read(result)]


def _compare(kind: str, wanted: Iterable[ReadBack], found: Iterable[ReadBack]) -> list[str]:
    """Both hold the same boxes on the same frames, in any order."""
    missing, extra = list(wanted), []
    for item in found:
        same = next((other for other in missing if _same(item, other)), None)
        if same is None:
            extra.append(item)
        else:
            missing.remove(same)
    faults = [f"{kind} lacks {len(missing)} of the boxes"] if missing else []
    return faults + ([f"{kind} has {len(extra)} boxes that nothing asked for"] if extra else [])


def _same(a: ReadBack, b: ReadBack) -> bool:
    near = all(abs(left - right) <= _TOLERANCE for left, right in zip(a.box, b.box, strict=True))
    return near and (a.sop_instance_uid, a.frame) == (b.sop_instance_uid, b.frame)
