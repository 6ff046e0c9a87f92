"""Real peers on loopback at free ports: a node, DCMTK's storescp, Orthanc. Each ends with the test that started it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from peers import SCRIPT, Orthanc, RunningNode, StoreScp, listens, route_script, running, running_orthanc, wait_until
from ports import free_port

from dicom_node.dimse import scu
from dicom_node.settings import Settings


@pytest.fixture
def start_node(tmp_path: Path) -> Iterator[Callable[..., RunningNode]]:
    """Start a node with a scripted model and the destinations given: ``up``, or its parts one by one."""
    with ExitStack() as stack:

        def start(
            destinations: Sequence[scu.Peer],
            port: int | None = None,
            *,
            broker: str | None = None,
            parts: Sequence[str] = ("up",),
        ) -> RunningNode:
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
                f'[broker]\nurl = "{broker}"' if broker else "",
                *(
                    f'[[destinations]]\nname = "{peer.aet.lower()}"\naet = "{peer.aet}"\nport = {peer.port}'
                    for peer in destinations
                ),
            ]
            config = folder / "medrega-pacs.toml"
            config.write_text("\n".join(lines), encoding="utf-8")
            settings = Settings.load(config)
            processes = []
            for part in parts:
                log = folder / f"{part}.log"
                command = [sys.executable, "-m", "dicom_node.cli", part, "--config", str(config)]
                processes.append(stack.enter_context(running(command, log)))
            node = RunningNode(settings, folder / f"{parts[0]}.log", tuple(processes))
            wait_until(lambda: listens(settings.listener.port), "the node to listen", processes[0])
            return node

        yield start


@pytest.fixture
def start_orthanc(tmp_path: Path) -> Iterator[Callable[[int], Orthanc]]:
    """Start Orthanc, which forwards what it gets to a node's port on loopback."""
    with ExitStack() as stack:

        def start(node_port: int) -> Orthanc:
            folder = tmp_path / "orthanc"
            folder.mkdir()
            (folder / "route.lua").write_text(route_script(), encoding="utf-8")
            modality = ["MEDREGA", "127.0.0.1", node_port]
            return stack.enter_context(
                running_orthanc(folder, DicomModalities={"medrega": modality}, LuaScripts=[str(folder / "route.lua")])
            )

        yield start


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
