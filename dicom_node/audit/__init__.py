"""The audit trail (PS3.15 A.5): who did what to which study, in a file that shows whether it was changed."""

from dicom_node.audit.event import Action, AuditEvent, Outcome, this_person
from dicom_node.audit.trail import Trail

__all__ = ["Action", "AuditEvent", "Outcome", "Trail", "this_person"]
