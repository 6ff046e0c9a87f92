"""Make the offline bundle: all that a machine without any package index needs to install and run the node.

Run by ``make bundle``, on a machine with an index, of the same system and Python version as the one it is for.
"""

from __future__ import annotations

import argparse
import email
import hashlib
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Iterator
from importlib.metadata import PathDistribution
from pathlib import Path

from materials import licence_page, materials
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
EXTRAS = "demo,postgresql"
SHIPPED = ("compose", "compose.yaml", "helm", "systemd", "try-orthanc-ohif")
"""Of ``deploy/``, beside its pages: what an administrator copies from."""


def run(*command: str | Path) -> None:
    """Run a command that has to succeed."""
    subprocess.run([str(word) for word in command], check=True)  # noqa: S603 - our own command lines, no shell


def bundle_name(wheel: Path) -> str:
    """The bundle's name: the node's version, and the Python and machine that its wheels are for."""
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    machine = sysconfig.get_platform().replace("-", "_")
    return f"medrega-pacs-{wheel.name.split('-')[1]}-{python}-{machine}"


def fill(folder: Path, wheel: Path, extras: str) -> None:
    """Gather everything below a folder, and prove that the wheels suffice by installing them without an index."""
    wheels = folder / "wheels"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    wheels.mkdir(parents=True)
    shutil.copy(wheel, wheels)
    constraints = DEPLOY / "constraints.txt"
    wanted = [f"{wheels / wheel.name}[{extras}]", "pip"]
    download = [*pip, "download", "--only-binary", ":all:", "--dest", wheels, "--constraint", constraints]
    run(*download, *wanted)
    if backports := wanted_by_an_older_patch(wheels):
        run(*download, *backports)

    shutil.copy(DEPLOY / "bundle" / "install.sh", folder)
    (folder / "EXTRAS").write_text(f"{extras}\n", encoding="ascii")
    (folder / "PYTHON").write_text("{}.{}\n".format(*sys.version_info), encoding="ascii")
    with tempfile.TemporaryDirectory() as empty:
        venv.create(empty, with_pip=False)
        python = Path(empty) / "bin" / "python"
        (packed_pip,) = wheels.glob("pip-*.whl")
        offline = ["--no-index", "--find-links", wheels, "--disable-pip-version-check", "--quiet"]
        run(python, packed_pip / "pip", "install", *offline, wanted[0])
        bill = materials(python)
        (folder / "sbom.cdx.json").write_text(bill.text, encoding="utf-8")
        (folder / "LICENCES.md").write_text(licence_page(bill), encoding="utf-8")
        for name, text in licence_texts(Path(empty)):
            path = folder / "licences" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text)

    guides = folder / "deploy"
    guides.mkdir()
    for path in [*DEPLOY.glob("*.md"), *DEPLOY.glob("*.json"), *DEPLOY.glob("*.yml")]:
        shutil.copy(path, guides)
    for name in SHIPPED:
        if (DEPLOY / name).is_dir():
            # A site's passwords lie in compose/.
            shutil.copytree(DEPLOY / name, guides / name, ignore=shutil.ignore_patterns("*-password", "__pycache__"))
        else:
            shutil.copy(DEPLOY / name, guides)
    for name in ("README.md", "LICENSE", "CHANGELOG.md"):
        shutil.copy(ROOT / name, folder)


def wanted_by_an_older_patch(wheels: Path) -> set[str]:
    """What the wheels need on the first release of this Python, 3.11.0 say, and not on the one that runs here."""
    first = {"python_full_version": "{}.{}.0".format(*sys.version_info), "extra": ""}
    wanted = set()
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
            metadata = email.message_from_bytes(archive.read(name))
        for line in metadata.get_all("Requires-Dist", []):
            requirement = Requirement(line)
            marker = requirement.marker
            if marker is not None and marker.evaluate(first) and not marker.evaluate({"extra": ""}):
                wanted.add(f"{requirement.name}{requirement.specifier}")
    return wanted


def licence_texts(environment: Path) -> Iterator[tuple[str, bytes]]:
    """Every licence file of what is installed in a virtual environment, as ``NAME-VERSION/FILE``."""
    for info in sorted(environment.glob("lib/python*/site-packages/*.dist-info")):
        package = PathDistribution(info)
        for file in package.files or ():
            if file.parts[0] == info.name and any(word in file.name.upper() for word in ("LICEN", "COPYING", "NOTICE")):
                yield "/".join([info.stem, *file.parts[1:]]), Path(str(package.locate_file(file))).read_bytes()


def write_sums(folder: Path) -> None:
    """The SHA-256 of every file, for ``sha256sum --check``."""
    lines = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.relative_to(folder)}\n")
    (folder / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


def pack(folder: Path, out: Path) -> None:
    """A tar file (wheels are compressed already) with nobody's name and no date in it."""

    def anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = entry.mtime = 0
        entry.uname = entry.gname = "root"
        entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
        return entry

    with tarfile.open(out, "w") as archive:
        archive.add(folder, arcname=folder.name, filter=anonymous)


def main() -> None:
    """Make a bundle, and print where it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder that gets the bundle")
    parser.add_argument("--extras", default=EXTRAS, help="extras of the package that are to be installed")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=given.out) as scratch:
        run(sys.executable, "-m", "build", "--wheel", "--outdir", scratch, ROOT)
        (wheel,) = Path(scratch).glob("medrega_pacs-*.whl")
        folder = Path(scratch) / bundle_name(wheel)
        fill(folder, wheel, given.extras)
        write_sums(folder)
        bundle = given.out / f"{folder.name}.tar"
        pack(folder, bundle)
    with bundle.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    Path(f"{bundle}.sha256").write_text(f"{digest}  {bundle.name}\n", encoding="ascii")
    print(f"{bundle} ({bundle.stat().st_size / 2**20:.0f} MiB), SHA-256 {digest}")


if __name__ == "__main__":
    main()
