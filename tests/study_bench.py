"""Studies in a spool and a ledger, with readings of one's own making, for the console's pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from node_bench import image, written
from pydicom.dataset import Dataset
from queued import queue_complete

from dicom_node.ledger import Ledger
from dicom_node.ledger.records import Claim, ReceivedInstance, StoredResult
from dicom_node.spool import Spool
from engine.findings import Box, Finding, HeldBack, ImageRead, ModelIdentity, Region, RunState, StudyReading

MODEL = ModelIdentity("Phantom reader", "1.0", "tests", "d" * 64, "scripted", "1", True)


class StudyBench:
    """A ledger and a spool without a node."""

    def __init__(self, ledger: Ledger, spool: Spool) -> None:
        self.ledger, self.spool = ledger, spool

    def receive(self, *datasets: Dataset) -> str:
        """Put a study into the spool, complete; its UID."""
        for dataset in datasets:
            uids = (dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID)
            relative = f"studies/{uids[0]}/{uids[2]}.dcm"
            written(self.spool.path(relative).parent, dataset)
            syntax = dataset.file_meta.TransferSyntaxUID
            self.ledger.intake.record(ReceivedInstance(*uids, dataset.SOPClassUID, syntax, "CT1", relative))
        study = str(datasets[0].StudyInstanceUID)
        run = next(run for run in self.ledger.intake.receiving() if run.study_instance_uid == study)
        self.ledger.intake.complete(run.id, run.last_image_at, "quiet")
        return study

    def claim(self) -> Claim:
        """The run that waits, in a worker's hands."""
        (run,) = queue_complete(self.ledger)
        claim = self.ledger.runs.claim(run, "elsewhere:1:1", 60)
        assert claim is not None
        return claim

    def read(self, reading: StudyReading, destinations: Sequence[str] = ()) -> Claim:
        """Enter a reading of the study that waits, with one result that goes to the destinations."""
        claim = self.claim()
        self.spool.store_reading(claim.run_id, reading.to_json())
        self.ledger.runs.reading_stored(claim, reading.digest, reading.plan, len(reading.findings))
        path, digest = self.spool.store_result(claim.run_id, "viewer-en", "sr", b"result of the bench")
        result = StoredResult("1.2.3.99", "1.2.840.10008.5.1.4.1.1.88.33", "1.2.3.98", "sr", digest, path)
        self.ledger.runs.results_stored(claim, {name: [result] for name in destinations} or {"": [result]})
        return claim


def finding(dataset: Dataset, box: Box, *, frame: int = 1, **changes: Any) -> Finding:
    """A disc on an image."""
    found = Finding(
        label="disc",
        concept="disc",
        names={"en": "Disc", "zh": "圆盘"},
        text={"en": "A disc, bright.", "zh": "一个明亮的圆盘。"},
        certainty=0.87,
        regions=(Region(dataset.SOPInstanceUID, frame, box),),
    )
    return replace(found, **changes)


def reading_of(datasets: Sequence[Dataset], *findings: Finding, **changes: Any) -> StudyReading:
    """A reading of all images of a study."""
    reading = StudyReading(
        study_instance_uid=datasets[0].StudyInstanceUID,
        state=RunState.FINDINGS if findings else RunState.NO_FINDINGS,
        narrative={"en": "Findings: a disc.", "zh": "所见：一个圆盘。"},
        findings=findings,
        model=MODEL,
        decoding={},
        plan="phantom",
        prompts_version="p",
        prompts=(),
        images=tuple(
            ImageRead(one.SOPInstanceUID, one.SeriesInstanceUID, 1, one.Rows, one.Columns) for one in datasets
        ),
        not_read=(),
        held_back=(HeldBack("the box lies outside the image", "ring [[1200, 0, 1300, 9]]"),),
        created=datetime(2026, 3, 1, 12, 0, tzinfo=UTC),
    )
    return replace(reading, **changes)


def corners(rows: int, columns: int, **elements: Any) -> Dataset:
    """An image that is black but for a white square of 4 pixels at column 8, row 16."""
    pixels = np.zeros((rows, columns), np.uint8)
    pixels[16:20, 8:12] = 255
    return image(Rows=rows, Columns=columns, PixelData=pixels.tobytes(), **elements)
