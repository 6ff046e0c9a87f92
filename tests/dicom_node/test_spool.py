"""The spool: what it says it has, it has, whole and in its place."""

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from node_bench import image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian

from dicom_node.intake import file_meta
from dicom_node.spool import Spool, SpoolError, SpoolFullError, Stored, split
from dicom_node.spool.seal import names_follow_files


def meta(sop: str = "1.2.3.4") -> bytes:
    return file_meta.encode(
        sop_class_uid=ComputedRadiographyImageStorage,
        sop_instance_uid=sop,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        implementation_class_uid="2.25.1",
        implementation_version="TEST",
        sending_aet="CT1",
        receiving_aet="MEDREGA",
    )


def keep(
    spool: Spool, study_instance_uid: str, sop_instance_uid: str, header: bytes, content: bytes, *, synced: bool = True
) -> tuple[Stored, str]:
    file = spool.incoming(header, synced=synced)
    try:
        file.write(content)
        return file.place(study_instance_uid, sop_instance_uid)
    finally:
        file.discard()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def dataset_bytes(dataset: Dataset) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = False, True
    write_dataset(buffer, dataset)
    return buffer.getvalue()


def test_an_object_is_kept_byte_for_byte_behind_its_meta_information(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    dataset = image(study="1.2.3", SOPInstanceUID="1.2.3.4")
    content = dataset_bytes(dataset)
    stored, path = keep(spool, "1.2.3", "1.2.3.4", meta(), content)
    assert (stored, path) == (Stored.NEW, "studies/1.2.3/1.2.3.4.dcm")
    header, offset = split(spool.path(path))
    assert header.TransferSyntaxUID == ExplicitVRLittleEndian
    assert spool.path(path).read_bytes()[offset:] == content
    assert dcmread(spool.path(path)).PatientName == "PHANTOM^ONE"
    assert list(spool.instances()) == [path]
    assert list((tmp_path / "incoming").iterdir()) == []


def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "data")
    _, path = keep(spool, "1.2.3", "1.2.3.4", meta(), b"content")
    spool.store_reading("a" * 32, "{}")
    result, _ = spool.store_result("a" * 32, "viewer-en", "sr", b"result")
    for folder in ("", "incoming", "studies/1.2.3", "readings", f"results/{'a' * 32}/viewer-en"):
        assert mode(tmp_path / "data" / folder) == 0o700
    for file in (path, result, f"readings/{'a' * 32}/reading.json"):
        assert mode(spool.path(file)) == 0o600


