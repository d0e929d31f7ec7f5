"""A real database per test, of each kind, and builders for what goes into it.

Whatever asks for `database` (or its URL) is a clause of the contract that every kind keeps: it runs on SQLite and on
the newest PostgreSQL, and the heart of it on the oldest one that we support.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seismograd_server.model import (
    Alert,
    AlertState,
    ClosedBlock,
    Evidence,
    Layout,
    RankIdentity,
    RecordKind,
    RunKey,
    Severity,
    Signature,
    StepBatch,
    Transition,
)
from seismograd_server.store.database import Database

BatchMaker = Callable[..., StepBatch]

HEART = {"test_database.py"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "database_url" in metafunc.fixturenames:
        kinds = ["sqlite", "postgresql-18"]
        if metafunc.definition.path.name in HEART:
            kinds.append("postgresql-15")
        metafunc.parametrize("database_url", kinds, indirect=True)


@pytest.fixture
def database_url(request: pytest.FixtureRequest, store_url: Callable[[str], str]) -> str:
    return store_url(request.param)


@pytest.fixture
def database_path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "seismograd.db"


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with Database.open(database_url, owner="test") as opened:
        yield opened


@pytest.fixture
def sqlite_database(database_path: Path) -> Iterator[Database]:
    with Database.open(f"sqlite:///{database_path}", owner="test") as opened:
        yield opened


@pytest.fixture
def make_identity() -> Callable[..., RankIdentity]:
    def make(run: str = "lstm", *, project: str = "mt", **changes: Any) -> RankIdentity:
        values: dict[str, Any] = {
            "launch_id": f"launch of {project}/{run}",
            "rank": 0,
            "world_size": 1,
            "session_id": "first",
            "hostname": "node-1",
            "process_id": 4711,
        }
        return RankIdentity(key=RunKey(project, run), **(values | changes))

    return make


@pytest.fixture
def make_batch() -> BatchMaker:
    def make(handle: int, first: int = 0, count: int = 4, **changes: Any) -> StepBatch:
        values: dict[str, Any] = {
            "rank_handle": handle,
            "optimizer": 0,
            "kind": RecordKind.STEP,
            "branch": 0,
            "first_sequence": first,
            "catalog_version": 0,
            "steps": np.arange(first, first + count),
            "times": np.arange(count) + 1.7e9,
            "sources": np.ones(count, np.uint8),
            "flags": np.zeros(count, np.uint16),
            "gradient_norms": np.full((count, 3), first, np.float32),
            "total_norms": None,
            "digests": None,
            "nonfinite": None,
            "scalars": {},
            "tensors": {},
            "data_ids": {},
        }
        return StepBatch(**(values | changes))

    return make


@pytest.fixture
def make_block() -> Callable[..., ClosedBlock]:
    def make(first: int = 0, count: int = 4, *, ranks: int = 2, **changes: Any) -> ClosedBlock:
        unknown = np.full(count, np.nan)
        values: dict[str, Any] = {
            "layout": Layout(ranks, ("a",), ("Linear",), (0,), (1,), ("float32",)),
            "attempt": 1,
            "branch": 0,
            "steps": np.arange(first, first + count),
            "times": np.arange(count) + 1.7e9,
            "ranks_present": np.ones((count, ranks), np.bool_),
            "global_norm": np.arange(first, first + count, dtype=np.float64),
            "layer_norms": np.ones((count, 1), np.float32),
            "nonfinite": np.zeros((count, 3), np.int64),
            "nonfinite_layers": (),
            "inexact": np.zeros(count, np.bool_),
            "sources": np.ones(count, np.uint8),
            "flags": np.zeros(count, np.uint16),
            "loss": unknown,
            "loss_known": np.zeros(count, np.bool_),
            "rank_loss": np.full((count, ranks), np.nan),
            "rank_loss_known": np.zeros((count, ranks), np.bool_),
            "rank_norm": np.full((count, ranks), np.nan),
            "learning_rate": unknown,
            "loss_scale": unknown,
            "clip_threshold": unknown,
            "clip_coefficient": unknown,
            "step_seconds": unknown,
            "weight_norms": np.full((count, 1), np.nan, np.float32),
            "update_norms": np.full((count, 1), np.nan, np.float32),
        }
        return ClosedBlock(**(values | changes))

    return make


@pytest.fixture
def make_transition() -> Callable[..., Transition]:
    def make(
        run_id: int,
        *,
        before: AlertState | None = None,
        cause: str = "opened",
        notify: bool = True,
        **changes: Any,
    ) -> Transition:
        values: dict[str, Any] = {
            "alert_id": "a1",
            "run_id": run_id,
            "key": RunKey("mt", "lstm"),
            "signature": Signature.RUNAWAY,
            "scope": "",
            "severity": Severity.CRITICAL,
            "state": AlertState.FIRING,
            "since_step": 90,
            "opened_step": 100,
            "last_step": 100,
            "opened_at": 50.0,
            "updated_at": 50.0,
            "resolved_at": None,
            "resolution": None,
            "evidence": Evidence(value=1e9, baseline=1.0, leading_layer="rnn", details={"slope": 0.5}),
            "reason": "the norm doubles every 4 steps",
            "fingerprint": "f1",
        }
        alert = Alert(**(values | changes))
        return Transition(alert=alert, before=before, cause=cause, at=alert.updated_at, notify=notify)

    return make
