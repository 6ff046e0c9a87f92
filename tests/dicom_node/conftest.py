"""Fixtures of the node's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from node_bench import Clock, Pacs, RunningNode

from dicom_node.ledger import Ledger


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
