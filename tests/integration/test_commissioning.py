"""Commissioning against the node alone and through a real Orthanc: it passes, and names what is wrong on the way."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pypdf
import pytest
from peers import listens, route_script, running, running_orthanc, wait_until
from ports import free_port

from dicom_node.cli import main

FLIP = """
function OnStoredInstance(instanceId, tags, metadata, origin)
  if origin['RemoteAet'] == 'MEDREGA' then return end
  local file = RestApiGet('/instances/' .. instanceId .. '/file')
  local width = tonumber(tags['Columns']) * 2
  local size = width * tonumber(tags['Rows'])
  local rows = {string.sub(file, 1, -size - 1)}
  for start = string.len(file) - size + 1, string.len(file), width do
    local row = string.reverse(string.sub(file, start, start + width - 1))
    table.insert(rows, (string.gsub(row, '(.)(.)', '%2%1')))
  end
  RestApiPost('/modalities/medrega/store-straight', table.concat(rows))
end
"""
"""Orthanc mirrors the pixels of what it forwards: 16 bits, uncompressed, the pixels last."""
RENAME = """
function OnStoredInstance(instanceId, tags, metadata, origin)
  if origin['RemoteAet'] == 'MEDREGA' then return end
  local replaced = {Replace = {PatientOrientation = 'R\\\\F'}, Keep = {'SOPInstanceUID', 'SeriesInstanceUID',
    'StudyInstanceUID'}, Force = true}
  local file = RestApiPost('/instances/' .. instanceId .. '/modify', DumpJson(replaced, true))
  RestApiPost('/modalities/medrega/store-straight', file)
end
"""
"""Orthanc says of what it forwards that the patient's sides are the other way round."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A node with the commissioning model behind an Orthanc with this Lua script; the node's settings file."""
    with ExitStack() as stack:

        def start(script: str) -> Path:
            folder = tmp_path / "orthanc"
            folder.mkdir()
            (folder / "route.lua").write_text(script, encoding="utf-8")
            port = free_port()
            modalities = {"medrega": ["MEDREGA", "127.0.0.1", port]}
            orthanc = stack.enter_context(
                running_orthanc(folder, DicomModalities=modalities, LuaScripts=[str(folder / "route.lua")])
            )
            reached = f'name = "orthanc"\naet = "{orthanc.peer.aet}"\nport = {orthanc.peer.port}'
            config = tmp_path / "medrega-pacs.toml"
            config.write_text(
                f'[data]\npath = "{tmp_path / "data"}"\nminimum_free_mib = 1\n[listener]\nport = {port}\n'
                f"[completion]\nquiet_seconds = 2\n[[destinations]]\n{reached}\n[[sources]]\n{reached}\n"
                f"[console]\nport = {free_port()}\n",
                encoding="utf-8",
            )
            command = [sys.executable, "-m", "dicom_node.cli", "up", "--config", str(config)]
            process = stack.enter_context(running(command, tmp_path / "up.log"))
            wait_until(lambda: listens(port), "the node to listen", process)
            return config

        yield start


def commission(monkeypatch: pytest.MonkeyPatch, out: Path, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["medrega-pacs", "commission", "--out", str(out), *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def faults(out: Path) -> dict[str, list[str]]:
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return {
        case["name"]: [f"{check['name']}: {fault}" for check in case["checks"] for fault in check["faults"]]
        for case in report["cases"]
    }


def words_of(out: Path) -> str:
    text = "".join(page.extract_text() for page in pypdf.PdfReader(out / "report.pdf").pages)
    return text.replace("\0", "")  # the high half of each character, of which the font's own map knows nothing


def test_the_node_alone_passes_and_the_report_can_be_filed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "report"
    assert commission(monkeypatch, out, "--simulate", "--case", "mr-rotated", "--case", "us-multiframe") == 0
    assert faults(out) == {"mr-rotated": [], "us-multiframe": []}
    words = words_of(out)
    assert "PASSED: all 2 cases" in words
    assert "Signature:" in words
    assert {"mr-rotated.png", "us-multiframe.png"} <= {path.name for path in out.iterdir()}


@pytest.mark.slow
def test_every_case_passes_through_a_real_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site: Callable[[str], Path]
) -> None:
    config, out = site(route_script()), tmp_path / "report"
    status = commission(monkeypatch, out, "--through", "orthanc", "--config", str(config))
    assert (status, {name: found for name, found in faults(out).items() if found}) == (0, {})


@pytest.mark.slow
def test_a_flip_on_the_way_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site: Callable[[str], Path]
) -> None:
    config, out = site(FLIP), tmp_path / "report"
    assert commission(monkeypatch, out, "--through", "orthanc", "--case", "dx", "--config", str(config)) == 1
    assert faults(out)["dx"] == [
        "images unchanged on the way to the node: image 1 reached the node flipped left to right",
        "reading agrees with the phantom: the findings lie where they would be if the image were flipped left to right",
    ]
    words = words_of(out)
    assert "FAILED: 1 of 1 cases" in words


@pytest.mark.slow
def test_swapped_sides_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site: Callable[[str], Path]) -> None:
    config, out = site(RENAME), tmp_path / "report"
    assert commission(monkeypatch, out, "--through", "orthanc", "--case", "dx", "--config", str(config)) == 1
    assert faults(out)["dx"] == [
        "images unchanged on the way to the node: image 1 reached the node with another PatientOrientation: "
        "which sides of the patient lie right and below is not what was sent"
    ]


@pytest.mark.slow
def test_an_archive_that_routes_nothing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site: Callable[[str], Path]
) -> None:
    config, out = site("-- nothing is routed"), tmp_path / "report"
    arguments = ("--through", "orthanc", "--case", "cr", "--wait", "4", "--config", str(config))
    assert commission(monkeypatch, out, *arguments) == 1
    assert faults(out)["cr"] == [
        "arrival at the node: no image of it reached the node: "
        "does the archive route it to MEDREGA, under its own study UID?"
    ]


def test_what_is_on_file_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report.pdf").write_text("signed")
    assert commission(monkeypatch, tmp_path, "--simulate") == 1
    assert "not an empty folder" in capsys.readouterr().err
    assert (tmp_path / "report.pdf").read_text() == "signed"
