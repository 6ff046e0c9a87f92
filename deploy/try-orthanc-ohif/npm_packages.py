"""Viewers as their makers release them: npm packages of known digests, fetched once into a folder."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from engine.errors import NodeError


@dataclass(frozen=True)
class NpmPackage:
    """A release: its name, version and digest (``dist.integrity`` of the registry)."""

    name: str
    version: str
    integrity: str

    def fetch(self, cache: Path) -> Path:
        """Unpack it below a folder, once; it never holds other bytes than those known.

        Raises
        ------
        NodeError
            Without npm or its registry, or if the package is another one.
        """
        folder = cache / f"{self.name.strip('@').replace('/', '-')}-{self.version}"
        if (folder / "package").is_dir():
            return folder / "package"
        npm = shutil.which("npm")
        if npm is None:
            raise NodeError("npm is needed to fetch viewers", advice="apt-get install nodejs npm")
        unpacked = folder.with_suffix(f".{os.getpid()}")
        unpacked.mkdir(parents=True)
        try:
            command = [npm, "pack", "--silent", "--pack-destination", str(unpacked), f"{self.name}@{self.version}"]
            done = subprocess.run(  # noqa: S603 - our own command line
                command, capture_output=True, text=True, check=False, cwd=unpacked
            )
            packed = next(unpacked.glob("*.tgz"), None)
            if done.returncode or packed is None:
                raise NodeError(f"npm could not fetch {self.name} {self.version}: {done.stderr.strip()[-500:]}")
            digest = base64.b64encode(hashlib.sha512(packed.read_bytes()).digest()).decode("ascii")
            if f"sha512-{digest}" != self.integrity:
                raise NodeError(f"{self.name} {self.version} is not the package known: its digest is sha512-{digest}")
            with tarfile.open(packed) as archive:
                archive.extractall(unpacked, filter="data")
            packed.unlink()
            shutil.rmtree(folder, ignore_errors=True)
            unpacked.rename(folder)
        finally:
            shutil.rmtree(unpacked, ignore_errors=True)
        return folder / "package"
