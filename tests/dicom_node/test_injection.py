"""What a sender writes stays what it wrote: in logs, pages, header fields, names of files, at terminals, in syslog."""

from __future__ import annotations

from pathlib import Path

import pytest
from console_client import PASSWORD, Console, csrf
from listener_bench import Scp
from node_bench import image, received, wait_until, written
from structlog.testing import capture_logs
from study_bench import StudyBench, corners, finding, reading_of
from typer.testing import CliRunner
from wire import Wire, associate_rq

from dicom_node.cli.app import app
from dicom_node.console.accounts import Role

BREAKS = '"\r\nX-Evil: 1\r\n\r\n<script>alert(1)</script>'


@pytest.mark.parametrize("title", ["\x1b[2J\x1b[31mX", "a\r\nb", "\x7f\x80\xff", " ", "A\\B", "a\0b"])
def test_a_title_that_is_none_is_let_in_nowhere(tmp_path: Path, title: str) -> None:
    with Scp(tmp_path) as scp, Wire(scp.port) as wire:
        wire.send(associate_rq(calling=title))
        assert wire.receive()[0] == 7


@pytest.mark.parametrize("title", ["<b>x</b>", "[red]x[/red]", "=1+1", "'; DROP", "../..", '"],"x'])
def test_a_title_with_meaning_elsewhere_is_a_name(
    console: Console, title: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    console.ledger.intake.record(received(aet=title))
    with capture_logs() as logs, Scp(console.settings.data.path / "scp") as scp:
        with Wire(scp.port) as wire:
            wire.send(associate_rq(calling=title))
            assert wire.receive()[0] == 2
        assert wait_until(lambda: title in [entry.get("calling_aet") for entry in logs])
    text = console.signed_in(Role.VIEWER).get("/study/1.2.3").text
    assert "<b>x" not in text
    for name, value in console.settings.to_environment().items():
        monkeypatch.setenv(name, value)
    assert title in CliRunner().invoke(app, ["studies"]).stdout


def test_no_field_of_an_answer_holds_what_was_asked_for(console: Console) -> None:
    bench = StudyBench(console.ledger, console.spool)
    dataset = corners(32, 32)
    study = bench.receive(dataset)
    bench.read(reading_of([dataset], finding(dataset, (8, 16, 12, 20))))
    result = console.ledger.study(study).results[0]
    browser = console.signed_in()
    answer = browser.get(f"/study/{study}/result/{result.sop_instance_uid}")
    assert (
        answer.headers["content-disposition"] == f'attachment; filename="{result.kind}-{result.sop_instance_uid}.dcm"'
    )
    for path in (f"/study/{study}/result/", "/study/", "/static/", f"/study/{study}/picture/", "/routes/"):
        answer = browser.get(path + BREAKS.replace("\r", "%0d").replace("\n", "%0a"), follow_redirects=False)
        assert answer.status_code in (404, 405), path
        assert "x-evil" not in answer.headers
        assert "<script>alert" not in answer.text
    for path in ("../page.py", "%2e%2e/application.py", "..%2f..%2fnode.py", "/etc/passwd", "%2fetc%2fpasswd", "%00"):
        assert browser.get(f"/static/{path}").status_code == 404, path
    stranger = console.client()
    data = {"name": "administrator", "password": PASSWORD, "next": "/routes" + BREAKS, "csrf": csrf(stranger)}
    assert stranger.post("/sign-in", data=data, follow_redirects=False).headers["location"] == "/"
    assert "<script>alert" not in stranger.get("/sign-in", params={"next": "/" + BREAKS}).text


@pytest.mark.parametrize("number", ["9" * 30, "1" * 5000, "-1", "\u0661", "%00"])
def test_numbers_without_end_are_none(console: Console, number: str) -> None:
    study = StudyBench(console.ledger, console.spool).receive(corners(32, 32))
    browser = console.signed_in(Role.VIEWER)
    assert browser.get(f"/study/{study}/image/1.2/{number}").status_code == 404
    assert browser.get("/", params={"page": number}).status_code == 200
    query = dict.fromkeys(("image", "frame", "center", "width"), number)
    assert browser.get(f"/study/{study}", params=query).status_code == 200


def test_an_address_that_a_proxy_makes_up_is_cut(tmp_path: Path) -> None:
    console = Console(tmp_path, console={"proxies": ["127.0.0.1"]})
    try:
        browser = console.client()
        data = {"name": "x", "password": "y", "csrf": csrf(browser)}
        answer = browser.post("/sign-in", data=data, headers={"X-Forwarded-For": "<b>" * 500})
        assert answer.status_code == 401
        (trail,) = (tmp_path / "data" / "audit").glob("*.jsonl")
        assert ("&lt;b&gt;" * 22)[:60] in trail.read_text()
        assert "<b>" not in trail.read_text()
        assert len(trail.read_text()) < 3000
    finally:
        console.close()


def test_a_file_s_name_is_no_command_of_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / "\x1b[2J\x1b]0;evil\x07.dcm"
    path.write_bytes(b"nothing")
    done = CliRunner().invoke(app, ["read", str(path), "--out", str(tmp_path / "out")])
    assert done.exit_code != 0
    assert "\x1b" not in done.stderr
    assert "\x07" not in done.stderr


@pytest.mark.parametrize("uid", ["../../evil", "/evil/folder", "1.2/../3", "..", "1.2\\..\\3"])
def test_a_uid_that_is_a_path_makes_no_folder(tmp_path: Path, uid: str) -> None:
    written(tmp_path / "in", image(study="1.2.3"))
    (file,) = (tmp_path / "in").iterdir()
    content = file.read_bytes()
    at = content.rindex(b"\x20\x00\x0d\x00UI")
    length = len(uid) + len(uid) % 2
    named = content[: at + 6] + length.to_bytes(2, "little") + uid.encode().ljust(length, b"\0")
    file.write_bytes(named + content[at + 8 + int.from_bytes(content[at + 6 : at + 8], "little") :])
    done = CliRunner().invoke(app, ["read", str(tmp_path / "in"), "--out", str(tmp_path / "a" / "b")])
    assert done.exit_code == 1
    assert "StudyInstanceUID is not a UID" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]
