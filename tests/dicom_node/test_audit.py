"""The audit trail: the Standard's messages, a chain that shows every change, and a repository that gets all of it."""

from __future__ import annotations

import json
import re
import shutil
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import Queue
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from certificates import Authority
from hypothesis import given
from hypothesis import strategies as st
from node_bench import Clock

from dicom_node.audit import Action, AuditEvent, Outcome, Trail
from dicom_node.audit.follower import Follower
from dicom_node.audit.message import Source, audit_message
from dicom_node.audit.syslog import Forwarder, unsent_bytes
from dicom_node.audit.verification import verify
from dicom_node.ledger import Ledger
from dicom_node.ledger.records import ReceivedInstance
from dicom_node.settings import Settings

STUDY = "1.2.826.0.1.3680043.8.498.7"
CT = "1.2.840.10008.5.1.4.1.1.2"
SOURCE = Source("MEDREGA", "Radiology", ("MEDREGA",))


def parsed(message: str | bytes) -> ET.Element:
    return ET.fromstring(message)  # noqa: S314 - we made it


def settings_in(folder: Path, **audit: Any) -> Settings:
    return Settings(data={"path": folder}, audit=audit)  # type: ignore[arg-type]


def written(folder: Path, count: int) -> Trail:
    trail = Trail.of(settings_in(folder))
    for number in range(count):
        trail.write(AuditEvent(Action.STUDY_RETRIED, "anna@ward", "127.0.0.1", STUDY, detail=f"number {number}"))
    return trail


def lines(trail: Trail) -> tuple[Path, list[str]]:
    file = next(trail.folder.glob("*.jsonl"))
    return file, file.read_text(encoding="utf-8").splitlines(keepends=True)


def test_a_message_has_the_standards_codes_participants_and_study() -> None:
    event = AuditEvent(Action.IMAGES_RECEIVED, "CT1", "10.0.0.7", STUDY, instances={CT: 44})
    message = parsed(audit_message(event, SOURCE, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)))
    assert [child.tag for child in message] == [
        "EventIdentification", "ActiveParticipant", "ActiveParticipant", "AuditSourceIdentification",
        "ParticipantObjectIdentification",
    ]  # fmt: skip
    identification, sender, node, source, study = message
    assert identification.attrib == {
        "EventActionCode": "C",
        "EventDateTime": "2026-01-02T03:04:05.000+00:00",
        "EventOutcomeIndicator": "0",
    }
    assert identification[0].attrib == {
        "csd-code": "110104", "codeSystemName": "DCM", "originalText": "DICOM Instances Transferred",
    }  # fmt: skip
    assert sender.attrib["AlternativeUserID"] == "AETITLES=CT1"
    assert (sender.attrib["NetworkAccessPointID"], sender.attrib["NetworkAccessPointTypeCode"]) == ("10.0.0.7", "2")
    roles = [participant[0].attrib["csd-code"] for participant in (sender, node)]
    assert roles == ["110153", "110152"]  # source, destination
    assert source.attrib == {"AuditEnterpriseSiteID": "Radiology", "AuditSourceID": "MEDREGA"}
    assert study.attrib["ParticipantObjectID"] == STUDY
    assert study[-1][0].attrib == {"UID": CT, "NumberOfInstances": "44"}


@given(
    st.builds(
        AuditEvent,
        st.sampled_from(Action),
        st.text(),
        st.none() | st.text(min_size=1),
        st.none() | st.text(),
        st.sampled_from(Outcome),
        st.text(),
    )
)
def test_whatever_a_peer_says_a_message_stays_one_line_of_xml(event: AuditEvent) -> None:
    message = audit_message(event, SOURCE, datetime.now(UTC))
    assert message.isprintable()
    message.encode()
    found = parsed(message).find("EventIdentification")
    assert found is not None
    assert found[0].attrib["csd-code"] == event.action.event.value


def test_a_whole_trail_is_found_whole(tmp_path: Path) -> None:
    trail = written(tmp_path, 5)
    result = verify(trail.folder)
    assert (result.records, result.last.number, result.complaints) == (5, 5, ())
    assert verify(trail.folder, noted=(5, result.last.sha256)).complaints == ()
    assert trail.folder.stat().st_mode & 0o077 == 0


