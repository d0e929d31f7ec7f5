"""Incidents of several runs, as programs and people read them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from html import escape, unescape
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from tests.support.reading import Stocked
from tests.support.synthetic import exploding_losses, exploding_norms

Connect = Callable[..., httpx.AsyncClient]
STEPS, ONSET = 90, 70
RUNS = ("one", "two", "<b>three</b>")


@pytest.fixture
def app(empty_store: Stocked) -> Starlette:
    for name in RUNS:
        norms, losses = exploding_norms(STEPS, ONSET), exploding_losses(STEPS, ONSET)
        empty_store.add(name, norms=norms, losses=losses, finish=False)
    return empty_store.app()


def get(app: Starlette, connect: Connect, path: str) -> httpx.Response:
    async def request() -> httpx.Response:
        async with connect(app) as client:
            return await client.get(path, headers={"accept": "text/html"})

    return asyncio.run(request())


def only(app: Starlette, connect: Connect) -> dict[str, Any]:
    (incident,) = get(app, connect, "/api/v1/incidents").json()["incidents"]
    found: dict[str, Any] = incident
    return found


def test_the_list_says_what_the_runs_of_an_incident_fire_and_how_many_they_are(
    app: Starlette, connect: Connect
) -> None:
    incident = only(app, connect)
    assert (incident["signature"], incident["of"], incident["count"]) == ("fleet", "runaway", 3)
    assert incident["state"] == "firing"
    assert get(app, connect, "/api/v1/incidents?state=resolved").json() == {"incidents": [], "next": None}
    assert get(app, connect, "/api/v1/incidents?state=on%20fire").status_code == 400


def test_one_incident_comes_with_what_each_of_its_runs_fired(app: Starlette, connect: Connect) -> None:
    one = get(app, connect, f"/api/v1/incidents/{only(app, connect)['incident_id']}").json()
    assert {each["run"] for each in one["alerts"]} == set(RUNS)
    assert {each["signature"] for each in one["alerts"]} == {"runaway"}


def test_pages_are_counted_from_the_last_one(app: Starlette, connect: Connect) -> None:
    first = get(app, connect, "/api/v1/incidents?limit=1").json()
    assert first["next"] is None
    rest = get(app, connect, f"/api/v1/incidents?before={first['incidents'][0]['incident_id']}").json()
    assert rest["incidents"] == []


def test_the_page_names_every_run_and_is_linked_from_the_first_page(app: Starlette, connect: Connect) -> None:
    path = f"/incidents/{only(app, connect)['incident_id']}"
    assert f'href="{path}"' in get(app, connect, "/").text
    page = get(app, connect, path)
    assert page.status_code == 200
    assert page.text.count('href="/runs/mt/') == 3
    assert "<b>three</b>" not in page.text
    assert "&lt;b&gt;three&lt;/b&gt;" in page.text


def test_an_alert_of_one_run_is_no_incident(app: Starlette, connect: Connect) -> None:
    alerts = get(app, connect, "/api/v1/alerts").json()["alerts"]
    other = next(each["alert_id"] for each in alerts if each["signature"] == "runaway")
    for path in (f"/api/v1/incidents/{other}", f"/incidents/{other}", "/api/v1/incidents/nothing"):
        assert get(app, connect, path).status_code == 404


def test_the_page_leads_to_its_runs_side_by_side(app: Starlette, connect: Connect) -> None:
    page = get(app, connect, f"/incidents/{only(app, connect)['incident_id']}").text
    found = re.search(r'href="(/compare[^"]*)"', page)
    assert found is not None
    compared = get(app, connect, unescape(found[1])).text
    for name in RUNS:
        assert escape(name) in compared
