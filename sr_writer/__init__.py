"""From a reading to DICOM objects: floor two, between `engine` and `dicom_node`."""

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
