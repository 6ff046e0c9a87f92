"""The way to a peer, step by step: its name, TCP, TLS. What fails is named, and so is what to do."""

from __future__ import annotations

import errno
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Final
from urllib.parse import urlsplit

from cryptography import x509

from dicom_node.dimse.tls import explain
from dicom_node.doctor.files import validity
from dicom_node.doctor.finding import Finding, Outcome, fail, ok

SECONDS: Final = 10.0
"""How long a peer may take for each step."""


def place_of(url: str) -> tuple[str, int]:
    """Host and port of a URL."""
    address = urlsplit(url)
    return address.hostname or "", address.port or (443 if address.scheme == "https" else 80)


def reach(host: str, port: int, tls: ssl.SSLContext | None) -> Iterator[Finding]:
    """Go there: one finding a step, and none after a failure."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        yield fail(f"the host name {host} cannot be resolved", "is it right, and does DNS work?")
        return
    begin = time.perf_counter()
    try:
        connection = socket.create_connection((host, port), timeout=SECONDS)
    except OSError as error:
        yield _unreachable(f"{host}:{port}", error)
        return
    with closing(connection):
        address = found[0][4][0]
        named = f"{host}:{port}" if host == address else f"{host}:{port} ({address})"
        yield ok(f"TCP: {named} answers in {(time.perf_counter() - begin) * 1000:.0f} ms")
        if tls is None:
            return
        try:
            with tls.wrap_socket(connection, server_hostname=host) as secured:
                yield from _secured(secured)
        except OSError as error:
            yield fail(f"TLS: {explain(error)}", "check the tls settings: ca, certificate, key, verify")


def _unreachable(place: str, error: OSError) -> Finding:
    if error.errno == errno.ECONNREFUSED:
        return fail(f"TCP: nothing listens at {place}", "is the peer running, and is the port right?")
    if isinstance(error, TimeoutError) or error.errno == errno.EHOSTUNREACH:
        return fail(f"TCP: {place} does not answer", "is the peer on, is the address right, is a firewall in between?")
    return fail(f"TCP: {place} cannot be reached ({error.strerror})", "check address, route and firewall")


def _secured(secured: ssl.SSLSocket) -> Iterator[Finding]:
    # In TLS 1.3 a server looks at our certificate after the handshake; else it waits for a request.
    secured.settimeout(0.5)
    with suppress(TimeoutError):
        secured.recv(1)
    cipher = secured.cipher()
    yield ok(f"TLS: {secured.version()}, {cipher[0] if cipher else ''}")
    shown = secured.getpeercert(binary_form=True)
    if shown is not None:
        valid = validity(x509.load_der_x509_certificate(shown), "that the peer shows")
        if valid.outcome is not Outcome.OK:
            yield valid
