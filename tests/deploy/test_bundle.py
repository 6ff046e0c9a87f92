"""The offline bundle: it installs where nothing can be fetched, and says what is wrong where it cannot."""

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

BUNDLE = Path(__file__).parent.parent.parent / "deploy" / "bundle"
THIS = f"{sys.version_info.major}.{sys.version_info.minor}"


def install(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = ["sh", str(folder / "install.sh"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """What install.sh looks at before it installs anything."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "PYTHON").write_text(f"{THIS}\n")
    (folder / "install.sh").write_bytes((BUNDLE / "install.sh").read_bytes())
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("PYTHON", "install.sh")}
    sums = [f"{digest}  {name}\n" for name, digest in digests.items()]
    (folder / "SHA256SUMS").write_text("".join(sums))
    return folder


def test_a_damaged_bundle_is_not_installed(bundle: Path, tmp_path: Path) -> None:
    with (bundle / "install.sh").open("a") as script:
        script.write("# one bit more\n")
    done = install(bundle, "--prefix", tmp_path / "here", "--python", sys.executable)
    assert done.returncode == 1
    assert "the bundle is damaged: copy it again" in done.stderr
    assert not (tmp_path / "here").exists()


def test_another_python_than_the_wheels_are_for_is_refused_by_name(bundle: Path, tmp_path: Path) -> None:
    (bundle / "PYTHON").write_text("3.99\n")
    done = install(bundle, "--prefix", tmp_path / "here", "--python", sys.executable)
    assert done.returncode == 1
    assert f"this bundle is for Python 3.99, and {sys.executable} is {THIS}" in done.stderr


def test_a_folder_that_holds_something_else_is_left_alone(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    done = install(bundle, "--prefix", tmp_path, "--python", sys.executable)
    assert done.returncode == 1
    assert "is there, and no installation of the node" in done.stderr


def test_help_tells_the_options_and_an_unknown_one_is_refused(bundle: Path) -> None:
    assert "--prefix DIR" in install(bundle, "--help").stdout
    assert install(bundle, "--prefixx").returncode == 1


@pytest.fixture(scope="module")
def unpacked() -> Iterator[Path]:
    """A whole bundle, made and unpacked."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, str(BUNDLE / "make.py"), "--out", folder], check=True)
        (packed,) = Path(folder).glob("*.tar")
        with tarfile.open(packed) as archive:
            archive.extractall(folder, filter="data")
        packed.unlink()
        yield next(path for path in Path(folder).iterdir() if path.is_dir())


@pytest.mark.slow
def test_it_installs_and_runs_the_demo_with_no_index_and_no_route(unpacked: Path) -> None:
    home = unpacked.parent
    # A network namespace of its own: loopback, which the demo talks over, and nothing else. No pip settings go along.
    alone = ["unshare", "--net"] if os.getuid() == 0 else ["unshare", "--map-root-user", "--net"]
    script = 'ip link set lo up && test -z "$(ip route)" && exec "$0" --prefix "$HOME/node" --demo'
    done = subprocess.run(
        [*alone, "sh", "-c", script, str(unpacked / "install.sh")],
        env={"HOME": str(home), "PATH": f"/usr/local/bin:{os.defpath}:/usr/sbin:/sbin"},
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every check held" in done.stdout
    assert (home / "demo-output" / "1" / "overlay.png").exists()


@pytest.mark.slow
def test_it_holds_the_licences_and_the_bill_of_materials_of_all_its_wheels(unpacked: Path) -> None:
    bill, page = (unpacked / "sbom.cdx.json").read_text(), (unpacked / "LICENCES.md").read_text()
    assert '"bomFormat": "CycloneDX"' in bill
    assert "not declared" not in page
    texts = {path.name.split("-")[0].lower() for path in (unpacked / "licences").iterdir()}
    assert {"numpy", "pydicom", "highdicom", "celery", "fpdf2"} <= texts
