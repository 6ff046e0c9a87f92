"""The DICOMweb client against our own server and against servers that answer oddly, over real sockets."""

from __future__ import annotations

import dataclasses
import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from node_bench import image, written
from ports import free_port
from test_dicomweb_server import certificate
from web_bench import Web

from dicom_node.dicomweb.client import Client, Credentials
from dicom_node.dicomweb.files import ArrivingFile
from dicom_node.dimse.scu import PeerError, StoredFile, Timeouts
from dicom_node.dimse.tls import client_context
from dicom_node.settings.tls import TlsSettings
from engine.errors import SettingsError


@contextmanager
def server(*answers: bytes | None) -> Iterator[tuple[str, list[bytes]]]:
    """A server that gives these answers, one a connection, whatever it is asked; None hangs up. What it was asked."""
    asked: list[bytes] = []

    def serve() -> None:
        for answer in answers:
            connection = listening.accept()[0]
            with connection:
                asked.append(_request(connection))
                if answer is not None:
                    connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/dicom-web", asked
        thread.join(10)
        assert not thread.is_alive(), "not every answer was asked for"


def _request(connection: socket.socket) -> bytes:
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65536)
    head, _, content = received.partition(b"\r\n\r\n")
    fields = {line.split(b":")[0].lower(): line.split(b":", 1)[1] for line in head.split(b"\r\n")[1:]}
    length = int(fields.get(b"content-length", 0))
    while len(content) < length:
        content += connection.recv(65536)
    return head + b"\r\n\r\n" + content


