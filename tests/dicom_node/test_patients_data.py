"""Marked patients go through a node by every road, and no trace of them is left where patients' data has no place.

The roads: C-STORE of what is good, undecodable, refused and no DICOM at all; STOW-RS, QIDO-RS and WADO-RS; a worklist
and the C-GET that it leads to; C-FIND; wrong sign-ins everywhere; the console's pages and a review; a model that has
read a name in the pixels; destinations that refuse and quote the patient; workers that crash.
"""

from __future__ import annotations

import base64
import os
import re
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import httpx
import pytest
from console_client import PASSWORD, csrf
from node_bench import Pacs, RunningNode, image, script, wait_until, written
from ports import free_port
from pydicom.dataset import Dataset
from pydicom.uid import EncapsulatedPDFStorage, ImplicitVRLittleEndian, generate_uid
from pynetdicom import AE
from pynetdicom.pdu_primitives import UserIdentityNegotiation
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind, Verification
from redis.exceptions import RedisError
from scripted_scp import Request, ScriptedScp
from typer.testing import CliRunner
from ups_bench import Archive, Steps, dimse_worklist
from web_bench import MULTIPART, body, encoded
from wire import data, element, item

from dicom_node.cli.app import app
from dicom_node.console.accounts import Role, hashed
from dicom_node.dimse.scu import StoredFile, send
from dicom_node.ledger import State, ledger_url
from dicom_node.ledger.database import Database
from dicom_node.ledger.sealing import LedgerKey
from dicom_node.queue.broker import connect
from dicom_node.scratch import Scratch

MARK: Final = "ZQXVPATIENT"
BIRTH: Final = "18990131"
NAME: Final = f"{MARK}^IDEOGRAPH=曌龘^{MARK}"
ENDED: Final = (State.DELIVERED, State.FAILED, State.IGNORED, State.CANCELLED)


RULES: Final = """
[[routes]]
name = "fails-over-the-words"
when = "int(study_description) == 4"

[[routes]]
name = "described"
when = 'study_description.contains("chest") && series_descriptions.exists(one, one.endsWith("pa"))'

[[routes]]
name = "others"
"""


def _forms() -> list[bytes]:
    """How a mark may look once something has encoded it, in lower case."""
    forms = set()
    for word in (MARK, BIRTH, "1899-01-31", "曌龘"):
        plain = word.encode()
        forms |= {plain, word.encode("utf-16-le"), word.encode("gb18030"), plain.hex().encode(), quote(word).encode()}
        forms.add(word.encode("unicode_escape"))
        for before in range(3):  # base64 at each alignment, without what its neighbours share in
            coded = base64.b64encode(b"\0" * before + plain).rstrip(b"=")
            forms.add(coded[4 if before else 0 : -1])
    return sorted({form.lower() for form in forms if len(form) > 5 or not form.isascii()})


FORMS: Final = _forms()


def traces(content: bytes) -> list[bytes]:
    """The forms of a mark that stand in something."""
    lowered = content.lower()
    return [form for form in FORMS if form in lowered]


