"""The node's settings: frozen, typed, each with a default and its help, parsed once at the edge and passed in.

They come from one TOML file and from the environment, which wins: ``MEDREGA_PACS__LISTENER__PORT=11113`` overrides
``port`` of ``[listener]``. A key that is not declared here is refused, with the nearest name that is.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from engine.errors import SettingsError
from engine.findings import LANGUAGES, Language

ENVIRONMENT_PREFIX: Final = "MEDREGA_PACS__"
DEFAULT_FILE: Final = Path("medrega-pacs.toml")


def _ae_title(value: str) -> str:
    """An application entity title as PS3.5 6.2 (VR AE) allows it."""
    title = value.strip(" ")
    if not 1 <= len(title) <= 16 or not title.isascii() or not title.isprintable() or "\\" in title:
        raise ValueError("an AE title is 1 to 16 printable ASCII characters without a backslash")
    return title


AETitle = Annotated[str, AfterValidator(_ae_title)]
Port = Annotated[int, Field(ge=1, le=65535)]


class Section(BaseModel):
    """A table of the settings file."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DataSettings(Section):
    """Where the node keeps what it received and made."""

    path: Path = Field(
        default=Path("medrega-data"), description="Folder of the spool, the readings, the results and the ledger."
    )
    minimum_free_mib: NonNegativeInt = Field(
        default=512,
        description="Free space in MiB below which an image is refused with status 0xA700, so the sender keeps it.",
    )


class ListenerSettings(Section):
    """The storage and verification SCP (PS3.4 A and B)."""

    aet: AETitle = Field(default="MEDREGA", description="AE title of the node, as listener and as sender of results.")
    host: str = Field(default="127.0.0.1", description="Address to listen at; loopback only until told otherwise.")
    port: Port = Field(default=11112, description="TCP port to listen at.")
    calling_aets: tuple[AETitle, ...] = Field(
        default=(), description="AE titles that may send; empty allows any on loopback."
    )
    promiscuous: bool = Field(
        default=False,
        description="Allow any calling AE title at an address other hosts can reach. Say so only in a closed network.",
    )
    max_associations: PositiveInt = Field(default=25, description="Associations served at the same time.")
    max_pdu_bytes: Annotated[int, Field(ge=4096, le=1_048_576)] = Field(
        default=131_072, description="Largest PDU that the node announces; 131072 is the fastest measured."
    )
    acse_timeout_seconds: PositiveFloat = Field(default=30, description="How long association messages may take.")
    dimse_timeout_seconds: PositiveFloat = Field(default=60, description="How long one DIMSE message may take.")
    network_timeout_seconds: PositiveFloat = Field(
        default=120, description="How long a peer may be silent in an association."
    )

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the listener."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @model_validator(mode="after")
    def _closed_until_told(self) -> ListenerSettings:
        if not (self.loopback or self.calling_aets or self.promiscuous):
            raise ValueError(
                "other hosts can reach this address: list the senders in calling_aets, or set promiscuous = true"
            )
        return self


class CompletionSettings(Section):
    """When a study counts as complete."""

    quiet_seconds: PositiveFloat = Field(
        default=60,
        description="A study is complete when no image of it arrived for so long; scanners pause between series.",
    )
    per_calling_aet: dict[AETitle, PositiveFloat] = Field(
        default_factory=dict, description="Other quiet times by calling AE title, for example { CT1 = 120 }."
    )

    def quiet_time(self, calling_aet: str) -> float:
        """Quiet time in seconds for a sender."""
        return self.per_calling_aet.get(calling_aet, self.quiet_seconds)


class EngineSettings(Section):
    """The model that reads, and what runs it."""

    runtime: Literal["onnx", "torch", "tensorrt_llm", "scripted"] = Field(
        default="onnx", description="What runs the model: onnx | torch | tensorrt_llm (scripted answers are for tests)."
    )
    model: str = Field(default="phantom", min_length=1, description="A model that ships (phantom), or a folder.")
    threads: PositiveInt | None = Field(default=None, description="CPU threads of onnx; its own choice without.")
    device: str | None = Field(default=None, description="Where torch computes, for example cuda; its choice without.")
    dtype: str | None = Field(default=None, description="Number type of torch, for example bfloat16.")


class ReadingSettings(Section):
    """How readings are worked off."""

    concurrency: PositiveInt = Field(default=1, description="Studies read at the same time by one worker.")
    attempts: PositiveInt = Field(default=3, description="Attempts at a study before it is FAILED.")
    lease_seconds: PositiveFloat = Field(
        default=300, description="A worker that does not renew its claim on a study for so long has lost it."
    )
    deadline_seconds: PositiveFloat = Field(
        default=3600, description="A reading that takes longer is broken off, and counts as a failed attempt."
    )
    first_delay_seconds: PositiveFloat = Field(
        default=10, description="Wait before a reading that failed is tried again; it doubles after each attempt."
    )


class DeliverySettings(Section):
    """How results go to the destinations."""

    max_hours: PositiveFloat = Field(
        default=48, description="How long delivery is tried again before the study is FAILED."
    )
    first_delay_seconds: PositiveFloat = Field(
        default=5, description="Wait before the second attempt; it doubles after each."
    )
    max_delay_seconds: PositiveFloat = Field(default=900, description="Longest wait between two attempts.")
    association_timeout_seconds: PositiveFloat = Field(
        default=30, description="How long a destination may take to accept."
    )
    dimse_timeout_seconds: PositiveFloat = Field(
        default=60, description="How long a destination may take to answer an object."
    )


