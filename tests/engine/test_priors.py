"""Priors: what counts as the same patient, and as an earlier study of the same kind."""

from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from engine.findings import PriorStudy, StudyReading
from engine.plan import Plan, load_plans
from engine.priors import Prior, patient_mismatch, prior_mismatch
from engine.reader import read_study
from engine.runtime.scripted import ScriptedRuntime
from engine.study import Instance, Series, Study

CHEST = load_plans()["chest-xray"]


def study(uid: str = "1.2.3", date: str = "20260301", **elements: Any) -> Study:
    header = Dataset()
    header.PatientID, header.IssuerOfPatientID, header.PatientName = "P1", "HOSPITAL", "DOE^JANE"
    header.PatientBirthDate, header.PatientSex = "19700101", "F"
    header.StudyDate, header.StudyTime, header.Modality, header.BodyPartExamined = date, "101500", "DX", "CHEST"
    header.StudyInstanceUID = uid
    for keyword, value in elements.items():
        if value is None:
            delattr(header, keyword)
        else:
            setattr(header, keyword, value)
    one = Instance(Path("nowhere.dcm"), header, f"{uid}.1.1", "1.2.840.10008.5.1.4.1.1.1.1", f"{uid}.1", uid, 1)
    return Study(uid, (Series(one.series_instance_uid, one.modality, (one,)),))


PRIOR = {"uid": "1.2.2", "date": "20240301"}


def test_an_earlier_study_of_the_same_kind_is_a_prior() -> None:
    assert prior_mismatch(study(**PRIOR), study(), CHEST) is None
    assert prior_mismatch(study(**PRIOR, IssuerOfPatientID=None, PatientSex=None), study(), CHEST) is None


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"PatientID": "P2"}, "patient IDs"),
        ({"PatientID": None}, "patient IDs"),  # and the same name
        ({"IssuerOfPatientID": "ELSEWHERE"}, "issuers"),
        ({"PatientBirthDate": "19700102"}, "dates of birth are not"),
        ({"PatientBirthDate": None}, "date of birth is missing"),
        ({"PatientSex": "M"}, "sexes"),
        ({"date": "20270101"}, "earlier"),
        ({"StudyDate": None}, "earlier"),
        ({"Modality": "CT"}, "modality and part"),
        ({"BodyPartExamined": "HAND"}, "modality and part"),
        ({"uid": "1.2.3"}, "the study itself"),
    ],
)
def test_what_is_no_prior_is_told_without_a_value(elements: dict[str, Any], reason: str) -> None:
    why = prior_mismatch(study(**{**PRIOR, **elements}), study(), CHEST)
    assert why is not None
    assert reason in why
    assert not any(value in why for value in ("P1", "P2", "DOE", "1970", "HOSPITAL", "ELSEWHERE"))


def test_a_patient_without_an_id_is_nobodys_double() -> None:
    nameless = study(PatientID=None).headers[0]
    assert patient_mismatch(nameless, nameless) is not None


def read(plan: Plan, prior: Prior | None) -> StudyReading:
    return read_study(study(), plan, ScriptedRuntime({}), prior=prior)


def test_a_reading_tells_of_the_prior_only_where_its_plan_asks_for_one() -> None:
    asking = CHEST.model_copy(update={"priors": 1})
    earlier = study(**PRIOR)
    assert read(CHEST, Prior(earlier)).prior is None
    told = read(asking, Prior(earlier)).prior
    assert told == PriorStudy("1.2.2", False, "the model is shown one image at a time, and compares nothing")
    missing = read(asking, Prior(None, "there is none")).prior
    assert missing == PriorStudy(None, False, "there is none")
    other = read(asking, Prior(study(**PRIOR, PatientID="P2"))).prior
    assert other is not None
    assert (other.study_instance_uid, other.read) == (None, False)


def test_a_prior_survives_the_stored_reading_and_its_absence_changes_no_digest() -> None:
    reading = read(CHEST.model_copy(update={"priors": 1}), Prior(study(**PRIOR)))
    assert StudyReading.from_json(reading.to_json()) == reading
    assert "prior" not in read(CHEST, None).to_json()
    assert not [image for image in reading.images if image.series_instance_uid.startswith("1.2.2")]
