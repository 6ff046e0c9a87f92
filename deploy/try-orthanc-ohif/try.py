"""Try the node with a PACS and a viewer on this machine alone: Orthanc, OHIF and the node, started and ended together.

A study is sent to Orthanc, as a scanner would. Orthanc routes it to the node, which reads it and sends its results to
Orthanc, and OHIF shows both. Everything listens on loopback and keeps its files in one folder. `make try` runs it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ohif import CONFIG, OHIF
from pydicom.uid import ComprehensiveSRStorage
from viewer_site import serve

from dicom_node.dimse import scu
from dicom_node.ledger import Ledger, State
from dicom_node.settings import Settings
from engine.errors import NodeError
from engine.phantom.studies import write_phantoms
from engine.study import load_studies

ORTHANC = Path("/usr/sbin/Orthanc")
DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
VERSION = "3.13.2"
ENDED = (State.DELIVERED, State.IGNORED, State.CANCELLED, State.FAILED)
SECONDS = 180
"""Longest wait for a step."""
ROUTE = """function OnStoredInstance(instanceId, tags, metadata, origin)
  if origin['RemoteAet'] ~= 'MEDREGA' then
    SendToModality(instanceId, 'medrega')
  end
end
"""
NODE = """[data]
path = "{folder}/node"
[listener]
port = {port}
calling_aets = ["ORTHANC"]
[completion]
quiet_seconds = 5
[console]
port = {console}
[[destinations]]
name = "orthanc"
aet = "ORTHANC"
host = "127.0.0.1"
port = {orthanc}
"""


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens at."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


@contextmanager
def running(command: Sequence[str | Path], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program with a log file, ended as by Ctrl-C; it never outlives us."""
    words = [sys.executable, "-m", "dicom_node.process", str(os.getpid()), *(str(word) for word in command)]
    with log.open("wb") as out:
        process = subprocess.Popen(  # noqa: S603 - our own command lines, no shell
            words, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(what: str, condition: Callable[[], Any], process: subprocess.Popen[bytes], log: Path) -> Any:
    """Ask until it is so; what the answer was."""
    until = time.monotonic() + SECONDS
    while True:
        try:
            if found := condition():
                return found
        except (OSError, scu.PeerError):
            pass  # not yet
        if process.poll() is not None or time.monotonic() > until:
            raise NodeError(f"waited in vain for {what}", advice=f"see {log}")
        time.sleep(0.2)


def orthanc_configuration(folder: Path, http: int, dicom: int, node: int) -> dict[str, Any]:
    """An Orthanc on loopback, with DICOMweb, that routes what it gets to the node."""
    return {
        "Name": "Trial",
        "StorageDirectory": str(folder / "orthanc"),
        "IndexDirectory": str(folder / "orthanc"),
        "HttpPort": http,
        "DicomPort": dicom,
        "DicomAet": "ORTHANC",
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomModalities": {"medrega": ["MEDREGA", "127.0.0.1", node]},
        "LuaScripts": [str(folder / "route.lua")],
        "Plugins": [str(DICOMWEB)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "StudiesMetadata": "Full", "SeriesMetadata": "Full"},
    }


def ask(url: str, query: Any = None) -> Any:
    """Orthanc's answer to a GET, or to a POST of a query."""
    body = None if query is None else json.dumps(query).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=30) as answer:  # noqa: S310 - loopback
        return json.loads(answer.read())


def region_report(orthanc: str, study: str) -> str | None:
    """Series Instance UID of the report whose regions viewers draw: of the SR series, the Comprehensive SR."""
    query = {"StudyInstanceUID": study, "Modality": "SR", "SOPClassUID": ComprehensiveSRStorage}
    found = ask(f"{orthanc}/tools/find", {"Level": "Instance", "Expand": True, "Query": query})
    series = [ask(f"{orthanc}/series/{one['ParentSeries']}") for one in found]
    return str(series[0]["MainDicomTags"]["SeriesInstanceUID"]) if series else None


def state_of(ledger: Ledger, study: str) -> State | None:
    """How the study ended in the node, once it has."""
    states = {item.study_instance_uid: item.state for item in ledger.studies()}
    return states[study] if states.get(study) in ENDED else None


