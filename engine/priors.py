"""Priors: which earlier study of a patient may stand beside a study, judged by the headers of both.

A patient is the same by Patient ID and its issuer, with the date of birth and the sex as a check; never by a name.
Nothing here is kept, logged or told: reasons hold no value of a header.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pydicom.dataset import Dataset

from engine.plan import Plan, body_part_of, mismatch
from engine.study import Study


@dataclass(frozen=True, slots=True)
class Prior:
    """An earlier study that a reading is given, or why it is given none.

    Parameters
    ----------
    study : Study or None
    reason : str
        In words; empty where there is a study.
    """

    study: Study | None
    reason: str = ""


def patient_mismatch(header: Dataset, other: Dataset) -> str | None:
    """Say why two headers are not known to be of the same patient; None if they are.

    Patient IDs and their issuers must agree, where both tell one; the dates of birth must be told and agree; the sexes
    must not contradict each other.
    """
    if not _text(header, "PatientID") or _text(header, "PatientID") != _text(other, "PatientID"):
        return "the patient IDs are not the same"
    if _differ(header, other, "IssuerOfPatientID"):
        return "the issuers of the patient IDs are not the same"
    if not (_text(header, "PatientBirthDate") and _text(other, "PatientBirthDate")):
        return "a date of birth is missing, so that it cannot be seen whether the patient is the same"
    if _differ(header, other, "PatientBirthDate"):
        return "the dates of birth are not the same"
    sexes = {_text(header, "PatientSex").upper(), _text(other, "PatientSex").upper()} - {"", "O"}
    return "the sexes are not the same" if len(sexes) > 1 else None


def moment_of(header: Dataset) -> str:
    """Study Date and Time, in an order that sorts; empty where there is no date."""
    date = re.sub(r"\D", "", _text(header, "StudyDate"))
    return f"{date}.{_text(header, 'StudyTime')}" if len(date) == 8 else ""


def prior_mismatch(prior: Study, study: Study, plan: Plan) -> str | None:
    """Say why one study is no prior of another one that a plan reads; None if it is one.

    Every image must be of the same patient and earlier; one at least must be such as the plan reads, of a modality and
    a part of the body that the study has.
    """
    first = study.headers[0]
    if prior.study_instance_uid == study.study_instance_uid:
        return "it is the study itself"
    for header in prior.headers:
        if why := patient_mismatch(first, header):
            return why
        if not moment_of(first) or not moment_of(header) or moment_of(header) >= moment_of(first):
            return "it is not known to be earlier"
    read = [one for one in study.instances if mismatch(plan.match, one) is None]
    kinds = {(one.modality, body_part_of(one.header)) for one in read}
    for one in prior.instances:
        part = body_part_of(one.header)
        alike = any(one.modality == modality and part == known for modality, known in kinds)
        anatomy = bool(plan.match.body_part or plan.match.region or plan.match.words)
        if alike and mismatch(plan.match, one) is None and (part or anatomy):
            return None
    return "none of its images is of the same modality and part of the body"


def _differ(header: Dataset, other: Dataset, keyword: str) -> bool:
    one, two = _text(header, keyword), _text(other, keyword)
    return bool(one and two and one != two)


def _text(header: Dataset, keyword: str) -> str:
    return str(header.get(keyword) or "").strip()
