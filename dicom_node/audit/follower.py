"""What the node does by itself, from the ledger into the trail: a crash in between loses none of it."""

from __future__ import annotations

from urllib.parse import urlsplit

from dicom_node.audit.event import Action, AuditEvent, Outcome
from dicom_node.audit.trail import Trail
from dicom_node.ledger import Ledger
from dicom_node.ledger.audits import Purged, Received, Sent
from dicom_node.settings import Settings


class Follower:
    """Tells the trail of images received, results sent and what was purged: a record a study, not an image.

    Parameters
    ----------
    settings : Settings
    ledger : Ledger
    """

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self._trail = Trail.of(settings)
        self._ledger = ledger
        self._destinations = {one.name: one for one in settings.destinations}

    def follow(self) -> None:
        """Tell what was not told yet; after a crash in the middle some of it twice.

        Raises
        ------
        NodeError
            If the ledger cannot be reached.
        """
        ids, told = self._ledger.audits.untold()
        for item in told:
            self._trail.write(self._event(item))
        if ids:
            self._ledger.audits.told(ids)

    def _event(self, item: Received | Sent | Purged) -> AuditEvent:
        if isinstance(item, Received):
            return AuditEvent(
                Action.IMAGES_RECEIVED, item.calling_aet, study_uid=item.study_instance_uid, instances=item.instances
            )
        if isinstance(item, Purged):
            return AuditEvent(
                Action.STUDY_PURGED, self._trail.source.identifier, study_uid=item.study_instance_uid, detail=item.words
            )
        peer = self._destinations.get(item.destination)  # None once it was taken out of the settings
        return AuditEvent(
            Action.RESULTS_SENT,
            (peer and peer.aet) or item.destination,
            (peer.host or urlsplit(peer.url or "").hostname) if peer else None,
            item.study_instance_uid,
            Outcome.MINOR_FAILURE if item.failed else Outcome.SUCCESS,
            f"{item.failed} results were given up" if item.failed else "",
            item.instances,
        )
