"""A study and its results as files of their own."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.deidentification import Deidentifier
from dicom_node.intake.identity import is_uid
from dicom_node.ledger import Ledger
from dicom_node.ledger.holdings import Selection
from dicom_node.spool import Spool
from engine.errors import MedregaError, NodeError
from engine.limits import Limits
from engine.study import READ_ERRORS, open_part10


@dataclass
class Exported:
    """What became of an export.

    Attributes
    ----------
    written : int
        Objects that were written.
    left_out : Counter of str
        How many were not, by reason.
    to_look_at : int
        Images among those written that do not say whether words are burned in.
    """

    written: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    to_look_at: int = 0


def write_study(
    ledger: Ledger,
    spool: Spool,
    study_instance_uid: str,
    out: Path,
    deidentifier: Deidentifier | None,
    on_object: Callable[[int, int], object],
) -> Exported:
    """Write what there is of a study, as ``<series>/<SOP instance>.dcm``, for its owner alone.

    Parameters
    ----------
    ledger : Ledger
    spool : Spool
    study_instance_uid : str
    out : Path
    deidentifier : Deidentifier or None
        None to write the objects as they are.
    on_object : callable
        Called with how many are done, and how many there are.

    Raises
    ------
    NodeError
        If the study is unknown, nothing of it is here, or a file cannot be written.
    """
    record = ledger.study(study_instance_uid)
    held = ledger.holdings.instances(Selection(study_instance_uid=study_instance_uid))
    paths = [one.path for one in held] + [one.path for one in record.results]
    here = [path for path in map(spool.path, paths) if path.is_file()]
    if not here:
        raise NodeError("nothing of this study is here any more", advice="it was purged; ask the archive for it")
    done, limits = Exported(), spool.limits.of_reading
    if deidentifier is not None:
        for path in here:
            with suppress(MedregaError):  # told of below
                deidentifier.learn(_read(path, limits, stop_before_pixels=True))
    for number, path in enumerate(here, 1):
        on_object(number, len(here))
        try:
            dataset = _read(path, limits)
            if deidentifier is not None:
                deidentifier.apply(dataset)
        except MedregaError as error:
            done.left_out[str(error)] += 1
            continue
        _write(dataset, out)
        done.written += 1
        done.to_look_at += "PixelData" in dataset and dataset.get("BurnedInAnnotation") != "NO"
    return done


def _read(path: Path, limits: Limits, *, stop_before_pixels: bool = False) -> Dataset:
    try:
        with open_part10(path, limits) as file:
            dataset = dcmread(file, stop_before_pixels=stop_before_pixels)
            # They name its file; what came into the node was looked at no further than the first of each.
            named = is_uid(str(dataset.get("SeriesInstanceUID"))) and is_uid(str(dataset.get("SOPInstanceUID")))
    except READ_ERRORS as error:
        raise NodeError(f"it cannot be read ({type(error).__name__})") from None
    if not named:
        raise NodeError("its UIDs are none")
    return dataset


def _write(dataset: Dataset, out: Path) -> None:
    folder = out / str(dataset.SeriesInstanceUID)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder / f"{dataset.SOPInstanceUID}.dcm", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:
        dataset.save_as(file, enforce_file_format=True)
