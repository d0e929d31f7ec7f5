"""QueryService over grpc.aio: runs, series, layers and alerts for programs; store calls run in worker threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, NoReturn, Protocol, TypeVar

import grpc

from seismograd_proto.v1 import QUERY_SERVICE, query
from seismograd_server.errors import NotFoundError, SeismogradError, StorageBusyError, UsageError, without_frames
from seismograd_server.ingest import query_encoding as encoding
from seismograd_server.model import AlertState, RunKey, RunState, Summary, SummaryKind
from seismograd_server.reading.layers import composed_blocks
from seismograd_server.reading.resolution import plan_for
from seismograd_server.reading.runs import find_run, firing_alerts
from seismograd_server.reading.series import step_pages
from seismograd_server.reading.stored import Asked
from seismograd_server.reading.summaries import summary_pages
from seismograd_server.store.damage import damaged_steps
from seismograd_server.store.database import Database

# Entries of a list when the caller names no number, and the most it may ask for (query.proto).
_DEFAULT_PAGE = 100
_LARGEST_PAGE = 1000
# Rows of an answer that is made of buckets: more is not drawn by anybody (query.proto).
_MOST_POINTS = 20_000

_Answer = TypeVar("_Answer")


class Context(Protocol):
    """As much of `grpc.aio.ServicerContext` as is needed here."""

    def abort(self, code: grpc.StatusCode, details: str) -> Awaitable[NoReturn]:
        """End the call with a status; raises."""


class QueryServicer:
    """Answers QueryService. Every answer is bounded; series stream in chunks of at most 4,096 rows."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list_runs(self, request: query.ListRunsRequest, context: Context) -> query.ListRunsResponse:
        """Runs, newest first."""
        return await _answered(context, lambda: self._list_runs(request))

    async def get_run(self, request: query.GetRunRequest, context: Context) -> query.GetRunResponse:
        """One run."""

        def answer() -> query.GetRunResponse:
            run = find_run(self._database, _key(request.project, request.run))
            firing = firing_alerts(self._database).get(run.run_id, [])
            return query.GetRunResponse(run=encoding.run_message(run, firing))

        return await _answered(context, answer)

    async def get_series(
        self, request: query.GetSeriesRequest, context: Context
    ) -> AsyncIterator[query.GetSeriesResponse]:
        """Run-level series of one optimizer."""

        def chunks() -> Iterator[query.GetSeriesResponse]:
            run = find_run(self._database, _key(request.project, request.run))
            first, last = _range(request)
            messages: Iterator[query.GetSeriesResponse]
            if points := _points(request):
                asked = Asked(run.run_id, request.optimizer, SummaryKind.SERIES, first, last)
                messages = map(encoding.summary_message, self._buckets(asked, points))
            else:
                pages = step_pages(self._database, run.run_id, request.optimizer, first, last)
                messages = map(encoding.series_message, pages)
            yield from encoding.naming_damage(
                messages, lambda: damaged_steps(self._database.damage.of_run(run.run_id, first, last))
            )

        async for message in _streamed(context, chunks):
            yield message

    async def get_layers(
        self, request: query.GetLayersRequest, context: Context
    ) -> AsyncIterator[query.GetLayersResponse]:
        """Per-layer gradient norms of one optimizer."""

        def chunks() -> Iterator[query.GetLayersResponse]:
            run = find_run(self._database, _key(request.project, request.run))
            first, last = _range(request)
            names: tuple[str, ...] | None = None
            if points := _points(request):
                asked = Asked(run.run_id, request.optimizer, SummaryKind.LAYERS, first, last)
                for page in self._buckets(asked, points):
                    yield from encoding.layer_summary_messages(page, with_names=page.names != names)
                    names = page.names
                return
            blocks = composed_blocks(self._database, run, request.optimizer, first, last)
            yield from encoding.layer_messages(blocks)

        async for message in _streamed(context, chunks):
            yield message

    def _buckets(self, asked: Asked, points: int) -> Iterator[Summary]:
        plan = plan_for(self._database, asked, points)
        return summary_pages(self._database, plan.asked, plan.size)

    async def list_alerts(self, request: query.ListAlertsRequest, context: Context) -> query.ListAlertsResponse:
        """Alerts, newest first."""
        return await _answered(context, lambda: self._list_alerts(request))

    def _list_runs(self, request: query.ListRunsRequest) -> query.ListRunsResponse:
        size = _page_size(request.page_size)
        before = _number_token(request.page_token)
        state = _state(RunState, request.state)
        with self._database.read() as transaction:
            runs = transaction.runs.list(request.project or None, state, size + 1, before)
        firing = firing_alerts(self._database)
        shown = runs[:size]
        return query.ListRunsResponse(
            runs=[encoding.run_message(run, firing.get(run.run_id, [])) for run in shown],
            next_page_token=str(shown[-1].run_id) if len(runs) > size else "",
        )

    def _list_alerts(self, request: query.ListAlertsRequest) -> query.ListAlertsResponse:
        if request.run and not request.project:
            raise UsageError("run: needs a project beside it, because names are unique in a project only")
        size = _page_size(request.page_size)
        state = _state(AlertState, request.state)
        if request.run:
            find_run(self._database, RunKey(request.project, request.run))
        with self._database.read() as transaction:
            alerts = transaction.alerts.list(
                request.project or None, request.run or None, state, size + 1, request.page_token or None
            )
        shown = alerts[:size]
        return query.ListAlertsResponse(
            alerts=[encoding.alert_message(alert) for alert in shown],
            next_page_token=shown[-1].alert_id if len(alerts) > size else "",
        )


