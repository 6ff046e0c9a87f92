"""TLS of associations and of DICOMweb (PS3.15 annex B): contexts that follow their files.

A context is asked for anew for each connection. While its files stay as they are it is the same one; when one of them
changed it is built again, so that a renewed certificate is used without a restart and connections that are open go on.
New files that cannot be used (half written, a key of another certificate) are told, and the old context is kept until
they can.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Final

import structlog

from dicom_node.settings.section import secret_of
from dicom_node.settings.tls import TlsSettings
from engine.errors import SettingsError

# RFC 9325 4.2. TLS 1.3 has suites of its own, all of them fit.
_BCP195: Final = (
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
)
_SUITES: Final = {
    "bcp195": _BCP195,
    # PS3.15 B.10 demands these beside them.
    "bcp195-nd": (*_BCP195, "DHE-RSA-AES256-GCM-SHA384", "DHE-RSA-AES128-GCM-SHA256"),
}
_WORDS: Final = {
    "CERTIFICATE_VERIFY_FAILED": "the peer's certificate is not accepted",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the peer shows no certificate",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the peer asks for a certificate, and none is set",
    "TLSV1_ALERT_UNKNOWN_CA": "the peer does not know the authority of our certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the peer says that our certificate has expired",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the peer does not accept our certificate",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "the peer broke the handshake off: no common cipher suite, or no certificate",
    "TLSV1_ALERT_PROTOCOL_VERSION": "the peer knows no TLS version that is allowed here (1.2, 1.3)",
    "UNSUPPORTED_PROTOCOL": "the peer knows no TLS version that is allowed here (1.2, 1.3)",
    "WRONG_VERSION_NUMBER": "the peer does not speak TLS at this port, or a version not allowed here",
    "NO_SHARED_CIPHER": "the peer knows none of the cipher suites of this profile",
    "UNEXPECTED_EOF_WHILE_READING": "the peer broke the handshake off",
}

log = structlog.get_logger(__name__)


def server_context(tls: TlsSettings) -> ssl.SSLContext:
    """The context by which a connection is taken, of the files as they are now.

    Raises
    ------
    SettingsError
        If they cannot be used, and never could since the process started.
    """
    return _current(tls, _build_server)


def client_context(tls: TlsSettings) -> ssl.SSLContext:
    """The context by which a connection is made, of the files as they are now; ask for it for each connection.

    Raises
    ------
    SettingsError
        If they cannot be used, and never could since the process started.
    """
    return _current(tls, _build_client)


def explain(error: OSError) -> str:
    """Why a handshake failed, in words and without what the peer sent."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the peer's certificate is not accepted: {error.verify_message.rstrip('.')}"
    if isinstance(error, ssl.SSLError):
        reason = getattr(error, "reason", None) or type(error).__name__
        return _WORDS.get(reason, f"TLS failed ({reason})")
    if isinstance(error, TimeoutError):
        return "the peer did not finish the handshake in time"
    return "the peer broke the handshake off"


def diagnose(host: str, port: int, context: ssl.SSLContext, seconds: float) -> str:
    """Why no association comes about over TLS, by a handshake of its own: the library does not say.

    Returns
    -------
    str
        In words; empty where TLS is not the reason, or the peer cannot be reached at all.
    """
    try:
        connection = socket.create_connection((host, port), timeout=seconds)
    except OSError:
        return ""
    try:
        with connection, context.wrap_socket(connection, server_hostname=host) as secured:
            # In TLS 1.3 a server looks at our certificate after the handshake; else it waits for a request.
            secured.settimeout(min(seconds, 1))
            secured.recv(1)
    except TimeoutError:
        return ""
    except OSError as error:
        return explain(error)
    return ""


_Build = Callable[[TlsSettings], ssl.SSLContext]
_State = tuple[tuple[int, int, int] | None, ...]


@dataclass(slots=True)
class _Kept:
    state: _State
    context: ssl.SSLContext


# What is on disk, for the whole process: the same files give the same context, whoever asks.
_kept: dict[tuple[TlsSettings, _Build], _Kept] = {}
_lock = threading.Lock()


