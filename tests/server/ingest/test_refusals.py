"""What clients of a full server are told over gRPC, and that they get in when others have gone."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from grpc import aio

from seismograd_proto.v1 import telemetry
from seismograd_server.pipeline import PipelineSettings
from tests.server.ingest.test_servicer import Service, durable, frame, run, service, wire
from tests.support.synthetic import healthy_norms

# Room for one run of three parameters, and not for two.
FULL = PipelineSettings(standing_bytes=294 * 1024)


def requests(server: Service, method: str) -> float | None:
    labels = {"method": method, "code": "RESOURCE_EXHAUSTED"}
    return server.instruments.registry.get_sample_value("seismograd_ingest_requests_total", labels)


def seconds_to_wait(error: Any) -> float:
    """When the server says to come back; fails when it does not."""
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "max_memory_bytes" in error.details()
    info = RetryInfo()
    status = Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    assert status.details[0].Unpack(info)
    return float(info.retry_delay.ToTimedelta().total_seconds())


def test_a_newcomer_is_told_when_to_come_back_and_gets_in_when_another_has_ended() -> None:
    async def story() -> None:
        async with service(pipeline_settings=FULL) as server:
            first = (await server.open("first")).rank_handle
            call = server.stream()
            await call.write(frame(wire(first, 0, healthy_norms(16))))
            await durable(call, 16)
            with pytest.raises(aio.AioRpcError) as caught:
                await server.open("second")
            assert 2 <= seconds_to_wait(caught.value) <= 8
            assert requests(server, "OpenRun") == 1.0
            assert (await server.open("first")).rank_handle == first, "who is here stays"
            await call.write(frame(wire(first, 16, healthy_norms(16))))
            await durable(call, 32)
            await call.done_writing()
            await server.close(first)
            second = (await server.open("second")).rank_handle
            call = server.stream()
            await call.write(frame(wire(second, 0, healthy_norms(16))))
            await durable(call, 16)
            assert server.stored(launches=2) == 48
            await call.done_writing()

    run(story)


def test_streams_beyond_the_ranks_are_refused_until_others_hang_up() -> None:
    async def story() -> None:
        async with service(pipeline_settings=FULL) as server:
            handle = (await server.open("first")).rank_handle
            own = server.stream()
            await own.write(frame(wire(handle, 0, healthy_norms(16))))
            await durable(own, 16)
            refused = server.stream()
            with pytest.raises(aio.AioRpcError) as caught:
                await refused.read()
            assert 2 <= seconds_to_wait(caught.value) <= 8
            assert requests(server, "StreamSteps") == 1.0
            await own.done_writing()
            assert await own.code() is grpc.StatusCode.OK
            again = server.stream()
            await again.write(frame(wire(handle, 16, healthy_norms(16))))
            await durable(again, 32)
            await again.done_writing()

    run(story)


def test_records_behind_a_catalog_that_does_not_fit_are_neither_stored_nor_acknowledged() -> None:
    async def story() -> None:
        async with service(pipeline_settings=FULL) as server:
            handle = (await server.open("first")).rank_handle
            parameters = [telemetry.Parameter(name=f"layer.{index}") for index in range(200)]
            catalog = telemetry.Catalog(version=1, parameters=parameters)
            batch = wire(handle, 0, healthy_norms(16))
            call = server.stream()
            message = telemetry.StreamStepsRequest(catalogs=[catalog], batches=[batch])
            await call.write(message.SerializeToString())
            with pytest.raises(aio.AioRpcError) as caught:
                await call.read()
            assert 2 <= seconds_to_wait(caught.value) <= 8
            assert server.stored() == 0
            call = server.stream()
            await call.write(frame(batch))
            await durable(call, 16)
            assert server.stored() == 16
            await call.done_writing()

    run(story)
