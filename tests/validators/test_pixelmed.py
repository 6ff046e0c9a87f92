"""PixelMed's DicomSRValidator finds no fault in the templates of any SR: some ten seconds of work a document."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from sr_cases import boxes_on, header, reading, sources_of_every_kind

from engine.findings import RunState, StudyReading
from sr_writer import dump, kind_of, load_profile, write_results

pytestmark = pytest.mark.timeout(600)
PACKAGES = "libpixelmed-java libcommons-codec-java libvecmath-java libslf4j-java default-jre-headless"
JARS = [
    Path(f"/usr/share/java/{name}.jar")
    for name in ("pixelmed", "commons-codec", "vecmath", "slf4j-api", "slf4j-nop", "javax.json")
]
# Its style sheets are larger than what Java's XPath takes from strangers.
LIMITS = [f"-Djdk.xml.xpath{name}=0" for name in ("ExprGrpLimit", "ExprOpLimit", "TotalOpLimit")]
PHOTOGRAPH = "1.2.840.10008.5.1.4.1.1.77.1.4"
CASES = {
    "dx": lambda: sources_of_every_kind()["dx"],
    "ct": lambda: sources_of_every_kind()["ct series"],
    "ultrasound": lambda: sources_of_every_kind()["ultrasound multi-frame"],
    "enhanced-ct": lambda: sources_of_every_kind()["enhanced ct"],
    "photograph": lambda: [header(PHOTOGRAPH, "XC")],
}


def errors(result: Dataset, folder: Path) -> list[str]:
    """What the validator calls an error. A warning is what a template of 2022 does not have: it is not looked at."""
    missing = [jar.name for jar in JARS if not jar.exists()]
    if missing:
        pytest.fail(f"PixelMed's validator is missing: apt-get install {PACKAGES}")
    path = folder / f"{kind_of(result)}.dcm"
    path.write_bytes(dump(result))
    classes = ":".join(map(str, JARS))
    command = ["java", "-Xmx2g", *LIMITS, "-cp", classes, "com.pixelmed.validate.DicomSRValidator", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    said = done.stdout + done.stderr
    assert "IOD validation complete" in said, said[-2000:]
    assert "Root Template Validation Complete" in said, said[-2000:]
    return [line for line in said.splitlines() if line.startswith("Error")]


def written(name: str, profile: str, kind: str, state: RunState = RunState.FINDINGS) -> Dataset:
    """Write one SR of a case."""
    sources = CASES[name]()
    read: StudyReading = reading(sources, boxes_on(sources) if state is RunState.FINDINGS else (), state=state)
    (found,) = [one for one in write_results(read, sources, load_profile(profile)) if kind_of(one) == kind]
    return found


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("profile", ["viewer", "ihe-air"])
def test_a_report_of_regions_has_no_error(name: str, profile: str, tmp_path: Path) -> None:
    assert errors(written(name, profile, "sr"), tmp_path) == []


@pytest.mark.parametrize("kind", ["narrative-en", "narrative-zh"])
def test_a_narrative_has_no_error(kind: str, tmp_path: Path) -> None:
    assert errors(written("dx", "viewer", kind), tmp_path) == []


def test_a_report_without_findings_has_no_error(tmp_path: Path) -> None:
    assert errors(written("ct", "viewer", "sr", RunState.NO_FINDINGS), tmp_path) == []


def test_a_report_that_lacks_what_its_template_demands_has_one(tmp_path: Path) -> None:
    result = written("dx", "viewer", "sr")
    codes = [item.ConceptNameCodeSequence[0].CodeValue for item in result.ContentSequence]
    del result.ContentSequence[codes.index("126010")]  # Imaging Measurements
    assert any("126010" in error for error in errors(result, tmp_path))
