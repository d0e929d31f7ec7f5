"""Records, catalogs and identities for tests of the sending side, and a clock that stands still."""

from __future__ import annotations

from typing import Any

import numpy as np

from seismograd.record import (
    Catalog,
    NormSource,
    Parameter,
    Quantity,
    RecordFlag,
    RecordKind,
    RunIdentity,
    StepRecord,
)

IDENTITY = RunIdentity(project="mt", run="lstm-7", launch_id="launch", rank=0, world_size=1, session_id="session")


def make_record(sequence: int, norm: float = 1.0, parameters: int = 4, **changes: Any) -> StepRecord:
    """A plain record; `norm` is its total norm, spread evenly over its parameters."""
    values: dict[str, Any] = {
        "optimizer": 0,
        "kind": RecordKind.STEP,
        "branch": 0,
        "sequence": sequence,
        "step": sequence,
        "time_unix_seconds": 1_700_000_000.0 + sequence,
        "source": NormSource.CLIP,
        "flags": RecordFlag(0),
        "catalog_version": 0,
        "gradient_norms": np.full(parameters, norm / np.sqrt(parameters), np.float32),
        "scalars": {Quantity.LOSS: 2.5},
    }
    return StepRecord(**(values | changes))


def make_catalog(version: int = 0, optimizer: int = 0, parameters: int = 4) -> Catalog:
    """A catalog of weight vectors."""
    return Catalog(
        optimizer,
        version,
        tuple(
            Parameter(f"layer.{index}.weight", (8,), 8, 8, "float32", "Linear", index) for index in range(parameters)
        ),
    )


class FakeClock:
    """Time goes on only when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def unix_seconds(self) -> float:
        return 1_700_000_000.0 + self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds
