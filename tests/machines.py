"""Hosts as network namespaces on a switch of their own: each has its own address, and can be cut off and healed."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

NETWORK = IPv4Network("10.213.77.0/24")
"""Within the namespaces only: nothing routes there from outside them, nor from them to anywhere."""


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def can_be_made() -> bool:
    """Whether this process may make network namespaces."""
    name = f"mp-{os.getpid()}-probe"
    try:
        made = subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True)
    except FileNotFoundError:
        return False
    if made.returncode == 0:
        _ip("netns", "del", name)
    return made.returncode == 0


@dataclass(frozen=True)
class Host:
    """A host; its processes see its network, and process ids of their own, as on another machine."""

    name: str
    address: str
    switch: str
    port: str

    @property
    def prefix(self) -> list[str]:
        """Words before a command that is to run on it, with the test's own process ids."""
        return ["ip", "netns", "exec", self.name]

    @contextmanager
    def running(self, words: Sequence[str | Path], log: Path, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
        """Run a command on it as on another machine, and end it in order."""
        with log.open("ab") as out:
            apart = [*self.prefix, "unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
            named = ["sh", "-c", 'hostname "$0" && exec "$@"', self.name, *map(str, words)]
            process = subprocess.Popen([*apart, *named], stdout=out, stderr=subprocess.STDOUT, cwd=folder)
        try:
            yield process
        finally:
            # unshare itself ignores the signal: it waits for the first process of the new space.
            for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
                os.kill(int(child), signal.SIGTERM)
            try:
                process.wait(30)
            finally:
                process.kill()

    def cut_off(self) -> None:
        """Pull its cable: nothing says to anyone that it is gone."""
        _ip("-n", self.switch, "link", "set", self.port, "down")

    def heal(self) -> None:
        """Put the cable back."""
        _ip("-n", self.switch, "link", "set", self.port, "up")


@contextmanager
def hosts(*names: str) -> Iterator[list[Host]]:
    """Make hosts on one switch; all is gone at the end.

    Processes on them must have been ended by then.
    """
    made: list[str] = []
    prefix = f"mp-{os.getpid()}"

    def namespace(name: str) -> str:
        _ip("netns", "add", name)
        made.append(name)
        _ip("-n", name, "link", "set", "lo", "up")
        return name

    try:
        switch = namespace(f"{prefix}-switch")
        _ip("-n", switch, "link", "add", "br0", "type", "bridge")
        _ip("-n", switch, "link", "set", "br0", "up")
        found = []
        for number, name in enumerate(names, 1):
            host = Host(namespace(f"{prefix}-{name}"), str(NETWORK[number]), switch, f"p{number}")
            _ip("link", "add", "eth0", "netns", host.name, "type", "veth", "peer", "name", host.port, "netns", switch)
            _ip("-n", switch, "link", "set", host.port, "master", "br0")
            _ip("-n", switch, "link", "set", host.port, "up")
            _ip("-n", host.name, "addr", "add", f"{host.address}/{NETWORK.prefixlen}", "dev", "eth0")
            _ip("-n", host.name, "link", "set", "eth0", "up")
            found.append(host)
        yield found
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
