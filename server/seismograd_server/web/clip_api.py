"""The part of the JSON API that is about clipping."""

from __future__ import annotations

import math

from starlette.requests import Request
from starlette.responses import Response

from seismograd_server.errors import UsageError
from seismograd_server.web.answers import Turns, key_of, limit_of
from seismograd_server.web.settings import ClipAdvice

# More than anybody compares; each is one more pass over the norms.
_MOST_THRESHOLDS = 32
_LARGEST = 2**63 - 1
# A share of so many steps is known to a fifth of a percent, and they are read in a third of a second.
_STEPS = 65_536
_FEWEST_STEPS = 256


class ClipApi:
    """The route."""

    def __init__(self, clip_advice: ClipAdvice, *, turns: Turns) -> None:
        self._clip_advice = clip_advice
        self._turns = turns

    async def clip(self, request: Request) -> Response:
        """GET .../clip: what clipping did, and would have done `at` others (may be repeated); which to choose.

        Of a run of more steps than `steps` (65,536, or 256 at least) a sample of about so many is looked at.
        """
        key, thresholds = key_of(request), _thresholds(request.query_params.getlist("at"))
        most = max(_FEWEST_STEPS, limit_of(request, _STEPS, _LARGEST, "steps"))
        return await self._turns.json(lambda: self._clip_advice(key, thresholds, most))


def _thresholds(texts: list[str]) -> list[float]:
    """The thresholds that somebody names.

    Raises:
        UsageError: one is no finite, positive number, or there are too many.
    """
    if len(texts) > _MOST_THRESHOLDS:
        raise UsageError(f"at: {len(texts)} thresholds are more than the {_MOST_THRESHOLDS} that are looked at at once")
    found = []
    for text in texts:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value > 0):
            raise UsageError(f"at: {text[:40]!r} is no threshold: write a positive number, such as 0.5")
        found.append(value)
    return found
