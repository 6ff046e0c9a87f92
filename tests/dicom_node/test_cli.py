"""The command line: help, exit status, and errors in one line."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file
from typer.main import get_command

from dicom_node.cli import main
from dicom_node.cli.app import app
from dicom_node.receiver import Receiver

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
        "up", "listen", "worker", "read", "send", "echo", "studies", "study", "retry", "cancel", "phantom", "demo",
        "config show", "config check", "version",
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
        assert "notes.txt: not a DICOM file" in err


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


def test_shown_settings_give_themselves_again_and_hide_secrets(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a.toml").write_text('[completion.per_calling_aet]\nCT1 = 90.5\n[[destinations]]\nname="p"\naet="P"\nport=1\n')
    status, out, _ = run("config", "show", "--config", "a.toml")
    assert status == 0
    Path("b.toml").write_text(out)
    assert run("config", "show", "--config", "b.toml")[1] == out
    monkeypatch.setenv("MEDREGA_PACS__BROKER__URL", "redis://:secret@broker/0")
    assert "secret" not in run("config", "show")[1]


def test_an_error_that_nobody_foresaw_is_one_line_without_values(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError("ZZTOP^PHI")

    monkeypatch.setattr("dicom_node.scu.echo", fail)
    status, _, err = run("echo", "A@localhost:104")
    assert status == 1
    assert len(err.strip().splitlines()) == 1
    assert "internal error ValueError" in err
    assert "ZZTOP" not in err


def test_ctrl_c_ends_with_1_and_no_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dicom_node.scu.echo", interrupted)
    status, _, err = run("echo", "A@localhost:104")
    assert status == 1
    assert "Traceback" not in err


def test_studies_need_a_node_that_has_run(run: Run) -> None:
    status, _, err = run("studies")
    assert status == 1
    assert "no node has run here" in err


def test_studies_of_an_empty_ledger(run: Run) -> None:
    Path("medrega-data").mkdir()
    assert run("studies")[:2] == (0, "no studies\n")
    assert json.loads(run("studies", "--json")[1]) == []
    status, _, err = run("study", "1.2.3")
    assert status == 1
    assert "1.2.3" in err
