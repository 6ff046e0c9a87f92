"""Our own parsers, each as a function that takes any bytes, and what has to hold of its answer."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import wire
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian

from dicom_node.dicomweb.files import ArrivingFile
from dicom_node.dicomweb.multipart import MediaType, MultipartError, boundary_of, read_parts
from dicom_node.dicomweb.store_request import told
from dicom_node.dimse.data_path import StoreRequest
from dicom_node.dimse.scu import StoredFile
from dicom_node.dimse.send_path import _status
from dicom_node.intake import file_meta
from dicom_node.intake.elements import images_of_study, leading_uids
from dicom_node.intake.identity import RefusedError, identify
from dicom_node.routing.condition import Condition
from dicom_node.routing.facts import Facts, facts_of
from dicom_node.routing.header import Header, read_header, read_person
from dicom_node.routing.rules import Names, decide, parse_rules
from dicom_node.settings import Settings
from engine.answers import parse_labels, parse_phrase, parse_report
from engine.dialects import MEDREGA, dialects, read_boxes
from engine.errors import NodeError, NotDicomError, SettingsError
from engine.grammar import format_boxes
from engine.labels import label_sets

IMPLICIT = "1.2.840.10008.1.2"
SYNTAXES = (IMPLICIT, str(ExplicitVRLittleEndian), str(ExplicitVRBigEndian), str(DeflatedExplicitVRLittleEndian))
BOUNDARY = "cut"
NAMES = Names(plans=("chest", "body"), destinations=("pacs", "ris"), profiles=("sr", "seg"))


@dataclass(frozen=True)
class Target:
    """A function that is to stand any bytes, and bytes to begin with."""

    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]


def store_request(content: bytes) -> None:
    """Command sets of requests and of responses."""
    request = StoreRequest.parse(content)
    if request is not None:
        answer = request.response(0xA700, "no room")
        sent = wire.data(wire.item(1, 3, answer))
        assert _status(sent, 1, request.message_id) == 0xA700
    status = _status(content, 1, 7)
    assert status is None or 0 <= status <= 0xFFFF


def header(content: bytes) -> None:
    """The beginning of a data set, by the quick reader and by the library: where both read it they agree."""
    syntax, content = SYNTAXES[content[0] % 4 if content else 0], content[1:]
    quick = leading_uids(content, syntax)
    number = images_of_study(content[:65536], syntax)
    assert number is None or number > 0
    try:
        found = identify(content, syntax)
    except RefusedError:
        return
    if quick is not None:
        slow = (found.sop_class_uid, found.sop_instance_uid, found.study_instance_uid, found.series_instance_uid)
        assert (slow, found.own) == (quick, False)


def routed_header(content: bytes) -> None:
    """A file of the spool, as routing reads it."""
    syntax, content = SYNTAXES[content[0] % 4 if content else 0], content[1:]
    path = _scratch() / "one.dcm"
    path.write_bytes(_meta(syntax) + content)
    found = read_header(path, syntax)
    assert Header.from_json(found.to_json()) == found
    person = read_person([(path, syntax)])
    at = datetime(2026, 3, 1, 12, tzinfo=UTC)
    facts = facts_of([("1.2", found)], person, called_aets=["A"], calling_aets=["B"], asked=None, at=at)
    for condition in _conditions():
        assert condition.holds(facts) in (True, False, None)


def part_10(content: bytes) -> None:
    """A file in a body, chunk by chunk."""
    step = content[0] + 1 if content else 1
    with contextlib.suppress(NotDicomError):
        file = ArrivingFile.read(content[at : at + step] for at in range(1, len(content), step))
        for _ in file.data_set:
            pass


def multipart(content: bytes) -> None:
    """A body; cut into chunks in another way it says the same."""
    step = content[0] + 1 if content else 1
    body = content[1:]
    assert _parts([body]) == _parts(body[at : at + step] for at in range(0, len(body), step))


def media_type(content: bytes) -> None:
    """A header field of a request."""
    text = content.decode("latin-1")
    with contextlib.suppress(MultipartError):
        assert 1 <= len(boundary_of(MediaType.parse(text))) <= 200


def store_answer(content: bytes) -> None:
    """What a STOW-RS server says of what it was sent."""
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        return
    for status in (200, 202, 409):
        (result,) = told([_FILE], status, answer).values()
        assert result.status is None or 0 <= result.status <= 0xFFFF


def answers(content: bytes) -> None:
    """The model's words."""
    text = content.decode("utf-8", "replace")
    for dialect in (MEDREGA, *dialects()):
        parsed = read_boxes(dialect, text, 400, 300, "heart")
        for region in parsed.regions:
            assert region.box[0] < region.box[2]
            assert region.box[1] < region.box[3]
            assert all(0 <= first <= last <= len(text) for first, last in region.spans)
    for labels in label_sets().values():
        for complete in (True, False):
            named = parse_labels(text, labels, complete=complete).named
            assert all(0 <= one.span[0] <= one.span[1] <= len(text) for one in named)
    parse_report(text, "en")
    parse_report(text, "zh")
    parse_phrase(text)


