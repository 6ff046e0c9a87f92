"""Copies of the ledger, and the way back to an older version, on SQLite and on PostgreSQL."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgresql import cluster
from sqlalchemy import text

from dicom_node.ledger import Ledger
from dicom_node.ledger.backup import back_up, restore
from dicom_node.ledger.database import Database, revisions
from dicom_node.node import OnlyOne, at_work
from dicom_node.settings import DataSettings, Settings
from engine.errors import NodeError


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with cluster() as running:
        yield running.url()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/ledger.sqlite3"
        return
    server = request.getfixturevalue("server")
    yield server
    database = Database(server)
    with database.write() as session:
        session.execute(text("DROP SCHEMA public CASCADE"))
        session.execute(text("CREATE SCHEMA public"))
    database.close()


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    made = Ledger(url)
    made.migrate()
    yield made
    made.close()


def test_a_copy_put_back_is_the_ledger_as_it_was(ledger: Ledger, url: str, tmp_path: Path) -> None:
    ledger.switches.pause("reading")
    back_up(url, tmp_path / "copy")
    ledger.switches.pause("delivery")
    ledger.close()
    restore(url, tmp_path / "copy")
    again = Ledger(url)
    assert set(again.switches.paused()) == {"reading"}
    again.close()
    assert (tmp_path / "copy").stat().st_mode & 0o077 == 0


def test_a_copy_is_never_written_over_and_a_failed_one_leaves_nothing(ledger: Ledger, url: str, tmp_path: Path) -> None:
    back_up(url, tmp_path / "copy")
    with pytest.raises(NodeError, match="is there already"):
        back_up(url, tmp_path / "copy")
    ledger.close()
    with pytest.raises(NodeError):
        back_up(url.replace("ledger.sqlite3", "none.sqlite3").replace("/postgres", "/none"), tmp_path / "second")
    assert [path.name for path in tmp_path.iterdir() if "copy" in path.name or "second" in path.name] == ["copy"]


def test_what_is_no_copy_is_not_put_back(ledger: Ledger, url: str, tmp_path: Path) -> None:
    ledger.switches.pause("reading")
    ledger.close()
    (tmp_path / "copy").write_bytes(b"no ledger at all" * 1000)
    with pytest.raises(NodeError):
        restore(url, tmp_path / "copy")
    again = Ledger(url)
    assert set(again.switches.paused()) == {"reading"}
    again.close()


def test_a_damaged_copy_is_not_put_back(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.sqlite3"
    made = Ledger(url)
    made.migrate()
    made.close()
    back_up(url, tmp_path / "copy")
    whole = (tmp_path / "copy").read_bytes()
    (tmp_path / "copy").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(NodeError, match=r"cannot be copied|damaged"):
        restore(url, tmp_path / "copy")
    with sqlite3.connect(tmp_path / "ledger.sqlite3") as connection:
        assert connection.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,)
    connection.close()


def test_tables_go_back_to_each_older_version_and_up_again(ledger: Ledger, url: str) -> None:
    ledger.close()
    database = Database(url)
    for revision in reversed(revisions()):
        database.downgrade(revision)
        assert database.revision() == revision
        database.migrate()
        assert database.revision() == revisions()[-1]
    with pytest.raises(NodeError, match="cannot be taken back to 9999"):
        database.downgrade("9999")
    database.close()


def test_a_ledger_of_a_newer_version_is_left_alone_and_the_way_out_is_told(ledger: Ledger, url: str) -> None:
    ledger.close()
    database = Database(url)
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(NodeError, match="of a newer version of the node: its tables are at 9999") as refused:
        database.migrate()
    assert f"medrega-pacs ledger downgrade {revisions()[-1]}" in refused.value.advice
    database.close()


def test_nothing_is_taken_back_under_a_node_that_runs(server: str, tmp_path: Path) -> None:
    node, other = Ledger(server), Database(server)
    node.migrate()
    with pytest.raises(NodeError, match="a node is connected"):
        other.downgrade(revisions()[0])
    node.close()
    other.close()
    settings = Settings(data=DataSettings(path=tmp_path))
    with OnlyOne(settings), pytest.raises(NodeError, match="another node runs"), OnlyOne(settings):
        pass
    change, working = at_work(settings, alone=True), at_work(settings)
    with working, at_work(settings), pytest.raises(NodeError, match="part of the node"), change:
        pass
    with at_work(settings, alone=True), pytest.raises(NodeError, match="a command changes"), at_work(settings):
        pass
