from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from seismograd_server.web import WebSettings
from seismograd_server.web.guard import CONTENT_SECURITY_POLICY
from tests.support.reading import Stocked

Connect = Callable[..., httpx.AsyncClient]


def ask(app: Starlette, connect: Connect, method: str, path: str, **headers: str) -> httpx.Response:
    async def request() -> httpx.Response:
        async with connect(app) as client:
            return await client.request(method, path, headers={key.replace("_", "-"): v for key, v in headers.items()})

    return asyncio.run(request())


@pytest.mark.parametrize("path", ["/", "/healthz", "/metrics", "/api/v1/runs", "/nowhere", "/static/seismograd.css"])
def test_every_answer_carries_the_security_headers(stocked: Stocked, connect: Connect, path: str) -> None:
    headers = ask(stocked.app(), connect, "GET", path).headers
    assert headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["cross-origin-opener-policy"] == "same-origin"


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "", "[", "evil.example:7451"])
def test_a_foreign_host_name_is_refused(stocked: Stocked, connect: Connect, host: str) -> None:
    response = ask(stocked.app(), connect, "GET", "/api/v1/runs", host=host)
    assert response.status_code == 400
    assert "allowed_hosts" in response.json()["error"]


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:7451", "127.0.0.1:7451", "[::1]:7451", "10.1.2.3", "LOCALHOST"]
)
def test_addresses_and_own_names_are_allowed(stocked: Stocked, connect: Connect, host: str) -> None:
    assert ask(stocked.app(), connect, "GET", "/api/v1/runs", host=host).status_code == 200


def test_a_domain_with_a_star_covers_its_hosts_and_nothing_beside(stocked: Stocked, connect: Connect) -> None:
    app = stocked.app(settings=WebSettings(allowed_hosts=("*.lab.example",)))
    assert ask(app, connect, "GET", "/healthz", host="a.lab.example:80").status_code == 200
    assert ask(app, connect, "GET", "/healthz", host="lab.example.evil").status_code == 400
    assert ask(app, connect, "GET", "/healthz", host="xlab.example").status_code == 400


def routes_that_write() -> list[tuple[str, str]]:
    return [
        ("DELETE", "/api/v1/runs/mt/exploding"),
        ("POST", "/api/v1/alerts/x/ack"),
        ("POST", "/api/v1/alerts/x/verdict"),
        ("POST", "/api/v1/silences"),
        ("POST", "/api/v1/silences/x/expire"),
        ("POST", "/alerts/x/verdict"),
        ("POST", "/silences"),
        ("POST", "/silences/x/expire"),
        ("POST", "/rules"),
        ("POST", "/api/v1/runs/mt/healthy/directives"),
        ("POST", "/api/v1/runs/mt/healthy/backtest"),
        ("POST", "/alerts/x/ack"),
        ("PUT", "/api/v1/runs"),
        ("PATCH", "/"),
    ]


@pytest.mark.parametrize(("method", "path"), routes_that_write())
@pytest.mark.parametrize(
    "headers",
    [
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:9999"},
    ],
)
def test_a_write_from_another_site_is_refused_whatever_the_method(
    stocked: Stocked, connect: Connect, method: str, path: str, headers: dict[str, str]
) -> None:
    assert ask(stocked.app(), connect, method, path, **headers).status_code == 403
    with stocked.database.read() as transaction:
        assert len(transaction.runs.list()) == 2


def test_a_write_from_our_own_page_or_from_a_program_passes(stocked: Stocked, connect: Connect) -> None:
    for headers in ({"sec_fetch_site": "same-origin", "origin": "http://localhost"}, {}):
        assert ask(stocked.app(), connect, "POST", "/api/v1/alerts/x/ack", **headers).status_code == 400


def test_every_route_that_changes_something_is_among_those_tested(stocked: Stocked, connect: Connect) -> None:
    app: Any = stocked.app()
    writing = {
        (method, route.path)
        for route in app.routes
        for method in getattr(route, "methods", None) or ()
        if method not in {"GET", "HEAD"}
    }
    assert writing == {
        ("DELETE", "/api/v1/runs/{project}/{run}"),
        ("POST", "/api/v1/alerts/{alert_id}/ack"),
        ("POST", "/api/v1/alerts/{alert_id}/verdict"),
        ("POST", "/api/v1/silences"),
        ("POST", "/api/v1/silences/{silence_id}/expire"),
        ("POST", "/alerts/{alert_id}/verdict"),
        ("POST", "/silences"),
        ("POST", "/silences/{silence_id}/expire"),
        ("POST", "/rules"),
        ("POST", "/api/v1/runs/{project}/{run}/directives"),
        ("POST", "/api/v1/runs/{project}/{run}/backtest"),
        ("POST", "/alerts/{alert_id}/ack"),
    }
