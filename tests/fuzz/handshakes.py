"""Hostile handshakes with a listener that asks for TLS, and what comes after them."""

from __future__ import annotations

import random
import socket
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import wire
from certificates import Authority, Certificate
from client_hello import client_hello
from mutations import mutated
from ports import free_port
from program import Program

from dicom_node.dimse import scu
from dicom_node.dimse.association import PeerError, Timeouts
from dicom_node.dimse.tls import client_context
from dicom_node.settings import Settings, TlsSettings

_SEVERAL = 6
_STALLED = 40
"""Connections beside a batch that stop within their handshake."""


class Handshakes:
    """A listener with TLS that is attacked; `batch` returns what it found and how many connections it made."""

    def __init__(self, program: Program, port: int, known: TlsSettings, unknown: TlsSettings) -> None:
        self._program, self._port = program, port
        self._known, self._unknown = known, unknown
        self._peer = scu.Peer("MEDREGA", "127.0.0.1", port)
        self._marked = False

    def answers(self) -> bool:
        """Whether it answers C-ECHO to who is known."""
        try:
            scu.echo(self._peer, timeouts=Timeouts(20, 20), tls=client_context(self._known))
        except PeerError:
            return False
        return True

    def batch(self, chance: random.Random, size: int) -> tuple[int, list[str]]:
        """So many connections, beside some that stop within their handshake."""
        plays = [(chance.randrange(5), random.Random(chance.random())) for _ in range(size)]  # noqa: S311
        with ExitStack() as stalled, ThreadPoolExecutor(_SEVERAL) as pool:
            for _ in range(_STALLED):
                with suppress(OSError):
                    one = stalled.enter_context(socket.create_connection(("127.0.0.1", self._port), timeout=5))
                    hello = client_hello()
                    one.sendall(hello[: chance.randrange(len(hello))])
            list(pool.map(lambda play: self._play(*play), plays))
        if not self._marked:
            self._program.mark()
            self._marked = True
        return size + _STALLED, self._program.faults(self.answers)

    def _play(self, kind: int, chance: random.Random) -> None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self._port), timeout=6) as connection:
            if kind < 2:
                connection.sendall(mutated(client_hello(), chance) if kind else b"\x16" + chance.randbytes(300))
                _rest(connection)
                return
            tls = self._unknown if kind == 2 else self._known
            with client_context(tls).wrap_socket(connection, server_hostname="127.0.0.1") as secured:
                said = wire.associate_rq()
                secured.sendall(mutated(said, chance) if kind == 3 else said)
                if kind == 3:
                    _rest(secured)
                    return
                secured.recv(4096)  # within the association, something that is no record; or it is reset
                beneath = socket.socket(fileno=secured.detach())
            with beneath:
                if chance.random() < 0.5:
                    beneath.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                else:
                    beneath.sendall(chance.choice((b"\x17\x03\x03\x00\x10", b"\x14", b"\4")) + chance.randbytes(40))
                    _rest(beneath)


def _rest(connection: socket.socket) -> None:
    while connection.recv(1 << 16):
        pass


@contextmanager
def attacked(folder: Path) -> Iterator[Callable[[random.Random, int], tuple[int, list[str]]]]:
    """A listener process with TLS, ready; what is given plays a batch."""
    authority = Authority(folder / "authority")
    node = authority.issue("node")
    stranger: Certificate = Authority(folder / "elsewhere", "elsewhere").issue("stranger")
    settings = Settings(
        data={"path": folder / "data", "minimum_free_mib": 0},  # type: ignore[arg-type]  # pydantic makes a table of it
        listener={  # type: ignore[arg-type]
            "port": free_port(),
            "tls": node.tls(authority.ca),
            "acse_timeout_seconds": 2,
            "dimse_timeout_seconds": 3,
            "network_timeout_seconds": 3,
        },
    )
    with Program("dicom_node.dimse.process", settings, folder) as program:
        known = authority.issue("scanner").tls(authority.ca)
        handshakes = Handshakes(program, settings.listener.port, known, stranger.tls(authority.ca))
        end = time.monotonic() + 90
        while not handshakes.answers():
            assert time.monotonic() < end, program.log.read_text()
            assert program.process.poll() is None, program.log.read_text()
            time.sleep(0.1)
        yield handshakes.batch
