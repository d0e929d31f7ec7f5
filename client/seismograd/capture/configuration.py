"""The user's configuration as JSON that can be shown to others: secrets redacted, sizes bounded. Pure."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

REDACTED = "[redacted]"

# Words in a key that make any value a secret.
_SECRET_WORDS = frozenset(
    {
        "password",
        "passwd",
        "passphrase",
        "pwd",
        "secret",
        "secrets",
        "credential",
        "credentials",
        "apikey",
        "authorization",
        "cookie",
    }
)
# Words that make a text a secret; numbers under them are sizes and flags ("key_size", "use_auth_token": true).
_SECRET_TEXT_WORDS = frozenset({"token", "key", "auth", "pat", "bearer"})
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
# user:password@ inside a URL, and the shapes that well-known services give their tokens.
_USERINFO = re.compile(r"(?<=://)[^/\s@]+@")
_TOKEN_SHAPE = re.compile(r"\b(?:hf_|sk-|ghp_|github_pat_|glpat-|xox[a-z]-|AKIA|sg_)[A-Za-z0-9_\-]{12,}")

# Enough for any hyper-parameters; a whole dataset index in the configuration is somebody's mistake, not ours to carry.
_MAX_BYTES = 64 * 1024
_MAX_DEPTH = 16
_MAX_TEXT = 4096


def configuration_json(config: object) -> str:
    """A JSON object of a mapping, a dataclass or an argparse namespace; "" for None and for what is none of these."""
    plain = _as_mapping(config)
    if plain is None:
        return ""
    cleaned = _clean(plain, 0)
    text = json.dumps(cleaned, ensure_ascii=False, sort_keys=True)
    if len(text.encode("utf-8", "replace")) <= _MAX_BYTES:
        return text
    sizes = {key: len(json.dumps(value, ensure_ascii=False)) for key, value in cleaned.items()}
    for key in sorted(sizes, key=sizes.__getitem__, reverse=True):
        cleaned[key] = f"[left out: {sizes[key]} characters]"
        text = json.dumps(cleaned, ensure_ascii=False, sort_keys=True)
        if len(text.encode("utf-8", "replace")) <= _MAX_BYTES:
            return text
    return json.dumps({"configuration": f"[left out: {len(sizes)} entries]"})


def _as_mapping(config: object) -> Mapping[Any, Any] | None:
    if isinstance(config, Mapping):
        return config
    if isinstance(config, argparse.Namespace):
        return vars(config)
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return None


def _clean(value: object, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        return "[too deep]"
    mapping = _as_mapping(value)
    if mapping is not None:
        return {_text(str(key)): _clean_entry(str(key), entry, depth + 1) for key, entry in mapping.items()}
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_clean(entry, depth + 1) for entry in _bounded(value)]
    return _text(str(value))


def _clean_entry(key: str, value: object, depth: int) -> Any:
    words = {word.lower() for word in _WORD.findall(key)}
    joined = "".join(words) if len(words) == 1 else ""
    if words & _SECRET_WORDS or {"api", "key"} <= words or joined in _SECRET_WORDS:
        return REDACTED if value not in (None, "") else value
    if words & _SECRET_TEXT_WORDS and isinstance(value, (str, bytes)) and value:
        return REDACTED
    return _clean(value, depth)


def _text(text: str) -> str:
    # A lone surrogate is no UTF-8 and would be refused further on.
    text = text.encode("utf-8", "replace").decode("utf-8")
    text = _TOKEN_SHAPE.sub(REDACTED, _USERINFO.sub(f"{REDACTED}@", text))
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "..."


def _bounded(values: Iterable[object]) -> list[object]:
    listed = list(values)
    return listed if len(listed) <= 1000 else [*listed[:1000], f"[{len(listed) - 1000} more]"]
