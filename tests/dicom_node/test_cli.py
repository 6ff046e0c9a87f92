"""The command line: help, exit status, and errors in one line."""

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pydicom
import pytest
from fronts import stored
from pydicom.data import get_testdata_file
from typer.main import get_command

from dicom_node.cli import main
from dicom_node.cli.app import app
from dicom_node.dimse.receiver import Receiver
from dicom_node.ledger import Ledger
from dicom_node.ledger.records import EventRecord, ReceivedInstance
from dicom_node.settings import Settings
from dicom_node.spool import Spool

Run = Callable[..., tuple[int, str, str]]

CT = str(get_testdata_file("CT_small.dcm"))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``medrega-pacs`` in an empty folder; gives exit status, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("rich.console.Console.is_terminal", False)

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["medrega-pacs", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return command


def commands() -> list[tuple[str, ...]]:
    found = []
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        if hasattr(command, "commands"):
            found += [(name, inner) for inner in command.commands]
        else:
            found.append((name,))
    return found


def test_every_command_of_the_plan_is_there() -> None:
    assert {" ".join(command) for command in commands()} == {
        "up", "listen", "worker", "read", "send", "echo", "pull", "worklist", "studies", "study",
        "retry", "cancel", "reread", "retract",
        "hold", "release", "push", "pause", "resume", "purge", "export",
        "phantom", "demo", "doctor", "commission", "console user",
        "config show", "config check", "config passcode", "version",
        "engine ask", "engine info", "engine check", "engine compile",
        "engine export", "engine evaluate", "engine bench",
        "audit verify",
        "reviews export",
        "ledger version", "ledger upgrade", "ledger downgrade", "ledger backup", "ledger restore", "ledger rekey",
        "destinations pause", "destinations resume", "destinations probe",
        "plan list", "plan show", "plan check", "plan which",
        "route test", "route list", "route check", "route off", "route shadow", "route on",
    }  # fmt: skip


@pytest.mark.parametrize("command", [(), *commands()], ids=" ".join)
def test_help_shows_an_example(run: Run, command: tuple[str, ...]) -> None:
    status, out, _ = run(*command, "--help")
    assert status == 0
    assert "Examples" in out
    assert f"medrega-pacs {' '.join(command)}" in out.split("Examples")[1]


def test_help_and_version_load_no_heavy_library(run: Run) -> None:
    code = (
        "import sys; sys.argv = ['medrega-pacs', 'version']\n"
        "from dicom_node.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'pynetdicom', 'celery', 'sqlalchemy', 'highdicom', 'onnxruntime'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"
    assert run("version")[0] == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("send", CT),
        ("send", "missing.dcm", "--to", "A@localhost:104"),
        ("send", CT, "--to", "A@localhost"),
        ("echo", "nobody"),
        ("read", CT, "--out", "x", "--language", "fr"),
        ("studies", "--state", "LOST"),
        ("phantom", "--out", "x", "--count", "0"),
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_2(run: Run, arguments: tuple[str, ...]) -> None:
    status, _, err = run(*arguments)
    assert status == 2
    assert "Usage" in err


def test_files_are_sent_and_counted(run: Run, tmp_path: Path) -> None:
    with Receiver(tmp_path / "got") as receiver:
        status, out, _ = run("send", CT, "--to", str(receiver.peer))
        assert (status, out.strip()) == (0, f"1 of 1 files stored at {receiver.peer}")
        assert len(receiver.files) == 1
        Path("notes.txt").write_text("no image")
        status, _, err = run("send", CT, "notes.txt", "--to", str(receiver.peer))
        assert status == 1
        assert "notes.txt: not a DICOM file\n" in err


def test_a_destination_is_known_by_its_name(run: Run, tmp_path: Path) -> None:
    with Receiver(tmp_path / "got") as receiver:
        Path("medrega-pacs.toml").write_text(
            f'[[destinations]]\nname = "pacs"\naet = "PACS"\nport = {receiver.peer.port}\n'
        )
        status, out, _ = run("echo", "pacs")
        assert status == 0
        assert "answered in" in out


def test_a_wrong_setting_is_one_line_with_advice(run: Run) -> None:
    Path("medrega-pacs.toml").write_text("[listener]\nprt = 1\n")
    status, out, err = run("config", "check")
    assert (status, out) == (1, "")
    assert err.strip().splitlines() == [
        "medrega-pacs: settings of medrega-pacs.toml: unknown setting listener.prt (did you mean listener.port?)"
    ]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[engine]\nmodel = "nowhere"\n', "engine.model: there is no model at nowhere"),
        ('[engine]\ncalibration = "none.json"\n', "the calibration file none.json cannot be read"),
        ('[engine]\nrefiner = "none.toml"\n', "none.toml"),
        ('[broker]\nurl = "http://user:SECRET@host"\n', "broker.url is no URL of a Redis"),
        ('[ledger]\nurl = "nonsense://SECRET"\n', "ledger.url cannot be used"),
    ],
)
def test_a_check_finds_what_a_node_would_fail_at(run: Run, text: str, named: str) -> None:
    Path("medrega-pacs.toml").write_text(text)
    status, out, err = run("config", "check")
    assert (status, out) == (1, "")
    assert named in err
    assert "SECRET" not in err


