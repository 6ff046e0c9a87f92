"""What the results say in the writer's own words, in every language. Findings and reports speak in the model's."""

from __future__ import annotations

from collections import Counter
from typing import Final

from engine.findings import Finding, Language, NotRead, RunState, StudyReading
from engine.refine import METHOD
from sr_writer.text import SHORT_TEXT, clean_line

COMMISSIONING: Final[dict[Language, str]] = {
    "en": "commissioning model, not for clinical use",
    "zh": "调试模型，不可用于临床",
}
NOT_FOR_DIAGNOSIS: Final[dict[Language, str]] = {
    "en": "AI - not for diagnosis",
    "zh": "人工智能结果，不作为诊断依据",
}
_WARNING: Final[dict[Language, str]] = {
    "en": "COMMISSIONING MODEL - NOT FOR CLINICAL USE. Written to test the route of images and results.",
    "zh": "调试模型，不可用于临床。本结果仅用于测试影像与结果的传输路径。",
}
_UNVERIFIED: Final[dict[Language, str]] = {
    "en": "Written by an AI model, not verified by a person; for research.",
    "zh": "由人工智能模型生成，未经人工审核，仅供研究。",
}
_VERIFIED: Final[dict[Language, str]] = {
    "en": "Written by an AI model and reviewed by a person; for research.",
    "zh": "由人工智能模型生成，已经人工审核，仅供研究。",
}
_REVIEWED: Final[dict[Language, str]] = {
    "en": (
        "Review {number}: of the model's {findings} finding(s) {accepted} accepted, {modified} modified, "
        "{rejected} rejected and left out."
    ),
    "zh": (
        "第 {number} 次审核：模型的 {findings} 项发现中，接受 {accepted} 项，修改 {modified} 项，"
        "否定并删除 {rejected} 项。"
    ),
}
_REVIEWED_WITHOUT: Final[dict[Language, str]] = {
    "en": "Nothing found: the model read {images} image frame(s), and no finding of it is left.",
    "zh": "未见发现：模型阅读了 {images} 帧影像，其发现均未保留。",
}
_STATE: Final[dict[Language, dict[RunState, str]]] = {
    "en": {
        RunState.FINDINGS: "The model read {images} image frame(s) and reported {findings} finding(s).",
        RunState.NO_FINDINGS: "Nothing found: the model read {images} image frame(s) and reported no finding.",
        RunState.UNUSABLE: (
            "No usable answer: the model read {images} image frame(s), and nothing it answered could be used. "
            "This does not say that there is nothing to find."
        ),
        RunState.NOT_RUN: (
            "Not run: the model read no image of this study. This does not say that there is nothing to find."
        ),
    },
    "zh": {
        RunState.FINDINGS: "模型阅读了 {images} 帧影像，报告了 {findings} 项发现。",
        RunState.NO_FINDINGS: "未见发现：模型阅读了 {images} 帧影像，未报告任何发现。",
        RunState.UNUSABLE: "无可用结果：模型阅读了 {images} 帧影像，但其回答均不可用。这不表示没有异常。",
        RunState.NOT_RUN: "未运行：模型未阅读本检查的任何影像。这不表示没有异常。",
    },
}
_PARTIAL: Final[dict[Language, str]] = {
    "en": "Partial: some images that should have been read could not be.",
    "zh": "不完整：部分应阅读的影像未能阅读。",
}
_NOT_READ: Final[dict[Language, str]] = {"en": "Not read: {reason} ({count})", "zh": "未阅读：{reason}（{count}）"}
_HELD_BACK: Final[dict[Language, str]] = {
    "en": "Held back: {count} answer(s) of the model are not shown; the audit record says why.",
    "zh": "未显示：模型的 {count} 条回答未列出，原因见审计记录。",
}
_CERTAINTY: Final[dict[Language, tuple[str, str]]] = {
    "en": ("certainty {value:.2f}, uncalibrated", "certainty {value:.2f}"),
    "zh": ("确信度 {value:.2f}（未校准）", "确信度 {value:.2f}"),
}
BOX_ONLY: Final[dict[Language, str]] = {
    "en": "Bounding region, not a delineation.",
    "zh": "外接矩形区域，非轮廓勾画。",
}
_REFINED: Final[dict[Language, str]] = {
    "en": "Outline within a bounding region, made by: {method}.",
    "zh": "矩形区域内的轮廓，方法：{method}。",
}
_METHODS: Final[dict[str, str]] = {METHOD: "亮度相对周围的 Otsu 阈值"}
"""Of the refiners that ship, in Chinese; a site's own model has a name."""
DISPLAY_CONVENTION: Final[dict[Language, str]] = {
    "en": (
        "The source has no frame of reference: plane position and orientation here are a display convention, "
        "not a position of the patient."
    ),
    "zh": "源影像无参考坐标系：此处的平面位置与方向仅为显示约定，并非患者的实际位置。",
}
MAX_REASONS: Final = 20


def joined(words: dict[Language, str], languages: tuple[Language, ...], separator: str = " ") -> str:
    """Say the same in each language, one after the other."""
    return separator.join(words[language] for language in languages)


def finding_name(finding: Finding, language: Language) -> str:
    """Name a finding: in the language, else as the model did; the first that is more than control characters."""
    names = (finding.names.get(language, ""), finding.label, finding.concept, *finding.names.values())
    return next(filter(None, (clean_line(name, SHORT_TEXT) for name in names)), "")


def outline_words(method: str, languages: tuple[Language, ...]) -> str:
    """Say that a segment is an outline, and how it was made."""
    said = {"en": method, "zh": _METHODS.get(method, method)}
    return " ".join(_REFINED[language].format(method=said[language]) for language in languages)


def finding_words(finding: Finding, language: Language) -> str:
    """Say a finding in one language: name, sentence and certainty.

    A language that the model did not answer in falls back to the name, and that to the label: words are never made up.
    """
    name = finding_name(finding, language)
    sentence = finding.text.get(language, "").strip().rstrip(".。")
    colon, semicolon = ("：", "；") if language == "zh" else (": ", "; ")
    parts = [f"{name}{colon}{sentence}" if sentence and sentence.casefold() != name.casefold() else name]
    if finding.certainty is not None:
        parts.append(certainty_words(finding, language))
    return semicolon.join(parts)


def certainty_words(finding: Finding, language: Language) -> str:
    """Say how certain the model is, and whether that number was calibrated; empty where there is none."""
    if finding.certainty is None:
        return ""
    uncalibrated, calibrated = _CERTAINTY[language]
    return (calibrated if finding.calibrated else uncalibrated).format(value=finding.certainty)


def comment(reading: StudyReading, finding: Finding, languages: tuple[Language, ...]) -> str:
    """Say a finding in every language given, then what the grounding checks noted, then what it is not for."""
    words = [finding_words(finding, language) for language in languages]
    words += finding.notes
    if reading.model.commissioning:
        words.append(f"[{joined(COMMISSIONING, languages, ' | ')}]")
    return " | ".join(dict.fromkeys(words))


def preamble(reading: StudyReading, language: Language) -> str:
    """Say first what kind of statement this is."""
    if reading.model.commissioning:
        return _WARNING[language]
    return (_VERIFIED if reading.is_verified else _UNVERIFIED)[language]


def state_words(reading: StudyReading, language: Language) -> str:
    """Say how the run ended; "nothing found" is never the same as "not run"."""
    review = reading.review
    counts = {"images": len(reading.images), "findings": len(reading.findings)}
    if review is None or not (review.modified or review.rejected):
        words = [_STATE[language][reading.state].format(**counts)]
    else:
        said = _STATE[language] | {RunState.NO_FINDINGS: _REVIEWED_WITHOUT[language]}
        words = [said[reading.state].format(**counts)] if not reading.findings else []
    if review is not None:
        kept = {"accepted": review.accepted, "modified": len(review.modified), "rejected": review.rejected}
        words.append(_REVIEWED[language].format(number=review.number, findings=sum(kept.values()), **kept))
    return "\n".join(words)


def limits(reading: StudyReading, language: Language) -> list[str]:
    """Say what was not read and why, the commonest reason first; where nothing was usable, how much."""
    lines = [_PARTIAL[language]] if reading.partial else []
    reasons = Counter(_reason(item) for item in reading.not_read).most_common()
    if reading.state is RunState.NOT_RUN and not reasons:
        reasons = Counter(item.reason for item in reading.held_back).most_common()
    lines += [_NOT_READ[language].format(reason=reason, count=count) for reason, count in reasons[:MAX_REASONS]]
    if reading.held_back and reading.state is RunState.UNUSABLE:
        lines.append(_HELD_BACK[language].format(count=len(reading.held_back)))
    return lines


def _reason(item: NotRead) -> str:
    return item.reason or "no reason recorded"