def _current(tls: TlsSettings, build: _Build) -> ssl.SSLContext:
    state = _state(tls)
    with _lock:
        kept = _kept.get((tls, build))
        if kept is None:
            kept = _kept[tls, build] = _Kept(state, build(tls))
        elif kept.state != state:
            kept.state = state
            try:
                kept.context = build(tls)
                log.info("new certificates are in use", certificate=_name(tls.certificate), ca=_name(tls.ca))
            except SettingsError as error:
                log.error("new certificates cannot be used, the old ones stay in use", reason=error.explained)
        return kept.context


def _name(path: Path | None) -> str:
    return str(path or "")


def _state(tls: TlsSettings) -> _State:
    """What tells a file from the one that was there before it."""

    def state(path: Path | None) -> tuple[int, int, int] | None:
        try:
            found = path.stat() if path is not None else None
        except OSError:
            return None
        return found and (found.st_mtime_ns, found.st_size, found.st_ino)

    return tuple(state(path) for path in (tls.certificate, tls.key, tls.key_password_file, tls.ca))


def _build_server(tls: TlsSettings) -> ssl.SSLContext:
    context = _build(tls, ssl.PROTOCOL_TLS_SERVER)
    if tls.certificate is None:
        raise SettingsError("tls needs a certificate to listen")
    if tls.profile == "bcp195-nd":
        # The group ffdhe2048 of RFC 7919; without one OpenSSL offers no DHE.
        with as_file(files("dicom_node.dimse") / "ffdhe2048.pem") as group:
            context.load_dh_params(str(group))
    if tls.require_client:
        if tls.ca is None:
            raise SettingsError("tls asks clients for certificates and has no ca to check them by")
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class _Socket(ssl.SSLSocket):
    """A client's: the library closes a socket only where its shutdown did not fail, as it does after a handshake."""

    def shutdown(self, how: int) -> None:
        with suppress(OSError):
            super().shutdown(how)


def _build_client(tls: TlsSettings) -> ssl.SSLContext:
    context = _build(tls, ssl.PROTOCOL_TLS_CLIENT)
    context.sslsocket_class = _Socket
    context.check_hostname = tls.verify == "full"
    context.verify_mode = ssl.CERT_NONE if tls.verify == "none" else ssl.CERT_REQUIRED
    if tls.ca is None and tls.verify != "none":
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    return context


def _build(tls: TlsSettings, protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(":".join(_SUITES[tls.profile]))
    if tls.certificate is not None:
        _load_certificate(context, tls, tls.certificate)
    if tls.ca is not None:
        try:
            context.load_verify_locations(cafile=tls.ca)
        except ssl.SSLError:
            raise SettingsError(f"tls.ca: {tls.ca} holds no certificates in PEM form") from None
        except OSError as error:
            raise SettingsError(f"tls.ca: {tls.ca} cannot be read ({error.strerror})") from None
    return context


def _load_certificate(context: ssl.SSLContext, tls: TlsSettings, certificate: Path) -> None:
    def password() -> str:
        # Without an answer of ours OpenSSL would ask at the terminal.
        if tls.key_password_file is None:
            raise SettingsError("the key is encrypted", advice="set tls.key_password_file")
        return secret_of(tls.key_password_file)

    key = tls.key or certificate
    for path in (certificate, key):
        try:
            path.read_bytes()
        except OSError as error:
            raise SettingsError(f"tls: {path} cannot be read ({error.strerror})") from None
    try:
        context.load_cert_chain(certificate, key, password)
    except ssl.SSLError as error:
        why = {
            "KEY_VALUES_MISMATCH": f"the key in {key} is not that of the certificate in {certificate}",
            "EE_KEY_TOO_SMALL": f"the key of {certificate} is too short to be safe",
        }.get(error.reason or "", f"{certificate} and {key} are no certificate and key in PEM form, or the password")
        raise SettingsError(
            f"tls: {why}" + (" is wrong" if why.endswith("password") else ""), advice="check the files by openssl x509"
        ) from None
