"""The node's settings: frozen, typed, each with a default and its help, parsed once at the edge and passed in.

They come from one TOML file and from the environment, which wins: ``MEDREGA_PACS__LISTENER__PORT=11113`` overrides
``port`` of ``[listener]``. A key that is not declared here is refused, with the nearest name that is.
"""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, get_args

from pydantic import BaseModel, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from dicom_node.settings.audit import AuditSettings
from dicom_node.settings.commitment import CommitmentPeer, CommitmentSettings
from dicom_node.settings.completion import CompletionSettings
from dicom_node.settings.console import ConsoleSettings, OidcSettings
from dicom_node.settings.delivery import DeliverySettings, Destination
from dicom_node.settings.dicomweb import DicomwebSettings, DicomwebUser, FrontSettings
from dicom_node.settings.engine import EngineSettings, ReadingSettings
from dicom_node.settings.limits import LimitsSettings
from dicom_node.settings.listener import Entry, ListenerSettings, User
from dicom_node.settings.metrics import MetricsSettings
from dicom_node.settings.node import BrokerSettings, DataSettings, LedgerSettings, LogSettings, SweeperSettings
from dicom_node.settings.retention import RetentionSettings
from dicom_node.settings.review import ReviewSettings
from dicom_node.settings.routing import RoutingSettings
from dicom_node.settings.section import is_loopback
from dicom_node.settings.sources import Source
from dicom_node.settings.tls import TlsSettings
from dicom_node.settings.worklist import Worklist
from engine.errors import SettingsError

ENVIRONMENT_PREFIX: Final = "MEDREGA_PACS__"
DEFAULT_FILE: Final = Path("medrega-pacs.toml")
_WORDS: Final = {
    "dict_type": "should be a table with keys of its own",
    "model_type": "should be a table with keys of its own",
    "missing": "is missing",
    "string_pattern_mismatch": "is none of the values it may have (see deploy/SETTINGS.md)",
    "tuple_type": "should be a list; a list of tables has double brackets, as [[destinations]]",
}
"""What pydantic says in Python's terms, in those of the file."""


