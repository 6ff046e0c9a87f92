"""dwv in a page of the test's own: how it is built, and what it says of what it draws."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from viewer_page import Placement, ViewerPage

from engine.findings import Box

VERSION = "0.36.4"
_SOURCE = Path(__file__).parent / "dwv"


def build_site(cache: Path) -> Path:
    """Bundle the page and dwv, of packages that package-lock.json knows; fails the test without npm or network."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.fail("npm is needed to fetch dwv: install Node.js (nodejs, npm)")
    folder = cache / f"dwv-{VERSION}"
    shutil.copytree(_SOURCE, folder, dirs_exist_ok=True)
    bundler = folder / "node_modules" / ".bin" / "esbuild"
    commands = [] if bundler.exists() else [[npm, "ci", "--silent", "--ignore-scripts"]]
    commands.append([str(bundler), "main.js", "--bundle", "--format=esm", "--outfile=bundle.js", "--log-level=warning"])
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
        if done.returncode:
            pytest.fail(f"dwv {VERSION} could not be built: {done.stderr.strip()[-500:]}")
    # Its decoders of compressed images, which it looks for beside the bundle.
    shutil.copytree(folder / "node_modules" / "dwv" / "dist" / "assets", folder / "assets", dirs_exist_ok=True)
    return folder


class DwvPage(ViewerPage):
    """Files open in dwv, one over the other."""

    def load(self, addresses: Sequence[str]) -> None:
        """Show files over those that are shown."""
        self.page.wait_for_function("() => window.ready")
        self.page.evaluate("addresses => load(addresses)", list(addresses))
        self.settle()

    def go(self, sop_instance_uid: str, frame: int) -> Placement:
        """Show a frame; gives where it is drawn."""
        self.page.evaluate("([uid, frame]) => go(uid, frame)", [sop_instance_uid, frame])
        self.settle()
        found = self.page.evaluate("() => corners()")
        return Placement.from_corners(sop_instance_uid, frame, (found["columns"], found["rows"]), found["corners"])

    def rectangles(self) -> list[Box]:
        """Every rectangle drawn over the image, in pixels of the page."""
        return [(x, y, x + width, y + height) for x, y, width, height in self.page.evaluate("() => rectangles()")]

    def canvas(self, *, rectangles: bool) -> NDArray[np.uint8]:
        """The page, with its rectangles or without."""
        self.page.evaluate("visible => showRectangles(visible)", rectangles)
        self.settle()
        return self.picture()
