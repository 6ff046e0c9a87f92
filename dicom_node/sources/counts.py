"""How many instances a study has at its source."""

from __future__ import annotations

from pydicom.dataset import Dataset

from dicom_node.settings.sources import Source
from dicom_node.sources.archive import Archive, open_archive


def expected_instances(source: Source, study_uid: str, calling_aet: str = "MEDREGA") -> int | None:
    """Ask a source how many instances it has of a study.

    The study's own count is asked for first, then those of its series, then the instances are counted.

    Parameters
    ----------
    source : Source
    study_uid : str
    calling_aet : str
        AE title of this node.

    Returns
    -------
    int or None
        None where the source has no such study, so that it knows nothing of it (yet).

    Raises
    ------
    NodeError
        If it cannot be asked, or refuses.
    """
    archive = open_archive(source, calling_aet)
    study = {"StudyInstanceUID": study_uid}
    studies = archive.query("STUDY", study, ["NumberOfStudyRelatedInstances"])
    if not studies:
        return None
    counts = [_count(match, "NumberOfStudyRelatedInstances") for match in studies]
    if None not in counts:
        return sum(count for count in counts if count is not None)
    total = 0
    for series in archive.query("SERIES", study, ["SeriesInstanceUID", "NumberOfSeriesRelatedInstances"]):
        count = _count(series, "NumberOfSeriesRelatedInstances")
        total += _images(archive, study_uid, str(series.get("SeriesInstanceUID", ""))) if count is None else count
    return total


def _images(archive: Archive, study_uid: str, series_uid: str) -> int:
    keys = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": series_uid}
    return len(archive.query("IMAGE", keys, ["SOPInstanceUID"]))


def _count(match: Dataset, keyword: str) -> int | None:
    try:
        value = match.get(keyword)
        return None if value in (None, "") else int(value)
    except (ValueError, TypeError):
        return None
