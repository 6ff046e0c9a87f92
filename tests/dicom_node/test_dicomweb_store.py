"""STOW-RS over real sockets: what is acknowledged is in place and in the ledger, the rest has a reason and no trace."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from node_bench import image, wait_until
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid
from sqlalchemy import select, text
from web_bench import BOUNDARY, MULTIPART, Web, body, encoded, read_answer

from dicom_node.ledger import State
from dicom_node.ledger.models import Sending
from dicom_node.spool import split


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    web = Web(tmp_path)
    yield web
    web.close()


def data_set(path: Path) -> bytes:
    return path.read_bytes()[split(path)[1] :]


def test_what_is_acknowledged_is_in_place_and_entered_byte_for_byte(web: Web) -> None:
    study = generate_uid()
    images = [image(study) for _ in range(3)]
    files = [encoded(dataset) for dataset in images]
    answer = web.store(*files)
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/dicom+json"
    assert answer.json["00081190"]["Value"] == [f"{web.url}/studies/{study}"]
    stored = {item["00081155"]["Value"][0]: item for item in answer.json["00081199"]["Value"]}
    assert set(stored) == {str(dataset.SOPInstanceUID) for dataset in images}
    for path in web.files:
        assert any(file.endswith(data_set(path)) for file in files)
        url = stored[path.stem]["00081190"]["Value"][0]
        assert web.ask("GET", url.removeprefix(web.url), Accept="application/dicom").body == path.read_bytes()
    (summary,) = web.ledger.studies()
    assert (summary.instances, summary.state, summary.calling_aets) == (3, State.RECEIVING, ("DICOMWEB",))
    assert split(web.files[0])[0].ReceivingApplicationEntityTitle == "MEDREGA"
    again = web.store(*files)
    assert again.status == 200
    assert len(web.files) == 3
    assert web.leftovers == []


def test_each_instance_has_an_answer_of_its_own(web: Web) -> None:
    good, other = image(), image()
    known, unknown = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0"
    files = {
        # the file meta information names another instance than the data set
        0xA900: encoded(other).replace(other.SOPInstanceUID.encode(), b"9" * len(other.SOPInstanceUID), 1),
        0x0122: encoded(SOPClassUID="1.2.840.10008.1.1"),
        0xC122: encoded().replace(known, unknown),
    }
    answer = web.store(encoded(good), *files.values(), b"not a DICOM file" * 20)
    assert answer.status == 202
    assert answer.reasons("00081198") == list(files)
    assert answer.reasons("0008119A") == [0xC000]
    assert [item["00081155"]["Value"] for item in answer.json["00081199"]["Value"]] == [[good.SOPInstanceUID]]
    assert [path.stem for path in web.files] == [good.SOPInstanceUID]
    assert web.leftovers == []


def test_a_request_of_which_nothing_can_be_kept_is_a_conflict(web: Web) -> None:
    answer = web.store(encoded(), path="/studies/1.2.3")
    assert (answer.status, answer.reasons("00081198")) == (409, [0xA900])
    mine = image()
    assert web.store(encoded(mine), path=f"/studies/{mine.StudyInstanceUID}").status == 200
    truncated = encoded()[:600]
    answer = web.store(truncated)
    assert (answer.status, answer.reasons("00081198")) == (409, [0xA900])
    assert len(web.files) == 1
    assert web.leftovers == []


def test_own_results_are_acknowledged_and_not_kept(web: Web) -> None:
    equipment, purpose = Dataset(), Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator, purpose.CodeMeaning = "109102", "DCM", "Processing Equipment"
    equipment.PurposeOfReferenceCodeSequence = Sequence([purpose])
    equipment.SoftwareVersions = ["1", "medrega-pacs 0.1.0"]
    answer = web.store(encoded(ContributingEquipmentSequence=Sequence([equipment])))
    assert answer.status == 200
    assert "00081190" not in answer.json["00081199"]["Value"][0], "it cannot be retrieved here"
    assert web.files == web.leftovers == web.ledger.studies() == []


def test_other_bodies_are_refused(web: Web) -> None:
    for content_type, status in (
        (None, 415),
        ("application/dicom", 415),
        ('multipart/related; type="application/dicom+json"; boundary=x', 415),
        ('multipart/form-data; boundary="x"', 415),
        ('multipart/related; type="application/dicom"', 400),
        (f'multipart/related; type="application/dicom"; boundary={"x" * 201}', 400),
        ('multipart/related; type="application/dicom"; boundary=another', 400),
    ):
        headers = {"Content_Type": content_type} if content_type else {}
        assert web.ask("POST", "/studies", body(encoded()), **headers).status == status
    headers = {"Content_Type": MULTIPART, "Accept": "application/dicom+xml"}
    assert web.ask("POST", "/studies", body(encoded()), **headers).status == 406
    assert web.files == web.leftovers == []


def test_malformed_parts_and_bodies(web: Web) -> None:
    assert web.store(encoded(), content_type=None).status == 200, "RFC 2387: the whole's type counts"
    assert web.store(encoded(), content_type="text/plain").reasons("0008119A") == [0xC000]
    assert web.ask("POST", "/studies", f"--{BOUNDARY}--\r\n".encode(), Content_Type=MULTIPART).status == 400
    assert web.ask("POST", "/studies", b"", Content_Type=MULTIPART).status == 400
    first = body(encoded(), encoded())[:-200]
    answer = web.ask("POST", "/studies", first, Content_Type=MULTIPART)
    assert (answer.status, answer.reasons("0008119A")) == (202, [0xC000]), "the first one is whole, the second is not"
    long = f"--{BOUNDARY}\r\nX: {'y' * 20_000}\r\n\r\n".encode()
    assert web.ask("POST", "/studies", long, Content_Type=MULTIPART).status == 400
    assert len(web.files) == 2
    assert web.leftovers == []


def test_a_body_in_chunks_without_a_length_is_taken(web: Web) -> None:
    whole = body(encoded())
    pieces = [whole[at : at + 700] for at in range(0, len(whole), 700)]
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    with web.connect() as connection:
        head = f"POST /studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: {MULTIPART}\r\n"
        connection.sendall(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunked)
        assert read_answer(connection).status == 200
    assert len(web.files) == 1


def test_limits_of_a_request(tmp_path: Path) -> None:
    web = Web(tmp_path, max_body_mib=1)
    try:
        large = encoded(PixelData=bytes(3 << 20), Rows=1024, Columns=3072)
        answer = web.store(large)
        assert answer.status == 413, "told before anything of it was read"
        whole = body(encoded(), large)
        with web.connect() as connection:
            head = f"POST /studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: {MULTIPART}\r\n"
            connection.sendall(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n")
            connection.sendall(b"%x\r\n" % len(whole) + whole[: 1 << 20] + whole[1 << 20 :][: 1 << 19])
            answer = read_answer(connection)
        assert answer.status == 202, "the first one was kept when the rest became too much"
        assert answer.headers["connection"] == "close"
        assert len(web.files) == 1
        assert web.leftovers == []
        with web.connect() as connection:
            connection.sendall(b"GET /studies HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 40_000)
            assert read_answer(connection).status == 400, "header fields are bounded"
    finally:
        web.close()


def test_a_full_disk_leaves_the_object_with_its_sender(tmp_path: Path) -> None:
    web = Web(tmp_path, minimum_free=1 << 60)
    try:
        answer = web.store(encoded(), encoded())
        assert (answer.status, answer.reasons("00081198")) == (507, [0xA700, 0xA700])
    finally:
        web.close()


def test_a_ledger_that_fails_leaves_the_object_with_its_sender(web: Web) -> None:
    with web.ledger._database.write() as session:
        session.execute(text("ALTER TABLE instance RENAME TO elsewhere"))
    answer = web.store(encoded())
    assert (answer.status, answer.reasons("00081198")) == (503, [0xA700])
    assert answer.headers["retry-after"]


def test_a_sender_that_goes_silent_is_let_go_and_leaves_nothing(tmp_path: Path) -> None:
    web = Web(tmp_path, timeout_seconds=0.3)
    try:
        whole = body(encoded())
        with web.connect() as connection:
            head = f"POST /studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: {MULTIPART}\r\n"
            connection.sendall(f"{head}Content-Length: {len(whole)}\r\n\r\n".encode() + whole[:1500])
            assert read_answer(connection).status == 408
        assert web.files == web.leftovers == []
        with web.connect() as connection:
            connection.sendall(f"{head}Content-Length: {len(whole)}\r\n\r\n".encode() + whole[:1500])
            connection.shutdown(socket.SHUT_RDWR)
        assert web.store(encoded()).status == 200
        assert len(web.files) == 1
    finally:
        web.close()
    assert web.leftovers == []


def test_many_senders_at_once_lose_nothing(web: Web) -> None:
    study = generate_uid()
    statuses: list[int] = []

    def send() -> None:
        statuses.append(web.store(*(encoded(study=study) for _ in range(5))).status)

    threads = [threading.Thread(target=send) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 6
    assert len(web.files) == 30
    assert web.ledger.studies()[0].instances == 30


def sendings(web: Web) -> list[tuple[bool, bool]]:
    """Whether each transfer has ended, and in order."""
    with web.ledger._database.read() as session:
        return [(row.ended_at is not None, row.released) for row in session.scalars(select(Sending))]


def told(web: Web) -> bool:
    web.transfers.tell()
    return bool(sendings(web))


@pytest.mark.parametrize("whole", [True, False])
def test_completion_is_told_what_a_request_brings_and_how_it_ends(web: Web, whole: bool) -> None:
    first = image()
    file = encoded(first)
    content = body(file, encoded(image(first.StudyInstanceUID)))
    with web.connect() as connection:
        head = f"POST /studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: {MULTIPART}\r\n"
        connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content[: len(file) + 500])
        assert wait_until(lambda: told(web)), "the first image is there"
        assert sendings(web) == [(False, False)]
        if whole:
            connection.sendall(content[len(file) + 500 :])
            assert read_answer(connection).status == 200
    assert wait_until(lambda: sendings(web)[0][0])
    assert sendings(web) == [(True, whole)]


def test_answers_hold_no_patient_data(web: Web, capfd: pytest.CaptureFixture[str]) -> None:
    answer = web.store(encoded(patient="SECRET^NAME"), encoded(patient="SECRET^NAME", StudyInstanceUID=None))
    assert answer.status == 202
    assert "SECRET" not in json.dumps(answer.json)
    assert "SECRET" not in "".join(capfd.readouterr())
