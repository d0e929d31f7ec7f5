"""The healthy run of the project that is most like one that was not: what it was given differently. Pure.

Whoever must explain a failed run asks first what was different the last time it went well.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from seismograd_server.display.text import plural
from seismograd_server.model import Run, RunKey, RunState
from seismograd_server.report.configuration import Difference, differences

# A run that has made fewer steps has shown nothing yet.
_LEAST_STEPS = 50
# Runs that differ in more are not the same experiment with one thing changed.
_MOST_SETTINGS = 4


@dataclass(frozen=True, slots=True)
class Nearest:
    """The healthy run that was chosen.

    Attributes:
        key: of it.
        candidates: how many healthy runs it was chosen from.
        differences: what the two were not given the same of; of each the healthy run's value, and this one's.
        partings: where norms and losses of this run part from its own, in words.
    """

    key: RunKey
    candidates: int
    differences: tuple[Difference, ...]
    partings: tuple[str, ...] = ()

    @property
    def settings(self) -> tuple[Difference, ...]:
        """Those of the configuration that differ, when they are few enough to be a trace; otherwise none."""
        found = tuple(each for each in self.differences if each.kind == "configuration")
        return found if len(found) <= _MOST_SETTINGS else ()

    @property
    def reason(self) -> str:
        """Why this one."""
        fewest = "nothing" if not self.differences else plural(len(self.differences), "setting")
        among = plural(self.candidates, "healthy run")
        return f"Of {among} of the project, this one differs least: in {fewest}."


def difference_rows(nearest: Nearest) -> list[tuple[str, str, str]]:
    """What differs: its name, the healthy run's value and this one's."""
    rows = []
    for each in nearest.differences:
        healthy, this = ("–" if value is None else value for value in each.values)
        rows.append((each.key if each.kind == "configuration" else f"{each.key} ({each.kind})", healthy, this))
    return rows


def nearest_healthy(run: Run, others: Sequence[Run], struck: Collection[int]) -> Nearest | None:
    """The healthy run with the fewest differences, and of several the latest; None = there is none.

    Args:
        run: that was not healthy.
        others: runs of the same project.
        struck: run_ids of those that had a critical alert.
    """
    healthy = [
        each
        for each in others
        if each.run_id not in {run.run_id, *struck}
        and each.state in {RunState.RUNNING, RunState.FINISHED}
        and each.closed_steps >= _LEAST_STEPS
    ]
    compared = [(_telling(each, run), each) for each in healthy]
    if not compared:
        return None
    found, chosen = min(compared, key=lambda pair: (len(pair[0]), -pair[1].run_id))
    return Nearest(chosen.key, len(healthy), found)


def _telling(healthy: Run, run: Run) -> tuple[Difference, ...]:
    """In what they differ, but that each is called as it is called."""
    names = healthy.key.run, run.key.run
    return tuple(each for each in differences([healthy, run]) if each.values != names)
