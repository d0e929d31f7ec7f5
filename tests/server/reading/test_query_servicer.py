"""QueryService over real gRPC, as a program in any language calls it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from grpc import aio
from sqlalchemy import update

from seismograd_proto.v1 import QUERY_SERVICE, method_path, query
from seismograd_server.ingest import query_encoding, query_servicer
from seismograd_server.ingest.query_servicer import query_handlers
from seismograd_server.model import TALLIES
from seismograd_server.reading.series import step_pages
from seismograd_server.store.schema import closed_blocks
from tests.support.reading import Stocked
from tests.support.synthetic import exploding_losses, exploding_norms

REQUESTS: dict[str, tuple[Any, Any]] = {
    "ListRuns": (query.ListRunsRequest, query.ListRunsResponse),
    "GetRun": (query.GetRunRequest, query.GetRunResponse),
    "GetSeries": (query.GetSeriesRequest, query.GetSeriesResponse),
    "GetLayers": (query.GetLayersRequest, query.GetLayersResponse),
    "ListAlerts": (query.ListAlertsRequest, query.ListAlertsResponse),
}
Call = Callable[..., Any]


@pytest.fixture
def call(stocked: Stocked) -> Call:
    """Call a method with its fields: a message, or a list of messages where the method streams."""

    async def over_grpc(method: str, fields: dict[str, Any]) -> Any:
        server = aio.server()
        server.add_generic_rpc_handlers((query_handlers(stocked.database),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        request, answer = REQUESTS[method]
        try:
            async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                streams = method in {"GetSeries", "GetLayers"}
                kind: Any = channel.unary_stream if streams else channel.unary_unary
                invoke = kind(
                    method_path(QUERY_SERVICE, method),
                    request_serializer=request.SerializeToString,
                    response_deserializer=answer.FromString,
                )
                if streams:
                    return [message async for message in invoke(request(**fields))]
                return await invoke(request(**fields))
        finally:
            await server.stop(0)

    return lambda method, **fields: asyncio.run(over_grpc(method, fields))


def refusal(call: Call, method: str, **fields: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(aio.AioRpcError) as caught:
        call(method, **fields)
    return caught.value.code(), caught.value.details() or ""


def test_runs_are_listed_newest_first_in_pages(call: Call) -> None:
    first = call("ListRuns", page_size=1)
    assert [run.run for run in first.runs] == ["healthy"]
    second = call("ListRuns", page_size=1, page_token=first.next_page_token)
    assert [run.run for run in second.runs] == ["exploding"]
    assert second.next_page_token == ""
    assert second.runs[0].severity == "critical"
    assert second.runs[0].last_step == 199


def test_runs_are_filtered_by_project_and_state(call: Call) -> None:
    assert [run.run for run in call("ListRuns", state="finished").runs] == ["exploding"]
    assert list(call("ListRuns", project="other").runs) == []


def test_an_unknown_run_is_not_found_and_the_nearest_one_is_named(call: Call) -> None:
    for method in ("GetRun", "GetSeries", "GetLayers"):
        code, details = refusal(call, method, project="mt", run="explodin")
        assert code is grpc.StatusCode.NOT_FOUND
        assert "mt/exploding" in details
    assert refusal(call, "ListAlerts", project="mt", run="explodin")[0] is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("method", "fields", "named"),
    [
        ("ListRuns", {"state": "asleep"}, "state"),
        ("ListRuns", {"page_token": "x"}, "page_token"),
        ("ListRuns", {"page_token": "9" * 30}, "page_token"),
        ("ListAlerts", {"run": "exploding"}, "run"),
        ("GetRun", {"project": "mt"}, "run"),
        ("GetSeries", {"project": "mt", "run": "exploding", "first_step": 9, "last_step": 3}, "last_step"),
    ],
)
def test_a_field_that_cannot_be_used_is_named(call: Call, method: str, fields: dict[str, Any], named: str) -> None:
    code, details = refusal(call, method, **fields)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details.startswith(named)


def test_the_series_comes_whole_and_in_order(call: Call) -> None:
    chunks = call("GetSeries", project="mt", run="exploding")
    steps = np.concatenate([np.frombuffer(chunk.steps, "<i8") for chunk in chunks])
    norms = np.concatenate([np.frombuffer(chunk.gradient_norms, "<f8") for chunk in chunks])
    assert steps.tolist() == list(range(200))
    expected = np.sqrt((exploding_norms(200, 150).astype(np.float64) ** 2).sum(axis=1))
    np.testing.assert_allclose(norms, expected, rtol=1e-6)
    scalars = {named.name: named for named in chunks[0].scalars}
    assert set(scalars) == {"loss", "learning_rate", "loss_scale", "clip_threshold", "clip_coefficient", "step_seconds"}
    losses = np.frombuffer(scalars["loss"].values, "<f8")
    np.testing.assert_allclose(losses, exploding_losses(200, 150)[: len(losses)])
    assert scalars["loss"].known == b""
    assert not np.frombuffer(scalars["learning_rate"].known, np.uint8).any()


def test_a_long_series_is_cut_into_chunks_without_gap_or_repeat(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_servicer, "step_pages", lambda *arguments: step_pages(*arguments, page_steps=7))
    chunks = call("GetSeries", project="mt", run="exploding", first_step=3, last_step=198)
    assert max(chunk.count for chunk in chunks) == 7
    steps = np.concatenate([np.frombuffer(chunk.steps, "<i8") for chunk in chunks])
    assert steps.tolist() == list(range(3, 199))


def test_a_series_comes_in_buckets_when_points_are_asked_for(call: Call) -> None:
    whole = np.concatenate(
        [np.frombuffer(chunk.gradient_norms, "<f8") for chunk in call("GetSeries", project="mt", run="exploding")]
    )
    chunks = call("GetSeries", project="mt", run="exploding", max_points=30)

    def column(name: str, kind: str) -> list[float]:
        return [value for chunk in chunks for value in np.frombuffer(getattr(chunk, name), kind).tolist()]

    assert {chunk.resolution for chunk in chunks} == {8}
    assert {chunk.gradient_norms for chunk in chunks} == {b""}
    assert column("steps", "<i8") == list(range(0, 200, 8))
    assert column("last_steps", "<i8") == list(range(7, 200, 8))
    assert column("step_counts", "<u8") == [8] * 25
    rows = whole.reshape(25, 8)
    norms = [next(each for each in chunk.summaries if each.name == "grad_norm") for chunk in chunks]
    assert np.frombuffer(b"".join(each.minima for each in norms), "<f8").tolist() == rows.min(axis=1).tolist()
    assert np.frombuffer(b"".join(each.maxima for each in norms), "<f8").tolist() == rows.max(axis=1).tolist()
    np.testing.assert_allclose(np.frombuffer(b"".join(each.means for each in norms), "<f8"), rows.mean(axis=1))
    assert np.frombuffer(b"".join(each.known_counts for each in norms), "<u8").tolist() == [8] * 25
    counts = {each.name: int(np.frombuffer(each.values, "<u8").sum()) for each in chunks[0].counts}
    assert counts == dict.fromkeys(TALLIES, 0)


def test_layers_come_in_buckets_with_their_names_once(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_encoding, "_LAYER_BYTES", 128)
    chunks = call("GetLayers", project="mt", run="exploding", max_points=50, last_step=99)
    assert [list(chunk.layers) for chunk in chunks[:2]] == [["embed.weight", "rnn.weight_hh_l0", "head.weight"], []]
    assert {chunk.resolution for chunk in chunks} == {2}
    tables = {
        name: np.concatenate([np.frombuffer(getattr(chunk, name), "<f4").reshape(-1, 3) for chunk in chunks])
        for name in ("minima", "gradient_norms", "means")
    }
    rows = exploding_norms(200, 150)[:100].reshape(50, 2, 3)
    np.testing.assert_allclose(tables["minima"], rows.min(axis=1), rtol=1e-6)
    np.testing.assert_allclose(tables["gradient_norms"], rows.max(axis=1), rtol=1e-6)
    np.testing.assert_allclose(tables["means"], rows.mean(axis=1), rtol=1e-6)


@pytest.mark.parametrize("method", ["GetSeries", "GetLayers"])
def test_more_points_than_anybody_draws_are_refused(call: Call, method: str) -> None:
    code, details = refusal(call, method, project="mt", run="exploding", max_points=20_001)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details.startswith("max_points: 20001 is more than 20000: ask for less")


def test_nothing_more_is_read_for_a_client_that_has_gone(stocked: Stocked, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = threading.Event()

    def endless(*arguments: Any) -> Iterator[Any]:
        try:
            while True:
                yield from step_pages(*arguments)
        finally:
            stopped.set()

    async def read_a_little_and_go() -> None:
        server = aio.server()
        server.add_generic_rpc_handlers((query_handlers(stocked.database),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            invoke = channel.unary_stream(
                method_path(QUERY_SERVICE, "GetSeries"),
                request_serializer=query.GetSeriesRequest.SerializeToString,
                response_deserializer=query.GetSeriesResponse.FromString,
            )
            call = invoke(query.GetSeriesRequest(project="mt", run="exploding"))
            async for _ in call:
                break
            call.cancel()
            assert await asyncio.to_thread(stopped.wait, 30.0)
        await server.stop(0)

    monkeypatch.setattr(query_servicer, "step_pages", endless)
    asyncio.run(read_a_little_and_go())


def test_layers_come_with_their_names_once(call: Call) -> None:
    chunks = call("GetLayers", project="mt", run="exploding", first_step=100, last_step=180)
    assert list(chunks[0].layers) == ["embed.weight", "rnn.weight_hh_l0", "head.weight"]
    assert all(not chunk.layers for chunk in chunks[1:])
    norms = np.concatenate([np.frombuffer(chunk.gradient_norms, "<f4").reshape(chunk.count, 3) for chunk in chunks])
    np.testing.assert_allclose(norms, exploding_norms(200, 150)[100:181], rtol=1e-6)


def test_a_series_of_an_optimizer_that_there_is_not_is_empty(call: Call) -> None:
    assert call("GetSeries", project="mt", run="exploding", optimizer=3) == []


def test_alerts_come_with_their_evidence_and_in_pages(call: Call) -> None:
    everything = call("ListAlerts", project="mt", run="exploding").alerts
    assert everything
    assert everything[0].evidence_json.startswith("{")
    first = call("ListAlerts", page_size=1)
    assert first.alerts[0].alert_id == everything[0].alert_id
    assert bool(first.next_page_token) == (len(everything) > 1)


def test_steps_that_are_damaged_on_disk_are_named_in_the_last_chunk(call: Call, stocked: Stocked) -> None:
    with stocked.database.begin() as transaction:
        transaction.connection.execute(update(closed_blocks).where(closed_blocks.c.run_id == 1).values(payload=b"gone"))
    (answer,) = call("GetSeries", project="mt", run="exploding")
    assert answer.count == 0
    assert [(each.first_step, each.last_step) for each in answer.damaged] == [(0, 199)]
    assert not any(each.damaged for each in call("GetSeries", project="mt", run="healthy"))
