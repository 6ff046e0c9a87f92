"""``doctor`` on a whole site (Orthanc, DCMTK, Redis, PostgreSQL), and on that site with one fault after the other."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority, Certificate
from peers import Orthanc, listens, running, running_orthanc, wait_until
from ports import free_port
from postgresql import PASSWORD, Cluster, cluster
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from sqlalchemy import text

from dicom_node.cli import main
from dicom_node.doctor.doctor import all_checks, chosen
from dicom_node.doctor.examination import examine
from dicom_node.doctor.finding import Check, Finding, Outcome, ok
from dicom_node.ledger import Ledger
from dicom_node.ledger.database import Database
from dicom_node.ledger.records import ReceivedInstance
from dicom_node.settings import Settings
from engine.runtime import model_path

# The library leaves the socket of a refused connection to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"
)

AET = "MEDREGA"
PRESENTATION_STATE_REFUSED = """
[[TransferSyntaxes]]
[Plain]
TransferSyntax1 = LittleEndianExplicit
TransferSyntax2 = LittleEndianImplicit
[[PresentationContexts]]
[Few]
PresentationContext1 = VerificationSOPClass\\Plain
PresentationContext2 = ComprehensiveSRStorage\\Plain
PresentationContext3 = EnhancedSRStorage\\Plain
PresentationContext4 = SegmentationStorage\\Plain
PresentationContext5 = SecondaryCaptureImageStorage\\Plain
[[Profiles]]
[Few]
PresentationContexts = Few
"""


@dataclass(frozen=True)
class Site:
    """Real peers, and settings under which all is well."""

    folder: Path
    orthanc: Orthanc
    database: Cluster
    broker: str
    authority: Authority
    certificate: Certificate
    base: dict[str, Any]

    def settings(self, **changes: Any) -> Settings:
        sections = dict(self.base)
        for name, value in changes.items():
            sections[name] = sections[name] | value if isinstance(sections.get(name), dict) else value
        return Settings(**sections)

    def destination(self, **changes: Any) -> tuple[dict[str, Any], ...]:
        return (self.base["destinations"][0] | changes,)

    def source(self, **changes: Any) -> tuple[dict[str, Any], ...]:
        return (self.base["sources"][0] | changes,)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    listening, broker = free_port(), free_port()
    password = folder / "password"
    password.write_text(PASSWORD)
    password.chmod(0o600)
    authority = Authority(folder / "authority")
    with ExitStack() as stack:
        # This node asks for its console, at a port of its own.
        stack.enter_context(pytest.MonkeyPatch.context()).delenv("MEDREGA_PACS__CONSOLE__ENABLED", raising=False)
        server = [
            "/usr/bin/redis-server",
            "--port",
            str(broker),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
            str(folder),
        ]
        stack.enter_context(running([*server, "--requirepass", PASSWORD], folder / "redis.log"))
        database = stack.enter_context(cluster())
        orthanc = stack.enter_context(
            running_orthanc(folder / "orthanc", DicomModalities={"node": [AET, "127.0.0.1", listening]},
                            DicomCheckCalledAet=True)
        )  # fmt: skip
        wait_until(lambda: listens(broker), "Redis to listen")
        peer = {"name": "orthanc", "aet": "ORTHANC", "host": "127.0.0.1", "port": orthanc.peer.port}
        base = {
            "data": {"path": folder / "data", "minimum_free_mib": 1},
            "listener": {"aet": AET, "port": listening},
            "console": {"port": free_port()},
            "broker": {"url": f"redis://127.0.0.1:{broker}/0", "password_file": password},
            "ledger": {"url": database.url(password=""), "password_file": password},
            "destinations": (peer | {"commitment": True},),
            "sources": (peer,),
        }
        found = Site(folder, orthanc, database, str(broker), authority, authority.issue("node"), base)
        Ledger.open(found.settings()).close()
        (folder / "data").chmod(0o700)
        yield found


def look(settings: Settings, *, engine: bool = False) -> list[Finding]:
    return list(examine(chosen(all_checks(settings), skip=() if engine else ("engine",))))


def the_one(settings: Settings, check: str, outcome: Outcome = Outcome.FAIL, *, engine: bool = False) -> Finding:
    """What is found beside what is well: one finding, of that check, with something to do."""
    told = [finding for finding in look(settings, engine=engine) if finding.outcome is not Outcome.OK]
    assert [(finding.check, finding.outcome) for finding in told] == [(check, outcome)], told
    (found,) = told
    assert found.remedy
    assert PASSWORD not in found.words + found.remedy
    return found


def test_a_healthy_site_is_all_ok_with_its_node_stopped_and_running(site: Site) -> None:
    settings = site.settings()
    assert [finding for finding in look(settings) if finding.outcome is not Outcome.OK] == []
    environment = {**os.environ, **settings.to_environment()}
    command = [sys.executable, "-m", "dicom_node.cli"]
    with running([*command, "up"], site.folder / "node.log", env=environment, cwd=site.folder) as node:
        for port in (settings.listener.port, settings.console.port):
            wait_until(lambda port=port: listens(port), "the node to listen", node)
        told = subprocess.run([*command, "doctor", "--json", "--send"], env=environment, cwd=site.folder,
                              check=False, capture_output=True, text=True)  # fmt: skip
        assert told.returncode == 0, told.stdout + told.stderr
        findings = json.loads(told.stdout)["findings"]
        assert {finding["outcome"] for finding in findings} == {"ok"}, findings
        said = "\n".join(f"{finding['check']}: {finding['words']}" for finding in findings)
        assert f"listener: the node runs, process {node.pid}" in said
        for words in (
            "broker: redis://127.0.0.1", "database: PostgreSQL", "C-ECHO is answered", "storage commitment",
            "takes all 5 kinds of object", "C-MOVE is answered", "reads a phantom right", "answers C-ECHO",
            "says that the node is ready",
            "the same as of the database, the broker",
            "test object of PHANTOM, TEST OF MEDREGA is stored", "to commit", "source orthanc sends it back",
        ):  # fmt: skip
            assert words in said


def test_wrong_settings_are_a_finding_and_end_the_examination(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "medrega-pacs.toml").write_text("[listener]\nprot = 1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["medrega-pacs", "doctor"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    said = capsys.readouterr().out
    assert "fail  settings" in said
    assert "did you mean listener.port?" in said


def test_a_data_folder_that_is_a_file_is_named(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    settings = site.settings(data={"path": tmp_path / "file"})
    assert "is a file" in the_one(settings, "folder").words


def test_a_full_disk_is_named(site: Site) -> None:
    settings = site.settings(data={"minimum_free_mib": 1 << 40})
    assert "images are refused, by data.minimum_free_mib" in the_one(settings, "space").words


def test_a_redis_that_is_not_there_is_named(site: Site) -> None:
    settings = site.settings(broker={"url": f"redis://127.0.0.1:{free_port()}/0"})
    assert "cannot be reached" in the_one(settings, "broker").words


def test_a_wrong_password_of_redis_is_named(site: Site, tmp_path: Path) -> None:
    (tmp_path / "wrong").write_text("wrong")
    (tmp_path / "wrong").chmod(0o600)
    settings = site.settings(broker={"password_file": tmp_path / "wrong"})
    assert "does not let us in" in the_one(settings, "broker").words


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql+psycopg://nobody@127.0.0.1:{port}/postgres", "does not let us in"),
        ("postgresql+psycopg://medrega@127.0.0.1:{port}/none", "has no such database"),
        ("postgresql+psycopg://medrega@127.0.0.1:{closed}/postgres", "refuses connections"),
    ],
)
def test_a_database_that_cannot_be_used_is_named(site: Site, url: str, words: str) -> None:
    said = url.format(port=site.database.port, closed=free_port())
    assert words in the_one(site.settings(ledger={"url": said}), "database").words


@pytest.mark.parametrize(
    ("revision", "outcome", "words"),
    [("9999", Outcome.FAIL, "another, newer version (9999"), ("0001", Outcome.WARN, "older version (0001")],
)
def test_tables_of_another_version_are_named(site: Site, revision: str, outcome: Outcome, words: str) -> None:
    database = Database(site.database.url())
    with closing(database):
        with database.write() as session:
            was = session.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
            session.execute(text("UPDATE alembic_version SET version_num = :to"), {"to": revision})
        try:
            assert words in the_one(site.settings(), "database", outcome).words
        finally:
            with database.write() as session:
                session.execute(text("UPDATE alembic_version SET version_num = :to"), {"to": was})


def test_a_clock_that_was_set_back_is_named(site: Site, tmp_path: Path) -> None:
    settings = site.settings(data={"path": tmp_path}, ledger={"url": None, "password_file": None})
    ledger = Ledger.open(settings, lambda: datetime.now(UTC) + timedelta(hours=2))
    with closing(ledger):
        ledger.intake.record(
            ReceivedInstance(
                "1.2", "1.2.3", "1.2.3.4", str(CTImageStorage), str(ExplicitVRLittleEndian), "CT1", "a.dcm"
            )
        )
    assert "the clock was set back" in the_one(settings, "clock").words


def test_a_clock_apart_from_an_archives_is_named(site: Site) -> None:
    class Late(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def do_HEAD(self) -> None:
            self.do_GET()

        def date_time_string(self, _timestamp: float | None = None) -> str:
            return f"{datetime.now(UTC) - timedelta(hours=1):%a, %d %b %Y %H:%M:%S GMT}"

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Late) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/dicom-web"
            settings = site.settings(destinations=({"name": "web", "protocol": "dicomweb", "url": url},))
            assert "is 60 min ahead of web's" in the_one(settings, "clock").words
        finally:
            server.shutdown()
            thread.join()


def test_a_port_that_another_program_has_is_named(site: Site) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        for table in ("listener", "console"):
            settings = site.settings(**{table: {"port": other.getsockname()[1]}})
            assert "another program listens there" in the_one(settings, table).words


def test_a_listener_that_its_peers_cannot_reach_is_named(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicom_node.doctor.ports.is_loopback", lambda host: host != "127.0.0.1")
    assert "peers on others: orthanc" in the_one(site.settings(), "outside", Outcome.WARN).words


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"host": "no-such-host.invalid"}, "cannot be resolved"),
        ({"aet": "OTHER"}, "rejected the association"),
        ({}, "nothing listens"),
    ],
)
def test_a_destination_that_does_not_answer_or_let_us_in_is_named(
    site: Site, change: dict[str, Any], words: str
) -> None:
    destinations = site.destination(**(change or {"port": free_port()}))
    # Orthanc hangs up as it rejects: of a hundred rejections one is seen as a connection that was broken off.
    looks = (the_one(site.settings(destinations=destinations), "destination orthanc").words for _ in range(4))
    assert any(words in look for look in looks)


def test_an_archives_url_that_is_not_that_of_its_service_is_named(site: Site) -> None:
    web = {"name": "web", "protocol": "dicomweb", "url": f"{site.orthanc.url}/none"}
    assert "there is no /studies below" in the_one(site.settings(sources=(web,)), "source web").words


def test_a_destination_that_takes_connections_and_says_nothing_is_named(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicom_node.doctor.peers._TIMEOUTS", _short())
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        settings = site.settings(destinations=site.destination(port=silent.getsockname()[1]))
        assert "did not answer it" in the_one(settings, "destination orthanc").words


def _short() -> Any:
    from dicom_node.dimse.association import Timeouts

    return Timeouts(0.5, 0.5)


def test_a_destination_that_does_not_take_all_kinds_of_result_or_does_not_commit_is_named(
    site: Site, tmp_path: Path
) -> None:
    port = free_port()
    (tmp_path / "storescp.cfg").write_text(PRESENTATION_STATE_REFUSED)
    command = ["/usr/bin/storescp", "-xf", str(tmp_path / "storescp.cfg"), "Few", "-od", str(tmp_path), str(port)]
    with running(command, tmp_path / "storescp.log") as process:
        wait_until(lambda: listens(port), "storescp to listen", process)
        settings = site.settings(destinations=site.destination(port=port, commitment=False))
        assert "does not take Grayscale Softcopy Presentation State" in the_one(settings, "destination orthanc").words
        settings = site.settings(destinations=site.destination(port=port, profile="minimal"))
        assert "does not do storage commitment" in the_one(settings, "destination orthanc").words


def test_a_certificate_of_an_unknown_authority_is_named_and_one_that_expired(site: Site, tmp_path: Path) -> None:
    port, peer = free_port(), site.authority.issue("peer")
    tls = ["+tls", str(peer.key), str(peer.certificate), "-ic"]
    with running(["/usr/bin/storescp", *tls, "-od", str(tmp_path), str(port)], tmp_path / "storescp.log") as process:
        wait_until(lambda: listens(port), "storescp to listen", process)

        def settings(**tls: Any) -> Settings:
            return site.settings(destinations=site.destination(port=port, commitment=False, tls=tls))

        own = {"certificate": site.certificate.certificate, "key": site.certificate.key}
        found = look(settings(ca=site.authority.ca, **own))
        assert [finding for finding in found if finding.outcome is not Outcome.OK] == [
            finding for finding in found if "expires on" in finding.words
        ]
        other = Authority(tmp_path / "other")
        told = [finding for finding in look(settings(ca=other.ca)) if finding.outcome is Outcome.FAIL]
        assert [(finding.check, "certificate is not accepted" in finding.words) for finding in told] == [
            ("destination orthanc", True)
        ]
    old = site.authority.issue("old", days=-1)
    tables = {"certificate": old.certificate, "key": old.key, "ca": site.authority.ca}
    expired = the_one(site.settings(listener={"tls": tables}), "certificates")
    assert "expired on" in expired.words


def test_a_source_that_does_not_know_this_node_is_named(site: Site) -> None:
    settings = site.settings(listener={"aet": "STRANGER"}, destinations=site.destination(commitment=False))
    told = [finding for finding in look(settings) if finding.outcome is not Outcome.OK]
    assert {finding.check for finding in told} == {"source orthanc"}, told


def test_a_source_that_answers_no_query_is_named(site: Site, tmp_path: Path) -> None:
    port = free_port()
    with running(["/usr/bin/storescp", "-od", str(tmp_path), str(port)], tmp_path / "storescp.log") as process:
        wait_until(lambda: listens(port), "storescp to listen", process)
        assert "does not take C-FIND" in the_one(site.settings(sources=site.source(port=port)), "source orthanc").words


def test_a_model_that_is_not_there_or_damaged_is_named(site: Site, tmp_path: Path) -> None:
    settings = site.settings(engine={"model": str(tmp_path / "none")})
    assert "there is no model" in the_one(settings, "model", engine=True).words
    damaged = tmp_path / "damaged"
    shutil.copytree(model_path("phantom"), damaged)
    weights = damaged / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    weights.write_bytes(content)
    assert the_one(site.settings(engine={"model": str(damaged)}), "engine", engine=True).words


def test_wrong_rules_and_passwords_that_are_missing_or_open_are_named(site: Site, tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text('[[routes]]\nname = "a"\nwhen = "modality ="\n')
    assert "rules.toml" in the_one(site.settings(routing={"rules": tmp_path / "rules.toml"}), "rules").words
    with_secret = site.destination(user="node", password_file=tmp_path / "none")
    told = [finding for finding in look(site.settings(destinations=with_secret)) if finding.outcome is Outcome.FAIL]
    assert {finding.check for finding in told} == {"secrets", "destination orthanc"}
    (tmp_path / "open").write_text(PASSWORD)
    (tmp_path / "open").chmod(0o644)
    settings = site.settings(broker={"password_file": tmp_path / "open"})
    assert "every user" in the_one(settings, "secrets", Outcome.WARN).words


def test_what_a_person_paused_is_named(site: Site) -> None:
    ledger = Ledger.open(site.settings())
    with closing(ledger):
        ledger.destinations.pause("orthanc")
        try:
            assert "destination orthanc is paused" in the_one(site.settings(), "work", Outcome.WARN).words
        finally:
            ledger.destinations.resume("orthanc")


def test_a_check_that_hangs_or_breaks_keeps_none_of_the_others_from_being_told() -> None:
    hanging = threading.Event()

    def hangs() -> Iterator[Finding]:
        hanging.wait()
        yield ok("")

    def breaks() -> Iterator[Finding]:
        yield ok("begun")
        raise ZeroDivisionError

    checks = [Check("a", hangs, 0.1), Check("b", breaks), Check("c", lambda: [ok("well")])]
    told = [(finding.check, finding.outcome, finding.words) for finding in examine(checks)]
    hanging.set()
    assert told == [
        ("a", Outcome.FAIL, "did not end within 0 s"),
        ("b", Outcome.OK, "begun"),
        ("b", Outcome.FAIL, "the check itself broke (ZeroDivisionError)"),
        ("c", Outcome.OK, "well"),
    ]
