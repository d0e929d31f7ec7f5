"""Errors keep nothing in memory of what was sent: with every refusal there would be more of it."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import sys
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc import aio
from prometheus_client import CollectorRegistry

from seismograd_proto.v1 import telemetry
from seismograd_server.errors import LimitError
from seismograd_server.ingest import servicer
from seismograd_server.ingest.calls import give, prepared
from seismograd_server.ingest.identities import decode_identity
from seismograd_server.ingest.limits import IngestLimits
from seismograd_server.ingest.storing import Storing
from seismograd_server.ingest.stream import Frame, Stream
from seismograd_server.instruments import Instruments
from seismograd_server.model import Catalog, RankIdentity
from seismograd_server.pipeline.judging import Job
from seismograd_server.store.database import Database
from tests.server.ingest.test_refusals import FULL
from tests.server.ingest.test_servicer import durable, frame, run, service, wire
from tests.support.synthetic import healthy_norms, new_pipeline


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def alive(*kinds: type) -> int:
    return sum(type(each) in kinds for each in gc.get_objects())


async def gone(*kinds: type) -> bool:
    """Whether there are none, once the worker's tick is over."""
    for _ in range(200):
        if not alive(*kinds):
            return True
        await asyncio.sleep(0.01)
    return False


def broken(message: str, code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(message)
    error.sqlite_errorcode = code
    return error


def test_who_is_refused_keeps_no_records_that_came_in_the_same_tick() -> None:
    async def story() -> None:
        async with service(pipeline_settings=FULL) as server:
            handle = (await server.open("first")).rank_handle
            call = server.stream()
            for turn in range(5):
                newcomer = asyncio.create_task(server.open("second"))
                await call.write(frame(wire(handle, 16 * turn, healthy_norms(16))))
                with pytest.raises(aio.AioRpcError):
                    await newcomer
                await durable(call, 16 * (turn + 1))
            await call.done_writing()
            assert await call.code() is grpc.StatusCode.OK
            assert await gone(Frame)

    run(story)


def test_who_is_refused_keeps_nothing_of_what_it_said_of_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[telemetry.OpenRunRequest] = []

    def remembered(request: telemetry.OpenRunRequest, *others: Any) -> RankIdentity:
        requests.append(request)
        return decode_identity(request, *others)

    monkeypatch.setattr(servicer, "decode_identity", remembered)

    async def story() -> None:
        async with service(pipeline_settings=FULL) as server:
            await server.open("first")
            before = alive(Catalog)
            for _ in range(5):
                with pytest.raises(aio.AioRpcError):
                    await server.open("second")
            for _ in range(200):  # until gRPC has let go of the last one
                holders = [sys.getrefcount(requests[number]) for number in range(len(requests))]
                if holders == [2] * 6 and alive(Catalog) <= before:
                    break
                await asyncio.sleep(0.01)
            assert alive(Catalog) <= before
            assert holders == [2] * 6, "the list, and whoever asks"

    run(story)


def test_a_stream_that_is_refused_leaves_neither_its_frames_nor_itself() -> None:
    async def story() -> None:
        async with service() as server:
            for _ in range(3):
                call = server.stream()
                await call.write(b"no frame at all")
                assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert await gone(Frame, Stream)

    run(story)


def test_records_behind_a_bad_catalog_are_not_kept() -> None:
    async def story() -> None:
        async with service() as server:
            handle = (await server.open()).rank_handle
            twice = telemetry.Catalog(version=0, parameters=[telemetry.Parameter(name="same")] * 2)
            call = server.stream()
            for turn in range(3):
                batch = wire(handle, 16 * turn, healthy_norms(16))
                await call.write(telemetry.StreamStepsRequest(catalogs=[twice], batches=[batch]).SerializeToString())
                (rejection,) = (await call.read()).rejections
                assert "names must be unique" in rejection.message
            assert await gone(Frame)
            await call.done_writing()

    run(story)


def test_a_disk_that_takes_no_records_has_the_server_keep_none(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with service() as server:
            handle = (await server.open()).rank_handle

            def fails(_database: Database, _connection: object) -> None:
                raise broken("disk I/O error", sqlite3.SQLITE_IOERR)

            with monkeypatch.context() as patch:
                patch.setattr(Database, "_check_epoch", fails)
                for _ in range(3):
                    call = server.stream()
                    await call.write(frame(wire(handle, 0, healthy_norms(16))))
                    assert await call.code() is grpc.StatusCode.UNAVAILABLE
                assert await gone(Frame, Stream)

    run(story)


def test_a_disk_that_is_full_when_steps_are_judged_has_the_server_keep_none(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with service() as server:
            handle = (await server.open()).rank_handle

            def reach(point: str) -> None:
                if point == "detect.before_commit":
                    raise broken("database or disk is full", sqlite3.SQLITE_FULL)

            call = server.stream()
            with monkeypatch.context() as patch:
                patch.setattr(server.pipeline, "_failure_point", reach)
                await call.write(frame(wire(handle, 0, healthy_norms(16))))
                await durable(call, 16)
                await asyncio.sleep(0.5)  # some turns that fail
                assert await gone(Frame, Job)
            await call.done_writing()

    run(story)


def test_the_error_of_a_call_comes_without_frames() -> None:
    """Nobody may wait for it any more, such as a client that has gone."""

    def refuse(_now: float) -> Any:
        raise LimitError("full")

    async def story() -> None:
        waiting: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        give([prepared(refuse, waiting, lambda *_: None, behind_frames=False).work(1.0)])
        error = waiting.exception()
        assert isinstance(error, LimitError)
        assert error.__traceback__ is None

    asyncio.run(story())


def test_what_became_of_records_is_told_without_frames_of_the_interpreter() -> None:
    async def story() -> None:
        with Database.open("sqlite://", owner="test") as database:
            storing = Storing(new_pipeline(database), IngestLimits(), Instruments(CollectorRegistry()))
            (outcome,) = storing.store([Frame(Stream(), b"no frame at all", 0.0)], 1.0)
        assert outcome.error is not None
        assert outcome.error.__traceback__ is None

    asyncio.run(story())
