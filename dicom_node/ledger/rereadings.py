"""Rereadings: a person has a study read again by another plan."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Final

from sqlalchemy import func, select

from dicom_node.ledger.models import Event, Instance, Run
from dicom_node.ledger.part import Part, unknown_study
from dicom_node.ledger.runs import up_to
from dicom_node.ledger.states import ACTIVE, State
from dicom_node.ledger.switches import switched
from dicom_node.routing.decision import Action, Decision
from engine.errors import NodeError

KIND: Final = "reread"


class Rereadings(Part):
    """What is read once more."""

    def open(self, study_instance_uid: str, plan: str) -> int:
        """Open a run that reads the images that are there by a plan, and supersedes the results that there are.

        It goes where the run before it went: the rules are not asked again.

        Parameters
        ----------
        study_instance_uid : str
        plan : str
            Its name.

        Returns
        -------
        int
            The run's number.

        Raises
        ------
        NodeError
            If the study is unknown or still under way, no route reads it, or images of it were purged.
        """
        with self._database.write() as session:
            before = session.scalar(
                select(Run)
                .where(Run.study_instance_uid == study_instance_uid)
                .order_by(Run.number.desc())
                .limit(1)
                .with_for_update()
            )
            if before is None:
                raise unknown_study(study_instance_uid)
            if before.state in ACTIVE or before.gathers:
                raise NodeError(f"the study is {before.state}", advice="wait until it has ended, or cancel it first")
            if before.decision is None:
                raise NodeError("no rule has looked at the study yet", advice="retry it first")
            decision = Decision.from_json(before.decision)
            by_hand, why = switched(session, before.route)
            if by_hand is Action.OFF:
                raise NodeError(why, advice=f"`medrega-pacs route on {before.route}` lets it go on")
            if decision.route is None or decision.action is Action.OFF:
                raise NodeError(decision.ignored, advice="change the rules, then retry it")
            purged = select(func.count()).where(Instance.run_id.in_(up_to(before)), Instance.purged_at.is_not(None))
            if count := session.scalar(purged):
                raise NodeError(f"{count} of the study's images were purged", advice="have the study sent again")
            now = self._clock()
            decision = replace(decision, plan=plan, sampled=True)
            self._supersede(session, study_instance_uid)
            run = Run(
                id=uuid.uuid4().hex,
                study_instance_uid=study_instance_uid,
                number=before.number + 1,
                supersedes=before.id,
                state=State.QUEUED,
                reason=f"to be read again by the plan {plan}",
                created_at=now,
                changed_at=now,
                last_image_at=before.last_image_at,
                route=before.route,
                priority=before.priority,
                decision=decision.to_json(),
                plan=plan,
                queue=before.queue,
                gathers=False,
            )
            session.add(run)
            session.flush()
            session.add(
                Event(
                    study_instance_uid=study_instance_uid,
                    run_id=run.id,
                    at=now,
                    kind=KIND,
                    to_state=State.QUEUED,
                    reason=run.reason,
                )
            )
            return run.number
