"""A seismograph for training runs: the client.

    monitor = seismograd.watch(model, optimizer, project="mt", run="lstm-7")
    total = seismograd.clip_grad_norm_(model.parameters(), 1.0)

Names only; torch is imported when `watch` or `clip_grad_norm_` is first used, so that the program starts without it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seismograd.capture.clip import clip_grad_norm_
    from seismograd.monitor import Monitor, watch
    from seismograd.query import connect
    from seismograd.record import AlertNotice

__all__ = ["AlertNotice", "Monitor", "clip_grad_norm_", "connect", "watch"]

_HOMES = {
    "AlertNotice": "seismograd.record",
    "Monitor": "seismograd.monitor",
    "clip_grad_norm_": "seismograd.capture.clip",
    "connect": "seismograd.query",
    "watch": "seismograd.monitor",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value  # the next look, in every step of a training loop, finds it at once
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
