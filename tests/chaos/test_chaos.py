"""Chaos in short: what ``make chaos`` does for minutes with hundreds of studies and every fault."""

import sys
from pathlib import Path

import pytest

_TESTS = Path(__file__).parent.parent
sys.path += [str(_TESTS / "dicom_node"), str(_TESTS / "integration")]

import chaos  # noqa: E402

KILLED = ["listener killed", "reader killed", "Redis killed"]
STRUCK = [*KILLED, "archive aborts", "power cut", "ledger locked"]


@pytest.mark.parametrize(
    ("studies", "faults"), [(4, KILLED), pytest.param(8, STRUCK, marks=pytest.mark.slow)], ids=["few", "more"]
)
def test_studies_get_through_though_everything_dies_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], studies: int, faults: list[str]
) -> None:
    verdict, evidence = chaos.run(tmp_path, 7, studies, 1, faults)
    assert verdict.wrong == {}, capsys.readouterr().out
    assert set(evidence) == set(faults), capsys.readouterr().out
    assert verdict.acknowledged == verdict.instances > studies
    assert verdict.results > 2 * verdict.studies
