"""Advice on settings: what was given wrongly, and what a healthy run was given instead. Pure."""

from __future__ import annotations

from seismograd_server.display.numbers import figure
from seismograd_server.report.advice.case import Case
from seismograd_server.report.contents import Advice


def mend_decay(case: Case) -> Advice | None:
    """A weight decay below zero was given."""
    if case.negative_decay is None:
        return None
    key, value = case.negative_decay
    return Advice(
        f"Set {key} to zero or above: it is {figure(value)}",
        "A decay below zero multiplies every weight by a little more than one at each step, whatever the gradient is. "
        "Nothing bounds that growth: a lower learning rate or a clipped gradient only delays the end.",
        ((key, figure(value)),),
    )


def as_the_healthy_run(case: Case) -> Advice | None:
    """A healthy run of the project differs in a few settings."""
    nearest = case.nearest
    if nearest is None or not nearest.settings or case.blames_rank or case.negative_decay is not None:
        return None
    return Advice(
        f"Go back to the settings of {nearest.key.run}, one at a time: " + ", ".join(e.key for e in nearest.settings),
        "That run of the same project raised no critical alert and differs in nothing else that it was given. The "
        "setting whose return mends the run is the cause.",
        tuple((each.key, f"{each.values[1] or '–'} → {each.values[0] or '–'}") for each in nearest.settings),
    )
