"""Reads runs, series, layers and alerts from a server, for notebooks and pipelines.

with seismograd.connect("localhost:7450") as client:
    norms = client.run("mt", "lstm-7").grad_norms()
    norms.values.max(), norms.to_pandas()
    client.run("mt", "lstm-7").loss(points=2000)  # of a run of a million steps, with every spike
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypedDict, TypeVar, Unpack

from seismograd.channel import authorization, open_channel
from seismograd.errors import (
    AccessDeniedError,
    BadAnswerError,
    QueryError,
    ServerUnreachableError,
    UnknownRunError,
)
from seismograd.notebook import ClientShown, RunShown
from seismograd.options import Options
from seismograd.quiet_grpc import grpc
from seismograd.series import Curve, GradNorms, Layers, Series, join_curve, join_layers, join_norms, join_series
from seismograd_proto.v1 import QUERY_SERVICE, method_path, query

__all__ = ["Alert", "Client", "Run", "RunReader", "connect"]

# A chunk of a series is far smaller; this is for layers of very wide models.
_MAX_MESSAGE_BYTES = 64 * 1024 * 1024
_PAGE = 1000  # the most that the server gives at once
_MOST_POINTS = 20_000  # as above

_Message = TypeVar("_Message")


@dataclass(frozen=True, slots=True)
class Run:
    """A run as people see it; times are Unix seconds, None = not known yet."""

    project: str
    name: str
    state: str  # "running", "finished", "failed" or "lost"
    started: float
    last_record: float | None
    last_step: int | None
    closed_steps: int
    world_size: int
    attempts: int
    tags: Mapping[str, str]
    config: Mapping[str, Any]
    severity: str  # of the worst firing alert; "" = none fires
    firing_alerts: int
    framework: str
    failure_reason: str


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert with its evidence; times are Unix seconds, None = not resolved."""

    alert_id: str
    project: str
    run: str
    signature: str
    severity: str
    state: str
    since_step: int
    opened_step: int
    last_step: int
    opened: float
    resolved: float | None
    resolution: str
    reason: str
    evidence: Mapping[str, Any]
    acknowledged_by: str


def connect(server: str | None = None, *, timeout_seconds: float = 30.0, **options: Any) -> Client:
    """A client of the server (default: SEISMOGRAD_SERVER, then localhost:7450).

    `token`, `token_file` and `ca_file` are as in `watch`. Connects with the first question. Raises OptionError.
    """
    return Client(Options.from_environment(server=server, **options), timeout_seconds)