def answer(status: int, content: object = None, **headers: str) -> bytes:
    encoded = content if isinstance(content, bytes) else b"" if content is None else json.dumps(content).encode()
    lines = [f"HTTP/1.1 {status} Words", f"Content-Length: {len(encoded)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + encoded


def items(sequence: str, reason: str, *told: tuple[StoredFile, int | None]) -> dict[str, object]:
    """A sequence of a Store Instances Response Module."""
    values = []
    for file, code in told:
        item: dict[str, object] = {"00081155": {"vr": "UI", "Value": [file.sop_instance_uid]}}
        if code is not None:
            item[reason] = {"vr": "US", "Value": [code]}
        values.append(item)
    return {sequence: {"vr": "SQ", "Value": values}}


def failed(*told: tuple[StoredFile, int | None]) -> dict[str, object]:
    return items("00081198", "00081197", *told)


def stored(*told: tuple[StoredFile, int | None]) -> dict[str, object]:
    return items("00081199", "00081196", *told)


@pytest.fixture
def files(tmp_path: Path) -> list[StoredFile]:
    return [StoredFile.open(written(tmp_path / "files", image())) for _ in range(3)]


def test_files_go_byte_for_byte_and_come_back(tmp_path: Path, files: list[StoredFile]) -> None:
    web = Web(tmp_path)
    try:
        with Client(web.url) as client:
            assert client.verify() > 0
            told: list[object] = []
            results = client.store(files, on_result=told.append)
            assert told == results
            assert [(result.file, result.status, result.ok) for result in results] == [(f, 0, True) for f in files]
            studies = client.query("STUDY", {"StudyInstanceUID": ""}, ["NumberOfStudyRelatedInstances"])
            assert len(studies) == 3
            uid = studies[0].StudyInstanceUID
            (series,) = client.query("SERIES", {"StudyInstanceUID": uid})
            keys = {"StudyInstanceUID": uid, "SeriesInstanceUID": series.SeriesInstanceUID}
            assert [item.SOPInstanceUID for item in client.query("IMAGE", keys)] == [files[0].sop_instance_uid]
            assert client.query("STUDY", {"StudyInstanceUID": "1.2.3"}) == []
            got: list[tuple[str, bytes]] = []

            def sink(file: ArrivingFile) -> None:
                got.append((file.sop_instance_uid, b"".join(file.data_set)))

            assert client.retrieve(uid, sink) == 1
            assert files[0].path.read_bytes().endswith(got[0][1])
            with pytest.raises(PeerError, match="404") as error:
                client.retrieve("1.2.3", sink)
            assert not error.value.retry
    finally:
        web.close()


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_answer_is_told_apart_by_instance(files: list[StoredFile], wrapped: bool) -> None:
    one, two, three = files
    module = failed((one, 0xA700), (two, 0xA900)) | stored((three, 0xB000))
    with server(answer(202, [module] if wrapped else module)) as (url, asked), Client(url) as client:
        results = client.store(files)
    assert [(result.status, result.ok, result.retry) for result in results] == [
        (0xA700, False, True),
        (0xA900, False, False),
        (0xB000, True, False),
    ]
    assert "0xA700" in results[0].reason
    assert b"POST /dicom-web/studies HTTP/1.1" in asked[0]
    for file in files:
        assert file.path.read_bytes() in asked[0]


def test_files_that_an_answer_does_not_tell_of(files: list[StoredFile]) -> None:
    for status, content, expected in (
        (200, None, (0, True, False)),
        (200, b"<xml/>", (0, True, False)),
        (200, failed((files[0], None)), (0x0110, False, True)),
        (200, stored((files[0], 0xC000)), (0, True, False)),
        (202, {}, (None, False, True)),
        (409, b"words", (None, False, False)),
        (409, failed((files[0], 1 << 70)), (0x0110, False, True)),
        (409, {"00081198": {"Value": "nonsense"}}, (None, False, False)),
        (409, {"00081198": {"Value": [{"00081155": {"Value": [{}]}}, 7]}}, (None, False, False)),
    ):
        with server(answer(status, content)) as (url, _), Client(url) as client:
            (result,) = client.store(files[:1])
        assert (result.status, result.ok, result.retry) == expected, (status, content)


@pytest.mark.parametrize(
    ("reply", "said", "retry"),
    [
        (answer(401), "401", False),
        (answer(403), "403", False),
        (answer(404), "404", False),
        (answer(302, Location="http://127.0.0.1:9/"), "sends elsewhere", False),
        (answer(408), "408", True),
        (answer(429), "429", True),
        (answer(500), "500", True),
        (answer(501), "501", False),
        (answer(503), "503", True),
        (answer(507), "507", True),
        (answer(200, b"<html>log in</html>", Content_Type="text/html; charset=utf-8"), "a web page", False),
        (None, "broke the connection off", True),
        (b"nonsense\r\n\r\n", "broke the connection off", True),
    ],
)
def test_refusals_of_a_whole_request_say_whether_they_pass(
    files: list[StoredFile], reply: bytes | None, said: str, retry: bool
) -> None:
    with server(reply) as (url, _), Client(url) as client, pytest.raises(PeerError, match=said) as error:
        client.store(files)
    assert error.value.retry is retry


@pytest.mark.parametrize("status", [400, 413])
def test_one_object_that_is_refused_does_not_hold_up_the_others(files: list[StoredFile], status: int) -> None:
    replies = [answer(status), answer(200), answer(status), answer(200)]
    with server(*replies) as (url, asked), Client(url) as client:
        results = client.store(files)
    assert [result.ok for result in results] == [True, False, True]
    assert results[1].reason == f"HTTP status {status}"
    assert len(asked) == 4


def test_a_file_that_is_gone_is_told_and_the_others_go(tmp_path: Path, files: list[StoredFile]) -> None:
    gone = dataclasses.replace(files[1], path=tmp_path / "gone.dcm")
    with server(answer(200)) as (url, _), Client(url) as client:
        results = client.store([files[0], gone, files[2]])
    assert [result.ok for result in results] == [True, False, True]
    assert "cannot be read" in results[1].reason


def refused(ask: Callable[[Client], object], url: str, **options: object) -> PeerError:
    with Client(url, **options) as client, pytest.raises(PeerError) as error:  # type: ignore[arg-type]
        ask(client)
    return error.value


def test_servers_that_are_not_there_or_do_not_answer(files: list[StoredFile]) -> None:
    def ask(client: Client) -> object:
        return client.store(files)

    assert "cannot be reached" in str(refused(ask, f"http://127.0.0.1:{free_port()}"))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        error = refused(ask, url, timeouts=Timeouts(association=5, dimse=0.2))
    assert "did not answer in time" in str(error)
    assert error.retry


def test_a_certificate_that_is_not_trusted_is_told(tmp_path: Path) -> None:
    own = certificate(tmp_path, "server")
    web = Web(tmp_path, tls=own.model_dump())
    try:
        error = refused(Client.verify, web.url)
        assert "not trusted" in str(error)
        assert not error.retry
        with Client(web.url, tls=client_context(TlsSettings(ca=own.certificate))) as client:
            client.verify()
        assert refused(Client.verify, web.url.replace("https", "http")).retry
    finally:
        web.close()


@pytest.mark.parametrize(
    ("content_type", "content", "retry"),
    [
        ("application/dicom", b"", True),
        ("multipart/related; boundary=b", b"--b\r\n\r\nshort", True),
        ("multipart/related; boundary=b", b"--b\r\n\r\n" + bytes(200) + b"\r\n--b--", False),
        ("multipart/related; boundary=b", b"nothing", True),
    ],
)
def test_what_cannot_be_retrieved_is_told(content_type: str, content: bytes, retry: bool) -> None:
    with server(answer(200, content, Content_Type=content_type)) as (url, _), Client(url) as client:
        with pytest.raises(PeerError, match="cannot be read") as error:
            client.retrieve("1.2", lambda _: None)
        assert error.value.retry is retry


def test_answers_to_searches_that_cannot_be_read_are_told() -> None:
    for content in (b"<xml/>", {}, [{"patient": {"vr": "PN"}}], [{"0020000D": 7}], [7], b"[" * 5000):
        with server(answer(200, content)) as (url, _):
            assert "cannot be read" in str(refused(lambda client: client.query("STUDY", {}), url)), content


def test_pages_are_followed_to_the_end() -> None:
    def page(uids: Sequence[str]) -> list[object]:
        return [{"0020000D": {"vr": "UI", "Value": [uid]}} for uid in uids]

    more = '299 server "There are 2 additional results that can be requested"'
    replies = [answer(200, page(["1.1", "1.2"]), Warning=more), answer(200, page(["1.3"]))]
    with server(*replies) as (url, asked), Client(url) as client:
        found = client.query("STUDY", {"PatientID": "P 1&x", "StudyInstanceUID": ""}, ["Modality"])
    assert [item.StudyInstanceUID for item in found] == ["1.1", "1.2", "1.3"]
    assert b"PatientID=P+1%26x" in asked[0] or b"PatientID=P%201%26x" in asked[0]
    assert b"offset=2" in asked[1]


def test_credentials_are_sent_and_never_shown(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("geheim\n", encoding="ascii")
    basic = Credentials.read("node", secret)
    bearer = Credentials.read(token_file=secret)
    for credentials, sent in ((basic, b"Basic bm9kZTpnZWhlaW0="), (bearer, b"Bearer geheim")):
        assert "geheim" not in repr(credentials)
        with server(answer(204)) as (url, asked), Client(url, credentials) as client:
            client.verify()
        assert sent in asked[0]


@pytest.mark.parametrize("secret", ["geheimnis-ä", "geheim\nnis", "geheim\x7fnis"])
def test_a_token_that_no_header_field_holds_is_refused_without_being_shown(secret: str) -> None:
    with pytest.raises(SettingsError, match="token") as error:
        Client("http://127.0.0.1", Credentials(token=secret))
    assert "geheim" not in str(error.value)


def test_a_server_that_always_has_more_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicom_node.dicomweb.client._MOST_MATCHES", 3)
    page = answer(200, [{"0020000D": {"vr": "UI", "Value": ["1.1"]}}], Warning="299 server: there are more")
    with server(*[page] * 3) as (url, _), Client(url) as client:
        assert len(client.query("STUDY", {})) == 3


@pytest.mark.parametrize("url", ["http://user:pw@host/", "ftp://host", "http://", "dicom-web", "http://[::1"])
def test_urls_that_are_none_are_refused(url: str) -> None:
    with pytest.raises(SettingsError) as error:
        Client(url)
    assert "pw" not in str(error.value)
