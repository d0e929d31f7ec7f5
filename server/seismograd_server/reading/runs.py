"""A run with everything that belongs to it, read at one moment. Blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from seismograd_server.errors import StorageError
from seismograd_server.model import Alert, AlertState, DetectorStatus, Run, RunKey, Severity
from seismograd_server.reading.condensed import read_condensed
from seismograd_server.reading.details import read_recorded
from seismograd_server.reading.history import History, Opening, Recorded, Series
from seismograd_server.reading.layers import read_layer_window, read_weight_samples
from seismograd_server.reading.series import read_rank_window
from seismograd_server.store.damage import damaged_steps
from seismograd_server.store.database import Database

# Alerts of one run that a report or a page takes; a run with more has said what it had to say.
ALERTS_OF_A_RUN = 200
# Alerts around which every step of a long run is read: the gravest; their steps are what a story is told of.
_ALERTS_READ = 8
# The latest directives; whoever asks more often is a program, and has them in its own log.
DIRECTIVES_OF_A_RUN = 100
# Firing alerts looked through for a list of runs: more runs than this do not fire at once in one fleet of this server.
_FIRING_LIMIT = 1000

Window = tuple[int, int]


def read_history(
    database: Database,
    key: RunKey,
    window_of: Callable[[Series, tuple[Alert, ...]], Window],
    *,
    places_of: Callable[[Series, tuple[Alert, ...]], Iterable[int]] = lambda _series, _alerts: (),
    statuses: tuple[DetectorStatus, ...] = (),
    optimizer: int = 0,
) -> History:
    """All that is known of a run; layers and ranks only of the window that `window_of` chooses.

    Of a long run the series has every step around the gravest alerts and around the places that `places_of` names,
    and samples of the rest.

    Raises:
        NotFoundError: there is no such run; the message names the nearest one.
        StorageError: the store failed. Layers that cannot be read are a note, not an error.
    """
    with database.read() as transaction:
        run = transaction.runs.get(key)
        launches = tuple(transaction.runs.launches(run.run_id))
        ranks = tuple(transaction.runs.ranks(launches[-1].launch_row)) if launches else ()
        alerts = tuple(
            sorted(
                transaction.alerts.list(project=key.project, run=key.run, limit=ALERTS_OF_A_RUN),
                key=lambda alert: (alert.opened_step, alert.opened_at),
            )
        )
        openings = transaction.alerts.openings(run.run_id)
        checkpoints = tuple(transaction.runs.checkpoints(run.run_id))
        health = tuple(transaction.runs.health(run.run_id))
        directives = tuple(transaction.directives.of_run(run.run_id, DIRECTIVES_OF_A_RUN))
    gravest = sorted(alerts, key=lambda alert: (-alert.severity, alert.opened_step))[:_ALERTS_READ]
    windows = [(alert.since_step, alert.last_step) for alert in gravest]
    condensed = read_condensed(database, run, optimizer, windows, lambda found: places_of(found, alerts))
    series = condensed.series
    notes: dict[str, str] = {}
    composed = rank_window = weights = None
    if series.count:
        first, last = window_of(series, alerts)
        hostnames = {rank.rank: rank.hostname for rank in ranks}
        names = tuple(hostnames.get(rank, "") for rank in range(run.world_size))
        rank_window = read_rank_window(database, run.run_id, optimizer, first, last, hostnames=names)
        try:
            composed = read_layer_window(database, run, optimizer, first, last)
            if composed is not None:
                if not composed.whole:
                    cut = f"The layers behind step {int(composed.layers.steps[-1]):,} were not looked at"
                    notes[cut] = "there are more of them around the onset than memory should hold at once"
                weights = read_weight_samples(database, run, optimizer, composed.layers)
        except StorageError as error:
            notes["The layers around the onset could not be read"] = str(error)
    recorded: tuple[Recorded, ...] = ()
    try:
        recorded = read_recorded(database, run, optimizer)
    except StorageError as error:
        notes["What flight recorders have handed over could not be read"] = str(error)
    return History(
        run=run,
        series=series,
        launches=launches,
        ranks=ranks,
        layers=None if composed is None else composed.layers,
        weights=weights,
        rank_window=rank_window,
        nonfinite=() if composed is None else composed.nonfinite,
        alerts=alerts,
        openings={alert_id: Opening(event.severity, event.reason) for alert_id, event in openings.items()},
        checkpoints=tuple(sorted(checkpoints, key=lambda checkpoint: checkpoint.step)),
        health=health,
        directives=directives,
        recorded=recorded,
        statuses=statuses,
        notes=notes,
        damaged=tuple(damaged_steps(database.damage.of_run(run.run_id))),
        whole=condensed.whole,
        removed=condensed.removed,
    )


def firing_alerts(database: Database) -> dict[int, list[Alert]]:
    """Firing alerts by run id, for a list of runs."""
    with database.read() as transaction:
        firing = transaction.alerts.list(state=AlertState.FIRING, limit=_FIRING_LIMIT)
    by_run: dict[int, list[Alert]] = {}
    for alert in firing:
        by_run.setdefault(alert.run_id, []).append(alert)
    return by_run


def worst(alerts: Iterable[Alert]) -> Severity:
    """The gravest severity among alerts; NONE when there are none."""
    return max((alert.severity for alert in alerts), default=Severity.NONE)


def find_run(database: Database, key: RunKey) -> Run:
    """A run by name.

    Raises:
        NotFoundError: there is none; the message names the nearest one.
    """
    with database.read() as transaction:
        return transaction.runs.get(key)
