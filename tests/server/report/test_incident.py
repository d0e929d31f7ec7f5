"""The report of an incident: the runs in their order, what they share, and the cause that is common to them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace

import httpx
import pytest

from seismograd_server.errors import NotFoundError, UsageError
from seismograd_server.model import Signature
from seismograd_server.reading.incidents import Incident, read_incident
from seismograd_server.report import PostmortemWriter
from seismograd_server.report.incident import build_incident
from seismograd_server.report.render_incident import incident_html
from tests.support.reading import Stocked, connect, empty_store
from tests.support.synthetic import NOW, exploding_losses, exploding_norms, stored_alerts

__all__ = ["connect", "empty_store"]  # fixtures
STEPS, ONSET = 120, 70
RUNS = ("one", "two", "<b>three</b>")


@pytest.fixture
def store(empty_store: Stocked) -> Stocked:
    """Three runs that have exploded within seconds of each other."""
    for place, name in enumerate(RUNS):
        norms, losses = exploding_norms(STEPS, ONSET), exploding_losses(STEPS, ONSET)
        empty_store.add(name, norms=norms, losses=losses, finish=False, started=NOW + 10.0 * place)
    return empty_store


def incident_of(store: Stocked) -> Incident:
    (alert,) = [each for each in stored_alerts(store.database) if each.signature is Signature.FLEET]
    return read_incident(store.database, alert.alert_id)


def test_the_runs_are_told_in_order_with_the_cause_that_they_have_in_common(store: Stocked) -> None:
    incident, writer = incident_of(store), PostmortemWriter(store.database)
    told = json.loads(writer.incident(incident.alert.alert_id, "json", NOW + 300).body)
    assert [each["run"] for each in told["runs"]] == list(RUNS)
    assert "3 runs fired" in told["summary"][0]
    assert "within 20 s" in told["summary"][0]
    assert "the first was mt/one" in told["summary"][0]
    causes = {each["cause"] for each in told["runs"]}
    assert len(causes) == 1
    assert f"the likeliest in all 3 that were looked at: {causes.pop()}" in told["summary"][2]


@pytest.mark.parametrize("file_format", ["html", "md"])
def test_names_are_text_and_every_run_is_there(store: Stocked, file_format: str) -> None:
    document = PostmortemWriter(store.database).incident(incident_of(store).alert.alert_id, file_format, NOW + 300)
    text = document.body.decode()
    assert "<b>three" not in text.replace("\\<", "")
    assert text.count("mt/") >= 3
    assert ("style-src 'sha256-" in document.content_security_policy) == (file_format == "html")


def test_the_course_of_every_run_that_was_looked_at_is_drawn(store: Stocked) -> None:
    incident = incident_of(store)
    page = PostmortemWriter(store.database).incident(incident.alert.alert_id, "html", NOW + 300).body.decode()
    assert page.count('<svg class="chart trail"') == page.count('class="onset-line"') == len(RUNS)
    assert 'class="chart trail"' not in incident_html(build_incident(incident, {}, NOW))


def test_what_is_not_known_is_said_and_not_guessed(store: Stocked) -> None:
    incident = incident_of(store)
    blank = build_incident(incident, {}, NOW)
    assert blank.summary[2] == "No cause stands out in any of them."
    assert {member.cause for member in blank.members} == {""}
    gone = build_incident(replace(incident, members=(), shared=("host=node-3",)), {}, NOW)
    assert "none of them is stored any more" in gone.summary[0]
    assert "host=node-3" in gone.summary[1]


def test_an_incident_that_is_not_there_and_a_format_that_is_none_are_refused(store: Stocked) -> None:
    writer = PostmortemWriter(store.database)
    with pytest.raises(NotFoundError):
        writer.incident("nothing", "html", NOW)
    with pytest.raises(UsageError, match="format"):
        writer.incident("nothing", "pdf", NOW)


def test_the_page_of_an_incident_leads_to_its_report(store: Stocked, connect: Callable[..., httpx.AsyncClient]) -> None:
    path, app = f"/incidents/{incident_of(store).alert.alert_id}", store.app()

    async def get(address: str) -> httpx.Response:
        async with connect(app, headers={"accept": "text/html"}) as client:
            return await client.get(address)

    assert f'href="{path}/postmortem"' in asyncio.run(get(path)).text
    report = asyncio.run(get(f"{path}/postmortem"))
    assert report.headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
    assert asyncio.run(get(f"/api/v1{path}/postmortem?format=json")).json()["count"] == 3
