"""The description of the HTTP interface (OpenAPI 3.1), made from the routes themselves: what is served is described.

Paths and methods come from the router, the words from the docstrings of the handlers ("GET /path: what it gives."),
the parameters of the query from the table below; tests hold the table against the handlers.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import Any

from starlette.routing import BaseRoute, Route

from seismograd_server.model import AlertState, RunState, Signature, Verdict
from seismograd_server.reading.layers import LayerQuantity

_TEXT = {"type": "string"}
_WHOLE = {"type": "integer"}
_RUN_STATES = {"type": "string", "enum": [state.value for state in RunState]}
_ALERT_STATES = {"type": "string", "enum": [state.value for state in AlertState]}
_LAYER_QUANTITIES = {"type": "string", "enum": [quantity.value for quantity in LayerQuantity]}
_NUMBERS = {"type": "array", "items": {"type": "number", "exclusiveMinimum": 0}}
_COMPARED: dict[str, dict[str, Any]] = {
    "run": {"type": "array", "items": _TEXT},
    "align": {"type": "string", "enum": ["step", "progress"]},
}
_RANGE = {"first_step": _WHOLE, "last_step": _WHOLE}
_STEPS = {"optimizer": _WHOLE, **_RANGE}
# What each handler reads of the query, by its name.
_QUERIES: dict[str, dict[str, dict[str, Any]]] = {
    "fleet": {"project": _TEXT, "state": _RUN_STATES, "search": _TEXT, "before": _WHOLE},
    "run_page": {**_RANGE, "latest": _WHOLE, "first_layer": _TEXT, "last_layer": _TEXT},
    "runs": {"project": _TEXT, "state": _RUN_STATES, "limit": _WHOLE, "before": _WHOLE},
    "series": {**_STEPS, "points": _WHOLE},
    "layers": {**_STEPS, "columns": _WHOLE, "quantity": _LAYER_QUANTITIES, "rank": _WHOLE},
    "clip": {"at": _NUMBERS, "steps": _WHOLE},
    "live": {"project": _TEXT},
    "compare": _COMPARED,
    "compared": _COMPARED,
    "recorder": {**_STEPS, "rank": _WHOLE},
    "run_alerts": {"state": _ALERT_STATES, "limit": _WHOLE, "before": _TEXT},
    "alerts": {"project": _TEXT, "state": _ALERT_STATES, "limit": _WHOLE, "before": _TEXT},
    "incidents": {"state": _ALERT_STATES, "limit": _WHOLE, "before": _TEXT},
    "precision": {"project": _TEXT},
    "silences": {"active": _TEXT, "limit": _WHOLE},
    "incident_postmortem": {"format": {"type": "string", "enum": ["html", "md", "json"]}},
    "postmortem": {"format": {"type": "string", "enum": ["html", "md", "json"]}},
}
_NAME = {"type": "string", "maxLength": 200}
_WORDS = {"type": "string", "maxLength": 500}


def _body(required: Iterable[str], properties: dict[str, Any], media_type: str = "application/json") -> dict[str, Any]:
    schema = {"type": "object", "required": list(required), "properties": properties}
    return {"required": True, "content": {media_type: {"schema": schema}}}


_FORM = "application/x-www-form-urlencoded"
_PERSON = {"by": _NAME, "note": _WORDS}
_VERDICT = {"verdict": {"type": "string", "enum": [verdict.value for verdict in Verdict]}, **_PERSON}
_ABOUT = {
    "project": _WORDS,
    "run": _WORDS,
    "signature": {"type": "string", "enum": ["", *(each.value for each in Signature)]},
    "reason": _WORDS,
    "by": _NAME,
}
_DIRECTIVE = {
    "kind": {"type": "string", "enum": ["stop", "checkpoint", "capture"]},
    "by": _NAME,
    "reason": _WORDS,
    "first_step": _WHOLE,
    "last_step": _WHOLE,
    "all_ranks": {"type": "boolean"},
}
_RULES = {
    "required": False,
    "content": {
        "application/json": {"schema": {"type": "object", "properties": {"rules": {"type": "string"}}}},
    },
}
_BODIES = {
    "/api/v1/runs/{project}/{run}/backtest": _RULES,
    "/api/v1/alerts/{alert_id}/ack": _body(["by"], _PERSON),
    "/api/v1/alerts/{alert_id}/verdict": _body(["verdict", "by"], _VERDICT),
    "/api/v1/silences": _body(["by", "seconds"], {"seconds": {"type": "number"}, **_ABOUT}),
    "/api/v1/silences/{silence_id}/expire": _body(["by"], {"by": _NAME}),
    "/api/v1/runs/{project}/{run}/directives": _body(["kind", "by"], _DIRECTIVE),
    "/rules": _body(["rules"], {"rules": _TEXT, "search": _TEXT}, _FORM),
    "/alerts/{alert_id}/ack": _body(["by"], _PERSON, _FORM),
    "/alerts/{alert_id}/verdict": _body(["verdict", "by"], _VERDICT, _FORM),
    "/silences": _body(["by", "hours"], {"hours": {"type": "number"}, **_ABOUT}, _FORM),
    "/silences/{silence_id}/expire": _body(["by"], {"by": _NAME}, _FORM),
}
_ERROR = {
    "description": "What is wrong, in one line. 400: the request; 404: no such run or alert; 409: not now; 5xx: us.",
    "content": {
        "application/json": {
            "schema": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
        }
    },
}


def describe(routes: Iterable[BaseRoute], version: str) -> dict[str, Any]:
    """The document; every route but the static files is in it, with every method."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        if isinstance(route, Route):
            for method in sorted((route.methods or set()) - {"HEAD"}):
                paths.setdefault(route.path, {})[method.lower()] = _operation(route, method)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "seismograd",
            "version": version,
            "description": "Runs, series, layers and alerts. Numbers that JSON cannot hold are the strings "
            '"NaN", "Infinity" and "-Infinity"; what is not known is null. In a path, a slash in a name is %2F.',
        },
        "paths": paths,
    }


def _operation(route: Route, method: str) -> dict[str, Any]:
    name = route.endpoint.__name__.lstrip("_")
    parameters: list[dict[str, Any]] = [
        {"name": each, "in": "path", "required": True, "schema": _TEXT} for each in re.findall(r"{(\w+)}", route.path)
    ]
    parameters += [
        {"name": each, "in": "query", "required": False, "schema": schema}
        for each, schema in _QUERIES.get(name, {}).items()
    ]
    code = "303" if method == "POST" and not route.path.startswith("/api/") else "200"
    operation: dict[str, Any] = {
        "operationId": f"{method.lower()}{re.sub(r'[^A-Za-z0-9]+', '_', route.path).rstrip('_')}",
        "summary": _summary(route.endpoint),
        "parameters": parameters,
        "responses": {code: {"description": "As the summary says."}, "default": _ERROR},
    }
    if method != "GET" and (body := _BODIES.get(route.path)):
        operation["requestBody"] = body
    return operation


def _summary(handler: Any) -> str:
    """The first sentence of a handler's docstring, without the method and path that it begins with."""
    first = (inspect.getdoc(handler) or "").partition("\n")[0]
    return re.sub(r"^(GET|POST|DELETE) \S+?( with ({[^}]*}|[^:{]+))?: ", "", first)
