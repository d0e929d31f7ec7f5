"""The user's configuration as JSON that can be shown to others: secrets redacted, sizes bounded. Pure; never raises."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import types
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np

from seismograd.capture.secrecy import (
    REDACTED,
    follows_secret_option,
    hides_everything,
    hides_texts,
    is_harmless,
    without_secrets,
)

__all__ = ["REDACTED", "configuration_json"]

# Enough for any hyper-parameters; a whole dataset index in the configuration is somebody's mistake, not ours to carry.
_MAX_BYTES = 64 * 1024
_MAX_DEPTH = 16
_MAX_TEXT = 4096
_MAX_LISTED = 1000
# Entries looked at, over all depths: what holds the same list ten times in ten lists grows without end otherwise.
_MAX_ENTRIES = 20_000
# Integers of so many bits are numbers to people and to JSON; Python refuses to write very long ones at all.
_MAX_BITS = 64


def configuration_json(config: object) -> str:
    """A JSON object of what has named entries; "" for None and for what has none.

    That is a mapping (OmegaConf's too), a dataclass, a namespace, or an object with `to_dict()` or `model_dump()`.
    """
    plain = _as_mapping(config)
    if plain is None:
        return ""
    cleaned = _Cleaner().mapping(plain, 0, hidden=False)
    text = _dumped(cleaned)
    if len(text.encode()) <= _MAX_BYTES:
        return text
    sizes = {key: len(_dumped(value)) for key, value in cleaned.items()}
    for key in sorted(sizes, key=sizes.__getitem__, reverse=True):
        cleaned[key] = f"[left out: {sizes[key]} characters]"
        text = _dumped(cleaned)
        if len(text.encode()) <= _MAX_BYTES:
            return text
    return _dumped({"configuration": f"[left out: {len(sizes)} entries]"})


def _dumped(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _as_mapping(config: object) -> Mapping[Any, Any] | None:
    if isinstance(config, Mapping):
        return config
    if isinstance(config, type):
        return None
    if isinstance(config, (argparse.Namespace, types.SimpleNamespace)):
        return vars(config)
    if dataclasses.is_dataclass(config):
        return {field.name: getattr(config, field.name, None) for field in dataclasses.fields(config)}
    for name in ("to_dict", "model_dump"):
        try:
            found = getattr(config, name)()
        except Exception:  # noqa: BLE001, S112 - somebody's object: whatever it raises, it has no such method for us
            continue
        if isinstance(found, Mapping):
            return found
    return None


class _Cleaner:
    """One pass over a configuration. `hidden` says that texts are secrets, because of a key above them."""

    def __init__(self) -> None:
        self._above: set[int] = set()  # containers that we are inside of
        self._entries = 0

    def mapping(self, entries: Mapping[Any, Any], depth: int, *, hidden: bool) -> dict[str, Any]:
        cleaned: dict[str, Any] = {}
        for key in list(entries)[:_MAX_LISTED]:
            name = _text(_written(key))
            try:
                value = entries[key]
            except Exception as error:  # noqa: BLE001 - an interpolation that leads nowhere, a value still missing
                cleaned[name] = f"[cannot be read: {type(error).__name__}]"
                continue
            if hides_everything(name):
                empty = value is None or (isinstance(value, str) and not value)
                cleaned[name] = value if empty else REDACTED
            else:
                cleaned[name] = self.value(value, depth + 1, hidden=hidden or hides_texts(name))
        if len(entries) > _MAX_LISTED:
            cleaned["..."] = f"[{len(entries) - _MAX_LISTED} more]"
        return cleaned

    def value(self, value: object, depth: int, *, hidden: bool) -> Any:
        self._entries += 1
        if self._entries > _MAX_ENTRIES:
            return "[too many entries]"
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            return int(value) if value.bit_length() <= _MAX_BITS else f"[an integer of {value.bit_length()} bits]"
        if isinstance(value, float):
            return _number(value)
        if isinstance(value, (str, bytes, bytearray)):
            text = value if isinstance(value, str) else value.decode("utf-8", "replace")
            return REDACTED if hidden and not is_harmless(text) else _text(text)
        return self._container(value, depth, hidden=hidden)

    def _container(self, value: object, depth: int, *, hidden: bool) -> Any:
        if id(value) in self._above:
            return "[refers to itself]"
        if depth > _MAX_DEPTH:
            return "[too deep]"
        if hasattr(value, "dtype") and hasattr(value, "shape"):
            # To write the numbers of a tensor would mean waiting for its device.
            return f"[{type(value).__name__} of shape {tuple(value.shape)}]"
        self._above.add(id(value))
        try:
            entries = _as_mapping(value)
            if entries is not None:
                return self.mapping(entries, depth, hidden=hidden)
            if isinstance(value, (Sequence, AbstractSet)):
                return self._listed(value, depth, hidden=hidden)
        finally:
            self._above.discard(id(value))
        written = _written(value)
        return REDACTED if hidden else _text(written)

    def _listed(self, values: Sequence[object] | AbstractSet[object], depth: int, *, hidden: bool) -> list[Any]:
        try:
            listed = list(values)
        except Exception as error:  # noqa: BLE001 - as above
            return [f"[cannot be read: {type(error).__name__}]"]
        cleaned = [
            self.value(entry, depth + 1, hidden=hidden or follows_secret_option(listed, place))
            for place, entry in enumerate(listed[:_MAX_LISTED])
        ]
        return cleaned if len(listed) <= _MAX_LISTED else [*cleaned, f"[{len(listed) - _MAX_LISTED} more]"]


def _number(value: float) -> float | str:
    if math.isfinite(value):
        return float(value)
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _written(value: object) -> str:
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001 - somebody's object
        return f"[{type(value).__name__} that cannot be written: {type(error).__name__}]"


def _text(text: str) -> str:
    # Twice the length that is kept: no secret is cut in half before it is recognised, and no book is searched.
    text = text[: 2 * _MAX_TEXT]
    # A lone surrogate is no UTF-8 and would be refused further on.
    text = without_secrets(text.encode("utf-8", "replace").decode("utf-8"))
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "..."
