"""Floor 1: how images become a reading. Knows nothing of networks, results or the node."""

from engine.errors import MedregaError
from engine.findings import (
    Finding,
    Language,
    Laterality,
    ModelIdentity,
    Region,
    RunState,
    StudyReading,
)
from engine.plan import Plan, choose_plan, load_plan, load_plans
from engine.reader import read_study
from engine.runtime import CancelToken, Runtime, load_runtime
from engine.study import Instance, Series, Study, load_instance, load_studies

__all__ = [
    "CancelToken",
    "Finding",
    "Instance",
    "Language",
    "Laterality",
    "MedregaError",
    "ModelIdentity",
    "Plan",
    "Region",
    "RunState",
    "Runtime",
    "Series",
    "Study",
    "StudyReading",
    "choose_plan",
    "load_instance",
    "load_plan",
    "load_plans",
    "load_runtime",
    "load_studies",
    "read_study",
]
