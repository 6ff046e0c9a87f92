"""Which plan a study is read by, from its headers."""

from __future__ import annotations

from collections.abc import Iterable

from engine.errors import NotAnImageError, PlanError, UndecodableError
from engine.findings import ModelIdentity
from engine.imaging import check_image
from engine.plan.files import load_plans
from engine.plan.match import mismatch
from engine.plan.model import Plan
from engine.study import Instance, Study


def choose_plan(study: Study, model: ModelIdentity, plans: Iterable[Plan] | None = None) -> Plan:
    """Choose the plan that fits a study and the model that is to read it: the first of `fitting_plans`.

    Raises
    ------
    PlanError
        If the study holds no image of a patient, or no plan is for its images and this kind of model.
    """
    given = load_plans().values() if plans is None else plans
    fitting = fitting_plans(study, (plan for plan in given if plan.commissioning == model.commissioning))
    if not fitting:
        raise PlanError(
            f"no plan exists for the model {model.name!r} and this study",
            advice="`medrega-pacs plan which FOLDER` shows why",
        )
    return fitting[0]


def fitting_plans(study: Study, plans: Iterable[Plan]) -> list[Plan]:
    """Return the plans that fit some image of a study, the best first.

    A site's own come before those that ship, then those that say more about the images they are for, then those that
    more images fit.

    Raises
    ------
    PlanError
        If the study holds no image of a patient.
    """
    reasons = [_refusal(instance) for instance in study.instances]
    if all(reasons):
        told = "; ".join(dict.fromkeys(reason for reason in reasons if reason))
        raise PlanError(
            f"no plan exists for this study: none of its {len(reasons)} objects is an image of a patient ({told})",
            advice="Structured reports, presentation states and the like are not read; send the images.",
        )
    images = [instance for instance, reason in zip(study.instances, reasons, strict=True) if reason is None]
    fits = [(plan, sum(mismatch(plan.match, image) is None for image in images)) for plan in plans]
    fitting = [(plan, count) for plan, count in fits if count]
    fitting.sort(key=lambda fit: (fit[0].own, fit[0].match.specificity, fit[1]), reverse=True)
    return [plan for plan, _ in fitting]


def _refusal(instance: Instance) -> str | None:
    """Why an instance is no image; one that is, but cannot be decoded, has a reading that says so."""
    try:
        check_image(instance)
    except NotAnImageError as error:
        return str(error)
    except UndecodableError:
        return None
    return None
