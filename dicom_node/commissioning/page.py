"""The report that is put on file: PDF with pictures and places to sign, and the same as JSON."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from dicom_node.commissioning.run import CaseResult, Commissioning
from sr_writer.report_page import Section, report_pdf

_TITLE = "Commissioning report: imaging AI results through the archive"
_WARNING = "Phantom studies read by the commissioning model. Nothing here is of a patient."
_WIDTHS = (32, 68, 32, 16, 32)
_SIGNATURES = ("Name:", "Position:", "Date:", "Signature:")
_LINE = " " + "_" * 48


def write_report(commissioning: Commissioning, out: Path) -> tuple[Path, Path]:
    """Write ``report.pdf``, ``report.json``, and each case's picture beside them.

    Returns
    -------
    tuple of Path
        The PDF and the JSON; the PDF names the SHA-256 of the JSON, so that the two belong together.
    """
    content = json.dumps(_as_json(commissioning), indent=1, ensure_ascii=False) + "\n"
    as_json, as_pdf = out / "report.json", out / "report.pdf"
    as_json.write_text(content, encoding="utf-8")
    for result in commissioning.results:
        if result.picture is not None:
            result.picture.save(out / f"{result.case.name}.png")
    digest = hashlib.sha256(content.encode()).hexdigest()
    author = f"medrega-pacs {commissioning.version}"
    as_pdf.write_bytes(
        report_pdf(_TITLE, _WARNING, author, "en", commissioning.created, _sections(commissioning, digest))
    )
    return as_pdf, as_json


def _as_json(commissioning: Commissioning) -> dict[str, Any]:
    return {
        "run": commissioning.run,
        "through": commissioning.through,
        "created": commissioning.created.isoformat(),
        "version": commissioning.version,
        "passed": commissioning.passed,
        "models": _models(commissioning),
        "cases": [
            {
                "name": result.case.name,
                "title": result.case.title,
                "sop_class": result.case.sop_class.name,
                "transfer_syntax": result.case.syntax.name,
                "study_instance_uid": result.study_instance_uid,
                "passed": not result.faults,
                "seconds": round(result.seconds, 1),
                "checks": [{"name": check.name, "faults": list(check.faults)} for check in result.checks],
                "found": _found(result),
                "picture": f"{result.case.name}.png" if result.picture is not None else None,
            }
            for result in commissioning.results
        ],
    }


def _models(commissioning: Commissioning) -> list[str]:
    used = {result.reading.model for result in commissioning.results if result.reading is not None}
    return sorted(f"{one.name} {one.version}, {one.runtime}, weights {one.weights_digest}" for one in used)


def _found(result: CaseResult) -> list[str]:
    return [finding.label for finding in result.reading.findings] if result.reading is not None else []


def _sections(commissioning: Commissioning, digest: str) -> list[Section]:
    results = commissioning.results
    failed = [result for result in results if result.faults]
    verdict = (
        f"PASSED: all {len(results)} cases, {sum(len(result.checks) for result in results)} checks."
        if commissioning.passed
        else f"FAILED: {len(failed)} of {len(results)} cases."
    )
    sections = [
        Section(
            "Result",
            (
                verdict,
                f"Through {commissioning.through}",
                f"Run {commissioning.run}, {commissioning.created:%Y-%m-%d %H:%M %Z}, "
                f"medrega-pacs {commissioning.version}",
                *(f"Model: {model}" for model in _models(commissioning)),
            ),
        ),
        Section("Accepted by", tuple(f"{words}{_LINE}" for words in _SIGNATURES)),
    ]
    if failed:
        faults = [
            (result.case.name, check.name, fault)
            for result in failed
            for check in result.checks
            for fault in check.faults
        ]
        sections.append(Section("What is wrong", table=(("Case", "Check", "Fault"), *faults), widths=(32, 54, 94)))
    rows = [
        (
            result.case.name,
            f"{result.case.title}\n{result.case.sop_class.name}\n{result.case.syntax.name}",
            ", ".join(_found(result)) or "-",
            f"{result.seconds:.1f} s" if result.reading is not None else "-",
            f"FAILED: {len(result.faults)} faults" if result.faults else f"passed, {len(result.checks)} checks",
        )
        for result in results
    ]
    table = (("Case", "What it puts to the test", "Found", "Time", "Result"), *rows)
    sections.append(Section("Cases", table=table, widths=_WIDTHS))
    names = dict.fromkeys(check.name for result in results for check in result.checks)
    sections.append(Section("What was checked", tuple(f"- {name}" for name in names)))
    shown = tuple(
        (result.picture, f"{result.case.name}: {'FAILED' if result.faults else 'passed'}")
        for result in results
        if result.picture is not None
    )
    if shown:
        words = "The images as they were sent, with the boxes of the SR as it came back."
        sections.append(Section("Pictures", (words,), pictures=shown))
    sections.append(Section("Belongs to", (f"report.json, SHA-256 {digest}",), small=True))
    return sections
