"""Looks at runs through the server's JSON API."""

from __future__ import annotations

import re
from pathlib import Path

from seismograd_server.commands.remote import Remote, run_path
from seismograd_server.demo.picture import Picture, alert_of, series_of
from seismograd_server.errors import NotFoundError, UsageError
from seismograd_server.model import RunKey

PROJECT = "demo"
# More than any run of the demo has, so that nothing is thinned.
_POINTS = 2000
_RUNS = 1000


class Observer:
    """What the demo asks the server."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    def next_number(self, scenario: str) -> int:
        """The number of the next demo of a scenario: earlier ones in the same data directory stay as they are."""
        runs = self._remote.json("GET", "/api/v1/runs", params={"project": PROJECT, "limit": _RUNS})["runs"]
        pattern = re.compile(re.escape(scenario) + r"-(\d+)-\w+")
        taken = [int(match[1]) for run in runs if (match := pattern.fullmatch(run["run"]))]
        return max(taken, default=0) + 1

    def look(self, run: str) -> Picture:
        """The run as it is now."""
        path = run_path(RunKey(PROJECT, run))
        try:
            # The state first: a run that is over has all its steps and alerts when they are read after it.
            state = self._remote.json("GET", path)["state"]
        except NotFoundError:
            return Picture(run)
        series = self._remote.json("GET", f"{path}/series", params={"points": _POINTS})
        alerts = self._remote.json("GET", f"{path}/alerts")["alerts"]
        whole = [self._remote.json("GET", f"/api/v1/alerts/{alert['alert_id']}") for alert in alerts]
        seen = sorted(map(alert_of, whole), key=lambda alert: (alert.opened_step, alert.alert_id))
        return Picture(run, state, alerts=tuple(seen), **series_of(series))

    def write_postmortem(self, run: str, target: Path) -> None:
        """Fetch the report of a run into a file.

        Raises:
            UsageError: the file cannot be written.
        """
        path = f"{run_path(RunKey(PROJECT, run))}/postmortem"
        content = self._remote.checked("GET", path, params={"format": "html"}).content
        try:
            target.write_bytes(content)
        except OSError as error:
            raise UsageError(f"{target} cannot be written ({error.strerror}): name another --data-dir") from error
