"""The parser is total: any string in, typed boxes and a list of what could not be read out; never a zero box."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.grammar import SCALE, format_boxes, is_nothing, parse, plain

CORNERS = st.lists(st.integers(0, SCALE), min_size=2, max_size=2, unique=True).map(sorted)
BOX = st.tuples(CORNERS, CORNERS).map(lambda xy: (xy[0][0], xy[1][0], xy[0][1], xy[1][1]))
LABEL = st.text(st.characters(categories=["L"]), min_size=1, max_size=12)
FRAGMENTS = st.sampled_from(
    [
        *["<ref>", "</ref>", "<box>", "</box>", "[", "]", "[[", "]]", ",", ", ", "，", "：", "［", "］", ":", "."],
        *["disc", "圆盘", "No finding", "1", "999", "1000", "-3", "12.5", "0, 0, 0, 0", "[[1, 2, 3, 4]]", "\n", " "],
    ]
)


def boxes(answer: str) -> list[tuple[str, tuple[int, int, int, int]]]:
    return [(region.label, region.box) for region in parse(answer).regions]


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(), st.lists(FRAGMENTS, max_size=40).map("".join)))
def test_any_text_is_parsed_without_an_exception_and_without_an_empty_box(text):
    parsed = parse(text)
    for region in parsed.regions:
        x1, y1, x2, y2 = region.box
        assert x1 < x2
        assert y1 < y2
        assert all(0 <= first <= last <= len(text) for first, last in region.spans)
    assert "<box>" not in parsed.text
    assert "<ref>" not in parsed.text


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(LABEL, st.lists(BOX, min_size=1, max_size=4)), min_size=1, max_size=5))
def test_formatted_boxes_are_parsed_back_exactly(groups):
    answer = ", ".join(format_boxes(label, found) for label, found in groups)
    parsed = parse(answer)
    assert boxes(answer) == [(label, box) for label, found in groups for box in found]
    assert parsed.unreadable == ()
    assert parsed.text == ""


@settings(max_examples=300, deadline=None)
@given(LABEL, st.lists(BOX, min_size=1, max_size=3), st.data())
def test_answer_cut_anywhere_gives_only_boxes_that_were_in_it(label, found, data):
    answer = format_boxes(label, found)
    cut = answer[: data.draw(st.integers(0, len(answer)))]
    assert all(region.box in found for region in parse(cut).regions)


WIDE = str.maketrans("[],:0123456789", "［］，：０１２３４５６７８９")
GROUPS = st.lists(st.tuples(LABEL, st.lists(BOX, min_size=1, max_size=3)), min_size=1, max_size=3)


def _tagless(answer: str) -> str:
    for tag in ("<ref>", "</ref>", "<box>", "</box>"):
        answer = answer.replace(tag, "")
    return answer


@settings(max_examples=100, deadline=None)
@given(GROUPS, st.data())
def test_slips_of_the_model_change_nothing_of_what_is_read(groups, data):
    """Dropped tags, Chinese punctuation, reversed corners, a bracket too few or too many."""
    expected = [(label, box) for label, found in groups for box in found]
    swapped = [
        (
            label,
            [data.draw(st.sampled_from([box, (box[2], box[1], box[0], box[3]), box[2:] + box[:2]])) for box in found],
        )
        for label, found in groups
    ]
    answer = ", ".join(format_boxes(label, found) for label, found in swapped)
    places = [place for place, character in enumerate(answer) if character in "[]"]
    place = data.draw(st.sampled_from(places))
    slips = [
        _tagless(answer),
        answer.translate(WIDE),
        _tagless(answer).translate(WIDE),
        answer.replace("</ref>", "</ref>："),
        answer.replace(", ", "，"),
        answer[:place] + answer[place + 1 :],
        answer[:place] + answer[place] + answer[place:],
    ]
    for slip in slips:
        assert boxes(slip) == expected, slip


@settings(max_examples=100, deadline=None)
@given(LABEL, BOX, st.integers(0, 3), st.one_of(st.integers(-999_999, -1), st.integers(SCALE + 1, 999_999)))
def test_box_out_of_range_is_never_taken_for_one_within(label, box, corner, beyond):
    wrong = list(box)
    wrong[corner] = beyond
    parsed = parse(format_boxes(label, [tuple(wrong), box]))
    assert [region.in_range for region in parsed.regions] == [False, True]
    assert parsed.regions[1].box == box


@settings(max_examples=100, deadline=None)
@given(LABEL, st.lists(BOX, min_size=1, max_size=3))
def test_spans_point_at_label_and_box(label, found):
    answer = "Seen: " + format_boxes(label, found)
    for region, box in zip(parse(answer).regions, found, strict=True):
        first, second = (answer[start:end] for start, end in region.spans)
        assert label in first
        assert second == ", ".join(map(str, box))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        # published answers
        (
            "<ref>carotid vessel wall</ref><box>[[365, 293, 416, 598], [596, 316, 635, 464]]</box>",
            [("carotid vessel wall", (365, 293, 416, 598)), ("carotid vessel wall", (596, 316, 635, 464))],
        ),
        ("<ref>胰腺癌</ref><box>[[661, 528, 743, 599]]</box>：胰尾部", [("胰腺癌", (661, 528, 743, 599))]),
        # tagless
        ("disc[[1, 2, 3, 4]]", [("disc", (1, 2, 3, 4))]),
        ("bar pattern [[1, 2, 3, 4], [5, 6, 7, 8]]", [("bar pattern", (1, 2, 3, 4)), ("bar pattern", (5, 6, 7, 8))]),
        ("disc: [[1,2,3,4]], ring[[5,6,7,8]]. Both bright.", [("disc", (1, 2, 3, 4)), ("ring", (5, 6, 7, 8))]),
        ("圆盘[[1, 2, 3, 4]]，圆环[[5, 6, 7, 8]]", [("圆盘", (1, 2, 3, 4)), ("圆环", (5, 6, 7, 8))]),
        # a bracket too few
        ("<ref>a</ref><box>[[1, 2, 3, 4]</box>", [("a", (1, 2, 3, 4))]),
        ("<ref>a</ref><box>[1, 2, 3, 4]</box>", [("a", (1, 2, 3, 4))]),
        ("<ref>a</ref><box>[[1, 2, 3, 4</box>", [("a", (1, 2, 3, 4))]),
        ("<ref>a</ref><box>[[1, 2, 3, 4], 5, 6, 7, 8]]</box>", [("a", (1, 2, 3, 4)), ("a", (5, 6, 7, 8))]),
        ("<ref>a</ref><box>[[1, 2, 3, 4]]", [("a", (1, 2, 3, 4))]),
        ("<ref>a</ref><box>[[1, 2, 3, 4]]<ref>b</ref><box>[[5, 6, 7, 8]]", [("a", (1, 2, 3, 4)), ("b", (5, 6, 7, 8))]),
        # reversed corners
        ("<ref>a</ref><box>[[30, 4, 1, 20]]</box>", [("a", (1, 4, 30, 20))]),
        # Chinese punctuation
        ("<ref>圆盘</ref>：<box>［［１，２，３，４］］</box>", [("圆盘", (1, 2, 3, 4))]),
        ("圆盘【【1，2，3，4】】", [("圆盘", (1, 2, 3, 4))]),
        # a box that nobody named
        ("<box>[[1, 2, 3, 4]]</box>", [("", (1, 2, 3, 4))]),
    ],
)
def test_boxes_are_read(answer, expected):
    parsed = parse(answer)
    assert boxes(answer) == expected
    assert parsed.unreadable == ()
    assert all(region.in_range for region in parsed.regions)


@pytest.mark.parametrize(
    "answer",
    [
        "<ref>a</ref><box>[[0, 0, 0, 0]]</box>",
        "<ref>a</ref><box>[[5, 5, 5, 9]]</box>",
        "<ref>a</ref><box>[[1, 2, 3]]</box>",
        "<ref>a</ref><box>[[1, 2, 3, 4, 5]]</box>",
        "<ref>a</ref><box>[[1.5, 2, 3, 4]]</box>",
        "<ref>a</ref><box>[[x1, y1, x2, y2]]</box>",
        "<ref>a</ref><box>[[1, 2, 3, 4",
        "<ref>a</ref><box>[[1, 2",
        "<ref>a</ref><box>",
        "<ref>a</ref><box></box>",
        "<ref>a</ref>",
        "a[[1, 2, 3, 91",
        "[[[[",
    ],
)
def test_what_cannot_be_read_as_a_box_is_told(answer):
    parsed = parse(answer)
    assert parsed.regions == ()
    assert len(parsed.unreadable) == 1


def test_last_box_that_breaks_off_is_told_and_the_others_are_kept():
    parsed = parse("<ref>a</ref><box>[[1, 2, 3, 4], [5, 6, 7, 91")
    assert [region.box for region in parsed.regions] == [(1, 2, 3, 4)]
    assert parsed.unreadable == ("a[5, 6, 7, 91",)


@pytest.mark.parametrize("box", ["-5, 2, 30, 40", "1, 2, 1000, 40", "10, 20, 99999, 40"])
def test_box_beyond_the_scale_is_known_as_such(box):
    (region,) = parse(f"<ref>a</ref><box>[[{box}]]</box>").regions
    assert not region.in_range


def test_grounded_report_is_split_into_boxes_and_words():
    parsed = parse(
        "<ref>right lung</ref><box>[[102, 106, 481, 910]]</box>, <ref>left lung</ref><box>[[535, 128, 923, 889]]"
        "</box>: No focal consolidation is seen. There is no evidence for pulmonary edema."
    )
    assert list(parsed.by_label) == ["right lung", "left lung"]
    assert parsed.text == "No focal consolidation is seen. There is no evidence for pulmonary edema."


def test_words_around_a_box_in_a_sentence_are_kept():
    assert parse("The <ref>disc</ref><box>[[1, 2, 3, 4]]</box> is bright.").text == "The disc is bright."
    assert parse("A mass, see [1], of 3 cm.").text == "A mass, see [1], of 3 cm."


@pytest.mark.parametrize(
    "answer", ["No finding", "no findings.", " No finding. ", "未见异常", "未见异常。", "<ref>No finding</ref>"]
)
def test_nothing_found_is_understood(answer):
    assert is_nothing(answer)


@pytest.mark.parametrize("answer", ["", "disc", "No finding but a disc", "nothing can be answered"])
def test_other_answers_are_not_taken_for_nothing_found(answer):
    assert not is_nothing(answer)


def test_name_is_told_without_tags_and_full_stop():
    assert plain("<ref>圆盘</ref>。") == "圆盘"
    assert plain(" disc.\n") == "disc"