def marked(**elements: Any) -> Dataset:
    """A radiograph of a patient whom every attribute that may says something about names."""
    values: dict[str, Any] = {
        "PatientID": f"{MARK}-1",
        "OtherPatientNames": NAME,
        "PatientBirthDate": BIRTH,
        "PatientAddress": f"{MARK} street",
        "PatientComments": f"{MARK} " * 20,
        "AccessionNumber": f"{MARK}-A",
        "StudyID": f"{MARK}-S",
        "StudyDescription": f"{MARK} chest",
        "SeriesDescription": f"{MARK} pa",
        "ProtocolName": f"{MARK} protocol",
        "ReferringPhysicianName": f"{MARK}^DOCTOR",
        "InstitutionName": f"{MARK} hospital",
        "RequestedProcedureDescription": f"{MARK} request",
        "ImageComments": f"{MARK} comment",
        "DeviceSerialNumber": f"{MARK}",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return image(patient=NAME, **values | elements)


def quoting(request: Request) -> bytes:
    """A refusal with the patient's name in its Error Comment (0000,0902)."""
    return data(item(request.context_id, 3, request.response(0xC000, element(0x0902, f"no {MARK}^IDEOGRAPH"))))


class Quoting(BaseHTTPRequestHandler):
    """A DICOMweb server that takes nothing, and quotes the patient wherever it can."""

    def do_POST(self) -> None:
        """Refuse."""
        self.rfile.read(int(self.headers["Content-Length"]))
        answer = f'{{"00081198": {{"vr": "SQ", "Value": ["{NAME}"]}}, "error": "{NAME}"}}'.encode()
        self.send_response(409, f"no {MARK}")
        self.send_header("Content-Type", "application/dicom+json")
        self.send_header("Warning", f'299 x: "{MARK}"')
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@dataclass
class Flood:
    """What was seen of a node that marked patients went through.

    Attributes
    ----------
    places : dict of str to bytes
        What stood, or was told, where patients' data has no place.
    kept : dict of str to bytes
        What stood where it has.
    pages : list of httpx.Response
        Those of the console and of DICOMweb for who may see patients.
    core_limits : set of bytes
        How large the system lets core files of the node's processes be.
    studies : list of str
        UIDs of the studies that were taken.
    console_port : int
    """

    places: dict[str, bytes]
    kept: dict[str, bytes]
    pages: list[httpx.Response]
    core_limits: set[bytes]
    studies: list[str]
    console_port: int


def store(node: RunningNode, folder: Path, *datasets: Dataset) -> list[int | None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values that are none
        files = [StoredFile.open(written(folder, dataset)) for dataset in datasets]
    return [result.status for result in send(files, node.peer, "CT1")]


def by_dimse(node: RunningNode, folder: Path) -> list[str]:
    """C-STORE, C-FIND, a wrong user identity, and bytes that are no association; the studies that were taken."""
    taken = [
        marked(),
        marked(PixelData=f"{MARK} ".encode()),
        marked(Rows=None, SOPClassUID=EncapsulatedPDFStorage, EncapsulatedDocument=MARK.encode(), PixelData=None),
        marked(PatientBirthDate=MARK, StudyDate=MARK, SeriesNumber=None, PatientAge=MARK),
    ]
    assert set(store(node, folder / "sent", *taken)) == {0}
    assert store(node, folder / "sent", marked(StudyInstanceUID=None))[0] == 0xA900
    with socket.create_connection((node.peer.host, node.peer.port)) as connection:
        connection.sendall(b"\1\0" + f"{NAME} is no PDU".encode() * 9)
        connection.settimeout(20)
        with suppress(OSError):
            while connection.recv(4096):
                pass
    identity = UserIdentityNegotiation()
    identity.user_identity_type, identity.primary_field, identity.secondary_field = 2, MARK.encode(), MARK.encode()
    entity = AE("CT1")
    entity.add_requested_context(Verification)
    entity.add_requested_context(StudyRootQueryRetrieveInformationModelFind)
    for negotiated in ([identity], []):
        association = entity.associate(node.peer.host, node.peer.port, ae_title=node.peer.aet, ext_neg=negotiated)
        if association.is_established and association.accepted_contexts[1:]:
            query = Dataset()
            query.QueryRetrieveLevel, query.PatientName, query.PatientID = "STUDY", NAME, f"{MARK}-1"
            list(association.send_c_find(query, StudyRootQueryRetrieveInformationModelFind))
        if association.is_established:
            association.release()
    return [str(dataset.StudyInstanceUID) for dataset in taken]


def by_dicomweb(node: RunningNode, pages: list[httpx.Response]) -> list[str]:
    good, broken = marked(), marked(StudyInstanceUID=None)
    known = {"Authorization": "Bearer the-long-secret-of-the-scanner-of-the-test"}
    url = f"http://127.0.0.1:{node.settings.dicomweb.port}"
    with httpx.Client(base_url=url, timeout=60) as client:
        content = body(encoded(good), encoded(broken), f"{NAME} is no DICOM".encode())
        pages.append(client.post("/studies", content=content, headers=known | {"Content-Type": MULTIPART}))
        assert pages[-1].status_code == 202
        torn = body(encoded(marked()))[:-200]
        client.post("/studies", content=torn, headers=known | {"Content-Type": MULTIPART})
        refusals = [
            client.post(f"/studies/{MARK}", content=content, headers=known | {"Content-Type": MULTIPART}),
            client.post("/studies", content=content, headers=known | {"Content-Type": f"text/{MARK}"}),
            client.get(f"/studies/{MARK}/metadata", headers=known),
            client.get("/studies", params={"PatientName": NAME}, auth=(MARK, f"{MARK} password")),
            client.get("/studies", params={"PatientName": NAME, MARK: "1"}, headers=known),
        ]
        pages.append(client.get(f"/studies/{good.StudyInstanceUID}", headers=known))
        pages.append(client.get("/studies", params={"PatientID": f"{MARK}-1", "includefield": "all"}, headers=known))
    assert {answer.status_code for answer in refusals} >= {400, 401}
    return [str(good.StudyInstanceUID)]


def by_console(node: RunningNode, places: dict[str, bytes], pages: list[httpx.Response], studies: list[str]) -> None:
    """Wrong sign-ins, then every page of a study for who may see it, and a review that names the patient."""
    url = f"http://127.0.0.1:{node.settings.console.port}"
    node.ledger.accounts.add("reviewer", Role.REVIEWER, hashed(PASSWORD))
    study = studies[0]
    with httpx.Client(base_url=url, timeout=60, follow_redirects=True) as client:
        assert client.post(
            "/sign-in", data={"name": NAME, "password": MARK, "csrf": csrf(client), "next": f"/{MARK}"}
        ).status_code in (401, 403)
        for path in ("/", f"/study/{study}"):
            places[f"console {path} before signing in"] = client.get(path).content
        places["metrics"] = client.get("/metrics").content
        assert b"medrega" in places["metrics"]
        client.post("/sign-in", data={"name": "reviewer", "password": PASSWORD, "csrf": csrf(client)})
        token = csrf(client, "/")
        pages += [client.get("/"), client.post("/search", data={"csrf": token, "search": MARK})]
        pages.append(client.get(f"/study/{study}"))
        assert all(page.status_code == 200 and traces(page.content) for page in pages[-3:])
        form = client.get(f"/study/{study}/review")
        pages.append(form)
        assert form.status_code == 200, form.text
        fields = {
            **{
                name: form.text.partition(f'name="{name}" value="')[2].partition('"')[0]
                for name in ("reading", "number")
            },
            "csrf": csrf(client, f"/study/{study}/review"),
            **dict(re.findall(r'name="(b0-\d+)".*? value="([^"]*)"', form.text)),
            "v0": "modify",
            "t0-en": f"A disc of {NAME}",
            "report": "on",
        }
        bad = client.post(f"/study/{study}/review", data=fields | {"b0-0": MARK})
        assert bad.status_code == 409
        done = client.post(f"/study/{study}/review", data=fields)
        assert done.status_code == 200, re.findall('role="alert">.*', done.text)
        pages += [bad, done]
        assert client.get(f"/study/{MARK}").status_code == 404


@contextmanager
def watched_broker(node: RunningNode, seen: list[bytes]) -> Iterator[None]:
    """Every command that the broker gets, with its keys and values."""
    with connect(node.settings) as connection, connection.monitor() as monitor:
        monitor.connection._sock.settimeout(None)  # the library takes none for this; it waits until told to stop

        def listen() -> None:
            with suppress(RedisError, OSError, ValueError):
                for line in monitor.listen():
                    seen.append(str(line["command"]).encode())

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        yield
        if monitor.connection._sock is not None:  # it is, once the broker has ended
            monitor.connection._sock.shutdown(socket.SHUT_RDWR)
        thread.join(20)


def of_processes(node: RunningNode) -> Iterator[Path]:
    """The entries under /proc of the node's processes."""
    assert node.process is not None
    yield Path(f"/proc/{node.process.pid}")
    for status in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError):
            if f"\nPPid:\t{node.process.pid}\n" in status.read_text():
                yield status.parent


def said_by(node: RunningNode, *words: str) -> bytes:
    """What a command of the node's says."""
    done = CliRunner().invoke(app, words, env=node.settings.to_environment())
    assert done.exit_code in (0, 1), done.output
    return done.output.encode()


def in_files(folder: Path, but: Callable[[Path], bool] = lambda _: False) -> dict[str, bytes]:
    """The content of the files under a folder, by name."""
    found = {}
    for parent, _, names in os.walk(folder):  # which minds no folder that goes away meanwhile
        for path in (Path(parent, name) for name in names):
            with suppress(FileNotFoundError):
                if path.is_file() and not but(path):
                    found[str(path)] = path.read_bytes()
    return found


@pytest.fixture(scope="module")
def flood(tmp_path_factory: pytest.TempPathFactory) -> Flood:
    folder, temporary = tmp_path_factory.mktemp("flood"), tmp_path_factory.mktemp("temporary")
    places: dict[str, bytes] = {}
    pages: list[httpx.Response] = []
    seen: list[bytes] = []
    while_sending: list[dict[str, bytes]] = []
    inside: list[dict[str, bytes]] = []
    steps, archive, archive_port = Steps(), Archive(), free_port()
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.delenv("MEDREGA_PACS__CONSOLE__ENABLED", raising=False)
        patch.setenv("TMPDIR", str(temporary))
        soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))  # as some systems and containers have it
        stack.callback(resource.setrlimit, resource.RLIMIT_CORE, (soft, hard))
        pacs = stack.enter_context(Pacs(folder / "pacs"))
        refusing = stack.enter_context(
            ScriptedScp(
                quoting,
                accepts=lambda _class, syntax: syntax == ImplicitVRLittleEndian,  # so that objects are transcoded
                on_data=lambda _: (
                    while_sending.append(in_files(temporary)),
                    inside.append(in_files(folder / "data" / "temporary")),
                ),
            )
        )
        web = ThreadingHTTPServer(("127.0.0.1", 0), Quoting)
        serving = threading.Thread(target=web.serve_forever)
        serving.start()
        stack.callback(lambda: (web.shutdown(), serving.join(), web.server_close()))
        stack.enter_context(dimse_worklist(steps, archive, archive_port))
        token = folder / "token"
        token.write_text("the-long-secret-of-the-scanner-of-the-test")
        token.chmod(0o600)
        key = folder / "ledger.key"
        key.write_text("ab" * 64)
        key.chmod(0o600)
        rules = folder / "rules.toml"
        rules.write_text(RULES)
        reached = {"aet": "ARCHIVE", "port": archive_port}
        node = RunningNode(
            folder,
            pacs,
            log={"level": "debug"},
            ledger={"key_file": str(key)},
            routing={"rules": str(rules)},
            review={"organization": "Hospital"},
            console={"enabled": True, "port": free_port()},
            dicomweb={"enabled": True, "port": free_port()},
            dicomweb_users=[{"name": "scanner", "token_file": str(token), "rights": ["store", "retrieve"]}],
            sources=[{"name": "archive", **reached, "retrieve": "get"}],
            worklists=[{"name": "ai", **reached, "poll_seconds": 0.3}],
            destinations=[
                {"name": "pacs", "aet": pacs.peer.aet, "port": pacs.peer.port},
                {"name": "refusing", "aet": refusing.peer.aet, "port": refusing.peer.port},
                {"name": "web", "protocol": "dicomweb", "url": f"http://127.0.0.1:{web.server_port}/dicom-web"},
            ],
        )
        read_aloud = f"A disc of {MARK}."
        script(folder, default=f"Findings: {read_aloud} Impression: {MARK} has a disc.")
        stack.callback(node.stop)
        node.start()
        stack.enter_context(watched_broker(node, seen))
        studies = by_dimse(node, folder)
        studies += by_dicomweb(node, pages)
        fetched = str(generate_uid())
        archive.images[fetched] = [marked(StudyInstanceUID=fetched)]
        steps.add(
            fetched, SpecificCharacterSet="ISO_IR 192", PatientName=NAME, PatientID=f"{MARK}-1", PatientBirthDate=BIRTH
        )
        studies.append(fetched)
        settled = lambda: all(node.is_in(study, *ENDED)() for study in studies)  # noqa: E731
        assert wait_until(settled, 60), [(study, node.state(study)) for study in studies]
        by_console(node, places, pages, studies)
        commands = ["studies", "studies --json", f"study {studies[0]}", f"study {studies[1]} --json", "worklist"]
        commands += ["doctor --skip engine", "destinations probe web", "reviews export --jsonl", "audit verify"]
        places |= {command: said_by(node, *command.split()) for command in commands}
        processes = list(of_processes(node))
        for process in processes:
            places[f"{process} cmdline and environ"] = b"".join(
                (process / name).read_bytes() for name in ("cmdline", "environ")
            )
        core_limits = {
            line for process in processes for line in (process / "limits").read_bytes().splitlines() if b"core" in line
        }
        os.kill(node.children()["reading"], signal.SIGABRT)
        os.kill(node.children()["delivery"], signal.SIGSEGV)
        log = folder / "node.log"
        assert wait_until(lambda: all(f'"code": {code},' in log.read_text() for code in (-6, -11)))
        node.stop()
        data = node.settings.data.path
        kept_in = [data / name for name in ("studies", "readings", "results")]
        own = {folder / "pacs", folder / "sent", folder / "script.json"}  # the test's own
        outside = in_files(folder, lambda path: not {path, *path.parents}.isdisjoint({*kept_in, *own}))
        places |= outside | in_files(temporary)
        places["temporary files while objects were sent"] = b"".join(
            name.encode() + content for files in while_sending for name, content in files.items()
        )
        places["broker"] = b"\n".join(seen)
        with closing(Database(ledger_url(node.settings))) as database:
            database.rekey(LedgerKey.read(key), lambda *_: None)
        with closing(sqlite3.connect(data / "ledger.sqlite3")) as connection:
            places["ledger in the clear"] = "\n".join(connection.iterdump()).encode()
    assert any(traces(content) for files in inside for content in files.values())  # objects were transcoded there
    kept = {name: content for path in kept_in for name, content in in_files(path).items()}
    return Flood(places, kept, pages, core_limits, studies, node.settings.console.port)


