"""TLS over real sockets (PS3.15 B.10 and B.12): who is let in and whom the node trusts, and new certificates."""

import os
import shutil
import socket
import ssl
import subprocess
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from certificates import Authority, Certificate
from client_hello import client_hello
from listener_bench import Scp
from pydantic import ValidationError
from pydicom.dataset import Dataset
from pynetdicom import build_context
from pynetdicom.sop_class import Verification
from structlog.testing import capture_logs
from wire import Wire, associate_rq

from dicom_node.dimse.scu import PeerError, Timeouts, associate
from dicom_node.dimse.tls import client_context, diagnose, explain, server_context
from dicom_node.settings import ListenerSettings, Settings, TlsSettings, Worklist
from dicom_node.worklist.ups import open_ups
from engine.errors import SettingsError


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def node(authority: Authority) -> Certificate:
    return authority.issue("node")


@pytest.fixture(scope="module")
def scanner(authority: Authority) -> Certificate:
    return authority.issue("scanner", "DNS:scanner.example")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate of an authority that nobody knows, with that authority's beside it."""
    return Authority(tmp_path_factory.mktemp("elsewhere"), "elsewhere").issue("stranger")


def echoed(scp: Scp, tls: TlsSettings | None) -> bool:
    """Whether C-ECHO is answered."""
    context = client_context(tls) if tls is not None else None
    try:
        with associate(scp.peer, [build_context(Verification)], "CT1", Timeouts(5, 5), tls=context) as association:
            return association.send_c_echo().Status == 0
    except PeerError:
        return False


def said(scp: Scp, tls: TlsSettings | None) -> str:
    """What the listener's log says of a connection that did not get through."""
    with capture_logs() as logs:
        if tls is not None:
            assert not echoed(scp, tls)
        else:
            with Wire(scp.port) as wire, suppress(ConnectionResetError):
                wire.send(associate_rq())
                assert wire.receive() == b""
    return " ".join(str(entry.get("reason", "")) for entry in logs if entry["event"] == "connection closed")


def test_both_sides_prove_who_they_are(
    tmp_path: Path, authority: Authority, node: Certificate, scanner: Certificate, stranger: Certificate
) -> None:
    expired = authority.issue("expired", days=-1)
    with Scp(tmp_path, tls=node.tls(authority.ca)) as scp:
        assert echoed(scp, scanner.tls(authority.ca))
        assert "shows no certificate" in said(scp, TlsSettings(ca=authority.ca))
        assert "not accepted: " in said(scp, stranger.tls(authority.ca))
        assert "expired" in said(scp, expired.tls(authority.ca))
        # The listener is the one who is not trusted here.
        assert "authority" in said(scp, scanner.tls(stranger.certificate))
        assert "does not speak TLS" in said(scp, None)
        assert echoed(scp, scanner.tls(authority.ca))


def test_a_listener_may_ask_for_no_certificates(tmp_path: Path, authority: Authority, node: Certificate) -> None:
    with Scp(tmp_path, tls=node.tls(None, require_client=False)) as scp:
        assert echoed(scp, TlsSettings(ca=authority.ca))


def test_tls_to_a_port_in_the_clear_is_told(tmp_path: Path, authority: Authority) -> None:
    with Scp(tmp_path) as scp:
        assert "the peer speaks TLS" in said(scp, TlsSettings(ca=authority.ca))
        assert echoed(scp, None)


@pytest.mark.parametrize(
    ("name", "days", "verify", "trusted"),
    [
        ("DNS:pacs.example", 30, "full", False),
        ("DNS:pacs.example", 30, "ca", True),
        ("IP:127.0.0.1", 30, "full", True),
        ("IP:127.0.0.1", -1, "ca", False),
        ("IP:127.0.0.1", -1, "none", True),
    ],
)
def test_a_server_is_trusted_as_far_as_was_said(
    tmp_path: Path, authority: Authority, name: str, days: int, verify: str, trusted: bool
) -> None:
    server = authority.issue("server", name, days=days)
    with Scp(tmp_path, tls=server.tls(None, require_client=False)) as scp:
        assert echoed(scp, TlsSettings(ca=authority.ca, verify=verify)) is trusted  # type: ignore[arg-type]


def test_a_server_of_an_authority_that_nobody_knows_is_not_trusted(
    tmp_path: Path, authority: Authority, stranger: Certificate
) -> None:
    with Scp(tmp_path, tls=stranger.tls(None, require_client=False)) as scp:
        assert not echoed(scp, TlsSettings(ca=authority.ca))
        assert not echoed(scp, TlsSettings())  # the system's authorities do not know it either
        assert echoed(scp, TlsSettings(verify="none"))


def handshake(port: int, *options: str) -> str:
    """What ``openssl s_client`` agrees on with the listener: the cipher suite, empty for none."""
    ended = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", *options],
        input="", capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    found = [line.rpartition(" ")[2] for line in ended.stdout.splitlines() if line.startswith("New, TLS")]
    return found[0] if found else ""


