"""An incident as its page shows it."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from seismograd_server.model import AlertState
from seismograd_server.reading.incidents import Incident
from seismograd_server.web.links import compare_name

# As many as a comparison takes.
_COMPARED = 8


def incident_values(incident: Incident, refresh_seconds: int) -> dict[str, Any]:
    """What the template needs; the page loads itself again while the incident fires."""
    fires = incident.alert.state is AlertState.FIRING
    compared = [("run", compare_name(each.key)) for each in incident.members[:_COMPARED]]
    return {
        "compare": f"/compare?{urlencode(compared, errors='surrogatepass')}" if len(compared) > 1 else "",
        "title": f"{incident.count} runs, {incident.of.value}",
        "refresh": refresh_seconds if fires else None,
        "incident": incident,
        "severity": incident.alert.severity.label if fires else "",
    }