def test_the_flood_was_one(flood: Flood) -> None:
    """Every road was gone, and the search finds what is there."""
    log = next(content for name, content in flood.places.items() if name.endswith("node.log"))
    for event in (
        b"object refused",
        b"results stored",
        b"sign-in-failed",
        b"not read",
        b'"route": "described"',
        b"pulled",
        b"delivery failed for good",
        b"reviewed",
        b"child ended",
    ):
        assert event in log, event
    assert {name for name, content in flood.kept.items() if traces(content)} >= {
        name for name in flood.kept if "/studies/" in name
    }
    assert any("/results/" in name and traces(content) for name, content in flood.kept.items())
    assert len(flood.places["broker"]) > 1000
    for needed in ("ledger.sqlite3", "valkey.log", "audit"):
        assert any(needed in name for name in flood.places), needed


def test_no_mark_is_where_patients_data_has_no_place(flood: Flood) -> None:
    assert {name: found for name, content in flood.places.items() if (found := traces(name.encode() + content))} == {}


def test_an_encrypted_ledger_does_not_say_whose_studies_there_are(flood: Flood) -> None:
    (ledger,) = (content for name, content in flood.places.items() if name.endswith("ledger.sqlite3"))
    for study in flood.studies:
        assert study.encode() in flood.places["ledger in the clear"]
        assert study.encode() not in ledger


