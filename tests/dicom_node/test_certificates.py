"""Whoever the node talks to proves who it is, and so does who talks to it, by TLS on every road (PS3.15 B.10, B.12)."""

from __future__ import annotations

import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from certificates import Authority, Certificate
from console_client import Console
from node_bench import wait_until
from ports import free_port
from postgresql import PASSWORD, cluster
from web_bench import Web

from dicom_node.audit import Action, AuditEvent, Trail
from dicom_node.audit.syslog import Forwarder
from dicom_node.dicomweb.client import Client
from dicom_node.dimse.scu import Peer, echo
from dicom_node.dimse.tls import client_context
from dicom_node.ledger.database import Database, DatabaseError
from dicom_node.settings import Settings, TlsSettings
from engine.errors import NodeError

Asked = Callable[[int, TlsSettings, Path], object]
"""Talk to a port of this machine, by TLS, with a folder of one's own."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate of an authority that nobody knows."""
    return Authority(tmp_path_factory.mktemp("elsewhere"), "elsewhere").issue("stranger")


@contextmanager
def server(certificate: Certificate, *options: str) -> Iterator[int]:
    """A server that takes any client and answers nothing; its port."""
    port = free_port()
    command = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-quiet", *options]
    files = ["-cert", str(certificate.certificate), "-key", str(certificate.key)]
    pipe = subprocess.PIPE
    with subprocess.Popen([*command, *files], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as process:
        try:
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except ConnectionRefusedError:
                    assert process.poll() is None
                    time.sleep(0.02)
            yield port
        finally:
            process.terminate()
            assert process.stdout is not None
            assert process.stdout.read() == b"", "a client has said something"


def echoes(port: int, tls: TlsSettings, _folder: Path) -> object:
    return echo(Peer("PACS", "127.0.0.1", port), tls=client_context(tls))


def searches(port: int, tls: TlsSettings, _folder: Path) -> object:
    with Client(f"https://127.0.0.1:{port}", tls=client_context(tls)) as client:
        return client.verify()


def reports(port: int, tls: TlsSettings, folder: Path) -> object:
    settings = Settings(data={"path": folder}, audit={"host": "127.0.0.1", "port": port, "tls": tls})
    Trail.of(settings).write(AuditEvent(Action.NODE_STARTED, "node"))
    return Forwarder(settings).send()


@pytest.mark.parametrize("ask", [echoes, searches, reports])
def test_nothing_is_said_to_who_does_not_prove_to_be_the_one(
    tmp_path: Path, authority: Authority, stranger: Certificate, ask: Asked
) -> None:
    old = ("-tls1_1", "-cipher", "ALL:@SECLEVEL=0")
    for certificate, options in (
        (stranger, ()),
        (authority.issue("expired", days=-1), ()),
        (authority.issue("other", "DNS:other.example"), ()),
        (authority.issue("old"), old),
    ):
        with server(certificate, *options) as port, pytest.raises((NodeError, OSError)):
            ask(port, TlsSettings(ca=authority.ca), tmp_path)


def shaken(port: int, context: ssl.SSLContext) -> bool:
    """Whether a server takes a client; in TLS 1.3 it says so only after the client's own end of the handshake."""
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
        ):
            connection.sendall(b"GET /healthz/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return connection.recv(1) == b"H"
    except (ssl.SSLError, ConnectionError):
        return False


@pytest.mark.parametrize("service", ["console", "DICOMweb"])
def test_who_asks_by_https_proves_who_it_is_where_that_is_wanted(
    tmp_path: Path, authority: Authority, stranger: Certificate, service: str
) -> None:
    tls = authority.issue("node").tls(authority.ca).model_dump()
    running: Console | Web
    if service == "console":
        running = Console(tmp_path, console={"tls": tls})
        port = running.settings.console.port
    else:
        running = Web(tmp_path, tls=tls)
        port = running.port
    try:
        assert shaken(port, client_context(authority.issue("workstation").tls(authority.ca)))
        for certificate in (stranger, authority.issue("expired", days=-1)):
            assert not shaken(port, client_context(certificate.tls(authority.ca)))
        assert not shaken(port, client_context(TlsSettings(ca=authority.ca)))
        for version in ("-tls1", "-tls1_1"):
            command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", version, "-cipher", "ALL:@SECLEVEL=0"]
            ended = subprocess.run(command, input="", capture_output=True, text=True, timeout=60, check=False)
            assert "Cipher is (NONE)" in ended.stdout
    finally:
        running.close()


def test_a_database_proves_who_it_is(authority: Authority, stranger: Certificate) -> None:
    expired = authority.issue("expired", days=-1)
    good = authority.issue("database", "IP:127.0.0.1")
    with cluster(tls=(good.certificate, good.key)) as running:

        def reached(ca: Path, host: str = "127.0.0.1", password: str = PASSWORD) -> bool:
            url = running.url(password=password).replace("127.0.0.1", host)
            database = Database(f"{url}?sslmode=verify-full&sslrootcert={ca}")
            try:
                return database.revision() is None
            except DatabaseError as error:
                return password in str(error)
            finally:
                database.close()

        assert reached(authority.ca)
        assert not reached(stranger.certificate)
        assert not reached(authority.ca, "localhost")
        assert not reached(authority.ca, password=PASSWORD * 2)
        with psycopg.connect(running.local_url.replace("+psycopg", ""), autocommit=True) as own:
            copy = running.folder / "server.cert"
            copy.write_bytes(expired.certificate.read_bytes())
            (running.folder / "server.key").write_bytes(expired.key.read_bytes())
            own.execute("SELECT pg_reload_conf()")
            assert wait_until(lambda: not reached(authority.ca))
            copy.write_bytes(good.certificate.read_bytes())
            (running.folder / "server.key").write_bytes(good.key.read_bytes())
            own.execute("SELECT pg_reload_conf()")
            assert wait_until(lambda: reached(authority.ca))
            for which in ("min", "max"):
                own.execute(f"ALTER SYSTEM SET ssl_{which}_protocol_version = 'TLSv1.1'")
            own.execute("SELECT pg_reload_conf()")
            assert wait_until(lambda: not reached(authority.ca))
