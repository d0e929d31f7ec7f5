"""The sender against real gRPC servers and real sockets: restarts, silence, garbage, refusals, the end of the job."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from seismograd.options import Options
from seismograd.outbox.extras import HookHealth
from seismograd.outbox.sender import Phase, Sender
from seismograd.record import AlertNotice, Directive, DirectiveAnswer, DirectiveKind, Nonfinite, RecordKind
from seismograd.testing import Ledger, RecordingServer, RecordingTransport
from seismograd_proto.v1 import TELEMETRY_SERVICE, method_path, telemetry
from tests.support.records import IDENTITY, make_catalog, make_record

NONFINITE = Nonfinite(np.zeros(1, np.uint32), *([np.ones(1, np.uint64)] * 3))
# A promised deadline of two seconds is asserted at three times that, for machines that are busy with other things.
EXIT_SECONDS = 3 * 2.0


class SlowLedger(Ledger):
    """Takes its time for every frame."""

    def receive(self, frame: telemetry.StreamStepsRequest) -> telemetry.StreamStepsResponse:
        threading.Event().wait(0.15)
        return super().receive(frame)


@pytest.fixture
def started() -> Iterator[Callable[..., Sender]]:
    """Makes senders that are open, and ends them all after the test."""
    senders: list[Sender] = []

    def start(server: str, **options: Any) -> Sender:
        sender = Sender(Options(server=server, **options), uniform=lambda: 0.05)
        sender.open(lambda: IDENTITY, [make_catalog()])
        senders.append(sender)
        return sender

    yield start
    for sender in senders:
        sender.finish("finished", "", 0.5)


@pytest.fixture
def server() -> Iterator[RecordingServer]:
    with RecordingServer() as running:
        yield running


@pytest.fixture
def grpc_server() -> Iterator[Callable[..., str]]:
    """Serves methods of TelemetryService by name with raw handlers, and gives the address."""
    servers = []

    def serve(**methods: Callable[[bytes, grpc.ServicerContext], bytes]) -> str:
        class Handlers(grpc.GenericRpcHandler):
            def service(self, details: Any) -> Any:
                name = details.method.rpartition("/")[2]
                assert details.method == method_path(TELEMETRY_SERVICE, name)
                handler = methods.get(name)
                if handler is None:
                    return None
                library: Any = grpc  # untyped in the stubs
                stream = name == "StreamSteps"
                return (library.stream_stream_rpc_method_handler if stream else library.unary_unary_rpc_method_handler)(
                    handler
                )

        running = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        running.add_generic_rpc_handlers((Handlers(),))
        port = running.add_insecure_port("127.0.0.1:0")
        running.start()
        servers.append(running)
        return f"127.0.0.1:{port}"

    yield serve
    for running in servers:
        running.stop(None).wait()


def wait_until(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come to hold"
        pause.wait(0.005)


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def offer(sender: Sender, first: int, end: int, **changes: Any) -> None:
    for sequence in range(first, end):
        sender.offer(make_record(sequence, **changes))


def finish(sender: Sender, timeout: float = 2.0) -> Any:
    before = time.monotonic()
    report = sender.finish("finished", "", timeout)
    assert time.monotonic() - before < EXIT_SECONDS
    return report


def stored(ledger: Ledger) -> list[int]:
    return [record.sequence for record in ledger.records()]


# ------------------------------------------------------------------------------------------------------ a good server


def test_every_record_arrives_once_and_the_end_waits_for_the_last(
    server: RecordingServer, started: Callable[..., Sender]
) -> None:
    sender = started(server.address)
    offer(sender, 0, 500)
    report = finish(sender)
    assert stored(server.ledger) == list(range(500))
    assert (report.delivered, report.undelivered, report.dropped, report.complete) == (500, 0, {}, True)
    assert server.ledger.duplicates == 0
    assert server.ledger.closed == [("finished", "")]
    assert server.ledger.catalogs == [make_catalog()]


def test_several_optimizers_kinds_branches_and_catalogs_arrive_as_they_were_given(
    server: RecordingServer, started: Callable[..., Sender]
) -> None:
    sender = started(server.address)
    for sequence in range(30):
        branch = sequence // 10
        version = sequence // 15
        if sequence == 15:
            sender.catalog_changed(make_catalog(1, parameters=6))
        sender.offer(
            make_record(
                sequence, step=sequence % 10, branch=branch, catalog_version=version, parameters=6 if version else 4
            )
        )
        sender.offer(make_record(sequence, optimizer=1, gradient_norms=None, total_norm=2.0))
        sender.offer(make_record(sequence, kind=RecordKind.DETAIL))
    assert finish(sender).delivered == 90
    steps = server.ledger.records()
    assert [(record.branch, record.step) for record in steps] == [(n // 10, n % 10) for n in range(30)]
    assert [None if each.gradient_norms is None else len(each.gradient_norms) for each in steps] == [4] * 15 + [6] * 15
    assert [record.total_norm for record in server.ledger.records(optimizer=1)] == [2.0] * 30
    assert len(server.ledger.records(kind=RecordKind.DETAIL)) == 30
    assert [catalog.version for catalog in server.ledger.catalogs] == [0, 1]


def test_checkpoints_health_alerts_and_directives_pass(server: RecordingServer, started: Callable[..., Sender]) -> None:
    notice = AlertNotice("a1", "runaway", "critical", "firing", 12, "the norm doubles every 3 steps")
    directive = Directive("d1", DirectiveKind.STOP, "runaway", "a1", 0, 0)
    sender = started(server.address)
    server.ledger.notify([notice], [directive])
    sender.ask_health(lambda: lambda: HookHealth(0.5, 10))
    sender.checkpoint_saved(10, "/checkpoints/10.pt")
    sender.offer(make_record(0, nonfinite=NONFINITE))
    wait_until(lambda: sender.state.acknowledged == 1)
    assert sender.take_notices() == [notice]
    assert sender.take_directives() == [directive]
    answer = DirectiveAnswer("d1", DirectiveKind.STOP, "applied", "stopped at 13", 13)
    sender.answer_directive(answer)
    finish(sender)
    assert server.ledger.checkpoints == [(10, "/checkpoints/10.pt")]
    assert server.ledger.answers == [answer]
    assert any(health.hook_calls == 10 for health in server.ledger.health)


def test_what_is_said_last_is_on_the_server_when_finish_returns(started: Callable[..., Sender]) -> None:
    with RecordingServer(SlowLedger()) as server:
        sender = started(server.address)
        offer(sender, 0, 1)
        wait_until(lambda: sender.state.acknowledged == 1)
        sender.checkpoint_saved(1, "/checkpoints/last.pt")
        finish(sender)
        assert (server.ledger.checkpoints, server.ledger.closed) == ([(1, "/checkpoints/last.pt")], [("finished", "")])


def test_records_offered_before_the_run_is_known_are_kept(server: RecordingServer) -> None:
    sender = Sender(Options(server=server.address))
    offer(sender, 0, 3)
    sender.open(lambda: IDENTITY, [make_catalog()])
    offer(sender, 3, 5)
    assert finish(sender).delivered == 5


def test_slow_acks_delay_and_lose_nothing(started: Callable[..., Sender]) -> None:
    with RecordingServer(SlowLedger()) as server:
        sender = started(server.address)
        for first in range(0, 400, 100):
            offer(sender, first, first + 100)
            wait_until(lambda: server.ledger.frames > 0)
        report = finish(sender)
        assert (report.delivered, server.ledger.duplicates) == (400, 0)
        assert stored(server.ledger) == list(range(400))


# ------------------------------------------------------------------------------------------------- a server in trouble


def test_a_server_killed_and_restarted_on_its_port_misses_nothing(started: Callable[..., Sender]) -> None:
    ledger = Ledger()
    server = RecordingServer(ledger)
    port = server.port
    sender = started(server.address)
    for cycle in range(3):
        offer(sender, cycle * 100, cycle * 100 + 50)
        wait_until(lambda: len(ledger.records()) > 0)
        server.stop()
        offer(sender, cycle * 100 + 50, cycle * 100 + 100)
        server = RecordingServer(ledger, port)
    report = finish(sender)
    server.stop()
    assert stored(ledger) == list(range(300))
    assert (report.delivered, report.dropped) == (300, {})


def test_records_accepted_but_not_durable_are_sent_again_after_a_crash(started: Callable[..., Sender]) -> None:
    class ForgetfulLedger(Ledger):
        """Says durable only what lies below the hundredth; the rest dies with it."""

        def _mark(self, key: tuple[int, int, int]) -> telemetry.Watermark:
            mark = super()._mark(key)
            mark.durable_sequence = min(mark.durable_sequence, 100)
            return mark

    first = ForgetfulLedger()
    server = RecordingServer(first)
    port = server.port
    sender = started(server.address)
    offer(sender, 0, 150)
    wait_until(lambda: len(first.records()) == 150 and sender.state.acknowledged == 100)
    server.stop()
    survivor = Ledger()
    survivor.open(telemetry.OpenRunRequest(launch_id=IDENTITY.launch_id, rank=0))
    survivor._records[1, 0, 1] = {record.sequence: record for record in first.records()[:100]}
    survivor._watermarks[1, 0, 1] = 0
    with RecordingServer(survivor, port):
        report = finish(sender)
    assert stored(survivor) == list(range(150))
    assert (survivor.duplicates, report.delivered) == (0, 150)


def test_a_server_with_an_empty_database_goes_on_with_what_is_left(started: Callable[..., Sender]) -> None:
    server = RecordingServer()
    port = server.port
    sender = started(server.address)
    offer(sender, 0, 40)
    wait_until(lambda: sender.state.acknowledged == 40)
    server.stop()
    with RecordingServer(Ledger(), port) as empty:
        offer(sender, 40, 60)
        report = finish(sender)
        assert stored(empty.ledger) == list(range(40, 60))
        assert empty.ledger.dropped() == dict.fromkeys(range(40), "already_delivered")
    assert (report.delivered, report.dropped) == (60, {})


def test_an_unknown_handle_in_the_middle_opens_the_run_again(started: Callable[..., Sender]) -> None:
    with RecordingServer() as server:
        sender = started(server.address)
        offer(sender, 0, 20)
        wait_until(lambda: sender.state.acknowledged == 20)
        with server.ledger._lock:
            identity = server.ledger.identities.pop(1)
            server.ledger._handles.clear()
            server.ledger._handles[identity.launch_id, 5] = 1
        offer(sender, 20, 40)
        report = finish(sender)
        assert report.delivered == 40


def test_a_server_with_a_small_limit_gets_smaller_frames(started: Callable[..., Sender]) -> None:
    ledger = Ledger()
    running = RecordingServer(ledger, max_message_bytes=20_000)
    sender = started(running.address)
    offer(sender, 0, 64, parameters=1000)
    wait_until(lambda: len(ledger.records()) == 64, 30.0)
    offer(sender, 64, 65, parameters=8000)
    offer(sender, 65, 66, parameters=10)
    wait_until(lambda: 65 in stored(ledger), 30.0)
    report = finish(sender)
    running.stop()
    assert report.dropped == {"too_large": 1}
    assert ledger.dropped() == {64: "too_large"}
    assert report.delivered == 65


def test_retry_info_of_a_real_server_is_read(grpc_server: Callable[..., str], started: Callable[..., Sender]) -> None:
    calls = []

    def refuse(request: bytes, context: Any) -> bytes:
        del request
        calls.append(time.monotonic())
        detail = any_pb2.Any()
        detail.Pack(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(nanos=600_000_000)))
        status = status_pb2.Status(code=14, message="the disk is full", details=[detail])
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        context.abort(grpc.StatusCode.UNAVAILABLE, "the disk is full")
        return b""

    sender = started(grpc_server(OpenRun=refuse))
    offer(sender, 0, 1)
    wait_until(lambda: len(calls) >= 2)
    assert calls[1] - calls[0] >= 0.6
    assert sender.state.last_error == "UNAVAILABLE: the disk is full"
    assert finish(sender).spooled == 1


def test_a_refusal_by_name_reaches_the_log_and_training_goes_on(
    grpc_server: Callable[..., str], started: Callable[..., Sender], caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(request: bytes, context: Any) -> bytes:
        del request
        context.abort(grpc.StatusCode.ALREADY_EXISTS, "rank 0 is held by node7, process 55")
        return b""

    sender = started(grpc_server(OpenRun=refuse))
    with caplog.at_level(logging.ERROR, "seismograd"):
        offer(sender, 0, 3)
        wait_until(lambda: sender.state.phase is Phase.STOPPED)
        offer(sender, 3, 5)
        report = finish(sender)
    assert report.dropped == {"rejected": 5}
    assert any("rank 0 is held by node7, process 55" in message for message in caplog.messages)


# --------------------------------------------------------------------------------------------------- no server at all


@pytest.fixture(params=["absent", "never accepts", "hangs up", "garbage", "http/1"])
def no_server(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of something that is no server."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    answers = {"hangs up": b"", "garbage": os.urandom(4096), "http/1": b"HTTP/1.1 400 Bad Request\r\n\r\n"}
    if request.param == "absent":
        listener.close()
        yield address
        return
    listener.listen(8)
    if request.param in answers:

        def answer() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(answers[request.param])

        threading.Thread(target=answer, daemon=True).start()
    yield address
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def test_without_a_server_nothing_blocks_nothing_raises_and_everything_is_accounted_for(
    no_server: str, started: Callable[..., Sender]
) -> None:
    sender = started(no_server)
    before = time.monotonic()
    offer(sender, 0, 300)
    assert time.monotonic() - before < 3.0
    wait_until(lambda: sender.state.phase in (Phase.OPENING, Phase.BACKING_OFF))
    report = finish(sender)
    assert (report.delivered, report.undelivered, report.spooled, report.dropped) == (0, 0, 300, {})


@pytest.mark.parametrize("hanging", ["OpenRun", "StreamSteps", "CloseRun"])
def test_a_server_that_hangs_in_a_call_cannot_hold_the_job(
    hanging: str, grpc_server: Callable[..., str], started: Callable[..., Sender]
) -> None:
    release = threading.Event()
    ledger = Ledger()

    def hang(*_: Any) -> Any:
        release.wait(30.0)
        return b""

    def open_run(request: bytes, _: Any) -> bytes:
        return ledger.open(telemetry.OpenRunRequest.FromString(request)).SerializeToString()

    def stream(frames: Iterator[bytes], _: Any) -> Iterator[bytes]:
        try:
            for frame in frames:
                if hanging == "StreamSteps":
                    hang()
                yield ledger.receive(telemetry.StreamStepsRequest.FromString(frame)).SerializeToString()
        except grpc.RpcError:
            return

    methods: dict[str, Any] = {"OpenRun": open_run, "StreamSteps": stream, "CloseRun": hang} | (
        {} if hanging == "StreamSteps" else {hanging: hang}
    )
    sender = started(grpc_server(**methods))
    offer(sender, 0, 20)
    report = finish(sender)
    release.set()
    assert report.delivered == (20 if hanging == "CloseRun" else 0)
    assert report.delivered + report.spooled == 20


def test_memory_stays_bounded_and_nothing_is_lost_while_the_server_is_away(started: Callable[..., Sender]) -> None:
    sender = started(f"127.0.0.1:{unused_port()}", queue_bytes=1024 * 1024)
    for sequence in range(3000):
        sender.offer(make_record(sequence))
        if sequence % 100 == 0:
            wait_until(lambda: sender.state.queued_bytes < 1024 * 1024)
    wait_until(lambda: sender.state.spooled > 1000)
    with RecordingServer(port=int(sender._options.server.partition(":")[2])) as server:
        wait_until(lambda: sender.state.acknowledged == 3000)
        report = finish(sender)
        assert stored(server.ledger) == list(range(3000))
        assert server.ledger.duplicates == 0
    assert (report.delivered, report.spooled, report.dropped) == (3000, 0, {})


def test_without_a_disk_memory_stays_bounded_and_anomalies_survive_while_the_server_is_away(
    started: Callable[..., Sender],
) -> None:
    port = unused_port()
    sender = started(f"127.0.0.1:{port}", queue_bytes=1024 * 1024, spool_dir="/dev/null/nowhere")
    for sequence in range(3000):
        sender.offer(make_record(sequence, nonfinite=NONFINITE if sequence % 100 == 0 else None))
        if sequence % 100 == 0:
            wait_until(lambda: sender.state.queued_bytes < 1024 * 1024)
    assert sender.state.queued_bytes <= 1024 * 1024
    with RecordingServer(port=port) as server:
        report = finish(sender)
        have = set(stored(server.ledger))
        gone = set(server.ledger.dropped())
    assert {sequence for sequence in range(3000) if sequence % 100 == 0} <= have
    assert have | gone == set(range(3000))
    assert not have & gone
    assert report.dropped == {"queue_full": len(gone)}
    assert report.delivered == len(have)


# ------------------------------------------------------------------------------------------------------ small manners


def test_nothing_is_started_before_the_first_record() -> None:
    transport = RecordingTransport()
    sender = Sender(Options(), transport=transport)
    sender.open(lambda: IDENTITY, [make_catalog()])
    assert sender._thread is None
    assert sender.finish("finished", "").complete
    assert transport.ledger.identities == {}


def test_mode_off_does_nothing_at_all() -> None:
    transport = RecordingTransport()
    sender = Sender(Options(mode="off"), transport=transport)
    sender.open(lambda: IDENTITY, [make_catalog()])
    offer(sender, 0, 10)
    sender.checkpoint_saved(1, "x")
    assert sender.state.phase is Phase.INERT
    assert sender.take_notices() == []
    assert sender.take_directives() == []
    assert sender.finish("finished", "").complete
    assert transport.ledger.frames == 0


def test_a_finished_sender_stays_finished() -> None:
    sender = Sender(Options(), transport=RecordingTransport())
    sender.open(lambda: IDENTITY, [make_catalog()])
    offer(sender, 0, 3)
    report = sender.finish("finished", "")
    offer(sender, 3, 5)
    assert sender.finish("failed", "again") is report
    assert report.delivered == 3


def test_a_checkpoint_that_cannot_be_told_is_said_and_does_not_raise(caplog: pytest.LogCaptureFixture) -> None:
    sender = Sender(Options(), transport=RecordingTransport())
    with caplog.at_level(logging.WARNING, "seismograd"):
        sender.checkpoint_saved("ten", "/x")  # type: ignore[arg-type]  # what a user might do
        sender.checkpoint_saved(1, "lone \ud800")
    assert len(caplog.messages) == 2


def test_a_defect_in_the_sender_is_logged_and_ends_in_silence_not_in_training(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class BrokenTransport(RecordingTransport):
        def open_run(self, *_: Any) -> None:
            raise RuntimeError("a defect")

    sender = Sender(Options(flush_seconds=0.001), transport=BrokenTransport())
    sender.open(lambda: IDENTITY, [make_catalog()])
    with caplog.at_level(logging.ERROR, "seismograd"):
        offer(sender, 0, 3)
        wait_until(lambda: sender.state.phase is Phase.BACKING_OFF)
    offer(sender, 3, 5)
    assert finish(sender).undelivered == 5
    assert any("training goes on" in message for message in caplog.messages)


def test_what_is_not_delivered_is_said_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    sender = Sender(Options(), transport=RecordingTransport())
    sender.open(lambda: None, [make_catalog()])
    offer(sender, 0, 3)
    with caplog.at_level(logging.WARNING, "seismograd"):
        assert sender.finish("finished", "", 0.3).undelivered == 3
    assert any("3 of 3 records were not delivered" in message for message in caplog.messages)


def test_what_is_left_is_in_the_spool_even_where_hanging_up_takes_for_ever(tmp_path: Path) -> None:
    hangs = threading.Event()

    class ClingingTransport(RecordingTransport):
        def open_run(self, *_: Any) -> None:
            """Never answers."""

        def disconnect(self) -> None:
            hangs.wait()

    sender = Sender(Options(spool_dir=tmp_path), transport=ClingingTransport())
    sender.open(lambda: IDENTITY, [make_catalog()])
    offer(sender, 0, 3)
    wait_until(lambda: sender.state.phase is Phase.OPENING)
    report = finish(sender)
    hangs.set()
    assert (report.spooled, report.undelivered) == (3, 0)
