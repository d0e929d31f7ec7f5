"""Our own trace files as a run to import: the averaged gradient; samples of weights and updates are left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from seismograd_server.model import Float64
from seismograd_server.transfer.logs import Column, Log
from seismograd_server.transfer.traces import read_trace


def read_trace_log(path: Path) -> Log:
    """A trace file. Raises UsageError when it is none."""
    trace = read_trace(path)
    log = Log(trace.name)
    steps = np.arange(trace.count)

    def put(name: str, values: Float64) -> None:
        column = Column()
        column.steps.extend(steps.tolist())
        column.values.extend(values.tolist())
        log.columns[name] = column

    for place, layer in enumerate(trace.layer_names):
        put(f"grad_norm/{layer}", trace.layer_norms[:, place])
    put("loss", trace.loss)
    put("learning_rate", trace.learning_rate)
    if trace.loss_scale.size:
        put("loss_scale", trace.loss_scale)
    if np.isfinite(trace.clip_threshold):
        put("clip_threshold", np.full(trace.count, trace.clip_threshold))
    log.unreadable = {"weight_norms": "sampled norms", "update_norms": "sampled norms"}
    if len(trace.local_norms) > 1:
        log.unreadable["grad_norms"] = f"norms of {len(trace.local_norms)} ranks' own gradients"
    return log
