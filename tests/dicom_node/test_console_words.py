"""Every word of the console has its Chinese."""

from __future__ import annotations

import re
from pathlib import Path

from dicom_node.console.accounts import Role
from dicom_node.console.page import PLACES, TEMPLATES
from dicom_node.console.translation import chinese, negotiated
from dicom_node.ledger import DeliveryState, State
from dicom_node.routing.decision import Priority

_CALL = re.compile(r"""\b_\(\s*(?:"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)')""")


def said() -> set[str]:
    """What templates and code ask to be translated."""
    files = [*TEMPLATES.glob("*.html"), *Path(TEMPLATES.parent).glob("*.py")]
    calls = [call for file in files for call in _CALL.findall(file.read_text(encoding="utf-8"))]
    named = {*State, *DeliveryState, *Role, *Priority, *(name for _, name, _ in PLACES)}
    return {double or single for double, single in calls} | {str(name) for name in named}


def test_every_word_has_its_chinese() -> None:
    assert said() - set(chinese()) == set()


def test_a_translation_fills_in_the_same_values() -> None:
    for english, text in chinese().items():
        assert sorted(re.findall(r"{(\w+)}", english)) == sorted(re.findall(r"{(\w+)}", text)), english


def test_the_language_is_the_browsers_first_that_there_is() -> None:
    assert negotiated("fr-FR, zh-CN;q=0.8, en;q=0.5") == "zh"
    assert negotiated("en;q=0.3, zh;q=0") == "en"
    assert negotiated("*;q=x,,;q=") == "en"
