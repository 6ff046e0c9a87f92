"""What a person does in the console, in the audit trail: who, from where, to what."""

from __future__ import annotations

import anyio.to_thread
from starlette.requests import Request

from dicom_node.audit import Action, AuditEvent, Outcome, Trail


async def audited(
    request: Request,
    action: Action,
    *,
    study_uid: str | None = None,
    outcome: Outcome = Outcome.SUCCESS,
    detail: str = "",
) -> None:
    """Enter what the person who has signed in did; `detail` holds no patient data."""
    address = request.client.host if request.client else None
    event = AuditEvent(action, request.state.account.name, address, study_uid, outcome, detail)
    await anyio.to_thread.run_sync(Trail.of(request.app.state.settings).write, event)