def test_versions_and_cipher_suites_are_those_of_the_profile(tmp_path: Path, node: Certificate) -> None:
    weak = ("-cipher", "ALL:@SECLEVEL=0")
    dhe = ("-tls1_2", "-cipher", "DHE-RSA-AES128-GCM-SHA256")
    (tmp_path / "nd").mkdir()
    with (
        Scp(tmp_path, tls=node.tls(None, require_client=False)) as scp,
        Scp(tmp_path / "nd", tls=node.tls(None, require_client=False, profile="bcp195-nd")) as older,
    ):
        for version in ("-tls1", "-tls1_1"):
            assert handshake(scp.port, version, *weak) in ("", "(NONE)")
            assert handshake(older.port, version, *weak) in ("", "(NONE)")
        assert handshake(scp.port).startswith("TLS_")
        for suite in ("ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES256-GCM-SHA384"):
            assert handshake(scp.port, "-tls1_2", "-cipher", suite) == suite
        for suite in ("ECDHE-RSA-AES128-SHA256", "AES128-GCM-SHA256", "ECDHE-RSA-AES256-SHA"):
            assert handshake(scp.port, "-tls1_2", "-cipher", suite) in ("", "(NONE)")
            assert handshake(older.port, "-tls1_2", "-cipher", suite) in ("", "(NONE)")
        assert handshake(scp.port, *dhe) in ("", "(NONE)")
        assert handshake(older.port, *dhe) == dhe[-1]


def serial(port: int) -> int:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as connection,
        context.wrap_socket(connection) as secured,
    ):
        der = secured.getpeercert(binary_form=True)
    assert der is not None
    text = subprocess.run(
        ["openssl", "x509", "-inform", "der", "-noout", "-serial"],
        input=der,
        capture_output=True,
        check=True,
        timeout=60,
    ).stdout
    return int(text.decode().strip().partition("=")[2], 16)


def install(new: Certificate, used: Certificate) -> None:
    """Put files in the place of others, each at once, as renewing agents do."""
    for source, target in ((new.certificate, used.certificate), (new.key, used.key)):
        shutil.copy(source, target.with_suffix(".new"))
        os.replace(target.with_suffix(".new"), target)


def test_a_new_certificate_is_used_without_a_restart_and_a_broken_one_is_not(
    tmp_path: Path, authority: Authority, node: Certificate
) -> None:
    used = Certificate(tmp_path / "used.pem", tmp_path / "used.key")
    install(node, used)
    with Scp(tmp_path, tls=used.tls(None, require_client=False)) as scp:
        trust = TlsSettings(ca=authority.ca)
        first = serial(scp.port)
        peer = client_context(trust)
        with associate(scp.peer, [build_context(Verification)], "CT1", Timeouts(), tls=peer) as association:
            with capture_logs() as logs:
                used.certificate.write_text("half a certifi")
                assert serial(scp.port) == first
                assert serial(scp.port) == first
            told = [entry["reason"] for entry in logs if entry["log_level"] == "error"]
            assert len(told) == 1
            assert "used.pem" in told[0]
            install(authority.issue("renewed"), used)
            second = serial(scp.port)
            assert second != first
            used.key.unlink()
            assert serial(scp.port) == second
            assert association.send_c_echo().Status == 0  # what was open goes on
        assert echoed(scp, trust)


def test_a_worklist_is_asked_with_the_certificates_of_now(
    tmp_path: Path, authority: Authority, node: Certificate, scanner: Certificate, stranger: Certificate
) -> None:
    used = Certificate(tmp_path / "used.pem", tmp_path / "used.key")
    install(stranger, used)
    with Scp(tmp_path, tls=node.tls(authority.ca)) as scp:
        worklist = Worklist(name="ai", aet=scp.peer.aet, port=scp.port, tls=used.tls(authority.ca))
        ups = open_ups(worklist, "CT1")
        with pytest.raises(PeerError, match="TLS"):
            ups.find(Dataset())
        install(scanner, used)
        with pytest.raises(PeerError, match="takes none of these SOP classes"):
            ups.find(Dataset())


def test_a_client_s_files_are_followed_too(
    tmp_path: Path, authority: Authority, node: Certificate, scanner: Certificate, stranger: Certificate
) -> None:
    used = Certificate(tmp_path / "used.pem", tmp_path / "used.key")
    install(stranger, used)
    tls = used.tls(authority.ca)
    assert client_context(tls) is client_context(tls)
    with Scp(tmp_path, tls=node.tls(authority.ca)) as scp:
        assert not echoed(scp, tls)
        install(scanner, used)
        assert echoed(scp, tls)


