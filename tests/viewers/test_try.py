"""The trial that people start by `make try`: its viewer opens on the result, with the boxes in their place."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ohif_page import OhifPage
from playwright.sync_api import BrowserContext

pytestmark = pytest.mark.timeout(600)
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Where the viewer opens, once the studies were read."""
    # What was fetched for the other tests is not fetched again.
    for fetched in (ROOT / "build").glob("ohif-app-3.13.2"):
        (tmp_path / fetched.name).symlink_to(fetched)
    command = [sys.executable, str(ROOT / "deploy" / "try-orthanc-ohif" / "try.py"), "--out", str(tmp_path)]
    with subprocess.Popen(
        [*command, "--no-browser"], stdout=subprocess.PIPE, text=True, env={"PATH": "/usr/bin:/bin"}
    ) as process:
        assert process.stdout is not None
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line)
            if "Ctrl-C" in line:
                break
        found = re.findall(r"DELIVERED: (\S+)", "".join(lines))
        yield found[0] if found else "".join(lines)
        process.send_signal(signal.SIGINT)
        process.stdout.read()


def test_the_viewer_opens_on_the_result_with_its_boxes(address: str, browser: BrowserContext) -> None:
    assert address.startswith("http://127.0.0.1:"), address
    with OhifPage.open(browser, address) as ohif:
        ohif.wait_for_image()
        # Of a report that is not yet taken over the shapes are dashed lines, with the site of the finding beside them.
        ohif.page.wait_for_function("() => document.querySelector('svg.svg-layer')?.textContent.includes('Phantom')")
        assert not ohif.errors
