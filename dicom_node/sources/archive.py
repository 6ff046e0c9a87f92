"""An archive as the node sees it: asked and fetched from by DIMSE or by DICOMweb."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from pydicom.dataset import Dataset

from dicom_node.dicomweb.client import Client, Credentials
from dicom_node.dicomweb.files import ArrivingFile, keep
from dicom_node.dimse.query import Server, find, keys
from dicom_node.dimse.retrieve import get, move
from dicom_node.dimse.scu import Peer, PeerError, Timeouts
from dicom_node.dimse.suboperations import Cancel, OnProgress, Progress, Retrieved
from dicom_node.dimse.tls import client_context
from dicom_node.intake.identity import RefusedError
from dicom_node.intake.storage import Storage
from dicom_node.settings.sources import Remote, Source
from engine.errors import NodeError, SettingsError


class Archive(Protocol):
    """What can be asked of an archive."""

    def query(self, level: str, values: Mapping[str, str], wanted: Sequence[str]) -> list[Dataset]:
        """Entities of a level (STUDY, SERIES, IMAGE) that match; each with the attributes wanted that it has.

        Raises
        ------
        NodeError
            If it cannot be asked, or refuses.
        """

    def retrieve(
        self,
        study_instance_uid: str,
        series_instance_uids: Sequence[str],
        storage: Storage,
        entry: str,
        on_progress: OnProgress,
        cancel: Cancel,
        *,
        prior: bool = False,
    ) -> Retrieved:
        """Fetch a study, or some series of it.

        Parameters
        ----------
        study_instance_uid : str
        series_instance_uids : sequence of str
            Empty for the whole study.
        storage : Storage
            Where objects come in; those of a C-MOVE come in at the running listener instead.
        entry : str
            AE title of this node that they count as sent to.
        on_progress : callable
        cancel : Cancel
        prior : bool
            Whether it is to stand beside another study, and is no study of its own.

        Raises
        ------
        NodeError
            If it cannot be reached.
        """


def server_of(remote: Remote, calling_aet: str) -> Server:
    """A DIMSE peer of the settings."""
    if remote.aet is None or remote.port is None:
        raise SettingsError(f"{remote.name} has no AE title and port")
    return Server(
        Peer.of(remote),
        calling_aet,
        Timeouts(remote.association_timeout_seconds, remote.timeout_seconds),
        client_context(remote.tls) if remote.tls is not None else None,
    )


def web_client(remote: Remote) -> Client:
    """A DICOMweb server of the settings."""
    if remote.url is None:
        raise SettingsError(f"{remote.name} has no url")
    return Client(
        remote.url,
        Credentials.read(remote.user, remote.password_file, remote.token_file),
        tls=client_context(remote.tls) if remote.tls is not None else None,
        timeouts=Timeouts(remote.association_timeout_seconds, remote.timeout_seconds),
    )


def open_archive(source: Source, calling_aet: str) -> Archive:
    """The archive of a source.

    Parameters
    ----------
    source : Source
    calling_aet : str
        AE title of this node.
    """
    return DimseArchive(source, calling_aet) if source.protocol == "dimse" else WebArchive(source)


class DimseArchive:
    """An archive that is asked by C-FIND, and gives by C-MOVE or C-GET."""

    def __init__(self, source: Source, calling_aet: str) -> None:
        self._source = source
        self._server = server_of(source, calling_aet)

    def query(self, level: str, values: Mapping[str, str], wanted: Sequence[str]) -> list[Dataset]:
        """See `Archive.query`."""
        return find(self._server, keys(level, values, wanted))

    def retrieve(
        self,
        study_instance_uid: str,
        series_instance_uids: Sequence[str],
        storage: Storage,
        entry: str,
        on_progress: OnProgress,
        cancel: Cancel,
        *,
        prior: bool = False,
    ) -> Retrieved:
        """See `Archive.retrieve`."""
        identifier = keys("SERIES" if series_instance_uids else "STUDY", {"StudyInstanceUID": study_instance_uid})
        if series_instance_uids:
            identifier.SeriesInstanceUID = list(series_instance_uids)
        if self._source.way == "move":
            return move(self._server, identifier, entry, prior=prior, on_progress=on_progress, cancel=cancel)
        return get(
            self._server,
            identifier,
            storage,
            entry,
            study_instance_uid=study_instance_uid,
            prior=prior,
            sop_classes=self._sop_classes(study_instance_uid),
            on_progress=on_progress,
            cancel=cancel,
        )

    def _sop_classes(self, study_instance_uid: str) -> list[str]:
        """SOP Classes in Study, an optional key (PS3.4 table C.6-5); empty where the archive does not say."""
        found: dict[str, None] = {}
        for match in self.query("STUDY", {"StudyInstanceUID": study_instance_uid}, ["SOPClassesInStudy"]):
            value = match.get("SOPClassesInStudy")
            for uid in [value] if isinstance(value, str) else (value or ()):
                found[str(uid)] = None
        return list(found)


class _EndError(NodeError):
    """The retrieval is to end."""


class WebArchive:
    """An archive that is asked by QIDO-RS and gives by WADO-RS."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def query(self, level: str, values: Mapping[str, str], wanted: Sequence[str]) -> list[Dataset]:
        """See `Archive.query`."""
        with web_client(self._source) as client:
            return client.query(level, values, wanted)

    def retrieve(
        self,
        study_instance_uid: str,
        series_instance_uids: Sequence[str],
        storage: Storage,
        entry: str,
        on_progress: OnProgress,
        cancel: Cancel,
        *,
        prior: bool = False,
    ) -> Retrieved:
        """See `Archive.retrieve`."""
        completed = failed = not_kept = 0
        complaint: NodeError | None = None

        def take(file: ArrivingFile) -> None:
            nonlocal completed, failed, not_kept, complaint
            if cancel.asked:
                raise _EndError("the retrieval was cancelled")
            try:
                kept = keep(
                    storage,
                    file,
                    calling_aet=self._source.title,
                    called_aet=entry,
                    study_instance_uid=study_instance_uid,
                    prior=prior,
                )
            except RefusedError as error:  # this one cannot be taken; the others may
                failed, complaint = failed + 1, error
            else:
                completed, not_kept = completed + 1, not_kept + (kept.stored is None and not prior)
            on_progress(Progress(None, completed, failed))

        try:
            with web_client(self._source) as client:
                for series in series_instance_uids or (None,):
                    client.retrieve(study_instance_uid, take, series_instance_uid=series)
        except _EndError as error:
            return Retrieved(completed, failed, reason=str(error), cancelled=True, not_kept=not_kept)
        except PeerError as error:
            if not completed:
                raise
            return Retrieved(completed, failed, reason=str(error), advice=error.advice, retry=error.retry)
        except NodeError as error:  # the disk or the ledger
            return Retrieved(completed, failed, reason=f"an object was not stored: {error}", retry=error.retry)
        reason = f"an object was refused: {complaint}" if complaint is not None else ""
        return Retrieved(completed, failed, reason=reason, not_kept=not_kept)
