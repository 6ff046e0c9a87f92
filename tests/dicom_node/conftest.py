"""Fixtures of the node's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from node_bench import Clock, Pacs, RunningNode

from dicom_node.ledger import Ledger

if TYPE_CHECKING:
    from console_client import Console


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


@pytest.fixture
def ledger(tmp_path: Path, clock: Clock) -> Iterator[Ledger]:
    """An empty ledger on that clock."""
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite3'}", clock)
    ledger.migrate()
    yield ledger
    ledger.close()


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[Pacs]:
    with Pacs(tmp_path / "pacs") as pacs:
        yield pacs


@pytest.fixture
def node(tmp_path: Path, pacs: Pacs) -> Iterator[RunningNode]:
    node = RunningNode(tmp_path, pacs)
    yield node
    node.stop()


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    """The console on an empty ledger."""
    from console_client import Console  # templates and a server, which only its own tests need

    console = Console(tmp_path)
    yield console
    console.close()