def check_what_is_needed() -> None:
    """Say what is missing, and how it comes."""
    if not ORTHANC.exists() or not DICOMWEB.exists():
        raise NodeError("Orthanc is not installed", advice="sudo apt-get install orthanc orthanc-dicomweb")
    if shutil.which("npm") is None:
        raise NodeError("npm is needed, to fetch OHIF", advice="sudo apt-get install nodejs npm")


def main() -> None:
    """Start everything, send, wait, show."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("paths", nargs="*", type=Path, help="studies to send (files or folders); else two phantoms")
    parser.add_argument("--out", type=Path, default=Path("try-output"), help="folder of everything that is kept")
    parser.add_argument("--port", type=int, default=0, help="port of the viewer; else any that is free")
    parser.add_argument("--no-browser", action="store_true", help="only print where the viewer is")
    given = parser.parse_args()
    try:
        run(given.paths, given.out.absolute(), given.port, browser=not given.no_browser)
    except NodeError as error:
        sys.exit(f"try: {error.explained}")
    except KeyboardInterrupt:
        print("\nStopped")


def run(paths: Sequence[Path], folder: Path, port: int, *, browser: bool) -> None:
    """The trial; returns at Ctrl-C."""
    check_what_is_needed()
    folder.mkdir(parents=True, exist_ok=True)
    http, dicom, node, console = free_ports(4)
    print(f"Fetching OHIF {VERSION} (once; 50 MB)", flush=True)
    site = OHIF[VERSION].fetch(folder) / "dist"
    if not paths:
        write_phantoms(folder / "phantoms", 2, 38)
        paths = [folder / "phantoms"]
    studies, _ = load_studies(paths)
    if not studies:
        raise NodeError("there is no DICOM image in what you named")

    (folder / "route.lua").write_text(ROUTE, encoding="ascii")
    configuration = folder / "orthanc.json"
    configuration.write_text(json.dumps(orthanc_configuration(folder, http, dicom, node), indent=2), encoding="utf-8")
    settings = folder / "medrega-pacs.toml"
    settings.write_text(NODE.format(folder=folder, port=node, console=console, orthanc=dicom), encoding="utf-8")
    with ExitStack() as stack:
        orthanc, log = f"http://127.0.0.1:{http}", folder / "orthanc.log"
        print(f"Starting Orthanc ({orthanc}, ORTHANC@127.0.0.1:{dicom})", flush=True)
        archive = stack.enter_context(running([ORTHANC, configuration], log))
        wait_for("Orthanc", lambda: ask(f"{orthanc}/system"), archive, log)

        print(f"Starting the node (MEDREGA@127.0.0.1:{node}, console http://127.0.0.1:{console})", flush=True)
        up = [sys.executable, "-m", "dicom_node.cli", "up", "--config", settings]
        log = folder / "node.log"
        process = stack.enter_context(running(up, log))
        peer = scu.Peer("MEDREGA", "127.0.0.1", node)
        wait_for("the node", lambda: scu.echo(peer, "ORTHANC", scu.Timeouts(2, 2)) or True, process, log)

        address = stack.enter_context(serve(site, orthanc, CONFIG, port=port))
        files = [scu.StoredFile.open(item.path) for study in studies for item in study.instances]
        print(f"Sending {len(studies)} studies to Orthanc, as a scanner does", flush=True)
        scu.send(files, scu.Peer("ORTHANC", "127.0.0.1", dicom), "SCANNER")
        ledger = Ledger.open(Settings.load(settings))
        stack.callback(ledger.close)
        pages = []
        for study in studies:
            uid = study.study_instance_uid
            ended = wait_for(f"results of {uid}", lambda uid=uid: state_of(ledger, uid), process, log)
            # OHIF opens the report over its image where one is named; without regions the image alone.
            report = region_report(orthanc, uid)
            first = f"&initialSeriesInstanceUID={report}" if report else ""
            pages.append(f"{address}/viewer?StudyInstanceUIDs={uid}{first}")
            print(f"{ended}: {pages[-1]}", flush=True)
        if browser:
            webbrowser.open(pages[0])
        print(f"All studies: {address}  What was done: {folder}. Ctrl-C stops it all.", flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
