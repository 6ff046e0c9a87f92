"""A short chaos: what ``make chaos`` does for minutes with hundreds of studies and every fault."""

import sys
from pathlib import Path

import pytest

_TESTS = Path(__file__).parent.parent
sys.path += [str(_TESTS / "dicom_node"), str(_TESTS / "integration")]

import chaos  # noqa: E402

pytestmark = pytest.mark.slow

STRUCK = ["listener killed", "reader killed", "Redis killed", "archive aborts", "power cut", "ledger locked"]


def test_studies_get_through_though_everything_dies_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verdict, evidence = chaos.run(tmp_path, 7, 8, 1, STRUCK)
    assert verdict.wrong == {}, capsys.readouterr().out
    assert set(evidence) == set(STRUCK), capsys.readouterr().out
    assert verdict.acknowledged == verdict.instances > 8
    assert verdict.results > 2 * verdict.studies
