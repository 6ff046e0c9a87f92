"""DICOMweb with real peers, both ways: Orthanc, dicomweb-client and curl, by https; and a server that is killed."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from certificates import Authority
from dicomweb_client import DICOMwebClient
from dicomweb_client.session_utils import create_session_from_user_pass
from peers import ENDED, SCRIPT, Orthanc, listens, running, running_orthanc, wait_until
from ports import free_port
from requests import Session
from requests.exceptions import HTTPError

from dicom_node.dicomweb.client import Client, Credentials
from dicom_node.dicomweb.files import ArrivingFile
from dicom_node.dimse.scu import PeerError, StoredFile
from dicom_node.dimse.tls import client_context
from dicom_node.ledger import Ledger, State
from dicom_node.passwords import HashedPassword
from dicom_node.settings import Settings, TlsSettings
from engine.phantom.studies import write_phantoms

USER, PASSWORD = "ORTHANC", "geheim:1"
PLUGIN = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"
AUTHORIZATION = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


class WebOrthanc(Orthanc):
    """An Orthanc that asks for a password wherever it is asked."""

    def ask(self, path: str, content: object = None) -> Any:
        body = None if content is None else json.dumps(content).encode()
        headers = {"Authorization": AUTHORIZATION}
        request = urllib.request.Request(f"{self.url}{path}", data=body, headers=headers)  # noqa: S310 - loopback
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return json.loads(answer.read())


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[WebOrthanc]:
    settings = {
        "HttpsVerifyPeers": True,
        "HttpsCACertificates": str(authority.ca),
        "Plugins": [PLUGIN],
        "AuthenticationEnabled": True,
        "RegisteredUsers": {USER: PASSWORD},
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": False},
    }
    with running_orthanc(tmp_path_factory.mktemp("web") / "orthanc", **settings) as server:
        yield WebOrthanc(server.peer, server.url)


@dataclass(frozen=True)
class Node:
    """A whole node that serves DICOMweb by https to one user."""

    settings: Settings
    url: str
    process: subprocess.Popen[str]
    ca: Path

    def connect(self, password: str = PASSWORD) -> Client:
        return Client(self.url, Credentials(USER, password), tls=client_context(TlsSettings(ca=self.ca)))

    def session(self, password: str = PASSWORD) -> Session:
        session = create_session_from_user_pass(USER, password)
        session.verify = str(self.ca)
        session.trust_env = False  # else the environment may name other authorities
        return session


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, orthanc: WebOrthanc, authority: Authority) -> Iterator[Node]:
    """It sends its results to Orthanc by STOW-RS."""
    folder = tmp_path_factory.mktemp("node")
    (folder / "script.json").write_text(json.dumps(SCRIPT), encoding="utf-8")
    (folder / "hash").write_text(str(HashedPassword.of(PASSWORD)), encoding="ascii")
    (folder / "password").write_text(PASSWORD, encoding="ascii")
    own = authority.issue("node")
    config = folder / "medrega-pacs.toml"
    config.write_text(
        f"""
        [data]
        path = "{folder / "data"}"
        minimum_free_mib = 1
        [listener]
        port = {free_port()}
        [completion]
        quiet_seconds = 0.5
        [sweeper]
        interval_seconds = 0.2
        [engine]
        runtime = "scripted"
        model = "{folder / "script.json"}"
        [dicomweb]
        enabled = true
        port = {free_port()}
        tls = {{ certificate = "{own.certificate}", key = "{own.key}", require_client = false }}
        [[dicomweb_users]]
        name = "{USER}"
        password_file = "{folder / "hash"}"
        [[destinations]]
        name = "orthanc"
        protocol = "dicomweb"
        url = "{orthanc.url}/dicom-web"
        user = "{USER}"
        password_file = "{folder / "password"}"
        """,
        encoding="utf-8",
    )
    settings = Settings.load(config)
    command = [sys.executable, "-m", "dicom_node.cli", "up", "--config", str(config)]
    with running(command, folder / "up.log") as process:
        wait_until(lambda: listens(settings.listener.port), "the node to listen", process)
        yield Node(settings, settings.dicomweb.url, process, authority.ca)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert not listens(settings.dicomweb.port)
    log = (folder / "up.log").read_text(encoding="utf-8")
    assert "Traceback" not in log
    assert "child killed" not in log


def phantoms(folder: Path, count: int, seed: int) -> list[StoredFile]:
    write_phantoms(folder, count, seed)
    return [StoredFile.open(path) for path in sorted(folder.rglob("*.dcm"))]


def study_of(file: StoredFile) -> str:
    return str(pydicom.dcmread(file.path, stop_before_pixels=True).StudyInstanceUID)


def test_orthanc_takes_and_gives_and_is_searched(orthanc: WebOrthanc, tmp_path: Path) -> None:
    files = phantoms(tmp_path / "phantoms", 2, 3)
    study = study_of(files[0])
    url = f"{orthanc.url}/dicom-web"
    with Client(url, Credentials(USER, "wrong")) as client:
        for attempt in (client.verify, lambda: client.store(files)):
            with pytest.raises(PeerError, match="401") as refused:
                attempt()
            assert not refused.value.retry
    with Client(url, Credentials(USER, PASSWORD)) as client:
        client.verify()
        for _ in range(2):
            assert [(result.status, result.ok) for result in client.store(files)] == [(0, True)] * 2
        assert orthanc.ask("/statistics")["CountInstances"] == 2
        broken = dataclasses.replace(files[0], path=tmp_path / "broken.dcm")
        broken.path.write_bytes(files[0].path.read_bytes()[:400])
        assert [result.ok for result in client.store([broken, files[1]])] == [False, True]
        (found,) = client.query("STUDY", {"StudyInstanceUID": study}, ["NumberOfStudyRelatedInstances"])
        assert found.NumberOfStudyRelatedInstances == 1
        assert len(client.query("IMAGE", {"StudyInstanceUID": study})) == 1
        got: list[bytes] = []

        def sink(file: ArrivingFile) -> None:
            got.append(b"".join(file.data_set))

        assert client.retrieve(study, sink) == 1
        assert pydicom.dcmread(files[0].path).PixelData in got[0]
        with pytest.raises(PeerError, match="404"):
            client.retrieve("1.2.3", sink)


def test_orthanc_stores_here_searches_and_retrieves(orthanc: WebOrthanc, node: Node, tmp_path: Path) -> None:
    settings, url = node.settings, node.url
    (file,) = phantoms(tmp_path / "phantoms", 1, 11)
    study = study_of(file)
    with Client(f"{orthanc.url}/dicom-web", Credentials(USER, PASSWORD)) as client:
        assert client.store([file])[0].ok
    server = {"Url": url, "Username": USER, "Password": PASSWORD}
    _put(orthanc, "/dicom-web/servers/node", server)
    (resource,) = orthanc.ask("/tools/find", {"Level": "Study", "Query": {"StudyInstanceUID": study}})
    answer = orthanc.ask("/dicom-web/servers/node/stow", {"Resources": [resource], "Synchronous": True})
    assert answer["InstancesCount"] == "1", answer
    held = settings.data.path / "studies" / study / f"{file.sop_instance_uid}.dcm"
    assert pydicom.dcmread(held).PixelData == pydicom.dcmread(file.path).PixelData
    ledger = Ledger.open(settings)
    try:
        assert {s.study_instance_uid: s.calling_aets for s in ledger.studies()}[study] == (USER,)
    finally:
        ledger.close()
    found = orthanc.ask("/dicom-web/servers/node/qido", {"Uri": "/studies", "Arguments": {"StudyInstanceUID": study}})
    assert found[0]["0020000D"]["Value"] == study
    _delete(orthanc, f"/studies/{resource}")
    orthanc.ask("/dicom-web/servers/node/retrieve", {"Resources": [{"Study": study}], "Synchronous": True})
    assert resource in orthanc.ask("/studies")
    _put(orthanc, "/dicom-web/servers/node", server | {"Password": "wrong"})
    with pytest.raises(urllib.error.HTTPError):
        orthanc.ask("/dicom-web/servers/node/stow", {"Resources": [resource], "Synchronous": True})


def _put(orthanc: WebOrthanc, path: str, content: object) -> None:
    _send(orthanc, path, "PUT", json.dumps(content).encode())


def _delete(orthanc: WebOrthanc, path: str) -> None:
    _send(orthanc, path, "DELETE", None)


def _send(orthanc: WebOrthanc, path: str, method: str, body: bytes | None) -> None:
    headers = {"Authorization": AUTHORIZATION}
    request = urllib.request.Request(f"{orthanc.url}{path}", body, headers, method=method)  # noqa: S310
    urllib.request.urlopen(request, timeout=30).close()  # noqa: S310


def test_a_study_comes_in_by_stow_and_its_results_go_home_by_stow(
    orthanc: WebOrthanc, node: Node, tmp_path: Path
) -> None:
    (file,) = phantoms(tmp_path / "phantoms", 1, 51)
    study = study_of(file)
    with node.connect() as client:
        assert client.store([file])[0].ok
    ledger = Ledger.open(node.settings)
    try:
        wait_until(lambda: ledger.study(study).runs[0].state in ENDED, "the study to end", node.process)
        record = ledger.study(study)
    finally:
        ledger.close()
    assert record.runs[0].state is State.DELIVERED, record.runs[0].reason
    (resource,) = orthanc.ask("/tools/find", {"Level": "Study", "Query": {"StudyInstanceUID": study}})
    arrived = {item["MainDicomTags"]["SOPInstanceUID"] for item in orthanc.ask(f"/studies/{resource}/instances")}
    assert arrived == {result.sop_instance_uid for result in record.results}


def test_dicomweb_client_stores_searches_and_retrieves(node: Node, tmp_path: Path) -> None:
    datasets = [pydicom.dcmread(file.path) for file in phantoms(tmp_path / "phantoms", 2, 21)]
    peer = DICOMwebClient(node.url, session=node.session())
    answer = peer.store_instances(datasets)
    assert len(answer.ReferencedSOPSequence) == 2
    study = str(datasets[0].StudyInstanceUID)
    (found,) = peer.search_for_studies(search_filters={"StudyInstanceUID": study})
    assert found["00201208"]["Value"] == [1]
    assert len(peer.search_for_series(study)) == len(peer.search_for_instances(study)) == 1
    (got,) = peer.retrieve_study(study)
    assert got.PixelData == datasets[0].PixelData
    series, instance = str(got.SeriesInstanceUID), str(got.SOPInstanceUID)
    assert peer.retrieve_instance(study, series, instance).PixelData == got.PixelData
    (metadata,) = peer.retrieve_study_metadata(study)
    assert metadata["00080018"]["Value"] == [instance]
    stranger = DICOMwebClient(node.url, session=node.session("wrong"))
    with pytest.raises(HTTPError, match="401"):
        stranger.search_for_studies()


def test_curl_stores_and_fetches(node: Node, tmp_path: Path) -> None:
    url = node.url
    (file,) = phantoms(tmp_path / "phantoms", 1, 31)
    body = b"--x\r\nContent-Type: application/dicom\r\n\r\n" + file.path.read_bytes() + b"\r\n--x--\r\n"
    (tmp_path / "body").write_bytes(body)
    curl = ["curl", "-sS", "--fail", "--cacert", str(node.ca), "-u", f"{USER}:{PASSWORD}"]
    content_type = 'Content-Type: multipart/related; type="application/dicom"; boundary=x'
    store = [*curl, "-H", content_type, "--data-binary", f"@{tmp_path / 'body'}", f"{url}/studies"]
    answer = subprocess.run(store, capture_output=True, text=True, check=True)
    (stored,) = json.loads(answer.stdout)["00081199"]["Value"]
    fetch = [*curl, "-H", "Accept: application/dicom", stored["00081190"]["Value"][0]]
    got = subprocess.run(fetch, capture_output=True, check=True).stdout
    assert pydicom.dcmread(BytesIO(got)).PixelData == pydicom.dcmread(file.path).PixelData
    guess = ["curl", "-sS", "--cacert", str(node.ca), "-o", os.devnull, "-w", "%{http_code}", f"{url}/studies"]
    assert subprocess.run(guess, capture_output=True, text=True, check=True).stdout == "401"


def server_pid(parent: int) -> int | None:
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            words = (status.parent / "cmdline").read_bytes().split(b"\0")
            if f"\nPPid:\t{parent}\n" in status.read_text() and b"dicom_node.dicomweb.server" in words:
                return int(status.parent.name)
        except OSError:
            continue
    return None


def test_a_server_that_is_killed_comes_back_and_turns_nobody_away(node: Node, tmp_path: Path) -> None:
    files = phantoms(tmp_path / "phantoms", 2, 41)
    with node.connect() as client:
        assert client.store(files[:1])[0].ok
        killed = server_pid(node.process.pid)
        assert killed is not None
        context = client_context(TlsSettings(ca=node.ca))
        plain = socket.create_connection(("127.0.0.1", node.settings.dicomweb.port))
        with context.wrap_socket(plain, server_hostname="127.0.0.1") as half:
            head = "POST /studies HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n"
            head += f'Authorization: {AUTHORIZATION}\r\nContent-Type: multipart/related; boundary="x"\r\n\r\n'
            half.sendall(head.encode() + b"--x\r\n\r\n" + files[1].path.read_bytes()[:5000])
            incoming = node.settings.data.path / "incoming"
            wait_until(lambda: list(incoming.iterdir()), "the file that begins to arrive", node.process)
            os.kill(killed, signal.SIGKILL)
            with suppress(ssl.SSLEOFError):  # it cannot say goodbye
                assert half.recv(100) == b""
    # The front holds the port while it starts the server again.
    with node.connect() as client:
        assert [result.ok for result in client.store(files)] == [True, True]
    assert server_pid(node.process.pid) not in (None, killed)
