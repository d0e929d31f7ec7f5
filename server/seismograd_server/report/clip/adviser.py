"""Reads a run from the store and studies its clipping: the one part of `report/clip` that does I/O."""

from __future__ import annotations

from collections.abc import Sequence

from seismograd_server.model import RunKey
from seismograd_server.reading.encoding import Json
from seismograd_server.reading.runs import ALERTS_OF_A_RUN
from seismograd_server.reading.sampling import read_sample
from seismograd_server.reading.series import read_series
from seismograd_server.report.clip.study import study
from seismograd_server.report.clip.values import clip_json
from seismograd_server.report.focus import find_focus
from seismograd_server.store.database import Database


class ClipAdviser:
    """Studies the clipping of the runs in one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __call__(self, key: RunKey, thresholds: Sequence[float] = (), most_steps: int | None = None) -> Json:
        """What the norms of a run say on clipping, as JSON values. Blocks.

        Args:
            key: the run.
            thresholds: finite and positive, to be looked at; none = those that the run's norms suggest.
            most_steps: look at a sample of so many steps of a longer run; None = at every step. Some 120 bytes a step
                are held while it is read.

        Raises:
            NotFoundError: there is no such run; the message names the nearest one.
            StorageError: the store failed.
        """
        with self._database.read() as transaction:
            run = transaction.runs.get(key)
            alerts = tuple(transaction.alerts.list(project=key.project, run=key.run, limit=ALERTS_OF_A_RUN))
        if most_steps is None:
            series = read_series(self._database, run.run_id, 0)
        else:
            series = read_sample(self._database, run, 0, most_steps)
        focus = find_focus(series, alerts)
        closed = run.closed_steps if most_steps is not None and run.closed_steps > most_steps else None
        found = study(series, focus.onset, thresholds=thresholds, closed=closed)
        return {"project": key.project, "run": key.run, **clip_json(found)}
