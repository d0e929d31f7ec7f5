"""The formats that can be imported, by the name that a person gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from seismograd_server.transfer.logs import Log
from seismograd_server.transfer.parquet_files import read_neptune, read_parquet
from seismograd_server.transfer.tabular import read_csv, read_json_lines, read_trainer_state
from seismograd_server.transfer.tensorboard import read_events
from seismograd_server.transfer.trace_logs import read_trace_log
from seismograd_server.transfer.wandb_files import read_wandb

READERS: Mapping[str, Callable[[Path], Log]] = {
    "tensorboard": read_events,
    "wandb": read_wandb,
    "trainer-state": read_trainer_state,
    "csv": read_csv,
    "jsonl": read_json_lines,
    "parquet": read_parquet,
    "trace": read_trace_log,
}
# Of this one, a file holds several runs.
NEPTUNE = "neptune"
FORMATS = (*READERS, NEPTUNE)


def read_log(source: str, path: Path, source_run: str | None) -> Log:
    """Read a log of a format. Raises UsageError when it cannot be read; then nothing of it is taken."""
    return read_neptune(path, source_run) if source == NEPTUNE else READERS[source](path)
