"""The reading in plain words, in one language or both: what ``report.txt`` holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from engine.findings import Finding, Language, RunState, StudyReading

_WORDS: Final[Mapping[Language, Mapping[str, str]]] = {
    "en": {
        "title": "AI reading - not verified by a radiologist",
        "commissioning": "Read by a commissioning model. Not for clinical use.",
        RunState.FINDINGS: "Findings",
        RunState.NO_FINDINGS: "The model found nothing.",
        RunState.UNUSABLE: "The model ran, and nothing it answered could be used.",
        RunState.NOT_RUN: "No image was read.",
        "certainty": "certainty {value:.2f}, uncalibrated",
        "calibrated": "certainty {value:.2f}",
        "colon": ": ",
        "brackets": " ({})",
        "frame": "image {number}, frame {frame}",
        "image": "image {number}",
        "volume": "{columns:.1f} x {rows:.1f} x {depth:.1f} mm, in {count} slices: {first} to {last}",
        "report": "Report",
        "images": "Images read: {count}",
        "partial": "Some images could not be read; this reading is partial.",
        "read": "Read",
        "not_read": "Not read",
        "prior": "Earlier study, not compared with",
        "no_prior": "No earlier study to compare with",
        "model": "Model: {name} {version} ({runtime})",
    },
    "zh": {
        "title": "人工智能阅片结果，未经放射科医师核实",
        "commissioning": "由调试模型阅片，不可用于临床。",
        RunState.FINDINGS: "所见",
        RunState.NO_FINDINGS: "模型未发现异常目标。",
        RunState.UNUSABLE: "模型已运行，但其回答均不可用。",
        RunState.NOT_RUN: "未读取任何图像。",
        "certainty": "确定度 {value:.2f}，未校准",
        "calibrated": "确定度 {value:.2f}",
        "colon": "：",
        "brackets": "（{}）",
        "frame": "图像 {number}，第 {frame} 帧",
        "image": "图像 {number}",
        "volume": "{columns:.1f} × {rows:.1f} × {depth:.1f} 毫米，见于 {count} 层：{first}至{last}",
        "report": "报告",
        "images": "已读取图像：{count}",
        "partial": "部分图像无法读取，本次阅片不完整。",
        "read": "已读取",
        "not_read": "未读取",
        "prior": "既往检查，未作比较",
        "no_prior": "无可供比较的既往检查",
        "model": "模型：{name} {version}（{runtime}）",
    },
}


def report_text(reading: StudyReading, languages: Sequence[Language]) -> str:
    """Write a reading out, one part a language.

    Parameters
    ----------
    reading : StudyReading
    languages : sequence of Language

    Returns
    -------
    str
        Ends with a newline. UIDs identify the study; nothing of the patient is in it.
    """
    parts = [_part(reading, language, languages) for language in languages]
    return f"{reading.study_instance_uid}\n\n" + "\n\n".join(parts) + "\n"


def _part(reading: StudyReading, language: Language, languages: Sequence[Language]) -> str:
    words = _WORDS[language]
    model = reading.model
    lines = [words["title"]]
    if model.commissioning:
        lines.append(words["commissioning"])
    lines += [
        words["model"].format(name=model.name, version=model.version, runtime=model.runtime),
        words["images"].format(count=len(reading.images)),
        "",
        words[reading.state],
    ]
    for finding in reading.findings:
        lines.append(f"- {finding_text(finding, language)}")
        lines += [f"    {place}" for place in _places(reading, finding, words)]
        if language == languages[0]:  # remarks of the grounding checks are English, so once is enough
            lines += [f"    {note}" for note in finding.notes]
    if reading.narrative.get(language):
        lines += ["", words["report"], reading.narrative[language]]
    if reading.partial:
        lines += ["", words["partial"]]
    if reading.not_read:
        if reading.series:
            lines += ["", words["read"], *(f"- {item.reason}" for item in reading.series)]
        lines += ["", words["not_read"], *(f"- {item.reason}" for item in reading.not_read)]
    if reading.prior is not None and not reading.prior.read:
        found = reading.prior.study_instance_uid is not None
        lines += ["", words["prior" if found else "no_prior"], f"- {reading.prior.reason}"]
    return "\n".join(lines)


def _places(reading: StudyReading, finding: Finding, words: Mapping[str, str]) -> list[str]:
    """Where a finding is: of one in a volume its size, first and last slice, of any other each box."""
    numbers = {(image.sop_instance_uid, image.frame): n for n, image in enumerate(reading.images, 1)}
    image = words["frame" if any(image.frame > 1 for image in reading.images) else "image"]
    places = [
        image.format(number=numbers.get((region.sop_instance_uid, region.frame), "?"), frame=region.frame)
        for region in finding.regions
    ]
    if finding.extent_mm and finding.extent_mm[2] is not None:
        columns, rows, depth = finding.extent_mm
        sizes = {"columns": columns, "rows": rows, "depth": depth}
        return [words["volume"].format(**sizes, count=len(places), first=places[0], last=places[-1])]
    boxes = [", ".join(f"{value:.1f}" for value in region.box) for region in finding.regions]
    return [f"{place}: ({box})" for place, box in zip(places, boxes, strict=True)]


def finding_text(finding: Finding, language: Language) -> str:
    """One finding in one line: name, sentence, certainty."""
    words = _WORDS[language]
    said = finding.names.get(language) or finding.label
    text = finding.text.get(language)
    if text and text.casefold() != said.casefold():
        said += words["colon"] + text
    if finding.certainty is not None:
        certainty = words["calibrated" if finding.calibrated else "certainty"].format(value=finding.certainty)
        said += words["brackets"].format(certainty)
    return said
