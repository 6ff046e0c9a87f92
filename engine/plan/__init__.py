"""Plans: which questions are asked of which images of a study."""

from engine.plan.choice import choose_plan, fitting_plans
from engine.plan.files import PlanFault, PlanFile, load_plan, load_plans, parse_plan, read_plans
from engine.plan.match import age_of, body_part_of, laterality_of, mismatch, view_of
from engine.plan.model import Plan
from engine.plan.parts import (
    FINDING_TASKS,
    BoxLimits,
    FramePolicy,
    ImageWords,
    Limits,
    Match,
    PlanObject,
    PlanWindow,
    Question,
    SeriesRules,
    Task,
)

__all__ = [
    "FINDING_TASKS",
    "BoxLimits",
    "FramePolicy",
    "ImageWords",
    "Limits",
    "Match",
    "Plan",
    "PlanFault",
    "PlanFile",
    "PlanObject",
    "PlanWindow",
    "Question",
    "SeriesRules",
    "Task",
    "age_of",
    "body_part_of",
    "choose_plan",
    "fitting_plans",
    "laterality_of",
    "load_plan",
    "load_plans",
    "mismatch",
    "parse_plan",
    "read_plans",
    "view_of",
]
