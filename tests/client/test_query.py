"""Reading from a server: arrays, pages, errors that say what to do."""

from __future__ import annotations

import importlib
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import grpc
import numpy as np
import pytest

from seismograd import series
from seismograd.errors import (
    AccessDeniedError,
    BadAnswerError,
    OptionError,
    QueryError,
    ServerUnreachableError,
    UnknownRunError,
)
from seismograd.query import Client, connect
from seismograd_proto.v1 import QUERY_SERVICE, method_path, query

REQUESTS: dict[str, Any] = {
    "ListRuns": query.ListRunsRequest,
    "GetRun": query.GetRunRequest,
    "GetSeries": query.GetSeriesRequest,
    "GetLayers": query.GetLayersRequest,
    "ListAlerts": query.ListAlertsRequest,
}


@pytest.fixture
def ask() -> Iterator[Callable[..., Client]]:
    """A client of a server whose methods the test writes: request and context in, message or messages out."""
    opened: list[Any] = []

    def serve(**methods: Callable[[Any, Any], Any]) -> Client:
        library: Any = grpc  # untyped in the stubs

        class Handlers(grpc.GenericRpcHandler):
            def service(self, details: Any) -> Any:
                name = details.method.rpartition("/")[2]
                assert details.method == method_path(QUERY_SERVICE, name)
                if name not in methods:
                    return None
                stream = name in ("GetSeries", "GetLayers")
                make = library.unary_stream_rpc_method_handler if stream else library.unary_unary_rpc_method_handler
                return make(
                    methods[name],
                    request_deserializer=REQUESTS[name].FromString,
                    response_serializer=lambda message: message.SerializeToString(),
                )

        server = grpc.server(ThreadPoolExecutor(4))
        server.add_generic_rpc_handlers((Handlers(),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        client = connect(f"127.0.0.1:{port}", timeout_seconds=10.0, token="sg_1_secret")
        opened.extend((client, server))
        return client

    yield serve
    for each in opened:
        each.close() if isinstance(each, Client) else each.stop(None).wait()


def chunk(steps: list[int], norms: list[float], **more: Any) -> query.GetSeriesResponse:
    count = len(steps)
    return query.GetSeriesResponse(
        count=count,
        steps=np.array(steps, "<i8").tobytes(),
        times_unix_seconds=np.arange(count, dtype="<f8").tobytes(),
        gradient_norms=np.array(norms, "<f8").tobytes(),
        nonfinite_counts=np.zeros(count, "<u8").tobytes(),
        flags=np.zeros(count, "<u2").tobytes(),
        ranks_present=np.full(count, 2, "<u4").tobytes(),
        attempts=np.ones(count, "<u4").tobytes(),
        **more,
    )


def scalar(name: str, values: list[float], known: list[int] | None = None) -> query.NamedSeries:
    return query.NamedSeries(
        name=name, values=np.array(values, "<f8").tobytes(), known=b"" if known is None else bytes(known)
    )


def test_gradient_norms_are_joined_over_chunks_with_nan_and_inf_as_they_are(ask: Callable[..., Client]) -> None:
    client = ask(GetSeries=lambda *_: iter([chunk([1, 2], [0.5, np.inf]), chunk([3], [np.nan])]))
    norms = client.run("mt", "lstm-7").grad_norms()
    assert norms.steps.tolist() == [1, 2, 3]
    np.testing.assert_array_equal(norms.values, [0.5, np.inf, np.nan])
    assert len(norms) == 3


def test_steps_that_are_damaged_on_the_servers_disk_are_warned_of(ask: Callable[..., Client]) -> None:
    gap = query.StepRange(first_step=3, last_step=9)
    client = ask(GetSeries=lambda *_: iter([chunk([1, 2], [0.5, 0.5]), chunk([10], [0.5], damaged=[gap])]))
    with pytest.warns(UserWarning, match="steps 3 to 9 of mt/lstm-7 are damaged on the server's disk") as caught:
        norms = client.run("mt", "lstm-7").grad_norms()
    assert norms.steps.tolist() == [1, 2, 10]
    assert [each.filename for each in caught] == [__file__]

    nothing = ask(GetSeries=lambda *_: iter([query.GetSeriesResponse(damaged=[gap])]))
    with pytest.warns(UserWarning, match="damaged"):
        assert len(nothing.run("mt", "lstm-7").series()) == 0


def test_a_run_without_steps_gives_empty_arrays(ask: Callable[..., Client]) -> None:
    client = ask(GetSeries=lambda *_: iter([]), GetLayers=lambda *_: iter([]))
    reader = client.run("mt", "lstm-7")
    assert len(reader.grad_norms()) == len(reader.series()) == len(reader.layers()) == 0
    assert reader.layers().values.shape == (0, 0)


def test_scalars_tell_a_missing_value_from_a_nan(ask: Callable[..., Client]) -> None:
    first = chunk([1, 2], [1, 1], scalars=[scalar("loss", [float("nan"), 7.0], [1, 0])])
    second = chunk([3], [1], scalars=[scalar("loss", [2.0]), scalar("loss_scale", [8.0])])
    found = ask(GetSeries=lambda *_: iter([first, second])).run("mt", "lstm-7").series()
    np.testing.assert_array_equal(found.scalars["loss"], [np.nan, np.nan, 2.0])
    assert found.known["loss"].tolist() == [True, False, True]
    assert found.known["loss_scale"].tolist() == [False, False, True]
    assert found.ranks_present.tolist() == [2, 2, 2]


def layers_chunk(names: list[str], steps: list[int], values: list[float]) -> query.GetLayersResponse:
    return query.GetLayersResponse(
        layers=names,
        count=len(steps),
        steps=np.array(steps, "<i8").tobytes(),
        gradient_norms=np.array(values, "<f4").tobytes(),
    )


def test_layers_that_come_and_go_are_columns_of_one_table(ask: Callable[..., Client]) -> None:
    answers = [
        layers_chunk(["a", "b"], [1], [1, 2]),
        layers_chunk([], [2], [3, 4]),
        layers_chunk(["b", "c"], [3], [5, 6]),
    ]
    found = ask(GetLayers=lambda *_: iter(answers)).run("mt", "lstm-7").layers()
    assert found.names == ("a", "b", "c")
    nan = np.nan
    np.testing.assert_array_equal(found.values, [[1, 2, nan], [3, 4, nan], [nan, 5, 6]])
    assert found.steps.tolist() == [1, 2, 3]


def test_steps_that_come_without_layers_are_rows_of_nan(ask: Callable[..., Client]) -> None:
    """As older servers send steps whose layers are gone: no names, and no norms."""
    answers = [
        layers_chunk([], [0], []),
        layers_chunk(["a", "b"], [1], [1, 2]),
        layers_chunk([], [2, 3], []),
        layers_chunk([], [4], []),
        layers_chunk([], [5], [3, 4]),
        layers_chunk(["b"], [6], [5]),
        layers_chunk([], [7], []),
    ]
    found = ask(GetLayers=lambda *_: iter(answers)).run("mt", "lstm-7").layers()
    nan = np.nan
    assert found.names == ("a", "b")
    assert found.steps.tolist() == list(range(8))
    rows = [[nan, nan], [1, 2], [nan, nan], [nan, nan], [nan, nan], [3, 4], [nan, 5], [nan, nan]]
    np.testing.assert_array_equal(found.values, rows)


@pytest.mark.parametrize(
    ("second", "sent"), [(layers_chunk(["a", "b"], [2], []), 0), (layers_chunk([], [2], [1.0]), 4)]
)
def test_layers_that_are_named_and_not_sent_are_an_error(
    ask: Callable[..., Client], second: query.GetLayersResponse, sent: int
) -> None:
    answers = [layers_chunk(["a", "b"], [1], [1, 2]), second]
    with pytest.raises(BadAnswerError, match=f"gradient_norms: the server sent {sent} bytes, expected 8"):
        ask(GetLayers=lambda *_: iter(answers)).run("mt", "lstm-7").layers()


def bucket_chunk(steps: list[int], name: str, low: list[float], high: list[float]) -> query.GetSeriesResponse:
    count = len(steps)
    series_of_name = query.SummarySeries(
        name=name,
        minima=np.array(low, "<f8").tobytes(),
        maxima=np.array(high, "<f8").tobytes(),
        means=np.array(high, "<f8").tobytes(),
        known_counts=np.array([0 if np.isnan(each) else 4 for each in high], "<u8").tobytes(),
        nonfinite_counts=np.zeros(count, "<u8").tobytes(),
    )
    return query.GetSeriesResponse(
        count=count,
        steps=np.array(steps, "<i8").tobytes(),
        resolution=4,
        last_steps=np.array(steps, "<i8").tobytes(),
        step_counts=np.full(count, 4, "<u8").tobytes(),
        summaries=[series_of_name],
        counts=[query.NamedCounts(name="nonfinite", values=np.full(count, 7, "<u8").tobytes())],
    )


def test_points_are_asked_for_and_come_with_their_extremes(ask: Callable[..., Client]) -> None:
    asked: list[int] = []

    def answer(request: query.GetSeriesRequest, _context: Any) -> Iterator[query.GetSeriesResponse]:
        asked.append(request.max_points)
        name = "loss" if len(asked) == 2 else "grad_norm"
        return iter([bucket_chunk([0, 4], name, [1, 2], [3, np.nan]), bucket_chunk([8], name, [5], [np.inf])])

    reader = ask(GetSeries=answer).run("mt", "lstm-7")
    norms, loss = reader.grad_norms(points=3), reader.loss(points=50)
    assert asked == [3, 50]
    assert (norms.resolution, norms.steps.tolist(), norms.nonfinite_counts.tolist()) == (4, [0, 4, 8], [7, 7, 7])
    for found in (norms, loss):
        np.testing.assert_array_equal(found.values, [3, np.nan, np.inf])
        assert found.minimum.tolist() == [1, 2, 5]
    assert loss.known.tolist() == [True, False, True]
    table = loss.to_pandas()
    assert list(table.columns) == ["last_step", "loss", "loss_min", "loss_mean"]
    assert table["loss"].isna().tolist() == [False, True, False]
    assert norms.to_arrow().column_names == [
        "step",
        "grad_norm",
        "nonfinite",
        "last_step",
        "grad_norm_min",
        "grad_norm_mean",
    ]


def test_a_scalar_is_a_curve_that_knows_where_it_was_recorded(ask: Callable[..., Client]) -> None:
    first = chunk([1, 2], [1, 1], scalars=[scalar("loss", [float("nan"), 7.0], [1, 0])])
    second = chunk([3], [1], scalars=[scalar("loss", [np.inf]), scalar("loss_scale", [8.0])])
    reader = ask(GetSeries=lambda *_: iter([first, second])).run("mt", "lstm-7")
    loss = reader.loss()
    np.testing.assert_array_equal(loss.values, [np.nan, np.nan, np.inf])
    assert (loss.known.tolist(), loss.nonfinite_counts.tolist()) == ([True, False, True], [1, 0, 1])
    assert reader.loss_scale().known.tolist() == [False, False, True]
    for nothing in (reader.learning_rate(), reader.clip_coefficient(), reader.step_seconds()):
        assert len(nothing) == 3
        assert not nothing.known.any()
    assert loss.to_arrow().column("loss").null_count == 1


@pytest.mark.parametrize("points", [0, -1, 20_001])
def test_so_many_points_are_refused_before_anybody_is_asked(ask: Callable[..., Client], points: int) -> None:
    with pytest.raises(QueryError, match=f"points: {points} is not from 1 to 20000"):
        ask().run("mt", "lstm-7").layers(points=points)


def test_the_range_the_optimizer_and_the_token_are_sent(ask: Callable[..., Client]) -> None:
    seen: dict[str, Any] = {}

    def answer(request: query.GetSeriesRequest, context: Any) -> Iterator[query.GetSeriesResponse]:
        seen.update(request=request, token=dict(context.invocation_metadata())["authorization"])
        return iter([])

    ask(GetSeries=answer).run("mt", "lstm-7").grad_norms(optimizer=1, first_step=0, last_step=9)
    assert seen["token"] == "Bearer sg_1_secret"
    assert seen["request"] == query.GetSeriesRequest(project="mt", run="lstm-7", optimizer=1, first_step=0, last_step=9)


def test_runs_are_read_over_all_pages_and_up_to_a_limit(ask: Callable[..., Client]) -> None:
    def answer(request: query.ListRunsRequest, _: Any) -> query.ListRunsResponse:
        first = int(request.page_token or 0)
        end = min(first + min(request.page_size, 3), 8)
        return query.ListRunsResponse(
            runs=[query.Run(project=request.project, run=f"r{n}", last_step=-1) for n in range(first, end)],
            next_page_token=str(end) if end < 8 else "",
        )

    client = ask(ListRuns=answer)
    assert [run.name for run in client.runs("mt")] == [f"r{n}" for n in range(8)]
    assert [run.name for run in client.runs("mt", limit=4)] == ["r0", "r1", "r2", "r3"]
    assert client.runs(limit=0) == []


def test_a_run_is_told_in_full_with_none_for_what_is_not_known(ask: Callable[..., Client]) -> None:
    message = query.Run(
        project="mt",
        run="lstm-7",
        state="running",
        started_unix_seconds=5.0,
        last_step=-1,
        world_size=2,
        attempts=1,
        tags={"team": "nlp"},
        config_json='{"lr": 0.1, "scale": NaN}',
    )
    run = ask(GetRun=lambda *_: query.GetRunResponse(run=message)).run("mt", "lstm-7").info()
    assert (run.state, run.started, run.last_record, run.last_step, run.world_size) == ("running", 5.0, None, None, 2)
    assert run.config["lr"] == 0.1
    assert run.tags == {"team": "nlp"}


def test_alerts_come_with_their_evidence(ask: Callable[..., Client]) -> None:
    message = query.Alert(
        alert_id="a1", project="mt", run="lstm-7", signature="runaway", evidence_json='{"leading_rank": 1}'
    )
    alerts = ask(ListAlerts=lambda *_: query.ListAlertsResponse(alerts=[message])).run("mt", "lstm-7").alerts()
    assert [(alert.signature, alert.evidence, alert.resolved) for alert in alerts] == [
        ("runaway", {"leading_rank": 1}, None)
    ]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.NOT_FOUND, UnknownRunError),
        (grpc.StatusCode.UNAUTHENTICATED, AccessDeniedError),
        (grpc.StatusCode.PERMISSION_DENIED, AccessDeniedError),
        (grpc.StatusCode.INVALID_ARGUMENT, QueryError),
        (grpc.StatusCode.UNAVAILABLE, ServerUnreachableError),
        (grpc.StatusCode.INTERNAL, BadAnswerError),
    ],
)
def test_a_refusal_becomes_an_error_with_the_servers_words(
    code: grpc.StatusCode, kind: type[QueryError], ask: Callable[..., Client]
) -> None:
    def refuse(_: Any, context: Any) -> Any:
        context.abort(code, "no run mt/lstm-8; did you mean mt/lstm-7?")

    client = ask(GetRun=refuse, GetSeries=refuse)
    for question in (client.run("mt", "lstm-8").info, client.run("mt", "lstm-8").series):
        with pytest.raises(kind, match="did you mean mt/lstm-7") as caught:
            question()
        assert type(caught.value) is kind


def test_a_server_of_another_kind_is_named_as_such(ask: Callable[..., Client]) -> None:
    with pytest.raises(BadAnswerError, match="is it a seismograd server"):
        ask().runs()


@pytest.mark.parametrize("column", ["steps", "gradient_norms", "nonfinite_counts"])
def test_a_column_of_the_wrong_length_is_an_error_that_names_it(column: str, ask: Callable[..., Client]) -> None:
    broken = chunk([1, 2], [1.0, 2.0])
    setattr(broken, column, b"123")
    with pytest.raises(BadAnswerError, match=f"{column}: the server sent 3 bytes, expected 16"):
        ask(GetSeries=lambda *_: iter([broken])).run("mt", "lstm-7").grad_norms()


def test_json_that_cannot_be_read_is_an_error(ask: Callable[..., Client]) -> None:
    broken = query.GetRunResponse(run=query.Run(config_json="{"))
    with pytest.raises(BadAnswerError, match="JSON"):
        ask(GetRun=lambda *_: broken).run("mt", "lstm-7").info()


def test_an_absent_server_is_said_with_its_address_and_what_to_do() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with connect(address) as client, pytest.raises(ServerUnreachableError, match=address) as caught:
        client.runs()
    assert "seismograd serve" in str(caught.value)


def test_a_server_that_hangs_is_given_up_after_the_timeout(ask: Callable[..., Client]) -> None:
    release = threading.Event()

    def hang(*_: Any) -> query.GetRunResponse:
        release.wait(30.0)
        return query.GetRunResponse()

    client = ask(GetRun=hang)
    client._timeout = 0.2
    with pytest.raises(ServerUnreachableError, match="Deadline"):
        client.run("mt", "lstm-7").info()
    release.set()


def test_a_bad_address_is_an_error_of_the_options() -> None:
    with pytest.raises(OptionError, match=r"^server: "):
        connect("http://localhost:7451")


def test_tables_name_the_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> ModuleType:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    norms = series.join_norms([chunk([1], [1.0])])
    with pytest.raises(QueryError, match=r'to_pandas needs pandas: pip install "seismograd\[notebook\]"'):
        norms.to_pandas()
    with pytest.raises(QueryError, match=r'to_arrow needs pyarrow: pip install "seismograd\[notebook\]"'):
        norms.to_arrow()
