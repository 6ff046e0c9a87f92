"""What the node adds to a reading: from an image's Success to its last result in the PACS; the engine takes no time.

The sender says how many images the study has, so that it is complete when the association is released.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.append(str(Path(__file__).parent.parent / "dicom_node"))

from node_bench import Pacs, image, node_settings, wait_until, written

from dicom_node.dimse.scu import Peer, SendResult, StoredFile, echo, send
from dicom_node.ledger import Ledger, State
from dicom_node.settings import Settings

RUNS = 9


def rows() -> list[dict[str, Any]]:
    """The whole, and its two halves: to the reader's start, and from the reading's end."""
    with TemporaryDirectory() as name, Pacs(Path(name) / "pacs") as pacs:
        folder = Path(name)
        peer = pacs.peer
        settings = node_settings(
            folder,
            destinations=[{"name": "pacs", "aet": peer.aet, "host": peer.host, "port": peer.port}],
            completion={"quiet_seconds": 60, "settle_seconds": 0},
            sweeper={"interval_seconds": 1},
        )
        with (folder / "node.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "dicom_node.cli", "up"],
                cwd=folder,
                env={**os.environ, **settings.to_environment()},
                stdout=log,
                stderr=log,
            )
        try:
            return _measured(folder, settings, pacs)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def _measured(folder: Path, settings: Settings, pacs: Pacs) -> list[dict[str, Any]]:
    node = Peer("MEDREGA", "127.0.0.1", settings.listener.port)
    assert wait_until(lambda: _answers(node), 60), (folder / "node.log").read_text()
    ledger = Ledger.open(settings)
    wholes, starts, ends = [], [], []
    for number in range(RUNS + 1):
        dataset = image(NumberOfStudyRelatedInstances="1")
        study = dataset.StudyInstanceUID
        path = written(folder / "sent", dataset)
        told: list[float] = []

        def stored(_result: SendResult, told: list[float] = told) -> None:
            told.append(time.time())

        send([StoredFile.open(path)], node, on_result=stored)
        states: list[State] = []

        def ended(study: str = study, states: list[State] = states) -> bool:
            states[:] = [one.state for one in ledger.studies() if one.study_instance_uid == study]
            return states == [State.DELIVERED]

        assert wait_until(ended, 60), (states, (folder / "node.log").read_text()[-3000:])
        if not number:
            continue  # the workers import what they need
        at = {event.to_state: event.at.timestamp() for event in ledger.study(study).events if event.to_state}
        last = max(
            (pacs.folder / f"{result.sop_instance_uid}.dcm").stat().st_mtime for result in ledger.study(study).results
        )
        wholes.append(last - told[0])
        starts.append(at[State.READING] - told[0])
        ends.append(last - at[State.WRITING])
    ledger.close()
    names = {
        "overhead of a one-image study, engine time taken out": (wholes, "<= 0.5"),
        "of it: from the image's Success to the reader's start": (starts, "<= 0.1"),
        "of it: from the reading's end to the last object's Success": (ends, "<= 0.3"),
    }
    return [
        {
            "row": row,
            "unit": "s",
            "ours": statistics.median(values),
            "peer": None,
            "ratio": None,
            "goal": goal,
            "runs": RUNS,
        }
        for row, (values, goal) in names.items()
    ]


def _answers(node: Peer) -> bool:
    try:
        return echo(node) > 0
    except Exception:
        return False
