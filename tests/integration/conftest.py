"""Real peers on loopback at free ports: a node, DCMTK's storescp, Orthanc. Each ends with the block that started it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dicom_node import scu
from dicom_node.ledger import Ledger, State
from dicom_node.ledger.records import StudyRecord
from dicom_node.settings import Settings
from dicom_node.spool import Spool
from engine.findings import StudyReading

ROOT = Path(__file__).parent.parent.parent
SECONDS = 120.0
"""Longest wait for anything; every wait ends with the event it waits for."""
ENDED = (State.DELIVERED, State.FAILED, State.IGNORED, State.CANCELLED)

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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(condition: Callable[[], Any], what: str, process: subprocess.Popen[str] | None = None) -> Any:
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
    process: subprocess.Popen[str]

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
            return record if record.runs[-1].state in ENDED else None

        found = wait_until(look, f"the study {study_instance_uid} to end", self.process)
        assert isinstance(found, StudyRecord)
        return found

    def reading(self, record: StudyRecord) -> StudyReading:
        return StudyReading.from_json(Spool(self.settings.data.path).reading(record.runs[-1].id))


@pytest.fixture
def start_node(tmp_path: Path) -> Iterator[Callable[[Sequence[scu.Peer]], RunningNode]]:
    """Start ``medrega-pacs up`` with a scripted model and the destinations given."""
    with ExitStack() as stack:

        def start(destinations: Sequence[scu.Peer], port: int | None = None) -> RunningNode:
            folder = tmp_path / "node"
            folder.mkdir()
            (folder / "script.json").write_text(json.dumps(SCRIPT), encoding="utf-8")
            lines = [
                f'[data]\npath = "{folder / "data"}"\nminimum_free_mib = 1',
                f"[listener]\nport = {port or free_port()}",
                "[completion]\nquiet_seconds = 1.5",
                f'[engine]\nruntime = "scripted"\nmodel = "{folder / "script.json"}"',
                "[sweeper]\ninterval_seconds = 0.2",
                "[delivery]\nfirst_delay_seconds = 0.5",
                *(
                    f'[[destinations]]\nname = "{peer.aet.lower()}"\naet = "{peer.aet}"\nport = {peer.port}'
                    for peer in destinations
                ),
            ]
            config = folder / "medrega-pacs.toml"
            config.write_text("\n".join(lines), encoding="utf-8")
            settings = Settings.load(config)
            command = [sys.executable, "-m", "dicom_node.cli", "up", "--config", str(config)]
            log = folder / "node.log"
            process = stack.enter_context(running(command, log))
            wait_until(lambda: "Listening as" in log.read_text(encoding="utf-8"), "the node to listen", process)
            return RunningNode(settings, log, process)

        yield start


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


def route_script() -> str:
    """The Lua script that the README tells people to use."""
    (script,) = re.findall(r"```lua\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    return str(script)


@pytest.fixture
def start_orthanc(tmp_path: Path) -> Iterator[Callable[[int], Orthanc]]:
    """Start Orthanc, which forwards what it gets to a node's port on loopback."""
    with ExitStack() as stack:

        def start(node_port: int) -> Orthanc:
            folder = tmp_path / "orthanc"
            folder.mkdir()
            (folder / "route.lua").write_text(route_script(), encoding="utf-8")
            http, dicom = free_port(), free_port()
            config = {
                "Name": "test",
                "StorageDirectory": str(folder / "storage"),
                "IndexDirectory": str(folder / "storage"),
                "HttpPort": http,
                "DicomPort": dicom,
                "DicomAet": "ORTHANC",
                "RemoteAccessAllowed": False,
                "AuthenticationEnabled": False,
                "DicomModalities": {"medrega": ["MEDREGA", "127.0.0.1", node_port]},
                "LuaScripts": [str(folder / "route.lua")],
                "Plugins": [],
            }
            (folder / "orthanc.json").write_text(json.dumps(config), encoding="utf-8")
            log = folder / "orthanc.log"
            process = stack.enter_context(running(["/usr/sbin/Orthanc", str(folder / "orthanc.json")], log))
            server = Orthanc(scu.Peer("ORTHANC", "127.0.0.1", dicom), f"http://127.0.0.1:{http}")

            def answers() -> bool:
                try:
                    server.get("/system")
                except (urllib.error.URLError, ConnectionError, TimeoutError):
                    return False
                return True

            wait_until(answers, "Orthanc to answer", process)
            return server

        yield start


@dataclass(frozen=True)
class StoreScp:
    """DCMTK's storescp, keeping what it gets in a folder, byte for byte."""

    peer: scu.Peer
    folder: Path


@pytest.fixture
def storescp(tmp_path: Path) -> Iterator[StoreScp]:
    """DCMTK's receiver, by its full path: pynetdicom brings a program of the same name."""
    folder = tmp_path / "storescp"
    folder.mkdir()
    peer = scu.Peer("STORESCP", "127.0.0.1", free_port())
    command = ["/usr/bin/storescp", "+B", "-od", str(folder), "-aet", peer.aet, str(peer.port)]
    environment = {**os.environ, "TCP_NODELAY": "1"}
    with running(command, tmp_path / "storescp.log", env=environment) as process:
        wait_until(lambda: listens(peer.port), "storescp to listen", process)
        yield StoreScp(peer, folder)
