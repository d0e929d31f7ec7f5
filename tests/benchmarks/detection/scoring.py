"""The scorer: how early, how often, and how often in vain a detector says `critical`.

An alert counts for an exploding run from ten steps before its onset to its failure. recall: exploding runs with such an
alert. clean: those with none before that either, because a detector that always fires has a recall of one. false
alarms: healthy and vanishing runs with any critical alert. on spikes: recovering spikes with one; they deserve a
warning. lead: steps from the alert to the failure. delay: steps from the onset to the alert; medians. Ambiguous runs
are left out.
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_EARLY = 10  # an onset is known to about so many steps


@dataclass(frozen=True, slots=True)
class Labelled:
    """A run of a manifest."""

    run_id: str
    family: str
    faults: str
    label: str
    onset_step: int
    failure_step: int
    culprit_layer: str = ""
    culprit_rank: str = ""


@dataclass(frozen=True, slots=True)
class Alarm:
    """What a detector said: at the end of `step`, about one run."""

    run_id: str
    step: int
    severity: str


@dataclass(frozen=True, slots=True)
class Score:
    """What came of it; NaN = there was no such run, None = no alert that counts."""

    recall: float
    clean: float
    false_alarms: float
    on_spikes: float
    spikes_warned: float
    healthy_warned: float
    lead: float | None
    delay: float | None


def read_manifest(path: Path) -> list[Labelled]:
    """The runs of a manifest (CSV)."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Labelled(
                row["run_id"],
                row["family"],
                row["faults"],
                row["label"],
                int(row["onset_step"]),
                int(row["failure_step"]),
                row["culprit_layer"],
                row["culprit_rank"],
            )
            for row in csv.DictReader(file)
        ]


def score(runs: Iterable[Labelled], alarms: Iterable[Alarm]) -> Score:
    """Score a detector's alarms; those of runs that are not there are passed over."""
    critical, warned = _by_run(alarms, "critical"), _by_run(alarms, "warning")
    runs = list(runs)
    exploding = [run for run in runs if run.label == "exploding"]
    calm = [run for run in runs if run.label in {"healthy", "vanishing"}]
    spikes = [run for run in runs if run.label == "spike"]
    hits = {run: hit for run in exploding if (hit := _hit(run, critical.get(run.run_id, []))) is not None}
    clean = [run for run in hits if not any(step < run.onset_step - _EARLY for step in critical[run.run_id])]
    return Score(
        recall=_share(hits, exploding),
        clean=_share(clean, exploding),
        false_alarms=_share([run for run in calm if run.run_id in critical], calm),
        on_spikes=_share([run for run in spikes if run.run_id in critical], spikes),
        spikes_warned=_share([run for run in spikes if run.run_id in warned], spikes),
        healthy_warned=_share([run for run in calm if run.run_id in warned], calm),
        lead=statistics.median(run.failure_step - hit for run, hit in hits.items()) if hits else None,
        delay=statistics.median(hit - run.onset_step for run, hit in hits.items()) if hits else None,
    )


def verdict(run: Labelled, alarms: Iterable[Alarm]) -> str:
    """What is wrong with the alarms about one run: missed, early, false or on a spike; empty = nothing."""
    critical = _by_run(alarms, "critical").get(run.run_id, [])
    if run.label == "exploding":
        early = any(step < run.onset_step - _EARLY for step in critical)
        return "early" if early else "missed" if _hit(run, critical) is None else ""
    wrong = {"healthy": "false", "vanishing": "false", "spike": "on a spike"}.get(run.label, "")
    return wrong if critical else ""


def _hit(run: Labelled, steps: Sequence[int]) -> int | None:
    return next((step for step in steps if run.onset_step - _EARLY <= step <= run.failure_step), None)


def _by_run(alarms: Iterable[Alarm], severity: str) -> Mapping[str, list[int]]:
    found: dict[str, list[int]] = {}
    for alarm in alarms:
        if alarm.severity == severity:
            found.setdefault(alarm.run_id, []).append(alarm.step)
    return {run: sorted(steps) for run, steps in found.items()}


def _share(some: Iterable[object], of: Sequence[object]) -> float:
    return len(list(some)) / len(of) if of else float("nan")