def test_the_same_object_again_changes_nothing_and_another_one_is_kept_beside_it(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    first = keep(spool, "1.2.3", "1.2.3.4", meta(), b"one")
    again = meta().replace(b"CT1 ", b"CT2 ")
    assert keep(spool, "1.2.3", "1.2.3.4", again, b"one") == (Stored.SAME, first[1])
    assert keep(spool, "1.2.3", "1.2.3.4", meta(), b"two") == (Stored.CONFLICT, "studies/1.2.3/1.2.3.4_2.dcm")
    assert keep(spool, "1.2.3", "1.2.3.4", meta(), b"two")[0] is Stored.SAME
    assert keep(spool, "1.2.3", "1.2.3.4", meta(), b"six") == (Stored.CONFLICT, "studies/1.2.3/1.2.3.4_3.dcm")
    assert spool.path(first[1]).read_bytes().endswith(b"one")


@pytest.mark.parametrize("uid", ["", "..", ".", "../1", "1/2", "1.2.a", "1" * 65, "1.2\0", "1.2\n", "１.２"])
def test_what_is_no_uid_names_no_file(tmp_path: Path, uid: str) -> None:
    spool = Spool(tmp_path)
    for study, sop in ((uid, "1.2"), ("1.2", uid)):
        with pytest.raises(SpoolError):
            keep(spool, study, sop, meta(), b"content")
    assert list(spool.instances()) == []


@given(st.text(max_size=70))
def test_no_text_leads_out_of_the_spool(tmp_path_factory: pytest.TempPathFactory, uid: str) -> None:
    spool = Spool(tmp_path_factory.getbasetemp() / "hostile")
    try:
        _, path = keep(spool, uid, uid, meta(), b"content")
    except SpoolError:
        return
    assert spool.path(path).resolve().parent.parent == spool.root / "studies"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    spool = Spool(tmp_path)

    def full(_descriptor: int) -> None:
        raise OSError(number, "full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SpoolFullError):
        keep(spool, "1.2.3", "1.2.3.4", meta(), b"content")
    assert list(spool.instances()) == []
    assert list((tmp_path / "incoming").iterdir()) == []


def test_another_fault_of_the_disk_is_not_taken_for_a_full_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path)

    def broken(_descriptor: int) -> None:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(SpoolError, match="input/output error") as caught:
        keep(spool, "1.2.3", "1.2.3.4", meta(), b"content")
    assert not isinstance(caught.value, SpoolFullError)


def test_nothing_is_taken_below_the_free_space_asked_for(tmp_path: Path) -> None:
    spool = Spool(tmp_path, minimum_free=1 << 60)
    with pytest.raises(SpoolFullError):
        keep(spool, "1.2.3", "1.2.3.4", meta(), b"content")


@pytest.mark.parametrize(
    ("names_follow", "each"), [(True, ["seal", "place", "file"]), (False, ["file", "place", "folder"])]
)
def test_a_file_has_its_place_and_is_synced_in_the_order_that_its_disk_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names_follow: bool, each: list[str]
) -> None:
    spool = Spool(tmp_path)
    spool.names_follow = names_follow
    steps: list[str] = []
    sync, link, rename = os.fsync, os.link, os.rename

    def synced(descriptor: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        sync(descriptor)

    def linked(path: Path, target: Path) -> None:
        steps.append("place")
        link(path, target)

    def sealed(path: str, target: str) -> None:
        steps.append("seal")
        rename(path, target)

    keep(spool, "1.2.3", "1.2.3.1", meta(), b"content")  # makes the folder
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "link", linked)
    monkeypatch.setattr(os, "rename", sealed)
    keep(spool, "1.2.3", "1.2.3.4", meta(), b"content")
    assert steps == each
    del steps[:]
    keep(spool, "1.2.3", "1.2.3.4", meta(), b"content")
    assert steps[-2:] == ["file", "folder"], "what is there already may not be synced yet"


def test_a_new_study_s_folder_is_synced_before_anything_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path)
    steps: list[str] = []
    sync, link = os.fsync, os.link
    monkeypatch.setattr(
        os, "fsync", lambda one: (steps.append(Path(f"/proc/self/fd/{one}").readlink().name), sync(one))
    )
    monkeypatch.setattr(os, "link", lambda path, target: (steps.append("place"), link(path, target)))
    keep(spool, "1.2.3", "1.2.3.4", meta(), b"content")
    assert steps.index("studies") < steps.index("place")


def placed(spool: Spool) -> tuple[Path, Path]:
    """An object in place that is not in the ledger yet: its name under ``incoming/``, and its place."""
    file = spool.incoming(meta())
    file.write(b"content" * 10_000)
    _, path = file.place("1.2.3", "1.2.3.4")
    return Path(file.hand_over()), spool.path(path)


def _cut(path: Path) -> None:
    os.truncate(path, 4096)


