"""All the checks of a set-up, and those of them that are asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from dicom_node.doctor.engine import engine_checks
from dicom_node.doctor.examination import examine
from dicom_node.doctor.files import file_checks
from dicom_node.doctor.finding import Check, Finding, Outcome
from dicom_node.doctor.machine import machine_checks
from dicom_node.doctor.peers import peer_checks
from dicom_node.doctor.ports import port_checks
from dicom_node.doctor.sending import send_checks
from dicom_node.doctor.services import service_checks
from dicom_node.settings import Settings
from engine.errors import SettingsError

_OF_PEERS: Final = {"destination", "source", "worklist", "commitment-peer", "test-send"}
"""Kinds that a set-up may have none of."""


def all_checks(settings: Settings, *, send: bool = False) -> list[Check]:
    """Every check, in the order in which a set-up is built; with `send` a test object is stored at destinations."""
    return [
        *file_checks(settings),
        *machine_checks(settings),
        *service_checks(settings),
        *port_checks(settings),
        *peer_checks(settings),
        *(send_checks(settings) if send else ()),
        *engine_checks(settings),
    ]


def chosen(checks: list[Check], only: Collection[str] = (), skip: Collection[str] = ()) -> list[Check]:
    """Those of a kind (``engine``, ``destination``) or name (``destination pacs``) that is asked for.

    Raises
    ------
    SettingsError
        If there is none of that kind or name.
    """
    known = {check.kind for check in checks} | {check.name for check in checks} | _OF_PEERS
    for name in (*only, *skip):
        if name not in known:
            raise SettingsError(f"doctor has no check {name!r}", advice=f"there are {', '.join(sorted(known))}")
    return [
        check
        for check in checks
        if (not only or {check.name, check.kind} & set(only)) and not {check.name, check.kind} & set(skip)
    ]


def diagnose(
    config: Path | None, only: Collection[str] = (), skip: Collection[str] = (), *, send: bool = False
) -> Iterator[Finding]:
    """Load the settings and examine what they describe; settings that are wrong are a finding too."""
    try:
        settings = Settings.load(config)
    except SettingsError as error:
        yield Finding(Outcome.FAIL, str(error), error.advice, "settings")
        return
    checks = chosen(all_checks(settings, send=send), only, skip)
    yield Finding(
        Outcome.OK, f"those of {config or 'medrega-pacs.toml or the environment'} are understood", "", "settings"
    )
    yield from examine(checks)