def changed(text: list[str]) -> list[str]:
    return [*text[:2], text[2].replace("anna", "otto"), *text[3:]]


def removed(text: list[str]) -> list[str]:
    return text[:2] + text[3:]


def reordered(text: list[str]) -> list[str]:
    return [*text[:1], text[2], text[1], *text[3:]]


def truncated(text: list[str]) -> list[str]:
    return text[:-2]


def torn(text: list[str]) -> list[str]:
    return [*text[:-1], text[-1][:50]]


def beheaded(text: list[str]) -> list[str]:
    return text[1:]


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (changed, "record 3 was changed"),
        (removed, "record 3 is missing before record 4"),
        (reordered, "record 2 stands behind record 3, out of its place"),
        (truncated, "records 4 to 5 are missing: the trail was cut off its end"),
        (torn, "record 5 is missing: the trail was cut off its end"),
        (beheaded, "record 1 is missing before record 2"),
    ],
)
def test_each_harm_is_found_and_still_after_more_was_written(
    tmp_path: Path, harm: Callable[[list[str]], list[str]], words: str
) -> None:
    trail = written(tmp_path, 5)
    file, text = lines(trail)
    file.write_text("".join(harm(text)), encoding="utf-8")
    assert any(words in complaint for complaint in verify(trail.folder).complaints)
    written(tmp_path, 2)
    assert verify(trail.folder).complaints


def test_a_trail_made_anew_as_a_whole_is_found_by_a_record_that_was_noted(tmp_path: Path) -> None:
    noted = verify(written(tmp_path, 5).folder).last
    shutil.rmtree(tmp_path / "audit")
    trail = written(tmp_path, 7)
    assert not verify(trail.folder).complaints
    assert "made anew" in verify(trail.folder, noted=(noted.number, noted.sha256)).complaints[0]


def test_a_writer_that_died_leaves_a_whole_trail(tmp_path: Path) -> None:
    trail = written(tmp_path, 2)
    head = (trail.folder / "head").read_text()
    written(tmp_path, 1)
    (trail.folder / "head").write_text(head)  # it died before it could move the head: the record counts
    assert verify(trail.folder).complaints == ()
    written(tmp_path, 1)
    assert (verify(trail.folder).records, verify(trail.folder).complaints) == (4, ())
    file, _ = lines(trail)
    with file.open("a") as torn_line:
        torn_line.write('{"number": 5, "at')  # it died in the middle of a record: that goes
    assert (verify(trail.folder).records, verify(trail.folder).complaints) == (4, ())
    written(tmp_path, 1)
    assert (verify(trail.folder).records, verify(trail.folder).complaints) == (5, ())


def test_writers_at_the_same_time_make_one_chain(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: written(tmp_path, 5), range(4)))
    result = verify(tmp_path / "audit")
    assert (result.records, result.complaints) == (20, ())


def test_months_are_files_and_old_ones_may_be_moved_away(tmp_path: Path) -> None:
    trail = written(tmp_path, 3)
    file, _ = lines(trail)
    file.rename(trail.folder / "2020-01.jsonl")
    head = (trail.folder / "head").read_text().replace(file.name, "2020-01.jsonl")
    (trail.folder / "head").write_text(head)
    written(tmp_path, 2)
    assert (verify(trail.folder).records, verify(trail.folder).complaints) == (5, ())
    (trail.folder / "2020-01.jsonl").unlink()
    assert "records 1 to 3 are missing" in verify(trail.folder).complaints[0]
    assert verify(trail.folder, archived=True).complaints == ()


def test_a_clock_set_back_over_the_turn_of_a_month_leaves_a_whole_trail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for moment in ((2026, 1, 31), (2026, 2, 1), (2026, 1, 31), (2026, 3, 1)):

        class Clock(datetime):
            @classmethod
            def now(cls, tz: Any = None, at: tuple[int, int, int] = moment) -> Clock:
                return cls(*at, tzinfo=tz)

        monkeypatch.setattr("dicom_node.audit.trail.datetime", Clock)
        written(tmp_path, 1)
    assert (verify(tmp_path / "audit").records, verify(tmp_path / "audit").complaints) == (4, ())
    assert sorted(file.name for file in (tmp_path / "audit").glob("*.jsonl")) == [
        "2026-01.jsonl",
        "2026-02.jsonl",
        "2026-03.jsonl",
    ]