def test_shown_settings_give_themselves_again_and_hide_secrets(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a.toml").write_text('[completion.per_calling_aet]\nCT1 = 90.5\n[[destinations]]\nname="p"\naet="P"\nport=1\n')
    status, out, _ = run("config", "show", "--config", "a.toml")
    assert status == 0
    Path("b.toml").write_text(out)
    assert run("config", "show", "--config", "b.toml")[1] == out
    monkeypatch.setenv("MEDREGA_PACS__BROKER__URL", "rediss://:secret@broker/0")
    assert "secret" not in run("config", "show")[1]


def test_an_error_that_nobody_foresaw_is_one_line_without_values(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("ZZTOP^PHI")

    monkeypatch.setattr("dicom_node.dimse.scu.echo", fail)
    status, _, err = run("echo", "A@localhost:104")
    assert status == 1
    assert len(err.strip().splitlines()) == 1
    assert "internal error ValueError" in err
    assert "ZZTOP" not in err


def test_ctrl_c_ends_with_1_and_no_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dicom_node.dimse.scu.echo", interrupted)
    status, _, err = run("echo", "A@localhost:104")
    assert status == 1
    assert "Traceback" not in err


def test_studies_need_a_node_that_has_run(run: Run) -> None:
    status, _, err = run("studies")
    assert status == 1
    assert "no node has run here" in err


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that finds a disc in every image."""
    answers = {
        "Please locate <ref>disc</ref>, ": "<ref>disc</ref><box>[[100, 200, 300, 500]]</box>",
        "What is <ref>this</ref>": "disc",
        "图中<ref>这个区域</ref>": "圆盘",
        "影像结论": "影像诊断：圆盘。影像结论：圆盘。",
    }
    script = {"answers": answers, "default": "Findings: A disc. Impression: disc."}
    (tmp_path / "script.json").write_text(json.dumps(script), encoding="utf-8")
    monkeypatch.setenv("MEDREGA_PACS__ENGINE__RUNTIME", "scripted")
    monkeypatch.setenv("MEDREGA_PACS__ENGINE__MODEL", str(tmp_path / "script.json"))


@pytest.mark.usefixtures("scripted")
def test_reading_a_folder_gives_a_folder_a_study(run: Run) -> None:
    assert run("phantom", "--out", "phantoms", "--count", "2")[0] == 0
    truth = json.loads(Path("phantoms/truth.json").read_text())
    status, out, err = run("read", "phantoms", "--out", "results")
    assert status == 0, err
    assert out.count("1 finding, 1 image read") == 2
    folders = list(Path("results").iterdir())
    assert len(folders) == len(truth) == 2
    for folder in folders:
        names = {path.name for path in folder.iterdir()}
        assert {"sr.dcm", "seg.dcm", "overlay.png", "report.txt", "reading.json"} <= names
        assert pydicom.dcmread(folder / "sr.dcm").StudyInstanceUID == folder.name
        text = (folder / "report.txt").read_text(encoding="utf-8")
        assert "disc" in text
        assert "圆盘" in text


@pytest.mark.usefixtures("scripted")
def test_one_language_can_be_asked_for(run: Run) -> None:
    assert run("read", CT, "--out", "results", "--language", "zh")[0] == 0
    (folder,) = Path("results").iterdir()
    assert not (folder / "narrative-en.dcm").exists()
    assert "圆盘" in (folder / "report.txt").read_text(encoding="utf-8")


@pytest.mark.usefixtures("scripted")
def test_what_cannot_be_read_is_named_and_the_rest_is_read(run: Run) -> None:
    Path("notes.txt").write_text("no image")
    report = str(get_testdata_file("test-SR.dcm"))
    status, out, err = run("read", "notes.txt", report, CT, "--out", "results")
    assert status == 1
    assert "notes.txt: the file is not DICOM" in err
    assert "no plan exists for this study" in err
    assert out.count("1 finding, 1 image read") == 1
    assert run("read", "notes.txt", "--out", "results")[0] == 1


def test_a_model_that_is_not_there_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDREGA_PACS__ENGINE__MODEL", "nowhere")
    status, _, err = run("read", CT, "--out", "results")
    assert status == 1
    assert "there is no model at nowhere" in err


@pytest.fixture
def ledger(run: Run) -> Iterator[Ledger]:  # noqa: ARG001 - it changes to an empty folder
    """The ledger of the working folder's node, with one study of two images."""
    opened = Ledger.open(Settings.load())
    for number in (1, 2):
        opened.intake.record(
            ReceivedInstance("1.2.3", "1.2.4", f"1.2.5.{number}", "1.2.6", "1.2.840.10008.1.2", "CT1", f"{number}.dcm")
        )
    yield opened
    opened.close()


@pytest.mark.usefixtures("ledger")
def test_a_study_is_listed_shown_cancelled_and_tried_again(run: Run) -> None:
    status, out, _ = run("studies")
    assert status == 0
    assert re.search(r"1\.2\.3 +RECEIVING +\d+ s +2 +CT1", out)
    assert run("studies", "--state", "failed")[1] == "no studies\n"
    assert json.loads(run("studies", "--json")[1])[0]["state"] == "RECEIVING"
    assert run("cancel", "1.2.3")[1] == "the study is CANCELLED\n"
    status, out, _ = run("study", "1.2.3")
    assert status == 0
    assert "RECEIVING -> CANCELLED" in out
    assert "cancelled on request" in out
    assert json.loads(run("study", "1.2.3", "--json")[1])["runs"][0]["instances"] == 2
    status, _, err = run("cancel", "1.2.3")
    assert status == 1
    assert "nothing is under way" in err
    assert "retract" in err
    assert run("retry", "1.2.3")[1] == "the study is RECEIVING\n"


@pytest.mark.usefixtures("ledger")
def test_a_study_is_held_released_and_pushed_by_hand(run: Run) -> None:
    assert "is held" in run("hold", "1.2.3", "--reason", "being corrected")[1]
    assert "\n    held by hand since" in run("studies")[1]
    shown = run("study", "1.2.3")[1]
    assert "being corrected" in shown
    assert "held by hand since" in shown
    status, _, err = run("push", "1.2.3")
    assert status == 1
    assert "medrega-pacs release 1.2.3" in err
    assert run("hold", "1.2.3")[0] == 1
    assert "the study is RECEIVING" in run("release", "1.2.3")[1]
    assert run("release", "1.2.3")[0] == 1
    assert "the study is COMPLETE" in run("push", "1.2.3")[1]
    assert run("push", "1.2.9")[0] == 1


def test_a_study_s_count_is_shown(run: Run, ledger: Ledger) -> None:
    ledger.expectations.answered("1.2.3", "archive", 300)
    assert "300 images in all, says archive" in run("study", "1.2.3")[1]
    assert json.loads(run("study", "1.2.3", "--json")[1])["expected"] == 300


def test_results_of_a_study_are_told_with_their_run_and_destination(run: Run, ledger: Ledger) -> None:
    stored(ledger, Spool(Settings.load().data.path), ["pacs"], study="1.2.9")
    assert re.search(r"^ 1 +seg +pacs +PENDING +0", run("study", "1.2.9")[1], re.MULTILINE)
    ledger.destinations.pause("pacs")
    assert re.match(r"pacs is paused since .*; 2 results wait\n", run("studies")[1])


@pytest.mark.usefixtures("ledger")
def test_pauses_are_told_with_the_studies(run: Run) -> None:
    assert run("pause", "reading", "--reason", "new model")[1] == "reading is paused; resume lets it go on\n"
    assert run("pause", "reading")[1] == "reading was paused already\n"
    out = run("studies")[1]
    assert out.startswith("reading is paused since")
    assert "(new model)" in out.splitlines()[0]
    assert json.loads(run("studies", "--json")[1])
    assert run("resume", "reading")[1] == "reading goes on\n"
    assert "paused" not in run("studies")[1]
    assert run("pause", "everything")[0] == 2


def test_all_failed_studies_are_shown_and_tried_again(run: Run, ledger: Ledger) -> None:
    assert run("retry", "--all")[1] == "no study is FAILED\n"
    ledger.intake.push("1.2.3")
    ledger.cancel("1.2.3")
    everything = ("retry", "--all", "--state", "CANCELLED")
    assert run(*everything, "--older-than", "2h")[1] == "no study is CANCELLED for 2 h\n"
    out = re.sub(r"\d+ s\b", "N s", run(*everything)[1])
    assert "1 study CANCELLED:\n      1  for N s to N s: cancelled on request\nnothing was changed" in out
    assert "1 study to be read or delivered again" in run(*everything, "--yes")[1]
    assert ledger.studies()[0].state == "COMPLETE"
    assert run("retry")[0] == run("retry", "1.2.3", "--all")[0] == run(*everything, "--older-than", "soon")[0] == 2
    assert run("retry", "--all", "--state", "READING")[0] == 2


def test_the_longest_uid_is_listed_whole(run: Run, ledger: Ledger) -> None:
    uid = "1.2." + "3" * 60
    ledger.intake.record(ReceivedInstance(uid, "1.2.4", "1.2.7", "1.2.6", "1.2.840.10008.1.2", "CT1", "x.dcm"))
    assert uid in run("studies")[1]
    ledger.cancel(uid)
    assert f"{uid}  CANCELLED" in run("studies")[1]
    assert "\n    cancelled on request\n" in run("studies")[1]


def test_what_happened_to_each_result_alike_is_told_once(
    run: Run, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = EventRecord(datetime.now(UTC), None, "delivery", None, None, "pacs: failed: no answer")
    record = replace(ledger.study("1.2.3"), events=(failed, failed, failed, replace(failed, reason="pacs: other")))
    monkeypatch.setattr(Ledger, "study", lambda *_: record)
    out = run("study", "1.2.3")[1]
    assert out.count("no answer") == 1
    assert "no answer (3 times)" in out
    assert "pacs: other" in out


def test_studies_of_an_empty_ledger(run: Run) -> None:
    Path("medrega-data").mkdir()
    assert run("studies")[:2] == (0, "no studies\n")
    assert json.loads(run("studies", "--json")[1]) == []
    status, _, err = run("study", "1.2.3")
    assert status == 1
    assert "1.2.3" in err


def test_an_account_is_made_before_the_node_first_ran_and_has_its_role_until_it_is_removed(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("a long enough password\n"))
    assert run("console", "user", "add", "kim", "--role", "reviewer")[0] == 0
    assert (tmp_path / "medrega-data").stat().st_mode & 0o077 == 0
    assert run("console", "user", "role", "kim", "administrator")[0] == 0
    assert re.search(r"^kim +administrator +since", run("console", "user", "list")[1], re.MULTILINE)
    assert "0 sessions" in run("console", "user", "sign-out", "kim")[1]
    assert run("console", "user", "remove", "kim")[0] == 0
    assert "no accounts" in run("console", "user", "list")[1]
    assert run("console", "user", "remove", "kim")[0] == 1
    assert run("audit", "verify")[0] == 0
