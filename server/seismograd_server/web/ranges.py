"""Which steps of a run a page shows, and the links to other ranges: they work without a script. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

# What "the latest" and "around an alert" mean: as many steps as a chart shows one by one.
_LATEST_STEPS = 1000
_AROUND_STEPS = 250
# No range is narrower: a curve needs some points.
_FEWEST_STEPS = 16


@dataclass(frozen=True, slots=True)
class StepRange:
    """The steps shown, [first, last], of those there are."""

    first: int
    last: int
    whole_first: int
    whole_last: int
    follows: int | None = None  # how many of the latest steps were asked for; None = a fixed range, or all of it

    @property
    def is_whole(self) -> bool:
        """Whether all there is is shown."""
        return self.first <= self.whole_first and self.last >= self.whole_last


def chosen_range(extent: tuple[int, int], first: int | None, last: int | None, latest: int | None) -> StepRange:
    """The range asked for, within what there is; where nothing of it is there, all of it is shown.

    A range that is too narrow is widened to 16 steps.
    """
    whole_first, whole_last = extent
    if latest is not None:
        first, last = whole_last - max(latest, _FEWEST_STEPS) + 1, whole_last
    low = whole_first if first is None else first
    high = whole_last if last is None else last
    if low > whole_last or high < whole_first or low > high:
        return StepRange(whole_first, whole_last, whole_first, whole_last)
    missing = _FEWEST_STEPS - (high - low + 1)
    if missing > 0:
        low, high = low - missing // 2, high + missing - missing // 2
    return StepRange(max(low, whole_first), min(high, whole_last), whole_first, whole_last, latest)


@dataclass(frozen=True, slots=True)
class RangeLink:
    """A link to another range; `key` names it for the keyboard."""

    label: str
    href: str
    key: str


def range_query(shown: StepRange, layers: Mapping[str, str]) -> dict[str, str]:
    """The parameters under which a page shows this range again."""
    if shown.follows is not None:
        return {"latest": str(shown.follows), **layers}
    if shown.is_whole:
        return dict(layers)
    return {"first_step": str(shown.first), "last_step": str(shown.last), **layers}


def range_links(path: str, shown: StepRange, alert_step: int | None, layers: Mapping[str, str]) -> list[RangeLink]:
    """Where one would go from here: all of it, the latest, the alert, wider and narrower, earlier and later."""
    span, middle = shown.last - shown.first + 1, (shown.first + shown.last) // 2
    links: list[RangeLink] = []

    def offer(label: str, key: str, parameters: Mapping[str, int]) -> None:
        query = urlencode({**parameters, **layers}, errors="surrogatepass")
        links.append(RangeLink(label, f"{path}?{query}" if query else path, key))

    if not shown.is_whole or shown.follows is not None:
        offer("all steps", "whole", {})
    if shown.whole_last - shown.whole_first >= _LATEST_STEPS and shown.follows is None:
        offer(f"the latest {_LATEST_STEPS:,}", "latest", {"latest": _LATEST_STEPS})
    if alert_step is not None:
        around = {"first_step": alert_step - _AROUND_STEPS, "last_step": alert_step + _AROUND_STEPS}
        if not (shown.first == max(around["first_step"], shown.whole_first) and shown.last <= around["last_step"]):
            offer("around the alert", "alert", around)
    if shown.first > shown.whole_first:
        offer("earlier", "earlier", {"first_step": shown.first - span // 2, "last_step": shown.last - span // 2})
    if shown.last < shown.whole_last:
        offer("later", "later", {"first_step": shown.first + span // 2, "last_step": shown.last + span // 2})
    if span > _FEWEST_STEPS:
        offer("narrower", "narrower", {"first_step": middle - span // 4, "last_step": middle + span // 4})
    if not shown.is_whole:
        offer("wider", "wider", {"first_step": middle - span, "last_step": middle + span})
    return links
