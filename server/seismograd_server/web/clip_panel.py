"""What the page of a run shows on clipping, from what is said of it. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np

from seismograd_server.display.distribution import distribution_chart
from seismograd_server.display.numbers import figure, octaves, share
from seismograd_server.reading.encoding import Json
from seismograd_server.web.rendering import drawn

# A page loads itself every two seconds: of a longer run a sample of so many steps is looked at, which takes some tens
# of milliseconds. A share is then known to a hundredth.
CLIP_STEPS = 4096


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