class Repository:
    """A receiver of syslog over TLS (RFC 5425) that asks its clients for certificates."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.batches: Queue[list[bytes]] = Queue()
        self.refuses = 0
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            plain, _ = self._socket.accept()
            with plain:
                if not plain.recv(1, socket.MSG_PEEK):
                    return
                if self.refuses:
                    self.refuses -= 1
                    continue
                try:
                    connection = self._context.wrap_socket(plain, server_side=True)
                except ssl.SSLError:  # the client does not accept our certificate
                    continue
                with connection, connection.makefile("rb") as stream:
                    messages = []
                    while length := re.match(rb"(\d+) ", stream.peek(8)):  # type: ignore[attr-defined]
                        stream.read(length.end())
                        messages.append(stream.read(int(length[1])))
                    connection.unwrap()
                self.batches.put(messages)

    def close(self) -> None:
        socket.create_connection(("127.0.0.1", self.port)).close()
        self._thread.join()
        self._socket.close()


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[tuple[Repository, Settings]]:
    authority = Authority(tmp_path / "authority")
    server, client = authority.issue("repository"), authority.issue("node")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.ca))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(server.certificate, server.key)
    repository = Repository(context)
    yield (
        repository,
        settings_in(tmp_path / "data", host="127.0.0.1", port=repository.port, tls=client.tls(authority.ca)),
    )
    repository.close()


def test_a_repository_gets_every_record_once_it_answers_by_syslog_over_tls(
    repository: tuple[Repository, Settings],
) -> None:
    receiver, settings = repository
    trail = written(settings.data.path, 2)
    receiver.refuses = 1
    forwarder = Forwarder(settings)
    with pytest.raises(OSError):  # noqa: PT011 - whichever way a connection breaks
        forwarder.send()
    assert unsent_bytes(trail.folder) > 0
    written(settings.data.path, 1)
    forwarder.start()
    first = receiver.batches.get()
    written(settings.data.path, 1)
    forwarder.stop()
    later = receiver.batches.get()
    assert (len(first), len(later), unsent_bytes(trail.folder)) == (3, 1, 0)
    numbers = []
    for message in (*first, *later):
        head, _, xml = message.partition(b"\xef\xbb\xbf")  # RFC 5424 6.4: text in UTF-8 begins with this mark
        assert re.fullmatch(rb"<85>1 \d{4}-\d\d-\d\dT[\d:.]+\+00:00 \S+ medrega-pacs \d+ DICOM\+RFC3881 - ", head)
        numbers.append(parsed(xml).findtext("EventIdentification/EventOutcomeDescription"))
    assert numbers == ["number 0", "number 1", "number 0", "number 0"]
    assert forwarder.send() == 0


def test_a_repository_that_cannot_prove_itself_gets_nothing(
    repository: tuple[Repository, Settings], tmp_path: Path
) -> None:
    _, settings = repository
    stranger = Authority(tmp_path / "stranger")
    audit = settings.audit.model_copy(update={"tls": stranger.issue("node").tls(stranger.ca)})
    written(settings.data.path, 1)
    with pytest.raises(ssl.SSLCertVerificationError):
        Forwarder(settings.model_copy(update={"audit": audit})).send()
    assert unsent_bytes(settings.data.path / "audit") > 0


def test_what_the_node_does_by_itself_is_told_once(tmp_path: Path, ledger: Ledger, clock: Clock) -> None:
    settings = settings_in(tmp_path / "data")
    for number in range(3):
        ledger.intake.record(ReceivedInstance(STUDY, "1.2", f"1.2.{number}", CT, CT, "CT1", f"{number}.dcm"))
    (run,) = ledger.intake.receiving(clock() + timedelta(seconds=1))
    assert ledger.intake.complete(run.id, run.last_image_at, "quiet")
    for _ in range(2):
        Follower(settings, ledger).follow()
    trail = Trail.of(settings)
    (line,) = lines(trail)[1]
    message = parsed(json.loads(line)["message"])
    assert message.findall("EventIdentification/EventTypeCode")[-1].attrib["csd-code"] == "images-received"
    (instances,) = message.iter("SOPClass")
    assert instances.attrib["NumberOfInstances"] == "3"
