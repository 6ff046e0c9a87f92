"""The engine page: which model reads, how many studies an hour, what waits, and what memory it takes."""

from __future__ import annotations

import shutil
import subprocess
from datetime import datetime
from functools import cache
from typing import Any, Final

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dicom_node.console import guard, page
from dicom_node.console.accounts import Role
from dicom_node.running import processes
from dicom_node.settings import Settings
from engine.compile.inspection import describe
from engine.errors import MedregaError
from engine.resources import readable
from engine.runtime import model_path

_GPU: Final = ("name", "utilization.gpu", "memory.used", "memory.total")
"""What nvidia-smi is asked for: a name, a percentage, and two sizes in MiB."""
_TOLD: Final = {
    "name": "Name of the model",
    "kind": "Kind",
    "parameters": "Parameters",
    "stored_as": "Numbers stored as",
    "memory_bfloat16": "Weights in bfloat16",
    "memory_float32": "Weights in float32",
    "weights_digest": "Digest",
    "digest": "Digest",
}
"""What is told of a model, and the words for it."""


@guard.requires(Role.VIEWER)
async def engine(request: Request) -> Response:
    """The page; what changes in it asks for itself again every few seconds."""
    return page.render(request, "engine.html", **await anyio.to_thread.run_sync(_look, request))


ROUTES: Final = [Route("/engine", engine)]


def _look(request: Request) -> dict[str, Any]:
    settings, ledger = request.app.state.settings, request.app.state.ledger
    hours = ledger.throughput.hours()
    now: datetime = ledger.clock()
    return {
        "settings": settings,
        "model": _model(settings),
        "hours": hours,
        "most": max(1, *(len(hour.seconds) for hour in hours)),
        "waiting": [(item, max(0.0, (now - item.oldest).total_seconds())) for item in ledger.throughput.waiting()],
        "processes": processes(settings),
        "gpus": _gpus(),
        "readable": readable,
    }


@cache
def _described(model: str) -> dict[str, Any]:
    return describe(model_path(model))


def _model(settings: Settings) -> dict[str, Any]:
    """What the model's folder says; nothing for a script, and on a machine that only listens."""
    try:
        told = _described(settings.engine.model)
    except MedregaError:
        return {}
    return {words: told[name] for name, words in _TOLD.items() if name in told}


def _gpus() -> list[dict[str, str]]:
    """What the driver's own tool says of this machine's GPUs; nothing where there is none."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    asked = [command, f"--query-gpu={','.join(_GPU)}", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, timeout=5, check=True).stdout  # noqa: S603 - our own words
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in said.splitlines()]
    return [dict(zip(_GPU, row, strict=True)) for row in rows if len(row) == len(_GPU)]
