"""report.txt: the reading in words, by language."""

from dataclasses import replace
from datetime import UTC, datetime

from dicom_node.reading.report import report_text
from engine.findings import Finding, ImageRead, ModelIdentity, NotRead, Region, RunState, SeriesRead, StudyReading

DISC = Finding(
    "disc",
    "disc",
    {"en": "disc", "zh": "圆盘"},
    {"en": "A bright disc.", "zh": "高密度圆盘。"},
    0.9,
    (Region("1.2.3.1", 1, (10.0, 20.0, 30.5, 40.0)),),
    notes=("name not confirmed",),
)


def reading(*findings: Finding, state: RunState = RunState.FINDINGS, **more: object) -> StudyReading:
    return StudyReading(
        study_instance_uid="1.2.3",
        state=state,
        narrative={"en": "Findings: a disc.", "zh": "影像诊断：圆盘。"},
        findings=findings,
        model=ModelIdentity("phantom reader", "1", "medrega-pacs", "ab", "scripted", "1", commissioning=True),
        decoding={},
        plan="phantom",
        prompts_version="1",
        prompts=(),
        images=(ImageRead("1.2.3.1", "1.2.4", 1, 100, 100),),
        not_read=(NotRead("1.2.5", None, "a localizer"),),
        held_back=(),
        created=datetime(2026, 1, 1, tzinfo=UTC),
        **more,  # type: ignore[arg-type]
    )


def test_each_language_says_the_same_finding_once() -> None:
    text = report_text(reading(DISC), ("en", "zh"))
    assert "- disc: A bright disc. (certainty 0.90, uncalibrated)" in text
    assert "- 圆盘：高密度圆盘。（确定度 0.90，未校准）" in text
    assert text.count("(10.0, 20.0, 30.5, 40.0)") == 2
    assert text.count("name not confirmed") == 1
    assert "Not for clinical use" in text
    assert "a localizer" in text


def test_finding_in_a_volume_has_its_size_and_its_first_and_last_slice() -> None:
    regions = tuple(Region(f"1.2.3.{n}", 1, (10.0, 20.0, 30.5, 40.0)) for n in (1, 2, 3))
    images = tuple(ImageRead(f"1.2.3.{n}", "1.2.4", 1, 100, 100) for n in (1, 2, 3))
    tumour = replace(DISC, regions=regions, extent_mm=(12.31, 4.0, 7.5))
    volume = replace(reading(tumour), images=images, series=(SeriesRead("1.2.4", "axial, 2.5 mm, the best of 5"),))
    text = report_text(volume, ("en", "zh"))
    assert "    12.3 x 4.0 x 7.5 mm, in 3 slices: image 1 to image 3\n" in text
    assert "12.3 × 4.0 × 7.5 毫米，见于 3 层：图像 1至图像 3" in text
    assert "(10.0, 20.0" not in text
    assert "Read\n- axial, 2.5 mm, the best of 5" in text


def test_one_language_is_enough() -> None:
    assert "圆盘" not in report_text(reading(DISC), ("en",))
    assert "Findings" not in report_text(reading(DISC), ("zh",))


def test_nothing_found_is_not_nothing_read() -> None:
    found = {state: report_text(reading(state=state), ("en",)) for state in RunState if state is not RunState.FINDINGS}
    assert len(set(found.values())) == 3
    assert "found nothing" in found[RunState.NO_FINDINGS]
    assert "partial" in report_text(reading(DISC, partial=True), ("en",))
