"""``destinations``: what it lists, and a destination held back, let go and asked."""

import json
import sys
from pathlib import Path

import pytest
from ports import free_port

from dicom_node.cli.app import main
from dicom_node.dimse.receiver import Receiver
from dicom_node.ledger import Ledger
from dicom_node.ledger.records import Contact
from dicom_node.settings import Settings

# pynetdicom drops a socket whose connection was refused without closing it.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"
)


def test_destinations_are_listed_paused_resumed_and_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    config = tmp_path / "medrega-pacs.toml"
    config.write_text(
        f'[data]\npath = "{tmp_path / "data"}"\n[delivery]\nassociation_timeout_seconds = 2\n'
        f'[[destinations]]\nname = "pacs"\naet = "PACS"\nport = {port}\n'
    )
    ledger = Ledger.open(Settings.load(config))

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["medrega-pacs", "destinations", *arguments, "--config", str(config)])
        try:
            main()
            status = 0
        except SystemExit as ended:
            status = int(ended.code or 0)
        captured = capsys.readouterr()
        return status, captured.out + captured.err

    try:
        ledger.destinations.probed("pacs", Contact(answered=False, reason="PACS cannot be reached"))
        status, listed = run()
        assert status == 0
        assert f"PACS@127.0.0.1:{port}" in listed
        assert "PACS cannot be reached" in listed
        assert run("pause", "pacs") == (0, "pacs is paused\n")
        (record,) = json.loads(run("--json")[1])
        assert (record["name"], record["circuit"], record["waiting"]) == ("pacs", "closed", 0)
        assert record["paused_at"]
        assert run("resume", "pacs")[0] == 0
        assert run("resume", "pacs")[0] == 1
        assert run("pause", "pcas")[1].endswith("(did you mean pacs?)\n")
        status, said = run("probe", "pacs")
        assert status == 1
        assert "cannot be reached" in said
        with Receiver(tmp_path / "got", port=port):
            status, said = run("probe", "pacs")
        assert status == 0
        assert "answered in" in said
        (found,) = ledger.destinations.all(["pacs"])
        assert found.answered_at is not None
    finally:
        ledger.close()
