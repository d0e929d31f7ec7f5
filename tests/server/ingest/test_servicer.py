"""The ingest service over a real channel: acks, errors as statuses, back-pressure, notices."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import pytest
import structlog
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from grpc import aio
from prometheus_client import CollectorRegistry

from seismograd_proto.v1 import TELEMETRY_SERVICE, method_path, telemetry
from seismograd_server.errors import SeismogradError, StorageBusyError, StorageFencedError
from seismograd_server.ingest.identities import decode_catalog
from seismograd_server.ingest.limits import IngestLimits
from seismograd_server.ingest.log import Log, LogSettings
from seismograd_server.ingest.servicer import TelemetryServicer
from seismograd_server.instruments import Instruments
from seismograd_server.model import DirectiveKind, DirectiveOutcome, Float32, RunKey
from seismograd_server.pipeline import Pipeline, PipelineSettings, Request
from seismograd_server.store.database import Database
from tests.support.synthetic import exploding_losses, exploding_norms, healthy_norms

STEPS = telemetry.RECORD_KIND_STEP


@dataclass
class Service:
    """The servicer on a real port, and a channel to it."""

    database: Database
    pipeline: Pipeline
    instruments: Instruments
    channel: Any
    log: Any = None
    fatal: asyncio.Future[SeismogradError] = field(default_factory=asyncio.Future)
    failure: Exception | None = None  # raised before the next commit of records

    def reach(self, point: str) -> None:
        if point == "ingest.before_commit" and self.failure is not None:
            raise self.failure

    async def open(self, run: str = "lstm", **changes: Any) -> telemetry.OpenRunResponse:
        values: dict[str, Any] = {
            "project": "mt",
            "run": run,
            "launch_id": f"launch of {run}",
            "world_size": 1,
            "session_id": "session",
            "catalogs": [telemetry.Catalog(parameters=[telemetry.Parameter(name=name) for name in "abc"])],
        }
        response: telemetry.OpenRunResponse = await self._unary("OpenRun", telemetry.OpenRunResponse)(
            telemetry.OpenRunRequest(**(values | changes))
        )
        return response

    async def close(self, handle: int, **changes: Any) -> telemetry.CloseRunResponse:
        request = telemetry.CloseRunRequest(rank_handle=handle, **changes)
        response: telemetry.CloseRunResponse = await self._unary("CloseRun", telemetry.CloseRunResponse)(request)
        return response

    def stream(self) -> Any:
        return self.channel.stream_stream(
            method_path(TELEMETRY_SERVICE, "StreamSteps"),
            response_deserializer=telemetry.StreamStepsResponse.FromString,
        )()

    def _unary(self, method: str, response: Any) -> Any:
        return self.channel.unary_unary(
            method_path(TELEMETRY_SERVICE, method),
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,
        )

    def stored(self, launches: int = 1) -> int:
        with self.database.read() as transaction:
            rows = range(1, launches + 1)
            return sum(batch.count for row in rows for _, batch in transaction.segments.read(row, 0))


@asynccontextmanager
async def service(
    log_settings: LogSettings | None = None, pipeline_settings: PipelineSettings | None = None
) -> AsyncIterator[Service]:
    limits = IngestLimits()
    instruments = Instruments(CollectorRegistry())
    with Database.open("sqlite://", owner="test") as database:
        built = Service(database, None, instruments, None)  # type: ignore[arg-type]  # filled in below
        how = pipeline_settings or PipelineSettings()
        built.pipeline = Pipeline(database, instruments, how, failure_point=built.reach)
        built.pipeline.start(0.0)
        log = Log(
            built.pipeline, log_settings or LogSettings(limits=limits), instruments, on_fatal=built.fatal.set_result
        )
        built.log = log
        server = aio.server()
        servicer = TelemetryServicer(
            log, built.pipeline, instruments, limits, run_url=lambda project, run: f"http://here/{project}/{run}"
        )
        server.add_generic_rpc_handlers((servicer.handlers(),))
        port = server.add_insecure_port("127.0.0.1:0")
        log.start()
        await server.start()
        try:
            async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                built.channel = channel
                yield built
        finally:
            log.hang_up()
            await server.stop(1.0)
            await log.stop()


def wire(handle: int, first: int, norms: Float32, losses: Any = None) -> telemetry.StepBatch:
    count = len(norms)
    scalars = []
    if losses is not None:
        scalars.append(telemetry.ScalarColumn(quantity=telemetry.QUANTITY_LOSS, values=losses.astype("<f8").tobytes()))
    return telemetry.StepBatch(
        rank_handle=handle,
        kind=STEPS,
        first_sequence=first,
        count=count,
        first_step=first,
        times_unix_seconds=np.full(count, 1.7e9, "<f8").tobytes(),
        sources=bytes([1] * count),
        flags=bytes(2 * count),
        gradient_norms=norms.astype("<f4").tobytes(),
        scalars=scalars,
    )


def frame(*batches: telemetry.StepBatch) -> bytes:
    return telemetry.StreamStepsRequest(batches=batches).SerializeToString()


async def durable(call: Any, wanted: int) -> list[telemetry.StreamStepsResponse]:
    """Read answers until the watermark has come so far."""
    answers = []
    async for answer in call:
        answers.append(answer)
        if any(mark.durable_sequence >= wanted for mark in answer.watermarks):
            return answers
    raise AssertionError(f"the stream ended before {wanted}")


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await story()

    asyncio.run(bounded())


def test_opening_tells_the_handle_the_limits_and_the_page() -> None:
    async def story() -> None:
        async with service() as server:
            opened = await server.open()
            assert opened.rank_handle != 0
            assert opened.attempt == 1
            assert opened.limits.max_batch_records == 2000
            assert opened.limits.max_frame_bytes == 4 * 2**20
            assert opened.run_url == "http://here/mt/lstm"
            assert opened.server_time_unix_seconds > 1.7e9

    run(story)


def test_frames_are_acknowledged_when_they_are_durable() -> None:
    async def story() -> None:
        async with service() as server:
            handle = (await server.open()).rank_handle
            call = server.stream()
            for first in range(0, 160, 16):
                await call.write(frame(wire(handle, first, healthy_norms(16))))
            answers = await durable(call, 160)
            assert server.stored() == 160
            mark = answers[-1].watermarks[0]
            assert (mark.rank_handle, mark.kind, mark.accepted_sequence) == (handle, STEPS, 160)
            assert len(answers) < 10, "a tick answers once, whatever the frames"
            await call.done_writing()
            assert [answer async for answer in call] == []
            assert await call.code() is grpc.StatusCode.OK

    run(story)


def test_a_reconnect_learns_what_is_durable_and_sends_again_without_harm() -> None:
    async def story() -> None:
        async with service() as server:
            handle = (await server.open()).rank_handle
            call = server.stream()
            await call.write(frame(wire(handle, 0, healthy_norms(16))))
            await durable(call, 16)
            call.cancel()
            again = await server.open()
            assert again.rank_handle == handle
            assert [mark.durable_sequence for mark in again.watermarks] == [16]
            call = server.stream()
            await call.write(frame(wire(handle, 0, healthy_norms(32))))
            await durable(call, 32)
            assert server.stored() == 32

    run(story)


def test_one_bad_batch_is_refused_by_name_and_the_stream_goes_on() -> None:
    async def story() -> None:
        async with service() as server:
            handle = (await server.open()).rank_handle
            call = server.stream()
            bad = wire(handle, 4, healthy_norms(4))
            bad.gradient_norms = b"\x00" * 3
            await call.write(frame(wire(handle, 0, healthy_norms(4)), bad, wire(handle, 8, healthy_norms(4))))
            answers = await durable(call, 12)
            (rejection,) = [each for answer in answers for each in answer.rejections]
            assert (rejection.first_sequence, rejection.count, rejection.field) == (4, 4, "gradient_norms")
            assert "3 bytes" in rejection.message
            assert server.stored() == 8
            await call.write(frame(wire(handle, 12, healthy_norms(4))))
            await durable(call, 16)

    run(story)


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"project": ""}, grpc.StatusCode.INVALID_ARGUMENT, "project"),
        ({"session_id": "another"}, grpc.StatusCode.ALREADY_EXISTS, "rank 0"),
        ({"world_size": 3}, grpc.StatusCode.FAILED_PRECONDITION, "3"),
    ],
)
def test_what_cannot_be_opened_is_refused_by_name(changes: dict[str, Any], code: grpc.StatusCode, words: str) -> None:
    async def story() -> None:
        async with service() as server:
            await server.open()
            with pytest.raises(aio.AioRpcError) as caught:
                await server.open(**changes)
            assert caught.value.code() is code
            assert words in (caught.value.details() or "")
            labels = {"method": "OpenRun", "code": code.name}
            registry = server.instruments.registry
            assert registry.get_sample_value("seismograd_ingest_requests_total", labels) == 1

    run(story)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\xff\xff", grpc.StatusCode.INVALID_ARGUMENT),
        (frame(wire(999, 0, healthy_norms(1))), grpc.StatusCode.NOT_FOUND),
    ],
)
def test_a_stream_that_cannot_go_on_ends_with_its_reason_and_disturbs_nobody(
    data: bytes, code: grpc.StatusCode
) -> None:
    async def story() -> None:
        async with service() as server:
            handle = (await server.open()).rank_handle
            good, bad = server.stream(), server.stream()
            await bad.write(data)
            await good.write(frame(wire(handle, 0, healthy_norms(16))))
            await durable(good, 16)
            with pytest.raises(aio.AioRpcError) as caught:
                await durable(bad, 1)
            assert caught.value.code() is code

    run(story)


def test_a_busy_store_is_unavailable_with_the_time_to_come_back_and_nothing_is_lost() -> None:
    async def story() -> None:
        async with service() as server:
            handle = (await server.open()).rank_handle
            server.failure = StorageBusyError("database: the disk is full")
            with structlog.testing.capture_logs() as lines:
                for _ in range(3):
                    call = server.stream()
                    await call.write(frame(wire(handle, 0, healthy_norms(16))))
                    with pytest.raises(aio.AioRpcError) as caught:
                        await durable(call, 16)
            assert [line["reason"] for line in lines] == ["database: the disk is full"], "told once, not at every tick"
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            trailers = dict(caught.value.trailing_metadata())
            info = RetryInfo()
            assert Status.FromString(trailers["grpc-status-details-bin"]).details[0].Unpack(info)
            assert info.retry_delay.seconds == 1
            assert server.stored() == 0
            server.failure = None
            call = server.stream()
            await call.write(frame(wire(handle, 0, healthy_norms(16))))
            await durable(call, 16)
            assert server.stored() == 16

    run(story)


def test_a_server_that_has_been_replaced_stops_serving() -> None:
    async def story() -> None:
        async with service() as server:
            handle = (await server.open()).rank_handle
            server.failure = StorageFencedError("another server has the database now")
            call = server.stream()
            await call.write(frame(wire(handle, 0, healthy_norms(16))))
            assert isinstance(await server.fatal, StorageFencedError)
            call.cancel()

    run(story)


def test_a_disk_that_failed_for_good_ends_the_server_rather_than_lose_what_it_acknowledges() -> None:
    async def story() -> None:
        async with service() as server:
            handle = (await server.open()).rank_handle
            server.database._refusal = "database: the disk could not make a commit durable"  # as after a failed fsync
            call = server.stream()
            await call.write(frame(wire(handle, 0, healthy_norms(16))))
            assert "durable" in str(await server.fatal)
            call.cancel()

    run(story)


def test_a_disk_that_failed_before_any_run_was_open_ends_the_server_as_well() -> None:
    async def story() -> None:
        async with service() as server:
            server.database._refusal = "database: the disk could not make a commit durable"
            with pytest.raises(aio.AioRpcError, match="durable"):
                await server.open()
            assert "durable" in str(await server.fatal)

    run(story)


def test_alerts_go_down_the_streams_of_their_run_and_no_other() -> None:
    async def story() -> None:
        async with service() as server:
            exploding = (await server.open("exploding")).rank_handle
            healthy = (await server.open("healthy")).rank_handle
            calls = {handle: server.stream() for handle in (exploding, healthy)}
            norms, losses = exploding_norms(220, 150), exploding_losses(220, 150)
            await calls[healthy].write(frame(wire(healthy, 0, healthy_norms(220))))
            await calls[exploding].write(frame(wire(exploding, 0, norms, losses)))
            async for answer in calls[exploding]:
                notices = [alert for alert in answer.alerts if alert.signature == "runaway"]
                if notices:
                    break
            assert (notices[0].severity, notices[0].state) == ("critical", "firing")
            assert notices[0].step >= 150
            assert notices[0].alert_id
            assert notices[0].reason
            await calls[healthy].done_writing()
            assert [alert async for answer in calls[healthy] for alert in answer.alerts] == []

    run(story)


def test_what_is_in_flight_is_bounded_and_everything_arrives() -> None:
    async def story() -> None:
        settings = LogSettings(tick_seconds=0.001, max_inflight_bytes=50_000)
        async with service(settings) as server:
            handle = (await server.open()).rank_handle
            call = server.stream()
            highest = 0.0

            async def write() -> None:
                for first in range(0, 6000, 200):
                    await call.write(frame(wire(handle, first, healthy_norms(200))))

            writing = asyncio.create_task(write())
            async for answer in call:
                value = server.instruments.registry.get_sample_value("seismograd_ingest_inflight_bytes")
                highest = max(highest, value or 0.0)
                if any(mark.durable_sequence == 6000 for mark in answer.watermarks):
                    break
            await writing
            assert highest < 50_000 + 10_000
            assert server.stored() == 6000

    run(story)


def test_what_waits_for_room_is_bounded_as_well_and_the_rest_is_told_when_to_come_back() -> None:
    async def story() -> None:
        settings = LogSettings(tick_seconds=0.001, max_inflight_bytes=50_000)
        async with service(settings) as server:
            handles = [(await server.open(f"run-{number}")).rank_handle for number in range(40)]
            calls = [server.stream() for _ in handles]
            with server.database.begin():  # the worker must wait for it
                for handle, call in zip(handles, calls, strict=True):
                    await call.write(frame(wire(handle, 0, healthy_norms(200))))
                ended = [asyncio.create_task(call.code()) for call in calls]
                refused, _ = await asyncio.wait(ended, timeout=1.5)
            assert 10 < len(refused) < 30
            for code, call in zip(ended, calls, strict=True):
                if code in refused:
                    assert code.result() is grpc.StatusCode.UNAVAILABLE
                    assert "grpc-status-details-bin" in dict(await call.trailing_metadata())
                else:
                    await durable(call, 200)
                    code.cancel()
            assert server.stored(len(calls)) == 200 * (len(calls) - len(refused)), (
                "what was not acknowledged is not there"
            )

    run(story)


def test_a_farewell_comes_behind_the_frames_and_ends_the_run() -> None:
    async def story() -> None:
        async with service() as server:
            handle = (await server.open()).rank_handle
            call = server.stream()
            await call.write(frame(wire(handle, 0, healthy_norms(16))))
            await durable(call, 16)
            closed = await server.close(handle, outcome=telemetry.RANK_OUTCOME_FAILED, reason="ValueError: NaN")
            assert [mark.durable_sequence for mark in closed.watermarks] == [16]
            with server.database.read() as transaction:
                stored = transaction.runs.by_id(1)
            assert (stored.state.value, stored.failure_reason) == ("failed", "rank 0: ValueError: NaN")
            with pytest.raises(aio.AioRpcError) as caught:
                await server.close(999)
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND

    run(story)


def test_many_streams_share_one_worker() -> None:
    async def story() -> None:
        async with service() as server:
            before = threading.active_count()

            async def one(index: int) -> None:
                handle = (await server.open(f"run-{index}")).rank_handle
                call = server.stream()
                for first in range(0, 64, 8):
                    await call.write(frame(wire(handle, first, healthy_norms(8))))
                await durable(call, 64)
                await call.done_writing()
                await server.close(handle)  # its steps have been judged then

            await asyncio.gather(*(one(index) for index in range(30)))
            assert threading.active_count() <= before + 2
            assert len(server.pipeline.snapshot().runs) == 30
            assert all(view.tally.steps == 64 for view in server.pipeline.snapshot().runs)

    run(story)


def test_a_stream_may_begin_with_a_catalog_alone() -> None:
    async def story() -> None:
        async with service(LogSettings(tick_seconds=0.001)) as server:
            handle = (await server.open(catalogs=[])).rank_handle
            call = server.stream()
            catalog = telemetry.Catalog(parameters=[telemetry.Parameter(name=name) for name in "abc"])
            ticked = asyncio.Event()
            detect, loop = server.pipeline.detect, asyncio.get_running_loop()

            def detect_and_tell(now: float, **how: bool) -> bool:
                loop.call_soon_threadsafe(ticked.set)
                return detect(now, **how)

            server.pipeline.detect = detect_and_tell  # type: ignore[method-assign]  # to see a tick pass
            await call.write(telemetry.StreamStepsRequest(catalogs=[catalog]).SerializeToString())
            for _ in range(3):  # one tick may be under way, the next one takes the frame
                ticked.clear()
                await ticked.wait()
            await call.write(frame(wire(handle, 0, healthy_norms(16))))
            answers = await durable(call, 16)
            assert not any(answer.rejections for answer in answers)
            assert server.stored() == 16

    run(story)


def test_catalogs_of_nobody_are_kept_only_so_long() -> None:
    async def story() -> None:
        limits = IngestLimits(max_message_bytes=1000)
        async with service(LogSettings(limits=limits)) as server:
            call = server.stream()
            catalog = telemetry.Catalog(parameters=[telemetry.Parameter(name="x" * 200)] * 6)
            await call.write(telemetry.StreamStepsRequest(catalogs=[catalog]).SerializeToString())
            assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "catalogs" in (await call.details())

    run(story)


def test_the_event_loop_is_free_while_a_large_catalog_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = set[int]()

    def decode_and_note(*arguments: Any) -> Any:
        threads.add(threading.get_ident())
        return decode_catalog(*arguments)

    monkeypatch.setattr("seismograd_server.ingest.servicer.decode_catalog", decode_and_note)

    async def story() -> None:
        async with service() as server:
            parameters = [telemetry.Parameter(name=f"layer.{index}") for index in range(1_001)]
            await server.open(catalogs=[telemetry.Catalog(parameters=parameters)])

    run(story)
    assert threads
    assert threading.get_ident() not in threads


def test_no_ack_waits_for_the_detectors_but_a_farewell_does() -> None:
    async def story() -> None:
        async with service(LogSettings(tick_seconds=0.001)) as server:
            handle = (await server.open()).rank_handle
            call = server.stream()
            gate = threading.Event()
            detect = server.pipeline.detect

            def slowly(now: float, **how: bool) -> bool:
                if server.pipeline.waiting_bytes():
                    gate.wait(50)
                return detect(now, **how)

            server.pipeline.detect = slowly  # type: ignore[method-assign]  # a detector that takes its time
            await call.write(frame(wire(handle, 0, healthy_norms(16))))
            await durable(call, 16)
            assert not server.pipeline.snapshot().runs[0].tally.steps
            farewell = asyncio.create_task(server.close(handle))
            gate.set()
            await farewell
            assert server.pipeline.snapshot().runs[0].tally.steps == 16

    run(story)


def test_a_clock_that_is_set_is_noticed_and_one_that_is_slewed_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        with Database.open("sqlite://", owner="test") as database:
            pipeline = Pipeline(database, instruments := Instruments(CollectorRegistry()), PipelineSettings())
            wall, steady = [1000.0], [50.0]
            log = Log(
                pipeline, LogSettings(), instruments, clock=lambda: wall[0], steady_clock=lambda: steady[0]
            )  # its worker is not started: the test ticks
            jumps: list[float] = []
            monkeypatch.setattr(pipeline, "follow_clock", jumps.append)
            for passed, jump in ((0.0, 0.0), (0.25, 0.0), (0.25, 0.3), (100.0, 0.0), (0.25, -3600.0), (0.25, 0.0)):
                wall[0] += passed + jump
                steady[0] += passed
                log._tick()
            assert jumps == [-3600.0]

    run(story)


def test_what_a_job_is_asked_goes_down_its_stream_and_again_down_the_next_until_it_is_answered() -> None:
    async def story() -> None:
        async with service() as server:
            client = telemetry.ClientInfo(capabilities=["stop", "fly"])
            handle = (await server.open(client=client)).rank_handle
            other = (await server.open("other", client=client)).rank_handle
            request = Request(DirectiveKind.STOP, "Ada", "too dear")
            asked = await server.log.call(lambda now: server.pipeline.asking.ask(RunKey("mt", "lstm"), request, now))
            name = asked.directive.directive_id
            for _ in range(2):
                call = server.stream()
                alive = telemetry.StreamStepsRequest(health=[telemetry.ClientHealth(rank_handle=handle)])
                await call.write(alive.SerializeToString())
                response = await call.read()
                (directive,) = response.directives
                assert (directive.directive_id, directive.kind) == (name, telemetry.DIRECTIVE_KIND_STOP)
                assert directive.reason == "too dear"
                call.cancel()
            stranger = server.stream()
            await stranger.write(frame(wire(other, 0, healthy_norms(4))))
            assert not [each for answer in await durable(stranger, 4) for each in answer.directives]

            call = server.stream()
            outcome = telemetry.DirectiveOutcome(
                rank_handle=handle, directive_id=name, outcome="applied", kind=telemetry.DIRECTIVE_KIND_STOP
            )
            nonsense = telemetry.DirectiveOutcome(rank_handle=handle, directive_id=name, outcome="exploded")
            answers = telemetry.StreamStepsRequest(directive_outcomes=[nonsense, outcome])
            await call.write(answers.SerializeToString())
            await call.write(frame(wire(handle, 0, healthy_norms(4))))
            assert not [each for answer in await durable(call, 4) for each in answer.directives]
            with server.database.read() as transaction:
                (stored,) = transaction.directives.of_run(1, 10)
            assert [each.outcome for each in stored.addressees] == [DirectiveOutcome.APPLIED]
            assert stored.addressees[0].sent_at is not None

    run(story)
