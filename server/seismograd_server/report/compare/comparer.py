"""Reads runs from the store and compares them: the one part of `report/compare` that does I/O."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import unquote

from seismograd_server.errors import NotFoundError, UsageError
from seismograd_server.model import Alert, AlertState, Run, RunKey, SummaryKind
from seismograd_server.reading.encoding import Json, column, number, run_json
from seismograd_server.reading.resolution import plan_for
from seismograd_server.reading.runs import ALERTS_OF_A_RUN
from seismograd_server.reading.stored import Asked
from seismograd_server.reading.summaries import read_summary
from seismograd_server.report.compare.compare import Align, Aligned, Pair, Read, align_runs, notes, pairs
from seismograd_server.report.configuration import Difference, differences
from seismograd_server.store.database import Database

# More curves than this cannot be told apart.
MOST_RUNS = 8
# Points of a curve: half a page's width in pixels. Twice as many of a long run would be twice as long to read.
_POINTS = 512


class RunComparer:
    """Compares the runs in one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __call__(self, names: Sequence[str], align: str = "step") -> Json:
        """Runs side by side, as JSON values; each but the first against the first. Blocks.

        Args:
            names: "project/run", one to eight; a slash within a part may be written as %2F.
            align: "step" or "progress".

        Raises:
            NotFoundError: there is no such run.
            UsageError: none, too many or the same run twice, or another alignment.
            StorageError: the store failed.
        """
        if align not in {each.value for each in Align}:
            raise UsageError(f"align: {align[:40]!r} is none of step, progress")
        if not 1 <= len(names) <= MOST_RUNS:
            raise UsageError(f"run: name 1 to {MOST_RUNS} runs, as project/run; these are {len(names)}")
        found = [self._named(name) for name in names]
        if len({run.run_id for run, _ in found}) < len(found):
            raise UsageError("run: the same run is named twice")
        size = max(self._size(run) for run, _ in found)
        read = [
            Read(run, alerts, read_summary(self._database, Asked(run.run_id, 0, SummaryKind.SERIES), size))
            for run, alerts in found
        ]
        chosen = Align(align)
        aligned = align_runs(read, chosen)
        return {
            "align": align,
            "steps_per_point": size,
            "runs": [_run_json(each) for each in read],
            "differences": [_difference_json(each) for each in differences([run for run, _ in found])],
            "partings": [_pair_json(each) for each in pairs(read, aligned, chosen)],
            "series": _series_json(aligned, chosen),
            "notes": list(notes(read, chosen, size)),
        }

    def _named(self, name: str) -> tuple[Run, tuple[Alert, ...]]:
        """The run that a name means: either part may hold slashes, so that every place to cut it is tried."""
        keys = [
            key
            for place, letter in enumerate(name)
            if letter == "/" and 0 < place < len(name) - 1
            for key in (RunKey(name[:place], name[place + 1 :]),)
        ]
        if keys and name.count("/") == 1:
            keys = [*keys, RunKey(unquote(keys[0].project), unquote(keys[0].run))]
        if not keys:
            raise UsageError(f"run: {name[:80]!r} is not written as project/run")
        with self._database.read() as transaction:
            for key in keys:
                try:
                    run = transaction.runs.get(key)
                except NotFoundError as error:
                    missing = error
                    continue
                alerts = transaction.alerts.list(project=key.project, run=key.run, limit=ALERTS_OF_A_RUN)
                shown = [alert for alert in alerts if alert.state is not AlertState.PENDING]
                return run, tuple(sorted(shown, key=lambda alert: (alert.opened_step, alert.opened_at)))
        raise missing

    def _size(self, run: Run) -> int:
        """Steps a point: a power of two, so that of two runs' the larger one is a multiple of the other."""
        return plan_for(self._database, Asked(run.run_id, 0, SummaryKind.SERIES), _POINTS).size


def _run_json(read: Read) -> Json:
    buckets = read.buckets
    return {
        **run_json(read.run, [alert for alert in read.alerts if alert.state is AlertState.FIRING]),
        "first_step": None if buckets is None else int(buckets.first_steps[0]),
        "alerts": [
            {
                "alert_id": alert.alert_id,
                "signature": alert.signature.value,
                "severity": alert.severity.label,
                "state": alert.state.value,
                "since_step": alert.since_step,
                "opened_step": alert.opened_step,
                "reason": alert.reason,
            }
            for alert in read.alerts
        ],
    }


def _difference_json(difference: Difference) -> Json:
    return {"kind": difference.kind, "key": difference.key, "values": list(difference.values)}


def _pair_json(pair: Pair) -> Json:
    parting = pair.parting
    return {
        "run": pair.run,
        "against": 0,
        "quantity": pair.quantity,
        "shared_points": pair.shared,
        "parted": parting is not None,
        "position": pair.position,
        "octaves": None if parting is None else number(parting.octaves),
        "noise_octaves": None if parting is None else number(parting.noise),
        "sentence": pair.sentence,
    }


def _series_json(aligned: Aligned, align: Align) -> Json:
    return {
        align.value: aligned.position.tolist(),
        "grad_norm": [column(values) for values in aligned.norm],
        "loss": [column(values) for values in aligned.loss],
    }
