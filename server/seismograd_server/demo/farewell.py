"""What the demo says at its end, for people and for programs."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from seismograd_server.demo.display import drawn, is_graphic
from seismograd_server.demo.observer import PROJECT
from seismograd_server.demo.picture import Picture
from seismograd_server.demo.processes import Child
from seismograd_server.demo.story import Outcome
from seismograd_server.display.text import plural

# A child that waits for Ctrl-C is looked at so often; the signal itself is noticed at once.
_LOOK_SECONDS = 1.0


def tell(console: Console, outcome: Outcome, url: str, data_directory: Path, *, keep: bool) -> None:
    """Print what happened, and where everything is."""
    if not console.is_terminal:  # on a terminal it stands there already
        console.print(drawn((outcome.healthy, outcome.pushed), console.width, graphic=is_graphic(console)))
    verdict = outcome.verdict
    for problem in verdict.problems:
        console.print(Text(f"not as promised: {problem}", style="bold red"), soft_wrap=True)
    if verdict.failure is not None:
        console.print(Text(f"training failed at step {verdict.failure.step}: {verdict.failure.how}"), soft_wrap=True)
    if verdict.passed and verdict.alert is not None and verdict.lead_steps is not None:
        lead = plural(verdict.lead_steps, "step")
        line = f"the alert was critical at step {verdict.alert.critical_step}, {lead} before the failure"
        console.print(Text(f"{line}; the healthy twin had none", style="bold green"), soft_wrap=True)
    serve = f"seismograd serve --data-dir {shlex.quote(str(data_directory))}"
    places = [
        ("post-mortem", str(outcome.report)),
        ("data and logs", str(data_directory)),
        *((("pages", url), ("metrics", f"{url}/metrics"), ("stop with", "Ctrl-C")) if keep else ()),
        *(() if keep else (("look again", f"{serve}  (pages and /metrics on http://127.0.0.1:7451)"),)),
    ]
    for label, place in places:
        console.print(Text(f"  {label:<14} ", style="dim").append(place, style="default"), soft_wrap=True)


def as_values(outcome: Outcome, url: str | None) -> dict[str, Any]:
    """The outcome with stable keys, for `--json`; `url` is null unless the server stays up."""
    verdict = outcome.verdict
    alert = verdict.alert
    return {
        "scenario": outcome.scenario.name,
        "passed": verdict.passed,
        "problems": list(verdict.problems),
        "project": PROJECT,
        "healthy": _run_values(outcome.healthy),
        "pushed": _run_values(outcome.pushed),
        "failure_step": verdict.failure.step if verdict.failure else None,
        "failure": verdict.failure.how if verdict.failure else None,
        "alert_step": alert.critical_step if alert else None,
        "alert_lead_steps": verdict.lead_steps,
        "alert_rank": alert.leading_rank if alert else None,
        "alert_layer": alert.leading_layer if alert else None,
        "alert_reason": alert.reason if alert else None,
        "alert_after_seconds": _rounded(outcome.alert_after_seconds),
        "seconds": _rounded(outcome.seconds),
        "report": str(outcome.report),
        "url": url,
    }


def _run_values(picture: Picture) -> dict[str, Any]:
    return {
        "run": picture.run,
        "state": picture.state,
        "steps": len(picture.steps),
        "alerts": [
            {
                "signature": each.signature,
                "severity": each.severity,
                "opened_step": each.opened_step,
                "critical_step": each.critical_step,
                "reason": each.reason,
            }
            for each in picture.alerts
        ],
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 2)


def wait_for_interrupt(server: Child) -> None:
    """Wait until Ctrl-C (or SIGTERM) comes, which is how this is meant to end.

    Raises:
        ChildError: the server ended by itself.
    """
    try:
        while not server.ended_within(_LOOK_SECONDS):
            pass
    except KeyboardInterrupt:
        return
    # A terminal's Ctrl-C reaches the server as well, and it may be the first to end, in good order.
    if server.process.returncode != 0:
        raise server.failed()
