"""What is documented is what is there: commands, settings, make targets."""

import re
import tomllib
from pathlib import Path

from typer.main import get_command

from dicom_node.cli.app import app
from dicom_node.settings import Settings
from dicom_node.settings.page import declared_settings, reference_page

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> set[str]:
    found = set()
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        if inner is None or command.invoke_without_command:  # type: ignore[attr-defined]
            found.add(name)
        found |= {f"{name} {one}" for one in inner or ()}
    return found


def test_the_page_of_commands_lists_every_one_and_no_other() -> None:
    page = (ROOT / "deploy" / "COMMANDS.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `medrega-pacs ([a-z]+(?: [a-z]+)?)[^`]*` \|", page, re.MULTILINE)
    assert sorted(rows) == sorted(commands())


def test_the_settings_page_is_made_from_the_declarations() -> None:
    page = (ROOT / "deploy" / "SETTINGS.md").read_text(encoding="utf-8")
    assert page == reference_page(), "medrega-pacs config show --reference > deploy/SETTINGS.md"


def test_every_setting_is_on_the_page() -> None:
    page = reference_page()
    for setting in declared_settings():
        section = page.split(f"## `{setting.section}`")[1].split("\n## ")[0]
        assert f"| `{setting.key}` |" in section
        assert setting.description


def test_settings_that_the_readme_names_exist_with_their_defaults() -> None:
    known = {f"{item.section.strip('[]')}.{item.key}": item.default for item in declared_settings()}
    table = README.split("| setting | default |")[1].split("\n\n")[0]
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        keys = re.findall(r"`([a-z_]+\.[a-z_]+)`", cells[0])
        assert all(key in known for key in keys), cells[0]
        defaults = re.findall(r"`([^`]+)`", cells[1]) if len(cells) > 1 else []
        if defaults:
            assert [str(known[key]).strip('"') for key in keys] == defaults


def test_the_settings_file_of_the_readme_is_right(tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    path = tmp_path / "medrega-pacs.toml"
    path.write_text(text, encoding="utf-8")
    settings = Settings.load(path)
    assert settings.destination("pacs").aet == tomllib.loads(text)["destinations"][0]["aet"]


def test_the_examples_of_settings_are_right_and_show_every_table_that_a_site_connects_by(tmp_path: Path) -> None:
    page = (ROOT / "deploy" / "EXAMPLES.md").read_text(encoding="utf-8")
    path, shown = tmp_path / "medrega-pacs.toml", set()
    for text in re.findall(r"```toml\n(.*?)```", page, re.DOTALL):
        path.write_text(text, encoding="utf-8")
        Settings.load(path)
        shown |= set(tomllib.loads(text))
    assert shown >= {"entries", "tls", "dimse_users", "destinations", "sources", "worklists", "dicomweb", "retention"}


def test_no_help_loses_what_stands_in_brackets() -> None:
    """Rich takes a word in brackets for a style, and shows nothing."""
    pages = [get_command(app)]
    while pages:
        page = pages.pop()
        pages += getattr(page, "commands", {}).values()
        texts = [page.help or "", *(getattr(parameter, "help", None) or "" for parameter in page.params)]
        assert not [text for text in texts if re.search(r"(?<!\\)\[\[?[a-z_]+\]", text)], page.name


def test_make_targets_are_documented() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    assert {"setup", "demo", "test", "lint", "phantom-model", "help"} <= targets
    pages = README + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert all(f"make {target}" in pages for target in targets - {"clean"})
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_links_of_the_pages_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "deploy").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
