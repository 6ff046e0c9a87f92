"""The conformance statement is true: its lists are the code's. ``python tests/test_conformance.py`` renews them."""

import re
from pathlib import Path

from pydicom.uid import UID, Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage

from dicom_node.dicomweb import store
from dicom_node.dimse import admission, tls
from dicom_node.dimse.listener import OUT_OF_RESOURCES, SUCCESS
from dicom_node.dimse.sop_classes import storage_sop_classes, transfer_syntaxes
from dicom_node.dimse.status import _RANGES, _STATUSES
from dicom_node.intake.identity import CANNOT_UNDERSTAND, DOES_NOT_MATCH
from dicom_node.intake.storage import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from sr_writer import codes, measurements
from sr_writer.identity import PRIVATE_SCHEME
from sr_writer.results import _KINDS

PAGE = Path(__file__).parent.parent / "deploy" / "CONFORMANCE.md"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def uids(name: str, found: tuple[str, ...]) -> str:
    return table((name, "UID"), [(UID(uid).name, uid) for uid in found])


def answers() -> str:
    rows = [(f"0x{status:04X}", meaning.kind.value, meaning.words) for status, meaning in sorted(_STATUSES.items())]
    digits = {0xA700: "0xA7xx", 0xA900: "0xA9xx", 0xB000: "0xBxxx, others", 0xC000: "0xCxxx"}
    rows += [(digits[status], meaning.kind.value, meaning.words) for status, meaning in _RANGES.items()]
    return table(("status", "kind", "meaning"), rows)


def private_codes() -> str:
    """Those of the tables of labels, and those that stand in the code."""
    found = {entry.code for entry in codes.table().values()} | {codes.SITE_NOT_SPECIFIED}
    found |= {*measurements._METHODS.values(), measurements._UNCALIBRATED, measurements._CALIBRATED}
    private = {(code.value, code.meaning) for code in found if code.scheme_designator == PRIVATE_SCHEME}
    return table(("code", "meaning"), sorted(private))


def made() -> dict[str, str]:
    """What stands between a marker and its end."""
    return {
        "storage": uids("storage SOP class", storage_sop_classes()),
        "syntaxes": uids("transfer syntax", transfer_syntaxes()),
        "results": uids("result", (ComprehensiveSRStorage, Comprehensive3DSRStorage, EnhancedSRStorage, *_KINDS)),
        "answers": answers(),
        "codes": private_codes(),
    }


def renewed(text: str) -> str:
    for name, content in made().items():
        marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        assert marked.search(text), name
        text = marked.sub(lambda found, content=content: f"{found[1]}\n{content}\n\n{found[2]}", text)  # type: ignore[misc]
    return text


def test_the_lists_of_the_page_are_the_code_s() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == renewed(text), "python tests/test_conformance.py renews them"


def test_every_rejection_is_in_the_table_and_no_other() -> None:
    section = PAGE.read_text(encoding="utf-8").split("### Rejections")[1].split("###")[0]
    rows = re.findall(r"^\| (\d) [a-z]+ \| (\d) [^|]+ \| (\d) [^|]+ \|", section, re.MULTILINE)
    known = [(str(known.result), str(known.source), str(known.reason)) for known in admission.REJECTIONS]
    assert sorted(rows) == sorted(known)


def test_every_status_of_storage_is_in_the_tables() -> None:
    text = PAGE.read_text(encoding="utf-8")
    section = text.split("### As SCP")[1].split("###")[0]
    statuses = {int(status, 16) for status in re.findall(r"^\| 0x([0-9A-F]{4}) \|", section, re.MULTILINE)}
    assert statuses == {SUCCESS, OUT_OF_RESOURCES, DOES_NOT_MATCH, CANNOT_UNDERSTAND}
    web = text.split("## DICOMweb")[1].split("\n## ")[0]
    for status in (store.SOP_CLASS_NOT_SUPPORTED, store.TRANSFER_SYNTAX_NOT_SUPPORTED):
        assert f"0x{status:04X}" in web


def test_what_identifies_the_node_and_secures_it_is_said() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert f"{IMPLEMENTATION_CLASS_UID}, {IMPLEMENTATION_VERSION}" in text
    for suites in tls._SUITES.values():
        assert all(suite in text for suite in suites)


def test_settings_that_the_page_names_exist() -> None:
    from dicom_node.settings.page import declared_settings

    known = {f"{item.section.strip('[]')}.{item.key}" for item in declared_settings()}
    tables = {item.section for item in declared_settings()}
    text = PAGE.read_text(encoding="utf-8")
    for named in re.findall(r"`([a-z_]+\.[a-z_]+)(?: = [^`]+)?`", text):
        assert named in known or named.endswith((".md", ".py")), named
    for named in re.findall(r"`(\[\[?[a-z_]+\]\]?)`", text):
        assert named in tables, named


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
