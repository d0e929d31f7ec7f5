"""What the page of a run shows on clipping, from what is said of it. Pure."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import numpy as np

from seismograd_server.display.distribution import distribution_chart
from seismograd_server.display.numbers import figure, octaves, share
from seismograd_server.model import Run
from seismograd_server.reading.encoding import Json
from seismograd_server.web.rendering import drawn
from seismograd_server.web.settings import ClipAdvice

# Of a longer run a sample of so many steps is looked at, which takes some tens of milliseconds. A share is then known
# to a hundredth.
_STEPS = 4096
# A hundredth more steps change no share by more than that.
_STALE_SHARE = 0.01
# A panel is a few kilobytes.
_KEPT = 128


class ClipPanels:
    """The panels of the runs that people look at, made again when a run has gone on by more than a little.

    A zoom, and a page that follows a run, ask for the same one again and again. From any thread.
    """

    def __init__(self, clip_advice: ClipAdvice) -> None:
        self._clip_advice = clip_advice
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, tuple[int, int, dict[str, Any] | None]] = OrderedDict()

    def of(self, run: Run, alerts: int) -> dict[str, Any] | None:
        """The panel of a run with so many alerts; None = no norm is known. Raises StorageError."""
        with self._lock:
            steps, then, panel = self._kept.get(run.run_id, (-1, -1, None))
        # An alert may move the onset; a run that was deleted and came again has another id.
        if then == alerts and 0 <= run.closed_steps - steps <= steps * _STALE_SHARE:
            return panel
        panel = clip_panel(self._clip_advice(run.key, most_steps=_STEPS))
        with self._lock:
            self._kept.pop(run.run_id, None)
            self._kept[run.run_id] = (run.closed_steps, alerts, panel)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return panel


def clip_panel(found: Json) -> dict[str, Any] | None:
    """The values of the panel; None = no norm is known."""
    if not found["steps"]:
        return None
    in_force, recommended = found["threshold_in_force"], found["recommended"]["threshold"]
    histogram = found["histogram"]
    return {
        "verdict": _verdict(found["recommended"]),
        "reason": found["recommended"]["reason"],
        "drift": _drift(found),
        "counted": found["steps"],
        "sampled": found["looked_at"] < found["closed_steps"],
        "closed": found["closed_steps"],
        "rows": [_row(each, in_force, recommended) for each in found["thresholds"]],
        "limits": found["cannot_know"],
        "chart": drawn(
            distribution_chart(
                np.array(histogram["steps"], np.int64),
                histogram["start_octaves"],
                histogram["octaves_per_bin"],
                in_force=in_force,
                recommended=recommended,
                identifier="clip",
            )
        ),
    }


def _verdict(recommended: Json) -> str:
    if recommended["threshold"] is None:
        return ""
    return "Keep the threshold." if recommended["keep"] else f"Clip at {figure(recommended['threshold'], 2)}."


def _row(each: Json, in_force: float | None, recommended: float | None) -> dict[str, Any]:
    threshold = each["threshold"]
    said = [word for word, value in (("in force", in_force), ("recommended", recommended)) if threshold == value]
    return {
        "threshold": threshold,
        "said": ", ".join(said),
        "strong": threshold == recommended,
        "clipped": share(each["clipped"]),
        "coefficient": each["mean_coefficient"],
        "rate_lost": share(each["rate_lost"]),
        "path_lost": share(each["path_lost"]),
        "from_onset": "–" if each["clipped_from_onset"] is None else share(each["clipped_from_onset"]),
    }


def _drift(found: Json) -> str:
    known = [tenth for tenth in found["tenths"] if tenth["median"] is not None]
    if found["drift_octaves"] is None or len(known) < 2:
        return ""
    first, last = figure(known[0]["median"]), figure(known[-1]["median"])
    return f"Its median went from {first} in the first tenth to {last} in the last ({octaves(found['drift_octaves'])})."
