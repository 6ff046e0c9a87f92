"""The console in the test's own process, at a port of loopback, and browsers of people who have signed in."""

from __future__ import annotations

import re
import socket
import threading
from functools import cache
from pathlib import Path
from typing import Any

import httpx
from ports import free_port

from dicom_node.console.accounts import Role, hashed
from dicom_node.console.server import make_server
from dicom_node.ledger import Ledger
from dicom_node.settings import Settings
from dicom_node.spool import Spool

PASSWORD = "correct horse battery"  # noqa: S105 - of accounts that end with the test


class Console:
    """A console on a ledger and a spool of its own.

    Attributes
    ----------
    settings : Settings
    ledger : Ledger
    spool : Spool
    url : str
    """

    def __init__(self, folder: Path, **sections: Any) -> None:
        data = {"path": folder / "data", "minimum_free_mib": 0}
        own = {"port": free_port()} | sections.pop("console", {})
        self.settings = Settings(**{"data": data, "console": own} | sections)
        self.ledger = Ledger.open(self.settings)
        self.spool = Spool.of(self.settings)
        self.url = f"http://127.0.0.1:{self.settings.console.port}"
        self._server = make_server(self.settings, self.ledger, self.spool)
        self._socket = socket.create_server(("127.0.0.1", self.settings.console.port))
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],))
        self._thread.start()
        self._clients: list[httpx.Client] = []

    def client(self) -> httpx.Client:
        """A browser of nobody."""
        client = httpx.Client(base_url=self.url, follow_redirects=True, timeout=60)
        self._clients.append(client)
        return client

    def signed_in(self, role: Role = Role.ADMINISTRATOR) -> httpx.Client:
        """A browser of somebody who has that role, and is named after it."""
        self.add_account(role)
        client = self.client()
        answer = client.post("/sign-in", data={"name": role, "password": PASSWORD, "csrf": csrf(client)})
        assert answer.status_code == 200, answer.text
        return client

    def add_account(self, role: Role) -> None:
        """An account of that role, named after it, with `PASSWORD`."""
        if self.ledger.accounts.password(role) is None:
            self.ledger.accounts.add(role, role, _hash())

    def close(self) -> None:
        for client in self._clients:
            client.close()
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()
        self.ledger.close()


def csrf(client: httpx.Client, path: str = "/sign-in") -> str:
    """The token that the forms of a page bring along."""
    (token,) = set(re.findall(r'name="csrf" value="([0-9a-f]+)"', client.get(path).text))
    return token


@cache
def _hash() -> str:
    return hashed(PASSWORD)