def condition(content: bytes) -> None:
    """An expression of a rule."""
    parsed = Condition.parse(content.decode("utf-8", "replace"))
    if isinstance(parsed, list):
        assert parsed
        assert all(fault.line >= 1 and fault.column >= 1 for fault in parsed)
        return
    for facts in _FACTS:
        if parsed.holds(facts) is not True:
            assert parsed.why_not(facts)


def rules(content: bytes) -> None:
    """A file of rules."""
    parsed = parse_rules(content.decode("utf-8", "replace"), NAMES)
    if isinstance(parsed, list):
        assert parsed
        return
    for facts in _FACTS:
        decide(parsed, facts, "1.2.3")


def settings(content: bytes) -> None:
    """A file of settings."""
    path = _scratch() / "medrega-pacs.toml"
    path.write_bytes(content)
    with contextlib.suppress(SettingsError, NodeError):
        Settings.load(path)


def _parts(chunks: Iterator[bytes] | list[bytes]) -> list[object]:
    found: list[object] = []
    try:
        for part in read_parts(chunks, BOUNDARY):
            found.append(part.headers)
            found.append(b"".join(part.content))
    except MultipartError:
        found.append(None)
    return found


@cache
def _scratch() -> Path:
    return Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))  # noqa: S108


@cache
def _meta(syntax: str) -> bytes:
    return file_meta.encode(
        sop_class_uid=wire.CTImageStorage,
        sop_instance_uid="1.2.3",
        transfer_syntax_uid=syntax,
        implementation_class_uid="1.2.4",
        implementation_version="FUZZ",
        sending_aet="A",
        receiving_aet="B",
    )


@cache
def _conditions() -> list[Condition]:
    texts = ('modality == "CT" && age > 17', '"CHEST" in body_parts || images > 2', 'study_description.matches("^a+")')
    return [parsed for text in texts if isinstance(parsed := Condition.parse(text), Condition)]


_FILE = StoredFile(Path("none.dcm"), wire.CTImageStorage, "1.2.3", IMPLICIT, 0)
_FACTS = (
    Facts({"modality": "CT", "images": 3, "body_parts": ["CHEST", "HEAD"], "age": 40, "time": "18:30"}, {}),
    Facts({}, {"modality": "stands in no header of the study"}),
)


# Where to begin: all made here.


def _data_sets() -> list[bytes]:
    plain = wire.ct_image("1.2.3", "1.2.3.4", 64)
    explicit = b"\x08\0\x05\0CS\x0a\0ISO_IR 100\x08\0\x16\0UI\x04\x001.2\0\x08\0\x18\0UI\x04\x001.3\0" + (
        b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
        b"\x18\0\x20\x10LO\x0c\0medrega-pacs\x20\0\x0d\0UI\x04\x001.4\0\x20\0\x0e\0UI\x04\x001.5\0"
        b"\x20\0\x08\x12IS\x02\x0012\x28\0\x10\0US\x02\0\x04\0"
    )
    person = b"\x08\0\x60\0CS\x02\0CT\x08\0\x30\x10LO\x04\0abcd\x10\0\x10\x10AS\x04\x00045Y\x10\0\x40\0CS\x02\0F "
    return [b"\0" + plain, b"\1" + explicit, b"\1" + person, b"\2" + explicit, b"\3" + explicit, b"\0" + plain[:60]]


def _file_seeds() -> list[bytes]:
    return [b"\x40" + _meta(syntax) + wire.ct_image("1.2.3", "1.2.3.4", 40) for syntax in SYNTAXES[:2]]


