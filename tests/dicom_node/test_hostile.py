"""Hostile files: each has a named outcome at the listener and in `read`, and both go on as if nothing had been."""

from __future__ import annotations

import ctypes
import gc
import re
import sys
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import pytest
from hostile_files import EXPLICIT, hostile_files
from listener_bench import Scp
from node_bench import image, script, written
from pydicom.filereader import read_dataset
from pydicom.uid import CTImageStorage
from wire import Wire, data, fragments, item, status_of, store_rq

from dicom_node.cli import main
from dicom_node.dimse.scu import StoredFile, send
from dicom_node.intake.identity import CANNOT_UNDERSTAND, DOES_NOT_MATCH, RefusedError, identify
from engine.errors import MedregaError
from engine.imaging import render_frame
from engine.limits import Limits
from engine.study import READ_ERRORS, load_instance

FEW_ITEMS = Limits(items=20_000)
SHARED = Path(__file__).parents[3] / "shared" / "data" / "dicom"
FOLDERS = [
    pytest.param(SHARED / name, marks=pytest.mark.skipif(not SHARED.exists(), reason="real hostile files are not here"))
    for name in ("broken", "fuzz")
]

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our own hostile files."""
    folder = tmp_path_factory.mktemp("hostile")
    for name, content, _ in hostile_files():
        (folder / f"{name}.dcm").write_bytes(content)
    return folder


META = {
    "MediaStorageSOPClassUID": CTImageStorage,
    "MediaStorageSOPInstanceUID": "1.2.3.4",
    "TransferSyntaxUID": EXPLICIT,
}


def meta_of(content: bytes) -> tuple[str, str, str, bytes]:
    """SOP class, SOP instance and transfer syntax as far as the file says them, and its data set."""
    try:
        elements = BytesIO(content[132:])
        meta = read_dataset(elements, False, True, stop_when=lambda tag, *_: tag.group != 2)
        told = [str(meta.get(keyword) or other) for keyword, other in META.items()]
        begin = 132 + elements.tell()
    except READ_ERRORS:
        return CTImageStorage, "1.2.3.4", EXPLICIT, content[132:]
    data_set = content[begin:]
    with suppress(RefusedError):  # a sender goes by the data set
        identity = identify(data_set, told[2])
        told[:2] = [identity.sop_class_uid or told[0], identity.sop_instance_uid or told[1]]
    return told[0], told[1], told[2], data_set


def sent(scp: Scp, content: bytes) -> int:
    """Status that a sender hears of an object, whatever is in it; -1 where its context is not accepted."""
    sop_class, sop_instance, syntax, data_set = meta_of(content)
    with Wire(scp.port, seconds=120) as wire:
        answer = wire.associate(contexts=[(1, sop_class, syntax)])
        assert answer[:1] == b"\2"  # accepted
        place = re.search(
            rb"\x21\x00..\x01\x00(.)", answer[74:], re.DOTALL
        )  # what becomes of its context (PS3.8 9.3.3.2)
        if place is None or place[1] != b"\0":
            return -1
        wire.send(data(item(1, 3, store_rq(sop_instance, sop_class))), *fragments(data_set))
        status = status_of(wire.receive())
        wire.release()
    return status


def resident() -> int:
    """Memory of this process in MiB, without what it has freed."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20


def test_our_hostile_files_are_read_or_refused_for_their_own_reason(made: Path) -> None:
    for name, _, why in hostile_files():
        said = ""
        try:
            rgb = render_frame(load_instance(made / f"{name}.dcm", FEW_ITEMS), 1).rgb
            assert rgb.shape == (64, 48, 3)
        except MedregaError as error:
            said = str(error)
        assert why in said, name
        assert "ZZTOP" not in said, name


@pytest.mark.parametrize("folder", [None, *FOLDERS])
def test_hostile_files_leave_the_listener_as_it_was(folder: Path | None, made: Path, tmp_path: Path) -> None:
    with Scp(tmp_path) as scp:
        paths = sorted((folder or made).iterdir())
        sent(scp, paths[0].read_bytes())
        before = resident()
        outcomes = {path.name: sent(scp, path.read_bytes()) for path in paths}
        assert set(outcomes.values()) <= {0, CANNOT_UNDERSTAND, DOES_NOT_MATCH, -1}, outcomes
        assert list(outcomes.values()).count(-1) < len(outcomes) / 5, outcomes
        assert resident() < before + 60
        one = StoredFile.open(written(tmp_path / "sent", image()))
        assert [result.status for result in send([one], scp.peer, "CT1")] == [0]
        assert not list((scp.spool.root / "incoming").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("folder", [None, *FOLDERS])
def test_read_names_an_outcome_of_every_hostile_file(
    folder: Path | None,
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "10000")
    monkeypatch.setenv("MEDREGA_PACS__ENGINE__RUNTIME", "scripted")
    monkeypatch.setenv("MEDREGA_PACS__ENGINE__MODEL", str(script(tmp_path)))
    monkeypatch.setenv("MEDREGA_PACS__LIMITS__ITEMS", str(FEW_ITEMS.items))
    before = 0
    for path in sorted((folder or made).iterdir()):
        monkeypatch.setattr(sys, "argv", ["medrega-pacs", "read", str(path), "--out", "results"])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        complaints = [line for line in said.err.splitlines() if line.startswith("medrega-pacs: ")]
        if ended.value.code:
            assert ended.value.code == 1, path
            assert any(len(line) > 60 for line in complaints), (path, said.err)
        else:
            assert re.search(r"\d image read: results/[0-9.]+\n|not run, 0 images read", said.out), (path, said.out)
        assert "Traceback" not in said.err, path
        before = before or resident()
    assert resident() < before + 60
