"""How results travel to a destination: by C-STORE, in the clear or over TLS, or by STOW-RS."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from typing import Protocol

from dicom_node.dicomweb.client import Client, Credentials
from dicom_node.dimse import scu
from dicom_node.dimse.scu import Peer, SendResult, StoredFile, Timeouts
from dicom_node.dimse.tls import client_context
from dicom_node.settings import Destination, Settings

OnResult = Callable[[SendResult], None]


class Transport(Protocol):
    """A way to a destination, to be closed after use."""

    def send(self, files: Sequence[StoredFile], on_result: OnResult) -> None:
        """Send files together, in order; told of one by one, as far as the destination answers.

        Raises
        ------
        PeerError
            If it cannot be reached, or refuses all of them; files not told of may be sent again.
        """

    def probe(self) -> float:
        """Ask whether it is there and lets us in, without sending anything; seconds until it answered.

        Raises
        ------
        PeerError
            If it does not.
        """

    def close(self) -> None:
        """Give connections back."""


def open_transport(destination: Destination, settings: Settings) -> Transport:
    """The way to a destination of the settings.

    Raises
    ------
    SettingsError
        If its URL is none, or its certificates or secrets cannot be read.
    """
    timeouts = Timeouts(settings.delivery.association_timeout_seconds, settings.delivery.dimse_timeout_seconds)
    tls = client_context(destination.tls) if destination.tls is not None else None
    if destination.url is None:
        return DimseTransport(
            Peer.of(destination), settings.listener.aet, timeouts, tls=tls, fast=settings.delivery.fast
        )
    credentials = Credentials.read(destination.user, destination.password_file, destination.token_file)
    return StowTransport(Client(destination.url, credentials, tls=tls, timeouts=timeouts))


class DimseTransport:
    """C-STORE and C-ECHO (PS3.4 A and B), one association a batch."""

    def __init__(
        self, peer: Peer, calling_aet: str, timeouts: Timeouts, *, tls: ssl.SSLContext | None = None, fast: bool = True
    ) -> None:
        self._peer = peer
        self._calling_aet = calling_aet
        self._timeouts = timeouts
        self._tls = tls
        self._fast = fast

    def send(self, files: Sequence[StoredFile], on_result: OnResult) -> None:
        """See `Transport.send`."""
        scu.send(
            files,
            self._peer,
            self._calling_aet,
            self._timeouts,
            tls=self._tls,
            fast=self._fast,
            on_result=on_result,
        )

    def probe(self) -> float:
        """See `Transport.probe`."""
        return scu.echo(self._peer, self._calling_aet, self._timeouts, tls=self._tls)

    def close(self) -> None:
        """An association lasts for one batch only."""


class StowTransport:
    """STOW-RS (PS3.18 10.5), asked by a query for a study that nobody has."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def send(self, files: Sequence[StoredFile], on_result: OnResult) -> None:
        """See `Transport.send`."""
        self._client.store(files, on_result=on_result)

    def probe(self) -> float:
        """See `Transport.probe`."""
        return self._client.verify()

    def close(self) -> None:
        """See `Transport.close`."""
        self._client.close()
