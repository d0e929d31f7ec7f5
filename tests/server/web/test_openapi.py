from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from seismograd_server.web.alerts_api import AlertsApi
from seismograd_server.web.api import Api
from seismograd_server.web.fleet_page import FleetPage
from seismograd_server.web.incidents_api import IncidentsApi
from seismograd_server.web.openapi import describe
from seismograd_server.web.run_page import RunPage
from seismograd_server.web.series_api import SeriesApi
from tests.support.reading import Stocked

# Calls that read the query, and the name that they read when none is given.
_READS = re.compile(r'(?:query_params\.get\(|(?:number_of|choice_of|points_of)\(request, )"(\w+)"')


@pytest.fixture
def app(stocked: Stocked) -> Starlette:
    return stocked.app()


@pytest.fixture
def document(app: Starlette, connect: Callable[[Starlette], httpx.AsyncClient]) -> dict[str, Any]:
    async def get() -> httpx.Response:
        async with connect(app) as client:
            return await client.get("/api/openapi.json")

    response = asyncio.run(get())
    assert response.status_code == 200
    described: dict[str, Any] = response.json()
    return described


def test_every_route_is_described_with_every_method(app: Starlette, document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    served: dict[str, set[str]] = {}
    for route in app.routes:
        if isinstance(route, Mount):
            assert route.path == "/static"
            continue
        assert isinstance(route, Route)
        served.setdefault(route.path, set()).update(
            method.lower() for method in route.methods or () if method != "HEAD"
        )
    assert {path: set(operations) for path, operations in document["paths"].items()} == served
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["summary"]
            assert not operation["summary"].startswith(("GET", "POST", "DELETE"))
            assert operation["summary"][0].isalnum(), "a sentence, and not the rest of a body"
            in_path = {each["name"] for each in operation["parameters"] if each["in"] == "path"}
            assert in_path == set(re.findall(r"{(\w+)}", path))


def test_operations_have_ids_of_their_own(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for operations in document["paths"].values() for operation in operations.values()]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("kind", [Api, AlertsApi, FleetPage, IncidentsApi, RunPage, SeriesApi])
def test_every_parameter_that_a_handler_reads_is_described(kind: type, document: dict[str, Any]) -> None:
    described = {
        name: {parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "query"}
        for path, name in (
            ("/", "fleet"),
            ("/runs/{project}/{run}", "run_page"),
            ("/api/v1/runs", "runs"),
            ("/api/v1/runs/{project}/{run}/series", "series"),
            ("/api/v1/runs/{project}/{run}/layers", "layers"),
            ("/api/v1/runs/{project}/{run}/recorder", "recorder"),
            ("/api/v1/runs/{project}/{run}/postmortem", "postmortem"),
            ("/api/v1/alerts", "_alerts"),
            ("/api/v1/incidents", "incidents"),
            ("/api/v1/incidents/{incident_id}/postmortem", "incident_postmortem"),
            ("/api/v1/precision", "precision"),
            ("/api/v1/silences", "silences"),
        )
        for operation in [document["paths"][path]["get"]]
    }
    for name, method in inspect.getmembers(kind, inspect.isfunction):
        source = inspect.getsource(method)
        read = set(_READS.findall(source))
        if "range_of(request" in source:
            read |= {"first_step", "last_step"}
        if "limit_of(request" in source:
            named = re.search(r'limit_of\(request, \w+, \w+, "(\w+)"', source)
            read |= {named[1] if named else "limit"}
        if read:
            assert read <= described[name], name


def test_a_route_that_is_added_is_described_without_further_words() -> None:
    async def added() -> None:
        """POST /added/{thing}: adds it."""

    operation = describe([Route("/added/{thing}", added, methods=["POST"])], "1")["paths"]["/added/{thing}"]["post"]
    assert operation["summary"] == "adds it."
