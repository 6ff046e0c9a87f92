"""An examination: every check at the same time, each with its limit of time, told in order."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from dicom_node.doctor.finding import Check, Finding, fail
from engine.errors import MedregaError


def examine(checks: Sequence[Check]) -> Iterator[Finding]:
    """Run checks side by side, and tell what they find in their order, each as soon as those before it have ended.

    Parameters
    ----------
    checks : sequence of Check

    Yields
    ------
    Finding
    """
    begin = time.monotonic()
    running = []
    for check in checks:
        found: queue.SimpleQueue[Finding | None] = queue.SimpleQueue()
        # A daemon: one that hangs, as a name server can make it, keeps nobody from going on.
        threading.Thread(target=_look, args=(check, found), name=check.name, daemon=True).start()
        running.append((check, found))
    for check, found in running:
        while True:
            left = None if check.seconds is None else max(0.0, begin + check.seconds - time.monotonic())
            try:
                finding = found.get(timeout=left)
            except queue.Empty:
                finding = fail(f"did not end within {check.seconds:.0f} s", "does something on the way not answer?")
                yield replace(finding, check=check.name)
                break
            if finding is None:
                break
            yield replace(finding, check=check.name)


def _look(check: Check, found: queue.SimpleQueue[Finding | None]) -> None:
    try:
        for finding in check.look():
            found.put(finding)
    except MedregaError as error:
        found.put(fail(str(error), error.advice))
    except OSError as error:
        place = f": {error.filename}" if error.filename else ""
        found.put(fail(f"{error.strerror or type(error).__name__}{place}", "check the path and its permissions"))
    except Exception as error:  # the outermost edge: one check that breaks must not hide what the others find
        found.put(fail(f"the check itself broke ({type(error).__name__})", "please report it"))
    finally:
        found.put(None)
