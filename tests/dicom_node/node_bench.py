"""What the node's tests are made with: images, settings, a clock that is set by hand, and a whole node in processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from ports import free_port
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

from dicom_node.dimse.receiver import Receiver
from dicom_node.dimse.scu import Peer, echo
from dicom_node.ledger import Ledger, State
from dicom_node.ledger.records import ReceivedInstance
from dicom_node.settings import Settings

SETTLED = {State.DELIVERED, State.FAILED, State.IGNORED, State.CANCELLED}


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def received(study: str = "1.2.3", sop: str = "1.2.3.4", aet: str = "CT1", path: str | None = None) -> ReceivedInstance:
    return ReceivedInstance(
        study_instance_uid=study,
        series_instance_uid=f"{study}.1",
        sop_instance_uid=sop,
        sop_class_uid=str(ComputedRadiographyImageStorage),
        transfer_syntax_uid=str(ExplicitVRLittleEndian),
        calling_aet=aet,
        path=path or f"studies/{study}/{sop}.dcm",
    )


def image(
    study: str | None = None, series: str | None = None, *, patient: str = "PHANTOM^ONE", **elements: Any
) -> Dataset:
    """A radiograph of 64 x 48 pixels with file meta information."""
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = ComputedRadiographyImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = "20260301"
    dataset.StudyTime = dataset.SeriesTime = dataset.ContentTime = "101500"
    dataset.AccessionNumber = "A1"
    dataset.Modality = "CR"
    dataset.Manufacturer = "tests"
    dataset.ReferringPhysicianName = ""
    dataset.PatientName = patient
    dataset.PatientID = "P1"
    dataset.PatientBirthDate = ""
    dataset.PatientSex = ""
    dataset.StudyInstanceUID = study or generate_uid()
    dataset.SeriesInstanceUID = series or generate_uid()
    dataset.StudyID = ""
    dataset.SeriesNumber = 1
    dataset.InstanceNumber = 1
    dataset.Rows, dataset.Columns = 48, 64
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelRepresentation = 0
    dataset.PixelData = np.arange(48 * 64, dtype=np.uint8).tobytes()
    for keyword, value in elements.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", ComputedRadiographyImageStorage)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", generate_uid())
    return dataset


def written(folder: Path, dataset: Dataset) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{dataset.file_meta.MediaStorageSOPInstanceUID}.dcm"
    dcmwrite(path, dataset, enforce_file_format=True)
    return path


def name_again(path: Path, keyword: str, uid: str) -> None:
    """Have a file (explicit, little endian) give a UID once more, before its pixels; parsers keep the last."""
    tag, value = Tag(keyword), uid.encode() + b"\0" * (len(uid) % 2)
    again = struct.pack("<HH2sH", tag.group, tag.element, b"UI", len(value)) + value
    head, pixels, rest = path.read_bytes().partition(b"\xe0\x7f\x10\x00O")
    assert pixels
    path.write_bytes(head + again + pixels + rest)


def script(folder: Path, **changes: Any) -> Path:
    """A script for the scripted runtime: a disc is found on every image."""
    content: dict[str, Any] = {
        "answers": {
            "Please locate <ref>disc</ref>, <ref>ring</ref>": "<ref>disc</ref><box>[[100, 100, 300, 300]]</box>",
            "What is <ref>this</ref>": "disc",
        },
        "default": "Findings: A disc. Impression: A disc.",
    }
    path = folder / "script.json"
    path.write_text(json.dumps(content | changes), encoding="utf-8")
    return path


def node_settings(folder: Path, **changes: Any) -> Settings:
    """Settings of a node under a folder, quick to close a study."""
    sections: dict[str, Any] = {
        "data": {"path": folder / "data", "minimum_free_mib": 0},
        "listener": {"port": free_port()},
        "completion": {"quiet_seconds": 0.6},
        "sweeper": {"interval_seconds": 0.15},
        "engine": {"runtime": "scripted", "model": str(script(folder))},
        "delivery": {
            "first_delay_seconds": 0.3,
            "max_delay_seconds": 0.6,
            "association_timeout_seconds": 30,
            "dimse_timeout_seconds": 30,
        },
    }
    for name, value in changes.items():
        sections[name] = sections[name] | value if isinstance(sections.get(name), dict) else value
    return Settings(**sections)


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> bool:
    """Whether a condition that lives in another process comes true in time."""
    end, pause = time.monotonic() + seconds, threading.Event()
    while not condition():
        if time.monotonic() > end:
            return False
        pause.wait(0.03)
    return True


MARKS = {"broker": "valkey-server", "reading": "tasks reading", "delivery": "tasks delivery"}


def runs(pid: int) -> bool:
    """Whether a process runs, and is not merely waiting to be forgotten."""
    states = []  # of its threads: the first one may be gone while others still hold the sockets
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            states.append((thread / "stat").read_text().rpartition(")")[2].split()[0])
    return any(state not in "ZX" for state in states)


class Pacs(Receiver):
    """A receiver that counts how often each object arrives, and keeps it or not."""

    def __init__(self, folder: Path, *, keep: bool = True) -> None:
        self.count: Counter[str] = Counter()
        self._keep = keep
        super().__init__(folder, on_stored=self._counted)

    def _counted(self, path: Path) -> None:
        self.count.update([path.stem])
        if not self._keep:
            path.unlink()


class RunningNode:
    """``medrega-pacs up``, and its processes by name."""

    def __init__(self, folder: Path, pacs: Receiver, **changes: Any) -> None:
        peer = pacs.peer
        destinations = [{"name": "pacs", "aet": peer.aet, "host": peer.host, "port": peer.port}]
        self.folder = folder
        self.settings = node_settings(folder, **{"destinations": destinations} | changes)
        self.peer = Peer("MEDREGA", "127.0.0.1", self.settings.listener.port)
        self.ledger = Ledger.open(self.settings)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.folder / "node.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dicom_node.cli", "up"],
                cwd=self.folder,
                env={**os.environ, **self.settings.to_environment()},
                stdout=log,
                stderr=log,
            )
        assert wait_until(self.listens, 30), (self.folder / "node.log").read_text()

    def listens(self) -> bool:
        try:
            socket.create_connection((self.peer.host, self.peer.port), timeout=1).close()
        except OSError:
            return False
        return echo(self.peer) > 0

    def commands(self) -> dict[int, str]:
        """The command line of each of its processes but itself, by process id."""
        assert self.process is not None
        found: dict[int, str] = {}
        for status in Path("/proc").glob("[0-9]*/status"):
            with suppress(OSError):
                if f"\nPPid:\t{self.process.pid}\n" in status.read_text():
                    command = (status.parent / "cmdline").read_bytes().decode()
                    found[int(status.parent.name)] = command.replace("\0", " ")
        return found

    def children(self) -> dict[str, int]:
        """Process ids of the broker and the workers."""
        commands = self.commands()
        return {name: pid for pid, command in commands.items() for name, mark in MARKS.items() if mark in command}

    def kill(self, name: str) -> None:
        before = self.children()[name]
        os.kill(before, signal.SIGKILL)
        assert wait_until(lambda: self.children().get(name, before) != before), f"{name} was not started again"

    def kill_all(self) -> None:
        """End the supervisor without warning; its children must go with it."""
        assert self.process is not None
        # All of them: a listener that is not gone yet would take the connection of who asks for the next one.
        children = list(self.commands())
        self.process.kill()
        self.process.wait()
        assert wait_until(lambda: not any(map(runs, children)), 5)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            finally:
                self.process.kill()
        self.ledger.close()

    def state(self, study: str) -> State | None:
        return next((s.state for s in self.ledger.studies() if s.study_instance_uid == study), None)

    def is_in(self, study: str, *states: State) -> Callable[[], bool]:
        return lambda: self.state(study) in states
