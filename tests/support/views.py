"""A live run as readers of the snapshot see it, with something in every field."""

from __future__ import annotations

import math
from typing import Any

from seismograd_server.model import (
    DetectorStatus,
    Run,
    RunKey,
    RunState,
    RunView,
    Severity,
    Signature,
    Tally,
    Visibility,
)

NOW = 1_700_000_000.0


def run_view(project: str = "mt", run: str = "lstm-7", **run_fields: Any) -> RunView:
    values: dict[str, Any] = {
        "run_id": 1,
        "key": RunKey(project, run),
        "state": RunState.RUNNING,
        "started_at": NOW - 3600.0,
        "last_record_at": NOW - 0.25,
        "ended_at": None,
        "failure_reason": "",
        "config_json": "",
        "tags": {"name": "the seventh", "dtype": "bfloat16", "team": "speech"},
        "framework": "torch 2.13",
        "strategy": "ddp",
        "attempts": 2,
        "world_size": 4,
        "last_step": 812,
        "closed_steps": 813,
    }
    return RunView(
        run=Run(**{**values, **run_fields}),
        tally=Tally(
            step=812,
            grad_norm=12.5,
            grad_norm_max=3.5,
            grad_norm_baseline=2.5,
            grad_norm_window=((28, 3.0), (29, 77.0)),
            loss=math.nan,
            loss_scale=65536.0,
            learning_rate=3e-4,
            update_ratio=1e-3,
            steps=813,
            nonfinite_steps=3,
            skipped_found_inf=2,
            skipped_user=1,
            clipped_steps=40,
            missing_records=5,
            signatures={"spike": 2, "runaway": 1},
            rank_spread_ratio=1.25,
            ranks_reporting=3,
            lowest_missing_rank=2,
        ),
        active={Signature.RUNAWAY: Severity.CRITICAL},
        statuses=(
            DetectorStatus(Signature.NONFINITE, Visibility.ARMED, ""),
            DetectorStatus(Signature.VANISHING, Visibility.WARMING_UP, "20 steps to go"),
        ),
    )
