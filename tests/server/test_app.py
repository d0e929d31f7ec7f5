"""The whole server in one process: it starts on free ports, serves everything, stops in time, or says why not."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2

from seismograd_proto.v1 import QUERY_SERVICE, TELEMETRY_SERVICE, method_path, query, telemetry
from seismograd_server.app import Server
from seismograd_server.app.wiring import notification_targets
from seismograd_server.config import Settings, load_settings
from seismograd_server.errors import ConfigError, StartError, StorageFencedError
from seismograd_server.model import RunState
from seismograd_server.store.database import Database

# A promise of a few seconds, asserted at three times as much: the machine may be busy.
STOP_SECONDS = 9.0


def settings_of(folder: Path, **changes: Any) -> Settings:
    values: dict[str, Any] = {"data_dir": folder, "grpc_listen": "127.0.0.1:0", "http_listen": "127.0.0.1:0"}
    return load_settings(**(values | changes))


@asynccontextmanager
async def started(settings: Settings) -> AsyncIterator[Server]:
    server = Server(settings)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(100):
            await story()

    asyncio.run(bounded())


def test_a_server_follows_its_rules_while_it_runs(tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    file.write_text("")

    async def story() -> None:
        async with started(settings_of(tmp_path, rules={"file": file})) as server:
            file.write_text("signature.spike.mute = true\n")
            reloads = ("seismograd_rules_reloads_total", {"result": "loaded"})
            while server.instruments.registry.get_sample_value(*reloads) != 1.0:  # noqa: ASYNC110 (it happens on another thread)
                await asyncio.sleep(0.05)

    run(story)
    file.write_text("signature.spike.mute = 1\n")

    async def refused() -> None:
        with pytest.raises(ConfigError, match=r"line 1: signature\.spike\.mute must be true or false, not 1"):
            await Server(settings_of(tmp_path, rules={"file": file})).start()

    run(refused)


async def open_run(channel: Any, name: str = "lstm") -> int:
    call = channel.unary_unary(
        method_path(TELEMETRY_SERVICE, "OpenRun"),
        request_serializer=telemetry.OpenRunRequest.SerializeToString,
        response_deserializer=telemetry.OpenRunResponse.FromString,
    )
    catalog = telemetry.Catalog(parameters=[telemetry.Parameter(name="weight", numel=4, local_numel=4)])
    response = await call(
        telemetry.OpenRunRequest(
            project="mt", run=name, launch_id=name, world_size=1, session_id="session", catalogs=[catalog]
        )
    )
    assert response.run_url.endswith(f"/runs/mt/{name}")
    return int(response.rank_handle)


def frame(handle: int, first: int, count: int) -> bytes:
    batch = telemetry.StepBatch(
        rank_handle=handle,
        kind=telemetry.RECORD_KIND_STEP,
        first_sequence=first,
        count=count,
        first_step=first,
        times_unix_seconds=np.full(count, time.time(), "<f8").tobytes(),
        sources=bytes([1] * count),
        flags=bytes(2 * count),
        gradient_norms=np.ones(count, "<f4").tobytes(),
    )
    return telemetry.StreamStepsRequest(batches=[batch]).SerializeToString()


async def ship(channel: Any, handle: int, first: int, count: int) -> Any:
    call = channel.stream_stream(
        method_path(TELEMETRY_SERVICE, "StreamSteps"), response_deserializer=telemetry.StreamStepsResponse.FromString
    )()
    await call.write(frame(handle, first, count))
    async for answer in call:
        if any(mark.durable_sequence >= first + count for mark in answer.watermarks):
            return call
    raise AssertionError("the stream ended without an ack")


def test_one_process_serves_telemetry_queries_health_pages_and_metrics(tmp_path: Path) -> None:
    async def story() -> None:
        async with (
            started(settings_of(tmp_path)) as server,
            aio.insecure_channel(str(server.grpc_address)) as channel,
            httpx.AsyncClient(base_url=server.external_url) as web,
        ):
            handle = await open_run(channel)
            await ship(channel, handle, 0, 16)
            check = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            for name in ("", TELEMETRY_SERVICE, QUERY_SERVICE):
                answer = await check(health_pb2.HealthCheckRequest(service=name))
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
            list_runs = channel.unary_unary(
                method_path(QUERY_SERVICE, "ListRuns"),
                request_serializer=query.ListRunsRequest.SerializeToString,
                response_deserializer=query.ListRunsResponse.FromString,
            )
            # An ack says that records are durable, not yet that they are judged.
            while not (runs := await list_runs(query.ListRunsRequest())).runs[0].closed_steps:  # noqa: ASYNC110 (a server)
                await asyncio.sleep(0.01)
            assert [(each.run, each.closed_steps) for each in runs.runs] == [("lstm", 16)]
            assert (await web.get("/healthz")).status_code == 200
            assert (await web.get("/readyz")).status_code == 200
            assert "lstm" in (await web.get("/")).text
            metrics = (await web.get("/metrics")).text
            assert 'seismograd_run_steps_total{project="mt",run="lstm"} 16.0' in metrics
            assert 'seismograd_ingest_records_total{result="accepted"} 16.0' in metrics

    run(story)


def test_the_largest_catalog_that_is_allowed_fits_into_one_message(tmp_path: Path) -> None:
    async def story() -> None:
        async with (
            started(settings_of(tmp_path)) as server,
            aio.insecure_channel(str(server.grpc_address)) as channel,
        ):
            call = channel.unary_unary(
                method_path(TELEMETRY_SERVICE, "OpenRun"),
                request_serializer=telemetry.OpenRunRequest.SerializeToString,
                response_deserializer=telemetry.OpenRunResponse.FromString,
            )
            parameters = [
                telemetry.Parameter(name=f"model.layers.{index}.feed_forward.experts.down_projection.weight")
                for index in range(65_536)
            ]
            request = telemetry.OpenRunRequest(project="mt", run="large", launch_id="large", world_size=1)
            request.session_id = "session"
            request.catalogs.append(telemetry.Catalog(parameters=parameters))
            assert request.ByteSize() > settings_of(tmp_path).max_frame_bytes
            assert (await call(request)).rank_handle

    run(story)


def test_a_stop_is_quick_with_open_streams_and_the_next_start_goes_on(tmp_path: Path) -> None:
    async def story() -> None:
        async with started(settings_of(tmp_path)) as server:
            channel = aio.insecure_channel(str(server.grpc_address))
            handle = await open_run(channel)
            call = await ship(channel, handle, 0, 16)
            began = time.monotonic()
            await server.stop()
            assert time.monotonic() - began < STOP_SECONDS
            assert await call.code() is grpc.StatusCode.UNAVAILABLE
            await channel.close()
        async with (
            started(settings_of(tmp_path)) as server,
            aio.insecure_channel(str(server.grpc_address)) as channel,
        ):
            assert await open_run(channel) == handle
            await ship(channel, handle, 0, 32)
        with Database.open(f"sqlite:///{tmp_path / 'seismograd.db'}", owner="test") as database:
            with database.read() as transaction:
                steps = [step for chunk in transaction.steps.read(1, 0) for step in chunk.steps.tolist()]
                assert transaction.runs.by_id(1).state is RunState.RUNNING
                assert transaction.detectors.load(1, 0) is not None
            assert steps == list(range(32))

    run(story)


@pytest.mark.parametrize("name", ["grpc_listen", "http_listen"])
def test_a_port_in_use_is_named_with_the_flag_that_helps(tmp_path: Path, name: str) -> None:
    async def story() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            with pytest.raises(StartError, match=f"{name} {address}.*--{name.replace('_', '-')}"):
                await Server(settings_of(tmp_path, **{name: address})).start()

    run(story)


def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    async def story() -> None:
        occupied = tmp_path / "occupied"
        occupied.write_text("a file")
        with pytest.raises(StartError, match="occupied"):
            await Server(settings_of(occupied)).start()

    run(story)


def test_a_second_server_on_the_same_database_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    async def story() -> None:
        async with (
            started(settings_of(tmp_path)) as server,
            aio.insecure_channel(str(server.grpc_address)) as channel,
        ):
            with pytest.raises(StartError, match="seismograd serve"):
                await Server(settings_of(tmp_path)).start()
            await ship(channel, await open_run(channel), 0, 16)

    run(story)


def test_a_target_that_cannot_be_used_keeps_the_server_from_starting(tmp_path: Path) -> None:
    async def story() -> None:
        config = tmp_path / "seismograd.toml"
        config.write_text('[[notify.webhooks]]\nurl = "http://hooks.example.org"\nsecret = "x"')
        settings = load_settings(config, data_dir=tmp_path, grpc_listen="127.0.0.1:0", http_listen="127.0.0.1:0")
        with pytest.raises(ConfigError, match="https"):
            await Server(settings).start()

    run(story)


def test_a_failed_start_leaves_nothing_behind(tmp_path: Path) -> None:
    async def story() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            with pytest.raises(StartError):
                await Server(settings_of(tmp_path, grpc_listen=address)).start()
        async with started(settings_of(tmp_path)) as server:
            assert server.grpc_address.port != 0

    run(story)


def test_a_server_whose_database_was_taken_over_ends_with_the_reason(tmp_path: Path) -> None:
    async def story() -> None:
        async with (
            started(settings_of(tmp_path)) as server,
            aio.insecure_channel(str(server.grpc_address)) as channel,
        ):
            handle = await open_run(channel)
            server._database._epoch -= 1  # as if another server had opened it
            call: Any = channel.stream_stream(method_path(TELEMETRY_SERVICE, "StreamSteps"))()
            await call.write(frame(handle, 0, 16))
            with pytest.raises(StorageFencedError):
                await server.wait()
            call.cancel()

    run(story)


def test_everybody_who_is_to_be_told_is_built_from_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hush\n")
    config = tmp_path / "seismograd.toml"
    config.write_text(
        f"""
        [notify]
        alertmanagers = ["http://am-1:9093", {{ url = "http://am-2:9093", projects = ["speech-*"] }}]
        [[notify.webhooks]]
        url = "https://hooks.example/x"
        secret = "hush"
        [[notify.grafana]]
        url = "http://grafana:3000"
        token_file = "{tmp_path / "token"}"
        allow_hosts = ["grafana"]
        [[notify.chats]]
        name = "team"
        url = "json://chat.example/hush"
        projects = ["speech-*"]
        [notify.templates]
        title = "{{{{ severity }}}}"
        """
    )
    targets = notification_targets(load_settings(config))
    assert [(each.name, each.projects, each.hold_resolved_seconds) for each in targets] == [
        ("alertmanager:am-1:9093", (), 45.0),
        ("alertmanager:am-2:9093", ("speech-*",), 45.0),
        ("webhook:hooks.example", (), 0.0),
        ("grafana:grafana:3000", (), 0.0),
        ("team", ("speech-*",), 0.0),
    ]
    assert "hush" not in repr(load_settings(config))


def test_a_template_that_is_wrong_keeps_a_server_from_starting(tmp_path: Path) -> None:
    config = tmp_path / "seismograd.toml"
    config.write_text('[notify.templates]\nbody = "{{ sevrity }}"')
    with pytest.raises(ConfigError, match=r"notify\.templates\.body: sevrity is unknown: did you mean severity\?"):
        notification_targets(load_settings(config))
