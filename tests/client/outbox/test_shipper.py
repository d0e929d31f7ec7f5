"""The sender's state machine, turn by turn, on a clock that stands still and a transport that the test plays."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seismograd.options import Options
from seismograd.outbox.extras import Extras, HookHealth
from seismograd.outbox.farewell import Finish
from seismograd.outbox.memory import MemoryQueue
from seismograd.outbox.report import Phase
from seismograd.outbox.rings import Rings
from seismograd.outbox.shipper import ACTIVE_SECONDS, POLL_SECONDS, Shipper
from seismograd.outbox.transport import TransportError
from seismograd.record import Nonfinite, RecordKind, RunIdentity, StepRecord
from seismograd_proto.v1 import telemetry
from tests.support.records import IDENTITY, FakeClock, make_catalog, make_record

NONFINITE = Nonfinite(np.zeros(1, np.uint32), *([np.ones(1, np.uint64)] * 3))
HANDLE = 7


@dataclass
class PlayedStream:
    received: Callable[[telemetry.StreamStepsResponse], None]
    ended: Callable[[TransportError], None]
    frames: list[telemetry.StreamStepsRequest] = field(default_factory=list)
    ended_by_client: bool = False
    cancelled: bool = False

    def send(self, frame: bytes) -> None:
        assert not self.cancelled
        assert not self.ended_by_client
        self.frames.append(telemetry.StreamStepsRequest.FromString(frame))

    def end(self) -> None:
        self.ended_by_client = True

    def cancel(self) -> None:
        self.cancelled = True


class PlayedTransport:
    """Remembers what was asked; the test answers."""

    def __init__(self) -> None:
        self.opens: list[tuple[telemetry.OpenRunRequest, Callable[[Any], None]]] = []
        self.closes: list[tuple[telemetry.CloseRunRequest, Callable[[Any], None]]] = []
        self.streams: list[PlayedStream] = []
        self.disconnects = 0

    def open_run(self, request: Any, timeout_seconds: float, done: Callable[[Any], None]) -> None:
        assert timeout_seconds > 0
        self.opens.append((request, done))

    def start_stream(self, received: Any, ended: Any) -> PlayedStream:
        self.streams.append(PlayedStream(received, ended))
        return self.streams[-1]

    def close_run(self, request: Any, timeout_seconds: float, done: Callable[[Any], None]) -> None:
        assert timeout_seconds >= 0
        self.closes.append((request, done))

    def disconnect(self) -> None:
        self.disconnects += 1


class Bench:
    """A shipper with everything around it."""

    def __init__(self, jitter: float = 1.0, **options: Any) -> None:
        self.clock = FakeClock()
        self.transport = PlayedTransport()
        self.queue = MemoryQueue(10**8, wake_after=16)
        self.extras = Extras()
        self.posted: list[Callable[[], None]] = []
        self.identity: RunIdentity | None = IDENTITY
        self.shipper = Shipper(
            options=Options(**options),
            queue=self.queue,
            extras=self.extras,
            transport=self.transport,
            clock=self.clock,
            uniform=lambda: jitter,
            identity=lambda: self.identity,
            post=self.posted.append,
            rings=Rings(),
        )

    def turn(self, seconds: float = 0.0) -> float:
        """Lets time pass, then makes the calls that arrived and a turn, as the thread does."""
        self.clock.advance(seconds)
        while self.posted:
            self.posted.pop(0)()
        return self.shipper.turn()

    def offer(self, *records: StepRecord) -> None:
        for record in records:
            self.queue.offer(record)

    def opened(self, *marks: tuple[int, int], handle: int = HANDLE) -> PlayedStream:
        """Answers the pending OpenRun with watermarks (accepted, durable) of stream 0, and makes a turn."""
        response = telemetry.OpenRunResponse(rank_handle=handle, watermarks=[watermark(*mark) for mark in marks])
        self.transport.opens[-1][1](response)
        self.turn()
        return self.transport.streams[-1]

    def connect(self) -> PlayedStream:
        self.turn()
        stream = self.opened()
        stream.frames.clear()  # the sign of life
        self.clock.advance(0.1)  # the least time between two frames
        return stream

    def refuse_open(self, code: str, details: str = "", retry_after: float | None = None) -> None:
        self.transport.opens[-1][1](TransportError(code, details, retry_after))
        self.turn()

    def ack(self, accepted: int, durable: int, **more: Any) -> None:
        response = telemetry.StreamStepsResponse(watermarks=[watermark(accepted, durable)], **more)
        self.transport.streams[-1].received(response)
        self.turn()

    def break_stream(self, code: str = "UNAVAILABLE", details: str = "") -> None:
        self.transport.streams[-1].ended(TransportError(code, details))
        self.turn()

    def end_stream(self) -> None:
        """The server has taken and answered everything."""
        assert self.transport.streams[-1].ended_by_client
        self.break_stream("OK", "the server ended the stream")

    def phase(self) -> Phase:
        return self.shipper.phase

    def finish(self, timeout: float = 2.0) -> None:
        self.shipper.finish(Finish("finished", "", self.clock.now + timeout, timeout))
        self.turn()


def watermark(accepted: int, durable: int, handle: int = HANDLE) -> telemetry.Watermark:
    return telemetry.Watermark(
        rank_handle=handle,
        optimizer=0,
        kind=telemetry.RECORD_KIND_STEP,
        accepted_sequence=accepted,
        durable_sequence=durable,
    )


def sent(stream: PlayedStream) -> list[list[int]]:
    """Sequences by frame, frames without records left out."""
    found = [
        [batch.first_sequence + row for batch in frame.batches for row in range(batch.count)] for frame in stream.frames
    ]
    return [sequences for sequences in found if sequences]


def records(first: int, end: int, **changes: Any) -> list[StepRecord]:
    return [make_record(sequence, **changes) for sequence in range(first, end)]


# ------------------------------------------------------------------------------------------------------------- frames


def test_a_frame_leaves_at_sixteen_steps() -> None:
    bench = Bench()
    stream = bench.connect()
    bench.offer(*records(0, 15))
    bench.turn()
    assert sent(stream) == []
    bench.offer(make_record(15))
    bench.turn()
    assert sent(stream) == [list(range(16))]


def test_a_frame_leaves_after_half_a_second() -> None:
    bench = Bench()
    stream = bench.connect()
    bench.offer(make_record(0))
    assert bench.turn() <= 0.05
    bench.turn(0.49)
    assert sent(stream) == []
    bench.turn(0.011)
    assert sent(stream) == [[0]]


def test_a_frame_leaves_at_its_size_in_bytes() -> None:
    bench = Bench(flush_bytes=100_000)
    stream = bench.connect()
    bench.offer(*records(0, 2, parameters=10_000))
    bench.turn()
    assert sent(stream) == []
    bench.offer(make_record(2, parameters=10_000))
    bench.turn()
    assert sent(stream) == [[0, 1, 2]]


@pytest.mark.parametrize("anomaly", [{"nonfinite": NONFINITE}, {"norm": 11.0}])
def test_an_anomaly_leaves_at_once_even_behind_an_outstanding_ack(anomaly: dict[str, Any]) -> None:
    bench = Bench()
    stream = bench.connect()
    bench.offer(*records(0, 16))
    bench.turn()
    bench.offer(make_record(16, **anomaly))
    bench.turn()
    assert sent(stream) == [list(range(16)), [16]]


def test_the_frame_grows_while_an_ack_is_outstanding() -> None:
    bench = Bench()
    stream = bench.connect()
    bench.offer(*records(0, 16))
    bench.turn()
    for first in range(16, 96, 16):
        bench.offer(*records(first, first + 16))
        bench.turn(1.0)
    assert sent(stream) == [list(range(16))]
    bench.ack(16, 0)
    assert sent(stream)[1:] == [list(range(16, 96))]


def test_frames_of_fast_steps_are_a_tenth_of_a_second_apart() -> None:
    bench = Bench()
    stream = bench.connect()
    bench.offer(*records(0, 16))
    bench.turn()
    bench.ack(16, 16)
    bench.offer(*records(16, 64))
    bench.turn(0.09)
    assert sent(stream) == [list(range(16))]
    bench.turn(0.011)
    assert sent(stream)[1:] == [list(range(16, 64))]


def test_a_backlog_of_whole_frames_is_sent_as_fast_as_acks_come() -> None:
    bench = Bench(queue_bytes=1024 * 1024)
    bench.offer(*records(0, 300))
    bench.turn()
    stream = bench.opened()
    for _ in range(2):
        bench.ack(max(sent(stream)[-1]) + 1, max(sent(stream)[-1]) + 1)
    assert len(sent(stream)) == 3
    assert [sequence for frame in sent(stream) for sequence in frame] == list(range(max(sent(stream)[-1]) + 1))


def test_anomalies_without_end_do_not_fill_the_network() -> None:
    bench = Bench()
    stream = bench.connect()
    for sequence in range(10):
        bench.offer(make_record(sequence, nonfinite=NONFINITE))
        bench.turn()
    assert sent(stream) == [[0], [1], [2], [3]]
    bench.ack(4, 4)
    assert sent(stream)[4:] == [list(range(4, 10))]


def test_a_catalog_travels_before_the_first_record_that_uses_it() -> None:
    bench = Bench()
    stream = bench.connect()
    bench.extras.add(make_catalog(version=1, parameters=2))
    bench.offer(make_record(0, catalog_version=1, parameters=2, nonfinite=NONFINITE))
    bench.turn()
    order = [("catalog", frame.catalogs[0].version) if frame.catalogs else ("records", 0) for frame in stream.frames]
    assert order == [("catalog", 1), ("records", 0)]


def test_a_silent_evaluation_gives_a_sign_of_life() -> None:
    bench = Bench()
    stream = bench.connect()
    bench.turn(9.0)
    assert stream.frames == []
    bench.turn(1.1)
    assert [len(frame.health) for frame in stream.frames] == [1]


def test_health_travels_at_most_once_a_second_with_running_totals() -> None:
    bench = Bench()
    stream = bench.connect()
    bench.extras.health = lambda: lambda: HookHealth(0.25, 100, 0.03)
    for sequence in range(3):
        bench.offer(make_record(sequence, nonfinite=NONFINITE))
        bench.turn(0.6)
    assert [len(frame.health) for frame in stream.frames] == [0, 1, 0]
    assert (stream.frames[1].health[0].hook_seconds, stream.frames[1].health[0].hook_calls) == (0.25, 100)
    assert stream.frames[1].health[0].capture_share == 0.03


def test_a_record_that_does_not_fit_the_wire_is_declared_and_the_others_travel(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench()
    stream = bench.connect()
    bench.offer(make_record(0), make_record(1, digest=-1, nonfinite=NONFINITE), make_record(2))
    with caplog.at_level(logging.WARNING, "seismograd"):
        bench.turn()
    assert sent(stream) == [[0, 2]]
    assert [(drop.first_sequence, drop.count, drop.reason) for drop in stream.frames[0].drops] == [
        (1, 1, "encode_error")
    ]
    assert bench.queue.totals().dropped == {"encode_error": 1}
    bench.ack(3, 3)
    assert bench.queue.totals().waiting == 0


# ------------------------------------------------------------------------------------------------- losing a connection


def test_a_reconnect_sends_only_what_is_not_durable() -> None:
    bench = Bench()
    bench.connect()
    bench.offer(*records(0, 16))
    bench.turn()
    bench.ack(16, 10)
    bench.break_stream()
    bench.turn(0.5)
    stream = bench.opened((12, 12))
    bench.turn(0.5)
    assert sent(stream) == [[12, 13, 14, 15]]


def test_an_unknown_handle_opens_the_run_again_under_the_new_one() -> None:
    bench = Bench()
    bench.connect()
    bench.offer(*records(0, 16))
    bench.turn()
    bench.break_stream("NOT_FOUND", "no such handle")
    bench.turn(0.5)
    stream = bench.opened(handle=8)
    assert [batch.rank_handle for frame in stream.frames for batch in frame.batches] == [8]
    assert sent(stream) == [list(range(16))]


def test_while_steps_follow_one_another_their_records_are_looked_for_and_wake_nobody() -> None:
    bench = Bench()
    bench.connect()
    bench.offer(*records(0, 1))
    assert bench.turn() <= POLL_SECONDS
    assert bench.turn(ACTIVE_SECONDS / 2) <= POLL_SECONDS, "the next step is not far"
    bench.ack(1, 1)
    assert bench.turn(ACTIVE_SECONDS) > POLL_SECONDS, "a long evaluation: the next record wakes the sender"


def test_attempts_are_spaced_by_the_back_off_to_the_millisecond() -> None:
    bench = Bench(jitter=0.5)
    bench.turn()
    for delay in (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0):
        bench.refuse_open("UNAVAILABLE", "connection refused")
        attempts = len(bench.transport.opens)
        bench.turn(delay - 0.001)
        assert len(bench.transport.opens) == attempts
        bench.turn(0.001)
        assert len(bench.transport.opens) == attempts + 1


def test_the_back_off_starts_again_after_progress_and_not_after_a_mere_connection() -> None:
    bench = Bench()
    bench.turn()
    bench.refuse_open("UNAVAILABLE")
    bench.turn(0.5)
    bench.offer(*records(0, 16))
    bench.opened()
    bench.break_stream()
    attempts = len(bench.transport.opens)
    bench.turn(0.999)
    assert len(bench.transport.opens) == attempts
    bench.turn(0.001)
    assert len(bench.transport.opens) == attempts + 1
    bench.opened()
    bench.ack(16, 16)
    bench.break_stream()
    bench.turn()
    attempts = len(bench.transport.opens)
    bench.turn(0.499)
    assert len(bench.transport.opens) == attempts
    bench.turn(0.001)
    assert len(bench.transport.opens) == attempts + 1


def test_retry_info_of_a_refusal_is_honoured() -> None:
    bench = Bench()
    bench.turn()
    bench.refuse_open("UNAVAILABLE", "disk full", retry_after=7.0)
    bench.turn(6.9)
    assert len(bench.transport.opens) == 1
    bench.turn(0.1)
    assert len(bench.transport.opens) == 2


def test_a_pause_asked_for_by_an_ack_is_honoured() -> None:
    bench = Bench()
    stream = bench.connect()
    bench.offer(*records(0, 16))
    bench.turn()
    bench.ack(16, 16, retry_after_milliseconds=3000)
    bench.offer(*records(16, 64))
    bench.turn(2.9)
    assert len(sent(stream)) == 1
    bench.turn(0.1)
    assert sent(stream)[1:] == [list(range(16, 64))]


def test_a_refused_token_pauses_for_a_minute_and_keeps_everything(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.offer(*records(0, 3))
    bench.turn()
    with caplog.at_level(logging.WARNING, "seismograd"):
        bench.refuse_open("UNAUTHENTICATED", "token revoked")
        bench.turn(59.0)
        assert len(bench.transport.opens) == 1
        bench.turn(1.0)
        bench.refuse_open("UNAUTHENTICATED", "token revoked")
    assert bench.queue.totals().waiting == 3
    assert len([line for line in caplog.messages if "token revoked" in line]) == 1


@pytest.mark.parametrize("code", ["ALREADY_EXISTS", "FAILED_PRECONDITION", "INVALID_ARGUMENT"])
def test_a_final_refusal_is_said_once_in_the_servers_words_and_ends_the_sending(
    code: str, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench()
    bench.offer(*records(0, 3))
    bench.turn()
    with caplog.at_level(logging.ERROR, "seismograd"):
        bench.refuse_open(code, "rank 0 of launch-9 is held by node7, process 55")
        bench.offer(*records(3, 5))
        bench.turn(3600.0)
    assert bench.phase() is Phase.STOPPED
    assert len(bench.transport.opens) == 1
    assert bench.queue.totals().dropped == {"rejected": 5}
    assert [line for line in caplog.messages if "rank 0 of launch-9 is held by node7, process 55" in line]
    assert len(caplog.messages) == 1


def test_a_malformed_run_is_dropped_only_when_its_records_are_on_no_disk(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.shipper._spool = lambda: folder
    folder: Path | None = Path("/spool/7")
    bench.offer(*records(0, 3))
    bench.turn()
    bench.refuse_open("INVALID_ARGUMENT", "tags[commit] holds control characters: remove them")
    bench.offer(*records(3, 5))
    bench.turn(3600.0)
    assert (bench.phase(), bench.queue.totals().waiting, bench.queue.totals().dropped) == (Phase.STOPPED, 5, {})
    assert "`seismograd sync /spool/7`" in caplog.text
    folder = None  # somebody has cleaned up
    bench.turn(5.0)
    assert bench.queue.totals().dropped == {"rejected": 5}


def test_an_absent_server_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.turn()
    with caplog.at_level(logging.WARNING, "seismograd"):
        for _ in range(5):
            bench.refuse_open("UNAVAILABLE", "connection refused")
            bench.turn(60.0)
    assert len(caplog.messages) == 1
    assert "localhost:7450" in caplog.messages[0]
    assert "training goes on" in caplog.messages[0]


def test_a_server_that_owes_an_ack_for_half_a_minute_is_given_up() -> None:
    bench = Bench()
    stream = bench.connect()
    bench.offer(*records(0, 16))
    bench.turn()
    bench.turn(29.0)
    assert not stream.cancelled
    bench.turn(1.1)
    assert bench.transport.streams[0].cancelled
    assert bench.phase() is Phase.BACKING_OFF
    assert "no ack" in bench.shipper.last_error


def test_a_frame_that_is_too_large_is_halved_and_a_lone_record_is_dropped_at_last() -> None:
    bench = Bench(jitter=0.0)
    bench.connect()
    bench.offer(*records(0, 16))
    bench.turn()
    sizes = []
    for _ in range(5):
        sizes.append(len(sent(bench.transport.streams[-1])[0]))
        bench.break_stream("RESOURCE_EXHAUSTED", "Received message larger than max (5000000 vs. 4194304)")
        bench.turn()
        bench.opened()
        bench.turn(0.5)
    assert sizes == [16, 8, 4, 2, 1]
    assert bench.queue.totals().dropped == {"too_large": 1}
    frames = bench.transport.streams[-1].frames
    assert [(drop.first_sequence, drop.reason) for frame in frames for drop in frame.drops] == [(0, "too_large")]


def test_a_quota_is_no_reason_to_drop_anything() -> None:
    bench = Bench()
    bench.connect()
    bench.offer(*records(0, 16))
    bench.turn()
    for _ in range(6):
        bench.break_stream("RESOURCE_EXHAUSTED", "too many streams")
        bench.turn(60.0)
        bench.opened()
    assert bench.queue.totals().dropped == {}
    assert sent(bench.transport.streams[-1]) == [list(range(16))]


def test_what_an_earlier_connection_says_late_is_ignored() -> None:
    bench = Bench()
    old = bench.connect()
    bench.offer(*records(0, 16))
    bench.turn()
    bench.break_stream()
    bench.turn(0.5)
    bench.opened()
    old.received(telemetry.StreamStepsResponse(watermarks=[watermark(16, 16)]))
    old.ended(TransportError("UNAVAILABLE", "late"))
    bench.turn()
    assert bench.queue.totals().delivered == 0
    assert bench.phase() is Phase.STREAMING


def test_an_answer_without_a_handle_is_no_connection() -> None:
    bench = Bench()
    bench.turn()
    bench.transport.opens[-1][1](telemetry.OpenRunResponse())
    bench.turn()
    assert bench.phase() is Phase.BACKING_OFF
    assert "seismograd server" in bench.shipper.last_error


# -------------------------------------------------------------------------------------------------- what a server says


def test_rejected_records_are_counted_said_once_and_do_not_stall_the_stream(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.connect()
    bench.offer(*records(0, 16))
    bench.turn()
    rejection = telemetry.Rejection(
        rank_handle=HANDLE,
        kind=telemetry.RECORD_KIND_STEP,
        first_sequence=3,
        count=2,
        field="gradient_norms",
        message="has 4 values, expected 5",
    )
    with caplog.at_level(logging.WARNING, "seismograd"):
        bench.ack(16, 16, rejections=[rejection])
    totals = bench.queue.totals()
    assert (totals.delivered, totals.waiting, totals.dropped) == (14, 0, {"rejected": 2})
    assert "gradient_norms: has 4 values, expected 5" in caplog.messages[0]


def test_lies_about_other_ranks_unknown_streams_and_the_future_lose_nothing() -> None:
    bench = Bench()
    bench.connect()
    bench.offer(*records(0, 16))
    bench.turn()
    bench.offer(*records(16, 20))
    response = telemetry.StreamStepsResponse(
        watermarks=[
            watermark(16, 16, handle=99),
            telemetry.Watermark(rank_handle=HANDLE, optimizer=5, kind=telemetry.RECORD_KIND_STEP, durable_sequence=9),
            telemetry.Watermark(rank_handle=HANDLE, kind=telemetry.RECORD_KIND_UNSPECIFIED, durable_sequence=9),
            watermark(2**63, 2**63),
        ],
        rejections=[
            telemetry.Rejection(rank_handle=99, kind=telemetry.RECORD_KIND_STEP, first_sequence=0, count=2**63),
            telemetry.Rejection(rank_handle=HANDLE, kind=telemetry.RECORD_KIND_UNSPECIFIED, count=2**63),
        ],
        directives=[telemetry.Directive(directive_id="d", kind=telemetry.DIRECTIVE_KIND_UNSPECIFIED)],
    )
    bench.transport.streams[-1].received(response)
    bench.turn()
    totals = bench.queue.totals()
    assert (totals.delivered, totals.waiting, totals.dropped) == (16, 4, {})
    assert bench.shipper.inbound.take_directives() == []


def test_alerts_and_directives_are_kept_for_the_job_in_order() -> None:
    bench = Bench()
    bench.connect()
    alert = telemetry.AlertNotice(alert_id="a1", signature="runaway", severity="critical", state="firing", step=40)
    directive = telemetry.Directive(directive_id="d1", kind=telemetry.DIRECTIVE_KIND_STOP, reason="runaway")
    bench.transport.streams[-1].received(telemetry.StreamStepsResponse(alerts=[alert, alert], directives=[directive]))
    bench.turn()
    notices = bench.shipper.inbound.take_notices()
    assert [(notice.alert_id, notice.signature, notice.step) for notice in notices] == [("a1", "runaway", 40)] * 2
    assert [each.directive_id for each in bench.shipper.inbound.take_directives()] == ["d1"]
    assert bench.shipper.inbound.take_notices() == []


def test_the_skew_of_the_clocks_is_reported() -> None:
    bench = Bench()
    bench.turn()
    server_time = bench.clock.unix_seconds() - 30.0
    bench.clock.advance(2.0)
    bench.transport.opens[-1][1](telemetry.OpenRunResponse(rank_handle=HANDLE, server_time_unix_seconds=server_time))
    bench.turn()
    health = bench.transport.streams[-1].frames[0].health[0]
    assert health.clock_skew_seconds == pytest.approx(31.0)


def test_a_checkpoint_is_told_again_until_a_frame_behind_it_is_durable() -> None:
    bench = Bench()
    first = bench.connect()
    bench.extras.add(telemetry.CheckpointEvent(step=5, path="/c/5.pt"))
    bench.turn()
    assert [(event.step, event.rank_handle) for event in first.frames[0].checkpoints] == [(5, HANDLE)]
    bench.break_stream()
    bench.turn(0.5)
    second = bench.opened()
    assert [event.step for frame in second.frames for event in frame.checkpoints] == [5]
    bench.offer(*records(0, 16))
    bench.turn(0.1)
    bench.ack(16, 16)
    bench.break_stream()
    bench.turn(0.5)
    third = bench.opened((16, 16))
    assert [event.step for frame in third.frames for event in frame.checkpoints] == []


def test_every_connection_is_told_the_catalogs_that_records_still_need() -> None:
    bench = Bench()
    for version in range(3):
        bench.extras.add(make_catalog(version))
    bench.offer(make_record(0, catalog_version=0), make_record(1, catalog_version=1))
    bench.connect()
    assert [catalog.version for catalog in bench.transport.opens[-1][0].catalogs] == [0, 1, 2]
    bench.turn(0.5)
    bench.ack(1, 1)
    bench.break_stream()
    bench.turn(0.5)
    assert [catalog.version for catalog in bench.transport.opens[-1][0].catalogs] == [1, 2]


# ------------------------------------------------------------------------------------------------ beginning and ending


def test_the_identity_is_asked_for_until_the_launch_agrees() -> None:
    bench = Bench()
    bench.identity = None
    bench.turn()
    bench.turn(0.5)
    assert bench.transport.opens == []
    bench.identity = IDENTITY
    bench.turn(0.5)
    assert bench.transport.opens[0][0].run == "lstm-7"


def test_an_identity_that_raises_is_said_once_and_asked_for_again(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()

    def broken() -> RunIdentity:
        raise TimeoutError("store")

    bench.shipper._ask_identity = broken
    with caplog.at_level(logging.WARNING, "seismograd"):
        bench.turn()
        bench.turn(0.5)
    assert len(caplog.messages) == 1
    assert bench.phase() is Phase.WAITING


def test_the_end_sends_what_is_left_waits_for_it_and_says_goodbye() -> None:
    bench = Bench()
    stream = bench.connect()
    bench.offer(*records(0, 3))
    bench.finish()
    assert sent(stream) == [[0, 1, 2]]
    assert bench.transport.closes == []
    bench.ack(3, 3)
    assert bench.transport.closes == []
    bench.end_stream()
    assert [request.rank_handle for request, _ in bench.transport.closes] == [HANDLE]
    bench.transport.closes[0][1](telemetry.CloseRunResponse())
    bench.turn()
    assert bench.phase() is Phase.DONE
    assert stream.cancelled


def test_what_is_said_last_is_taken_before_the_goodbye_hangs_up() -> None:
    bench = Bench()
    stream = bench.connect()
    bench.extras.add(telemetry.CheckpointEvent(step=3, path="/last.pt"))
    bench.finish()
    assert [event.path for frame in stream.frames for event in frame.checkpoints] == ["/last.pt"]
    assert (bench.phase(), bench.transport.closes, stream.cancelled) == (Phase.DRAINING, [], False)
    bench.end_stream()
    assert (bench.phase(), len(bench.transport.closes), stream.cancelled) == (Phase.CLOSING, 1, False)


def test_what_is_said_last_is_told_again_when_the_stream_breaks_before_it_is_taken() -> None:
    bench = Bench(jitter=0.0)
    bench.connect()
    bench.extras.add(telemetry.CheckpointEvent(step=3, path="/last.pt"))
    bench.finish()
    bench.break_stream()
    bench.turn(0.2)
    stream = bench.opened()
    assert [event.path for frame in stream.frames for event in frame.checkpoints] == ["/last.pt"]
    bench.end_stream()
    assert len(bench.transport.closes) == 1


@pytest.mark.parametrize(("codes", "opens"), [(["FAILED_PRECONDITION"], 1), (["UNAVAILABLE", "UNAVAILABLE"], 2)])
def test_who_will_not_end_a_stream_in_peace_gets_the_goodbye_all_the_same(codes: list[str], opens: int) -> None:
    bench = Bench(jitter=0.0)
    bench.connect()
    bench.finish()
    bench.break_stream(codes[0])
    for code in codes[1:]:
        bench.turn(0.2)
        bench.opened()
        bench.break_stream(code)
    assert (bench.phase(), len(bench.transport.opens), len(bench.transport.closes)) == (Phase.CLOSING, opens, 1)


def test_a_server_that_never_ends_the_stream_gets_a_goodbye_in_the_last_quarter_of_the_time() -> None:
    bench = Bench()
    bench.connect()
    bench.finish(timeout=2.0)
    bench.turn(1.49)
    assert (bench.phase(), bench.transport.closes) == (Phase.DRAINING, [])
    bench.turn(0.02)
    assert len(bench.transport.closes) == 1
    bench.turn(0.5)
    assert bench.phase() is Phase.DONE


def test_a_process_that_could_not_say_how_it_ended_is_not_closed() -> None:
    for taken in (True, False):
        bench = Bench()
        bench.connect()
        bench.shipper.finish(Finish(None, "", bench.clock.now + 2.0, 2.0))
        bench.turn()
        assert bench.phase() is Phase.DRAINING
        if taken:
            bench.end_stream()
        else:
            bench.turn(2.0)
        assert (bench.phase(), bench.shipper.settled, bench.transport.closes) == (Phase.DONE, taken, [])


def test_a_failed_job_says_so() -> None:
    bench = Bench()
    bench.connect()
    bench.shipper.finish(Finish("failed", "RuntimeError: out of memory", bench.clock.now + 2.0, 2.0))
    bench.turn()
    bench.end_stream()
    request = bench.transport.closes[0][0]
    assert (request.outcome, request.reason) == (telemetry.RANK_OUTCOME_FAILED, "RuntimeError: out of memory")


def test_a_server_without_acks_gets_a_goodbye_in_the_last_quarter_of_the_time() -> None:
    bench = Bench()
    bench.connect()
    bench.offer(*records(0, 3))
    bench.finish(timeout=2.0)
    bench.turn(1.49)
    assert bench.transport.closes == []
    bench.turn(0.02)
    assert len(bench.transport.closes) == 1
    bench.turn(0.5)
    assert bench.phase() is Phase.DONE
    assert bench.queue.totals().waiting == 3


def test_the_last_watermarks_may_come_with_the_goodbye() -> None:
    bench = Bench()
    bench.connect()
    bench.offer(*records(0, 3))
    bench.finish()
    bench.turn(1.6)
    bench.transport.closes[0][1](telemetry.CloseRunResponse(watermarks=[watermark(3, 3)]))
    bench.turn()
    assert bench.queue.totals().delivered == 3


def test_the_end_interrupts_the_back_off_for_one_last_attempt() -> None:
    bench = Bench()
    bench.turn()
    bench.offer(*records(0, 3))
    for _ in range(6):
        bench.refuse_open("UNAVAILABLE")
        bench.turn(60.0)
    bench.refuse_open("UNAVAILABLE")
    attempts = len(bench.transport.opens)
    bench.finish()
    assert len(bench.transport.opens) == attempts + 1
    bench.refuse_open("UNAVAILABLE")
    assert bench.phase() is Phase.DONE


def test_an_attempt_that_began_before_the_end_is_not_the_last_one() -> None:
    bench = Bench()
    bench.offer(*records(0, 3))
    bench.turn()
    assert bench.phase() is Phase.OPENING
    bench.finish()
    for attempts in (1, 2):
        assert (len(bench.transport.opens), bench.phase()) == (attempts, Phase.OPENING)
        bench.refuse_open("UNAVAILABLE")
        bench.turn(0.2)
    assert bench.phase() is Phase.DONE


def test_a_server_that_restarts_while_the_job_ends_gets_everything() -> None:
    bench = Bench()
    bench.connect()
    bench.offer(*records(0, 3))
    bench.finish()
    bench.break_stream()
    bench.turn(0.2)
    bench.refuse_open("UNAVAILABLE")
    bench.turn(0.2)
    stream = bench.opened()
    assert sent(stream) == [[0, 1, 2]]
    bench.ack(3, 3)
    bench.end_stream()
    bench.transport.closes[0][1](telemetry.CloseRunResponse())
    bench.turn()
    assert bench.phase() is Phase.DONE


def test_a_stopped_sender_ends_at_once() -> None:
    bench = Bench()
    bench.turn()
    bench.refuse_open("ALREADY_EXISTS", "taken")
    bench.finish()
    assert bench.phase() is Phase.DONE


def test_the_deadline_holds_while_a_connection_is_being_made() -> None:
    bench = Bench()
    bench.offer(make_record(0))
    bench.turn()
    bench.finish(timeout=2.0)
    bench.turn(1.99)
    assert bench.phase() is Phase.OPENING
    assert bench.turn(0.01) == 0.0
    assert bench.phase() is Phase.DONE


def test_kinds_of_records_travel_as_streams_of_their_own() -> None:
    bench = Bench()
    stream = bench.connect()
    bench.offer(make_record(0), make_record(0, kind=RecordKind.DETAIL), make_record(0, optimizer=1))
    bench.turn()
    bench.turn(0.5)
    keys = [(batch.optimizer, batch.kind, batch.count) for batch in stream.frames[0].batches]
    assert keys == [(0, 1, 1), (1, 1, 1), (0, 2, 1)]


def test_a_record_that_does_not_fit_the_wire_takes_no_neighbour_with_it(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    stream = bench.connect()
    bench.offer(*records(0, 7), make_record(7, flags=2**40), *records(8, 16))
    bench.turn()
    assert [sequence for frame in sent(stream) for sequence in frame] == [*range(7), *range(8, 16)]
    assert [(drop.first_sequence, drop.count, drop.reason) for drop in stream.frames[0].drops] == [
        (7, 1, "encode_error")
    ]
    assert bench.queue.totals().dropped == {"encode_error": 1}
    assert "step 7" in caplog.text


def test_a_record_whose_data_cannot_be_named_on_the_wire_travels_without_that() -> None:
    bench = Bench()
    stream = bench.connect()
    bench.offer(*records(0, 7, data_ids="a.wav"), make_record(7, data_ids="caf\udce9.wav"), *records(8, 16))
    bench.turn()
    assert [sequence for frame in sent(stream) for sequence in frame] == list(range(16))
    named = [batch.first_sequence + each.row for batch in stream.frames[0].batches for each in batch.data_ids]
    assert named == list(range(7))
    assert bench.queue.totals().dropped == {}
