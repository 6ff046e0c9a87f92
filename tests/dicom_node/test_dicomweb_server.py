"""WADO-RS and QIDO-RS over real sockets, and who may ask."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from node_bench import image, received, wait_until
from pydantic import ValidationError
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless
from queued import queue_complete
from web_bench import BOUNDARY, MULTIPART, Web, body, encoded, read_answer

from dicom_node.dicomweb.child import server_child
from dicom_node.dicomweb.users import Users
from dicom_node.ledger import Ledger
from dicom_node.passwords import HashedPassword
from dicom_node.settings import Settings
from dicom_node.settings.dicomweb import DicomwebUser
from dicom_node.settings.tls import TlsSettings
from engine.errors import NodeError, SettingsError

TOKEN = "0123456789abcdef" * 2
WEB = {"name": "pacs", "protocol": "dicomweb"}


@pytest.fixture(scope="module")
def held() -> list[Dataset]:
    """Two series of one study, and another study."""
    first = image(patient="王^小东", SpecificCharacterSet="GB18030", InstanceNumber=1)
    second = image(first.StudyInstanceUID, first.SeriesInstanceUID, InstanceNumber=2)
    return [first, second, image(first.StudyInstanceUID, Modality="DX"), image()]


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory, held: list[Dataset]) -> Iterator[Web]:
    web = Web(tmp_path_factory.mktemp("web"))
    assert web.store(*map(encoded, held)).status == 200
    yield web
    web.close()


def path_of(dataset: Dataset, level: int) -> str:
    parts = ["/studies", dataset.StudyInstanceUID, "series", dataset.SeriesInstanceUID, "instances"]
    return "/".join([*parts, dataset.SOPInstanceUID][: 2 * level])


def test_studies_series_and_instances_come_back_as_they_are_in_the_spool(web: Web, held: list[Dataset]) -> None:
    stored = {path.stem: path.read_bytes() for path in web.files}
    for level, expected in ((1, held[:3]), (2, held[:2]), (3, held[:1])):
        answer = web.ask("GET", path_of(held[0], level))
        assert answer.status == 200
        assert int(answer.headers["content-length"]) == len(answer.body)
        boundary = answer.headers["content-type"].partition("boundary=")[2].encode()
        parts = [part.partition(b"\r\n\r\n")[2][:-2] for part in answer.body.split(b"--" + boundary)[1:-1]]
        assert parts == [stored[dataset.SOPInstanceUID] for dataset in expected]


def test_accept_says_what_may_be_sent(web: Web, held: list[Dataset]) -> None:
    study, instance = path_of(held[0], 1), path_of(held[0], 3)
    related = 'multipart/related; type="application/dicom"'
    for path, accept, status, content_type in (
        (study, related, 200, "multipart/related"),
        (study, f"{related}; transfer-syntax=*", 200, "multipart/related"),
        (study, f"{related}; transfer-syntax=1.2.840.10008.1.2.1", 200, "multipart/related"),
        (study, f"{related}; transfer-syntax={RLELossless}", 406, "text/plain"),
        (study, f"{related}; transfer-syntax={RLELossless}, {related}; transfer-syntax=*", 200, "multipart/related"),
        (study, "*/*", 200, "multipart/related"),
        (study, "application/dicom", 406, "text/plain"),
        (study, 'multipart/related; type="image/jpeg"', 406, "text/plain"),
        (study, f"{related}; q=0, text/html", 406, "text/plain"),
        (instance, "application/dicom", 200, "application/dicom"),
        (f"{study}/metadata", "application/dicom+json", 200, "application/dicom+json"),
        (f"{study}/metadata", "application/dicom+xml", 406, "text/plain"),
        ("/studies", "text/html", 406, "text/plain"),
    ):
        answer = web.ask("GET", path, Accept=accept)
        assert (answer.status, answer.headers["content-type"].partition(";")[0]) == (status, content_type), accept


def test_metadata_is_the_header_in_unicode_without_bulk(web: Web, held: list[Dataset]) -> None:
    answer = web.ask("GET", f"{path_of(held[0], 1)}/metadata")
    found = answer.json
    assert [item["00080018"]["Value"][0] for item in found] == [dataset.SOPInstanceUID for dataset in held[:3]]
    assert found[0]["00100010"]["Value"] == [{"Alphabetic": "王^小东"}]
    assert found[0]["00080005"]["Value"] == ["ISO_IR 192"]
    assert "7FE00010" not in found[0]


def test_numbers_that_json_has_no_word_for_are_strings(tmp_path: Path) -> None:
    web = Web(tmp_path)
    try:
        dataset = image(FilterThicknessMinimum=[float("nan"), float("inf"), 1.5])
        item = Dataset()
        item.ExposureTimeInms = float("-inf")
        dataset.CTExposureSequence = [item]
        assert web.store(encoded(dataset)).status == 200
        (found,) = json.loads(
            web.ask("GET", f"{path_of(dataset, 1)}/metadata").body, parse_constant=lambda word: pytest.fail(word)
        )
    finally:
        web.close()
    assert found["00187052"]["Value"] == ["NaN", "inf", 1.5]
    assert found["00189321"]["Value"][0]["00189328"]["Value"] == ["-inf"]


def test_a_body_whose_length_is_told_twice_is_refused(web: Web, held: list[Dataset]) -> None:
    """Whoever stands between may have taken it for another length (RFC 9112 6.1)."""
    content = body(encoded(held[0]))
    chunked = f"{len(content):x}\r\n".encode() + content + b"\r\n0\r\n\r\n"
    head = f"POST /studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: {MULTIPART}\r\nContent-Length: 3\r\n"
    with web.connect() as connection:
        connection.sendall(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunked)
        answer = read_answer(connection)
    assert (answer.status, answer.headers["connection"]) == (400, "close")


def test_searches_select_by_uid_and_are_paged(web: Web, held: list[Dataset]) -> None:
    study = held[0].StudyInstanceUID
    found = web.ask("GET", "/studies").json
    assert len(found) == 2
    (one,) = web.ask("GET", f"/studies?0020000D={study}&includefield=all").json
    assert (one["00201206"]["Value"], one["00201208"]["Value"]) == ([2], [3])
    assert one["00080061"]["Value"] == ["CR", "DX"]
    assert one["00100010"]["Value"] == [{"Alphabetic": "王^小东"}]
    series = web.ask("GET", f"/studies/{study}/series").json
    assert [item["00201209"]["Value"] for item in series] == [[2], [1]]
    instances = web.ask("GET", f"/studies/{study}/instances").json
    assert [item["00080018"]["Value"][0] for item in instances] == [dataset.SOPInstanceUID for dataset in held[:3]]
    first = web.ask("GET", "/instances?limit=3")
    assert len(first.json) == 3
    assert first.headers["warning"].startswith("299")
    rest = web.ask("GET", "/instances?limit=3&offset=3")
    assert len(rest.json) == 1
    assert "warning" not in rest.headers
    assert web.ask("GET", "/studies?StudyInstanceUID=1.2.3").status == 204
    for wrong in ("PatientID=1", "limit=-1", "StudyInstanceUID=*", f"SeriesInstanceUID={'1' * 65}", "offset=x"):
        assert web.ask("GET", f"/studies?{wrong}").status == 400, wrong
    assert web.ask("GET", f"/studies/{study}/series?StudyInstanceUID=1.2").status == 400


@pytest.mark.parametrize(
    "path",
    [
        "/studies/..",
        "/studies/../../../etc/passwd",
        "/studies/%2e%2e/%2e%2e/ledger.sqlite3",
        "/studies/1.2.3/series/..%2f..%2f",
        "/studies/" + "1" * 65,
        "/studies/1.2.3%00",
        "/studies/1.2.3/instances/..",
        "//etc/passwd",
        "/studies/1.2.3",
        "/work/../../reading",
    ],
)
def test_nothing_outside_the_ledger_is_reached(web: Web, path: str) -> None:
    assert web.ask("GET", path).status in (400, 403, 404, 405)


def test_what_was_purged_or_is_a_conflict_is_not_given(web: Web, held: list[Dataset]) -> None:
    other = dcmread(web.spool.root / "studies" / held[3].StudyInstanceUID / f"{held[3].SOPInstanceUID}.dcm")
    other.PatientID = "P2"
    assert web.store(encoded(other)).status == 200
    assert len(web.ask("GET", f"{path_of(held[3], 1)}/metadata").json) == 1
    (web.spool.root / "studies" / held[3].StudyInstanceUID / f"{held[3].SOPInstanceUID}.dcm").unlink()
    assert web.ask("GET", path_of(held[3], 3)).status == 404
    assert web.ask("GET", f"{path_of(held[3], 1)}/metadata").json == []


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "hash").write_text(f"{HashedPassword.of('geheim:ö')}\n", encoding="utf-8")
    (folder / "token").write_text(f"{TOKEN}\n", encoding="ascii")
    web = Web(
        folder,
        users=[
            {"name": "CT1", "password_file": folder / "hash", "rights": ["store"]},
            {"name": "GPU1", "token_file": folder / "token", "rights": ["retrieve", "work"]},
        ],
    )
    yield web
    web.close()


def test_only_known_users_get_in_and_only_as_far_as_their_rights(guarded: Web) -> None:
    ct, gpu = basic("CT1", "geheim:ö"), f"Bearer {TOKEN}"
    for authorization in ("", "Basic", "Basic !!", basic("CT1", "wrong"), basic("GPU1", "x"), "Bearer x", "Digest y"):
        answer = guarded.ask("GET", "/studies", Authorization=authorization)
        assert answer.status == 401, authorization
        assert answer.headers["www-authenticate"]
    for authorization, statuses in ((ct, (200, 403, 403)), (gpu, (403, 204, 409))):
        content = body(encoded())
        stored = guarded.ask("POST", "/studies", content, Content_Type=MULTIPART, Authorization=authorization)
        asked = guarded.ask("GET", "/studies?StudyInstanceUID=1.2", Authorization=authorization)
        worked = guarded.ask("PUT", f"/work/{'0' * 32}/reading?owner=x", b"{}", Authorization=authorization)
        assert (stored.status, asked.status, worked.status) == statuses
    assert guarded.ledger.studies()[0].calling_aets == ("CT1",)


def test_every_address_asks_who_asks_and_whether_they_may(guarded: Web) -> None:
    routes = guarded.server.config.app._application.routes
    needs = {"POST": "store", "PUT": "work"}
    for route in routes:
        path, (method,) = re.sub(r"{\w+}", "1", route.path), route.methods - {"HEAD"}
        right = "work" if path.startswith("/work") else needs.get(method, "retrieve")
        length = {} if method == "GET" else {"Content_Length": "0"}
        for wrong in ("", basic("CT1", "geheim"), f"Bearer {TOKEN[:-1]}"):
            assert guarded.ask(method, path, Authorization=wrong, **length).status == 401, (method, path)
        other = f"Bearer {TOKEN}" if right == "store" else basic("CT1", "geheim:ö")
        answer = guarded.ask(method, path, Authorization=other, **length)
        assert (answer.status, b"may not" in answer.body) == (403, True), (method, path)


def test_a_body_that_is_not_wanted_is_refused_before_it_is_read_whole(guarded: Web) -> None:
    with guarded.connect() as connection:
        head = f"POST /studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: {MULTIPART}\r\nContent-Length: 9000000\r\n"
        connection.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
        answer = read_answer(connection)
    assert (answer.status, answer.headers["connection"]) == (401, "close")
    with guarded.connect() as connection:
        connection.sendall(f"{head}\r\n".encode())
        sender = threading.Thread(target=_pour, args=(connection, 9_000_000))
        sender.start()
        answer = read_answer(connection)
        assert (answer.status, answer.headers["connection"]) == (401, "close")
        sender.join()


def test_a_stranger_who_sends_slowly_hears_soon(guarded: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicom_node.dicomweb.guard._DRAIN_SECONDS", 0.1)
    with guarded.connect() as connection:
        connection.sendall(b"POST /studies HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nx")
        answer = read_answer(connection)
    assert (answer.status, answer.headers["connection"]) == (401, "close")


def _pour(connection: socket.socket, size: int) -> None:
    with suppress(OSError):  # it hangs up, as it should
        connection.sendall(bytes(size))


def test_without_users_only_pages_of_this_machine_are_answered(web: Web) -> None:
    for host, status in (("localhost", 204), (f"127.0.0.1:{web.port}", 204), ("evil.example", 403), ("", 403)):
        assert web.ask("GET", "/studies?StudyInstanceUID=1.2", Host=host).status == status


def test_a_worker_puts_only_what_belongs_to_its_run(guarded: Web) -> None:
    ledger: Ledger = guarded.ledger
    run_id = ledger.intake.record(received(study="1.2.9", sop="1.2.9.1"))
    run = next(run for run in ledger.intake.receiving() if run.id == run_id)
    assert ledger.intake.complete(run_id, run.last_image_at, "")
    queue_complete(ledger)
    claim = ledger.runs.claim(run_id, "worker", 60)
    assert claim is not None

    def put(path: str, content: bytes, owner: str = "worker", digest: bytes | None = None) -> int:
        value = base64.b64encode(digest or hashlib.sha256(content).digest()).decode()
        return guarded.ask(
            "PUT",
            f"/work/{run_id}/{path}?owner={owner}",
            content,
            Authorization=f"Bearer {TOKEN}",
            Content_Digest=f"sha-256=:{value}:",
        ).status

    assert put("reading", b"{}") == 204
    assert guarded.spool.reading(run_id) == "{}"
    answer = guarded.ask("GET", f"/work/{run_id}/reading?owner=worker", Authorization=f"Bearer {TOKEN}")
    assert answer.body == b"{}"
    assert put("results/viewer/sr", b"object") == 201
    assert (guarded.spool.root / "results" / run_id / "viewer" / "sr.dcm").read_bytes() == b"object"
    assert put("reading", b"{}", owner="another") == 409
    assert put("reading", b"{}", digest=bytes(32)) == 400
    assert put("reading", b"\xff\xfe") == 400
    assert put("results/..%2f..%2fviewer/sr", b"x") in (404, 503)
    assert put("results/VIEWER/sr", b"x") == 503
    ledger.runs.give_back(claim, "", attempt=False)
    assert put("reading", b"{}") == 409


def test_connections_beyond_the_limit_are_told(tmp_path: Path) -> None:
    web = Web(tmp_path, max_connections=1)
    try:
        with web.connect() as first:
            first.sendall(f"POST /studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: {MULTIPART}\r\n".encode())
            first.sendall(b"Content-Length: 100\r\n\r\n--" + BOUNDARY.encode())
            assert wait_until(lambda: web.server.server_state.tasks), "or the next one to connect may be the first"
            statuses = {web.ask("GET", "/studies?StudyInstanceUID=1.2").status for _ in range(3)}
        assert statuses <= {503, 204}
        assert 503 in statuses
    finally:
        web.close()


def test_a_client_that_stops_reading_is_let_go(tmp_path: Path) -> None:
    web = Web(tmp_path, timeout_seconds=0.3)
    try:
        large = image(PixelData=bytes(24 << 20), Rows=4096, Columns=6144)
        assert web.store(encoded(large)).status == 200
        with web.connect() as connection:
            connection.sendall(f"GET {path_of(large, 3)} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert web.ask("GET", "/studies?StudyInstanceUID=1.2").status == 204, "others are served all the while"
            assert wait_until(lambda: not web.server.server_state.tasks)
    finally:
        web.close()


def certificate(folder: Path, name: str) -> TlsSettings:
    crt, key = folder / "server.crt", folder / "server.key"
    subject = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(key)]
    subprocess.run(
        ["openssl", "req", "-x509", "-days", "2", "-out", str(crt), *made, *subject], check=True, capture_output=True
    )
    return TlsSettings(certificate=crt, key=key, require_client=False)


def test_tls_with_a_certificate_that_is_renewed_while_it_serves(tmp_path: Path) -> None:
    web = Web(tmp_path, tls=certificate(tmp_path, "one").model_dump())

    def seen() -> bytes:
        context = ssl.create_default_context(cafile=str(tmp_path / "server.crt"))
        context.check_hostname = False
        with context.wrap_socket(web.connect()) as connection:
            connection.sendall(b"GET /studies HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert read_answer(connection).status == 204
            return connection.getpeercert(binary_form=True) or b""

    try:
        first = seen()
        certificate(tmp_path, "two")
        assert seen() != first
        with web.connect() as connection:
            connection.sendall(b"GET /studies HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert not connection.recv(100).startswith(b"HTTP"), "nothing is said in the clear"
    finally:
        web.close()


def test_secrets_that_are_none_are_refused_at_start(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    for content, settings, said in (
        ("geheim", {"password_file": secret}, "holds no hash"),
        ("scrypt:1:2:3:x:y", {"password_file": secret}, "holds no hash"),
        ("short", {"token_file": secret}, "shorter than 32"),
        ("", {"token_file": secret}, "empty"),
    ):
        secret.write_text(content, encoding="ascii")
        with pytest.raises(SettingsError, match=said):
            Users([DicomwebUser(name="A", **settings)])  # type: ignore[arg-type]


def test_what_is_wrong_is_told_before_the_node_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = Settings(dicomweb={"enabled": True, "port": port})  # type: ignore[arg-type]
        with pytest.raises(NodeError, match=f"port {port} of 127.0.0.1 cannot be listened at"):
            server_child(settings, {})
    user = {"name": "A", "password_file": tmp_path / "none"}
    with pytest.raises(SettingsError, match="cannot be read"):
        server_child(settings.model_copy(update={"dicomweb_users": (DicomwebUser(**user),)}), {})  # type: ignore[arg-type]
    tls = TlsSettings(certificate=tmp_path / "none", require_client=False)
    dicomweb = settings.dicomweb.model_copy(update={"tls": tls})
    with pytest.raises(SettingsError, match="cannot be read"):
        server_child(settings.model_copy(update={"dicomweb": dicomweb}), {})


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"dicomweb": {"enabled": True, "host": "10.1.2.3"}}, "set tls, or plain_http"),
        ({"dicomweb": {"enabled": True, "host": "10.1.2.3", "plain_http": True}}, "add a .*dicomweb_users"),
        ({"dicomweb": {"tls": {}}}, "tls needs a certificate"),
        ({"dicomweb": {"tls": {"certificate": "x"}}}, "needs the ca"),
        ({"dicomweb_users": [{"name": "A"}]}, "password_file or a token_file"),
        ({"dicomweb_users": [{"name": "A:B", "token_file": "x"}]}, "name"),
        ({"dicomweb_users": [{"name": "A", "token_file": "x", "rights": []}]}, "rights"),
        ({"dicomweb_users": [{"name": "A", "token_file": "x"}] * 2}, "same name"),
        ({"reading": {"pixels": "wado"}}, "needs front.url"),
        ({"front": {"url": "http://front:11181"}}, "https, or plain_http"),
        ({"front": {"url": "http://localhost:11181", "tls": True}}, "tls is set, and url is http"),
        ({"sources": [WEB | {"url": "http://pacs", "tls": True}]}, "tls is set, and url is http"),
        ({"front": {"url": "http://user:pw@front"}}, "front.url"),
        ({"front": {"user": "a"}}, "belong together"),
        ({"front": {"user": "a", "password_file": "x", "token_file": "y"}}, "not both"),
    ],
)
def test_settings_that_leave_a_door_open_are_refused(tables: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Settings(**tables)
