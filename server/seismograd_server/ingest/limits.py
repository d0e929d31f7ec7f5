"""What a client may send: every bound with its reason. Clients learn the first two from OpenRun."""

from __future__ import annotations

import re
from dataclasses import dataclass

from seismograd_server.errors import InvalidBatchError

# Characters that no name needs and that terminals, logs and metric pages trip over: C0, DEL and C1 controls.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_TAG_KEY = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,63}\Z")


@dataclass(frozen=True, slots=True)
class IngestLimits:
    """Bounds of the ingest service.

    Attributes:
        max_frame_bytes: of one message, after decompression. Frames of ours are tens of kilobytes.
        max_message_bytes: of one message that holds catalogs: one of `max_parameters`, whose names are a hundred
            characters long, is 10 MB. Clients keep frames of records to `max_frame_bytes`.
        max_batch_records: of one batch; a client that is a day behind sends many batches.
        max_parameters: of one catalog; the largest dense models have some ten thousand tensors.
        max_name_bytes: of names, ids and tag values.
        max_tags: of one run.
        max_config_bytes: of a run's configuration and of an optimizer's hyper-parameters, as JSON.
        max_config_depth: levels of the same; readers walk it by recursion, and no configuration is a maze.
        max_world_size: ranks of a launch.
        max_optimizers: watched by one run.
        max_dimensions: of one parameter.
        max_data_ids_bytes: what one step may say about its data.
        max_reason_bytes: of error messages and file names that are stored; longer ones are cut.
    """

    max_frame_bytes: int = 4 * 2**20
    max_message_bytes: int = 16 * 2**20
    max_batch_records: int = 2_000
    max_parameters: int = 65_536
    max_name_bytes: int = 256
    max_tags: int = 32
    max_config_bytes: int = 64 * 2**10
    max_config_depth: int = 64
    max_world_size: int = 65_536
    max_optimizers: int = 64
    max_dimensions: int = 16
    max_data_ids_bytes: int = 4_096
    max_reason_bytes: int = 4_096


def check_name(field: str, value: str, limits: IngestLimits, *, required: bool = True) -> str:
    """Give the name back if it may be stored, shown and exported.

    Raises:
        InvalidBatchError: it is empty, too long or holds control characters.
    """
    if required and not value:
        raise InvalidBatchError(field, "is empty: give it a name")
    # A character has at least one byte: long ones need not be encoded to be refused.
    if len(value) > limits.max_name_bytes or len(value.encode()) > limits.max_name_bytes:
        raise InvalidBatchError(field, f"is longer than {limits.max_name_bytes} bytes: shorten it")
    if _CONTROL.search(value):
        raise InvalidBatchError(field, "holds control characters: remove them")
    return value


def check_path_name(field: str, value: str, limits: IngestLimits) -> str:
    """Give a project's or a run's name back if it may also stand in an address.

    Raises:
        InvalidBatchError: as `check_name`, or no browser and no command could name it.
    """
    check_name(field, value, limits)
    # Every client resolves these two as steps of a path before it sends them, however they are escaped.
    if value in {".", ".."}:
        raise InvalidBatchError(field, f"is {value!r}, which no address can hold: give it another name")
    if not value.strip():
        raise InvalidBatchError(field, "is blank: give it a name that can be seen")
    return value


def check_tag(key: str, value: str, limits: IngestLimits, field: str = "tags") -> None:
    """Check one tag of a run, or what is named like one.

    Raises:
        InvalidBatchError: the key is not an identifier, or the value is no name.
    """
    if not _TAG_KEY.match(key):
        raise InvalidBatchError(field, f"key {key[:70]!r} must match [a-zA-Z_][a-zA-Z0-9_]{{0,63}}")
    check_name(f"{field}[{key}]", value, limits, required=False)


def shortened(text: str, max_bytes: int) -> str:
    """Cut a text for storing, at a character's boundary."""
    data = text.encode("utf-8", "replace")
    return text if len(data) <= max_bytes else data[: max_bytes - 3].decode("utf-8", "ignore") + "..."
