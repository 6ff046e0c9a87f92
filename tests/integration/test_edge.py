"""The association edge against real peers, over TLS and in the clear, in both directions."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from certificates import Authority, Certificate
from listener_bench import Scp
from peers import Orthanc, StoreScp, listens, running, running_orthanc, wait_until
from ports import free_port
from pydicom import dcmread
from pydicom.data import get_testdata_file

from dicom_node.dimse.association import Peer, PeerError
from dicom_node.dimse.scu import echo, send
from dicom_node.dimse.stored_file import StoredFile
from dicom_node.dimse.tls import client_context
from dicom_node.settings import TlsSettings

IMAGES = [Path(str(get_testdata_file(name, download=False))) for name in ("CT_small.dcm", "JPEG2000.dcm")]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def node(authority: Authority) -> Certificate:
    return authority.issue("node")


@pytest.fixture(scope="module")
def peer(authority: Authority) -> Certificate:
    return authority.issue("peer")


def run(*command: object) -> bool:
    """Whether a peer's program ended well."""
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, timeout=60, check=False).returncode == 0


def dcmtk_tls(certificate: Certificate, authority: Authority) -> list[object]:
    return ["+tls", certificate.key, certificate.certificate, "+cf", authority.ca]


def test_dcmtk_sends_over_tls(tmp_path: Path, authority: Authority, node: Certificate, peer: Certificate) -> None:
    stranger = Authority(tmp_path / "elsewhere", "elsewhere").issue("stranger")
    with Scp(tmp_path, tls=node.tls(authority.ca)) as scp:
        address = ["-aec", "MEDREGA", "127.0.0.1", scp.port]
        assert run("/usr/bin/echoscu", *dcmtk_tls(peer, authority), *address)
        for profile in ("+py", "+px", "+pz"):
            assert run("/usr/bin/storescu", *dcmtk_tls(peer, authority), profile, "-xs", *address, *IMAGES[:1])
        assert scp.ledger.studies()[0].instances == 1
        assert not run("/usr/bin/echoscu", *dcmtk_tls(stranger, authority), *address)
        assert not run("/usr/bin/echoscu", "+tla", "-ic", *address)
        assert not run("/usr/bin/echoscu", *address)


@contextmanager
def storescp(folder: Path, *options: object) -> Iterator[StoreScp]:
    folder.mkdir()
    found = Peer("STORESCP", "127.0.0.1", free_port())
    command = ["/usr/bin/storescp", *map(str, options), "+B", "-od", str(folder), "-aet", found.aet, str(found.port)]
    with running(command, folder.with_suffix(".log"), env={**os.environ, "TCP_NODELAY": "1"}) as process:
        wait_until(lambda: listens(found.port), "storescp to listen", process)
        yield StoreScp(found, folder)


def test_dcmtk_receives_over_tls(tmp_path: Path, authority: Authority, node: Certificate, peer: Certificate) -> None:
    files = [StoredFile.open(IMAGES[0])]
    with storescp(tmp_path / "received", *dcmtk_tls(peer, authority)) as server:
        assert echo(server.peer, tls=client_context(node.tls(authority.ca))) > 0
        assert [result.status for result in send(files, server.peer, tls=client_context(node.tls(authority.ca)))] == [0]
        received = [dcmread(path) for path in server.folder.iterdir()]
        assert received == [dcmread(IMAGES[0])]
        with pytest.raises(PeerError, match="asks for a certificate"):
            echo(server.peer, tls=client_context(TlsSettings(ca=authority.ca)))
        with pytest.raises(PeerError) as caught:
            echo(server.peer)
        assert "TLS" in caught.value.advice


@contextmanager
def orthanc(folder: Path, scp: Scp, tls: dict[str, object]) -> Iterator[Orthanc]:
    modality = {"AET": "MEDREGA", "Host": "127.0.0.1", "Port": scp.port, "UseDicomTls": bool(tls)}
    known = {"AET": "NODE", "Host": "127.0.0.1", "Port": 1}
    with running_orthanc(folder, DicomModalities={"medrega": modality, "node": known}, **tls) as server:
        yield server


@pytest.mark.parametrize("secured", [False, True])
def test_orthanc_sends_and_receives(
    tmp_path: Path, authority: Authority, node: Certificate, peer: Certificate, secured: bool
) -> None:
    tls: dict[str, object] = {
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(peer.certificate),
        "DicomTlsPrivateKey": str(peer.key),
        "DicomTlsTrustedCertificates": str(authority.ca),
    }
    context = client_context(node.tls(authority.ca)) if secured else None
    settings = node.tls(authority.ca) if secured else None
    files = [StoredFile.open(path) for path in IMAGES]
    with Scp(tmp_path, tls=settings) as scp, orthanc(tmp_path / "orthanc", scp, tls if secured else {}) as server:
        assert echo(server.peer, "NODE", tls=context) > 0
        assert [result.status for result in send(files, server.peer, "NODE", tls=context)] == [0, 0]
        assert len(server.get("/instances")) == len(IMAGES)
        server.post("/modalities/medrega/echo", b"{}")
        for instance in server.get("/instances"):
            server.post("/modalities/medrega/store", instance.encode())
        assert sum(study.instances for study in scp.ledger.studies()) == len(IMAGES)
        if secured:
            with pytest.raises(PeerError):
                echo(server.peer, "NODE")


def test_the_library_s_own_programs_send_and_receive(tmp_path: Path) -> None:
    apps = [sys.executable, "-m", "pynetdicom"]
    with Scp(tmp_path) as scp:
        address = ["-aec", "MEDREGA", "127.0.0.1", scp.port]
        assert run(*apps, "echoscu", *address)
        assert run(*apps, "storescu", "-cx", *address, IMAGES[0])
        assert scp.ledger.studies()[0].instances == 1
    folder, port = tmp_path / "received", free_port()
    folder.mkdir()
    command = [*apps, "storescp", "-od", str(folder), "-aet", "STORESCP", str(port)]
    with running(command, tmp_path / "storescp.log") as process:
        wait_until(lambda: listens(port), "storescp to listen", process)
        server = Peer("STORESCP", "127.0.0.1", port)
        assert echo(server) > 0
        assert [result.status for result in send([StoredFile.open(path) for path in IMAGES], server)] == [0, 0]
        assert len(list(folder.iterdir())) == len(IMAGES)
