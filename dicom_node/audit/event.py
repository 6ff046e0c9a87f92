"""What is audited: events of a closed list, each with its codes of the Standard (PS3.16 CID 400 and 401)."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum, StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple


class Outcome(IntEnum):
    """EventOutcomeIndicator (PS3.15 A.5.1)."""

    SUCCESS = 0
    MINOR_FAILURE = 4
    SERIOUS_FAILURE = 8
    MAJOR_FAILURE = 12


class Code(NamedTuple):
    """A code of DCM (PS3.16 annex D) and its meaning."""

    value: str
    meaning: str


class _Event(Enum):
    """Families of events, CID 400."""

    APPLICATION = Code("110100", "Application Activity")
    LOG_USED = Code("110101", "Audit Log Used")
    ACCESSED = Code("110103", "DICOM Instances Accessed")
    TRANSFERRED = Code("110104", "DICOM Instances Transferred")
    DELETED = Code("110105", "DICOM Study Deleted")
    EXPORT = Code("110106", "Export")
    SECURITY = Code("110113", "Security Alert")
    AUTHENTICATION = Code("110114", "User Authentication")


_START: Final = Code("110120", "Application Start")
_STOP: Final = Code("110121", "Application Stop")
_LOGIN: Final = Code("110122", "Login")
_LOGOUT: Final = Code("110123", "Logout")
_NODE: Final = Code("110126", "Node Authentication")
_SOFTWARE: Final = Code("110131", "Software Configuration")
_RESTRICTED: Final = Code("110132", "Use of Restricted Function")
_USERS: Final = Code("110137", "User Security Attributes Changed")


class Action(StrEnum):
    """What happened; beside the Standard's codes its own word is in each message, as a type of 99MEDREGA."""

    NODE_STARTED = "node-started"
    NODE_STOPPED = "node-stopped"
    SETTINGS_LOADED = "settings-loaded"
    ASSOCIATION_REFUSED = "association-refused"
    IMAGES_RECEIVED = "images-received"
    RESULTS_SENT = "results-sent"
    SIGNED_IN = "signed-in"
    SIGNED_OUT = "signed-out"
    SIGN_IN_FAILED = "sign-in-failed"
    ACCESS_DENIED = "access-denied"
    ACCOUNT_ADDED = "account-added"
    ACCOUNT_REMOVED = "account-removed"
    ACCOUNT_CHANGED = "account-changed"
    STUDY_VIEWED = "study-viewed"
    RESULT_DOWNLOADED = "result-downloaded"
    STUDY_EXPORTED = "study-exported"
    STUDY_RETRIED = "study-retried"
    STUDY_CANCELLED = "study-cancelled"
    STUDY_REREAD = "study-reread"
    STUDY_RETRACTED = "study-retracted"
    STUDY_HELD = "study-held"
    STUDY_RELEASED = "study-released"
    STUDY_PUSHED = "study-pushed"
    STUDY_PURGED = "study-purged"
    STUDY_REVIEWED = "study-reviewed"
    VERDICTS_EXPORTED = "verdicts-exported"
    ROUTE_SWITCHED = "route-switched"
    WORK_PAUSED = "work-paused"
    WORK_RESUMED = "work-resumed"
    DESTINATION_PAUSED = "destination-paused"
    DESTINATION_RESUMED = "destination-resumed"
    DESTINATION_PROBED = "destination-probed"
    COMMISSIONED = "commissioned"
    TRAIL_VERIFIED = "trail-verified"

    @property
    def event(self) -> Code:
        """EventID."""
        return _CODES[self][0].value

    @property
    def code(self) -> str:
        """EventActionCode: create, read, update, delete or execute."""
        return _CODES[self][1]

    @property
    def type(self) -> Code | None:
        """EventTypeCode of the Standard, where it has one that fits."""
        return _CODES[self][2]