class Settings(BaseSettings):
    """All settings of a node; `Settings.load` is the way to get them."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
    )

    data: DataSettings = DataSettings()
    listener: ListenerSettings = ListenerSettings()
    limits: LimitsSettings = LimitsSettings()
    tls: TlsSettings = TlsSettings()
    completion: CompletionSettings = CompletionSettings()
    routing: RoutingSettings = RoutingSettings()
    engine: EngineSettings = EngineSettings()
    reading: ReadingSettings = ReadingSettings()
    delivery: DeliverySettings = DeliverySettings()
    commitment: CommitmentSettings = CommitmentSettings()
    retention: RetentionSettings = RetentionSettings()
    dicomweb: DicomwebSettings = DicomwebSettings()
    front: FrontSettings = FrontSettings()
    console: ConsoleSettings = ConsoleSettings()
    oidc: OidcSettings = OidcSettings()
    review: ReviewSettings = ReviewSettings()
    metrics: MetricsSettings = MetricsSettings()
    audit: AuditSettings = AuditSettings()
    sweeper: SweeperSettings = SweeperSettings()
    broker: BrokerSettings = BrokerSettings()
    ledger: LedgerSettings = LedgerSettings()
    log: LogSettings = LogSettings()
    entries: tuple[Entry, ...] = ()
    dimse_users: tuple[User, ...] = ()
    destinations: tuple[Destination, ...] = ()
    sources: tuple[Source, ...] = ()
    worklists: tuple[Worklist, ...] = ()
    commitment_peers: tuple[CommitmentPeer, ...] = ()
    dicomweb_users: tuple[DicomwebUser, ...] = ()

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

    @model_validator(mode="before")
    @classmethod
    def _shared_tls(cls, tables: dict[str, Any]) -> dict[str, Any]:
        """Put the certificates of ``[tls]`` where a table says ``tls = true``."""
        if not isinstance(tables.get("tls", {}), dict):
            return tables

        def filled(table: Any) -> Any:
            if isinstance(table, list | tuple):
                return [filled(item) for item in table]
            if isinstance(table, dict) and isinstance(table.get("tls"), bool):
                return {**table, "tls": tables.get("tls", {}) if table["tls"] else None}
            return table

        return {name: filled(table) for name, table in tables.items()}

    @model_validator(mode="after")
    def _distinct_names(self) -> Settings:
        if len({entry.aet for entry in self.entries}) != len(self.entries):
            raise ValueError("two entries have the same aet")
        if len({peer.aet for peer in self.commitment_peers}) != len(self.commitment_peers):
            raise ValueError("two commitment_peers have the same aet")
        for kind, tables in (
            ("destinations", self.destinations),
            ("sources", self.sources),
            ("worklists", self.worklists),
            ("dimse_users", self.dimse_users),
            ("dicomweb_users", self.dicomweb_users),
        ):
            names = [table.name for table in tables]
            if len(set(names)) != len(names):
                raise ValueError(f"two {kind} have the same name")
        return self

    @model_validator(mode="after")
    def _sources_of_worklists(self) -> Settings:
        names = {source.name for source in self.sources}
        for worklist in self.worklists:
            if worklist.source is not None and worklist.source not in names:
                raise ValueError(f"worklist {worklist.name}: no source is named {worklist.source}")
        return self

    @model_validator(mode="after")
    def _users_of_a_listener(self) -> Settings:
        listener = self.listener
        if listener.require_user and not self.dimse_users:
            raise ValueError("listener.require_user: there are no [[dimse_users]]")
        exposed = listener.tls is None and not listener.loopback and not listener.cleartext_passcodes
        if exposed and any(user.has_passcode for user in self.dimse_users):
            raise ValueError(
                "listener: users' passcodes would come in the clear: set tls, or cleartext_passcodes = true"
            )
        return self

    @model_validator(mode="after")
    def _dicomweb_is_guarded(self) -> Settings:
        if self.dicomweb.enabled and not is_loopback(self.dicomweb.host) and not self.dicomweb_users:
            raise ValueError("other hosts can reach dicomweb.host: add a [[dicomweb_users]] table")
        if self.dicomweb.aet is not None and self.dicomweb.aet not in self.called_aets:
            raise ValueError(f"dicomweb.aet: {self.dicomweb.aet} is no entry point: add it to [[entries]]")
        if self.dicomweb.enabled and self.dicomweb.port == self.listener.port:
            raise ValueError("dicomweb.port and listener.port are the same")
        if self.reading.pixels == "wado" and self.front.url is None:
            raise ValueError('reading.pixels = "wado" needs front.url')
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

    def entry(self, called_aet: str) -> Entry:
        """The entry point of that AE title, or that of ``listener.aet``; either may have no settings of its own."""
        listed = {entry.aet: entry for entry in self.entries}
        own = self.listener.aet
        return listed.get(called_aet) or listed.get(own) or Entry(aet=own)

    @property
    def called_aets(self) -> frozenset[str]:
        """The AE titles that the node answers to."""
        return frozenset({self.listener.aet, *(entry.aet for entry in self.entries)})

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

    def source(self, name: str) -> Source:
        """The source of that name.

        Raises
        ------
        SettingsError
            If there is none.
        """
        for source in self.sources:
            if source.name == name:
                return source
        names = [source.name for source in self.sources]
        raise SettingsError(
            f"no source is named {name!r}", advice=_nearest(name, names) if names else "add a [[sources]] table"
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
            said = _WORDS.get(item["type"]) or item["msg"].removeprefix("Value error, ")
            complaints.append(f"{key}: {said}".removeprefix(": "))
    return SettingsError(f"settings of {origin}: {'; '.join(complaints)}", advice=advice)
