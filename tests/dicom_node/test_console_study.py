"""The study page over HTTP: what it shows to whom, what it lets whom do, and that words of headers stay words."""

from __future__ import annotations

import re
import socket

import httpx
import pytest
from console_client import Console, csrf
from node_bench import image
from study_bench import StudyBench, corners, finding, reading_of

from dicom_node.ledger import DeliveryState, State
from dicom_node.ledger.accounts import Role
from dicom_node.ledger.records import Outcome
from engine.errors import NodeError

HOSTILE = "<script>alert(1)</script>^\u202eأحمد=山田^e\u0301"


@pytest.fixture
def bench(console: Console) -> StudyBench:
    return StudyBench(console.ledger, console.spool)


def post(client: httpx.Client, study: str, what: str, **form: str) -> int:
    """Send a form as the page itself does; the status."""
    page = f"/study/{study}"
    answer = client.post(f"{page}/{what}", data={"csrf": csrf(client, page), **form}, follow_redirects=False)
    return answer.status_code


def test_words_of_a_header_stay_words(bench: StudyBench, console: Console) -> None:
    dataset = corners(32, 32, patient=HOSTILE, StudyDescription='"><img src=x onerror=alert(1)>')
    study = bench.receive(dataset)
    bench.read(reading_of([dataset], finding(dataset, (8, 16, 12, 20), names={"en": "<b>Disc</b>"})))
    answer = console.signed_in(Role.VIEWER).get(f"/study/{study}")
    assert answer.status_code == 200
    assert "&lt;script&gt;alert(1)&lt;/script&gt; \u202eأحمد" in answer.text
    assert '<bdi class="name">山田 e\u0301</bdi>' in answer.text
    assert "<script>alert" not in answer.text
    assert "<img" not in answer.text
    assert "<b>Disc" not in answer.text
    assert answer.headers["cache-control"] == "no-store"


def test_what_can_be_done_is_offered_to_administrators_alone(bench: StudyBench, console: Console) -> None:
    study = bench.receive(corners(32, 32))
    viewer, administrator = console.signed_in(Role.VIEWER), console.signed_in(Role.ADMINISTRATOR)
    assert "/cancel" in administrator.get(f"/study/{study}").text
    assert "/cancel" not in viewer.get(f"/study/{study}").text
    assert post(viewer, study, "cancel") == 403
    assert administrator.post(f"/study/{study}/cancel").status_code == 403  # not from the page
    assert [post(administrator, study, what) for what in ("hold", "push", "release", "push")] == [303, 409, 303, 303]
    assert post(administrator, study, "cancel") == 303
    assert bench.ledger.study(study).runs[-1].state is State.CANCELLED
    assert post(administrator, study, "retry") == 303
    assert bench.ledger.study(study).runs[-1].state is State.COMPLETE
    assert post(administrator, study, "retry") == 409


def test_a_study_is_read_again_and_withdrawn_from_its_page(bench: StudyBench, console: Console) -> None:
    dataset = corners(32, 32)
    study = bench.receive(dataset)
    claim = bench.read(reading_of([dataset]), ["pacs"])
    (due,) = bench.ledger.deliveries.claim(claim.run_id, "pacs", "elsewhere:1:1", 60)
    sent = [Outcome(due.id, DeliveryState.DELIVERED, 0, "")]
    bench.ledger.deliveries.finish(claim.run_id, "pacs", "elsewhere:1:1", sent)
    administrator = console.signed_in(Role.ADMINISTRATOR)
    page = administrator.get(f"/study/{study}").text
    assert "/retract" in page
    assert "pacs: 1 delivered" in page
    assert post(administrator, study, "retract", reason="nonsense") == 409
    assert post(administrator, study, "retract", reason="safety") == 409  # the bench's result is no DICOM
    assert post(administrator, study, "reread", plan="nonsense") == 409
    assert post(administrator, study, "reread", plan="phantom") == 303
    assert [run.plan for run in bench.ledger.study(study).runs] == ["phantom", "phantom"]


def test_a_picture_comes_with_its_window_or_with_the_reason_why_not(bench: StudyBench, console: Console) -> None:
    good, bad = corners(32, 32), image(PixelData=b"\0\0")
    study = bench.receive(good)
    other = bench.receive(bad)
    viewer = console.signed_in(Role.VIEWER)
    own = viewer.get(f"/study/{study}/image/{good.SOPInstanceUID}/1")
    assert (own.status_code, own.headers["content-type"], own.headers["cache-control"]) == (
        200,
        "image/png",
        "no-store",
    )
    dark = viewer.get(f"/study/{study}/image/{good.SOPInstanceUID}/1?center=1000&width=10")
    assert dark.content != own.content
    refused = viewer.get(f"/study/{other}/image/{bad.SOPInstanceUID}/1")
    assert (refused.status_code, refused.text[:30]) == (422, "the pixels cannot be decoded (")
    assert viewer.get(f"/study/{study}/image/{bad.SOPInstanceUID}/1").status_code == 404
    assert viewer.get(f"/study/{study}/image/{good.SOPInstanceUID}/2").status_code == 422
    assert viewer.get(f"/study/{study}?image=x&frame=-1&center=nan&width=inf").status_code == 200


