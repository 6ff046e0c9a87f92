"""The node's own ports: whether they can be listened at, or who listens there, and who could reach them."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import closing
from urllib.parse import urlsplit

import httpx

from dicom_node.dimse import scu
from dicom_node.dimse.association import Peer, PeerError, Timeouts
from dicom_node.dimse.tls import client_context
from dicom_node.doctor.finding import Check, Finding, fail, ok, warn
from dicom_node.doctor.reach import SECONDS
from dicom_node.running import front_pid
from dicom_node.settings import Settings
from dicom_node.settings.section import is_loopback

_EVERY_ADDRESS = ("0.0.0.0", "::", "")  # noqa: S104 - compared with, not bound to


def port_checks(settings: Settings) -> list[Check]:
    """Checks of the node's ports."""
    return [
        Check("listener", lambda: _listener(settings)),
        Check("console", lambda: _console(settings)),
        Check("outside", lambda: _outside(settings)),
    ]


def _listener(settings: Settings) -> Iterator[Finding]:
    pid = front_pid(settings)
    listener = settings.listener
    if pid is None:
        yield _free("listener", listener.host, listener.port)
        if settings.dicomweb.enabled:
            yield _free("dicomweb", settings.dicomweb.host, settings.dicomweb.port)
        return
    yield ok(f"the node runs, process {pid}")
    try:
        tls = client_context(listener.tls) if listener.tls is not None else None
        peer = Peer(listener.aet, _reachable(listener.host), listener.port)
        seconds = scu.echo(peer, listener.aet, Timeouts(SECONDS, SECONDS), tls=tls)
    except PeerError as error:
        if "rejected the association" not in str(error):
            yield fail(f"the listener does not answer: {error}", "see the node's own log")
            return
        # It is there and speaks DICOM: that it does not know its own title as a sender's is as it should be.
        yield ok(f"{listener.aet}@{listener.host}:{listener.port} answers, and lets only those in whom it is told to")
    else:
        yield ok(f"{listener.aet}@{listener.host}:{listener.port} answers C-ECHO in {seconds * 1000:.0f} ms")


def _console(settings: Settings) -> Iterator[Finding]:
    console = settings.console
    if not console.enabled:
        yield ok("there is none (console.enabled = false)")
        return
    if front_pid(settings) is None:
        yield _free("console", console.host, console.port)
        return
    url = f"{'http' if console.tls is None else 'https'}://{_reachable(console.host)}:{console.port}/healthz/ready"
    try:
        # Whose certificate it is does not matter here: nothing is told, and the check of certificates looks at it.
        status = httpx.get(url, verify=False, timeout=SECONDS, trust_env=False).status_code  # noqa: S501
    except httpx.HTTPError as error:
        yield fail(f"{console.address} does not answer ({type(error).__name__})", "see the node's own log")
        return
    if status == httpx.codes.OK:
        yield ok(f"{console.address} answers, and says that the node is ready")
    else:
        words = f"{console.address} says that the node is not ready (HTTP status {status})"
        yield fail(words, "see what is said of the database, the broker and the space")


def _free(what: str, host: str, port: int) -> Finding:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with closing(socket.socket(family)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do, past closed connections
            probe.bind((host, port))
            probe.listen()
    except OSError as error:
        place = f"{what}.port {port}"
        if error.errno == errno.EADDRINUSE:
            remedy = f"ss -ltnp 'sport = :{port}' says which; end it, or set another {what}.port"
            return fail(f"{place}: another program listens there, and no node runs on this data folder", remedy)
        if error.errno == errno.EACCES:
            return fail(f"{place}: ports below 1024 need a right", "AmbientCapabilities=CAP_NET_BIND_SERVICE, or 11112")
        if error.errno == errno.EADDRNOTAVAIL:
            return fail(f"{what}.host {host} is no address of this machine", "ip addr shows those it has")
        return fail(f"{place}: {error.strerror}", "check host and port")
    return ok(f"{host}:{port} is free for the {what}; the node does not run")


def _reachable(host: str) -> str:
    """An address to reach a listener by that listens at every one of this machine's: the one that others would use."""
    if host not in _EVERY_ADDRESS:
        return host
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # no packet is sent: the kernel only chooses the address (RFC 5737)
        except OSError:
            return "127.0.0.1"  # no network but its own
        return str(probe.getsockname()[0])


def _outside(settings: Settings) -> Iterator[Finding]:
    peers = {item.name: item.host if item.url is None else urlsplit(item.url).hostname or "" for item in (
        *settings.destinations, *settings.sources, *settings.worklists)}  # fmt: skip
    far = [name for name, host in peers.items() if not is_loopback(host)]
    if settings.listener.loopback and far:
        words = f"other hosts cannot reach the listener, and there are peers on others: {', '.join(far)}"
        yield warn(words, "set listener.host to this machine's address (and calling_aets)")
    elif settings.listener.loopback:
        yield ok("only this machine can reach the listener, and every peer is on it")
    elif settings.listener.promiscuous and settings.listener.tls is None and not settings.listener.addresses:
        yield warn(
            "any host may send to the listener", "list calling_aets and addresses, or ask for certificates (tls)"
        )
    else:
        address = _reachable(settings.listener.host)
        yield ok(f"others reach the listener at {address}:{settings.listener.port}, where firewalls let them: "
                 f"echoscu -aec {settings.listener.aet} {address} {settings.listener.port} tells there")  # fmt: skip
