"""What to try next, with numbers that come from this run and the reason for each. Pure.

Every rule is a function from the case to an Advice or None; their order is the order on the page. A rule without
data says nothing: a number that was made up is worse than none.
"""

from __future__ import annotations

from collections.abc import Callable

from seismograd_server.report.advice import clipping, places, rates, settings
from seismograd_server.report.advice.case import Case
from seismograd_server.report.contents import Advice, Verdict

__all__ = ["Case", "advise"]


def advise(case: Case) -> tuple[Advice, ...]:
    """What to try, most useful first; empty when there is nothing to go by."""
    if case.verdict is Verdict.NO_DATA:
        return ()
    if case.verdict is Verdict.HEALTHY:
        net = clipping.safety_net(case)
        return (net,) if net else ()
    if not case.is_explosive:
        small = places.vanishing(case)
        return (small,) if small else ()
    rules: tuple[Callable[[Case], Advice | None], ...] = (
        places.suspect_rank,
        settings.mend_decay,
        places.resume,
        rates.undo_rate_jump,
        rates.warm_up,
        settings.as_the_healthy_run,
        rates.lower_rate,
        clipping.clip,
        clipping.clip_hides_growth,
        places.recurrent_layer,
        places.depth,
        places.first_layer,
        places.loss_scale,
    )
    return tuple(advice for rule in rules if (advice := rule(case)) is not None)