def test_a_result_is_given_out_as_it_is_sent_or_not_at_all(bench: StudyBench, console: Console) -> None:
    dataset = corners(32, 32)
    study = bench.receive(dataset)
    bench.read(reading_of([dataset]))
    viewer = console.signed_in(Role.VIEWER)
    answer = viewer.get(f"/study/{study}/result/1.2.3.99")
    assert (answer.content, answer.headers["content-type"]) == (b"result of the bench", "application/dicom")
    assert 'filename="sr-1.2.3.99.dcm"' in answer.headers["content-disposition"]
    assert viewer.get(f"/study/{study}/result/1.2.3").status_code == 404
    bench.spool.path(bench.ledger.study(study).results[0].path).write_bytes(b"another")
    assert viewer.get(f"/study/{study}/result/1.2.3.99").status_code == 404


def test_a_page_that_is_open_tells_of_a_new_reading(bench: StudyBench, console: Console) -> None:
    dataset = corners(32, 32)
    study = bench.receive(dataset)
    viewer = console.signed_in(Role.VIEWER)
    page = viewer.get(f"/study/{study}").text
    poll = re.search(r'hx-get="([^"]+)" hx-trigger="every', page)
    assert poll is not None
    address, headers = poll[1].replace("&amp;", "&"), {"HX-Request": "true", "HX-Target": "progress"}
    assert viewer.get(address, headers=headers).status_code == 204
    bench.read(reading_of([dataset]))
    assert "There is a new reading" in viewer.get(address, headers=headers).text
    page = viewer.get(f"/study/{study}").text
    assert "There is a new reading" not in page
    assert "every 3s" not in page


def test_a_report_of_ten_thousand_lines_is_there_in_full(bench: StudyBench, console: Console) -> None:
    dataset = corners(32, 32)
    study = bench.receive(dataset)
    report = "\n".join(f"Line {number} <i>" for number in range(10_000))
    bench.read(reading_of([dataset], narrative={"en": report}))
    viewer = console.signed_in(Role.VIEWER)
    page = viewer.get(f"/study/{study}").text
    assert "Line 9999 &lt;i&gt;" in page
    part = viewer.get(f"/study/{study}", headers={"HX-Request": "true", "HX-Target": "viewer"}).text
    assert 'id="viewer"' in part
    assert "Line" not in part  # going from image to image does not bring it each time


def test_the_page_speaks_chinese(bench: StudyBench, console: Console) -> None:
    dataset = corners(32, 32)
    study = bench.receive(dataset)
    bench.read(reading_of([dataset], finding(dataset, (8, 16, 12, 20))))
    page = (
        console.signed_in(Role.ADMINISTRATOR).get(f"/study/{study}", headers={"Accept-Language": "zh-CN,zh;q=0.9"}).text
    )
    assert ">圆盘</text>" in page
    assert "按以下方案重新阅片" in page


def test_what_is_not_there_is_not_found(bench: StudyBench, console: Console) -> None:
    viewer = console.signed_in(Role.VIEWER)
    assert viewer.get("/study/1.2.3").status_code == 404
    assert viewer.get("/study/..%2f..%2fetc").status_code == 404
    with pytest.raises(NodeError):
        bench.ledger.study("1.2.3")
    viewer.cookies.clear()
    assert viewer.get("/study/1.2.3", follow_redirects=False).headers["location"] == "/sign-in?next=/study/1.2.3"


def test_a_browser_that_goes_away_takes_nothing_with_it(bench: StudyBench, console: Console) -> None:
    dataset = corners(2000, 2000)
    study = bench.receive(dataset)
    viewer = console.signed_in(Role.VIEWER)
    cookie = "; ".join(f"{name}={value}" for name, value in viewer.cookies.items())
    where = f"/study/{study}/image/{dataset.SOPInstanceUID}/1"
    for _ in range(6):
        with socket.create_connection(("127.0.0.1", console.settings.console.port)) as gone:
            gone.sendall(f"GET {where} HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\r\n".encode())
    assert viewer.get(where).status_code == 200
