"""Why it happened: hypotheses ranked by what speaks for them in the data, each with that evidence. Pure.

The weights order the hypotheses; they are no probabilities. Each rule stands on a principle, and the numbers in it are
round: a fault of the data comes from one step to the next, a rate that is too high shows in the rate, weights that were
changed from outside have another norm, what all ranks share moves them together.
"""

from __future__ import annotations

from seismograd_server.report.advice.case import Case
from seismograd_server.report.causes.hypotheses import HYPOTHESES
from seismograd_server.report.causes.signs import read_signs
from seismograd_server.report.contents import Cause, Verdict

__all__ = ["diagnose"]

# What is less likely than this helps nobody.
_LEAST_WEIGHT = 0.2
_SHOWN = 4


def diagnose(case: Case) -> tuple[Cause, ...]:
    """The likely causes of an explosion, the likeliest first; empty when there was none, or no step to look at."""
    if case.verdict in {Verdict.NO_DATA, Verdict.HEALTHY} or not case.is_explosive or case.focus.onset is None:
        return ()
    signs = read_signs(case)
    found = [cause for hypothesis in HYPOTHESES if (cause := hypothesis(case, signs)) is not None]
    found = [cause for cause in found if cause.weight >= _LEAST_WEIGHT]
    return tuple(sorted(found, key=lambda cause: -cause.weight)[:_SHOWN])
