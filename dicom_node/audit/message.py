"""Audit messages in the Standard's XML (PS3.15 A.5.1.1)."""

from __future__ import annotations

import os
from base64 import b64encode
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from xml.etree import ElementTree as ET

from dicom_node.audit.event import Action, AuditEvent, Code

SCHEME = "99MEDREGA"
_DESTINATION = Code("110152", "Destination Role ID")
_SOURCE = Code("110153", "Source Role ID")
_APPLICATION = Code("110150", "Application")


@dataclass(frozen=True, slots=True)
class Source:
    """Who reports, and as which application.

    Parameters
    ----------
    identifier : str
        AuditSourceID.
    site : str or None
        AuditEnterpriseSiteID.
    aets : tuple of str
        The AE titles that the node answers to.
    """

    identifier: str
    site: str | None
    aets: tuple[str, ...]


def audit_message(event: AuditEvent, source: Source, at: datetime) -> str:
    """An event as an ``AuditMessage`` in one line.

    Parameters
    ----------
    event : AuditEvent
    source : Source
    at : datetime
        When it happened, with its zone.
    """
    message = ET.Element("AuditMessage")
    action = event.action
    identification = ET.SubElement(
        message,
        "EventIdentification",
        EventActionCode=action.code,
        EventDateTime=at.astimezone(UTC).isoformat(timespec="milliseconds"),
        EventOutcomeIndicator=str(event.outcome.value),
    )
    _coded(identification, "EventID", action.event)
    if action.type is not None:
        _coded(identification, "EventTypeCode", action.type)
    _coded(identification, "EventTypeCode", Code(action, action.replace("-", " ")), SCHEME)
    if event.detail:
        ET.SubElement(identification, "EventOutcomeDescription").text = _clean(event.detail)
    receives, sends = action is Action.IMAGES_RECEIVED, action is Action.RESULTS_SENT
    _actor(message, event, _SOURCE if receives else _DESTINATION if sends else None)
    own = _DESTINATION if receives else _SOURCE if sends else _APPLICATION
    _node(message, source, own)
    site = {"AuditEnterpriseSiteID": _clean(source.site)} if source.site else {}
    reported = ET.SubElement(message, "AuditSourceIdentification", site, AuditSourceID=_clean(source.identifier))
    ET.SubElement(reported, "AuditSourceTypeCode", {"csd-code": "4"})
    if event.study_uid is not None:
        _study(message, event, event.study_uid)
    return ET.tostring(message, encoding="unicode", short_empty_elements=True)


def _actor(message: ET.Element, event: AuditEvent, role: Code | None) -> None:
    attributes = {"UserID": _clean(event.actor), "UserIsRequestor": "true"}
    if role is not None or event.action is Action.ASSOCIATION_REFUSED:
        attributes["AlternativeUserID"] = f"AETITLES={_clean(event.actor)}"
    if event.action is Action.RESULTS_SENT:
        attributes["UserIsRequestor"] = "false"
    if event.address:
        attributes |= _access_point(event.address)
    element = ET.SubElement(message, "ActiveParticipant", attributes)
    if role is not None:
        _coded(element, "RoleIDCode", role)


def _node(message: ET.Element, source: Source, role: Code) -> None:
    attributes = {
        "UserID": str(os.getpid()),
        "AlternativeUserID": f"AETITLES={';'.join(source.aets)}",
        "UserIsRequestor": "true" if role is _SOURCE else "false",
    }
    element = ET.SubElement(message, "ActiveParticipant", attributes | _access_point(os.uname().nodename))
    _coded(element, "RoleIDCode", role)


def _study(message: ET.Element, event: AuditEvent, study_uid: str) -> None:
    element = ET.SubElement(
        message,
        "ParticipantObjectIdentification",
        ParticipantObjectID=_clean(study_uid),
        ParticipantObjectTypeCode="2",
        ParticipantObjectTypeCodeRole="3",
    )
    _coded(element, "ParticipantObjectIDTypeCode", Code("110180", "Study Instance UID"))
    # The schema asks for a name or a query; the study's only name that identifies nobody is its UID.
    ET.SubElement(element, "ParticipantObjectName").text = _clean(study_uid)
    if event.instances:
        total = str(sum(event.instances.values()))
        value = b64encode(total.encode()).decode()
        ET.SubElement(element, "ParticipantObjectDetail", type="NumberOfInstances", value=value)
        description = ET.SubElement(element, "ParticipantObjectDescription")
        for sop_class, count in sorted(event.instances.items()):
            ET.SubElement(description, "SOPClass", UID=sop_class, NumberOfInstances=str(count))


def _coded(parent: ET.Element, name: str, code: Code, scheme: str = "DCM") -> None:
    ET.SubElement(parent, name, {"csd-code": code.value, "codeSystemName": scheme, "originalText": code.meaning})


def _access_point(address: str) -> dict[str, str]:
    try:
        ip_address(address)
    except ValueError:
        kind = "1"
    else:
        kind = "2"
    return {"NetworkAccessPointID": _clean(address), "NetworkAccessPointTypeCode": kind}


def _clean(text: str) -> str:
    """Without what XML cannot hold, or what could break a line of a log."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
