"""``echo`` and ``send`` over TLS, ``config check`` of certificates, ``config passcode``."""

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from certificates import Authority
from listener_bench import Scp
from node_bench import image, written

from dicom_node.cli import main
from dicom_node.passwords import HashedPassword

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["medrega-pacs", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return command


def test_echo_and_send_go_over_tls_as_settings_or_options_say(run: Run, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    node, peer = authority.issue("node"), authority.issue("peer")
    path = written(tmp_path, image())
    with Scp(tmp_path, tls=peer.tls(authority.ca)) as scp:
        own = f'certificate = "{node.certificate}"\nkey = "{node.key}"\nca = "{authority.ca}"\n'
        destination = f'[[destinations]]\nname = "pacs"\naet = "MEDREGA"\nport = {scp.port}\ntls = true\n'
        (tmp_path / "medrega-pacs.toml").write_text(f"[tls]\n{own}{destination}")
        to = f"MEDREGA@127.0.0.1:{scp.port}"
        assert run("echo", "pacs")[0] == 0
        assert run("send", path, "--to", "pacs")[0] == 0
        assert run("send", path, "--to", to, "--tls")[0] == 0
        assert scp.ledger.studies()[0].instances == 1
        (tmp_path / "medrega-pacs.toml").unlink()
        shown = ["--tls-certificate", node.certificate, "--tls-key", node.key]
        assert run("echo", to, "--tls-ca", authority.ca, *shown)[0] == 0
        assert run("echo", to, "--tls-verify", "none", *shown)[0] == 0
        status, _, said = run("echo", to, "--tls-ca", node.certificate, *shown)
        assert (status, "no TLS connection" in said, "certificate is not accepted" in said) == (1, True, True)
        status, _, said = run("echo", to, "--tls-verify", "some")
        assert (status, "options for TLS" in said) == (1, True)


def test_config_check_reads_every_secret_and_plan_and_says_what_is_wrong(run: Run, tmp_path: Path) -> None:
    (tmp_path / "short").write_text("abc")
    peer = 'name = "a"\nuser = "a"\npassword_file = "none.txt"\n'
    user = '[dicomweb]\nenabled = true\n[[dicomweb_users]]\nname = "A"\n'
    for text, complaint in (
        (f'[[destinations]]\n{peer}protocol = "dicomweb"\nurl = "https://pacs/dicom-web"\n', "none.txt"),
        (f'[[sources]]\n{peer}aet = "A"\nport = 1\n', "none.txt"),
        ('[[worklists]]\nname = "a"\naet = "A"\nport = 1\nplans = { X = "none" }\n', "no plan none"),
        (f'{user}password_file = "short"\n', "no hash"),
        (f'{user}token_file = "short"\n', "shorter than"),
        ('[dicomweb]\nenabled = true\naet = "ER"\n', "no entry point"),
        ("[dicomweb]\nenabled = true\nport = 11112\n", "are the same"),
    ):
        (tmp_path / "medrega-pacs.toml").write_text(text)
        status, _, said = run("config", "check")
        assert status == 1
        assert complaint in said


def test_config_check_names_a_certificate_that_cannot_be_used(run: Run, tmp_path: Path) -> None:
    settings = tmp_path / "medrega-pacs.toml"
    for text in (
        '[listener]\ntls = { certificate = "none.pem", require_client = false }\n',
        '[[destinations]]\nname = "a"\naet = "A"\nport = 1\ntls = { ca = "none.pem" }\n',
        '[[dimse_users]]\nname = "a"\npasscode_file = "none.pem"\n',
    ):
        settings.write_text(text)
        status, _, said = run("config", "check")
        assert status == 1
        assert "none.pem" in said


def test_config_passcode_prints_a_hash(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("secret\n"))
    status, out, _ = run("config", "passcode")
    assert status == 0
    assert "secret" not in out
    assert HashedPassword.parse(out.strip()).matches("secret")
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    assert run("config", "passcode")[0] == 1
