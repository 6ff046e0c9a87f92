"""A ledger with a key: everything works as without, nothing that leads to a patient can be read, keys can change."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from node_bench import received
from postgresql import cluster
from queued import queue_complete
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from typer.testing import CliRunner

from dicom_node.cli.app import app
from dicom_node.doctor.doctor import all_checks, chosen
from dicom_node.doctor.examination import examine
from dicom_node.ledger import Ledger, State, ledger_url
from dicom_node.ledger.database import Database, revisions
from dicom_node.ledger.overview import Filter
from dicom_node.ledger.sealing import LedgerKey
from dicom_node.settings import Settings
from engine.errors import MedregaError, NodeError, SettingsError

STUDY = "1.2.826.0.1.3680043.8.498.7777777777777"
KEY, OTHER = LedgerKey(bytes(range(64))), LedgerKey(bytes(64))


@given(st.text("0123456789.", min_size=1, max_size=64) | st.text(max_size=64))
def test_uids_come_back_as_they_were_in_the_room_of_a_uid(uid: str) -> None:
    sealed = KEY.seal_uid(uid)
    assert KEY.open_uid(sealed) == uid
    assert KEY.seal_uid(uid) == sealed
    assert OTHER.seal_uid(uid) != sealed
    if uid and set(uid) <= set("0123456789."):
        assert len(sealed) == 64


@given(st.text())
def test_words_come_back_as_they_were_and_none_stay_none(words: str) -> None:
    assert KEY.open(KEY.seal(words)) == words
    assert (KEY.seal(words) == "") == (words == "")


@pytest.mark.parametrize("sealed", ["", "no base 64", "1.2.3", OTHER.seal_uid(STUDY), KEY.seal(STUDY)])
def test_what_another_key_sealed_is_refused_with_the_settings_name(sealed: str) -> None:
    with pytest.raises(NodeError, match=r"ledger\.key_file"):
        KEY.open_uid(sealed)


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


def filled(url: str, key: LedgerKey | None) -> Ledger:
    """A ledger with a study that was read, and one that came by the receive path."""
    ledger = Ledger(url, key=key)
    ledger.migrate()
    ledger.intake.record(received(STUDY, f"{STUDY}.1"))
    ledger.arrivals.enter([received(f"{STUDY}.9", f"{STUDY}.9.1")])
    ledger.intake.close(STUDY, "as the test says")
    queue_complete(ledger)
    ledger.cancel(STUDY)
    return ledger


def look(ledger: Ledger) -> list[Any]:
    """What a ledger says of its studies, asked in each way that there is."""
    return [
        sorted(study.study_instance_uid for study in ledger.studies()),
        ledger.study(STUDY).runs[0].reason,
        [event.reason for event in ledger.study(STUDY).events],
        ledger.study(f"{STUDY}.9").runs[0].instances,
        ledger.intake.known_paths([f"studies/{STUDY}/{STUDY}.1.dcm", "studies/none"]),
        [row.first for row in ledger.overview.rows(Filter(uid=STUDY), limit=9) if row.study_instance_uid == STUDY],
    ]


def raw(url: str) -> str:
    """Everything that the database holds, as its files and its tables give it."""
    with closing(Database(url)) as database, database.read() as session:
        names = session.scalars(text(_NAMES[database.engine.dialect.name])).all()
        rows = [str(session.execute(text(f'SELECT * FROM "{name}"')).all()) for name in names]  # noqa: S608 - ours
    files = Path(url.removeprefix("sqlite:///")).parent.glob("ledger.sqlite3*") if url.startswith("sqlite") else ()
    return "".join([*rows, *(file.read_bytes().decode("latin-1") for file in files)])


_NAMES = {
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'table'",
    "postgresql": "SELECT tablename FROM pg_tables WHERE schemaname = 'public'",
}


def test_it_says_the_same_as_without_a_key_and_nothing_of_it_can_be_read(url: str, tmp_path: Path) -> None:
    with closing(filled(f"sqlite:///{tmp_path}/plain.sqlite3", None)) as plain, closing(filled(url, KEY)) as ledger:
        assert look(ledger) == look(plain)
        assert ledger.overview.count(Filter(uid=STUDY[:-1])) == 0  # whole UIDs alone can be asked for
        assert ledger.study(STUDY).runs[0].state is State.CANCELLED
        with pytest.raises(NodeError, match="has arrived"):
            ledger.study("no UID at all")
    told = raw(url)
    assert STUDY not in told
    assert "as the test says" not in told
    assert "CANCELLED" in told


def test_a_study_stands_by_its_last_reading_however_many_reports_are_added(url: str) -> None:
    with closing(Ledger(url, key=KEY)) as ledger:
        ledger.migrate()
        ledger.intake.record(received(STUDY, f"{STUDY}.1"))
        ledger.intake.close(STUDY, "whole")
        (run_id,) = queue_complete(ledger)
        claim = ledger.runs.claim(run_id, "reader:1:1", 60)
        assert claim is not None
        ledger.runs.end(claim, State.FAILED, "the model was not there")
        for number in (2, 3):
            report = replace(received(STUDY, f"{STUDY}.{number}"), sop_class_uid="1.2.840.10008.5.1.4.1.1.88.33")
            ledger.intake.record(report)
            ledger.intake.close(STUDY, "whole")
            assert queue_complete(ledger) == []
            (study,) = ledger.studies()
            assert (study.run_number, study.state) == (1, State.FAILED)
        assert ledger.retry(STUDY) is State.QUEUED


def test_a_wrong_missing_or_late_key_is_told_and_changes_nothing(url: str, tmp_path: Path) -> None:
    filled(url, KEY).close()
    before = raw(url)
    for key, words in ((OTHER, "not the key"), (None, "does not say with which")):
        with closing(Ledger(url, key=key)) as ledger, pytest.raises(NodeError, match=words) as refused:
            ledger.migrate()
        assert "ledger.key_file" in str(refused.value)
    assert raw(url) == before
    late = f"sqlite:///{tmp_path}/late.sqlite3"
    filled(late, None).close()
    with closing(Ledger(late, key=KEY)) as ledger, pytest.raises(NodeError, match="is not encrypted") as refused:
        ledger.migrate()
    assert "ledger rekey" in refused.value.advice


def test_keys_come_change_and_go_and_leave_nothing_of_before(url: str) -> None:
    ledger = filled(url, None)
    said = look(ledger)
    ledger.close()
    told: list[Any] = []
    for old, new in ((None, KEY), (KEY, OTHER), (OTHER, None)):
        with closing(Database(url, new)) as database:
            with pytest.raises(NodeError, match="encrypted"):
                database.rekey(KEY if old is not KEY else None, print)
            database.rekey(old, lambda *words: told.append(words))
        assert told[-1][1] == told[-1][2] > 0
        assert (STUDY in raw(url)) == (new is None)
        with closing(Ledger(url, key=new)) as ledger:
            ledger.migrate()
            assert look(ledger) == said
            more = f"{STUDY}.{len(told)}"
            ledger.arrivals.enter([received(more, f"{more}.1")])  # keys of rows link them as before
            said = look(ledger)
    with (
        closing(Database(url)) as database,
        database.engine.begin() as connection,
        pytest.raises(IntegrityError, match=r"(?i)foreign key"),
    ):
        connection.execute(text("DELETE FROM study"))


def test_older_versions_are_not_handed_an_encrypted_ledger(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.sqlite3"
    filled(url, KEY).close()
    with closing(Database(url, KEY)) as database, pytest.raises(NodeError, match="older versions cannot") as refused:
        database.downgrade(revisions()[0])
    assert "ledger rekey" in refused.value.advice


def test_commands_and_doctor_know_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, digits in (("one.key", "ab" * 64), ("two.key", "cd" * 64), ("none.key", "ab")):
        (tmp_path / name).write_text(f"{digits}\n")
        (tmp_path / name).chmod(0o600)

    def settings(key: str = "") -> Settings:
        line = f'[ledger]\nkey_file = "{tmp_path / key}"' if key else ""
        (tmp_path / "medrega-pacs.toml").write_text(f'[data]\npath = "{tmp_path / "data"}"\n{line}\n')
        return Settings.load()

    def says(*words: str) -> str:
        done = CliRunner().invoke(app, words)
        return done.output + (done.exception.explained if isinstance(done.exception, MedregaError) else "")

    def examined(kind: str) -> str:
        return "\n".join(f"{one.outcome} {one.words}" for one in examine(chosen(all_checks(settings_now), [kind])))

    settings_now = settings()
    data = tmp_path / "data"
    data.mkdir()
    filled(ledger_url(settings_now), None).close()
    settings_now = settings("one.key")
    assert "ledger rekey" in says("studies")
    assert "fail" in examined("database")
    assert "encrypted with" in says("ledger", "rekey")
    assert STUDY in says("studies")
    assert "encrypted with ledger.key_file" in examined("database")
    assert "ledger-copy" in says("ledger", "backup", "ledger-copy")
    settings_now = settings("two.key")
    assert "not the key" in says("studies")
    assert "--old-key" in says("ledger", "rekey")
    assert "encrypted with" in says("ledger", "rekey", "--old-key", "one.key")
    assert "not the key" in says(
        "ledger", "restore", "ledger-copy"
    )  # it is put back, and the key of its time is asked for
    settings_now = settings("one.key")
    assert STUDY in says("studies")
    settings_now = settings("none.key")
    assert "128 hexadecimal digits" in says("studies")
    assert "128 hexadecimal digits" in examined("secrets")
    settings_now = settings()
    assert "ledger.key_file does not say" in says("studies")
    with closing(sqlite3.connect(data / "ledger.sqlite3")) as connection:
        assert STUDY not in "\n".join(connection.iterdump())


def test_a_key_is_read_from_its_file_or_the_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "ledger.key"
    with pytest.raises(SettingsError, match=r"ledger\.key"):
        LedgerKey.read(file)
    file.write_text("AB" * 64 + "\n")
    assert LedgerKey.read(file).mark == LedgerKey(b"\xab" * 64).mark
