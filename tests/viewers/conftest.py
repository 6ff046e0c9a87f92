"""A real Orthanc, OHIF's site before it, and a headless Chromium: one of each for all cases."""

from __future__ import annotations

import json
import sys
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
# The synthetic sources and the peers are those of the other tests.
sys.path += [str(TESTS / "sr_writer"), str(TESTS / "integration")]

from peers import Orthanc, running, wait_until  # noqa: E402
from playwright.sync_api import BrowserContext, sync_playwright  # noqa: E402
from ports import free_port  # noqa: E402
from viewer_site import MissingViewerError, ohif_folder, serve  # noqa: E402

from dicom_node import scu  # noqa: E402

CHROMIUM = Path("/usr/bin/chromium")
DICOM_WEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


@pytest.fixture(scope="session")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """Orthanc with DICOMweb, its own storage and free ports."""
    if not DICOM_WEB.exists():
        pytest.fail("Orthanc's DICOMweb is needed: apt-get install orthanc orthanc-dicomweb")
    folder = tmp_path_factory.mktemp("orthanc")
    http, dicom = free_port(), free_port()
    config = {
        "Name": "viewers",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": http,
        "DicomPort": dicom,
        "DicomAet": "ORTHANC",
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": [str(DICOM_WEB)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "StudiesMetadata": "Full", "SeriesMetadata": "Full"},
    }
    (folder / "orthanc.json").write_text(json.dumps(config), encoding="utf-8")
    with running(["/usr/sbin/Orthanc", str(folder / "orthanc.json")], folder / "orthanc.log") as process:
        server = Orthanc(scu.Peer("ORTHANC", "127.0.0.1", dicom), f"http://127.0.0.1:{http}")

        def answers() -> bool:
            try:
                server.get("/system")
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                return False
            return True

        wait_until(answers, "Orthanc to answer", process)
        yield server


@pytest.fixture(scope="session")
def site(orthanc: Orthanc) -> Iterator[str]:
    """OHIF's address."""
    try:
        folder = ohif_folder(TESTS.parent / "build")
    except MissingViewerError as error:
        pytest.fail(str(error))
    with serve(folder, orthanc.url) as address:
        yield address


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
        # One context for all: its cache spares every page but the first from compiling OHIF anew.
        yield browser.new_context(viewport={"width": 1250, "height": 800})
        browser.close()
