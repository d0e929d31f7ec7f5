from __future__ import annotations

import json
from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from seismograd_server.notify.holding import not_held
from seismograd_server.store.outbox import OutboxEntry

HOLD = 45.0
NOW = 1000.0


def row(number: int, alert_id: str, state: str) -> OutboxEntry:
    return OutboxEntry(number, "am", alert_id, NOW, NOW, 0, json.dumps({"state": state}), "", str(number))


def numbers(rows: list[OutboxEntry]) -> list[int | None]:
    return [each.entry_id for each in rows]


def test_an_end_waits_until_its_beginning_has_been_known_for_long_enough() -> None:
    rows = [row(1, "a", "resolved"), row(2, "b", "firing"), row(3, "b", "resolved"), row(4, "a", "firing")]
    assert numbers(not_held(rows, {"a": NOW - 44.0}, HOLD, NOW)) == [2], "what comes later of the same alert waits too"
    assert numbers(not_held(rows, {"a": NOW - 45.0}, HOLD, NOW)) == [1, 2, 4]
    assert numbers(not_held(rows, {"a": NOW + 60.0}, HOLD, NOW)) == [1, 2, 4], "a clock that was set back"
    assert numbers(not_held(rows, {}, HOLD, NOW)) == [1, 2, 4], "an end of what nobody was told need not wait"
    assert not_held(rows, {"a": NOW}, 0.0, NOW) == rows


def test_what_cannot_be_read_is_left_to_the_lane() -> None:
    for payload in ("{", "[]", '"x"'):
        broken = OutboxEntry(1, "am", "a", NOW, NOW, 0, payload, "", "1")
        assert not_held([broken], {"a": NOW}, HOLD, NOW) == [broken]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["firing", "resolved"]), st.floats(0, 60)), max_size=20)
)
def test_everything_is_told_in_the_order_of_its_alert_and_no_end_before_its_time(
    story: list[tuple[str, str, float]],
) -> None:
    waiting: list[OutboxEntry] = []
    told: dict[str, list[int | None]] = defaultdict(list)
    written: dict[str, list[int | None]] = defaultdict(list)
    delivered_at: dict[str, float] = {}
    fires: dict[str, bool] = {}
    now = NOW
    for number, (alert_id, state, wait) in enumerate([*story, *[("z", "firing", HOLD)] * (2 * len(story) + 1)]):
        waiting.append(row(number, alert_id, state))
        written[alert_id].append(number)
        for each in not_held(waiting, delivered_at, HOLD, now):
            over = "resolved" in each.payload
            if over and fires.get(each.alert_id):
                assert now - delivered_at[each.alert_id] >= HOLD
            fires[each.alert_id] = not over
            told[each.alert_id].append(each.entry_id)
            delivered_at[each.alert_id] = now
            waiting.remove(each)
        now += wait
    assert told == written, "in order, and nothing is held for ever"