def query_handlers(database: Database) -> grpc.GenericRpcHandler:
    """The service, for `server.add_generic_rpc_handlers((query_handlers(database),))`."""
    servicer = QueryServicer(database)

    def unary(method: Callable[..., Any], request: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(method, request.FromString, _serialised)

    def stream(method: Callable[..., Any], request: Any) -> Any:
        return grpc.unary_stream_rpc_method_handler(method, request.FromString, _serialised)

    service: grpc.GenericRpcHandler = grpc.method_handlers_generic_handler(
        QUERY_SERVICE,
        {
            "ListRuns": unary(servicer.list_runs, query.ListRunsRequest),
            "GetRun": unary(servicer.get_run, query.GetRunRequest),
            "GetSeries": stream(servicer.get_series, query.GetSeriesRequest),
            "GetLayers": stream(servicer.get_layers, query.GetLayersRequest),
            "ListAlerts": unary(servicer.list_alerts, query.ListAlertsRequest),
        },
    )
    return service


def _serialised(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data


async def _answered(context: Context, answer: Callable[[], _Answer]) -> _Answer:
    """Run a blocking answer in a thread, its errors as gRPC statuses."""
    try:
        return await asyncio.to_thread(answer)
    except SeismogradError as error:
        await _abort(context, without_frames(error))


async def _streamed(context: Context, chunks: Callable[[], Iterator[_Answer]]) -> AsyncIterator[_Answer]:
    """Step a blocking iterator in threads, one chunk at a time: the client's pace is the reader's pace."""
    iterator = chunks()
    while True:
        try:
            message = await asyncio.to_thread(next, iterator, None)
        except SeismogradError as error:
            await _abort(context, without_frames(error))
        if message is None:
            return
        yield message


async def _abort(context: Context, error: SeismogradError) -> NoReturn:
    if isinstance(error, NotFoundError):
        code = grpc.StatusCode.NOT_FOUND
    elif isinstance(error, UsageError):
        code = grpc.StatusCode.INVALID_ARGUMENT
    elif isinstance(error, StorageBusyError):
        code = grpc.StatusCode.UNAVAILABLE
    else:
        code = grpc.StatusCode.INTERNAL
    await context.abort(code, str(error))


def _key(project: str, run: str) -> RunKey:
    for name, value in (("project", project), ("run", run)):
        if not value:
            raise UsageError(f"{name}: is empty; name the run as a project and a run")
    return RunKey(project, run)


def _range(request: query.GetSeriesRequest | query.GetLayersRequest) -> tuple[int | None, int | None]:
    first = request.first_step if request.HasField("first_step") else None
    last = request.last_step if request.HasField("last_step") else None
    if first is not None and last is not None and last < first:
        raise UsageError(f"last_step: {last} is below first_step, which is {first}")
    return first, last


def _points(request: query.GetSeriesRequest | query.GetLayersRequest) -> int:
    if request.max_points > _MOST_POINTS:
        raise UsageError(
            f"max_points: {request.max_points} is more than {_MOST_POINTS}: ask for less, for several ranges of steps, "
            "or for every single step (0)"
        )
    return int(request.max_points)


def _page_size(asked: int) -> int:
    return min(asked or _DEFAULT_PAGE, _LARGEST_PAGE)


def _number_token(token: str) -> int | None:
    if not token:
        return None
    # No run id is longer; a longer token could not even be compared in the store.
    if not token.isascii() or not token.isdigit() or len(token) > 18:
        raise UsageError("page_token: is not one that this server gave; start again without it")
    return int(token)


_StateType = TypeVar("_StateType", RunState, AlertState)


def _state(states: type[_StateType], name: str) -> _StateType | None:
    if not name:
        return None
    try:
        return states(name)
    except ValueError:
        raise UsageError(f"state: {name!r} is none of {', '.join(state.value for state in states)}") from None
