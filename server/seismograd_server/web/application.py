"""The ASGI application: which route is answered by whom, behind which guards."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from seismograd_server.display.look import readout_script, shared_css
from seismograd_server.errors import SeismogradError
from seismograd_server.model import Snapshot
from seismograd_server.pipeline.people import People
from seismograd_server.rules.file import RulesInForce
from seismograd_server.store.database import Database
from seismograd_server.web.alerts_api import AlertsApi
from seismograd_server.web.answers import Turns, in_thread, json_answer
from seismograd_server.web.api import Api
from seismograd_server.web.clip_api import ClipApi
from seismograd_server.web.compare_page import ComparePage
from seismograd_server.web.fleet_page import FleetPage
from seismograd_server.web.forms import Forms
from seismograd_server.web.guard import AllowedHosts, SameOriginWrites, SecurityHeaders
from seismograd_server.web.incidents_api import IncidentsApi
from seismograd_server.web.links import EscapedPaths
from seismograd_server.web.live_api import LiveApi
from seismograd_server.web.openapi import describe
from seismograd_server.web.pages import Pages
from seismograd_server.web.rendering import Renderer
from seismograd_server.web.rules_api import RulesApi
from seismograd_server.web.rules_page import RulesPage
from seismograd_server.web.run_page import RunPage
from seismograd_server.web.series_api import SeriesApi
from seismograd_server.web.settings import Ask, ClipAdvice, Compare, Postmortem, WebSettings
from seismograd_server.web.settings_page import SettingsPage
from seismograd_server.web.tallies import Tallies
from seismograd_server.web.trail_picture import TrailPicture

_log = structlog.get_logger("seismograd.web")
_STATIC = Path(__file__).parent / "static"
# Pages and answers of the API that are made at once. They compute under one interpreter lock, so that more would
# only be slower each; the smallest machine's five worker threads leave one to `/metrics` and the notifications.
_READING_AT_ONCE = 4


def create_app(
    *,
    database: Database,
    snapshot: Callable[[], Snapshot],
    metrics_page: Callable[[str], tuple[bytes, str]],
    ready: Callable[[], bool],
    postmortem: Postmortem,
    clip_advice: ClipAdvice,
    compare: Compare,
    ask: Ask,
    people: People,
    settings: WebSettings,
    rules_in_force: Callable[[], RulesInForce] = RulesInForce,
    clock: Callable[[], float] = time.time,
) -> Starlette:
    """Everything that the server answers over HTTP.

    Args:
        database: read in worker threads, never on the event loop.
        snapshot: the live runs; must not block.
        metrics_page: (Accept header) -> (body, Content-Type) of `/metrics`; called in a worker thread.
        ready: whether `/readyz` should say yes; must not block.
        postmortem: writes reports; called in a worker thread.
        clip_advice: studies the clipping of runs; called in worker threads.
        compare: holds runs against each other; called in worker threads.
        ask: asks something of a job.
        people: what people do to alerts and runs; called in worker threads.
        settings: see WebSettings.
        rules_in_force: what people are shown of the rules; must not block.
        clock: Unix seconds.
    """
    turns = Turns(_READING_AT_ONCE)
    tallies = Tallies(database, snapshot)
    api = Api(database, snapshot, postmortem, settings, clock, people=people, tallies=tallies, ask=ask, turns=turns)
    series = SeriesApi(database, turns=turns)
    alerts = AlertsApi(database, people, clock, turns=turns)
    incidents = IncidentsApi(database, turns=turns)
    clip = ClipApi(clip_advice, turns=turns)
    live = LiveApi(snapshot, settings)
    rules = RulesApi(database, turns=turns)
    renderer = Renderer()
    pages = Pages(database, renderer, turns=turns)
    fleet = FleetPage(database, tallies, renderer, settings, clock, turns=turns)
    trails = TrailPicture(database, turns=turns)
    run_page = RunPage(database, snapshot, renderer, clock, clip_advice, tallies=tallies, turns=turns)
    compare_page = ComparePage(database, compare, renderer, turns=turns)
    rules_page = RulesPage(database, rules_in_force, renderer, turns=turns)
    settings_page = SettingsPage(database, ready, renderer, settings, turns=turns)
    forms = Forms(people, turns=turns)

    async def health(_request: Request) -> Response:
        """GET /healthz: whether the process answers, its version and its clock."""
        return json_answer({"status": "ok", "version": version("seismograd"), "time": clock()})

    async def readiness(_request: Request) -> Response:
        """GET /readyz: 200 when records are taken, 503 otherwise."""
        return json_answer({"status": "ready"}) if ready() else json_answer({"status": "not ready"}, 503)

    async def metrics(request: Request) -> Response:
        """GET /metrics: the page for Prometheus, in its text format or in OpenMetrics."""
        body, content_type = await in_thread(lambda: metrics_page(request.headers.get("accept", "")))
        return Response(body, headers={"content-type": content_type})

    async def openapi(_request: Request) -> Response:
        """GET /api/openapi.json: this description."""
        return json_answer(description)

    run = "/api/v1/runs/{project}/{run}"
    app = Starlette(
        routes=[
            Route("/", fleet.fleet),
            Route("/runs/{project}/{run}", run_page.run_page),
            Route("/runs/{project}/{run}/trail.svg", trails.trail),
            Route("/runs/{project}/{run}/postmortem", api.postmortem),
            Route("/compare", compare_page.compared),
            Route("/incidents/{incident_id}", pages.incident),
            Route("/incidents/{incident_id}/postmortem", api.incident_postmortem),
            Route("/rules", rules_page.rules, methods=["GET"]),
            Route("/rules", rules_page.try_rules, methods=["POST"]),
            Route("/settings", settings_page.shown),
            Route("/alerts/{alert_id}/ack", forms.acknowledge, methods=["POST"]),
            Route("/alerts/{alert_id}/verdict", forms.verdict, methods=["POST"]),
            Route("/silences", forms.silence, methods=["POST"]),
            Route("/silences/{silence_id}/expire", forms.end_silence, methods=["POST"]),
            Route("/healthz", health),
            Route("/readyz", readiness),
            Route("/metrics", metrics),
            Route("/api/openapi.json", openapi),
            Route("/api/v1/runs", api.runs),
            Route(run, api.run, methods=["GET"]),
            Route(run, api.delete, methods=["DELETE"]),
            Route(f"{run}/series", series.series),
            Route(f"{run}/layers", series.layers),
            Route(f"{run}/recorder", api.recorder),
            Route(f"{run}/clip", clip.clip),
            Route(f"{run}/alerts", alerts.run_alerts),
            Route(f"{run}/directives", api.directives, methods=["POST"]),
            Route(f"{run}/postmortem", api.postmortem),
            Route(f"{run}/backtest", rules.backtest, methods=["POST"]),
            Route("/api/v1/live", live.live),
            Route("/api/v1/compare", compare_page.compare),
            Route("/api/v1/alerts", alerts.alerts),
            Route("/api/v1/alerts/{alert_id}", alerts.alert),
            Route("/api/v1/alerts/{alert_id}/ack", alerts.acknowledge, methods=["POST"]),
            Route("/api/v1/alerts/{alert_id}/verdict", alerts.verdict, methods=["POST"]),
            Route("/api/v1/incidents", incidents.incidents),
            Route("/api/v1/incidents/{incident_id}", incidents.incident),
            Route("/api/v1/incidents/{incident_id}/postmortem", api.incident_postmortem),
            Route("/api/v1/precision", alerts.precision),
            Route("/api/v1/silences", alerts.silences, methods=["GET"]),
            Route("/api/v1/silences", alerts.silence, methods=["POST"]),
            Route("/api/v1/silences/{silence_id}/expire", alerts.end_silence, methods=["POST"]),
            Route("/static/look.css", _look),
            Route("/static/readout.js", _readout),
            Mount("/static", StaticFiles(directory=_STATIC)),
        ],
        middleware=[
            Middleware(SecurityHeaders),
            Middleware(AllowedHosts, allowed_hosts=settings.allowed_hosts),
            Middleware(SameOriginWrites),
            Middleware(EscapedPaths),
        ],
        exception_handlers={
            SeismogradError: pages.failed,
            HTTPException: pages.refused,
            ClientDisconnect: _gone,
            Exception: _crashed,
        },
    )
    description = describe(app.routes, version("seismograd"))
    return app


async def _look(_request: Request) -> Response:
    """GET /static/look.css: the style sheet that the pages share with the report."""
    return Response(shared_css(), media_type="text/css", headers={"cache-control": "max-age=3600"})


async def _readout(_request: Request) -> Response:
    """GET /static/readout.js: the script that the pages share with the report."""
    return Response(readout_script(), media_type="text/javascript", headers={"cache-control": "max-age=3600"})


async def _gone(_request: Request, _error: Exception) -> Response:
    """Nobody will read it; the server only wants some answer."""
    return Response(status_code=408)


async def _crashed(request: Request, error: Exception) -> Response:
    """An error of ours: logged whole, told in one line."""
    _log.error("request failed", path=request.url.path, error=repr(error), exc_info=error)
    return json_answer({"error": "the server failed to answer this; its log has the details"}, 500)
