"""Units, containers, compose file and chart: they parse, fit each other and the node, and ask for no rights."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from dicom_node.cli.app import app
from dicom_node.settings import Settings

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
NODE = {"front", "worker", "gpu-worker"}


def compose() -> Any:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_is_one_that_systemd_takes(unit: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not there")
    text = unit.read_text(encoding="utf-8").replace("/opt/medrega-pacs/bin/medrega-pacs", "/bin/true")
    (tmp_path / unit.name).write_text(text, encoding="utf-8")
    command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / unit.name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_runs_a_command_of_the_node_as_a_user_without_rights(unit: Path) -> None:
    text = unit.read_text(encoding="utf-8")
    (command,) = re.findall(r"^ExecStart=\S+/medrega-pacs (\w+)", text, re.MULTILINE)
    assert command in get_command(app).commands  # type: ignore[attr-defined]
    assert {"User=medrega", "NoNewPrivileges=yes", "ProtectSystem=strict", "UMask=0077"} <= set(text.splitlines())


@pytest.mark.parametrize("name", sorted(NODE))
def test_a_container_of_the_node_runs_a_command_and_is_locked_down(name: str) -> None:
    service = compose()["services"][name]
    assert service["command"][0] in get_command(app).commands  # type: ignore[attr-defined]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert (DEPLOY.parent / service["build"]["dockerfile"]).is_file()


def test_the_compose_file_names_only_what_is_there() -> None:
    document = compose()
    for name, service in document["services"].items():
        assert set(service.get("secrets", [])) <= set(document["secrets"]), name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in document["volumes"] or source.startswith("${") or (DEPLOY / source).is_file(), volume


def test_the_settings_of_the_compose_file_are_right_and_fit_its_services() -> None:
    settings = Settings.load(DEPLOY / "compose" / "medrega-pacs.toml")
    services = compose()["services"]
    assert settings.ledger.url is not None
    assert settings.broker.url is not None
    assert "@ledger/" in settings.ledger.url.get_secret_value()
    assert "//broker:" in settings.broker.url.get_secret_value()
    assert {"ledger", "broker", settings.destinations[0].host} <= set(services)
    orthanc = json.loads((DEPLOY / "compose" / "orthanc.json").read_text(encoding="utf-8"))
    assert orthanc["DicomModalities"]["medrega"] == [settings.listener.aet, "front", settings.listener.port]
    assert orthanc["DicomAet"] == settings.destinations[0].aet


@pytest.mark.parametrize("name", ["Containerfile", "Containerfile.gpu"])
def test_an_image_copies_what_is_there_and_runs_without_root(name: str) -> None:
    text = (DEPLOY / name).read_text(encoding="utf-8")
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        assert all((DEPLOY.parent / source).exists() for source in sources.split()), sources
    assert re.search(r"^USER \$\{UID\}", text, re.MULTILINE)
    assert not re.search(r"^FROM [^$]", text, re.MULTILINE), "each base image can be given by its digest"
    (command,) = re.findall(r'^CMD \["(\w+)"', text, re.MULTILINE)
    assert command in get_command(app).commands  # type: ignore[attr-defined]


def test_the_values_of_the_chart_hold_settings_that_are_right(tmp_path: Path) -> None:
    values = yaml.safe_load((DEPLOY / "helm" / "medrega-pacs" / "values.yaml").read_text(encoding="utf-8"))
    (tmp_path / "medrega-pacs.toml").write_text(values["settings"], encoding="utf-8")
    assert Settings.load(tmp_path / "medrega-pacs.toml").listener.port == 11112


def test_every_value_that_the_chart_uses_is_in_its_values_and_every_value_is_used() -> None:
    chart = DEPLOY / "helm" / "medrega-pacs"
    values = yaml.safe_load((chart / "values.yaml").read_text(encoding="utf-8"))
    templates = "".join(path.read_text(encoding="utf-8") for path in (chart / "templates").iterdir())
    used = set(re.findall(r"\.Values\.([a-zA-Z.]+)", templates))

    def declared(tree: Any, path: str = "") -> set[str]:
        if not isinstance(tree, dict) or not tree:
            return {path}
        return {path} | {leaf for key, value in tree.items() for leaf in declared(value, f"{path}.{key}".strip("."))}

    assert used <= declared(values)
    assert set(values) == {path.split(".")[0] for path in used}


def test_the_licences_are_those_of_the_pinned_versions() -> None:
    pinned = dict(
        line.split("==") for line in (DEPLOY / "constraints.txt").read_text().splitlines() if not line.startswith("#")
    )
    rows = re.findall(r"^\| (\S+) \| (\d\S*) \| (.+) \|$", (DEPLOY / "LICENCES.md").read_text(), re.MULTILINE)
    assert len(rows) > 60
    assert {name: version for name, version, _ in rows} == {name: pinned.get(name) for name, _, _ in rows}
    assert "not declared" not in {licence for _, _, licence in rows}


def test_every_command_of_the_guides_is_one_that_exists() -> None:
    known = get_command(app).commands  # type: ignore[attr-defined]
    for page in [*DEPLOY.glob("*.md"), *DEPLOY.glob("*/README.md")]:
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            for word in re.findall(r"^(?:\S*/)?medrega-pacs ([a-z]+)", block, re.MULTILINE):
                assert word in known, f"{page.name}: {word}"
