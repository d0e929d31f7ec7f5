"""The flight recorder's other half: windows frozen out of the rings, delivered beside the steps, answered once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seismograd.outbox.queue import StreamMark
from seismograd.outbox.recorder import Recorder
from seismograd.outbox.ring import Ring
from seismograd.outbox.rings import Rings
from seismograd.outbox.spooled import SpooledQueue
from seismograd.outbox.streamlog import StreamName
from seismograd.record import Directive, DirectiveAnswer, DirectiveKind, RecordKind, StepRecord, Travels
from tests.support.records import make_record

DETAIL = StreamName(RecordKind.DETAIL, 0)
MEBIBYTE = 2**20


class Bench:
    """A recorder over a real ring and queue; `deliver` is the server that makes everything durable."""

    def __init__(self, ring_bytes: int = MEBIBYTE, most_bytes: int = MEBIBYTE) -> None:
        self.queue = SpooledQueue(8 * MEBIBYTE, 16)
        self.queue.rings.add(0, Ring(None, ring_bytes))
        self.answers: list[DirectiveAnswer] = []
        self.recorder = Recorder(self.queue.rings, self.queue, self.answers.append, most_bytes)
        self.details: list[StepRecord] = []
        self.steps = 0

    def train(self, count: int, **changes: Any) -> None:
        for step in range(self.steps, self.steps + count):
            self.queue.offer(make_record(step, **changes))
        self.steps += count

    def ask(self, name: str, first: int, last: int) -> None:
        self.recorder.ask(Directive(name, DirectiveKind.CAPTURE_MORE, "runaway", "a", first, last))

    def turn(self, *, hurry: bool = False) -> int:
        """A turn of the sender and its frame. Returns the number of details in the frame."""
        self.queue.absorb(0.0)
        self.recorder.turn(hurry=hurry)
        self.queue.absorb(0.0)
        parcel = self.queue.take(10_000, 64 * MEBIBYTE)
        found = parcel.records.get(DETAIL, [])
        self.details += found
        for stream, end in parcel.ends.items():
            self.queue.confirm(StreamMark(stream, end, end))
        return len(found)

    def settle(self) -> None:
        while self.turn():
            pass
        self.turn()

    def delivered(self) -> list[int]:
        return [record.step for record in self.details]

    def reasons(self) -> list[tuple[str, str, str]]:
        return [(each.directive_id, each.outcome, each.reason) for each in self.answers]


def test_a_window_before_and_after_is_delivered_once_and_then_answered() -> None:
    bench = Bench()
    bench.train(100)
    bench.ask("d", 80, 119)
    bench.settle()
    assert bench.delivered() == list(range(80, 100))
    assert not bench.answers, "the window is not over yet"
    for _ in range(5):
        bench.train(6)
        bench.ask("d", 80, 119)
        bench.settle()
    assert bench.delivered() == list(range(80, 120))
    assert [record.sequence for record in bench.details] == list(range(40))
    assert bench.reasons() == [("d", "applied", "40 records of steps 80 to 119")]
    bench.ask("d", 80, 119)
    bench.settle()
    assert len(bench.answers) == 1


def test_a_second_window_extends_the_first_and_no_step_comes_twice() -> None:
    bench = Bench()
    bench.train(100)
    bench.ask("a", 90, 104)
    bench.turn()
    bench.train(3)
    bench.ask("b", 85, 109)
    bench.train(17)
    bench.settle()
    assert sorted(bench.delivered()) == list(range(85, 110))
    assert len(bench.details) == 25
    assert [(name, reason) for name, _, reason in bench.reasons()] == [
        ("a", "15 records of steps 90 to 104"),
        ("b", "25 records of steps 85 to 109"),
    ]


def test_details_hold_what_the_steps_left_out() -> None:
    bench = Bench()
    bench.train(10, travels=Travels.LOCAL, total_norm=7.0, digest=3)
    bench.ask("d", 0, 9)
    bench.settle()
    for record in bench.details:
        assert (record.kind, record.travels, record.digest) == (RecordKind.DETAIL, Travels.ALL, 3)
        assert record.total_norm is None, "the row says it"
        assert record.gradient_norms is not None
        assert record.gradient_norms.tolist() == [0.5] * 4


def test_what_was_overwritten_is_said_and_a_window_that_is_gone_is_refused() -> None:
    bench = Bench(ring_bytes=4096)
    bench.train(200)
    bench.turn()
    ring = bench.queue.rings.of(0)
    assert ring is not None
    oldest = ring.oldest
    assert oldest > 100
    bench.ask("gone", 10, oldest - 1)
    assert bench.reasons() == [("gone", "refused", f"too old: the recorder begins at step {oldest}")]
    bench.ask("partly", 10, 199)
    bench.settle()
    assert bench.reasons()[1:] == [
        ("partly", "applied", f"{200 - oldest} records of steps 10 to 199, those before step {oldest} were overwritten")
    ]


def test_where_there_is_no_recorder_nothing_is_waited_for() -> None:
    answers: list[DirectiveAnswer] = []
    recorder = Recorder(Rings(), SpooledQueue(MEBIBYTE, 16), answers.append, MEBIBYTE)
    recorder.ask(Directive("d", DirectiveKind.CAPTURE_MORE, "", "", 0, 9))
    recorder.turn()
    recorder.end()
    assert [(each.directive_id, each.outcome) for each in answers] == [("d", "refused")]
    assert recorder.sample_until is None


def test_a_window_before_the_first_step_is_of_what_there_is() -> None:
    bench = Bench()
    bench.train(20)
    bench.ask("d", -40, 15)
    bench.settle()
    assert bench.reasons() == [("d", "applied", "16 records of steps -40 to 15")]


def test_one_portion_is_on_its_way_at_a_time_and_ordinary_records_go_first() -> None:
    bench = Bench(ring_bytes=16 * MEBIBYTE, most_bytes=16 * MEBIBYTE)
    wide = {"gradient_norms": np.ones(5000, np.float32), "parameters": 5000}
    bench.train(100, **wide)
    bench.ask("d", 0, 99)
    assert 0 < bench.turn() < 12, "of 20 kB each"
    # The server owes an ack: nothing more is handed over, however often one looks.
    bench.recorder.turn()
    bench.queue.absorb(0.0)
    held = bench.queue.unsent().records
    for _ in range(10):
        bench.recorder.turn()
        bench.queue.absorb(0.0)
    assert bench.queue.unsent().records == held < 12
    bench.settle()
    assert bench.delivered() == list(range(100))


def test_what_does_not_fit_into_memory_is_left_out_and_counted() -> None:
    bench = Bench(most_bytes=20_000)
    bench.train(100)
    bench.ask("d", 0, 99)
    bench.settle()
    kept = len(bench.details)
    assert 0 < kept < 100
    assert bench.delivered() == list(range(100 - kept, 100)), "the latest"
    assert bench.reasons() == [
        ("d", "applied", f"{kept} records of steps 0 to 99, {100 - kept} did not fit into memory")
    ]


def test_a_defect_costs_the_details_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench()
    bench.train(20)
    bench.ask("d", 0, 40)
    monkeypatch.setattr("seismograd.outbox.recorder.record_size", lambda _record: 1 / 0)
    for _ in range(3):
        bench.train(5)
        bench.turn()
    assert caplog.text.count("a defect in the flight recorder") == 1
    assert bench.recorder.idle
    assert bench.recorder.sample_until is None
    assert bench.queue.totals().waiting == 0, "ordinary records went as ever"


def test_steps_that_follow_are_sampled_whole_within_a_bound() -> None:
    bench = Bench()
    bench.train(100)
    until = []
    for last in (99, 130, 10**9, 120):
        bench.ask(f"d{last}", 50, last)
        until.append(bench.recorder.sample_until)
    assert until == [None, 130, 99 + 256, 99 + 256]


def test_a_directive_before_the_first_step_waits_for_it() -> None:
    bench = Bench()
    bench.ask("early", 0, 4)
    bench.settle()
    assert not bench.answers
    assert bench.recorder.sample_until == 4
    bench.train(6)
    bench.settle()
    assert bench.reasons() == [("early", "applied", "5 records of steps 0 to 4")]


def test_at_the_end_everything_is_answered_with_what_there_was() -> None:
    bench = Bench()
    bench.train(100)
    bench.ask("open", 90, 150)
    bench.turn(hurry=True)
    bench.recorder.end()
    assert bench.reasons() == [("open", "applied", "10 records of steps 90 to 150, the run ended")]
    assert bench.answers[0].step == 99
    assert bench.delivered() == list(range(90, 100))

    cut = Bench()
    cut.train(10)
    cut.queue.absorb(0.0)
    cut.ask("cut", 0, 9)
    cut.recorder.end()
    assert cut.reasons() == [("cut", "applied", "10 records of steps 0 to 9, 10 were not delivered in time")]
    assert cut.recorder.idle


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_whatever_is_asked_each_step_of_the_windows_comes_once_and_each_directive_is_answered_once(
    data: st.DataObject,
) -> None:
    bench = Bench()
    wanted: set[int] = set()
    names = 0
    for _ in range(data.draw(st.integers(1, 8))):
        bench.train(data.draw(st.integers(0, 20)))
        if data.draw(st.booleans()):
            first = data.draw(st.integers(0, 100))
            last = first + data.draw(st.integers(0, 40))
            bench.ask(f"d{names}", first, last)
            names += 1
            wanted |= set(range(first, last + 1))
        if data.draw(st.booleans()):
            bench.turn()
    bench.train(160)
    bench.settle()
    assert sorted(bench.delivered()) == sorted(step for step in wanted if step < bench.steps)
    assert [record.sequence for record in bench.details] == list(range(len(bench.details)))
    assert sorted(_names(bench.answers)) == sorted(f"d{index}" for index in range(names))


def _names(answers: Iterable[DirectiveAnswer]) -> list[str]:
    return [answer.directive_id for answer in answers]
