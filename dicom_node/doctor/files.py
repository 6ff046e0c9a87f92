"""What the settings name: certificates, secrets, rules, plans, output profiles. Nothing is asked of a network."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509

from dicom_node.dicomweb.client import Credentials
from dicom_node.dicomweb.users import Users as DicomwebUsers
from dicom_node.dimse.tls import client_context, server_context
from dicom_node.dimse.users import Users
from dicom_node.doctor.finding import Check, Finding, fail, ok, warn
from dicom_node.ledger import ledger_key, ledger_url
from dicom_node.ledger.database import Database
from dicom_node.queue.broker import broker_url, is_embedded
from dicom_node.reading.profiles import output_profiles
from dicom_node.routing.router import routes_of
from dicom_node.settings import Settings, TlsSettings
from dicom_node.settings.dicomweb import FrontSettings
from dicom_node.settings.sources import Endpoint
from dicom_node.worklist.performer import check_plans
from engine.gate import load_calibration
from engine.plan import load_plans
from engine.refine import load_refiner
from engine.runtime import model_path

_SOON: Final = timedelta(days=30)
"""A certificate that ends sooner is worth a line: hospitals' authorities take their time."""


def file_checks(settings: Settings) -> list[Check]:
    """Checks of what the settings name, which need neither a network nor a model's time."""
    return [
        Check("certificates", lambda: _certificates(settings)),
        Check("secrets", lambda: _secrets(settings)),
        Check("rules", lambda: _rules(settings)),
        Check("model", lambda: _model(settings)),
    ]


def _certificates(settings: Settings) -> Iterator[Finding]:
    servers = [tls for tls in (settings.listener.tls, settings.dicomweb.tls, settings.console.tls) if tls is not None]
    endpoints: tuple[Endpoint, ...] = (*settings.destinations, *settings.sources, *settings.worklists)
    found = (*(peer.tls for peer in endpoints), *(peer.tls for peer in settings.commitment_peers), settings.front.tls)
    clients = [tls for tls in found if tls is not None]
    for tls in dict.fromkeys(servers):
        server_context(tls)
    for tls in dict.fromkeys(clients):
        client_context(tls)
        if tls.verify == "none":
            yield warn("tls.verify is none: whoever is on the way can read along", 'name the peers\' ca, verify "full"')
    files = dict.fromkeys(tls.certificate for tls in (*servers, *clients) if tls.certificate is not None)
    if not files:
        yield ok(
            "none are used: connections are in the clear" if not clients else "peers' are checked; none of our own"
        )
    for file in files:
        yield validity(x509.load_pem_x509_certificates(file.read_bytes())[0], str(file))


def validity(certificate: x509.Certificate, whose: str) -> Finding:
    """Whether a certificate is valid today, and for a while."""
    now, begin, end = datetime.now(UTC), certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if end <= now:
        return fail(f"the certificate {whose} expired on {end:%Y-%m-%d}", "have it renewed by its authority")
    if begin > now:
        return fail(f"the certificate {whose} begins on {begin:%Y-%m-%d}", "is this machine's clock right?")
    if end - now < _SOON:
        return warn(f"the certificate {whose} expires on {end:%Y-%m-%d}", "have it renewed by its authority")
    return ok(f"the certificate {whose} is valid until {end:%Y-%m-%d}")


def _secrets(settings: Settings) -> Iterator[Finding]:
    endpoints: tuple[Endpoint, ...] = (*settings.destinations, *settings.sources, *settings.worklists)
    peers: tuple[Endpoint | FrontSettings, ...] = (*endpoints, settings.front)
    for peer in peers:
        Credentials.read(peer.user, peer.password_file, peer.token_file)
    Users(settings.dimse_users)
    DicomwebUsers(settings.dicomweb_users)
    if not is_embedded(settings):  # whose folder would be made
        broker_url(settings)
    Database(ledger_url(settings), ledger_key(settings)).close()
    files = dict.fromkeys(_secret_files(settings, peers))
    opened = [file for file in files if file.stat().st_mode & 0o007]
    for file in opened:
        yield warn(f"every user of this machine may read {file}", f"chmod 600 {file}")
    if not opened:
        yield ok("those that the settings name can be read, and by nobody else" if files else "the settings name none")


def _secret_files(settings: Settings, peers: tuple[Endpoint | FrontSettings, ...]) -> Iterator[Path]:
    for peer in peers:
        yield from (file for file in (peer.password_file, peer.token_file) if file is not None)
    for tls in (settings.listener.tls, settings.dicomweb.tls, settings.console.tls, *(peer.tls for peer in peers)):
        if isinstance(tls, TlsSettings):
            yield from (file for file in (tls.key, tls.key_password_file) if file is not None)
    others = (settings.ledger.password_file, settings.ledger.key_file, settings.broker.password_file)
    yield from (file for file in others if file is not None)


def _rules(settings: Settings) -> Iterator[Finding]:
    output_profiles(settings.destinations)
    routes_of(settings)
    plans = load_plans(settings.engine.plans)
    for worklist in settings.worklists:
        check_plans(settings, worklist)
    load_calibration(settings.engine.calibration)
    load_refiner(settings.engine.refiner)
    named = f"rules of {settings.routing.rules}" if settings.routing.rules else "no rules: every study is read"
    yield ok(f"{named}; {len(plans)} plans, and the output profiles of {len(settings.destinations)} destinations")
    if not settings.destinations:
        yield warn("no destination is set: results stay in the data folder", "add a [[destinations]] table")


def _model(settings: Settings) -> Iterator[Finding]:
    if not model_path(settings.engine.model).exists():
        yield fail(
            f"engine.model: there is no model at {settings.engine.model}",
            "a name that ships (phantom) or a folder; a machine that only listens needs none",
        )
    else:
        yield ok(f"{settings.engine.model} is there, for {settings.engine.runtime}")
