"""What can be set, called, scraped or paged is documented, each in one place; what is documented exists.

Settings: deploy/seismograd.toml. Metrics: deploy/METRICS.md. Alerts: deploy/runbooks (test_rules.py). HTTP:
/api/openapi.json (tests/server/web/test_openapi.py). Commands: their own --help.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
import typing
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click
import pytest
from pydantic import BaseModel

from seismograd.cli import program
from seismograd_server.config import ENVIRONMENT_PREFIX, Settings, load_settings
from seismograd_server.instruments import Instruments
from seismograd_server.metrics import new_registry, page
from seismograd_server.metrics.families import LAYER_DEVIATION, LAYER_NORM
from seismograd_server.model import Snapshot

DEPLOY = Path(__file__).parents[2] / "deploy"
EXAMPLE = DEPLOY / "seismograd.toml"
_EXAMPLE_LINE = re.compile(r"^#(?=\[|[a-z_]+ = )", re.MULTILINE)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in os.environ if each.startswith("SEISMOGRAD_SERVER_")]:
        monkeypatch.delenv(name)


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The tables that a setting's type speaks of."""
    if isinstance(annotation, type) and not typing.get_args(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for part in typing.get_args(annotation):
        yield from models_in(part)


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        tables = list(models_in(field.annotation))
        for table in tables:
            yield from keys_of(table, f"{prefix}{name}.")
        if not tables:
            yield f"{prefix}{name}"


def keys_in(text: str) -> set[str]:
    """The keys of a TOML file; names of projects, which are no keys, are left out."""
    found, table = set(), ""
    for line in text.splitlines():
        if head := re.match(r"\[+([a-z_.]+)\]+$", line):
            table = f"{head[1].replace('projects.sandbox', 'projects')}."
        elif key := re.match(r"([a-z_]+) = ", line):
            found.add(table + key[1])
    return found


def test_the_example_has_every_setting_and_no_other() -> None:
    assert keys_in(_EXAMPLE_LINE.sub("", EXAMPLE.read_text())) == set(keys_of(Settings))


def test_the_example_as_it_stands_changes_nothing() -> None:
    assert load_settings(EXAMPLE).model_dump() == load_settings().model_dump()


def test_every_example_in_it_can_be_used(tmp_path: Path) -> None:
    text = _EXAMPLE_LINE.sub("", EXAMPLE.read_text())
    (tmp_path / "all.toml").write_text(text)
    settings = load_settings(tmp_path / "all.toml")
    assert settings.notify.alertmanagers[0].labels == {"cluster": "a"}
    assert settings.retention.projects["sandbox"].keep_days == 14.0


def test_every_setting_can_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = _EXAMPLE_LINE.sub("", EXAMPLE.read_text())
    (tmp_path / "all.toml").write_text(text)
    from_file = load_settings(tmp_path / "all.toml").model_dump()
    for name, value in tomllib.loads(text).items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        for key, each in inner:
            variable = f"{ENVIRONMENT_PREFIX}{name}{'__' if key else ''}{key}".upper()
            monkeypatch.setenv(variable, each if isinstance(each, str) else json.dumps(each))
    assert load_settings().model_dump() == from_file


def test_every_setting_in_the_example_is_explained() -> None:
    unexplained, explained, seen = [], False, set[str]()
    for line in EXAMPLE.read_text().splitlines():
        if line.startswith("# "):
            explained = True
        elif (key := re.match(r"#?([a-z_]+) = ", line)) is not None:
            # Those that follow another, or that another table has explained, share its words.
            if not explained and key[1] not in seen:
                unexplained.append(key[1])
            seen.add(key[1])
        elif not line:
            explained = False
    assert unexplained == []


def families_on(accept: str) -> set[str]:
    body, _ = page(accept, Snapshot(0.0), Instruments(new_registry()), 0.0)
    return {line.split()[2] for line in body.decode().splitlines() if line.startswith("# TYPE ")}


def test_every_family_on_the_page_is_documented_and_no_other() -> None:
    documented = set(re.findall(r"^\| `(\w+)`", (DEPLOY / "METRICS.md").read_text(), re.MULTILINE))
    served = {name for name in families_on("") if name.startswith("seismograd_")}
    assert {LAYER_NORM.name, LAYER_DEVIATION.name} <= served
    assert documented == served


def test_every_family_says_what_it_is() -> None:
    for line in (DEPLOY / "METRICS.md").read_text().splitlines():
        if line.startswith("| `"):
            _, name, kind, _, meaning, _ = (part.strip() for part in line.split("|"))
            assert kind in {"gauge", "counter", "histogram", "summary", "stateset"}, name
            assert meaning.endswith("."), name


def commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for each in command.list_commands(context):
            found = command.get_command(context, each)
            assert found is not None
            yield from commands(found, f"{name} {each}")


def test_every_command_and_every_option_explains_itself() -> None:
    assert entry_points(group="seismograd.commands"), "the premise: the server's commands are mounted"
    all_commands = dict(commands(program, "seismograd"))
    assert {"seismograd serve", "seismograd runs list", "seismograd run", "seismograd db backup"} <= set(all_commands)
    silent = [name for name, command in all_commands.items() if not (command.help or "").strip()]
    silent += [
        f"{name} {parameter.opts[0]}"
        for name, command in all_commands.items()
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.help and not parameter.hidden
    ]
    assert silent == []