def test_names_of_kept_files_tell_nobody(flood: Flood) -> None:
    assert [name for name in flood.kept if traces(name.encode())] == []


def test_no_browser_or_proxy_keeps_what_it_was_shown(flood: Flood) -> None:
    assert {str(page.url): page.headers.get("Cache-Control") for page in flood.pages if traces(page.content)} == {
        str(page.url): "no-store" for page in flood.pages if traces(page.content)
    }


def test_no_address_of_a_page_names_a_patient(flood: Flood) -> None:
    told = b"\n".join(str(page.url).encode() for page in flood.pages if page.url.port == flood.console_port)
    assert b"words=" in told
    assert traces(told) == []


def test_a_crash_leaves_no_core_file(flood: Flood) -> None:
    assert [line.split() for line in flood.core_limits] == [b"Max core file size 0 0 bytes".split()]
    assert [name for name in flood.places if "/core" in name] == []


_WRITER = """
import os, signal, sys, tempfile
from pathlib import Path
from dicom_node.scratch import Scratch
with Scratch(Path(sys.argv[1])):
    tempfile.NamedTemporaryFile(delete=False)
    print("written", flush=True)
    sys.stdin.read()
"""


def test_temporary_files_of_who_was_killed_are_removed_and_those_of_who_lives_are_not(tmp_path: Path) -> None:
    def written_by_another() -> subprocess.Popen[str]:
        other = subprocess.Popen(
            [sys.executable, "-c", _WRITER, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert other.stdout is not None
        assert other.stdout.readline() == "written\n"
        return other

    before = tempfile.gettempdir()
    with written_by_another() as killed, written_by_another() as living:
        killed.kill()
        killed.wait()
        assert len(in_files(tmp_path)) == 2
        with Scratch(tmp_path) as own:
            assert len(in_files(tmp_path)) == 1
            assert tempfile.gettempdir() == str(own)
            assert own.stat().st_mode & 0o077 == 0
        living.communicate()
    assert (tempfile.gettempdir(), list((tmp_path / "temporary").iterdir())) == (before, [])


def test_parts_may_start_while_others_end(tmp_path: Path) -> None:
    again_and_again = (
        "import sys\nfrom pathlib import Path\nfrom dicom_node.scratch import Scratch\n"
        "for _ in range(500):\n    with Scratch(Path(sys.argv[1])):\n        pass"
    )
    parts = [subprocess.Popen([sys.executable, "-c", again_and_again, tmp_path]) for _ in range(3)]
    assert [part.wait() for part in parts] == [0, 0, 0]
