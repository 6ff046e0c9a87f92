"""Answers of classifications and reports: any string in, labels of the set and a list of what is none."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.answers import ReportText, parse_labels, parse_phrase, parse_report
from engine.labels import label_sets

CHEST, OCT = label_sets()["vindr-cxr"], label_sets()["oct2017"]
SEPARATOR = st.sampled_from([", ", ",", "，", "、", "; ", "；", "\n", ",\n", ", , "])
LABELS = st.lists(st.sampled_from([label for label in CHEST.labels if label.concept]), min_size=1, unique=True)
FRAGMENTS = st.sampled_from([*(label.word for label in CHEST.labels), ",", "，", "、", " and ", "和", ".", "No", "\n"])


def words(answer: str, labels=CHEST, **options) -> list[str]:
    return [named.label.word for named in parse_labels(answer, labels, **options).named]


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.text(), st.lists(FRAGMENTS, max_size=12).map("".join)), st.booleans())
def test_any_text_gives_labels_of_the_set_once_each_and_spans_within_it(text, complete):
    parsed = parse_labels(text, CHEST, complete=complete)
    assert all(named.label in CHEST.labels and named.label.concept for named in parsed.named)
    assert len({named.label for named in parsed.named}) == len(parsed.named)
    for named in parsed.named:
        start, end = named.span
        assert CHEST.find(text[start:end].strip(" .。\"'“”\n\t")) is not None
    parse_report(text, "zh")
    parse_phrase(text)


@settings(max_examples=100, deadline=None)
@given(LABELS, SEPARATOR, st.sampled_from([str.lower, str.upper, str]), st.sampled_from(["", ".", "。"]))
def test_labels_written_out_are_read_back(labels, separator, case, end):
    assert words(case(separator.join(label.word for label in labels)) + end) == [label.word for label in labels]


@settings(max_examples=50, deadline=None)
@given(LABELS, st.data())
def test_answer_cut_anywhere_names_no_label_that_was_not_in_it(labels, data):
    answer = ", ".join(label.word for label in labels)
    cut = answer[: data.draw(st.integers(0, len(answer)))]
    assert set(words(cut, complete=False)) <= {label.word for label in labels}


@pytest.mark.parametrize(
    ("answer", "named", "nothing", "unreadable"),
    [
        ("Cardiomegaly, Pleural effusion", ["Cardiomegaly", "Pleural effusion"], False, 0),
        ("cardiomegaly and pleural effusion.", ["Cardiomegaly", "Pleural effusion"], False, 0),
        ("心影增大、胸腔积液。", ["Cardiomegaly", "Pleural effusion"], False, 0),
        ("Nodule or Mass", ["Nodule or Mass"], False, 0),
        ("No finding", [], True, 0),
        ("No findings.", [], True, 0),
        ("未见异常", [], True, 0),
        ("Cardiomegaly, gout", ["Cardiomegaly"], False, 1),
        ("No evidence of cardiomegaly", [], False, 1),
        ("Cardiomegaly, No finding", ["Cardiomegaly"], True, 0),
        ("", [], False, 0),
    ],
)
def test_classification_is_read(answer, named, nothing, unreadable):
    parsed = parse_labels(answer, CHEST)
    assert [item.label.word for item in parsed.named] == named
    assert parsed.nothing == nothing
    assert len(parsed.unreadable) == unreadable
    assert parsed.usable == (bool(named) != nothing)


def test_word_that_means_nothing_found_is_the_sets_own():
    assert parse_labels("normal", OCT).nothing
    assert parse_labels("normal", CHEST).unreadable == ("normal",)


def test_last_label_of_an_answer_that_broke_off_is_not_read():
    parsed = parse_labels("Cardiomegaly, Edema", CHEST, complete=False)
    assert [named.label.word for named in parsed.named] == ["Cardiomegaly"]
    assert parsed.unreadable == ("Edema",)


@pytest.mark.parametrize(
    ("answer", "language", "expected"),
    [
        ("Findings: Clear. Impression: None.", "en", ReportText("Clear.", "None.")),
        ("FINDINGS：Clear.", "en", ReportText("Clear.", "")),
        ("Impression: Mass.", "en", ReportText("", "Mass.")),
        ("影像诊断：肿块。影像结论：胰腺癌可能。", "zh", ReportText("肿块。", "胰腺癌可能。")),
        ("影像所见:清晰。影响结论:无。", "zh", ReportText("清晰。", "无。")),
        ("The lungs are clear.", "en", None),
        ("Findings:  ", "en", None),
        ("", "zh", None),
    ],
)
def test_report_is_taken_apart_at_its_headings(answer, language, expected):
    assert parse_report(answer, language) == expected
