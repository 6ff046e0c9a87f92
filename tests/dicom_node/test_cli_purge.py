"""``purge``: what it shows, what it removes, and what it leaves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fronts import stored
from test_cli import run  # noqa: F401 - a fixture

from dicom_node.ledger import Ledger
from dicom_node.settings import Settings
from dicom_node.spool import Spool


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """A node's folder with a study that was read, and one that waits for its destination."""
    settings = Settings(data={"path": tmp_path / "medrega-data"})
    ledger = Ledger.open(settings)
    spool = Spool(settings.data.path)
    for uid, destinations in (("1.2.1", []), ("1.2.2", ["pacs"])):
        stored(ledger, spool, destinations, uid)
        path = spool.root / f"studies/{uid}/x.dcm"
        path.parent.mkdir()
        path.write_bytes(bytes(3 << 20))
    ledger.close()
    return spool


def test_purge_shows_what_goes_and_what_stays_and_removes_only_that(
    run: Callable[..., Any],  # noqa: F811
    spool: Spool,
) -> None:
    status, out, _ = run("purge", "--older-than", "0s", "--dry-run")
    assert status == 0
    assert "goes   1.2.1  1 image, 3 MiB: older than 0 s" in out
    assert "stays  1.2.2  3 MiB: it is DELIVERING" in out
    assert "nothing was removed" in out
    assert len(list(spool.root.glob("studies/*/*.dcm"))) == 2

    status, out, _ = run("purge", "--older-than", "0s")
    assert (status, "1 image and 0 results removed" in out) == (0, True)
    assert [path.parent.name for path in spool.root.glob("studies/*/*.dcm")] == ["1.2.2"]
    status, out, _ = run("study", "1.2.1")
    assert "1 image removed: older than 0 s" in out

    status, out, _ = run("purge")  # no limit is set
    assert "0 go" in out
    assert "nothing was removed" in out


def test_an_age_that_is_none_is_wrong_usage(run: Callable[..., Any], spool: Spool) -> None:  # noqa: F811, ARG001
    status, _, err = run("purge", "--older-than", "soon")
    assert status == 2
    assert "write 90d" in err
