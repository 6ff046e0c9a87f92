"""Settings as pages: the effective ones as TOML, and the reference of all of them from their declarations."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from dicom_node.settings import ENVIRONMENT_PREFIX, Settings

_HEAD = f"""# Settings

Generated from the declarations by `medrega-pacs config show --reference`.

The node reads one TOML file, `medrega-pacs.toml` in the working folder or the one named by `--config`. Any setting can
be overridden by an environment variable: `{ENVIRONMENT_PREFIX}SECTION__KEY`, for example
`{ENVIRONMENT_PREFIX}LISTENER__PORT=104`. A key that is not listed here is refused. `medrega-pacs config show` prints
what is in effect, with secrets hidden; `medrega-pacs config check` says whether it is right.
"""


@dataclass(frozen=True, slots=True)
class Setting:
    """One declared setting: its table and key, its default as TOML (None: required or unset), and its help."""

    section: str
    key: str
    default: str | None
    required: bool
    description: str


def declared_settings() -> list[Setting]:
    """Every setting, in order of declaration."""
    found: list[Setting] = []
    for section, field in Settings.model_fields.items():
        model = field.annotation
        if isinstance(model, type) and issubclass(model, BaseModel):
            found += _fields(f"[{section}]", model.model_fields)
        for item in get_args(model):  # a list of tables
            if isinstance(item, type) and issubclass(item, BaseModel):
                found += _fields(f"[[{section}]]", item.model_fields)
    return found


def _fields(section: str, fields: Mapping[str, FieldInfo]) -> Iterator[Setting]:
    for key, field in fields.items():
        required = field.is_required()
        default = None if required else field.get_default(call_default_factory=True)
        yield Setting(section, key, None if default is None else _toml(default), required, field.description or "")


def reference_page() -> str:
    """The Markdown page of all settings; ``deploy/SETTINGS.md`` is this text."""
    lines = [_HEAD]
    section = ""
    for setting in declared_settings():
        if setting.section != section:
            section = setting.section
            lines += [f"\n## `{section}`\n", "| key | default | meaning |", "|---|---|---|"]
        default = "required" if setting.required else f"`{setting.default}`" if setting.default is not None else "none"
        description = setting.description.replace("|", "\\|")
        lines.append(f"| `{setting.key}` | {default} | {description} |")
    return "\n".join(lines) + "\n"


def as_toml(settings: Settings) -> str:
    """The settings in effect as a TOML file that gives them again, but for secrets, which show as asterisks."""
    lines: list[str] = []
    for section, value in settings:
        for table in value if isinstance(value, tuple) else [value]:
            head = f"[[{section}]]" if isinstance(value, tuple) else f"[{section}]"
            lines += [head, *(f"{key} = {_toml(item)}" for key, item in table if item is not None), ""]
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Effective:
    """A setting in effect: its key, its value as TOML (None: unset), whether that is its default, and its help."""

    key: str
    value: str | None
    is_default: bool
    description: str


def effective_settings(settings: Settings) -> list[tuple[str, list[Effective]]]:
    """The settings in effect by table, as ``[listener]`` or ``[[destinations]]``; secrets show as asterisks."""
    found = []
    for section, value in settings:
        for table in value if isinstance(value, tuple) else [value]:
            head = f"[[{section}]]" if isinstance(value, tuple) else f"[{section}]"
            declared = _fields(head, type(table).model_fields)
            given = ((item, getattr(table, item.key)) for item in declared)
            rows = [(item, None if one is None else _toml(one)) for item, one in given]
            found.append(
                (head, [Effective(item.key, text, text == item.default, item.description) for item, text in rows])
            )
    return found


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, BaseModel):
        value = {key: item for key, item in value if item is not None}
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, str | Path | SecretStr):
        return json.dumps(str(value), ensure_ascii=False)
    if isinstance(value, float) and value == int(value):
        return str(int(value))
    return str(value)