def test_files_that_cannot_be_used_are_named(
    tmp_path: Path, authority: Authority, node: Certificate, scanner: Certificate
) -> None:
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    locked = tmp_path / "locked.key"
    password = tmp_path / "password"
    password.write_text("wrong\n")
    subprocess.run(
        ["openssl", "rsa", "-in", str(node.key), "-aes256", "-passout", "pass:right", "-out", str(locked)],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    encrypted = replace(node, key=locked)
    for tls, named in (
        (node.tls(tmp_path / "none.pem"), "none.pem cannot be read"),
        (node.tls(text), "holds no certificates"),
        (replace(node, certificate=text).tls(None), "text.pem"),
        (replace(node, key=scanner.key).tls(None), "is not that of the certificate"),
        (encrypted.tls(None), "the key is encrypted"),
        (encrypted.tls(None, key_password_file=password), "the password is wrong"),
        (encrypted.tls(None, key_password_file=tmp_path / "none"), "the secret in"),
    ):
        with pytest.raises(SettingsError, match=named):
            client_context(tls)
    password.write_text("right\n")
    assert server_context(encrypted.tls(authority.ca, key_password_file=password)).verify_mode is ssl.CERT_REQUIRED


def test_wrong_settings_are_refused_with_what_to_do(tmp_path: Path, node: Certificate) -> None:
    for tls, said in (
        (TlsSettings(), "needs a certificate"),
        (TlsSettings(certificate=node.certificate, key=node.key), "require_client = false"),
    ):
        with pytest.raises(ValidationError, match=said):
            ListenerSettings(tls=tls)
    path = tmp_path / "settings.toml"
    for text, named in (
        ('[tls]\nkey = "a.key"\n', "tls: key and key_password_file are for a certificate"),
        ('[tls]\nprofile = "tls1"\n', "tls.profile"),
        ("[listener]\ntls = true\n", "listener: tls needs a certificate"),
        ('[listener]\naddresses = ["10.0.0.300"]\n', "listener.addresses[0]: an address is written as"),
        ('[[entries]]\naet = "A"\n[[entries]]\naet = "A"\n', "two entries have the same aet"),
        ('[[entries]]\naet = "A"\npriority = "urgent"\n', "entries[0].priority"),
        ("[listener]\nrequire_user = true\n", "there are no [[dimse_users]]"),
        ("[listener]\nmax_associations = 1000\n", "listener.max_associations"),
        (
            '[listener]\nhost = "0.0.0.0"\ncalling_aets = ["A"]\n[[dimse_users]]\nname = "a"\npasscode_file = "p"\n',
            "cleartext_passcodes",
        ),
    ):
        path.write_text(text)
        with pytest.raises(SettingsError) as caught:
            Settings.load(path)
        assert named in str(caught.value), text


def test_shared_certificates_and_entry_points_reach_child_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(
        '[tls]\ncertificate = "a.pem"\nca = "ca.pem"\n[listener]\ntls = true\naddresses = ["10.1.2.3", "fd00:1::/64"]\n'
        '[[entries]]\naet = "STAT"\npriority = "stat"\nquiet_seconds = 5\n'
    )
    settings = Settings.load(path)
    assert settings.listener.tls == settings.tls
    assert settings.called_aets == {"MEDREGA", "STAT"}
    assert settings.entry("STAT").priority == "stat"
    assert settings.entry("ELSEWHERE").aet == "MEDREGA"
    for name, value in settings.to_environment().items():
        monkeypatch.setenv(name, value)
    assert Settings.load() == settings


def test_a_handshake_that_comes_byte_by_byte_is_not_waited_for(
    tmp_path: Path, authority: Authority, node: Certificate
) -> None:
    with Scp(tmp_path, tls=node.tls(authority.ca), acse_timeout_seconds=1) as scp:
        with socket.create_connection(("127.0.0.1", scp.port), timeout=0.3) as connection, suppress(ConnectionError):
            for byte in client_hello()[:50]:
                connection.sendall(bytes([byte]))
                with suppress(TimeoutError):
                    if connection.recv(1) == b"":
                        break
            else:
                pytest.fail("it was waited for")
        assert echoed(scp, node.tls(authority.ca))


def test_a_failed_handshake_is_told_in_words(
    tmp_path: Path, authority: Authority, node: Certificate, scanner: Certificate, stranger: Certificate
) -> None:
    with Scp(tmp_path, tls=node.tls(authority.ca)) as scp:
        for tls, words in (
            (scanner.tls(authority.ca), ""),
            (scanner.tls(stranger.certificate), "certificate is not accepted: "),
            (stranger.tls(authority.ca), "does not know the authority of our certificate"),
            (TlsSettings(ca=authority.ca), "asks for a certificate"),
        ):
            why = diagnose("127.0.0.1", scp.port, client_context(tls), 5)
            assert words in why
            assert bool(words) == bool(why)
    assert "in time" in explain(TimeoutError())
    assert "broke the handshake off" in explain(ConnectionResetError())
    assert "TLS failed" in explain(ssl.SSLError(1, "something new"))
