from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

from hypothesis import given
from hypothesis import strategies as st

from seismograd_server.web.ranges import StepRange, chosen_range, range_links, range_query

STEPS = st.integers(-(10**9), 10**9)


@given(STEPS, st.integers(0, 10**9), st.none() | STEPS, st.none() | STEPS, st.none() | st.integers(-5, 10**10))
def test_whatever_is_asked_for_something_that_is_there_is_shown(
    first: int, span: int, low: int | None, high: int | None, latest: int | None
) -> None:
    extent = (first, first + span)
    shown = chosen_range(extent, low, high, latest)
    assert extent[0] <= shown.first <= shown.last <= extent[1]
    assert (
        shown.last - shown.first >= min(15, span)
        or shown.is_whole
        or shown.first == extent[0]
        or shown.last == extent[1]
    )


def test_the_latest_steps_follow_a_run_and_a_range_stays_where_it_is() -> None:
    latest = chosen_range((0, 9_999), None, None, 1_000)
    assert (latest.first, latest.last) == (9_000, 9_999)
    assert range_query(latest, {}) == {"latest": "1000"}
    fixed = chosen_range((0, 9_999), 20, 400, None)
    assert range_query(fixed, {"first_layer": "a"}) == {"first_step": "20", "last_step": "400", "first_layer": "a"}
    assert range_query(chosen_range((0, 9_999), None, None, None), {}) == {}


def test_a_range_beside_the_run_shows_all_of_it_and_a_narrow_one_is_widened() -> None:
    assert chosen_range((0, 99), 500, 600, None).is_whole
    assert chosen_range((0, 99), 60, 50, None).is_whole
    narrow = chosen_range((0, 99), 50, 50, None)
    assert (narrow.first, narrow.last) == (43, 58)


def test_every_link_leads_to_another_range_of_the_same_layers() -> None:
    shown = StepRange(4_000, 5_999, 0, 9_999)
    links = {each.key: each for each in range_links("/runs/a/b", shown, 8_000, {"first_layer": "x&y"})}
    assert list(links) == ["whole", "latest", "alert", "earlier", "later", "narrower", "wider"]
    asked = {key: parse_qs(urlsplit(each.href).query) for key, each in links.items()}
    assert all(query["first_layer"] == ["x&y"] for query in asked.values())
    assert (asked["alert"]["first_step"], asked["alert"]["last_step"]) == (["7750"], ["8250"])
    assert (asked["earlier"]["first_step"], asked["later"]["first_step"]) == (["3000"], ["5000"])
    assert (asked["narrower"]["first_step"], asked["narrower"]["last_step"]) == (["4499"], ["5499"])


def test_all_of_a_short_run_has_no_link_that_leads_nowhere() -> None:
    assert range_links("/", StepRange(0, 10, 0, 10), None, {}) == []
