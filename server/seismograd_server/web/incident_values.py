"""An incident as its page shows it."""

from __future__ import annotations

from typing import Any

from seismograd_server.model import AlertState
from seismograd_server.reading.incidents import Incident


def incident_values(incident: Incident, refresh_seconds: int) -> dict[str, Any]:
    """What the template needs; the page loads itself again while the incident fires."""
    fires = incident.alert.state is AlertState.FIRING
    return {
        "title": f"{incident.count} runs, {incident.of.value}",
        "refresh": refresh_seconds if fires else None,
        "incident": incident,
        "severity": incident.alert.severity.label if fires else "",
    }
