"""A folder a person can open: the result objects of one study, the overlay picture, the report, the reading."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pydicom.dataset import Dataset

from dicom_node.demo.readback import regions_of_sr
from dicom_node.reading.picture import Mark, draw_overlay
from dicom_node.reading.report import report_text
from engine.findings import Language, RunState, StudyReading
from engine.study import Study
from sr_writer import dump, kind_of
from sr_writer.context import SERIES

_RESULT: Final = re.compile(rf"(?:{'|'.join(SERIES)})(?:-\d+)?\.dcm")
COMMISSIONING_NOTE = "Commissioning model: not for clinical use."
RESEARCH_NOTE = "AI result, not verified: not for diagnosis."
_UNMARKED = {
    RunState.FINDINGS: "What was found has no place in the image. ",
    RunState.NO_FINDINGS: "No finding. ",
    RunState.UNUSABLE: "No usable answer: this does not say that there is nothing. ",
    RunState.NOT_RUN: "",  # the picture itself says that no image was read
}
"""Why nothing is marked; an answer that cannot be used is never the same as no finding."""


def write_results_folder(
    folder: Path, study: Study, reading: StudyReading, results: Sequence[Dataset], languages: Sequence[Language]
) -> None:
    """Write ``sr.dcm``, ``seg.dcm`` and further objects under their kinds' names, and the pages for people.

    The picture shows what the SR says, read back from it, so it is a check of the result and not of the reading.

    Parameters
    ----------
    folder : Path
        Created when missing; files of an earlier reading are replaced.
    study : Study
        The source images.
    reading : StudyReading
    results : sequence of Dataset
        What `sr_writer.write_results` made of the reading.
    languages : sequence of Language
        Languages of ``report.txt``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if _RESULT.fullmatch(path.name):  # of an earlier reading, that may have had more
            path.unlink()
    for result in results:
        (folder / f"{kind_of(result)}.dcm").write_bytes(dump(result))
    (folder / "reading.json").write_text(reading.to_json(), encoding="utf-8")
    write_pages(folder, study, reading, results, languages)


def write_pages(
    folder: Path, study: Study, reading: StudyReading, results: Sequence[Dataset], languages: Sequence[Language]
) -> None:
    """Write ``overlay.png`` and ``report.txt``."""
    marks = [
        Mark(region.sop_instance_uid, region.frame, region.box, region.name)
        for result in results
        if kind_of(result) == "sr"
        for region in regions_of_sr(result)
    ]
    note = COMMISSIONING_NOTE if reading.model.commissioning else RESEARCH_NOTE
    if not marks:
        note = f"{_UNMARKED[reading.state]}{note}"
    draw_overlay(study, reading.images, marks, note=note).save(folder / "overlay.png")
    (folder / "report.txt").write_text(report_text(reading, languages), encoding="utf-8")
