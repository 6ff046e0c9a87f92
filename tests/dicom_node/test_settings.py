"""Settings: defaults, file, environment, and what is refused."""

from pathlib import Path
from typing import Any, TypeGuard, get_args

import pytest
from pydantic import BaseModel, ValidationError

from dicom_node.settings import DEFAULT_FILE, ListenerSettings, Settings
from engine.errors import SettingsError

FIXED = """
[data]
path = "medrega-data"
[listener]
aet = "MEDREGA"
host = "127.0.0.1"
port = 11112
[completion]
quiet_seconds = 60          # the demo and tests set a few seconds
[engine]
runtime = "onnx"            # onnx | torch | tensorrt_llm
model = "phantom"           # a name that ships, or a folder
[[destinations]]
name = "pacs"
aet = "PACS"
host = "127.0.0.1"
port = 4242
languages = ["en", "zh"]
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "settings.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_file_that_was_promised_is_read_and_repeats_the_defaults(tmp_path: Path) -> None:
    settings = Settings.load(written(tmp_path, FIXED))
    assert settings.destinations[0].port == 4242
    assert settings.model_copy(update={"destinations": ()}) == Settings.load()


def test_the_file_in_the_working_folder_is_found(tmp_path: Path) -> None:
    (tmp_path / DEFAULT_FILE).write_text("[listener]\nport = 4711\n")
    assert Settings.load().listener.port == 4711


def test_the_environment_wins_key_by_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDREGA_PACS__LISTENER__PORT", "104")
    monkeypatch.setenv("MEDREGA_PACS__BROKER__URL", "rediss://:secret@broker/0")
    settings = Settings.load(written(tmp_path, '[listener]\nport = 4711\naet = "READER"\n'))
    assert (settings.listener.port, settings.listener.aet) == (104, "READER")
    assert settings.broker.url is not None
    assert settings.broker.url.get_secret_value() == "rediss://:secret@broker/0"
    assert "secret" not in repr(settings)


def test_a_child_process_gets_the_same_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDREGA_PACS__BROKER__URL", "rediss://:secret@broker/0")
    text = FIXED + "\n[completion.per_calling_aet]\nCT1 = 120\n"
    settings = Settings.load(written(tmp_path, text))
    for name, value in settings.to_environment().items():
        monkeypatch.setenv(name, value)
    assert Settings.load() == settings


@pytest.mark.parametrize(
    ("text", "named", "advice"),
    [
        ("[listener]\nprt = 1\n", "unknown setting listener.prt", "listener.port"),
        ("[listner]\nport = 1\n", "unknown setting listner", "listener"),
        ('[[destinations]]\nname = "a"\naett = "A"\nport = 1\n', "destinations[0].aett", "aet?"),
        ("[listener]\nport = 0\n", "listener.port: Input should be greater than or equal to 1", ""),
        ("[listener]\nport = \n", "is not TOML: Invalid value (at line 2, column 8)", ""),
        ('[listener]\naet = "A TITLE THAT IS TOO LONG"\n', "listener.aet: an AE title is 1 to 16", ""),
        ('[listener]\nhost = "0.0.0.0"\n', "calling_aets", ""),
        ('[engine]\nruntime = "onxx"\n', "engine.runtime", ""),
        ('[engine]\nrefiner = "thresh"\n', "engine.refiner: is none of the values it may have", ""),
        ('[destinations]\nname = "a"\n', "double brackets, as [[destinations]]", ""),
        ('data = "medrega-data"\n', "data: should be a table", ""),
        ('[[destinations]]\nname = "a"\naet = "A"\n', 'destinations[0]: protocol = "dimse" needs aet and port', ""),
        ('[[destinations]]\nname = "a"\naet = "A"\nport = 1\nlanguages = []\n', "destinations[0].languages", ""),
        ('[[destinations]]\nname="a"\naet="A"\nport=1\n[[destinations]]\nname="a"\naet="B"\nport=1\n', "same name", ""),
    ],
)
def test_wrong_settings_are_named_with_the_right_one(tmp_path: Path, text: str, named: str, advice: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.load(written(tmp_path, text))
    assert named in str(caught.value)
    assert advice in caught.value.advice


def test_an_unknown_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDREGA_PACS__LISTNER__PORT", "1")
    with pytest.raises(SettingsError, match="MEDREGA_PACS__LISTNER__PORT") as caught:
        Settings.load()
    assert "listener" in caught.value.advice


def test_a_wrong_secret_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDREGA_PACS__BROKER", '{"url": ["rediss://:secret@broker/0"]}')
    with pytest.raises(SettingsError) as caught:
        Settings.load()
    assert "secret" not in str(caught.value)


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(SettingsError, match=r"no settings file missing\.toml"):
        Settings.load(Path("missing.toml"))


def test_another_address_needs_a_list_or_a_word() -> None:
    assert ListenerSettings(host="::1").loopback
    assert ListenerSettings(host="0.0.0.0", calling_aets=("CT1",)).calling_aets == ("CT1",)  # noqa: S104
    assert not ListenerSettings(host="0.0.0.0", promiscuous=True).loopback  # noqa: S104
    with pytest.raises(ValidationError):
        ListenerSettings(host="pacs.example.org")


@pytest.mark.parametrize(
    ("section", "url", "taken"),
    [
        ("broker", "redis://:Geheim@redis.example:6379/0", False),
        ("broker", "rediss://:Geheim@redis.example:6379/0", True),
        ("broker", "redis://:Geheim@[::1]:6379/0", True),
        ("broker", "redis+socket:///run/redis.sock", True),
        ("broker", "redis://:Geheim@[redis/0", False),
        ("ledger", "postgresql+psycopg://node:Geheim@db.example/x", False),
        ("ledger", "postgresql+psycopg://node:Geheim@db.example/x?sslmode=prefer", False),
        ("ledger", "postgresql+psycopg://node:Geheim@db.example/x?sslmode=verify-full&sslrootcert=ca.pem", True),
        ("ledger", "postgresql://node:Geheim@/x?host=db.example", False),
        ("ledger", "postgresql+psycopg://node:Geheim@/x?host=/run/postgresql", True),
        ("ledger", "sqlite:////srv/x.sqlite3", True),
    ],
)
def test_a_service_of_another_host_is_talked_to_by_tls_or_by_a_word(section: str, url: str, taken: bool) -> None:
    if taken:
        assert getattr(Settings(**{section: {"url": url}}), section).url.get_secret_value() == url
    else:
        with pytest.raises(ValidationError, match=r"plain_tcp = true|cannot be read") as caught:
            Settings(**{section: {"url": url}})
        assert "Geheim" not in str(caught.value)


def test_quiet_time_may_differ_by_sender(tmp_path: Path) -> None:
    settings = Settings.load(written(tmp_path, "[completion.per_calling_aet]\nCT1 = 120\n"))
    assert settings.completion.per_calling_aet == {"CT1": 120}


def test_destinations_are_found_by_name(tmp_path: Path) -> None:
    settings = Settings.load(written(tmp_path, FIXED))
    assert settings.destination("pacs").aet == "PACS"
    with pytest.raises(SettingsError) as caught:
        settings.destination("pasc")
    assert caught.value.advice == "did you mean pacs?"


def test_settings_cannot_be_changed_after_loading() -> None:
    with pytest.raises(ValidationError):
        Settings.load().listener.port = 1  # type: ignore[misc]


def test_every_setting_has_a_description_and_only_lists_of_tables_lack_defaults() -> None:
    def walk(model: type[BaseModel], *, listed: bool = False) -> None:
        for name, field in model.model_fields.items():
            tables = [item for item in get_args(field.annotation) if _is_table(item)]
            if _is_table(field.annotation):
                walk(field.annotation)
            elif tables and not field.description:
                for table in tables:
                    walk(table, listed=True)
            else:
                assert field.description, name
                assert listed or not field.is_required(), name

    def _is_table(item: Any) -> TypeGuard[type[BaseModel]]:
        return isinstance(item, type) and issubclass(item, BaseModel)

    walk(Settings)
