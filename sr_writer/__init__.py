"""From a reading to DICOM objects: floor two, between `engine` and `dicom_node`.

What is named here is loaded when it is first asked for: who only checks a profile does not load what draws and encodes.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sr_writer.encoding import dump
    from sr_writer.gate import check_results
    from sr_writer.profile import OutputProfile, PredecessorRef, load_profile, shipped_profiles
    from sr_writer.results import kind_of, write_results
    from sr_writer.retraction import RejectionReason, write_retraction
    from sr_writer.uids import WRITER_VERSION

__all__ = [
    "WRITER_VERSION",
    "OutputProfile",
    "PredecessorRef",
    "RejectionReason",
    "check_results",
    "dump",
    "kind_of",
    "load_profile",
    "shipped_profiles",
    "write_results",
    "write_retraction",
]
_HOMES = {
    "WRITER_VERSION": "uids",
    "OutputProfile": "profile",
    "PredecessorRef": "profile",
    "RejectionReason": "retraction",
    "check_results": "gate",
    "dump": "encoding",
    "kind_of": "results",
    "load_profile": "profile",
    "shipped_profiles": "profile",
    "write_results": "results",
    "write_retraction": "retraction",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
