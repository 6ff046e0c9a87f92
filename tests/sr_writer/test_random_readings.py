"""Any reading that the contract allows: valid objects that pass the gate, or a named refusal."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sr_cases import DX, US_MULTI_FRAME, ct_series, enhanced_ct, header, pictures_of, reading, slide

from engine.errors import WriteError
from engine.findings import LANGUAGES, Finding, Laterality, Mask, NotRead, Region, RunState, StudyReading
from sr_writer import OutputProfile, check_results, dump, kind_of, write_results

STUDIES = [
    ct_series(4),
    [enhanced_ct(5)],
    [header(DX, "DX"), header(DX, "DX", 2, rows=70, columns=130)],
    [header(US_MULTI_FRAME, "US", NumberOfFrames=6)],
    [slide()],
]
WORDS = st.text(st.characters(codec="utf-8"), max_size=90)
LABELS = st.sampled_from(["disc", "圆盘", "breast", "mass", "pleural effusion", "no such label"]) | WORDS
QUICK = settings(
    deadline=None,
    # Shrinking writes hundreds of results; a failing reading is printed whole instead.
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
BY_LANGUAGE = st.dictionaries(st.sampled_from(LANGUAGES), WORDS)


@st.composite
def regions(draw: st.DrawFn, images) -> Region:
    """Draw a region that lies on its image."""
    image = draw(st.sampled_from(images))
    edges = []
    for size in (image.Columns, image.Rows):
        first = draw(st.floats(0, size - 0.01))
        edges.append((first, draw(st.floats(first + 0.01, size))))
    (x0, x1), (y0, y1) = edges
    frame = draw(st.integers(1, int(image.get("NumberOfFrames", 1) or 1)))
    mask = None
    if draw(st.booleans()):
        rows, columns = draw(st.integers(1, image.Rows)), draw(st.integers(1, image.Columns))
        bits = draw(st.binary(min_size=1, max_size=8)) * (rows * ((columns + 7) // 8))
        bits = bits[: rows * ((columns + 7) // 8)].hex()
        x, y = draw(st.integers(0, image.Columns - columns)), draw(st.integers(0, image.Rows - rows))
        mask = Mask(x, y, columns, rows, bits, draw(WORDS))
    return Region(str(image.SOPInstanceUID), frame, (x0, y0, x1, y1), mask)


@st.composite
def readings(draw: st.DrawFn) -> tuple[StudyReading, list]:
    """Draw a reading and the study that it is of."""
    images = draw(st.sampled_from(STUDIES))
    findings = draw(
        st.lists(
            st.builds(
                Finding,
                label=LABELS,
                concept=LABELS,
                names=BY_LANGUAGE,
                text=BY_LANGUAGE,
                certainty=st.none() | st.floats(0, 1),
                regions=st.lists(regions(images), max_size=3).map(tuple),
                laterality=st.sampled_from(Laterality),
                calibrated=st.booleans(),
                notes=st.lists(WORDS, max_size=2).map(tuple),
                extent_mm=st.none() | st.tuples(st.floats(0.1, 500), st.floats(0.1, 500), st.none()),
            ),
            max_size=4,
        )
    )
    read = reading(
        images,
        findings,
        state=None if findings else draw(st.sampled_from(sorted(set(RunState) - {RunState.FINDINGS}))),
        commissioning=draw(st.booleans()),
        narrative=draw(BY_LANGUAGE),
        not_read=tuple(draw(st.lists(st.builds(NotRead, st.just("1.2.3"), st.none(), WORDS), max_size=3))),
        created=draw(st.datetimes(datetime(1950, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))),
        partial=draw(st.booleans()),
    )
    return read, images


PROFILES = st.builds(
    OutputProfile,
    languages=st.sampled_from([("en", "zh"), ("zh", "en"), ("en",), ("zh",)]),
    region_sr=st.booleans(),
    sr_class=st.sampled_from(["comprehensive", "comprehensive-3d"]),
    measurements=st.sampled_from(["none", "num"]),
    tracking=st.sampled_from(["words", "cornerstone"]),
    narrative_sr=st.just(True),
    seg=st.booleans(),
    seg_geometry=st.sampled_from(["display", "patient"]),
    presentation_state=st.booleans(),
    secondary_capture=st.booleans(),
    sc_style=st.sampled_from(["labelled", "boxes"]),
    key_objects=st.booleans(),
)


def write(drawn, profile):
    """Write and check a reading; None where it is refused by name."""
    read, images = drawn
    try:
        results = write_results(read, images, profile, pictures=pictures_of(images))
    except WriteError as error:
        assert "no finding" in str(error) or "neither label nor concept" in str(error)  # noqa: PT017
        return None
    check_results(results, read, images)
    return results


@settings(QUICK, max_examples=15)
@given(drawn=readings(), profile=PROFILES)
def test_any_reading_gives_the_same_results_twice_and_they_pass_the_gate_or_a_named_refusal(drawn, profile):
    results = write(drawn, profile)
    if results is not None:
        assert kind_of(results[0]) == "sr"
        assert [dump(result) for result in results] == [dump(result) for result in write(drawn, profile)]


@settings(QUICK, max_examples=6)
@given(drawn=readings(), profile=PROFILES)
def test_readings_profiles_and_languages_never_share_an_instance(drawn, profile):
    read, images = drawn
    languages = {("en",): ("zh",), ("zh",): ("en",)}.get(profile.languages, profile.languages[::-1])
    profile = replace(profile, seg=False, secondary_capture=False)
    written = [
        write(drawn, profile),
        write((replace(read, created=read.created + timedelta(seconds=1)), images), profile),
        write(drawn, replace(profile, languages=languages)),
        write(drawn, replace(profile, tracking="words" if profile.tracking == "cornerstone" else "cornerstone")),
    ]
    if written[0] is not None:
        uids = [str(result.SOPInstanceUID) for results in written for result in results]
        assert len(set(uids)) == len(uids)


@settings(QUICK, max_examples=5)
@given(drawn=readings(), profile=PROFILES)
def test_any_reading_gives_results_without_an_error_in_dciodvfy(dciodvfy, drawn, profile):
    with tempfile.TemporaryDirectory() as folder:
        for result in write(drawn, profile) or ():
            path = Path(folder) / f"{kind_of(result)}.dcm"
            path.write_bytes(dump(result))
            assert dciodvfy(path) == []
