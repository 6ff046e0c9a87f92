"""dcmjs-dimse, a DIMSE library of another language, sends to the node and receives from it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority, Certificate
from listener_bench import Scp
from ports import free_port
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node.dimse.association import Peer
from dicom_node.dimse.scu import echo, send
from dicom_node.dimse.stored_file import StoredFile
from dicom_node.dimse.tls import client_context
from dicom_node.passwords import HashedPassword
from dicom_node.settings.listener import User

sys.path.append(str(Path(__file__).parent.parent / "integration"))
from peers import listens, running, wait_until

IMAGES = [str(get_testdata_file(name, download=False)) for name in ("CT_small.dcm", "MR_small.dcm")]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def told(certificate: Certificate, authority: Authority) -> dict[str, str]:
    return {"certificate": str(certificate.certificate), "key": str(certificate.key), "ca": str(authority.ca)}


def sent(command: list[str], scp: Scp, **job: Any) -> dict[str, Any]:
    whole = {"role": "send", "port": scp.port, "calling": "DCMJS", "called": "MEDREGA", "files": IMAGES, **job}
    ended = subprocess.run([*command, json.dumps(whole)], capture_output=True, text=True, timeout=60, check=True)
    return dict(json.loads(ended.stdout.splitlines()[-1]))


def test_it_sends_in_the_clear_and_hears_why_it_is_rejected(dcmjs_dimse: list[str], tmp_path: Path) -> None:
    with Scp(tmp_path, calling_aets=("DCMJS",)) as scp:
        assert sent(dcmjs_dimse, scp) == {"ended": "released", "statuses": [0, 0, 0]}
        assert sum(study.instances for study in scp.ledger.studies()) == len(IMAGES)
        assert sent(dcmjs_dimse, scp, called="OTHER")["rejection"] == [1, 1, 7]
        assert sent(dcmjs_dimse, scp, calling="OTHER")["rejection"] == [1, 1, 3]


def test_it_sends_over_tls_as_a_user(dcmjs_dimse: list[str], tmp_path: Path, authority: Authority) -> None:
    node, peer = authority.issue("node"), authority.issue("peer")
    stranger = Authority(tmp_path / "elsewhere", "elsewhere").issue("stranger")
    secret = tmp_path / "secret"
    secret.write_text(str(HashedPassword.of("passcode")))
    users = (User(name="user", passcode_file=secret),)
    with Scp(tmp_path, tls=node.tls(authority.ca), users=users, require_user=True) as scp:
        tls = told(peer, authority)
        assert sent(dcmjs_dimse, scp, tls=tls, user=["user", "passcode"])["statuses"] == [0, 0, 0]
        assert sent(dcmjs_dimse, scp, tls=tls, user=["user", "wrong"])["rejection"] == [1, 2, 1]
        assert sent(dcmjs_dimse, scp, tls=tls)["rejection"] == [1, 2, 1]
        assert sent(dcmjs_dimse, scp, tls=told(stranger, authority), user=["user", "passcode"])["statuses"] == []


@pytest.mark.parametrize("secured", [False, True])
def test_it_receives(dcmjs_dimse: list[str], tmp_path: Path, authority: Authority, secured: bool) -> None:
    folder, port = tmp_path / "received", free_port()
    folder.mkdir()
    job: dict[str, Any] = {"role": "receive", "port": port, "folder": str(folder)}
    if secured:
        job["tls"] = told(authority.issue("peer"), authority)
    context = client_context(authority.issue("node").tls(authority.ca)) if secured else None
    with running([*dcmjs_dimse, json.dumps(job)], tmp_path / "peer.log") as process:
        wait_until(lambda: listens(port), "the peer to listen", process)
        peer = Peer("ANY", "127.0.0.1", port)
        assert echo(peer, tls=context) > 0
        files = [StoredFile.open(Path(image)) for image in IMAGES]
        assert [result.status for result in send(files, peer, tls=context)] == [0, 0]
    for image in IMAGES:
        original = dcmread(image)
        received = dcmread(folder / f"{original.SOPInstanceUID}.dcm")
        assert received.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        assert received.PixelData == original.PixelData
