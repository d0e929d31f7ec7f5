"""A run's configuration as flat rows, and in what several runs differ. Secrets are covered. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seismograd_server.model import Run

# The client redacts before it sends; this is the second lock, for reports travel further than databases do.
_SECRET = re.compile(r"(?i)(password|passwd|secret|token|api[_-]?key|credential|private[_-]?key|authorization)")
_SHOWN_LENGTH = 160


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that runs were not all given the same of; a value is None where a run does not have it."""

    kind: str  # "configuration", "tag" or "surroundings"
    key: str
    values: tuple[str | None, ...]  # by run


def differences(runs: Sequence[Run]) -> tuple[Difference, ...]:
    """In what runs differ: configuration, tags, surroundings. Secrets are not compared."""
    kinds: tuple[tuple[str, list[Mapping[str, str]]], ...] = (
        ("configuration", [settings(run) for run in runs]),
        ("tag", [run.tags for run in runs]),
        ("surroundings", [_surroundings(run) for run in runs]),
    )
    found = []
    for kind, columns in kinds:
        for key in sorted({key for column in columns for key in column}):
            values = [column.get(key) for column in columns]
            if len(set(values)) > 1 and not _SECRET.search(key):
                shown = tuple(None if value is None else _shortened(value) for value in values)
                found.append(Difference(kind, key, shown))
    return tuple(found)


def settings(run: Run) -> dict[str, str]:
    """The configuration by its flat keys, as it was given: for decisions, not for people to see."""
    return dict(flattened("", _configuration(run)))


def _surroundings(run: Run) -> dict[str, str]:
    rows = {"framework": run.framework, "strategy": run.strategy, "world size": f"{run.world_size}"}
    return {key: value for key, value in rows.items() if value}


def _configuration(run: Run) -> Any:
    try:
        return json.loads(run.config_json) if run.config_json else {}
    except ValueError:
        return {"configuration": "not valid JSON"}


def flattened(prefix: str, value: Any) -> list[tuple[str, str]]:
    """Nested keys joined by dots, each with its value as text; nothing is covered or shortened."""
    if isinstance(value, dict) and value:
        rows: list[tuple[str, str]] = []
        for key, inner in value.items():
            rows.extend(flattened(f"{prefix}.{key}" if prefix else str(key), inner))
        return rows
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return [(prefix or "configuration", text)] if prefix or value else []


def covered(key: str, text: str) -> str:
    """A value as people may see it: no secret, and not too long."""
    return "•••" if _SECRET.search(key) else _shortened(text)


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN_LENGTH else text[: _SHOWN_LENGTH - 1] + "…"