_CODES: Final[Mapping[Action, tuple[_Event, str, Code | None]]] = MappingProxyType(
    {
        Action.NODE_STARTED: (_Event.APPLICATION, "E", _START),
        Action.NODE_STOPPED: (_Event.APPLICATION, "E", _STOP),
        Action.SETTINGS_LOADED: (_Event.SECURITY, "E", _SOFTWARE),
        Action.ASSOCIATION_REFUSED: (_Event.SECURITY, "E", _NODE),
        Action.IMAGES_RECEIVED: (_Event.TRANSFERRED, "C", None),
        Action.RESULTS_SENT: (_Event.TRANSFERRED, "R", None),
        Action.SIGNED_IN: (_Event.AUTHENTICATION, "E", _LOGIN),
        Action.SIGNED_OUT: (_Event.AUTHENTICATION, "E", _LOGOUT),
        Action.SIGN_IN_FAILED: (_Event.AUTHENTICATION, "E", _LOGIN),
        Action.ACCESS_DENIED: (_Event.SECURITY, "E", _RESTRICTED),
        Action.ACCOUNT_ADDED: (_Event.SECURITY, "E", _USERS),
        Action.ACCOUNT_REMOVED: (_Event.SECURITY, "E", _USERS),
        Action.ACCOUNT_CHANGED: (_Event.SECURITY, "E", _USERS),
        Action.STUDY_VIEWED: (_Event.ACCESSED, "R", None),
        Action.RESULT_DOWNLOADED: (_Event.EXPORT, "R", None),
        Action.STUDY_EXPORTED: (_Event.EXPORT, "R", None),
        Action.STUDY_RETRIED: (_Event.ACCESSED, "U", None),
        Action.STUDY_CANCELLED: (_Event.ACCESSED, "U", None),
        Action.STUDY_REREAD: (_Event.ACCESSED, "U", None),
        Action.STUDY_RETRACTED: (_Event.ACCESSED, "D", None),
        Action.STUDY_HELD: (_Event.ACCESSED, "U", None),
        Action.STUDY_RELEASED: (_Event.ACCESSED, "U", None),
        Action.STUDY_PUSHED: (_Event.ACCESSED, "U", None),
        Action.STUDY_PURGED: (_Event.DELETED, "D", None),
        Action.STUDY_REVIEWED: (_Event.ACCESSED, "C", None),
        Action.VERDICTS_EXPORTED: (_Event.EXPORT, "R", None),
        Action.ROUTE_SWITCHED: (_Event.SECURITY, "E", _SOFTWARE),
        Action.WORK_PAUSED: (_Event.SECURITY, "E", _SOFTWARE),
        Action.WORK_RESUMED: (_Event.SECURITY, "E", _SOFTWARE),
        Action.DESTINATION_PAUSED: (_Event.SECURITY, "E", _SOFTWARE),
        Action.DESTINATION_RESUMED: (_Event.SECURITY, "E", _SOFTWARE),
        Action.DESTINATION_PROBED: (_Event.APPLICATION, "E", None),
        Action.COMMISSIONED: (_Event.APPLICATION, "E", None),
        Action.TRAIL_VERIFIED: (_Event.LOG_USED, "R", None),
    }
)


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One thing that happened.

    Parameters
    ----------
    action : Action
    actor : str
        Who did it: an account of the console, a user of the system, or a peer's AE title.
    address : str, optional
        Where from, or for results where to: an IP address or host name.
    study_uid : str, optional
        Study Instance UID of the study that it happened to.
    outcome : Outcome
    detail : str
        What else an auditor should read, never patient data: a route's name and state, a refusal's reason.
    instances : mapping of str to int
        How many objects moved, by SOP class UID.
    """

    action: Action
    actor: str
    address: str | None = None
    study_uid: str | None = None
    outcome: Outcome = Outcome.SUCCESS
    detail: str = ""
    instances: Mapping[str, int] = field(default_factory=dict)


def this_person() -> str:
    """The user of the system whose command runs, as ``name@host``; through sudo, who called it."""
    try:
        name = os.environ.get("SUDO_USER") or pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user, which has a number only
        name = str(os.getuid())
    return f"{name}@{os.uname().nodename}"
