"""Real peers on loopback: how they are started, waited for, asked and ended."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ports import free_port

from dicom_node.dimse import scu
from dicom_node.ledger import Ledger, State
from dicom_node.ledger.records import StudyRecord
from dicom_node.settings import Settings
from dicom_node.spool import Spool
from engine.findings import StudyReading

ROOT = Path(__file__).parent.parent.parent
SECONDS = 120.0
"""Longest wait for anything; every wait ends with the event it waits for."""
SCRIPT = {
    "answers": {
        "Please locate <ref>disc</ref>, ": (
            "<ref>disc</ref><box>[[100, 200, 300, 500]]</box>, <ref>cross</ref><box>[[500, 500, 750, 900]]</box>"
        ),
        "What is <ref>this</ref>": "disc",
        "图中<ref>这个区域</ref>": "圆盘",
        "影像结论": "影像诊断：左上部见一高密度圆盘。影像结论：圆盘。",
    },
    "default": "Findings: A bright disc in the upper left. Impression: disc.",
}
"""Of the scripted runtime."""
ENDED = (State.DELIVERED, State.FAILED, State.IGNORED, State.CANCELLED)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(condition: Callable[[], Any], what: str, process: subprocess.Popen[Any] | None = None) -> Any:
    """Wait for something that another process brings about; what it gave once it was true."""
    until = time.monotonic() + SECONDS
    while not (found := condition()):
        assert process is None or process.poll() is None, f"the peer ended while waiting for: {what}"
        assert time.monotonic() < until, f"waited too long for: {what}"
        time.sleep(0.1)
    return found


@contextmanager
def running(command: Sequence[str], log: Path, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A peer's process, ended in order at the end."""
    with log.open("a", encoding="utf-8") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, text=True, **options)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@dataclass(frozen=True)
class RunningNode:
    """A node in processes of its own, and what its ledger and spool say."""

    settings: Settings
    log: Path
    processes: tuple[subprocess.Popen[str], ...]

    @property
    def process(self) -> subprocess.Popen[str]:
        """Of its only or first part."""
        return self.processes[0]

    @property
    def peer(self) -> scu.Peer:
        listener = self.settings.listener
        return scu.Peer(listener.aet, "127.0.0.1", listener.port)

    def ended(self, study_instance_uid: str) -> StudyRecord:
        """The study, once it has ended, however it did."""

        def look() -> StudyRecord | None:
            ledger = Ledger.open(self.settings)
            try:
                if not any(item.study_instance_uid == study_instance_uid for item in ledger.studies()):
                    return None
                record = ledger.study(study_instance_uid)
            finally:
                ledger.close()
            assert all(process.poll() is None for process in self.processes), f"a part ended; see {self.log.parent}"
            return record if record.runs[-1].state in ENDED else None

        found = wait_until(look, f"the study {study_instance_uid} to end", self.process)
        assert isinstance(found, StudyRecord)
        return found

    def reading(self, record: StudyRecord) -> StudyReading:
        return StudyReading.from_json(Spool(self.settings.data.path).reading(record.runs[-1].id))


@dataclass(frozen=True)
class Orthanc:
    """A real Orthanc with storage, configuration and ports of its own."""

    peer: scu.Peer
    url: str

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.url}{path}", timeout=30) as answer:  # noqa: S310 - loopback
            return json.loads(answer.read())

    def post(self, path: str, body: bytes) -> Any:
        request = urllib.request.Request(f"{self.url}{path}", data=body, method="POST")  # noqa: S310
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return json.loads(answer.read())

    def delete(self, path: str) -> None:
        request = urllib.request.Request(f"{self.url}{path}", method="DELETE")  # noqa: S310
        urllib.request.urlopen(request, timeout=60).close()  # noqa: S310


@contextmanager
def running_orthanc(folder: Path, **settings: Any) -> Iterator[Orthanc]:
    """Start Orthanc in a folder of its own, at free ports; the settings are added to its configuration file's."""
    folder.mkdir(exist_ok=True)
    http, dicom = free_port(), free_port()
    config: dict[str, Any] = {
        "Name": "test",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": http,
        "DicomPort": dicom,
        "DicomAet": "ORTHANC",
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": [],
        **settings,
    }
    http, dicom = config["HttpPort"], config["DicomPort"]
    path = folder / "orthanc.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    with running(["/usr/sbin/Orthanc", str(path)], folder / "orthanc.log") as process:
        server = Orthanc(scu.Peer("ORTHANC", "127.0.0.1", dicom), f"http://127.0.0.1:{http}")

        def answers() -> bool:
            try:
                server.get("/system")
            except urllib.error.HTTPError:
                return True  # it asks for a password
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                return False
            return True

        wait_until(answers, "Orthanc to answer", process)
        yield server


def route_script() -> str:
    """The Lua script that the README tells people to use."""
    (script,) = re.findall(r"```lua\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    return str(script)


@dataclass(frozen=True)
class StoreScp:
    """DCMTK's storescp, keeping what it gets in a folder, byte for byte."""

    peer: scu.Peer
    folder: Path
