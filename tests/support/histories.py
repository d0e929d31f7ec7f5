"""Histories of runs made by formula, for the report: healthy, exploding, broken, single-rank faults, no data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from seismograd_server.model import (
    Alert,
    AlertState,
    Checkpoint,
    Evidence,
    Rank,
    Resolution,
    Run,
    RunKey,
    RunState,
    Severity,
    Signature,
)
from seismograd_server.reading.history import (
    History,
    LayerWindow,
    NonfiniteHit,
    RankWindow,
    Series,
    empty_series,
)

NOW = 1_700_000_000.0
KEY = RunKey("mt", "lstm-7")
LAYERS = ("embed.weight", "rnn.weight_ih_l0", "rnn.weight_hh_l0", "head.weight")


def make_run(**changes: Any) -> Run:
    values: dict[str, Any] = {
        "run_id": 1,
        "key": KEY,
        "state": RunState.FINISHED,
        "started_at": NOW,
        "last_record_at": NOW + 200.0,
        "ended_at": NOW + 210.0,
        "failure_reason": "",
        "config_json": '{"optimizer": {"lr": 0.1, "momentum": 0.9}, "api_key": "hunter2"}',
        "tags": {"team": "speech"},
        "framework": "torch 2.13.0",
        "strategy": "ddp",
        "attempts": 1,
        "world_size": 2,
        "last_step": 199,
        "closed_steps": 200,
    }
    return Run(**(values | changes))


def make_series(norm: Any, loss: Any = None, **changes: Any) -> Series:
    norm = np.asarray(norm, np.float64)
    count = len(norm)
    empty = empty_series()
    values: dict[str, Any] = {
        "steps": np.arange(count, dtype=np.int64),
        "times": NOW + np.arange(count, dtype=np.float64),
        "attempts": np.ones(count, np.int64),
        "norm": norm,
        "nonfinite": np.zeros((count, 3), np.int64),
        "flags": np.zeros(count, np.uint16),
        "sources": np.ones(count, np.uint8),
        "loss": np.linspace(3.0, 1.0, count) if loss is None else np.asarray(loss, np.float64),
        "loss_known": np.ones(count, np.bool_),
        "learning_rate": np.full(count, 0.1),
        "ranks_present": np.full(count, 2, np.int64),
    }
    for name in ("loss_scale", "clip_threshold", "clip_coefficient", "step_seconds"):
        values[name] = np.full(count, np.nan)
    return replace(empty, **(values | changes))


def healthy_norm(count: int = 200, level: float = 2.0, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float64]]:
    return level * np.exp(np.random.default_rng(seed).normal(0.0, 0.1, count))


def exploding_norm(count: int = 200, onset: int = 150, growth: float = 2.0) -> np.ndarray[Any, np.dtype[np.float64]]:
    return healthy_norm(count) * growth ** np.maximum(0, np.arange(count) - onset + 1)


def exploding_history(onset: int = 150, failure: int = 180, count: int = 200, **changes: Any) -> History:
    """The norm doubles each step from `onset`, led by the recurrent matrix; the loss is NaN from `failure`."""
    loss = np.linspace(3.0, 2.0, count)
    loss[failure:] = np.nan
    nonfinite = np.zeros((count, 3), np.int64)
    nonfinite[failure:, 0] = 64
    series = make_series(exploding_norm(count, onset), loss, nonfinite=nonfinite)
    first, last = onset - 24, failure + 6
    steps = np.arange(first, last, dtype=np.int64)
    growth = 2.0 ** np.maximum(0, steps - onset + 1)[:, None]
    behind = np.array([4, 3, 0, 6])[None, :]  # how many steps each layer is behind the recurrent one
    norms = np.ones((len(steps), 4)) * 2.0 ** np.maximum(0, np.log2(growth) - behind)
    window = LayerWindow(
        LAYERS,
        ("Embedding", "LSTM", "LSTM", "Linear"),
        (0, 1, 2, 3),
        (4096,) * 4,
        steps,
        norms.astype(np.float32),
        np.full(norms.shape, 10.0, np.float32),
        (0.002 * norms).astype(np.float32),
    )
    hits = tuple(NonfiniteHit(step, name, 0, 16, 0, 0) for step in range(failure, last) for name in LAYERS)
    values: dict[str, Any] = {
        "run": make_run(state=RunState.FAILED, failure_reason="ValueError: loss is NaN"),
        "series": series,
        "ranks": tuple(make_rank(rank) for rank in range(2)),
        "layers": window,
        "rank_window": make_rank_window(steps),
        "nonfinite": hits,
        "alerts": (
            make_alert(since_step=onset, opened_step=onset + 3),
            make_alert(signature=Signature.NONFINITE, since_step=failure, opened_step=failure),
        ),
        "checkpoints": tuple(Checkpoint(1, step, f"ckpt/{step}.pt", NOW + step) for step in (50, 100, 140, 160)),
    }
    return History(**(values | changes))


def make_rank_window(steps: Any, outlier: int | None = None, begins: int = 0) -> RankWindow:
    loss = np.full((len(steps), 2), 2.0)
    norm = np.full((len(steps), 2), 1.5)
    if outlier is not None:
        norm[steps >= begins, outlier] *= 30.0
    return RankWindow(steps, loss, np.ones_like(loss, np.bool_), norm, ("node-a", "node-b"))


def make_rank(rank: int) -> Rank:
    return Rank(rank + 1, 1, 1, rank, f"session-{rank}", f"node-{'ab'[rank]}", "H200", "", 42, NOW, NOW, None, "", "")


def make_alert(**changes: Any) -> Alert:
    values: dict[str, Any] = {
        "alert_id": f"alert-{changes.get('signature', 'runaway')}-{changes.get('opened_step', 153)}",
        "run_id": 1,
        "key": KEY,
        "signature": Signature.RUNAWAY,
        "scope": "",
        "severity": Severity.CRITICAL,
        "state": AlertState.FIRING,
        "since_step": 150,
        "opened_step": 153,
        "last_step": 160,
        "opened_at": NOW + 153.0,
        "updated_at": NOW + 160.0,
        "resolved_at": None,
        "resolution": None,
        "evidence": Evidence(
            value=32.0,
            baseline=2.0,
            threshold=8.0,
            doubling_time_steps=1.0,
            steps_to_overflow=123.0,
            leading_layer="rnn.weight_hh_l0",
            details={"loss": float("nan"), "first_layer": "rnn.weight_hh_l0"},
        ),
        "reason": "gradient norm 32 is 16 x its usual 2",
        "fingerprint": "0" * 64,
    }
    return Alert(**(values | changes))


def recovered_alert(**changes: Any) -> Alert:
    values: dict[str, Any] = {
        "signature": Signature.SPIKE,
        "severity": Severity.WARNING,
        "state": AlertState.RESOLVED,
        "resolution": Resolution.RECOVERED,
        "resolved_at": NOW + 170.0,
    }
    return make_alert(**(values | changes))


def healthy_history(**changes: Any) -> History:
    series = changes.pop("series", make_series(healthy_norm()))
    values: dict[str, Any] = {"run": make_run(), "series": series}
    return History(**(values | changes))


def empty_history(**changes: Any) -> History:
    run = make_run(state=RunState.RUNNING, last_step=None, closed_steps=0, last_record_at=None, ended_at=None)
    values: dict[str, Any] = {"run": run, "series": empty_series()}
    return History(**(values | changes))
