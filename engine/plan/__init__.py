"""Plans: which questions are asked of which images of a study."""

from engine.plan.choice import choose_plan
from engine.plan.files import PlanFault, PlanFile, load_plan, load_plans, parse_plan, read_plans
from engine.plan.model import (
    FramePolicy,
    ImageWords,
    Limits,
    Match,
    Plan,
    PlanObject,
    PlanWindow,
    Question,
    SeriesRules,
    Task,
)

__all__ = [
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
    "choose_plan",
    "load_plan",
    "load_plans",
    "parse_plan",
    "read_plans",
]
