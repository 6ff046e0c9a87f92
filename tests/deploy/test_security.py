"""The page on security is true as far as a test can hold it to that."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "deploy" / "SECURITY.md").read_text(encoding="utf-8")
HEADS = ("| **", "| Threat", "| found")
THREATS = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith(HEADS)]


def test_every_threat_names_tests_and_every_test_is_there() -> None:
    assert len(THREATS) > 20
    for threat in THREATS:
        named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", threat.split(" | ")[-1])
        assert named, threat
        for file, test in named:
            (path,) = (ROOT / "tests").rglob(file)
            assert f"\ndef {test}(" in path.read_text(encoding="utf-8"), f"{file}::{test}"


def test_every_kind_of_threat_is_thought_of() -> None:
    kinds = ["Spoofing", "Tampering", "Repudiation", "Information disclosure", "Denial of service"]
    assert re.findall(r"^\| \*\*(.+)\*\*", PAGE, re.MULTILINE) == [*kinds, "Elevation of privilege"]