class SweeperSettings(Section):
    """The sweeper finds complete studies, and work that a crash left."""

    interval_seconds: PositiveFloat = Field(default=1, description="Pause between two sweeps.")


class BrokerSettings(Section):
    """The queue between the node's processes; it carries ids only."""

    url: SecretStr | None = Field(
        default=None, description="URL of a Redis of the site's own; without one the node starts an embedded server."
    )


class LedgerSettings(Section):
    """The states of all studies."""

    url: SecretStr | None = Field(
        default=None,
        description="SQLAlchemy URL of a database of the site's own; without one SQLite in the data folder.",
    )


class LogSettings(Section):
    """What the node writes to standard error."""

    format: Literal["auto", "json", "console"] = Field(
        default="auto", description="json, console, or auto: console at a terminal, json elsewhere."
    )
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severity that is written."
    )


class Destination(Section):
    """A storage SCP that gets results."""

    name: str = Field(min_length=1, max_length=64, description="Name of the destination in commands, ledger and log.")
    aet: AETitle = Field(description="Its AE title.")
    host: str = Field(default="127.0.0.1", min_length=1, description="Its address.")
    port: Port = Field(description="Its TCP port.")
    languages: tuple[Language, ...] = Field(
        default=LANGUAGES, min_length=1, description="Languages of the results it gets."
    )


class Settings(BaseSettings):
    """All settings of a node; `Settings.load` is the way to get them."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=ENVIRONMENT_PREFIX, env_nested_delimiter="__", env_ignore_empty=True
    )

    data: DataSettings = DataSettings()
    listener: ListenerSettings = ListenerSettings()
    completion: CompletionSettings = CompletionSettings()
    engine: EngineSettings = EngineSettings()
    reading: ReadingSettings = ReadingSettings()
    delivery: DeliverySettings = DeliverySettings()
    sweeper: SweeperSettings = SweeperSettings()
    broker: BrokerSettings = BrokerSettings()
    ledger: LedgerSettings = LedgerSettings()
    log: LogSettings = LogSettings()
    destinations: tuple[Destination, ...] = ()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic-settings'
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file, whose content arrives as arguments."""
        return env_settings, init_settings

    @model_validator(mode="after")
    def _distinct_destinations(self) -> Settings:
        names = [destination.name for destination in self.destinations]
        if len(set(names)) != len(names):
            raise ValueError("two destinations have the same name")
        return self

    @classmethod
    def load(cls, path: Path | None = None) -> Settings:
        """Read the settings.

        Parameters
        ----------
        path : Path, optional
            The TOML file. Without it ``medrega-pacs.toml`` of the working folder where there is one, else defaults.

        Raises
        ------
        SettingsError
            If the file cannot be read, or a setting is unknown or wrong; the message names each.
        """
        if path is None and DEFAULT_FILE.is_file():
            path = DEFAULT_FILE
        origin = str(path) if path else "the environment"
        content = _read_toml(path) if path else {}
        for variable in os.environ:
            section = variable.removeprefix(ENVIRONMENT_PREFIX).split("__")[0].lower()
            if variable.startswith(ENVIRONMENT_PREFIX) and section not in cls.model_fields:
                raise SettingsError(
                    f"unknown setting in the environment: {variable}", advice=_nearest(section, cls.model_fields)
                )
        try:
            return cls(**content)
        except ValidationError as error:
            raise _explained(error, origin) from None
        except ValueError as error:  # pydantic-settings: a section in the environment that is no JSON
            raise SettingsError(f"settings in the environment cannot be read: {error}") from None

    def destination(self, name: str) -> Destination:
        """The destination of that name.

        Raises
        ------
        SettingsError
            If there is none.
        """
        for destination in self.destinations:
            if destination.name == name:
                return destination
        names = [destination.name for destination in self.destinations]
        raise SettingsError(
            f"no destination is named {name!r}",
            advice=_nearest(name, names) if names else "add a [[destinations]] table, or write AET@HOST:PORT",
        )

    def to_environment(self) -> dict[str, str]:
        """Variables that make `Settings.load` give these settings in a child process, secrets included."""
        dumped = _reveal(self.model_dump(mode="python", exclude_none=True))
        return {f"{ENVIRONMENT_PREFIX}{name.upper()}": json.dumps(value) for name, value in dumped.items()}


def _reveal(value: Any) -> Any:
    """Plain JSON values of a dump, secrets in clear."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Mapping):
        return {key: _reveal(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_reveal(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"there is no settings file {path}", advice="see deploy/SETTINGS.md for one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not TOML: {error}") from None


def _nearest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(names)}"


def _model_at(location: tuple[int | str, ...]) -> type[BaseModel] | None:
    """The model that holds the key at this place of the settings."""
    model: type[BaseModel] = Settings
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        candidates = [annotation, *get_args(annotation)]
        nested = next((item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)), None)
        if nested is None:
            return None
        model = nested
    return model


def _explained(error: ValidationError, origin: str) -> SettingsError:
    """All complaints in one line, without the values: one of them may be a secret."""
    complaints, advice = [], ""
    for item in error.errors(include_input=False, include_url=False):
        location = item["loc"]
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
        if item["type"] == "extra_forbidden":
            complaints.append(f"unknown setting {key}")
            model = _model_at(location)
            if model and not advice:
                table = key.rpartition(".")[0]
                advice = _nearest(str(location[-1]), model.model_fields).replace(
                    "mean ", f"mean {table}." if table else "mean "
                )
        else:
            complaints.append(f"{key}: {item['msg'].removeprefix('Value error, ')}".removeprefix(": "))
    return SettingsError(f"settings of {origin}: {'; '.join(complaints)}", advice=advice)