def _multipart_seeds() -> list[bytes]:
    part = b"--cut\r\nContent-Type: application/dicom\r\n\r\nDICM\r\n--x\r\n"
    return [
        b"\7" + part + b"--cut--\r\n",
        b"\0\r\n" + part + part + b"--cut--",
        b"\3--cut \t\r\n\r\n\r\n--cut\r\n\r\n--cut--",
    ]


def _media_type_seeds() -> list[bytes]:
    return [
        b'multipart/related; type="application/dicom"; boundary=cut',
        b"application/dicom; transfer-syntax=*; q=0.5",
        b"multipart/related; boundary*0=a; boundary*1*=utf-8''b%20",
    ]


def _answer_seeds() -> list[bytes]:
    module = '{"00081199":{"vr":"SQ","Value":[{"00081155":{"vr":"UI","Value":["1.2.3"]}}]}}'
    failed = '{"00081198":{"Value":[{"00081155":{"Value":["1.2.3"]},"00081197":{"Value":[272]}}]}}'
    return [module.encode(), f"[{failed}]".encode()]


def _word_seeds() -> list[bytes]:
    return [
        text.encode()
        for text in (
            format_boxes("heart", [(1, 2, 30, 40), (5, 5, 9, 9)]) + ", " + format_boxes("左肺", [(0, 0, 999, 999)]),
            "Findings: clear lungs. Impression: normal.",
            "影像所见：未见异常。影像结论：正常",
            "Cardiomegaly, Edema and Pleural effusion",
            "heart[[1, 2, 3, 4], [5, 6, 7",
            '{"bbox_2d": [10, 20, 30, 40], "label": "heart"}',
            "<box>(1,2),(3,4)</box><loc0100><loc0200><loc0300><loc0400> heart",
            "<ref>a</ref><quad>[[1,2,3,4]]</quad>No finding",
        )
    ]


def _condition_seeds() -> list[bytes]:
    return [
        b'modality == "CT" && "CHEST" in body_parts',
        b'(age >= 18 || images > 2) && !(time < "07:00")',
        b'study_description.matches("(?i)thora[cx]") ? true : size(known) > 3',
        b'body_parts.exists(p, p.startsWith("CH")) && has(known)',
    ]


def _rule_seeds() -> list[bytes]:
    return [
        b'[[routes]]\nname = "ct"\nwhen = \'modality == "CT"\'\naction = "read"\npriority = "stat"\nplan = "chest"\n'
        b'destinations = ["pacs", { name = "ris", profile = "sr", languages = ["en"] }]\nsample = 50\n',
        b'[[routes]]\nname = "rest"\naction = "forward"\ndestinations = ["pacs"]\n',
        b'routes = [{ name = "a", when = """\nimages > 2 &&\nage < 3""" }]',
    ]


def _setting_seeds() -> list[bytes]:
    return [
        b'[listener]\naet = "A"\nport = 11113\naddresses = ["10.0.0.0/8"]\n[limits]\n[routing]\ntime_zone = "UTC"\n',
        b'[[destinations]]\nname = "pacs"\naet = "PACS"\nhost = "127.0.0.1"\nport = 104\n[[entries]]\naet = "E"\n',
        b'[dicomweb]\nenabled = true\n[front]\nurl = "https://a.example"\n[[dicomweb_users]]\nname = "u"\n',
    ]


def _command_seeds() -> list[bytes]:
    request = wire.store_rq("1.2.3")
    parsed = StoreRequest.parse(request)
    assert parsed is not None
    answer = wire.data(wire.item(1, 3, StoreRequest(7, wire.CTImageStorage, "1.2.3").response(0, "fine")))
    return [request, answer, wire.echo_rq(), wire.data(wire.item(1, 3, parsed.response(0xB000)))]


TARGETS = {
    "command": Target(store_request, _command_seeds),
    "header": Target(header, _data_sets),
    "routed-header": Target(routed_header, _data_sets),
    "part-10": Target(part_10, _file_seeds),
    "multipart": Target(multipart, _multipart_seeds),
    "media-type": Target(media_type, _media_type_seeds),
    "store-answer": Target(store_answer, _answer_seeds),
    "answers": Target(answers, _word_seeds),
    "condition": Target(condition, _condition_seeds),
    "rules": Target(rules, _rule_seeds),
    "settings": Target(settings, _setting_seeds),
}
