"""A real Orthanc, the studies in it, and a headless Chromium: one of each for all viewers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
# The synthetic sources and the peers are those of the other tests; the viewer's site is the one that people try.
sys.path += [str(TESTS / "sr_writer"), str(TESTS / "integration"), str(TESTS.parent / "deploy" / "try-orthanc-ohif")]

from peers import Orthanc, running_orthanc  # noqa: E402
from playwright.sync_api import BrowserContext, sync_playwright  # noqa: E402
from viewer_cases import CASES, Case  # noqa: E402

from sr_writer import dump  # noqa: E402

CHROMIUM = Path("/usr/bin/chromium")
PLUGINS = [Path("/usr/share/orthanc/plugins") / f"libOrthanc{name}.so" for name in ("DicomWeb", "WebViewer")]


@pytest.fixture(scope="session")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """Orthanc with DICOMweb and its own viewer."""
    if not all(plugin.exists() for plugin in PLUGINS):
        pytest.fail("Orthanc's plugins are needed: apt-get install orthanc orthanc-dicomweb orthanc-webviewer")
    folder = tmp_path_factory.mktemp("orthanc")
    with running_orthanc(
        folder,
        Plugins=[str(plugin) for plugin in PLUGINS],
        DicomWeb={"Enable": True, "Root": "/dicom-web/", "StudiesMetadata": "Full", "SeriesMetadata": "Full"},
        WebViewer={"CachePath": str(folder / "cache")},
    ) as server:
        yield server


@pytest.fixture(scope="session")
def stored(orthanc: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """Every case asked for, once it was stored."""

    class Stored(dict[str, Case]):
        def __missing__(self, name: str) -> Case:
            case = self[name] = CASES[name](tmp_path_factory.mktemp(name))
            for instance in case.study.instances:
                orthanc.post("/instances", instance.path.read_bytes())
            for result in case.results:
                orthanc.post("/instances", dump(result))
            return case

    return Stored()


@pytest.fixture(scope="session")
def browser() -> Iterator[BrowserContext]:
    """Debian's Chromium, drawing in software: no GPU is needed."""
    if not CHROMIUM.exists():
        pytest.fail("Chromium is needed: apt-get install chromium fonts-dejavu-core")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist", "--no-sandbox"],
        )
        # One context for all: its cache spares every page but the first from compiling a viewer anew.
        yield browser.new_context(viewport={"width": 1250, "height": 800})
        browser.close()
