"""Sendings: which transfers bring images of which studies, and how they ended."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import delete, select

from dicom_node.ledger.models import Expectation, Run, Sending, Study
from dicom_node.ledger.part import Part


class Sendings(Part):
    """Who sends what. Images themselves are entered apart from this, so that it costs them nothing."""

    def heard(self, owner: str, begun: Collection[tuple[str, str]], studies: Collection[str]) -> None:
        """Enter the beginning of transfers, and reset the quiet time of studies whose images are arriving.

        Parameters
        ----------
        owner : str
            The process that receives them.
        begun : collection of (str, str)
            Transfers that have begun to bring a study, with the study.
        studies : collection of str
        """
        if not begun and not studies:
            return
        with self._database.write() as session:
            for transfer, study in begun:
                if session.get(Study, study) is not None and session.get(Sending, (transfer, study)) is None:
                    session.add(Sending(transfer=transfer, study_instance_uid=study, owner=owner))
            self._begin_quiet_times(session, studies)

    def ended(self, owner: str, transfer: str, studies: Collection[str], last: str, *, released: bool) -> bool:
        """Enter the end of a transfer.

        Parameters
        ----------
        owner : str
        transfer : str
        studies : collection of str
            What it brought images of.
        last : str
            The study of its last image, whose quiet time begins with the transfer's end.
        released : bool
            Whether its sender ended it in order.

        Returns
        -------
        bool
            Whether a count is known for one of the studies, so that it may be complete now.
        """
        expected = False
        with self._database.write() as session:
            session.execute(delete(Sending).where(Sending.transfer == transfer))
            for study in studies:
                run = session.scalar(select(Run).where(Run.study_instance_uid == study, Run.gathers))
                if run is None:
                    continue
                # By the run's own time, in case the clock is that of another host.
                now = max(self._clock(), run.last_image_at)
                if study == last:
                    run.last_image_at = now
                session.add(
                    Sending(transfer=transfer, study_instance_uid=study, owner=owner, ended_at=now, released=released)
                )
                expected = expected or session.get(Expectation, study) is not None
        return expected
