"""What a person does to a study, by the command line or in the console: the one home of it for both, audited."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

from dicom_node.audit import Action, AuditEvent, Outcome, Trail, this_person
from dicom_node.ledger import Ledger, State
from dicom_node.settings import Settings
from engine.errors import MedregaError, NodeError, PlanError


@dataclass(frozen=True, slots=True)
class Probed:
    """A destination that answered.

    Parameters
    ----------
    seconds : float
        Until it did; 0 where it has no service to be asked by, as the complaint says.
    waiting : int
        Results that waited and are sent now.
    complaint : NodeError or None
    """

    seconds: float
    waiting: int
    complaint: NodeError | None = None


@dataclass(frozen=True, slots=True)
class Operations:
    """What changes a study's fate; each tells what it did, or raises `NodeError` in words for a person.

    Parameters
    ----------
    settings : Settings
    ledger : Ledger
    actor : str
        Who does it: an account of the console, or the user of the system.
    address : str, optional
        Where from.
    """

    settings: Settings
    ledger: Ledger
    actor: str = field(default_factory=this_person)
    address: str | None = None

    def note(
        self, action: Action, study_uid: str | None = None, outcome: Outcome = Outcome.SUCCESS, detail: str = ""
    ) -> None:
        """Enter in the audit trail what this person did; `detail` holds no patient data."""
        event = AuditEvent(action, self.actor, self.address, study_uid, outcome, detail)
        Trail.of(self.settings).write(event)

    @contextmanager
    def _noted(self, action: Action, study_uid: str, detail: str = "") -> Iterator[None]:
        try:
            yield
        except MedregaError as error:
            self.note(action, study_uid, Outcome.MINOR_FAILURE, f"{detail}{detail and ': '}{error}")
            raise
        self.note(action, study_uid, detail=detail)

    def retry(self, study_instance_uid: str) -> State:
        """Give a study that ended FAILED, CANCELLED or IGNORED another try; the state that this puts it in."""
        with self._noted(Action.STUDY_RETRIED, study_instance_uid):
            return self.ledger.retry(study_instance_uid)

    def cancel(self, study_instance_uid: str) -> None:
        """Stop what is under way for a study, or give up one that FAILED."""
        with self._noted(Action.STUDY_CANCELLED, study_instance_uid):
            self.ledger.cancel(study_instance_uid)

    def hold(self, study_instance_uid: str, reason: str) -> State:
        """Keep a study from being read until it is released; the state in which that finds it."""
        with self._noted(Action.STUDY_HELD, study_instance_uid):
            return self.ledger.intake.hold(study_instance_uid, reason)

    def release(self, study_instance_uid: str) -> State:
        """Let a study go on that was held; its state."""
        with self._noted(Action.STUDY_RELEASED, study_instance_uid):
            return self.ledger.intake.release(study_instance_uid)

    def push(self, study_instance_uid: str) -> State:
        """Read a study next, with the images that are there; its state."""
        with self._noted(Action.STUDY_PUSHED, study_instance_uid):
            return self.ledger.intake.push(study_instance_uid)

    def probe(self, destination: str) -> Probed:
        """Ask a destination now whether it answers (C-ECHO, or a query); if it does, all that waits is sent at once.

        Raises
        ------
        SettingsError
            If there is none of that name.
        PeerError
            If it does not answer.
        """
        from dicom_node.delivery.transport import open_transport
        from dicom_node.dimse.scu import PeerError
        from dicom_node.ledger.records import Contact

        seconds, complaint = 0.0, None
        with closing(open_transport(self.settings.destination(destination), self.settings)) as transport:
            try:
                seconds = transport.probe()
            except PeerError as error:
                if not error.answered:
                    self.ledger.destinations.probed(destination, Contact(answered=False, reason=error.explained))
                    raise
                complaint = error  # it is there, and has no such service
        return Probed(seconds, self.ledger.destinations.probed(destination, Contact(answered=True)), complaint)

    def plans(self) -> list[str]:
        """Names of the plans that a study can be read by."""
        from engine.plan import load_plans

        return sorted(load_plans(self.settings.engine.plans))

    def reread(self, study_instance_uid: str, plan: str) -> int:
        """Have a study that has ended read again by a plan; its new results supersede the old ones.

        Returns
        -------
        int
            Number of the new run.

        Raises
        ------
        NodeError
            If it is still under way, or cannot be read again.
        PlanError
            If there is no such plan.
        """
        known = self.plans()
        if plan not in known:
            raise PlanError(f"there is no plan {plan!r}", advice=f"there are {', '.join(known)}")
        with self._noted(Action.STUDY_REREAD, study_instance_uid, f"plan {plan}"):
            return self.ledger.rereadings.open(study_instance_uid, plan)

    def retract(self, study_instance_uid: str, reason: str) -> dict[str, int]:
        """Withdraw what was delivered of a study, by rejection notes (IHE IOCM).

        Parameters
        ----------
        study_instance_uid : str
        reason : {"quality", "safety"}

        Returns
        -------
        dict of str to int
            How many results are withdrawn, by destination.
        """
        from datetime import UTC, datetime

        from dicom_node.delivery.retraction import retract
        from dicom_node.spool import Spool
        from sr_writer import RejectionReason

        if reason not in list(RejectionReason):
            raise NodeError("results are withdrawn for their quality or for the patient's safety")
        why, now = RejectionReason(reason), datetime.now(UTC)
        with self._noted(Action.STUDY_RETRACTED, study_instance_uid, reason):
            return retract(self.ledger, Spool.of(self.settings), study_instance_uid, why, now)
