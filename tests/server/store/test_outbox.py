from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import event

from seismograd_server.store.database import Database
from seismograd_server.store.outbox import OutboxEntry, OutboxRepository

ENTRY = OutboxEntry(
    entry_id=None,
    target="pager",
    alert_id="a1",
    created_at=10.0,
    due_at=10.0,
    attempts=0,
    payload='{"status": "firing"}',
    last_error="",
    dedupe_key="a1/0/pager",
)


@pytest.fixture
def outbox(database: Database) -> Iterator[OutboxRepository]:
    """The repository inside one write transaction."""
    with database.begin() as transaction:
        yield transaction.outbox


def test_an_entry_is_due_until_it_is_delivered(outbox: OutboxRepository) -> None:
    assert outbox.add([ENTRY]) == 1
    assert outbox.due(9.9) == []

    (entry,) = outbox.due(10.0)
    assert entry == replace(ENTRY, entry_id=1)
    assert (outbox.pending_count(), outbox.oldest_pending_at(), outbox.next_due_at()) == (1, 10.0, 10.0)

    outbox.delivered(1, now=11.0)
    assert outbox.due(1e9) == []
    assert (outbox.pending_count(), outbox.oldest_pending_at(), outbox.next_due_at()) == (0, None, None)


def test_the_same_notification_is_stored_once_even_after_delivery(outbox: OutboxRepository) -> None:
    other = replace(ENTRY, target="chat", dedupe_key="a1/0/chat")
    assert outbox.add([ENTRY, ENTRY, other]) == 2
    outbox.delivered(1, now=11.0)

    assert outbox.add([ENTRY]) == 0
    assert outbox.pending_count() == 1


def test_a_failed_attempt_is_tried_again_when_it_says(outbox: OutboxRepository) -> None:
    outbox.add([ENTRY])
    outbox.failed(1, now=11.0, retry_at=42.0, error="connection refused")

    assert outbox.due(41.9) == []
    (entry,) = outbox.due(42.0)
    assert (entry.attempts, entry.last_error, entry.due_at) == (1, "connection refused", 42.0)
    assert outbox.oldest_pending_at() == 10.0, "it has waited since it was created"


def test_an_entry_that_was_given_up_is_not_due(outbox: OutboxRepository) -> None:
    outbox.add([ENTRY])
    outbox.failed(1, now=11.0, retry_at=None, error="400 bad request")

    assert outbox.due(1e9) == []
    assert outbox.pending_count() == 0


def test_the_longest_due_come_first_and_no_more_than_asked(outbox: OutboxRepository) -> None:
    outbox.add([replace(ENTRY, due_at=at, dedupe_key=str(at)) for at in (30.0, 20.0, 25.0)])

    assert [entry.due_at for entry in outbox.due(100.0, limit=2)] == [20.0, 25.0]


def test_pruning_forgets_only_what_is_finished(outbox: OutboxRepository) -> None:
    outbox.add([replace(ENTRY, dedupe_key=str(number)) for number in range(3)])
    outbox.delivered(1, now=11.0)
    outbox.delivered(2, now=50.0)

    assert outbox.prune(before=20.0) == 1
    assert outbox.add([replace(ENTRY, dedupe_key="0")]) == 1
    assert outbox.add([replace(ENTRY, dedupe_key="1"), replace(ENTRY, dedupe_key="2")]) == 0


def test_of_each_target_the_oldest_entries_wait_whether_due_or_not(outbox: OutboxRepository) -> None:
    entries = [
        replace(ENTRY, target=target, due_at=due_at, dedupe_key=f"{target}/{due_at}")
        for target, due_at in (("pager", 90.0), ("pager", 10.0), ("pager", 11.0), ("chat", 12.0))
    ]
    outbox.add(entries)
    outbox.delivered(2, now=1.0)
    waiting = outbox.waiting(limit_each=2)
    assert {target: [entry.due_at for entry in rows] for target, rows in waiting.items()} == {
        "pager": [90.0, 11.0],
        "chat": [12.0],
    }
    assert [entry.due_at for entry in outbox.waiting(limit_each=1)["pager"]] == [90.0]


def test_finished_entries_are_not_read_to_find_the_waiting_ones(sqlite_database: Database) -> None:
    with sqlite_database.begin() as transaction:
        transaction.outbox.add([ENTRY])
        connection, asked = transaction.connection, list[tuple[str, Any]]()

        def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
            asked.append((statement, parameters))

        event.listen(connection, "before_cursor_execute", note)
        assert transaction.outbox.waiting(10)
        assert transaction.outbox.pending_count() == 1
        event.remove(connection, "before_cursor_execute", note)
        assert len(asked) == 3
        for statement, parameters in asked:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
            assert "ix_outbox_due_at" in plan[0][3]


def test_a_target_is_known_by_what_it_has_had_and_by_what_it_waits_for(database: Database) -> None:
    def entry(key: str, target: str, alert_id: str) -> OutboxEntry:
        return OutboxEntry(None, target, alert_id, 1.0, 1.0, 0, "{}", "", key)

    with database.begin() as transaction:
        transaction.outbox.add([entry("1", "am", "a"), entry("2", "am", "a"), entry("3", "am", "b")])
        transaction.outbox.add([entry("4", "hook", "a"), entry("5", "am", "c")])
        numbers = {each.dedupe_key: each.entry_id or 0 for each in transaction.outbox.due(2.0)}
        for key, at in (("1", 5.0), ("2", 7.0), ("4", 9.0)):
            transaction.outbox.delivered(numbers[key], at)
        transaction.outbox.failed(numbers["3"], 8.0, None, "refused")
    with database.read() as transaction:
        assert transaction.outbox.delivered_at("am", {"a", "b", "c"}) == {"a": 7.0}, "what failed was not delivered"
        assert transaction.outbox.delivered_at("hook", {"a"}) == {"a": 9.0}
        assert transaction.outbox.delivered_at("am", set()) == {}
        assert transaction.outbox.waiting_alerts("am") == {"c"}
        assert transaction.outbox.waiting_alerts("hook") == set()
