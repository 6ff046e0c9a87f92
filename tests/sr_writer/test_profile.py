"""Output profiles: those that ship, and a site's own, refused by file and place or key where they are wrong."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from engine.errors import SettingsError, WriteError
from sr_writer import OutputProfile, load_profile, shipped_profiles


def test_profiles_that_ship_are_those_of_the_design():
    assert shipped_profiles() == ["ihe-air", "minimal", "viewer"]
    assert load_profile() == load_profile("viewer") == OutputProfile()
    assert load_profile("ihe-air").sr_class == "comprehensive-3d"
    assert load_profile("ihe-air").measurements == "num"
    minimal = load_profile("minimal")
    assert minimal.secondary_capture
    assert not any((minimal.writes_sr, minimal.seg, minimal.presentation_state, minimal.pdf))


def test_a_sites_own_profile_has_its_files_name_and_the_viewers_defaults(tmp_path):
    path = tmp_path / "ward-7.toml"
    path.write_text('languages = ["zh"]\npdf = true\n', encoding="utf-8")
    assert load_profile(str(path)) == OutputProfile(name="ward-7", languages=("zh",), pdf=True)
    assert load_profile(str(path)).fingerprint != load_profile().fingerprint


@pytest.mark.parametrize(
    ("text", "message", "advice"),
    [
        ("pdf = true\nseg = yes\n", "line 2, column 7", ""),
        ("pfd = true", "unknown key pfd", "did you mean pdf"),
        ('pdf = "yes"', "pdf:", ""),
        ("pdf = 1", "pdf:", ""),
        ('sr_class = "basic"', "sr_class:", ""),
        ('languages = ["fr"]', "languages:", ""),
        ("languages = []", "one or more languages", ""),
        ("[seg]\non = true", "seg:", ""),
        ('name = "Ward 7"', "lower case", ""),
        ('name = "viewer"', "name of a profile that ships", ""),
        ("region_sr = false\nnarrative_sr = false\nsecondary_capture = false", "without regions", ""),
    ],
)
def test_a_wrong_profile_is_refused_by_file_and_place_or_key(tmp_path, text, message, advice):
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=message) as caught:
        load_profile(str(path))
    assert "mine" in str(caught.value)
    assert advice in caught.value.advice


def test_a_profile_that_is_not_there_is_refused_with_the_nearest_name(tmp_path):
    with pytest.raises(SettingsError, match="no output profile viewr") as caught:
        load_profile("viewr")
    assert caught.value.advice == "did you mean viewer?"
    with pytest.raises(SettingsError, match="cannot be read"):
        load_profile(str(tmp_path / "absent.toml"))


@pytest.mark.parametrize(
    "wrong", [{"languages": ()}, {"languages": ("en", "en")}, {"languages": ("fr",)}, {"name": ""}]
)
def test_a_profile_that_exists_is_valid(wrong):
    with pytest.raises(WriteError):
        OutputProfile(**wrong)


def test_the_page_names_every_key_and_every_profile_that_ships():
    page = (Path(__file__).parents[2] / "deploy" / "PROFILES.md").read_text(encoding="utf-8")
    first, second = (set(re.findall(r"^\| `([a-z_-]+)`", part, re.MULTILINE)) for part in page.split("| key |"))
    assert first == set(shipped_profiles())
    assert second == {field.name for field in fields(OutputProfile)}
