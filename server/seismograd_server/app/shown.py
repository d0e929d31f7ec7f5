"""The settings as people are shown them: nothing secret, and what differs from the default."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, SecretStr

from seismograd_server.config import Settings
from seismograd_server.web.settings import SettingsTable, ShownSetting

# What stands before the keys that are in no table.
_SERVER = "server"


def shown_settings(settings: Settings) -> tuple[SettingsTable, ...]:
    """Every setting by table, as in the configuration file."""
    tables: dict[str, list[ShownSetting]] = {_SERVER: []}
    for name, value, default in _entries(settings):
        tables.setdefault(name.rpartition(".")[0] or _SERVER, []).append(
            ShownSetting(name.rpartition(".")[2], _words(value), _words(default), changed=value != default)
        )
    return tuple(SettingsTable(name, tuple(entries)) for name, entries in tables.items())


def _entries(model: BaseModel, above: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, value, default) of each setting; each entry of a list of tables is a table with a number."""
    for name, field in type(model).model_fields.items():
        value, default = getattr(model, name), field.get_default(call_default_factory=True)
        if isinstance(value, BaseModel):
            yield from _entries(value, f"{above}{name}.")
        elif isinstance(value, tuple) and value and all(isinstance(each, BaseModel) for each in value):
            for number, each in enumerate(value, start=1):
                yield from _entries(each, f"{above}{name}.{number}.")
        elif isinstance(value, dict) and value and all(isinstance(each, BaseModel) for each in value.values()):
            for key, each in value.items():
                yield from _entries(each, f"{above}{name}.{key}.")
        else:
            yield f"{above}{name}", value, None if field.is_required() else default


def _words(value: object) -> str:
    match value:
        case SecretStr():
            text = "(secret)" if value.get_secret_value() else "none"
        case None | "":
            text = "none"
        case tuple():
            text = ", ".join(_words(each) for each in value) or "none"
        case dict():
            text = ", ".join(f"{key} = {_words(each)}" for key, each in value.items()) or "none"
        case bool():
            text = "yes" if value else "no"
        case float():
            text = f"{value:g}"
        case _:
            text = _without_secrets(str(value))
    return text


def _without_secrets(text: str) -> str:
    """An address with its scheme and host alone: passwords, and the paths of many webhooks, are secrets."""
    if "://" not in text:
        return text
    try:
        parts = urlsplit(text)
        port = "" if parts.port is None else f":{parts.port}"
    except ValueError:
        return "(an address)"
    hidden = parts.username or parts.password or parts.path.strip("/") or parts.query or parts.fragment
    return f"{parts.scheme}://{parts.hostname or ''}{port}{'/…' if hidden else ''}"
