"""Ports of loopback for servers that a test starts."""

import random
import socket
from itertools import islice
from typing import Final

# Below the range from which a system picks ports for outgoing connections (32768 and up on Linux): a port from within
# it, free when it was asked for, is now and then taken by a connection before the server listens.
_PORTS: Final = range(20000, 32000)


def free_port() -> int:
    """Find a port on which nothing listens."""
    for port in islice(iter(lambda: random.choice(_PORTS), None), 100):  # noqa: S311 - nothing secret
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no port of loopback is free")