def _zeros(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(bytes(4096))


@pytest.mark.parametrize("tear", [_cut, _zeros, None])
def test_what_a_power_cut_tore_is_removed_and_what_it_left_whole_stays(
    tmp_path: Path, tear: Callable[[Path], None] | None
) -> None:
    spool = Spool(tmp_path)
    spool.names_follow = True
    incoming, place = placed(spool)
    keep(spool, "1.2.3", "1.2.3.5", meta(), b"another")
    if tear is not None:
        tear(place)
    assert spool.remove_torn() == 0, "it is younger than the machine's start: another machine may be writing it"
    os.utime(place, (1, 1))
    assert spool.remove_torn() == (tear is not None)
    assert (place.exists(), incoming.exists()) == (tear is None, tear is None)
    assert spool.remove_torn() == 0
    assert "studies/1.2.3/1.2.3.5.dcm" in list(spool.instances())


def test_a_sync_that_fails_takes_the_place_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path)
    spool.names_follow = True
    keep(spool, "1.2.3", "1.2.3.1", meta(), b"content")

    def fail(_descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(SpoolError):
        keep(spool, "1.2.3", "1.2.3.4", meta(), b"content")
    assert list(spool.instances()) == ["studies/1.2.3/1.2.3.1.dcm"]
    assert list((tmp_path / "incoming").iterdir()) == []


def test_a_disk_that_is_not_known_to_keep_the_order_is_not_trusted(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    number = tmp_path.stat().st_dev
    for kind, trusted in (("ext4", True), ("xfs", True), ("nfs4", False), ("fuse.sshfs", False)):
        mounts.write_text(f"27 1 {os.major(number)}:{os.minor(number)} / / rw,relatime - {kind} /dev/vda rw\n")
        assert names_follow_files(tmp_path, mounts) is trusted
    mounts.write_text("")
    assert not names_follow_files(tmp_path, mounts)
    assert not names_follow_files(tmp_path, tmp_path / "none")


@pytest.mark.parametrize(
    ("left", "became"),
    [
        (b"", Stored.NEW),
        (meta()[:40], Stored.NEW),
        (meta() + b"wh", Stored.NEW),
        (meta() + b"whole", Stored.SAME),
        (meta() + b"what", Stored.CONFLICT),
    ],
)
def test_what_a_power_cut_tore_before_its_sync_gives_way_to_the_whole(
    tmp_path: Path, left: bytes, became: Stored
) -> None:
    spool = Spool(tmp_path)
    keep(spool, "1.2.3", "1.2.3.4", meta(), b"whole", synced=False)
    place = spool.path("studies/1.2.3/1.2.3.4.dcm")
    place.write_bytes(left)
    stored, path = keep(spool, "1.2.3", "1.2.3.4", meta(), b"whole", synced=False)
    assert stored is became
    assert spool.path(path).read_bytes() == meta() + b"whole"
    assert (place.read_bytes() == left) is (became is not Stored.NEW)
    assert list((tmp_path / "incoming").iterdir()) == []


def test_two_processes_give_a_uid_s_first_place_once(tmp_path: Path) -> None:
    spools = Spool(tmp_path), Spool(tmp_path)
    files = [spool.incoming(meta()) for spool in spools]
    for file, content in zip(files, (b"one", b"two"), strict=True):
        file.write(content)
    assert [file.place("1.2.3", "1.2.3.4")[0] for file in files] == [Stored.NEW, Stored.CONFLICT]


def test_a_study_that_is_purged_meanwhile_gets_its_folder_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    _, path = keep(spool, "1.2.3", "1.2.3.4", meta(), b"content")
    spool.path(path).unlink()
    spool.path(path).parent.rmdir()
    assert keep(spool, "1.2.3", "1.2.3.4", meta(), b"content")[0] is Stored.NEW


def test_what_a_crash_left_half_written_is_removed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from dicom_node.process import new_owner; print(new_owner())"]
    gone = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    spool = Spool(tmp_path)
    incoming = tmp_path / "incoming"
    for name in (gone, "another-host:1:1", "another-host:2:2"):
        (incoming / f"{name}:1.part").write_bytes(b"half")
    os.utime(incoming / "another-host:2:2:1.part", (0, 0))
    placed = incoming / f"{gone}:2.part"
    placed.write_bytes(b"whole")
    (tmp_path / "studies" / "1.2.3").mkdir()
    (tmp_path / "studies" / "1.2.3" / "1.2.3.4.dcm").write_bytes(b"another one")
    os.link(placed, tmp_path / "studies" / "1.2.3" / "1.2.3.4_2.dcm")
    (left,) = spool.left_in_place()
    assert spool.place_of(left, "1.2.3", "1.2.3.4") == "studies/1.2.3/1.2.3.4_2.dcm"
    assert spool.place_of(left, "1.2.3", "1.2.3.5") is None
    arriving = spool.incoming(b"head")
    assert spool.clean() == 2
    placed.unlink()
    names = {path.name for path in incoming.iterdir()}
    assert len(names) == 2
    assert "another-host:1:1:1.part" in names
    arriving.discard()


def test_readings_and_results_are_replaced_as_a_whole(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    run = "a" * 32
    for text in ("{}", '{"contract":1}'):
        spool.store_reading(run, text)
        assert spool.reading(run) == text
    path, digest = spool.store_result(run, "viewer-en", "sr", b"one")
    again, other = spool.store_result(run, "viewer-en", "sr", b"two")
    assert path == again
    assert digest != other == spool.sha256(path)
    assert [file.name for file in spool.path(path).parent.iterdir()] == ["sr.dcm"]
    with pytest.raises(SpoolError):
        spool.reading("b" * 32)
    with pytest.raises(SpoolError):
        spool.store_result(run, "..", "sr", b"x")
    with pytest.raises(SpoolError):
        spool.store_reading("../x", "{}")
