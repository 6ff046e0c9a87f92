"""Floor 1: how images become a reading. Knows nothing of networks, results or the node.

This is the package's public face. Names are imported when they are first used, so that a command that reads nothing
(``--help``, ``echo``) does not wait for the codecs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from engine.errors import MedregaError
    from engine.findings import Finding, Language, Laterality, ModelIdentity, Region, RunState, StudyReading
    from engine.plan import Plan, choose_plan, load_plan, load_plans
    from engine.reader import read_study
    from engine.runtime import CancelToken, Runtime, load_runtime
    from engine.study import Instance, Series, Study, load_instance, load_studies

_HOMES: Final = {
    "errors": ("MedregaError",),
    "findings": ("Finding", "Language", "Laterality", "ModelIdentity", "Region", "RunState", "StudyReading"),
    "plan": ("Plan", "choose_plan", "load_plan", "load_plans"),
    "reader": ("read_study",),
    "runtime": ("CancelToken", "Runtime", "load_runtime"),
    "study": ("Instance", "Series", "Study", "load_instance", "load_studies"),
}

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


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"engine.{module}"), name)
    raise AttributeError(f"module 'engine' has no attribute {name!r}")
