"""W&B's offline run files (`run-*.wandb`): LevelDB's log of records, each a message with one step of the history.

    file: ":W&B" 0xBEE1 version | blocks of 32 KiB
    block: CRC-32 of type and data, length uint16, type uint8 | data; a record may go on in the next block

What W&B exports as CSV or JSON lines is read as such.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seismograd_server.errors import UsageError
from seismograd_server.transfer.logs import Log, number_of
from seismograd_server.transfer.messages import message_classes

_IDENTITY = struct.Struct("<4sHB")
_MAGIC = 0xBEE1
_BLOCK = 32768
_HEAD = struct.Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
# Field numbers from W&B's wandb_internal.proto: of each message what is read here.
_MESSAGES = {
    "Record": {"history": (2, "History?"), "config": (5, "Config?"), "run": (17, "Run?"), "exit": (18, "Exit?")},
    "History": {"item": (1, "Item*"), "step": (2, "Step?")},
    "Step": {"num": (1, "int64")},
    "Item": {"key": (1, "string"), "nested_key": (2, "string*"), "value_json": (16, "string")},
    "Config": {"update": (1, "Item*")},
    "Run": {
        "run_id": (1, "string"),
        "project": (3, "string"),
        "config": (4, "Config?"),
        "display_name": (8, "string"),
    },
    "Exit": {"exit_code": (1, "int32")},
}


def read_wandb(path: Path) -> Log:
    """The history of an offline run: its `.wandb` file, or the folder that holds it.

    Raises:
        UsageError: no such file, or a damaged one; the message names the byte.
    """
    file = _file(path)
    log = Log(file.stem.removeprefix("run-"))
    record_class = message_classes("seismograd.wandb", _MESSAGES)["Record"]
    for data in _records(file, log):
        record = record_class.FromString(data)
        if record.HasField("history"):
            _put_history(log, record.history)
        if record.HasField("run"):
            log.name = record.run.display_name or record.run.run_id or log.name
            log.project = record.run.project
            _put_config(log, record.run.config)
        if record.HasField("config"):
            _put_config(log, record.config)
        if record.HasField("exit") and record.exit.exit_code:
            log.failed = f"the job ended with exit code {record.exit.exit_code}"
    if not log.columns:
        raise UsageError(f"{file}: has no history of numbers")
    return log


def _file(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = sorted(path.glob("*.wandb"))
    if len(found) != 1:
        what = "no .wandb file" if not found else f"{len(found)} .wandb files"
        raise UsageError(f"{path} has {what}: name one run, a file or a folder wandb/offline-run-*")
    return found[0]


def _put_history(log: Log, history: Any) -> None:
    row: dict[str, Any] = {}
    for item in history.item:
        try:
            row["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
        except ValueError:
            log.unreadable.setdefault(item.key, "damaged JSON")
    step = history.step.num if history.HasField("step") else row.get("_step")
    if not isinstance(step, int):
        return
    # W&B writes a step's items in no order: by name, the same log always gives the same run.
    measures = {name: value for name, value in sorted(row.items()) if not name.startswith("_")}
    log.put_row(step, measures, number_of(row.get("_timestamp")))


def _put_config(log: Log, config: Any) -> None:
    for item in config.update:
        name = "/".join(item.nested_key) or item.key
        if name and not name.startswith("_"):
            try:
                log.config[name] = json.loads(item.value_json)
            except ValueError:
                continue


def _records(path: Path, log: Log) -> Iterator[bytes]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) < _IDENTITY.size or _IDENTITY.unpack_from(data)[:2] != (b":W&B", _MAGIC):
        raise UsageError(f"{path}: is no run file of W&B")
    place, parts = _IDENTITY.size, b""
    while place < len(data):
        left = _BLOCK - place % _BLOCK
        if left < _HEAD.size:
            place += left  # the rest of a block that no head fits into
            continue
        if place + _HEAD.size > len(data):
            break
        checksum, length, kind = _HEAD.unpack_from(data, place)
        body = data[place + _HEAD.size : place + _HEAD.size + length]
        if len(body) < length:
            break
        if zlib.crc32(body, zlib.crc32(bytes([kind]))) != checksum:
            raise UsageError(f"{path}: is damaged at byte {place}: nothing of it was imported")
        place += _HEAD.size + length
        parts = body if kind in {_FULL, _FIRST} else parts + body
        if kind in {_FULL, _LAST}:
            yield parts
            parts = b""
    if place < len(data) or parts:
        log.notes.append("the file ends amid a record, as that of a job that was killed: its last one is left out")
