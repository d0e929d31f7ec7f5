"""Sequence bookkeeping: every record is in exactly one place, whatever the order of events."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from seismograd.outbox.streamlog import Gap, Item, StreamLog
from tests.support.records import make_record


def arrive(log: StreamLog, sequence: int) -> None:
    """As the queue does it: a jump of the sequence is a gap."""
    if sequence > log.expected:
        log.add_gap(log.expected, sequence, "queue_full")
    log.items[sequence] = Item(make_record(sequence), 100, False, 0.0)
    log.expected = sequence + 1


def filled(count: int) -> StreamLog:
    log = StreamLog()
    for sequence in range(count):
        arrive(log, sequence)
    return log


def waiting(log: StreamLog) -> list[int | tuple[int, int]]:
    return [(entry.first, entry.end) if isinstance(entry, Gap) else entry[0] for entry in log.unsent()]


def test_durable_records_are_forgotten_and_the_rest_waits() -> None:
    log = filled(5)
    log.mark_sent(5)
    confirmed = log.confirm(accepted=4, durable=3)
    assert (confirmed.delivered, list(log.items), log.accepted, log.durable) == (3, [3, 4], 4, 3)


def test_a_new_connection_sends_again_what_is_not_durable() -> None:
    log = filled(5)
    log.mark_sent(5)
    log.confirm(5, 2)
    assert waiting(log) == []
    log.rewind(2)
    assert waiting(log) == [2, 3, 4]


def test_a_record_dropped_before_it_was_sent_is_a_gap() -> None:
    log = filled(4)
    log.forget(1)
    log.forget(2)
    assert waiting(log) == [0, (1, 3), 3]


def test_a_record_dropped_on_its_way_counts_as_delivered_when_its_ack_comes() -> None:
    log = filled(3)
    log.mark_sent(3)
    log.forget(0)
    log.forget(1)
    assert log.confirm(3, 3).delivered == 3
    assert log.forgotten == []


def test_a_record_dropped_on_its_way_is_lost_when_the_connection_breaks() -> None:
    log = filled(3)
    log.mark_sent(3)
    log.forget(0)
    _, lost = log.rewind(0)
    assert (lost, waiting(log)) == (1, [(0, 1), 1, 2])


def test_a_server_that_lost_its_database_is_told_what_it_will_never_see() -> None:
    log = filled(6)
    log.mark_sent(6)
    log.confirm(4, 4)
    log.rewind(1)
    assert waiting(log) == [(1, 4), 4, 5]
    assert log.gaps == [Gap(1, 4, "already_delivered")]


def test_a_server_cannot_make_records_durable_that_were_never_sent() -> None:
    log = filled(4)
    log.mark_sent(2)
    assert log.confirm(10**9, 10**9).delivered == 2
    assert list(log.items) == [2, 3]


def test_neighbouring_drops_are_one_gap_in_any_order() -> None:
    log = filled(6)
    for sequence in (4, 2, 3, 0):
        log.forget(sequence)
    assert log.gaps == [Gap(0, 1, "queue_full"), Gap(2, 5, "queue_full")]


def test_a_watermark_in_the_middle_of_a_gap_shortens_it() -> None:
    log = StreamLog()
    arrive(log, 10)
    log.mark_sent(11)
    log.confirm(5, 5)
    assert log.gaps == [Gap(5, 10, "queue_full")]


@dataclass
class Model:
    """What a server and the world know, against which the log is held."""

    log: StreamLog = field(default_factory=StreamLog)
    stored: set[int] = field(default_factory=set)
    declared: set[int] = field(default_factory=set)
    dropped: set[int] = field(default_factory=set)
    on_the_way: list[tuple[set[int], set[int]]] = field(default_factory=list)

    def send(self, limit: int) -> None:
        records: set[int] = set()
        gaps: set[int] = set()
        end = self.log.sent
        for entry in self.log.unsent():
            if isinstance(entry, Gap):
                gaps.update(range(entry.first, entry.end))
                end = entry.end
            elif len(records) < limit:
                records.add(entry[0])
                end = entry[0] + 1
            else:
                break
        self.log.mark_sent(end)
        self.on_the_way.append((records, gaps))

    def watermark(self) -> int:
        position = 0
        while position in self.stored or position in self.declared:
            position += 1
        return position


actions = st.one_of(
    st.tuples(st.just("arrive"), st.integers(0, 2)),
    st.tuples(st.just("send"), st.integers(1, 4)),
    st.tuples(st.just("receive"), st.just(0)),
    st.tuples(st.just("forget"), st.integers(0, 5)),
    st.tuples(st.just("discard"), st.integers(0, 20)),
    st.tuples(st.just("reconnect"), st.just(0)),
)


def act(model: Model, action: str, number: int) -> None:
    log = model.log
    if action == "arrive":
        model.dropped.update(range(log.expected, log.expected + number))
        arrive(log, log.expected + number)
    elif action == "send":
        model.send(number)
    elif action == "receive" and model.on_the_way:
        records, gaps = model.on_the_way.pop(0)
        model.stored |= records
        model.declared |= gaps
        log.confirm(model.watermark(), model.watermark())
    elif action == "forget" and log.items:
        sequence = sorted(log.items)[number % len(log.items)]
        model.dropped.add(sequence)
        log.forget(sequence)
    elif action == "discard":
        model.dropped.update(sequence for sequence, _ in log.discard(number, number + 3, "rejected"))
    elif action == "reconnect":
        model.on_the_way.clear()
        log.rewind(model.watermark())


@settings(deadline=None, max_examples=200)
@given(st.lists(actions, max_size=60))
def test_after_any_history_the_server_has_each_record_or_a_reason(history: list[tuple[str, int]]) -> None:
    model = Model()
    for action, number in history:
        act(model, action, number)
    act(model, "reconnect", 0)
    while waiting(model.log):
        act(model, "send", 3)
    while model.on_the_way:
        act(model, "receive", 0)
    assert model.stored | model.declared == set(range(model.log.expected))
    assert model.log.durable == model.log.expected
    assert set(range(model.log.expected)) - model.stored <= model.dropped
    assert not model.log.items
    assert not model.log.gaps
    assert not model.log.forgotten