class Client(ClientShown):
    """Asks one server. A question that cannot be answered raises a QueryError; `seismograd.errors` has its kinds."""

    def __init__(self, options: Options, timeout_seconds: float) -> None:
        self._options = options
        self._timeout = timeout_seconds
        self._channel = open_channel(options, _MAX_MESSAGE_BYTES)

    def runs(self, project: str = "", state: str = "", limit: int | None = None) -> list[Run]:
        """Runs, newest first; all of them, or at most `limit`."""
        pages = self._pages(
            "ListRuns",
            lambda size, token: query.ListRunsRequest(project=project, state=state, page_size=size, page_token=token),
            query.ListRunsResponse.FromString,
            limit,
        )
        return [_run(message) for page in pages for message in page.runs][:limit]

    def run(self, project: str, run: str) -> RunReader:
        """A reader of one run. Asks nothing yet; the first question raises UnknownRunError if there is no such run."""
        return RunReader(self, project, run)

    def alerts(self, project: str = "", run: str = "", state: str = "", limit: int | None = None) -> list[Alert]:
        """Alerts, newest first; all of them, or at most `limit`."""
        pages = self._pages(
            "ListAlerts",
            lambda size, token: query.ListAlertsRequest(
                project=project, run=run, state=state, page_size=size, page_token=token
            ),
            query.ListAlertsResponse.FromString,
            limit,
        )
        return [_alert(message) for page in pages for message in page.alerts][:limit]

    def close(self) -> None:
        """Drops the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def ask(self, method: str, request: Any, parse: Callable[[bytes], _Message]) -> _Message:
        """One question, one answer."""
        path = method_path(QUERY_SERVICE, method)
        call = self._channel.unary_unary(
            path, request_serializer=type(request).SerializeToString, response_deserializer=parse
        )
        try:
            answer: _Message = call(request, timeout=self._timeout, metadata=authorization(self._options))
        except grpc.RpcError as error:
            raise _translate(error, self._options.server) from error
        return answer

    def stream(self, method: str, request: Any, parse: Callable[[bytes], _Message]) -> Iterator[_Message]:
        """One question, an answer in chunks. The timeout is for the whole answer."""
        path = method_path(QUERY_SERVICE, method)
        call = self._channel.unary_stream(
            path, request_serializer=type(request).SerializeToString, response_deserializer=parse
        )
        try:
            yield from call(request, timeout=self._timeout, metadata=authorization(self._options))
        except grpc.RpcError as error:
            raise _translate(error, self._options.server) from error

    def _pages(
        self, method: str, make: Callable[[int, str], Any], parse: Callable[[bytes], Any], limit: int | None
    ) -> Iterator[Any]:
        token = ""
        left = limit
        while left is None or left > 0:
            page = self.ask(method, make(_PAGE if left is None else min(left, _PAGE), token), parse)
            yield page
            if left is not None:
                left -= len(page.runs if hasattr(page, "runs") else page.alerts)
            if not page.next_page_token or page.next_page_token == token:
                return
            token = page.next_page_token


class Where(TypedDict, total=False):
    """What is read: of which optimizer (default: the first), and which steps, both ends included (default: all)."""

    optimizer: int
    first_step: int | None
    last_step: int | None


class RunReader(RunShown):
    """Reads one run: every single step, or at most so many `points`, each with the extremes of the steps it is for."""

    def __init__(self, client: Client, project: str, run: str) -> None:
        self._client = client
        self.project = project
        self.name = run

    def info(self) -> Run:
        """The run as it is now."""
        request = query.GetRunRequest(project=self.project, run=self.name)
        return _run(self._client.ask("GetRun", request, query.GetRunResponse.FromString).run)

    def grad_norms(self, *, points: int | None = None, **where: Unpack[Where]) -> GradNorms:
        """Global gradient norms by step, before clipping and after unscaling."""
        return join_norms(self._chunks(where, points))

    def loss(self, *, points: int | None = None, **where: Unpack[Where]) -> Curve:
        """The loss by step: mean over the ranks that logged one."""
        return join_curve(self._chunks(where, points), "loss")

    def learning_rate(self, *, points: int | None = None, **where: Unpack[Where]) -> Curve:
        """The learning rate by step."""
        return join_curve(self._chunks(where, points), "learning_rate")

    def loss_scale(self, *, points: int | None = None, **where: Unpack[Where]) -> Curve:
        """The loss scale by step."""
        return join_curve(self._chunks(where, points), "loss_scale")

    def clip_coefficient(self, *, points: int | None = None, **where: Unpack[Where]) -> Curve:
        """What clipping multiplied the gradient by, by step."""
        return join_curve(self._chunks(where, points), "clip_coefficient")

    def step_seconds(self, *, points: int | None = None, **where: Unpack[Where]) -> Curve:
        """Seconds that each step took."""
        return join_curve(self._chunks(where, points), "step_seconds")

    def series(self, **where: Unpack[Where]) -> Series:
        """All run-level series, every single step."""
        return join_series(self._chunks(where, None))

    def layers(self, *, points: int | None = None, **where: Unpack[Where]) -> Layers:
        """Gradient norms by step and layer."""
        request = query.GetLayersRequest(project=self.project, run=self.name, max_points=_points(points), **where)
        return join_layers(self._client.stream("GetLayers", request, query.GetLayersResponse.FromString))

    def alerts(self, state: str = "", limit: int | None = None) -> list[Alert]:
        """Alerts of this run, newest first."""
        return self._client.alerts(self.project, self.name, state, limit)

    def _chunks(self, where: Where, points: int | None) -> Iterator[query.GetSeriesResponse]:
        request = query.GetSeriesRequest(project=self.project, run=self.name, max_points=_points(points), **where)
        for message in self._client.stream("GetSeries", request, query.GetSeriesResponse.FromString):
            for each in message.damaged:
                warnings.warn(
                    f"steps {each.first_step} to {each.last_step} of {self.project}/{self.name} are damaged on the "
                    "server's disk, and missing here",
                    stacklevel=4,  # whoever asked for the series
                )
            if message.count:
                yield message


def _points(points: int | None) -> int:
    """As the server is asked: 0 = every single step."""
    if points is not None and not 1 <= points <= _MOST_POINTS:
        raise QueryError(f"points: {points} is not from 1 to {_MOST_POINTS}; leave it out for every single step")
    return points or 0


def _run(message: query.Run) -> Run:
    return Run(
        project=message.project,
        name=message.run,
        state=message.state,
        started=message.started_unix_seconds,
        last_record=message.last_record_unix_seconds or None,
        last_step=None if message.last_step < 0 else message.last_step,
        closed_steps=message.closed_steps,
        world_size=message.world_size,
        attempts=message.attempts,
        tags=dict(message.tags),
        config=_json_object(message.config_json),
        severity=message.severity,
        firing_alerts=message.firing_alerts,
        framework=message.framework,
        failure_reason=message.failure_reason,
    )


def _alert(message: query.Alert) -> Alert:
    return Alert(
        alert_id=message.alert_id,
        project=message.project,
        run=message.run,
        signature=message.signature,
        severity=message.severity,
        state=message.state,
        since_step=message.since_step,
        opened_step=message.opened_step,
        last_step=message.last_step,
        opened=message.opened_unix_seconds,
        resolved=message.resolved_unix_seconds or None,
        resolution=message.resolution,
        reason=message.reason,
        evidence=_json_object(message.evidence_json),
        acknowledged_by=message.acknowledged_by,
    )


def _json_object(text: str) -> dict[str, Any]:
    if not text:
        return {}
    try:
        found = json.loads(text)
    except ValueError as error:
        raise BadAnswerError(f"the server sent JSON that cannot be read: {error}") from error
    return found if isinstance(found, dict) else {"value": found}


def _translate(error: Any, server: str) -> QueryError:
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.NOT_FOUND:
        return UnknownRunError(details)
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return ServerUnreachableError(
            f"no answer from {server} ({details}); check the address, or start a server with `seismograd serve`"
        )
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return AccessDeniedError(f"{server} refuses access ({details}); set SEISMOGRAD_TOKEN or SEISMOGRAD_TOKEN_FILE")
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return QueryError(details)
    name = "UNKNOWN" if code is None else code.name
    return BadAnswerError(f"{server} cannot answer ({name}: {details}); is it a seismograd server of this version?")
