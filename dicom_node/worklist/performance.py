"""A workitem performed: claimed, its study fetched, its reading followed, its end told; each step may happen twice."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Final

import structlog
from pydicom.dataset import Dataset

from dicom_node.dimse.scu import PeerError
from dicom_node.dimse.suboperations import Cancel, OnProgress, Progress
from dicom_node.dimse.ups import UpsError
from dicom_node.intake.storage import Storage
from dicom_node.ledger import State
from dicom_node.ledger.models import WorkitemState
from dicom_node.ledger.records import StoredResult
from dicom_node.ledger.states import ACTIVE
from dicom_node.ledger.workitems import WorkitemRecord
from dicom_node.settings import Destination, Settings, Source, Worklist
from dicom_node.sources.pull import pull
from dicom_node.worklist.ups import Ups
from dicom_node.worklist.workitem import (
    Input,
    WorkitemError,
    cancellation_report,
    completion_report,
    input_of,
    plan_of,
    progress_report,
)
from engine.errors import NodeError

_LOOK_SECONDS: Final = 1.0
"""Between two looks at the ledger while a study is fetched."""
_FIRST_DELAY: Final = 10.0
_PROGRESS: Final = {
    State.RECEIVING: 10,
    State.COMPLETE: 10,
    State.QUEUED: 20,
    State.READING: 30,
    State.WRITING: 70,
    State.DELIVERING: 80,
}
_DONE: Final = frozenset(State) - ACTIVE - {State.IGNORED, State.CANCELLED, State.FAILED}

log = structlog.get_logger(__name__)


class Performance:
    """What is done with each workitem of a worklist; the steps, without the hour at which they are taken.

    Parameters
    ----------
    settings : Settings
    worklist : Worklist
    ups : Ups
    storage : Storage
    keep : callable
        Called while something takes long; whether this process may still work on the worklist.
    """

    def __init__(
        self, settings: Settings, worklist: Worklist, ups: Ups, storage: Storage, keep: Callable[[], bool]
    ) -> None:
        self._settings = settings
        self._worklist = worklist
        self._ups = ups
        self._storage = storage
        self._ledger = storage.ledger
        self._items = storage.ledger.workitems
        self._aet = settings.listener.aet
        self._keep = keep
        self._cancel = Cancel()
        self._stopped = False

    def stop(self) -> None:
        """Break a retrieval off; it is begun again by whoever goes on."""
        self._stopped = True
        self._cancel.ask()

    def advance(self, item: WorkitemRecord, *, look: bool) -> None:
        """Take a workitem one step further.

        Parameters
        ----------
        item : WorkitemRecord
        look : bool
            Whether the worklist is to be asked too: a workitem ended from outside is read no further.
        """
        if item.state is WorkitemState.CLAIMING:
            if look:
                self.claim(item)
        elif item.state is WorkitemState.ENDING:
            self._end(item, look=look)
        elif item.cancel_asked:
            self._stop_reading(item)
            self._to_end(item, "CANCELED", "cancelled on request")
        elif look and self._is_gone(item):
            self._stop_reading(item)  # it is let go
        elif item.state is WorkitemState.CLAIMED:
            if item.next_attempt_at is None or item.next_attempt_at <= self._ledger.clock():
                self._fetch(item)
        else:
            self._follow(item)

    def claim(self, item: WorkitemRecord) -> None:
        uid = item.sop_instance_uid
        try:
            self._ups.change_state(uid, "IN PROGRESS", item.transaction_uid)
        except UpsError as error:
            if not error.lost and error.retry:
                raise
            if not error.lost or not self._is_ours(item):
                self._lose(item, str(error))
                return
            # The claim was accepted, and its answer was lost with the process that had sent it.
        log.info("workitem claimed", workitem=uid, worklist=self._worklist.name)
        if self._worklist.subscribe:
            try:
                self._ups.subscribe(uid, self._aet)
            except PeerError as error:  # requests to cancel are then seen only as far as the worklist shows them
                log.warning("events of a workitem not subscribed to", workitem=uid, reason=str(error))
        self._items.move(item, WorkitemState.CLAIMED)

    def _is_ours(self, item: WorkitemRecord) -> bool:
        """Whether a workitem in progress takes our transaction UID."""
        if self._state(item) != "IN PROGRESS":
            return False
        try:
            self._ups.update(item.sop_instance_uid, item.transaction_uid, progress_report(0))
        except UpsError as error:
            if error.lost:
                return False
            raise
        return True

    def _is_gone(self, item: WorkitemRecord) -> bool:
        """Whether the workitem is no longer in progress, as others ended it; it is let go then."""
        state = self._state(item)
        if state in ("", "IN PROGRESS"):
            return False
        self._lose(item, f"the workitem was ended from outside, it is {state}")
        return True

    def _state(self, item: WorkitemRecord) -> str:
        """A workitem's state as the worklist has it; empty where it does not say."""
        try:
            return str(self._ups.get(item.sop_instance_uid).get("ProcedureStepState") or "")
        except UpsError as error:
            if not error.lost:
                raise
            return "gone"

    def _fetch(self, item: WorkitemRecord) -> None:
        """Fetch the study of a claimed workitem."""
        uid = item.sop_instance_uid
        try:
            workitem = self._ups.get(uid)
            plan = plan_of(workitem, self._worklist.plans)
            wanted = input_of(workitem)
            source = self._source(wanted)
        except UpsError as error:
            if error.lost:
                self._lose(item, str(error))
                return
            raise
        except WorkitemError as error:
            self._to_end(item, "CANCELED", error.explained)
            return
        study, series = wanted.study_instance_uid, wanted.series_instance_uids
        # The plan and the study stand in the ledger before the first image comes, so that its run finds them.
        self._items.move(item, WorkitemState.CLAIMED, study_instance_uid=study, plan=plan)
        self._cancel = Cancel()
        if self._stopped:
            return
        try:
            found = pull(
                self._settings,
                source,
                study,
                self._storage,
                series_instance_uids=series,
                on_progress=self._fetching(uid),
                cancel=self._cancel,
            )
        except NodeError as error:
            self._not_fetched(item, error.explained, again=error.retry)
            return
        if found.ok and found.completed == found.not_kept and self._items.run_of(study) is None:
            self._not_fetched(item, f"{source.name} gave no image to read", again=False)
        elif found.ok:
            if series:
                self._ledger.intake.close(study, "all series that its workitem names were fetched")
            self._items.move(item, WorkitemState.READING)
        elif not self._cancel.asked:  # else it begins again, or the wish to cancel is seen to
            self._not_fetched(item, found.explained, again=found.retry)

    def _not_fetched(self, item: WorkitemRecord, reason: str, *, again: bool) -> None:
        log.warning("study of a workitem not fetched", workitem=item.sop_instance_uid, reason=reason)
        if again and item.attempts + 1 < self._worklist.attempts:
            until = self._ledger.clock() + timedelta(seconds=_FIRST_DELAY * 2**item.attempts)
            self._items.put_off(item, reason, until)
        else:
            self._to_end(item, "CANCELED", f"the study was not fetched: {reason}")

    def _fetching(self, uid: str) -> OnProgress:
        """While objects come: keep the lease, and heed the wishes to cancel, of this workitem and of others."""
        looked = time.monotonic()

        def seen(_progress: Progress) -> None:
            nonlocal looked
            if time.monotonic() - looked < _LOOK_SECONDS:
                return
            looked = time.monotonic()
            with suppress(NodeError):  # what cannot be seen to now is seen to by the next step
                if not self._keep():
                    self._cancel.ask()
                for item in self._items.open(self._worklist.name):
                    if item.cancel_asked and item.sop_instance_uid == uid:
                        self._cancel.ask()
                    elif item.cancel_asked:
                        self.advance(item, look=False)

        return seen

    def _source(self, wanted: Input) -> Source:
        """The source that has a study: one that the workitem names, else the worklist's own.

        Raises
        ------
        WorkitemError
            If the node knows none of them.
        """
        for source in self._settings.sources:
            if source.aet in wanted.retrieve_aets:
                return source
        for source in self._settings.sources:
            if source.url is not None and any(url.startswith(f"{source.url.rstrip('/')}/") for url in wanted.urls):
                return source
        if self._worklist.source is not None:
            return self._settings.source(self._worklist.source)
        raise WorkitemError("no archive that the workitem names is among the sources of this node")

    def _follow(self, item: WorkitemRecord) -> None:
        """See how far the reading is."""
        study = item.study_instance_uid
        assert study is not None  # noqa: S101 - of READING
        run = self._items.run_of(study)
        if run is None:
            return  # the entries of its images are on their way into the ledger
        if run.id != item.run_id:
            self._items.follow(item, run.id)
        if run.state in ACTIVE:
            percent = _PROGRESS.get(run.state, 50)
            if percent > item.progress:
                self._tell(item, percent)
        elif run.state not in _DONE:
            self._to_end(item, "CANCELED", f"the study is {run.state}: {run.reason}")
        elif item.plan and run.plan != item.plan:
            self._to_end(item, "CANCELED", f"the study was read already, by the plan {run.plan}")
        else:
            self._to_end(item, "COMPLETED", "")

    def _tell(self, item: WorkitemRecord, percent: int) -> None:
        try:
            self._ups.update(item.sop_instance_uid, item.transaction_uid, progress_report(percent))
        except UpsError as error:
            if not error.lost:
                raise
            self._lose(item, str(error))
            self._stop_reading(item)
            return
        self._items.told(item, percent)

    def _to_end(self, item: WorkitemRecord, outcome: str, reason: str) -> None:
        self._items.move(item, WorkitemState.ENDING, reason, outcome=outcome)
        for now in self._items.open(self._worklist.name):
            if now.sop_instance_uid == item.sop_instance_uid:
                self._end(now, look=True)

    def _end(self, item: WorkitemRecord, *, look: bool) -> None:
        """Tell the worklist how a workitem ended, and give it back."""
        if not look:
            return
        uid = item.sop_instance_uid
        try:
            if item.outcome == "COMPLETED":
                self._ups.update(uid, item.transaction_uid, self._completion(item))
            else:
                now = self._ledger.clock()
                self._ups.update(uid, item.transaction_uid, cancellation_report(item.reason, now))
            self._ups.change_state(uid, item.outcome, item.transaction_uid)
        except UpsError as error:
            if error.lost:
                if self._state(item) == item.outcome:  # as wanted: only the answer that said so was lost
                    self._items.move(item, WorkitemState(item.outcome), item.reason)
                else:
                    self._lose(item, str(error))
                return
            if error.retry:
                raise
            log.error("the end of a workitem is not taken", workitem=uid, outcome=item.outcome, reason=str(error))
            if item.outcome == "COMPLETED":
                self._to_end(item, "CANCELED", f"its completion was not taken: {error}")
            else:
                self._lose(item, str(error))
            return
        self._items.move(item, WorkitemState(item.outcome), item.reason)
        log.info("workitem ended", workitem=uid, outcome=item.outcome, reason=item.reason)

    def _completion(self, item: WorkitemRecord) -> Dataset:
        assert item.run_id is not None  # noqa: S101 - of COMPLETED
        assert item.study_instance_uid is not None  # noqa: S101
        by_name = {destination.name: destination for destination in self._settings.destinations}
        outputs: list[tuple[StoredResult, list[Destination]]] = [
            (result, [by_name[name] for name in names if name in by_name])
            for result, names in self._items.outputs(item.run_id)
        ]
        workitem = self._ups.get(item.sop_instance_uid)
        return completion_report(
            workitem, self._aet, item.created_at, self._ledger.clock(), outputs, item.study_instance_uid
        )

    def _stop_reading(self, item: WorkitemRecord) -> None:
        """Stop what is under way for a workitem's study."""
        study = item.study_instance_uid
        run = self._items.run_of(study) if study is not None else None
        if study is None or run is None or run.state not in ACTIVE:
            return
        try:
            self._ledger.cancel(study)
        except NodeError as error:  # it ended in this moment
            log.info("nothing to cancel", study=study, reason=str(error))

    def _lose(self, item: WorkitemRecord, reason: str) -> None:
        self._items.move(item, WorkitemState.LOST, reason)
        log.warning("workitem let go", workitem=item.sop_instance_uid, reason=reason)
