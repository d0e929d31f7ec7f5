"""Names, tags and their like as the server takes them: it would refuse the whole run for one that it does not.

Options are checked before anything is sent. What nobody chose for the wire (a layer's name, a host's) is made to fit.
The limits are the server's own (`seismograd_server.ingest.limits`). Pure.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence

from seismograd.errors import OptionError

MOST_BYTES = 256  # of names, ids and values of tags
MOST_TAGS = 32
MOST_OPTIMIZERS = 64
MOST_PARAMETERS = 65_536  # of one optimizer
_MOST_DIMENSIONS = 16
_TAG_KEY = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,63}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

# ------------------------------------------------------------------------------------------ what somebody has chosen


def require_text(name: str, value: object, fix: str, *, shown: bool = True) -> str:
    """The value, if it is a string. `shown`: the message may hold it."""
    if not isinstance(value, str):
        what = f"{value!r}" if shown else "the value"
        raise OptionError(f"{name}: {what} is of type {type(value).__name__}, not a string; {fix}")
    return value


def require_name(name: str, value: object) -> str:
    """The value, if it can name anything."""
    text = require_text(name, value, "give a name such as 'lstm-7'")
    fix = f"use 1 to {MOST_BYTES} bytes of UTF-8 without control characters"
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise OptionError(f"{name}: {text!r} is not valid Unicode; {fix}") from None
    if not 1 <= size <= MOST_BYTES:
        raise OptionError(f"{name}: {text[:40]!r} has {size} bytes; {fix}")
    if _CONTROL.search(text):
        raise OptionError(f"{name}: {text!r} has control characters; {fix}")
    return text


def require_path_name(name: str, value: object) -> None:
    """The name of a project or a run, which also stands in addresses of pages."""
    text = require_name(name, value)
    if text in {".", ".."}:
        raise OptionError(f"{name}: {text!r} is a step of a path, which no address can hold; give another name")
    if not text.strip():
        raise OptionError(f"{name}: {text!r} is blank; give a name that can be seen, such as 'lstm-7'")


def require_tags(tags: object) -> dict[str, str]:
    """The tags, without white space around their values: what a command prints ends with a line feed."""
    if not isinstance(tags, Mapping):
        raise OptionError(f"tags: {tags!r} is of type {type(tags).__name__}, not a mapping; give {{'team': 'nlp'}}")
    if len(tags) > MOST_TAGS:
        raise OptionError(f"tags: {len(tags)} tags are too many; give at most {MOST_TAGS}, and the rest in config")
    return {_tag_key(key): _tag_value(f"tags[{key!r}]", value) for key, value in tags.items()}


def _tag_key(key: object) -> str:
    if not isinstance(key, str) or not _TAG_KEY.fullmatch(key):
        raise OptionError(f"tags: the key {key!r} cannot be used; keys match {_TAG_KEY.pattern}")
    return key


def _tag_value(name: str, value: object) -> str:
    text = require_text(name, value, "give a string").strip()
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise OptionError(f"{name}: {text!r} is not valid Unicode; give text") from None
    if size > MOST_BYTES:
        raise OptionError(f"{name}: the value has {size} bytes; give at most {MOST_BYTES}")
    if _CONTROL.search(text):
        raise OptionError(f"{name}: {text!r} has control characters; give one line of text without them")
    return text


def require_groups(name: str, groups: object) -> dict[str, tuple[str, ...]]:
    """Groups of names; each name stands in one of them."""
    fix = "give {'words': ['embed.weight', 'head.weight']}"
    if not isinstance(groups, Mapping):
        raise OptionError(f"{name}: {groups!r} is of type {type(groups).__name__}, not a mapping; {fix}")
    seen: set[str] = set()
    for group, members in groups.items():
        require_name(name, group)
        if isinstance(members, str) or not isinstance(members, Sequence):
            raise OptionError(f"{name}[{group!r}]: {members!r} is not a list of names; {fix}")
        for member in members:
            require_name(f"{name}[{group!r}]", member)
            if member in seen:
                raise OptionError(f"{name}: {member!r} stands in it twice; a parameter is tied in one group")
            seen.add(member)
    return {group: tuple(members) for group, members in groups.items()}


# ------------------------------------------------------------------------------------------ what has to be made to fit


def fitting(text: str) -> str:
    """The text, if the server takes it; else most of it, with a hash of the whole so that it stays the only one."""
    if text.isascii() and text.isprintable() and len(text) <= MOST_BYTES:
        return text
    clean = _CONTROL.sub("_", text.encode("utf-8", "replace").decode())
    data = clean.encode()
    if clean == text and len(data) <= MOST_BYTES:
        return text
    mark = f"~{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
    if len(data) + len(mark) <= MOST_BYTES:
        return clean + mark
    # The beginning says which part of a model it is, and the end which weight.
    half = (MOST_BYTES - len(mark) - 1) // 2
    return f"{data[:half].decode('utf-8', 'ignore')}{mark}~{data[-half:].decode('utf-8', 'ignore')}"


def fitting_shape(shape: Sequence[int]) -> Sequence[int]:
    """The shape; of more dimensions than the server takes, the last ones as one."""
    if len(shape) <= _MOST_DIMENSIONS:
        return shape
    return (*shape[: _MOST_DIMENSIONS - 1], math.prod(shape[_MOST_DIMENSIONS - 1 :]))
